// SPDX-License-Identifier: Apache-2.0
// What the agent asks of the kernel, over libbpf and netlink: failures, descriptors, namespaces, sockets; objects are object.h's.
// Knows nothing of Node: no N-API here.
#ifndef POSTERN_KERNEL_H
#define POSTERN_KERNEL_H

#include <cstddef>
#include <cstdint>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

namespace postern
{

constexpr int kernel_enotsupp = 524; // the kernel's ENOTSUPP, which user space has no name for

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

// The cgroup2 id of a folder: what bpf_skb_cgroup_id yields.
std::uint64_t cgroup_id(const std::string &path);

// Cookie of the network namespace at this path.
std::uint64_t netns_cookie(const std::string &path);

// flock(2) on a folder, held as long as the descriptor is open. EAGAIN: another process holds it.
Descriptor lock_folder(const std::string &path);

// What was pinned at `path`. EINVAL: it is of another kind than that, as /proc/PID/fd names it.
Descriptor open_pin(const std::string &path, const char *kind);
constexpr const char *pinned_map = "bpf-map";
constexpr const char *pinned_link = "bpf-link";
constexpr const char *pinned_program = "bpf-prog";

// Name of a program type, map type or helper -> empty, or why the kernel refused it.
std::map<std::string, std::string> probe();

// Where members of the kernel's own structures are, by its BTF: for each `structure.member` its bits from the start; -1 where there is no
// such member, or no BTF.
std::vector<std::int64_t> member_offsets(const std::vector<std::string> &members);

struct Endpoint {
	std::uint8_t address[16]; // network order, v4 v4-mapped
	std::uint16_t port; // host order
};

// SOCK_DESTROY of a TCP socket that is no listener; cookie 0 is any. False: there is no such socket.
bool destroy_tcp(const std::string &netns, const Endpoint &local, const Endpoint &remote, std::uint64_t cookie);

} // namespace postern

#endif
