// SPDX-License-Identifier: Apache-2.0
// Both ends of traffic that counts itself, of both families, until standard input ends; then a line of JSON. Knows nothing of policies but
// which port is what: TCP 80 and UDP 53 are allowed, TCP 81 and UDP 54 are not, TCP 82 and UDP 55 may be either.
//   ends serve ADDRESS...
//   ends client WHO ADDRESS...   WHO is `known` (what is allowed never fails) or `new` (it fails until the workload is known)
// `new` says "known" on a line of its own once everything that is allowed works.
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>
#include <thread>
#include <vector>

namespace
{

// Far longer than anything takes on a busy machine; of who may be refused in silence, and tries again, less.
constexpr int long_patience_ms = 60'000, short_patience_ms = 500;
int patience_ms = long_patience_ms;
constexpr int pause_us = 2000;
constexpr int room = 16 << 20;
constexpr char greeting[] = "postern";

[[noreturn]] void fail(const std::string &what)
{
	std::fprintf(stderr, "ends: %s: %s\n", what.c_str(), std::strerror(errno));
	std::exit(1);
}

struct Endpoint {
	sockaddr_storage address{};
	socklen_t size = 0;
	int family = 0;
	std::string text;

	Endpoint(const std::string &host, int port) : text(host + " " + std::to_string(port))
	{
		auto *v4 = reinterpret_cast<sockaddr_in *>(&address);
		auto *v6 = reinterpret_cast<sockaddr_in6 *>(&address);
		const bool is_v6 = host.find(':') != std::string::npos;
		family = address.ss_family = is_v6 ? AF_INET6 : AF_INET;
		size = is_v6 ? sizeof(*v6) : sizeof(*v4);
		(is_v6 ? v6->sin6_port : v4->sin_port) = htons(static_cast<std::uint16_t>(port));
		if (inet_pton(family, host.c_str(), is_v6 ? static_cast<void *>(&v6->sin6_addr) : &v4->sin_addr) != 1)
			fail(host);
	}

	const sockaddr *raw() const
	{
		return reinterpret_cast<const sockaddr *>(&address);
	}
};

class Socket
{
      public:
	Socket(int family, int type) : fd_(::socket(family, type | SOCK_CLOEXEC, 0))
	{
		if (fd_ < 0)
			fail("socket");
	}
	explicit Socket(int fd) : fd_(fd) {}
	Socket(Socket &&other) noexcept : fd_(other.fd_)
	{
		other.fd_ = -1;
	}
	Socket(const Socket &) = delete;
	~Socket()
	{
		if (fd_ >= 0)
			::close(fd_);
	}
	int get() const
	{
		return fd_;
	}
	// Close with a reset: ports never run out.
	void reset_on_close() const
	{
		const linger now = {1, 0};
		::setsockopt(fd_, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
	}

      private:
	int fd_;
};

bool is_over()
{
	pollfd input = {STDIN_FILENO, POLLIN | POLLHUP, 0};
	return ::poll(&input, 1, 0) > 0;
}

std::string error_name()
{
	const char *name = strerrorname_np(errno);
	return name ? name : "?";
}

// ---- the server's end ----

void serve(const std::vector<std::string> &hosts)
{
	std::map<std::string, std::uint64_t> counts;
	std::vector<Socket> sockets;
	std::vector<std::string> names; // of each socket: what is counted when it receives
	std::vector<bool> listens;
	for (const std::string &host : hosts) {
		for (const auto &[type, port] : {std::pair{SOCK_STREAM, 80},
						 {SOCK_STREAM, 81},
						 {SOCK_STREAM, 82},
						 {SOCK_DGRAM, 53},
						 {SOCK_DGRAM, 54},
						 {SOCK_DGRAM, 55}}) {
			const Endpoint own(host, port);
			Socket socket(own.family, type);
			const int on = 1;
			::setsockopt(socket.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
			::setsockopt(socket.get(), SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof(room));
			if (::bind(socket.get(), own.raw(), own.size) || (type == SOCK_STREAM && ::listen(socket.get(), 4096)))
				fail("serve " + own.text);
			names.push_back((type == SOCK_STREAM ? "tcp" : "udp") + std::to_string(port));
			counts[names.back()] = 0;
			listens.push_back(type == SOCK_STREAM);
			sockets.push_back(std::move(socket));
		}
	}
	std::puts("ready");
	std::fflush(stdout);
	std::map<int, std::string> echoes; // connections
	while (true) {
		std::vector<pollfd> all = {{STDIN_FILENO, POLLIN | POLLHUP, 0}};
		for (const Socket &socket : sockets)
			all.push_back({socket.get(), POLLIN, 0});
		for (const auto &[fd, name] : echoes)
			all.push_back({fd, POLLIN, 0});
		if (::poll(all.data(), all.size(), -1) < 0 && errno != EINTR)
			fail("poll");
		// What has been sent is counted before the end.
		bool anything = false;
		for (std::size_t index = 1; index < all.size(); index++) {
			if (!all[index].revents)
				continue;
			anything = true;
			char buffer[2048];
			const int fd = all[index].fd;
			if (index <= sockets.size() && listens[index - 1]) {
				const int accepted = ::accept4(fd, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
				if (accepted >= 0)
					echoes[accepted] = names[index - 1];
				counts[names[index - 1]]++;
			} else if (index <= sockets.size()) {
				sockaddr_storage from;
				socklen_t size = sizeof(from);
				const ssize_t got = ::recvfrom(fd, buffer, sizeof(buffer), MSG_DONTWAIT,
							       reinterpret_cast<sockaddr *>(&from), &size);
				if (got < 0)
					continue;
				counts[names[index - 1]]++;
				::sendto(fd, buffer, static_cast<std::size_t>(got), 0, reinterpret_cast<sockaddr *>(&from), size);
			} else {
				const ssize_t got = ::recv(fd, buffer, sizeof(buffer), MSG_DONTWAIT);
				if (got > 0) {
					(void)!::send(fd, buffer, static_cast<std::size_t>(got), MSG_NOSIGNAL);
				} else if (got == 0 || (errno != EAGAIN && errno != EINTR)) {
					::close(fd);
					echoes.erase(fd);
				}
			}
		}
		if (all[0].revents && !anything)
			break;
	}
	std::string line;
	for (const auto &[name, count] : counts)
		line += (line.empty() ? "{\"" : ",\"") + name + "\":" + std::to_string(count);
	std::printf("%s}\n", line.c_str());
}

// ---- the workload's end ----

struct Tally {
	std::uint64_t datagrams = 0; // that the kernel took, to 53
	std::uint64_t datagram_bytes = 0; // with the headers of UDP and IP
	std::uint64_t refused = 0; // calls that failed with EPERM, whatever they wanted
	std::uint64_t refused_bytes = 0; // of datagrams among them, which have no source before they are made: as above
	std::uint64_t connections = 0; // to 80
	std::uint64_t exchanges = 0; // over connections that last
	std::vector<std::string> wrong;

	void miss(const std::string &what)
	{
		if (wrong.size() < 50)
			wrong.push_back(what);
	}
};

bool answered(int fd)
{
	pollfd one = {fd, POLLIN, 0};
	char buffer[64];
	if (::poll(&one, 1, patience_ms) <= 0) {
		errno = ETIMEDOUT;
		return false;
	}
	return ::recv(fd, buffer, sizeof(buffer), 0) == static_cast<ssize_t>(sizeof(greeting));
}

bool exchange(const Socket &socket)
{
	return ::send(socket.get(), greeting, sizeof(greeting), MSG_NOSIGNAL) == sizeof(greeting) && answered(socket.get());
}

// 0: connected; else the error. A connection that is dropped in silence is one, too.
int connected(const Socket &socket, const Endpoint &to, int wait_ms)
{
	const int flags = ::fcntl(socket.get(), F_GETFL);
	::fcntl(socket.get(), F_SETFL, flags | O_NONBLOCK);
	if (::connect(socket.get(), to.raw(), to.size) && errno != EINPROGRESS)
		return errno;
	pollfd one = {socket.get(), POLLOUT, 0};
	if (::poll(&one, 1, wait_ms) <= 0)
		return ETIMEDOUT;
	int error = 0;
	socklen_t size = sizeof(error);
	::getsockopt(socket.get(), SOL_SOCKET, SO_ERROR, &error, &size);
	::fcntl(socket.get(), F_SETFL, flags);
	return error;
}

class Client
{
      public:
	Client(const std::string &host, bool is_known)
	    : host_(host), is_known_(is_known), last_(Endpoint(host, 80).family, SOCK_STREAM),
	      datagrams_(Endpoint(host, 53).family, SOCK_DGRAM)
	{
	}

	// Everything once. Whether all that is allowed worked.
	bool turn(Tally &tally)
	{
		bool worked = true;
		const auto allowed = [&](bool holds, const std::string &what) {
			if (holds)
				return;
			worked = false;
			if (is_known_)
				tally.miss(host_ + ": " + what + ": " + error_name());
			else if (errno == EPERM)
				tally.refused++;
		};
		allowed(datagram(datagrams_, tally), "UDP 53 of one socket");
		{
			const Socket fresh(Endpoint(host_, 53).family, SOCK_DGRAM);
			allowed(datagram(fresh, tally), "UDP 53 of a new socket");
		}
		connection(80, allowed, tally);
		if (!is_open_) {
			const int error = connected(last_, Endpoint(host_, 80), patience_ms);
			errno = error;
			is_open_ = !error;
			allowed(is_open_, "TCP 80 that lasts");
		} else {
			allowed(exchange(last_), "TCP 80 that lasts");
			tally.exchanges++;
		}
		forbidden_call(tally);
		forbidden_connect(tally);
		sometimes(tally);
		return worked;
	}

      private:
	static std::uint64_t bytes_of(const Endpoint &to)
	{
		return sizeof(greeting) + 8 + (to.family == AF_INET6 ? 40 : 20);
	}

	static void refused_datagram(const Endpoint &to, Tally &tally)
	{
		tally.refused++;
		tally.refused_bytes += bytes_of(to);
	}

	bool datagram(const Socket &socket, Tally &tally)
	{
		const Endpoint to(host_, 53);
		if (::sendto(socket.get(), greeting, sizeof(greeting), 0, to.raw(), to.size) < 0)
			return false;
		tally.datagrams++;
		tally.datagram_bytes += bytes_of(to);
		return answered(socket.get());
	}

	template <typename Allowed> void connection(int port, Allowed allowed, Tally &tally)
	{
		const Endpoint to(host_, port);
		const Socket socket(to.family, SOCK_STREAM);
		socket.reset_on_close();
		errno = connected(socket, to, patience_ms);
		if (errno)
			return allowed(false, "connect TCP 80");
		tally.connections++;
		allowed(exchange(socket), "exchange over TCP 80");
	}

	void forbidden_call(Tally &tally)
	{
		const Endpoint to(host_, 54);
		if (::sendto(datagrams_.get(), greeting, sizeof(greeting), 0, to.raw(), to.size) >= 0)
			tally.miss(host_ + ": UDP 54 was sent");
		else if (errno == EPERM)
			refused_datagram(to, tally);
		else
			tally.miss(host_ + ": UDP 54: " + error_name());
	}

	void forbidden_connect(Tally &tally)
	{
		const Endpoint to(host_, 81);
		const Socket socket(to.family, SOCK_STREAM);
		const int error = connected(socket, to, patience_ms);
		errno = error;
		if (error == EPERM)
			tally.refused++;
		else
			tally.miss(host_ + ": TCP 81: " + (error ? error_name() : "connected"));
	}

	// Policy may change between call and packet: then it hangs.
	void sometimes(Tally &tally)
	{
		const Endpoint stream(host_, 82), message(host_, 55);
		const Socket socket(stream.family, SOCK_STREAM), fresh(message.family, SOCK_DGRAM);
		socket.reset_on_close();
		const int error = connected(socket, stream, 200);
		if (error == EPERM)
			tally.refused++;
		else if (error && error != ETIMEDOUT && error != ECONNABORTED)
			tally.miss(host_ + ": TCP 82: " + strerrorname_np(error));
		if (::sendto(fresh.get(), greeting, sizeof(greeting), 0, message.raw(), message.size) < 0) {
			if (errno == EPERM)
				refused_datagram(message, tally);
			else
				tally.miss(host_ + ": UDP 55: " + error_name());
		}
	}

	std::string host_;
	bool is_known_;
	Socket last_;
	Socket datagrams_;
	bool is_open_ = false;
};

void client(bool is_known, const std::vector<std::string> &hosts)
{
	Tally tally;
	patience_ms = is_known ? long_patience_ms : short_patience_ms;
	std::vector<Client> clients;
	for (const std::string &host : hosts)
		clients.emplace_back(host, is_known);
	bool told = is_known;
	while (!is_over()) {
		bool worked = true;
		for (Client &one : clients)
			worked = one.turn(tally) && worked;
		if (worked && !told) {
			std::puts("known");
			std::fflush(stdout);
			told = true;
		}
		::usleep(pause_us);
	}
	std::string wrong;
	for (const std::string &one : tally.wrong)
		wrong += (wrong.empty() ? "\"" : ",\"") + one + "\"";
	std::printf("{\"datagrams\":%lu,\"datagramBytes\":%lu,\"refused\":%lu,\"refusedBytes\":%lu,\"connections\":%lu,"
		    "\"exchanges\":%lu,\"wrong\":[%"
		    "s]}\n",
		    tally.datagrams, tally.datagram_bytes, tally.refused, tally.refused_bytes, tally.connections, tally.exchanges,
		    wrong.c_str());
}

} // namespace

int main(int argc, char **argv)
{
	const std::vector<std::string> arguments(argv + 1, argv + argc);
	if (arguments.size() > 1 && arguments[0] == "serve") {
		serve({arguments.begin() + 1, arguments.end()});
	} else if (arguments.size() > 2 && arguments[0] == "client") {
		client(arguments[1] == "known", {arguments.begin() + 2, arguments.end()});
	} else {
		std::fprintf(stderr, "usage: ends serve ADDRESS... | ends client known|new ADDRESS...\n");
		return 1;
	}
	return 0;
}
