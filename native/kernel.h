// SPDX-License-Identifier: Apache-2.0
// What the agent asks of the kernel, over libbpf and netlink: objects, maps, links, ring buffers, namespaces, sockets.
// Knows nothing of Node: no N-API here, and no layout of bpf/abi.h beyond what the maps themselves say.
#ifndef POSTERN_KERNEL_H
#define POSTERN_KERNEL_H

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

struct bpf_link;
struct bpf_map;
struct bpf_object;
struct bpf_program;
struct ring_buffer;

namespace postern
{

using Bytes = std::vector<std::uint8_t>;

// A failure of the kernel or of libbpf: `code` is the errno's name, `operation` what was tried.
class Failure : public std::runtime_error
{
      public:
	Failure(int error, const std::string &operation, const std::string &detail = "");

	const std::string code;
	const std::string operation;
};

class Descriptor
{
      public:
	explicit Descriptor(int fd = -1) : fd_(fd) {}
	Descriptor(Descriptor &&other) noexcept : fd_(other.release()) {}
	Descriptor &operator=(Descriptor &&other) noexcept;
	Descriptor(const Descriptor &) = delete;
	Descriptor &operator=(const Descriptor &) = delete;
	~Descriptor();

	int get() const
	{
		return fd_;
	}
	int release();
	void reset();

      private:
	int fd_;
};

struct View {
	const std::uint8_t *data;
	std::size_t size;
};

struct MapShape {
	std::uint32_t type;
	std::uint32_t key_size;
	std::uint32_t value_size;
	std::uint32_t max_entries;
	std::uint32_t flags;
};

struct Dump {
	Bytes keys;
	Bytes values;
	std::size_t count;
};

struct TestRun {
	std::uint32_t retval;
	std::uint32_t duration_ns;
};

// Reads one ring buffer in a thread of its own. At most one batch is on its way at a time: a flood then stays in the kernel's
// buffer, whose programs count what no longer fits, and never fills this process.
class EventReader
{
      public:
	// `announce` is called on the reader's thread when a batch is ready, and must not block.
	EventReader(int map_fd, std::function<void()> announce);
	EventReader(const EventReader &) = delete;
	EventReader &operator=(const EventReader &) = delete;
	~EventReader();

	// The next record of the batch; none left: the reader is told to fetch the next batch.
	std::optional<Bytes> take();
	// Lets the thread go on although records are left, after a callback that failed.
	void resume();
	// Ends the thread. What it has read can still be taken.
	void stop();

	static constexpr std::size_t batch_records = 1024;
	static constexpr int pause_ms = 1;

      private:
	void run();
	static int keep(void *reader, void *data, std::size_t size);

	struct RingCloser {
		void operator()(ring_buffer *ring) const;
	};

	std::function<void()> announce_;
	Descriptor wake_;
	std::unique_ptr<ring_buffer, RingCloser> ring_;
	std::mutex mutex_;
	std::deque<Bytes> batch_;
	bool announced_ = false;
	bool stopped_ = false;
	std::thread thread_;
};

// A loaded object file. Closing it closes every descriptor and link.
class Object
{
      public:
	// `constants`: values of `const volatile` variables, which the verifier then takes as known.
	Object(const std::string &path, const std::map<std::string, std::uint32_t> &max_entries,
	       const std::map<std::string, std::uint32_t> &constants);
	~Object();
	Object(const Object &) = delete;
	Object &operator=(const Object &) = delete;

	std::map<std::string, MapShape> maps() const;
	std::vector<std::string> programs() const;

	void update(const std::string &map, View keys, View values, std::size_t count, std::uint64_t flags);
	std::optional<Bytes> lookup(const std::string &map, View key) const;
	std::size_t remove(const std::string &map, View keys, std::size_t count);
	Dump dump(const std::string &map) const;
	void wait_for_programs();

	std::uint32_t attach_cgroup(const std::string &program, const std::string &cgroup_path);
	void detach(std::uint32_t link);
	TestRun test_run(const std::string &program, View packet, std::uint32_t repeat);

	// The descriptor of a ring buffer map; EINVAL if it is another type.
	int ring_buffer_fd(const std::string &map) const;
	std::deque<Bytes> drain(const std::string &map) const;

	void close();

      private:
	struct MapHandle {
		int fd;
		MapShape shape;
		std::size_t value_bytes; // of one element as it crosses the system call: all CPUs of a per-CPU map
	};
	const MapHandle &find_map(const std::string &name, const char *operation) const;
	bpf_program *find_program(const std::string &name, const char *operation) const;

	struct ObjectCloser {
		void operator()(bpf_object *object) const;
	};
	struct LinkCloser {
		void operator()(bpf_link *link) const;
	};
	std::unique_ptr<bpf_object, ObjectCloser> object_;
	std::map<std::string, MapHandle> maps_;
	std::map<std::uint32_t, std::unique_ptr<bpf_link, LinkCloser>> links_;
	std::uint32_t next_link_ = 1;
	Descriptor grace_[2];
	int grace_turn_ = 0;
};

// The cgroup2 id of a folder: what bpf_skb_cgroup_id yields.
std::uint64_t cgroup_id(const std::string &path);

// Cookie of the network namespace at this path.
std::uint64_t netns_cookie(const std::string &path);

// Name of a program type, map type or helper -> empty, or why the kernel refused it.
std::map<std::string, std::string> probe();

struct Endpoint {
	std::uint8_t address[16]; // network order, v4 v4-mapped
	std::uint16_t port; // host order
};

// SOCK_DESTROY of a TCP socket that is no listener; cookie 0 is any. False: there is no such socket.
bool destroy_tcp(const std::string &netns, const Endpoint &local, const Endpoint &remote, std::uint64_t cookie);

} // namespace postern

#endif
