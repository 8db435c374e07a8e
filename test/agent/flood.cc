// SPDX-License-Identifier: Apache-2.0
// Sends so many datagrams to an IPv4 address, one after another to ports from 1 on, as fast as it can: `flood ADDRESS COUNT`. Says on stdout
// how many were refused with EPERM.
#include <cerrno>
#include <cstdio>
#include <cstdlib>

#include <arpa/inet.h>
#include <sys/socket.h>

int main(int count, char **arguments)
{
	sockaddr_in to{};
	to.sin_family = AF_INET;
	const int socket = ::socket(AF_INET, SOCK_DGRAM, 0);
	if (count != 3 || socket < 0 || ::inet_pton(AF_INET, arguments[1], &to.sin_addr) != 1)
		return 2;
	long refused = 0;
	for (long left = std::strtol(arguments[2], nullptr, 10); left > 0; left--) {
		to.sin_port = htons(static_cast<in_port_t>(1 + left % 65535));
		if (::sendto(socket, "x", 1, 0, reinterpret_cast<const sockaddr *>(&to), sizeof(to)) < 0 && errno == EPERM)
			refused++;
	}
	std::printf("%ld\n", refused);
}
