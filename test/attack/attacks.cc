// SPDX-License-Identifier: Apache-2.0
// Ways out that need more than a socket of IP: frames by every means that the kernel has to take them from a process, and what watches
// for them at the other end. It knows no policy, and what is in a frame is its caller's business.
#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/ethtool.h>
#include <linux/if_packet.h>
#include <linux/if_tun.h>
#include <linux/if_xdp.h>
#include <linux/sockios.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>
#include <vector>

namespace
{

using Bytes = std::vector<unsigned char>;

void check(bool done, const char *what)
{
	if (done)
		return;
	fprintf(stderr, "setup failed: %s: %s\n", what, strerrorname_np(errno));
	exit(1);
}

Bytes from_hex(const char *hex)
{
	Bytes bytes;
	for (; hex[0] && hex[1]; hex += 2) {
		const char pair[3] = {hex[0], hex[1], 0};
		bytes.push_back(strtoul(pair, nullptr, 16));
	}
	return bytes;
}

/* What came of a frame: nothing to tell, or the errno's name. */
bool sent(long result)
{
	if (result < 0)
		puts(strerrorname_np(errno));
	return result >= 0;
}

sockaddr_ll device_address(const char *device, const Bytes &frame)
{
	sockaddr_ll to = {};
	to.sll_family = AF_PACKET;
	to.sll_ifindex = if_nametoindex(device);
	check(to.sll_ifindex, device);
	to.sll_halen = ETH_ALEN;
	if (frame.size() >= ETH_HLEN) {
		memcpy(to.sll_addr, frame.data(), ETH_ALEN);
		memcpy(&to.sll_protocol, frame.data() + 12, 2);
	}
	return to;
}

int packet_socket(int type)
{
	int fd = socket(AF_PACKET, type, 0);
	check(fd >= 0, "packet socket");
	return fd;
}

bool send_frame(int fd, const char *device, const Bytes &frame, size_t skip = 0)
{
	sockaddr_ll to = device_address(device, frame);
	return sent(sendto(fd, frame.data() + skip, frame.size() - skip, 0, reinterpret_cast<sockaddr *>(&to), sizeof(to)));
}

bool by_packet(const char *device, const Bytes &frame)
{
	return send_frame(packet_socket(SOCK_RAW), device, frame);
}

/* The kernel writes the Ethernet header. */
bool by_cooked_packet(const char *device, const Bytes &frame)
{
	return send_frame(packet_socket(SOCK_DGRAM), device, frame, ETH_HLEN);
}

bool past_the_queue(const char *device, const Bytes &frame)
{
	int fd = packet_socket(SOCK_RAW), on = 1;
	check(!setsockopt(fd, SOL_PACKET, PACKET_QDISC_BYPASS, &on, sizeof(on)), "PACKET_QDISC_BYPASS");
	return send_frame(fd, device, frame);
}

/* What precedes the frame (struct virtio_net_hdr, 10 bytes) tells of checksums and segments that are to be made later. */
bool by_offload(const char *device, const Bytes &frame)
{
	int fd = packet_socket(SOCK_RAW), on = 1;
	check(!setsockopt(fd, SOL_PACKET, PACKET_VNET_HDR, &on, sizeof(on)), "PACKET_VNET_HDR");
	sockaddr_ll to = device_address(device, Bytes(frame.begin() + 10, frame.end()));
	return sent(sendto(fd, frame.data(), frame.size(), 0, reinterpret_cast<sockaddr *>(&to), sizeof(to)));
}

/* Frames in memory that stays the sender's. */
class SendRing
{
      public:
	static constexpr unsigned SLOTS = 32, SLOT_BYTES = 2048;

	explicit SendRing(const char *device) : device_(device), fd_(packet_socket(SOCK_RAW))
	{
		int version = TPACKET_V2;
		check(!setsockopt(fd_, SOL_PACKET, PACKET_VERSION, &version, sizeof(version)), "PACKET_VERSION");
		tpacket_req ring = {SLOTS * SLOT_BYTES, 1, SLOT_BYTES, SLOTS};
		check(!setsockopt(fd_, SOL_PACKET, PACKET_TX_RING, &ring, sizeof(ring)), "PACKET_TX_RING");
		void *at = mmap(nullptr, SLOTS * SLOT_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd_, 0);
		check(at != MAP_FAILED, "mmap");
		ring_ = static_cast<unsigned char *>(at);
	}
	unsigned char *frame(unsigned slot)
	{
		return ring_ + slot * SLOT_BYTES + TPACKET2_HDRLEN - sizeof(sockaddr_ll);
	}
	/* Everything that was put since. */
	bool send(const Bytes &example)
	{
		sockaddr_ll to = device_address(device_, example);
		return sent(sendto(fd_, nullptr, 0, 0, reinterpret_cast<sockaddr *>(&to), sizeof(to)));
	}
	void put(unsigned slot, const Bytes &bytes)
	{
		auto *header = reinterpret_cast<tpacket2_hdr *>(ring_ + slot * SLOT_BYTES);
		memcpy(frame(slot), bytes.data(), bytes.size());
		header->tp_len = bytes.size();
		reinterpret_cast<std::atomic<unsigned> *>(&header->tp_status)->store(TP_STATUS_SEND_REQUEST);
	}

      private:
	const char *device_;
	int fd_;
	unsigned char *ring_;
};

bool by_ring(const char *device, const Bytes &frame)
{
	SendRing ring(device);
	ring.put(0, frame);
	return ring.send(frame);
}

/* From IP on. */
bool by_raw_socket(const char *, const Bytes &frame)
{
	bool ipv6 = frame[12] == 0x86;
	int fd = socket(ipv6 ? AF_INET6 : AF_INET, SOCK_RAW, IPPROTO_RAW), on = 1;
	check(fd >= 0, "raw socket");
	sockaddr_in6 to6 = {};
	sockaddr_in to4 = {};
	if (ipv6) {
		check(!setsockopt(fd, IPPROTO_IPV6, IPV6_HDRINCL, &on, sizeof(on)), "IPV6_HDRINCL");
		to6.sin6_family = AF_INET6;
		memcpy(&to6.sin6_addr, &frame[ETH_HLEN + 24], 16);
	} else {
		to4.sin_family = AF_INET;
		memcpy(&to4.sin_addr, &frame[ETH_HLEN + 16], 4);
	}
	return sent(sendto(fd, &frame[ETH_HLEN], frame.size() - ETH_HLEN, 0,
			   ipv6 ? reinterpret_cast<sockaddr *>(&to6) : reinterpret_cast<sockaddr *>(&to4),
			   ipv6 ? sizeof(to6) : sizeof(to4)));
}

/* AF_XDP, which hands frames to the driver, copied. */
bool by_xdp_socket(const char *device, const Bytes &frame)
{
	constexpr unsigned FRAMES = 16, FRAME_BYTES = 4096;
	int fd = socket(AF_XDP, SOCK_RAW, 0);
	if (!sent(fd))
		return false;
	void *memory = mmap(nullptr, FRAMES * FRAME_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	xdp_umem_reg region = {};
	region.addr = reinterpret_cast<uintptr_t>(memory);
	region.len = FRAMES * FRAME_BYTES;
	region.chunk_size = FRAME_BYTES;
	check(!setsockopt(fd, SOL_XDP, XDP_UMEM_REG, &region, sizeof(region)), "XDP_UMEM_REG");
	unsigned entries = FRAMES;
	for (int ring : {XDP_UMEM_FILL_RING, XDP_UMEM_COMPLETION_RING, XDP_TX_RING})
		check(!setsockopt(fd, SOL_XDP, ring, &entries, sizeof(entries)), "rings of XDP");
	xdp_mmap_offsets offsets = {};
	socklen_t length = sizeof(offsets);
	check(!getsockopt(fd, SOL_XDP, XDP_MMAP_OFFSETS, &offsets, &length), "XDP_MMAP_OFFSETS");
	auto *ring = static_cast<unsigned char *>(mmap(nullptr, offsets.tx.desc + FRAMES * sizeof(xdp_desc),
						       PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, XDP_PGOFF_TX_RING));
	check(ring != MAP_FAILED, "mmap of XDP");
	sockaddr_xdp at = {};
	at.sxdp_family = AF_XDP;
	at.sxdp_flags = XDP_COPY;
	at.sxdp_ifindex = if_nametoindex(device);
	if (!sent(bind(fd, reinterpret_cast<sockaddr *>(&at), sizeof(at))))
		return false;
	memcpy(memory, frame.data(), frame.size());
	auto *descriptor = reinterpret_cast<xdp_desc *>(ring + offsets.tx.desc);
	descriptor->addr = 0;
	descriptor->len = frame.size();
	reinterpret_cast<std::atomic<unsigned> *>(ring + offsets.tx.producer)->store(1);
	bool done = sent(sendto(fd, nullptr, 0, MSG_DONTWAIT, nullptr, 0));
	/* The frame is copied when the driver takes it, which it may do later. */
	usleep(50000);
	return done;
}

/* Written to a device of one's own (TAP, made by the caller), as if it came in by it. */
bool by_tap(const char *device, const Bytes &frame)
{
	int fd = open("/dev/net/tun", O_RDWR);
	ifreq request = {};
	check(fd >= 0, "/dev/net/tun");
	snprintf(request.ifr_name, sizeof(request.ifr_name), "%s", device);
	request.ifr_flags = IFF_TAP | IFF_NO_PI;
	check(!ioctl(fd, TUNSETIFF, &request), "TUNSETIFF");
	/* A bridge takes nothing from a port that has just come up. */
	usleep(50000);
	return sent(write(fd, frame.data(), frame.size()));
}

/* From now on checksums are written before a frame leaves by `device`, as on the way to a card that can't do that. */
int write_checksums(const char *device)
{
	int fd = socket(AF_INET, SOCK_DGRAM, 0);
	ethtool_value off = {ETHTOOL_STXCSUM, 0};
	ifreq request = {};
	snprintf(request.ifr_name, sizeof(request.ifr_name), "%s", device);
	request.ifr_data = reinterpret_cast<char *>(&off);
	check(!ioctl(fd, SIOCETHTOOL, &request), "ETHTOOL_STXCSUM");
	return 0;
}

bool contains(const unsigned char *bytes, size_t size, const Bytes &part)
{
	return memmem(bytes, size, part.data(), part.size());
}

/* The kernel looks for a neighbour, or answers for itself: not longer than it must be, and in nobody else's name. */
bool is_neighbour_lookup(const unsigned char *bytes, size_t size, const Bytes &token)
{
	if (size <= 60 && bytes[12] == 0x08 && bytes[13] == 0x06)
		return memcmp(bytes + 28, token.data(), 4);
	if (size <= 86 && bytes[12] == 0x86 && bytes[13] == 0xdd && bytes[20] == IPPROTO_ICMPV6 && bytes[54] == 135)
		return memcmp(bytes + 22, token.data(), 16) && memcmp(bytes + 22, "\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 16);
	return false;
}

/* For each line of stdin a line: which of `tokens` were in frames that arrived by `device` since it began, each as NUMBER=FRAME, its first. */
int capture(const char *device, const std::vector<Bytes> &tokens)
{
	int fd = socket(AF_PACKET, SOCK_RAW, htons(ETH_P_ALL)), room = 16 << 20, on = 1;
	check(fd >= 0, "packet socket");
	setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof(room));
	setsockopt(fd, SOL_PACKET, PACKET_AUXDATA, &on, sizeof(on));
	sockaddr_ll at = device_address(device, {});
	at.sll_protocol = htons(ETH_P_ALL);
	packet_mreq promiscuous = {};
	promiscuous.mr_ifindex = at.sll_ifindex;
	promiscuous.mr_type = PACKET_MR_PROMISC;
	check(!bind(fd, reinterpret_cast<sockaddr *>(&at), sizeof(at)), "bind");
	check(!setsockopt(fd, SOL_PACKET, PACKET_ADD_MEMBERSHIP, &promiscuous, sizeof(promiscuous)), "promiscuous mode");
	puts("ready");
	fflush(stdout);
	std::map<size_t, Bytes> arrived;
	pollfd waiting[] = {{fd, POLLIN, 0}, {STDIN_FILENO, POLLIN, 0}};
	while (poll(waiting, 2, -1) > 0) {
		unsigned char bytes[2048];
		sockaddr_ll from = {};
		socklen_t length = sizeof(from);
		ssize_t size;
		while ((size = recvfrom(fd, bytes, sizeof(bytes), MSG_DONTWAIT, reinterpret_cast<sockaddr *>(&from), &length)) >=
		       0) {
			for (size_t i = 0; from.sll_pkttype != PACKET_OUTGOING && i < tokens.size(); i++) {
				if (contains(bytes, size, tokens[i]) && !is_neighbour_lookup(bytes, size, tokens[i]))
					arrived.try_emplace(i, bytes, bytes + size);
			}
		}
		if (!waiting[1].revents)
			continue;
		char line[64] = {};
		if (read(STDIN_FILENO, line, sizeof(line) - 1) <= 0)
			break;
		if (!strncmp(line, "forget", 6))
			arrived.clear();
		for (const auto &[i, frame] : arrived) {
			printf("%zu=", i);
			for (unsigned char byte : frame)
				printf("%02x", byte);
			putchar(' ');
		}
		puts("");
		fflush(stdout);
	}
	return 0;
}

const struct {
	const char *name;
	bool (*send)(const char *device, const Bytes &frame);
} MEANS[] = {
	{"packet", by_packet},
	{"cooked", by_cooked_packet},
	{"past-the-queue", past_the_queue},
	{"ring", by_ring},
	{"offload", by_offload},
	{"raw", by_raw_socket},
	{"xdp", by_xdp_socket},
	{"tap", by_tap},
};

} // namespace

/* MEANS DEVICE FRAME..., or write-checksums DEVICE, or capture DEVICE TOKEN...; bytes are hex. */
int main(int argc, char **argv)
{
	if (argc == 3 && !strcmp(argv[1], "write-checksums"))
		return write_checksums(argv[2]);
	if (argc < 4)
		return 2;
	if (!strcmp(argv[1], "capture")) {
		std::vector<Bytes> tokens;
		for (int i = 3; i < argc; i++)
			tokens.push_back(from_hex(argv[i]));
		return capture(argv[2], tokens);
	}
	for (const auto &[name, send] : MEANS) {
		if (strcmp(argv[1], name))
			continue;
		for (int i = 3; i < argc; i++)
			send(argv[2], from_hex(argv[i]));
		return 0;
	}
	return 2;
}
