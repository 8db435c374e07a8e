// SPDX-License-Identifier: Apache-2.0
// One workload's floods over IPv4 and UDP, as fast as one thread can, and who answers the last of them. Knows nothing of policies.
//
//   flood send ADDRESS COUNT    datagrams to ADDRESS from port 1 on, past 65,535 to the address behind it; says how many were refused (EPERM)
//   flood ask ADDRESS COUNT     questions for COUNT names (n1.flood.example, ...); says how many were answered
//   flood answer ADDRESS        answers each question there with an address of its own, of 198.19.0.0/16; says "ready"
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

#include <arpa/inet.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

namespace
{

constexpr int ports = 65535;
constexpr int dns_port = 53;
constexpr std::size_t message_bytes = 512; // RFC 1035, 4.2.1
// Questions that wait for an answer: more would be lost in the socket's buffer, and fewer wait for each other.
constexpr long window = 64;
constexpr int patience_ms = 20'000;
constexpr char tail[] = "\5flood\7example\0\0\1\0\1"; // and its end: type A, class IN
constexpr unsigned char record[] = {0xc0, 12, 0, 1, 0, 1, 0, 0, 1, 0, 0, 4, 198, 19, 0, 0};

int socket_of_udp()
{
	const int fd = ::socket(AF_INET, SOCK_DGRAM, 0);
	const int bytes = 1 << 20;
	if (fd < 0 || ::setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &bytes, sizeof(bytes)) < 0)
		std::exit(2);
	return fd;
}

long send_all(sockaddr_in to, long count)
{
	const int fd = socket_of_udp();
	const in_addr_t first = ntohl(to.sin_addr.s_addr);
	long refused = 0;
	for (long index = 0; index < count; index++) {
		to.sin_addr.s_addr = htonl(first + static_cast<in_addr_t>(index / ports));
		to.sin_port = htons(static_cast<in_port_t>(1 + index % ports));
		if (::sendto(fd, "x", 1, 0, reinterpret_cast<const sockaddr *>(&to), sizeof(to)) < 0 && errno == EPERM)
			refused++;
	}
	return refused;
}

void ask_for(int fd, long number)
{
	const std::string label = "n" + std::to_string(number);
	std::string message = {static_cast<char>(number >> 8), static_cast<char>(number), 1, 0, 0, 1, 0, 0, 0, 0, 0, 0};
	message += static_cast<char>(label.size()) + label + std::string(tail, sizeof(tail) - 1);
	::send(fd, message.data(), message.size(), 0);
}

long ask_all(const sockaddr_in &to, long count)
{
	const int fd = socket_of_udp();
	if (::connect(fd, reinterpret_cast<const sockaddr *>(&to), sizeof(to)) < 0)
		return 0;
	char message[message_bytes];
	long asked = 0, answered = 0, waiting = 0;
	while (asked < count || waiting > 0) {
		for (; asked < count && waiting < window; waiting++)
			ask_for(fd, ++asked);
		pollfd reading = {fd, POLLIN, 0};
		if (::poll(&reading, 1, patience_ms) < 1) {
			// What has not come by now was lost.
			waiting = 0;
			continue;
		}
		if (::recv(fd, message, sizeof(message), 0) > 0) {
			answered++;
			waiting = waiting > 0 ? waiting - 1 : 0;
		}
	}
	return answered;
}

void answer_all(const sockaddr_in &at)
{
	const int fd = socket_of_udp();
	if (::bind(fd, reinterpret_cast<const sockaddr *>(&at), sizeof(at)) < 0)
		std::exit(2);
	std::puts("ready");
	std::fflush(stdout);
	unsigned char message[message_bytes];
	sockaddr_in from = {};
	for (;;) {
		socklen_t size = sizeof(from);
		const ssize_t length =
			::recvfrom(fd, message, sizeof(message) - sizeof(record), 0, reinterpret_cast<sockaddr *>(&from), &size);
		if (length < 12)
			continue;
		message[2] = 0x81; // an answer, to whom recursion was wished
		message[3] = 0x80; // no error
		message[7] = 1; // one record
		std::memcpy(message + length, record, sizeof(record));
		std::memcpy(message + length + sizeof(record) - 2, message, 2); // as the question is numbered
		::sendto(fd, message, static_cast<std::size_t>(length) + sizeof(record), 0,
			 reinterpret_cast<const sockaddr *>(&from), size);
	}
}

} // namespace

int main(int count, char **arguments)
{
	const std::string what = count > 2 ? arguments[1] : "";
	sockaddr_in to = {};
	to.sin_family = AF_INET;
	to.sin_port = htons(dns_port);
	if (count < 3 || ::inet_pton(AF_INET, arguments[2], &to.sin_addr) != 1)
		return 2;
	if (what == "answer")
		answer_all(to);
	const long wanted = count > 3 ? std::strtol(arguments[3], nullptr, 10) : 0;
	if (what == "send")
		std::printf("%ld\n", send_all(to, wanted));
	else if (what == "ask")
		std::printf("%ld\n", ask_all(to, wanted));
	else
		return 2;
}
