// SPDX-License-Identifier: Apache-2.0
// The ways that programs have to send. Each tries one, in either family, to one destination, and prints what came of it: the name
// of the errno that stopped it, "echo" where an answer came, else "silence". It knows no policy; who runs it looks at the wire.
#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/if_packet.h>
#include <linux/io_uring.h>
#include <linux/tcp.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <netinet/icmp6.h>
#include <netinet/in.h>
#include <netinet/ip.h>
#include <netinet/ip6.h>
#include <netinet/ip_icmp.h>
#include <netinet/udp.h>
#include <poll.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <thread>
#include <vector>

#ifndef IPPROTO_MPTCP
#define IPPROTO_MPTCP 262
#endif
#ifndef TCP_FASTOPEN_NO_COOKIE
#define TCP_FASTOPEN_NO_COOKIE 34
#endif

namespace
{

constexpr char DATA[] = "postern";
int patience_ms = 200;

void check(bool done, const char *what)
{
	if (done)
		return;
	printf("setup failed: %s: %s\n", what, strerrorname_np(errno));
	exit(1);
}

struct Address {
	sockaddr_storage storage = {};

	Address() = default;
	Address(const char *host, int port)
	{
		if (strchr(host, ':')) {
			auto *at = reinterpret_cast<sockaddr_in6 *>(&storage);
			at->sin6_family = AF_INET6;
			at->sin6_port = htons(port);
			check(inet_pton(AF_INET6, host, &at->sin6_addr) == 1, host);
		} else {
			auto *at = reinterpret_cast<sockaddr_in *>(&storage);
			at->sin_family = AF_INET;
			at->sin_port = htons(port);
			check(inet_pton(AF_INET, host, &at->sin_addr) == 1, host);
		}
	}
	int family() const
	{
		return storage.ss_family;
	}
	bool ipv6() const
	{
		return family() == AF_INET6;
	}
	socklen_t length() const
	{
		return ipv6() ? sizeof(sockaddr_in6) : sizeof(sockaddr_in);
	}
	sockaddr *get() const
	{
		return const_cast<sockaddr *>(reinterpret_cast<const sockaddr *>(&storage));
	}
	const void *bytes() const
	{
		return ipv6() ? static_cast<const void *>(&reinterpret_cast<const sockaddr_in6 *>(&storage)->sin6_addr)
			      : &reinterpret_cast<const sockaddr_in *>(&storage)->sin_addr;
	}
	size_t size() const
	{
		return ipv6() ? 16 : 4;
	}
	in_port_t port() const
	{
		return reinterpret_cast<const sockaddr_in *>(&storage)->sin_port;
	}
	Address with_port(in_port_t port) const
	{
		Address other = *this;
		reinterpret_cast<sockaddr_in *>(&other.storage)->sin_port = port;
		return other;
	}
	/* ::ffff:a.b.c.d; of an IPv6 address itself. */
	Address mapped() const
	{
		char text[INET_ADDRSTRLEN];
		if (ipv6())
			return *this;
		inet_ntop(AF_INET, bytes(), text, sizeof(text));
		return Address((std::string("::ffff:") + text).c_str(), ntohs(port()));
	}
};

Address own, peer, good;

void say(const char *outcome)
{
	puts(outcome);
}

void fail()
{
	say(errno == EINPROGRESS || errno == EAGAIN || errno == ETIMEDOUT ? "silence" : strerrorname_np(errno));
}

void await_echo(int fd)
{
	pollfd waiting = {fd, POLLIN, 0};
	char echo[2048];
	if (poll(&waiting, 1, patience_ms) != 1)
		return say("silence");
	ssize_t size = recv(fd, echo, sizeof(echo), MSG_DONTWAIT);
	if (size < 0)
		return fail();
	say(size > 0 ? "echo" : "closed");
}

void await_echo_if(bool sent, int fd)
{
	if (sent)
		await_echo(fd);
	else
		fail();
}

int open_socket(int family, int type, int protocol = 0)
{
	int fd = socket(family, type, protocol);
	timeval patience = {patience_ms / 1000, patience_ms % 1000 * 1000};
	check(fd >= 0, "socket");
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
	return fd;
}

template <typename T> void set(int fd, int level, int name, const T &value, const char *what)
{
	check(!setsockopt(fd, level, name, &value, sizeof(value)), what);
}

bool connect_to(int fd, const Address &to)
{
	return !connect(fd, to.get(), to.length());
}

bool send_to(int fd, const Address &to, int flags = 0)
{
	return sendto(fd, DATA, sizeof(DATA), flags, to.get(), to.length()) == sizeof(DATA);
}

bool send_on(int fd, int flags = 0)
{
	return send(fd, DATA, sizeof(DATA), flags | MSG_NOSIGNAL) == sizeof(DATA);
}

void disconnect(int fd)
{
	sockaddr none = {};
	none.sa_family = AF_UNSPEC;
	check(!connect(fd, &none, sizeof(none)), "connect to AF_UNSPEC");
}

void bind_at(int fd, const Address &at)
{
	check(!bind(fd, at.get(), at.length()), "bind");
}

/* The next port. */
Address beside(const Address &at)
{
	return at.with_port(htons(ntohs(peer.port()) + 1));
}

void add_to_loopback(const Address &at)
{
	char text[INET6_ADDRSTRLEN];
	inet_ntop(at.family(), at.bytes(), text, sizeof(text));
	std::string command = std::string("ip link set lo up && ip addr add ") + text + " dev lo" + (at.ipv6() ? " nodad" : "");
	check(!system(command.c_str()), command.c_str());
}

void move_to(const char *cgroup)
{
	FILE *procs = fopen((std::string(cgroup) + "/cgroup.procs").c_str(), "w");
	check(procs && fputs("0", procs) >= 0 && !fclose(procs), "move to a cgroup");
}

int stream()
{
	return open_socket(own.family(), SOCK_STREAM);
}

int datagram()
{
	return open_socket(own.family(), SOCK_DGRAM);
}

void converse(int fd, const Address &to)
{
	if (!connect_to(fd, to))
		return fail();
	await_echo_if(send_on(fd), fd);
}

/* One request on a ring of its own. */
class Ring
{
      public:
	explicit Ring(unsigned flags)
	{
		io_uring_params params = {};
		params.flags = flags;
		params.sq_thread_idle = 100;
		fd_ = syscall(SYS_io_uring_setup, 4, &params);
		check(fd_ >= 0, "io_uring_setup");
		sq_ = map(params.sq_off.array + params.sq_entries * sizeof(unsigned), IORING_OFF_SQ_RING);
		cq_ = map(params.cq_off.cqes + params.cq_entries * sizeof(io_uring_cqe), IORING_OFF_CQ_RING);
		sqes_ = reinterpret_cast<io_uring_sqe *>(map(params.sq_entries * sizeof(io_uring_sqe), IORING_OFF_SQES));
		params_ = params;
	}

	/* The result, negative errno on failure; -EAGAIN where none came in time. */
	int run(const std::function<void(io_uring_sqe &)> &prepare)
	{
		auto *tail = reinterpret_cast<std::atomic<unsigned> *>(sq_ + params_.sq_off.tail);
		unsigned at = tail->load(), mask = *reinterpret_cast<unsigned *>(sq_ + params_.sq_off.ring_mask);
		sqes_[at & mask] = {};
		prepare(sqes_[at & mask]);
		reinterpret_cast<unsigned *>(sq_ + params_.sq_off.array)[at & mask] = at & mask;
		tail->store(at + 1);
		bool polled = params_.flags & IORING_SETUP_SQPOLL;
		long entered =
			syscall(SYS_io_uring_enter, fd_, polled ? 0 : 1, 0, polled ? IORING_ENTER_SQ_WAKEUP : 0, nullptr, 0);
		check(entered >= 0, "io_uring_enter");
		pollfd waiting = {fd_, POLLIN, 0};
		if (poll(&waiting, 1, patience_ms) != 1)
			return -EAGAIN;
		auto *head = reinterpret_cast<std::atomic<unsigned> *>(cq_ + params_.cq_off.head);
		unsigned from = head->load(), cq_mask = *reinterpret_cast<unsigned *>(cq_ + params_.cq_off.ring_mask);
		int result = reinterpret_cast<io_uring_cqe *>(cq_ + params_.cq_off.cqes)[from & cq_mask].res;
		head->store(from + 1);
		return result;
	}

      private:
	char *map(size_t size, off_t offset)
	{
		void *at = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd_, offset);
		check(at != MAP_FAILED, "mmap");
		return static_cast<char *>(at);
	}

	int fd_;
	char *sq_, *cq_;
	io_uring_sqe *sqes_;
	io_uring_params params_;
};

bool succeeded(int result)
{
	if (result >= 0)
		return true;
	errno = -result;
	return false;
}

void ring_connect(unsigned setup, unsigned flags)
{
	Ring ring(setup);
	int fd = stream();
	int result = ring.run([&](io_uring_sqe &entry) {
		entry.opcode = IORING_OP_CONNECT;
		entry.flags = flags;
		entry.fd = fd;
		entry.addr = reinterpret_cast<uintptr_t>(peer.get());
		entry.off = peer.length();
	});
	await_echo_if(succeeded(result) && send_on(fd), fd);
}

void ring_send(unsigned setup, unsigned flags, unsigned char operation)
{
	Ring ring(setup);
	int fd = datagram();
	iovec data = {const_cast<char *>(DATA), sizeof(DATA)};
	msghdr message = {};
	message.msg_name = peer.get();
	message.msg_namelen = peer.length();
	message.msg_iov = &data;
	message.msg_iovlen = 1;
	int result = ring.run([&](io_uring_sqe &entry) {
		entry.opcode = operation;
		entry.flags = flags;
		entry.fd = fd;
		if (operation == IORING_OP_SENDMSG) {
			entry.addr = reinterpret_cast<uintptr_t>(&message);
			entry.len = 1;
		} else {
			entry.addr = reinterpret_cast<uintptr_t>(DATA);
			entry.len = sizeof(DATA);
			entry.addr2 = reinterpret_cast<uintptr_t>(peer.get());
			entry.addr_len = peer.length();
		}
	});
	await_echo_if(succeeded(result), fd);
}

/* The ring makes the socket, too: its thread's cgroup counts. */
void ring_socket()
{
	Ring ring(IORING_SETUP_SQPOLL);
	int fd = ring.run([](io_uring_sqe &entry) {
		entry.opcode = IORING_OP_SOCKET;
		entry.fd = own.family();
		entry.off = SOCK_DGRAM;
	});
	check(succeeded(fd), "IORING_OP_SOCKET");
	await_echo_if(send_to(fd, peer), fd);
}

bool send_with(int fd, const Address &to, int level, int type, const void *value, size_t size)
{
	char space[512] __attribute__((aligned(8))) = {};
	iovec data = {const_cast<char *>(DATA), sizeof(DATA)};
	msghdr message = {};
	message.msg_name = to.get();
	message.msg_namelen = to.length();
	message.msg_iov = &data;
	message.msg_iovlen = 1;
	message.msg_control = space;
	message.msg_controllen = CMSG_SPACE(size);
	cmsghdr *control = CMSG_FIRSTHDR(&message);
	control->cmsg_level = level;
	control->cmsg_type = type;
	control->cmsg_len = CMSG_LEN(size);
	memcpy(CMSG_DATA(control), value, size);
	return sendmsg(fd, &message, 0) == sizeof(DATA);
}

unsigned short checksum(const std::vector<unsigned char> &bytes)
{
	unsigned sum = 0;
	for (size_t i = 0; i < bytes.size(); i += 2)
		sum += bytes[i] << 8 | (i + 1 < bytes.size() ? bytes[i + 1] : 0);
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return htons(~sum);
}

std::vector<unsigned char> udp_datagram(const Address &from, const Address &to)
{
	std::vector<unsigned char> header(8 + sizeof(DATA)), pseudo;
	in_port_t source = htons(6000), destination = to.port();
	unsigned short length = htons(8 + sizeof(DATA));
	memcpy(&header[0], &source, 2);
	memcpy(&header[2], &destination, 2);
	memcpy(&header[4], &length, 2);
	memcpy(&header[8], DATA, sizeof(DATA));
	auto append = [&](const void *bytes, size_t size) {
		pseudo.insert(pseudo.end(), static_cast<const unsigned char *>(bytes),
			      static_cast<const unsigned char *>(bytes) + size);
	};
	append(from.bytes(), from.size());
	append(to.bytes(), to.size());
	pseudo.insert(pseudo.end(), {0, IPPROTO_UDP});
	append(&length, 2);
	append(header.data(), header.size());
	unsigned short sum = checksum(pseudo);
	memcpy(&header[6], &sum, 2);
	return header;
}

/* A whole IP packet; `to` is what its header says. */
std::vector<unsigned char> packet(const Address &from, const Address &to, unsigned char protocol,
				  const std::vector<unsigned char> &body)
{
	std::vector<unsigned char> bytes;
	if (from.ipv6()) {
		bytes.resize(40);
		bytes[0] = 0x60;
		bytes[4] = body.size() >> 8;
		bytes[5] = body.size();
		bytes[6] = protocol;
		bytes[7] = 64;
		memcpy(&bytes[8], from.bytes(), 16);
		memcpy(&bytes[24], to.bytes(), 16);
	} else {
		bytes.resize(20);
		bytes[0] = 0x45;
		bytes[8] = 64;
		bytes[9] = protocol;
		memcpy(&bytes[12], from.bytes(), 4);
		memcpy(&bytes[16], to.bytes(), 4);
	}
	bytes.insert(bytes.end(), body.begin(), body.end());
	return bytes;
}

bool send_raw(int fd, const std::vector<unsigned char> &bytes, const Address &to)
{
	Address at = to.with_port(0);
	return sendto(fd, bytes.data(), bytes.size(), 0, at.get(), at.length()) == static_cast<ssize_t>(bytes.size());
}

int raw_socket(int protocol)
{
	int fd = open_socket(own.family(), SOCK_RAW, protocol);
	if (own.ipv6() && protocol == IPPROTO_RAW)
		set(fd, IPPROTO_IPV6, IPV6_HDRINCL, 1, "IPV6_HDRINCL");
	return fd;
}

/* A socket that hears the echo to what raw sockets send. */
int hearer()
{
	int fd = datagram();
	Address at = own.with_port(htons(6000));
	check(!bind(fd, at.get(), at.length()), "bind");
	return fd;
}

void ping(const Address &to)
{
	int fd = open_socket(own.family(), SOCK_DGRAM, own.ipv6() ? int(IPPROTO_ICMPV6) : int(IPPROTO_ICMP));
	unsigned char echo[16] = {static_cast<unsigned char>(own.ipv6() ? 128 : 8)};
	bool sent = sendto(fd, echo, sizeof(echo), 0, to.get(), to.length()) == sizeof(echo);
	await_echo_if(sent, fd);
}

std::vector<unsigned char> fragment(std::vector<unsigned char> whole, size_t from, size_t size, bool more)
{
	size_t header = own.ipv6() ? 40 : 20;
	std::vector<unsigned char> body(whole.begin() + header + from, whole.begin() + header + from + size);
	unsigned char high = from >> 8, low = (from & 0xf8) | (own.ipv6() && more);
	if (own.ipv6()) {
		body.insert(body.begin(), {IPPROTO_UDP, 0, high, low, 0, 0, 0, 7});
		return packet(own, peer, IPPROTO_FRAGMENT, body);
	}
	auto bytes = packet(own, peer, IPPROTO_UDP, body);
	bytes[5] = 7;
	bytes[6] = (from / 8) >> 8 | (more ? 0x20 : 0);
	bytes[7] = from / 8;
	return bytes;
}

/* Two segments (RFC 8754): the packet goes to `peer` first, whatever the socket is connected to. */
std::vector<unsigned char> segment_route()
{
	std::vector<unsigned char> header = {0, 4, 4, 1, 1, 0, 0, 0};
	header.resize(8 + 2 * 16);
	memcpy(&header[8 + 16], peer.bytes(), 16);
	return header;
}

void listen_and_call(bool accepted)
{
	int listener = stream();
	set(listener, SOL_SOCKET, SO_REUSEADDR, 1, "SO_REUSEADDR");
	bind_at(listener, beside(own));
	check(!listen(listener, 1), "listen");
	puts("ready");
	fflush(stdout);
	int fd = accept(listener, nullptr, nullptr);
	check(fd >= 0, "accept");
	if (accepted) {
		close(listener);
		disconnect(fd);
		return converse(fd, peer);
	}
	shutdown(listener, SHUT_RDWR);
	converse(listener, peer);
}

sockaddr_un unix_address()
{
	sockaddr_un at = {};
	at.sun_family = AF_UNIX;
	snprintf(at.sun_path, sizeof(at.sun_path), "%s", getenv("HANDOVER"));
	return at;
}

void pass_on(int to, int fd)
{
	char space[CMSG_SPACE(sizeof(fd))] = {}, byte = 0;
	iovec data = {&byte, 1};
	msghdr message = {};
	message.msg_iov = &data;
	message.msg_iovlen = 1;
	message.msg_control = space;
	message.msg_controllen = sizeof(space);
	cmsghdr *control = CMSG_FIRSTHDR(&message);
	control->cmsg_level = SOL_SOCKET;
	control->cmsg_type = SCM_RIGHTS;
	control->cmsg_len = CMSG_LEN(sizeof(fd));
	memcpy(CMSG_DATA(control), &fd, sizeof(fd));
	check(sendmsg(to, &message, 0) == 1, "SCM_RIGHTS");
}

int take(int from)
{
	char space[CMSG_SPACE(sizeof(int))] = {}, byte;
	iovec data = {&byte, 1};
	msghdr message = {};
	message.msg_iov = &data;
	message.msg_iovlen = 1;
	message.msg_control = space;
	message.msg_controllen = sizeof(space);
	check(recvmsg(from, &message, 0) == 1 && CMSG_FIRSTHDR(&message), "SCM_RIGHTS");
	int fd;
	memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof(fd));
	return fd;
}

const std::map<std::string, std::function<void()>> ways = {
	// ---- TCP ----
	{"connect", [] { converse(stream(), peer); }},
	{"connect-nonblocking",
	 [] {
		 int fd = open_socket(own.family(), SOCK_STREAM | SOCK_NONBLOCK);
		 if (!connect_to(fd, peer) && errno != EINPROGRESS)
			 return fail();
		 pollfd waiting = {fd, POLLOUT, 0};
		 if (poll(&waiting, 1, patience_ms) != 1)
			 return say("silence");
		 await_echo_if(send_on(fd), fd);
	 }},
	{"fastopen-sendto",
	 [] {
		 int fd = stream();
		 await_echo_if(send_to(fd, peer, MSG_FASTOPEN | MSG_NOSIGNAL), fd);
	 }},
	{"fastopen-connect",
	 [] {
		 int fd = stream();
		 set(fd, IPPROTO_TCP, TCP_FASTOPEN_CONNECT, 1, "TCP_FASTOPEN_CONNECT");
		 converse(fd, peer);
	 }},
	{"fastopen-without-cookie",
	 [] {
		 int fd = stream();
		 set(fd, IPPROTO_TCP, TCP_FASTOPEN_NO_COOKIE, 1, "TCP_FASTOPEN_NO_COOKIE");
		 await_echo_if(send_to(fd, peer, MSG_FASTOPEN | MSG_NOSIGNAL), fd);
	 }},
	{"mptcp", [] { converse(open_socket(own.family(), SOCK_STREAM, IPPROTO_MPTCP), peer); }},
	{"connect-mapped", [] { converse(open_socket(AF_INET6, SOCK_STREAM), peer.mapped()); }},
	{"connect-by-ring", [] { ring_connect(0, 0); }},
	{"connect-by-ring-worker", [] { ring_connect(0, IOSQE_ASYNC); }},
	{"connect-by-ring-thread", [] { ring_connect(IORING_SETUP_SQPOLL, 0); }},
	{"connect-after-disconnect",
	 [] {
		 int fd = stream();
		 check(connect_to(fd, good), "connect to the allowed one");
		 disconnect(fd);
		 converse(fd, peer);
	 }},
	{"connect-by-another-thread",
	 [] {
		 int fd = stream();
		 std::thread([&] { converse(fd, peer); }).join();
	 }},
	{"splice",
	 [] {
		 int fd = stream(), pipes[2];
		 check(!pipe(pipes) && write(pipes[1], DATA, sizeof(DATA)) == sizeof(DATA), "pipe");
		 if (!connect_to(fd, peer))
			 return fail();
		 await_echo_if(splice(pipes[0], nullptr, fd, nullptr, sizeof(DATA), 0) == sizeof(DATA), fd);
	 }},
	// ---- UDP ----
	{"send",
	 [] {
		 int fd = datagram();
		 converse(fd, peer);
	 }},
	{"sendto",
	 [] {
		 int fd = datagram();
		 await_echo_if(send_to(fd, peer), fd);
	 }},
	{"sendto-mapped",
	 [] {
		 int fd = open_socket(AF_INET6, SOCK_DGRAM);
		 await_echo_if(send_to(fd, peer.mapped()), fd);
	 }},
	{"sendto-ipv4-by-ipv6-socket",
	 [] {
		 int fd = open_socket(AF_INET6, SOCK_DGRAM);
		 await_echo_if(send_to(fd, peer), fd);
	 }},
	{"sendto-while-connected-elsewhere",
	 [] {
		 int fd = datagram();
		 check(connect_to(fd, good), "connect to the allowed one");
		 if (!send_to(fd, peer))
			 return fail();
		 disconnect(fd);
		 await_echo_if(send_to(fd, peer), fd);
	 }},
	{"send-after-another",
	 [] {
		 int fd = datagram();
		 check(connect_to(fd, good) && send_on(fd), "send to the allowed one");
		 char echo[64];
		 check(recv(fd, echo, sizeof(echo), 0) > 0, "its echo");
		 disconnect(fd);
		 converse(fd, peer);
	 }},
	{"sendmmsg",
	 [] {
		 int fd = datagram();
		 iovec data = {const_cast<char *>(DATA), sizeof(DATA)};
		 mmsghdr messages[2] = {};
		 for (auto &message : messages) {
			 message.msg_hdr.msg_name = peer.get();
			 message.msg_hdr.msg_namelen = peer.length();
			 message.msg_hdr.msg_iov = &data;
			 message.msg_hdr.msg_iovlen = 1;
		 }
		 await_echo_if(sendmmsg(fd, messages, 2, 0) == 2, fd);
	 }},
	{"more",
	 [] {
		 int fd = datagram();
		 await_echo_if(send_to(fd, peer, MSG_MORE) && send_to(fd, peer), fd);
	 }},
	{"more-when-connected",
	 [] {
		 int fd = datagram();
		 await_echo_if(connect_to(fd, peer) && send_on(fd, MSG_MORE) && send_on(fd), fd);
	 }},
	{"cork",
	 [] {
		 int fd = datagram();
		 set(fd, SOL_UDP, UDP_CORK, 1, "UDP_CORK");
		 if (!send_to(fd, peer))
			 return fail();
		 int off = 0;
		 await_echo_if(!setsockopt(fd, SOL_UDP, UDP_CORK, &off, sizeof(off)), fd);
	 }},
	{"segmentation",
	 [] {
		 int fd = datagram();
		 set(fd, SOL_UDP, UDP_SEGMENT, 4, "UDP_SEGMENT");
		 await_echo_if(send_to(fd, peer), fd);
	 }},
	{"zerocopy",
	 [] {
		 int fd = datagram();
		 set(fd, SOL_SOCKET, SO_ZEROCOPY, 1, "SO_ZEROCOPY");
		 if (!send_to(fd, peer, MSG_ZEROCOPY))
			 return fail();
		 /* The notification makes the socket readable, too. */
		 timeval patience = {patience_ms / 1000, patience_ms % 1000 * 1000};
		 set(fd, SOL_SOCKET, SO_RCVTIMEO, patience, "SO_RCVTIMEO");
		 char echo[64];
		 if (recv(fd, echo, sizeof(echo), 0) > 0)
			 return say("echo");
		 fail();
	 }},
	{"sendfile",
	 [] {
		 int fd = datagram(), file = memfd_create("data", 0);
		 check(write(file, DATA, sizeof(DATA)) == sizeof(DATA), "write");
		 off_t from = 0;
		 await_echo_if(connect_to(fd, peer) && sendfile(fd, file, &from, sizeof(DATA)) == sizeof(DATA), fd);
	 }},
	{"sendmsg-by-ring", [] { ring_send(0, 0, IORING_OP_SENDMSG); }},
	{"sendmsg-by-ring-worker", [] { ring_send(0, IOSQE_ASYNC, IORING_OP_SENDMSG); }},
	{"sendmsg-by-ring-thread", [] { ring_send(IORING_SETUP_SQPOLL, 0, IORING_OP_SENDMSG); }},
	{"send-by-ring-without-copy", [] { ring_send(0, 0, IORING_OP_SEND_ZC); }},
	{"socket-of-a-ring-thread", [] { ring_socket(); }},
	{"source-by-control-message",
	 [] {
		 int fd = datagram();
		 if (own.ipv6()) {
			 in6_pktinfo info = {};
			 memcpy(&info.ipi6_addr, own.bytes(), 16);
			 return await_echo_if(send_with(fd, peer, IPPROTO_IPV6, IPV6_PKTINFO, &info, sizeof(info)), fd);
		 }
		 in_pktinfo info = {};
		 memcpy(&info.ipi_spec_dst, own.bytes(), 4);
		 await_echo_if(send_with(fd, peer, IPPROTO_IP, IP_PKTINFO, &info, sizeof(info)), fd);
	 }},
	{"device-bound",
	 [] {
		 int fd = datagram();
		 check(!setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, "eth0", 5), "SO_BINDTODEVICE");
		 await_echo_if(send_to(fd, peer), fd);
	 }},
	{"marked",
	 [] {
		 int fd = datagram();
		 set(fd, SOL_SOCKET, SO_MARK, 0xffff, "SO_MARK");
		 await_echo_if(send_to(fd, peer), fd);
	 }},
	/* From the address that the environment names, which is nobody's. */
	{"transparent-source",
	 [] {
		 int fd = datagram();
		 if (own.ipv6())
			 set(fd, IPPROTO_IPV6, IPV6_TRANSPARENT, 1, "IPV6_TRANSPARENT");
		 else
			 set(fd, IPPROTO_IP, IP_TRANSPARENT, 1, "IP_TRANSPARENT");
		 bind_at(fd, Address(getenv("FROM"), 0));
		 await_echo_if(send_to(fd, good), fd);
	 }},
	{"free-source",
	 [] {
		 int fd = datagram();
		 set(fd, IPPROTO_IPV6, IPV6_FREEBIND, 1, "IPV6_FREEBIND");
		 bind_at(fd, Address(getenv("FROM"), 0));
		 await_echo_if(send_to(fd, good), fd);
	 }},
	{"to-many",
	 [] {
		 int fd = datagram();
		 set(fd, SOL_SOCKET, SO_BROADCAST, 1, "SO_BROADCAST");
		 check(!setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, "eth0", 5), "SO_BINDTODEVICE");
		 await_echo_if(send_to(fd, peer), fd);
	 }},
	// ---- other sockets ----
	{"raw",
	 [] {
		 int fd = raw_socket(IPPROTO_UDP), ear = hearer();
		 await_echo_if(send_raw(fd, udp_datagram(own, peer), peer), ear);
	 }},
	{"raw-with-header",
	 [] {
		 int fd = raw_socket(IPPROTO_RAW), ear = hearer();
		 await_echo_if(send_raw(fd, packet(own, peer, IPPROTO_UDP, udp_datagram(own, peer)), peer), ear);
	 }},
	{"raw-fragments",
	 [] {
		 int fd = raw_socket(IPPROTO_RAW), ear = hearer();
		 auto whole = packet(own, peer, IPPROTO_UDP, udp_datagram(own, peer));
		 size_t rest = 8 + sizeof(DATA) - 8;
		 bool first = send_raw(fd, fragment(whole, 0, 8, true), peer);
		 await_echo_if(send_raw(fd, fragment(whole, 8, rest, false), peer) && first, ear);
	 }},
	{"raw-later-fragment-alone",
	 [] {
		 int fd = raw_socket(IPPROTO_RAW), ear = hearer();
		 auto whole = packet(own, peer, IPPROTO_UDP, udp_datagram(own, peer));
		 await_echo_if(send_raw(fd, fragment(whole, 8, sizeof(DATA), false), peer), ear);
	 }},
	/* The header says the allowed one... of which the route knows nothing. */
	{"raw-header-names-loopback",
	 [] {
		 int fd = raw_socket(IPPROTO_RAW), ear = hearer();
		 Address loopback(own.ipv6() ? "::1" : "127.0.0.1", ntohs(peer.port()));
		 await_echo_if(send_raw(fd, packet(own, loopback, IPPROTO_UDP, udp_datagram(own, loopback)), peer), ear);
	 }},
	{"raw-header-names-oneself",
	 [] {
		 int fd = raw_socket(IPPROTO_RAW), ear = hearer();
		 Address self = own.with_port(peer.port());
		 await_echo_if(send_raw(fd, packet(own, self, IPPROTO_UDP, udp_datagram(own, self)), peer), ear);
	 }},
	{"ping", [] { ping(peer); }},
	{"udplite",
	 [] {
		 int fd = socket(own.family(), SOCK_DGRAM, IPPROTO_UDPLITE);
		 if (fd < 0)
			 return fail();
		 await_echo_if(send_to(fd, peer), fd);
	 }},
	// ---- options that name another destination ----
	{"routing-header-of-a-stream",
	 [] {
		 int fd = stream();
		 if (own.ipv6()) {
			 auto header = segment_route();
			 check(!setsockopt(fd, IPPROTO_IPV6, IPV6_RTHDR, header.data(), header.size()), "IPV6_RTHDR");
		 } else {
			 unsigned char route[8] = {1, 131, 7, 4};
			 memcpy(route + 4, peer.bytes(), 4);
			 set(fd, IPPROTO_IP, IP_OPTIONS, route, "IP_OPTIONS");
		 }
		 converse(fd, good);
	 }},
	{"routing-header-of-a-datagram",
	 [] {
		 int fd = datagram();
		 if (own.ipv6()) {
			 auto header = segment_route();
			 check(!setsockopt(fd, IPPROTO_IPV6, IPV6_RTHDR, header.data(), header.size()), "IPV6_RTHDR");
			 return await_echo_if(send_to(fd, good), fd);
		 }
		 unsigned char route[8] = {1, 131, 7, 4};
		 memcpy(route + 4, peer.bytes(), 4);
		 set(fd, IPPROTO_IP, IP_OPTIONS, route, "IP_OPTIONS");
		 await_echo_if(send_to(fd, good), fd);
	 }},
	// ---- what a workload might forge, or bring with it ----
	/* A question from a stranger to oneself, whose answer would pass. */
	{"forged-question",
	 [] {
		 int fd = datagram(), stranger = datagram();
		 bind_at(fd, beside(own));
		 set(stranger, IPPROTO_IPV6, IPV6_FREEBIND, 1, "IPV6_FREEBIND");
		 bind_at(stranger, peer);
		 if (!send_to(stranger, beside(own)))
			 return fail();
		 await_echo_if(send_to(fd, peer), fd);
	 }},
	{"forged-question-to-loopback",
	 [] {
		 int fd = datagram(), stranger = datagram();
		 Address loopback = beside(Address("::1", 0));
		 bind_at(fd, loopback);
		 set(stranger, IPPROTO_IPV6, IPV6_FREEBIND, 1, "IPV6_FREEBIND");
		 bind_at(stranger, peer);
		 if (!send_to(stranger, loopback))
			 return fail();
		 await_echo_if(send_to(fd, peer), fd);
	 }},
	/* A connection from a stranger to oneself: the listener's SYN-ACK would leave. */
	{"forged-connection",
	 [] {
		 int listener = stream(), stranger = stream();
		 bind_at(listener, beside(own));
		 check(!listen(listener, 1), "listen");
		 set(stranger, IPPROTO_IPV6, IPV6_FREEBIND, 1, "IPV6_FREEBIND");
		 bind_at(stranger, peer);
		 await_echo_if(connect_to(stranger, beside(own)), stranger);
	 }},
	/* In a namespace of one's own anybody is a neighbour; what was noted there must open nothing here. */
	{"forged-in-a-namespace",
	 [] {
		 pid_t child = fork();
		 if (!child) {
			 check(!unshare(CLONE_NEWNET), "unshare");
			 add_to_loopback(own);
			 add_to_loopback(peer);
			 int fd = datagram(), stranger = datagram();
			 bind_at(fd, beside(own));
			 bind_at(stranger, peer);
			 _exit(send_to(stranger, beside(own)) ? 0 : 1);
		 }
		 waitpid(child, nullptr, 0);
		 int fd = datagram();
		 bind_at(fd, beside(own));
		 await_echo_if(send_to(fd, peer), fd);
	 }},
	/* Where the socket's option memory is used up, nothing can be recorded of it. */
	{"full-option-memory",
	 [] {
		 int fd = stream();
		 tcp_md5sig key = {};
		 key.tcpm_keylen = 1;
		 int keys = 0;
		 for (;; keys++) {
			 Address stranger = own.ipv6() ? Address("fd00:77::", 0) : Address("198.19.0.0", 0);
			 auto *last = static_cast<unsigned char *>(const_cast<void *>(stranger.bytes())) + stranger.size() - 2;
			 last[0] = keys >> 8;
			 last[1] = keys;
			 memcpy(&key.tcpm_addr, &stranger.storage, sizeof(key.tcpm_addr));
			 if (setsockopt(fd, IPPROTO_TCP, TCP_MD5SIG, &key, sizeof(key)))
				 break;
		 }
		 check(errno == ENOMEM && keys > 10, "TCP_MD5SIG");
		 converse(fd, peer);
	 }},
	/* Both ends connect at once, from and to the port beside. */
	{"simultaneous-open",
	 [] {
		 int fd = open_socket(own.family(), SOCK_STREAM | SOCK_NONBLOCK);
		 set(fd, SOL_SOCKET, SO_REUSEADDR, 1, "SO_REUSEADDR");
		 bind_at(fd, beside(own));
		 if (!connect_to(fd, beside(peer)) && errno != EINPROGRESS)
			 return fail();
		 puts("ready");
		 fflush(stdout);
		 pollfd waiting = {fd, POLLOUT, 0};
		 if (poll(&waiting, 1, patience_ms) != 1)
			 return say("silence");
		 await_echo_if(send_on(fd), fd);
	 }},
	/* From the port, still in TIME_WAIT, of a connection to the allowed one. */
	{"connect-in-time-wait",
	 [] {
		 for (const Address &to : {good, peer}) {
			 int fd = stream();
			 set(fd, SOL_SOCKET, SO_REUSEADDR, 1, "SO_REUSEADDR");
			 bind_at(fd, beside(own));
			 if (!connect_to(fd, to))
				 return fail();
			 shutdown(fd, SHUT_WR);
			 char end;
			 while (recv(fd, &end, 1, 0) > 0)
				 ;
			 close(fd);
		 }
		 say("echo");
	 }},
	/* Goes on until the peer's other addresses were heard of, and tried or not. */
	{"mptcp-for-long",
	 [] {
		 int fd = open_socket(own.family(), SOCK_STREAM, IPPROTO_MPTCP);
		 if (!connect_to(fd, peer))
			 return fail();
		 char echo[64];
		 for (int round = 0; round < 10; round++) {
			 if (!send_on(fd) || recv(fd, echo, sizeof(echo), 0) <= 0)
				 return fail();
			 usleep(20000);
		 }
		 say("echo");
	 }},
	/* What TCP_REPAIR is for: a connection that no SYN opened. */
	{"repair",
	 [] {
		 int fd = stream();
		 set(fd, SOL_SOCKET, SO_REUSEADDR, 1, "SO_REUSEADDR");
		 bind_at(fd, beside(own).with_port(htons(ntohs(peer.port()) + 2)));
		 set(fd, IPPROTO_TCP, TCP_REPAIR, 1, "TCP_REPAIR");
		 if (!connect_to(fd, peer))
			 return fail();
		 set(fd, IPPROTO_TCP, TCP_REPAIR, 0, "TCP_REPAIR off");
		 if (!send_on(fd))
			 return fail();
		 await_echo(fd);
	 }},
	/* Listens on the port beside until somebody has called, and then calls itself, by the listener or by what it accepted. */
	{"listener-turned-client", [] { listen_and_call(false); }},
	{"accepted-turned-client", [] { listen_and_call(true); }},
	/* A socket of the network namespace whose path the environment has. */
	{"socket-of-another-namespace",
	 [] {
		 int here = open("/proc/self/ns/net", O_RDONLY), there = open(getenv("NETNS"), O_RDONLY);
		 check(here >= 0 && there >= 0 && !setns(there, CLONE_NEWNET), "setns");
		 int fd = datagram();
		 check(!setns(here, CLONE_NEWNET), "setns");
		 await_echo_if(send_to(fd, peer), fd);
	 }},
	/* The one makes it and hands it on by a Unix socket, whose path the environment has; the other sends. */
	{"hand-on",
	 [] {
		 sockaddr_un at = unix_address();
		 int listener = socket(AF_UNIX, SOCK_STREAM, 0);
		 check(!bind(listener, reinterpret_cast<sockaddr *>(&at), sizeof(at)) && !listen(listener, 1), "Unix socket");
		 puts("ready");
		 fflush(stdout);
		 int taker = accept(listener, nullptr, nullptr);
		 for (int fd : {stream(), datagram()})
			 pass_on(taker, fd);
		 char end;
		 check(!read(taker, &end, 1), "read");
	 }},
	{"take-over",
	 [] {
		 sockaddr_un at = unix_address();
		 int giver = socket(AF_UNIX, SOCK_STREAM, 0);
		 check(!connect(giver, reinterpret_cast<sockaddr *>(&at), sizeof(at)), "Unix socket");
		 int tcp = take(giver), udp = take(giver);
		 converse(tcp, peer);
		 await_echo_if(send_to(udp, peer), udp);
	 }},
	{"stream-brought-along",
	 [] {
		 int fd = stream();
		 move_to(getenv("TO"));
		 converse(fd, peer);
	 }},
	{"datagram-brought-along",
	 [] {
		 int fd = datagram();
		 move_to(getenv("TO"));
		 await_echo_if(send_to(fd, peer), fd);
	 }},
	{"socket-made-after-a-move",
	 [] {
		 move_to(getenv("TO"));
		 converse(stream(), peer);
	 }},
};

/* Answers Multipath TCP on `own`, until it is killed. */
void serve_mptcp()
{
	int listener = open_socket(own.family(), SOCK_STREAM, IPPROTO_MPTCP);
	set(listener, SOL_SOCKET, SO_REUSEADDR, 1, "SO_REUSEADDR");
	bind_at(listener, peer);
	check(!listen(listener, 8), "listen");
	puts("ready");
	fflush(stdout);
	for (;;) {
		int fd = accept(listener, nullptr, nullptr);
		char data[64];
		ssize_t size;
		while ((size = recv(fd, data, sizeof(data), 0)) > 0)
			send(fd, data, size, MSG_NOSIGNAL);
		close(fd);
	}
}

/* What arrives at this namespace's devices, for others than `welcome`, as "PROTOCOL>ADDRESS"; a line for each line of stdin. */
int watch(const std::set<std::string> &welcome)
{
	int fd = socket(AF_PACKET, SOCK_DGRAM, htons(ETH_P_ALL));
	int room = 8 << 20;
	check(fd >= 0, "packet socket");
	setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof(room));
	puts("ready");
	fflush(stdout);
	char line[16];
	while (fgets(line, sizeof(line), stdin)) {
		std::set<std::string> strays;
		for (;;) {
			unsigned char bytes[256];
			sockaddr_ll from = {};
			socklen_t length = sizeof(from);
			ssize_t size =
				recvfrom(fd, bytes, sizeof(bytes), MSG_DONTWAIT, reinterpret_cast<sockaddr *>(&from), &length);
			if (size < 0)
				break;
			if (from.sll_pkttype == PACKET_OUTGOING || from.sll_hatype == 772 || size < 20)
				continue;
			bool ipv6 = from.sll_protocol == htons(ETH_P_IPV6);
			if (!ipv6 && from.sll_protocol != htons(ETH_P_IP))
				continue;
			char text[INET6_ADDRSTRLEN];
			inet_ntop(ipv6 ? AF_INET6 : AF_INET, bytes + (ipv6 ? 24 : 16), text, sizeof(text));
			/* Neighbours are looked for whatever policy says. */
			if (ipv6 &&
			    (bytes[6] == IPPROTO_HOPOPTS || (bytes[6] == IPPROTO_ICMPV6 && bytes[40] >= 133 && bytes[40] <= 136)))
				continue;
			if (!welcome.count(text))
				strays.insert(std::to_string(bytes[ipv6 ? 6 : 9]) + ">" + text);
		}
		std::string all;
		for (const auto &stray : strays)
			all += (all.empty() ? "" : " ") + stray;
		puts(all.c_str());
		fflush(stdout);
	}
	return 0;
}

} // namespace

/* WAY OWN PEER GOOD PORT PATIENCE-MS, or watch WELCOME... */
int main(int argc, char **argv)
{
	if (argc > 1 && !strcmp(argv[1], "watch"))
		return watch(std::set<std::string>(argv + 2, argv + argc));
	if (argc > 1 && !strcmp(argv[1], "list")) {
		for (const auto &[name, way] : ways)
			puts(name.c_str());
		return 0;
	}
	if (argc != 7 || (!ways.count(argv[1]) && strcmp(argv[1], "serve-mptcp")))
		return 2;
	int port = atoi(argv[5]);
	own = Address(argv[2], 0);
	peer = Address(argv[3], port);
	good = Address(argv[4], port);
	patience_ms = atoi(argv[6]);
	if (!strcmp(argv[1], "serve-mptcp"))
		serve_mptcp();
	else
		ways.at(argv[1])();
	return 0;
}
