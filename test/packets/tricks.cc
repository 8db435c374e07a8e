// SPDX-License-Identifier: Apache-2.0
// What a workload might try so that its packets pass for something else. Each trick prints the name of the errno that stopped it,
// "timeout", or "sent". Run inside the workload, IPv4 only; whoever runs it looks at what arrived.
#include <arpa/inet.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <netinet/ip.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

namespace
{

sockaddr_in address(const char *host, int port)
{
	sockaddr_in at = {};
	at.sin_family = AF_INET;
	at.sin_port = htons(port);
	inet_pton(AF_INET, host, &at.sin_addr);
	return at;
}

void check(bool done, const char *what)
{
	if (done)
		return;
	printf("setup failed: %s: %s\n", what, strerrorname_np(errno));
	exit(1);
}

void tell(bool done)
{
	puts(done ? "sent" : errno == EINPROGRESS || errno == EAGAIN ? "timeout" : strerrorname_np(errno));
}

int stream()
{
	int fd = socket(AF_INET, SOCK_STREAM, 0);
	int yes = 1;
	timeval patience = {0, 300000};
	check(fd >= 0, "socket");
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes));
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
	return fd;
}

void bind_to(int fd, const sockaddr_in &at)
{
	check(!bind(fd, reinterpret_cast<const sockaddr *>(&at), sizeof(at)), "bind");
}

bool connect_to(int fd, const sockaddr_in &at)
{
	return !connect(fd, reinterpret_cast<const sockaddr *>(&at), sizeof(at));
}

void disconnect(int fd)
{
	sockaddr none = {};
	none.sa_family = AF_UNSPEC;
	check(!connect(fd, &none, sizeof(none)), "connect to AF_UNSPEC");
}

int listen_and_accept(int &listener, const sockaddr_in &own)
{
	listener = stream();
	bind_to(listener, own);
	check(!listen(listener, 1), "listen");
	puts("ready");
	fflush(stdout);
	int child = accept(listener, nullptr, nullptr);
	check(child >= 0, "accept");
	return child;
}

/* What TCP_REPAIR is for: a connection that no SYN opened. `beside`: its port is listened on, which repair mode overlooks. */
void repair(const sockaddr_in &own, const sockaddr_in &peer, bool beside)
{
	int fd = stream(), on = 1, off = 0;
	if (!beside)
		bind_to(fd, own);
	check(!setsockopt(fd, IPPROTO_TCP, TCP_REPAIR, &on, sizeof(on)), "TCP_REPAIR");
	if (beside)
		bind_to(fd, own);
	if (!connect_to(fd, peer))
		return tell(false);
	check(!setsockopt(fd, IPPROTO_TCP, TCP_REPAIR, &off, sizeof(off)), "TCP_REPAIR off");
	/* Leaving repair mode has sent a probe already, which a peer may have answered with a reset. */
	send(fd, "trick", 5, MSG_NOSIGNAL);
	usleep(300000);
	tell(true);
}

void raw_tcp(const sockaddr_in &own, const sockaddr_in &peer, unsigned char flags)
{
	int fd = socket(AF_INET, SOCK_RAW, IPPROTO_RAW);
	unsigned char packet[40] = {0x45, 0, 0, 40, 0, 0, 0, 0, 64, IPPROTO_TCP};
	check(fd >= 0, "raw socket");
	memcpy(packet + 12, &own.sin_addr, 4);
	memcpy(packet + 16, &peer.sin_addr, 4);
	memcpy(packet + 20, &own.sin_port, 2);
	memcpy(packet + 22, &peer.sin_port, 2);
	packet[32] = 0x50;
	packet[33] = flags;
	tell(sendto(fd, packet, sizeof(packet), 0, reinterpret_cast<const sockaddr *>(&peer), sizeof(peer)) == sizeof(packet));
}

/* One socket, a thread a destination; prints for each destination whether every send, some or none passed. */
void race(const std::vector<sockaddr_in> &peers, int rounds)
{
	int fd = socket(AF_INET, SOCK_DGRAM, 0);
	std::vector<int> passed(peers.size());
	std::vector<std::thread> threads;
	check(fd >= 0, "socket");
	for (size_t i = 0; i < peers.size(); i++)
		threads.emplace_back([&, i] {
			for (int round = 0; round < rounds; round++)
				passed[i] += sendto(fd, "x", 1, 0, reinterpret_cast<const sockaddr *>(&peers[i]),
						    sizeof(peers[i])) == 1;
		});
	for (auto &thread : threads)
		thread.join();
	for (size_t i = 0; i < peers.size(); i++)
		printf("%s%s", i ? " " : "", passed[i] == rounds ? "all" : passed[i] ? "some" : "none");
	puts("");
}

} // namespace

/* TRICK OWN-ADDRESS OWN-PORT PEER PORT [PEER PORT]... */
int main(int argc, char **argv)
{
	if (argc < 6)
		return 2;
	std::string trick = argv[1];
	sockaddr_in own = address(argv[2], atoi(argv[3]));
	std::vector<sockaddr_in> peers;
	for (int i = 4; i + 1 < argc; i += 2)
		peers.push_back(address(argv[i], atoi(argv[i + 1])));
	int listener = -1;

	if (trick == "listener-connects") {
		listen_and_accept(listener, own);
		check(!shutdown(listener, SHUT_RDWR), "shutdown");
		tell(connect_to(listener, peers[0]));
	} else if (trick == "accepted-connects") {
		int child = listen_and_accept(listener, own);
		close(listener);
		disconnect(child);
		tell(connect_to(child, peers[0]));
	} else if (trick == "connected-connects") {
		int fd = stream();
		check(connect_to(fd, peers[1]), "connect");
		disconnect(fd);
		tell(connect_to(fd, peers[0]));
	} else if (trick == "repair") {
		repair(own, peers[0], false);
	} else if (trick == "repair-beside") {
		repair(own, peers[0], true);
	} else if (trick == "repair-accepted") {
		int child = listen_and_accept(listener, own);
		int on = 1, off = 0;
		close(listener);
		check(!setsockopt(child, IPPROTO_TCP, TCP_REPAIR, &on, sizeof(on)), "TCP_REPAIR");
		disconnect(child);
		check(!setsockopt(child, IPPROTO_TCP, TCP_REPAIR, &on, sizeof(on)), "TCP_REPAIR");
		if (!connect_to(child, peers[0])) {
			tell(false);
		} else {
			check(!setsockopt(child, IPPROTO_TCP, TCP_REPAIR, &off, sizeof(off)), "TCP_REPAIR off");
			send(child, "trick", 5, MSG_NOSIGNAL);
			usleep(300000);
			tell(true);
		}
	} else if (trick == "raw-ack") {
		raw_tcp(own, peers[0], 0x10);
	} else if (trick == "raw-syn-ack") {
		raw_tcp(own, peers[0], 0x12);
	} else if (trick == "race") {
		race(peers, 20000);
	} else {
		return 2;
	}
	return 0;
}
