// SPDX-License-Identifier: Apache-2.0
// Sends frames as they are, from below IP, where no program of a cgroup sees them: frames INTERFACE HEX... Prints how many the device took.
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <sys/socket.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

int main(int argc, char **argv)
{
	const int fd = socket(AF_PACKET, SOCK_RAW, 0);
	if (fd < 0 || argc < 3) {
		std::perror("frames");
		return 1;
	}
	sockaddr_ll to = {};
	to.sll_family = AF_PACKET;
	to.sll_ifindex = static_cast<int>(if_nametoindex(argv[1]));
	int sent = 0;
	for (int index = 2; index < argc; index++) {
		const std::string hex = argv[index];
		std::vector<unsigned char> frame;
		for (std::size_t at = 0; at + 1 < hex.size(); at += 2)
			frame.push_back(static_cast<unsigned char>(std::stoul(hex.substr(at, 2), nullptr, 16)));
		if (sendto(fd, frame.data(), frame.size(), 0, reinterpret_cast<sockaddr *>(&to), sizeof(to)) < 0)
			std::fprintf(stderr, "frames: %s\n", std::strerror(errno));
		else
			sent++;
	}
	std::printf("%d\n", sent);
	return 0;
}
