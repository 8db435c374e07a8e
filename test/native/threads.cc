// SPDX-License-Identifier: Apache-2.0
// native/ without Node, for sanitizers that Node can't be run under: threads that read, wait and destroy while others stop and close.
// threads STUB: everything, in a network namespace of its own. threads STUB FAULT: that fault on purpose, which the sanitizer must find.
#include "events.h"
#include "interfaces.h"
#include "object.h"

#include <net/if.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include <bpf/bpf.h>

namespace
{

using namespace postern;

// 20 bytes of IPv4 header behind an Ethernet header.
constexpr std::uint8_t packet[] = {2,  0, 0, 0, 0, 2,  2,  0, 0, 0, 0, 1, 8, 0,   0x45, 0, 0,
				   20, 0, 0, 0, 0, 64, 17, 0, 0, 1, 2, 3, 4, 198, 18,   0, 1};
constexpr View frame{packet, sizeof(packet)};

void require(bool holds, const char *what)
{
	if (holds)
		return;
	std::fprintf(stderr, "threads: not so: %s\n", what);
	std::exit(2);
}

template <typename Call> void must_fail(const char *code, Call call)
{
	try {
		call();
	} catch (const Failure &failure) {
		require(failure.code == code, failure.what());
		return;
	}
	require(false, code);
}

// Waits for what another thread announces.
class Bell
{
      public:
	void ring()
	{
		const std::lock_guard lock(mutex_);
		rung_ = true;
		changed_.notify_one();
	}
	void wait()
	{
		std::unique_lock lock(mutex_);
		changed_.wait(lock, [this] { return rung_; });
		rung_ = false;
	}

      private:
	std::mutex mutex_;
	std::condition_variable changed_;
	bool rung_ = false;
};

std::uint32_t number_of(const Bytes &record)
{
	std::uint32_t number;
	require(record.size() >= 8, "a record is whole");
	std::memcpy(&number, record.data() + 4, sizeof(number));
	return number;
}

// Each record once and in order, whoever stops when; what is left after the stop is drained.
void read_events(const std::string &stub, std::uint32_t total, std::uint32_t stop_after)
{
	Object object(stub, {}, {}, {});
	const int ring = object.maps().ring_buffer_fd("events");
	std::uint32_t next = 0;
	Bell bell;
	EventReader reader(ring, [&bell] { bell.ring(); });
	std::thread writer([&object, total] {
		for (std::uint32_t left = total; left > 0;) {
			const std::uint32_t some = left < 700 ? left : 700;
			object.test_run("tell", frame, some);
			left -= some;
		}
	});
	while (next < stop_after) {
		bell.wait();
		while (const auto record = reader.take())
			require(number_of(*record) == next++, "records are told in order");
	}
	reader.stop();
	writer.join();
	while (const auto record = reader.take())
		require(number_of(*record) == next++, "records are told in order after the stop");
	for (const Bytes &record : drain(ring, "events"))
		require(number_of(record) == next++, "records are drained in order");
	require(next == total, "every record is told");
}

void wait_while_closing(const std::string &stub)
{
	Object object(stub, {}, {}, {});
	const std::function<void()> first = object.program_wait(), second = object.program_wait();
	std::thread one(first), other(second);
	object.close();
	one.join();
	other.join();
	must_fail("EBADF", [&] { object.program_wait(); });
}

void set_up(int socket, bool up)
{
	ifreq request{};
	std::strcpy(request.ifr_name, "lo");
	request.ifr_flags = up ? IFF_UP : 0;
	require(!ioctl(socket, SIOCSIFFLAGS, &request), "the loopback is set up or down");
}

void watch_interfaces()
{
	const Descriptor socket(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
	Bell bell;
	InterfaceWatch watch([&bell] { bell.ring(); });
	for (int round = 0; round < 50; round++) {
		set_up(socket.get(), round % 2 == 0);
		bell.wait();
		require(watch.take().gone.empty(), "the loopback never goes");
	}
	std::thread flapper([&socket] {
		for (int round = 0; round < 50; round++)
			set_up(socket.get(), round % 2 == 0);
	});
	watch.stop();
	flapper.join();
}

void look_around()
{
	const Endpoint nobody{{}, 9};
	std::thread other([&] { require(netns_cookie("/proc/self/ns/net") > 0, "a namespace has a cookie"); });
	require(!destroy_tcp("/proc/self/ns/net", nobody, nobody, 0), "nobody's connection is not destroyed");
	require(!interfaces(std::nullopt).empty(), "there is a loopback");
	interface_addresses(std::nullopt);
	other.join();
}

void maps(const std::string &stub)
{
	Object object(stub, {{"hash", 3}}, {{"refusal", 2}}, {});
	std::uint8_t keys[16] = {1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 4};
	const std::uint8_t values[32] = {};
	object.maps().update("hash", {keys, 12}, {values, 24}, 3, BPF_NOEXIST);
	must_fail("E2BIG", [&] { object.maps().update("hash", {keys, 16}, {values, 32}, 4, BPF_ANY); });
	must_fail("EINVAL", [&] { object.maps().update("hash", {keys, 11}, {values, 24}, 3, BPF_ANY); });
	require(object.maps().dump("hash").count == 3, "three are dumped");
	require(object.maps().remove("hash", {keys, 16}, 4) == 3, "three are removed");
	require(object.test_run("refuse", frame, 1).retval == 2, "the constant is set");
	object.test_run("tell", frame, 3);
	require(object.maps().dump("per_cpu").values.size() % 8 == 0, "values of all CPUs are whole");
	require(!object.maps().layouts().empty() && !object.maps().ids().empty(), "maps are described");
	require(object.info("tell").id > 0, "programs are described");
	must_fail("ENOENT", [&] { Object none(stub, {{"nothing", 1}}, {}, {}); });
	must_fail("EINVAL", [&] { Object none(stub, {}, {{"refusal", 256}}, {}); });
	must_fail("ENOENT", [] { Object none("/nonexistent.bpf.o", {}, {}, {}); });
}

[[gnu::noinline]] int fail_on_purpose(const std::string &fault)
{
	const volatile int size = 8;
	volatile int most = 0x7fffffff;
	if (fault == "overflow") {
		const std::vector<std::uint8_t> bytes(static_cast<std::size_t>(size));
		return *const_cast<const volatile std::uint8_t *>(bytes.data() + size);
	}
	if (fault == "signed")
		return (most = most + size);
	if (fault == "leak") {
		auto *lost = new std::string(100, 'x');
		asm volatile("" : "+r"(lost));
		return 0;
	}
	if (fault == "race") {
		int shared = 0;
		std::thread other([&shared] { shared++; });
		shared++;
		other.join();
		return shared == 3;
	}
	require(false, "a fault by this name");
	return 2;
}

} // namespace

int main(int argc, char **argv)
{
	require(argc == 2 || argc == 3, "threads STUB [FAULT]");
	if (argc == 3)
		return fail_on_purpose(argv[2]);
	const std::string stub = argv[1];
	require(!unshare(CLONE_NEWNET), "a network namespace of one's own");
	for (const std::uint32_t stop_after : {0U, 1U, 700U, 3000U, 5000U})
		read_events(stub, 5000, stop_after);
	for (int round = 0; round < 5; round++)
		wait_while_closing(stub);
	watch_interfaces();
	look_around();
	maps(stub);
	std::puts("whole");
	return 0;
}
