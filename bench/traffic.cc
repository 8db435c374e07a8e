// SPDX-License-Identifier: Apache-2.0
// The traffic that is measured, as bare as it can be made, so that what is between the two ends weighs most: both share one CPU,
// since waking another costs a virtual machine more than all else together. Knows nothing of filters.
//
//   traffic serve PORT              greets on PORT, echoes on PORT + 1, reads on PORT + 2; says "ready"
//   traffic client ADDRESS... PORT  reads lines such as "roundTrips 40" (ms), does that, and answers each with a line of JSON

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <sstream>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

namespace
{

using Clock = std::chrono::steady_clock;

constexpr std::size_t chunk_bytes = 128 * 1024;
constexpr timeval patience = {2, 0}; // of a client, for an answer
constexpr auto warm_up = std::chrono::milliseconds(10);

[[noreturn]] void fail(const std::string &what)
{
	throw std::runtime_error(what + ": " + std::strerror(errno));
}

class Socket
{
      public:
	explicit Socket(int fd) : fd_(fd)
	{
		if (fd_ < 0)
			fail("socket");
	}
	Socket(Socket &&other) noexcept : fd_(other.fd_)
	{
		other.fd_ = -1;
	}
	Socket(const Socket &) = delete;
	~Socket()
	{
		if (fd_ >= 0)
			close(fd_);
	}
	int get() const
	{
		return fd_;
	}

	void set(int level, int option, int value)
	{
		if (setsockopt(fd_, level, option, &value, sizeof(value)))
			fail("setsockopt");
	}
	// Close with a reset: no TIME_WAIT on either side, so that ports never run out.
	void reset_on_close()
	{
		linger now = {1, 0};
		if (setsockopt(fd_, SOL_SOCKET, SO_LINGER, &now, sizeof(now)))
			fail("setsockopt");
	}

      private:
	int fd_;
};

// Of the CPUs that this process may use the last: interrupts are rather the first one's.
void pin()
{
	cpu_set_t allowed, one;
	int last = 0;

	if (sched_getaffinity(0, sizeof(allowed), &allowed))
		fail("sched_getaffinity");
	for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
		if (CPU_ISSET(cpu, &allowed))
			last = cpu;
	}
	CPU_ZERO(&one);
	CPU_SET(last, &one);
	if (sched_setaffinity(0, sizeof(one), &one))
		fail("sched_setaffinity");
}

sockaddr_in endpoint(const std::string &address, int port)
{
	sockaddr_in to = {};
	to.sin_family = AF_INET;
	to.sin_port = htons(static_cast<std::uint16_t>(port));
	if (inet_pton(AF_INET, address.c_str(), &to.sin_addr) != 1)
		throw std::runtime_error(address + " is no IPv4 address");
	return to;
}

Socket connect_to(const sockaddr_in &to)
{
	Socket socket(::socket(AF_INET, SOCK_STREAM, 0));
	if (setsockopt(socket.get(), SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience)) ||
	    setsockopt(socket.get(), SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience)))
		fail("setsockopt");
	if (connect(socket.get(), reinterpret_cast<const sockaddr *>(&to), sizeof(to)))
		fail("connect");
	socket.set(IPPROTO_TCP, TCP_NODELAY, 1);
	return socket;
}

enum class Service { greet, echo, read };

void answer(const Socket &peer, Service service, std::vector<char> &buffer)
{
	// The client waits for this byte: it can't run ahead of what is accepted here.
	if (service == Service::greet && send(peer.get(), "a", 1, MSG_NOSIGNAL) != 1)
		return;
	for (;;) {
		ssize_t got = recv(peer.get(), buffer.data(), buffer.size(), 0);
		if (got <= 0)
			return;
		if (service == Service::echo &&
		    send(peer.get(), buffer.data(), static_cast<std::size_t>(got), MSG_NOSIGNAL) != got)
			return;
	}
}

// One client at a time, as they are measured.
void serve(const Socket &listener, Service service)
{
	std::vector<char> buffer(2 * chunk_bytes);
	for (;;) {
		int fd = accept(listener.get(), nullptr, nullptr);
		if (fd < 0 && errno == ECONNABORTED)
			continue;
		Socket peer(fd);
		peer.set(IPPROTO_TCP, TCP_NODELAY, 1);
		answer(peer, service, buffer);
	}
}

Socket listen_on(int port)
{
	Socket listener(::socket(AF_INET, SOCK_STREAM, 0));
	sockaddr_in any = endpoint("0.0.0.0", port);
	listener.set(SOL_SOCKET, SO_REUSEADDR, 1);
	if (bind(listener.get(), reinterpret_cast<const sockaddr *>(&any), sizeof(any)) || listen(listener.get(), 1024))
		fail("listen");
	return listener;
}

int serve_all(int port)
{
	std::array<Socket, 3> listeners = {listen_on(port), listen_on(port + 1), listen_on(port + 2)};
	std::thread greeter([&] { serve(listeners[0], Service::greet); });
	std::thread echoer([&] { serve(listeners[1], Service::echo); });
	std::puts("ready");
	std::fflush(stdout);
	serve(listeners[2], Service::read);
	return 0;
}

void receive(const Socket &socket, char *byte)
{
	if (recv(socket.get(), byte, 1, 0) != 1)
		fail("recv");
}

// Does `once` until `length` has passed, after a warm-up that doesn't count, and prints how often, and of how many bytes.
template <typename Once> void measure(std::chrono::milliseconds length, Once once)
{
	std::uint64_t count = 0, bytes = 0;
	auto begin = Clock::now() + warm_up;

	while (Clock::now() < begin)
		once();
	begin = Clock::now();
	auto now = begin;
	for (; now < begin + length; now = Clock::now()) {
		bytes += once();
		count++;
	}
	std::chrono::duration<double> seconds = now - begin;
	std::printf("{\"count\": %llu, \"bytes\": %llu, \"seconds\": %.6f}\n", static_cast<unsigned long long>(count),
		    static_cast<unsigned long long>(bytes), seconds.count());
}

using Servers = std::vector<std::string>;

void measure_connections(const Servers &servers, int port, std::chrono::milliseconds length)
{
	std::vector<sockaddr_in> ends;
	std::size_t next = 0;
	for (const std::string &server : servers)
		ends.push_back(endpoint(server, port));
	measure(length, [&] {
		char byte;
		Socket socket = connect_to(ends[next++ % ends.size()]);
		receive(socket, &byte);
		socket.reset_on_close();
		return std::uint64_t{1};
	});
}

void measure_round_trips(const std::string &server, int port, std::chrono::milliseconds length)
{
	Socket socket = connect_to(endpoint(server, port));
	measure(length, [&] {
		char byte = 'a';
		if (send(socket.get(), &byte, 1, MSG_NOSIGNAL) != 1)
			fail("send");
		receive(socket, &byte);
		return std::uint64_t{1};
	});
	socket.reset_on_close();
}

void measure_throughput(const std::string &server, int port, std::chrono::milliseconds length)
{
	Socket socket = connect_to(endpoint(server, port));
	std::vector<char> chunk(chunk_bytes);
	measure(length, [&] {
		ssize_t sent = send(socket.get(), chunk.data(), chunk.size(), MSG_NOSIGNAL);
		if (sent <= 0)
			fail("send");
		return static_cast<std::uint64_t>(sent);
	});
	socket.reset_on_close();
}

void obey(const std::string &line, const Servers &servers, int port)
{
	std::istringstream words(line);
	std::string what;
	int ms = 0;

	words >> what >> ms;
	const std::chrono::milliseconds length(ms);
	if (what == "connections")
		measure_connections(servers, port, length);
	else if (what == "roundTrips")
		measure_round_trips(servers.back(), port + 1, length);
	else if (what == "throughput")
		measure_throughput(servers.back(), port + 2, length);
	else
		throw std::runtime_error("no such measure: " + line);
}

int run(const std::vector<std::string> &arguments)
{
	const std::string command = arguments.empty() ? "" : arguments[0];

	pin();
	if (command == "serve" && arguments.size() == 2)
		return serve_all(std::stoi(arguments[1]));
	if (command != "client" || arguments.size() < 3)
		throw std::runtime_error("usage: traffic serve PORT | traffic client ADDRESS... PORT");
	const Servers servers(arguments.begin() + 1, arguments.end() - 1);
	for (std::string line; std::getline(std::cin, line);) {
		try {
			obey(line, servers, std::stoi(arguments.back()));
		} catch (const std::runtime_error &error) {
			std::printf("{\"error\": \"%s\"}\n", error.what());
		}
		std::fflush(stdout);
	}
	return 0;
}

} // namespace

int main(int argc, char **argv)
{
	try {
		return run(std::vector<std::string>(argv + 1, argv + argc));
	} catch (const std::exception &error) {
		std::fprintf(stderr, "traffic: %s\n", error.what());
		return 1;
	}
}
