/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * What does this packet say? From bytes on the wire to struct packet, or to the reason why it can't be read.
 * Knows neither maps nor workloads; what becomes of an unreadable packet is the caller's question.
 */
#ifndef POSTERN_PARSE_H
#define POSTERN_PARSE_H

#include <stdbool.h>
#include <stddef.h>
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/in6.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/tcp.h>
#include <linux/udp.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>

#include "abi.h"

#define MAX_EXTENSION_HEADERS 8 /* Linux itself sends at most four */
#define MAX_IPV4_OPTION_BYTES 40
#define MAX_DATAGRAM 65535

/* linux/in.h and linux/in6.h name only some of these. Numbers are IANA's. */
#define NEXT_HEADER_AUTH 51
#define NEXT_HEADER_MOBILITY 135
#define NEXT_HEADER_HIP 139
#define NEXT_HEADER_SHIM6 140
#define NEXT_HEADER_EXPERIMENT_1 253
#define NEXT_HEADER_EXPERIMENT_2 254

#define TCP_FLAG_BYTE_FIN 0x01
#define TCP_FLAG_BYTE_SYN 0x02
#define TCP_FLAG_BYTE_RST 0x04
#define TCP_FLAG_BYTE_ACK 0x10

enum fragment {
	FRAGMENT_NONE = 0,
	FRAGMENT_FIRST = 1,
	FRAGMENT_LATER = 2,
};

/* Read as words: struct address is bytes, which strict aliasing would otherwise let the compiler reorder around. */
typedef __u64 __attribute__((may_alias)) word;
typedef __u32 __attribute__((may_alias)) half_word;
typedef __u16 __attribute__((may_alias)) quarter_word;

struct packet {
	struct address local;
	struct address remote;
	__u32 length; /* L3 bytes */
	__u32 offset; /* of the transport header */
	__u32 end; /* of the datagram, by its own header */
	__u32 fragment_id;
	__u16 fragment_offset; /* bytes */
	__u16 fragment_start; /* where what is fragmented begins */
	__be16 local_port; /* of an ICMP echo, its id */
	__be16 remote_port;
	__be16 socket_port; /* local_port as the socket knows it: address translation may have changed what is on the wire */
	__u8 reason; /* why it can't be read; 0: it was */
	__u8 protocol; /* ICMPv6 is held as ICMP */
	__u8 fragment; /* enum fragment */
	__u8 fragment_protocol; /* of the fragment's own header, which may be an extension's */
	__u8 tcp_flags; /* 0 for all but TCP */
	__u8 icmp; /* icmp_kind */
	__u8 icmp_type;
	__u8 icmp_code;
	__u8 hop_limit;
	__u8 ipv6;
	__u8 leaves; /* by another device than loopback, whatever its destination says */
	__u8 base; /* where in the buffer IP begins: all offsets count from there */
	__u8 work; /* where the name is that it asks DNS for, see query.h; 0: nowhere */
} __attribute__((aligned(8)));

static __always_inline bool same_address(const struct address *a, const struct address *b)
{
	const word *left = (const word *)a, *right = (const word *)b;
	return left[1] == right[1] && left[0] == right[0];
}

static __always_inline bool is_zero(const struct address *address)
{
	const word *words = (const word *)address;
	return !(words[0] | words[1]);
}

static __always_inline bool is_mapped(const struct address *address)
{
	return *(const word *)address == 0 && ((const half_word *)address)[2] == bpf_htonl(0xffff);
}

static __always_inline void map_ipv4(struct address *address, __be32 ipv4)
{
	*(word *)address = 0;
	((half_word *)address)[2] = bpf_htonl(0xffff);
	((half_word *)address)[3] = ipv4;
}

static __always_inline void copy_address(struct address *to, const void *from)
{
	((word *)to)[0] = ((const word *)from)[0];
	((word *)to)[1] = ((const word *)from)[1];
}

static __always_inline bool is_loopback(const struct address *address)
{
	if (is_mapped(address))
		return address->bytes[12] == 127;
	return *(const word *)address == 0 && ((const word *)address)[1] == bpf_cpu_to_be64(1);
}

static __always_inline bool is_link_local(const struct address *address)
{
	return address->bytes[0] == 0xfe && (address->bytes[1] & 0xc0) == 0x80;
}

static __always_inline bool is_link_multicast(const struct address *address)
{
	return address->bytes[0] == 0xff && address->bytes[1] == 0x02;
}

/* Of both families, as far as anybody here reads it. (linux/icmp.h would bring in libc's headers.) */
struct icmp_header {
	__u8 type;
	__u8 code;
	__be16 checksum;
	__be16 id; /* of an echo */
	__be16 sequence;
};

/* RFC 9260, 3.1. */
struct sctp_header {
	__be16 source;
	__be16 destination;
	__be32 tag;
	__be32 checksum;
};

/* The part of a transport header that is always there; of protocols that nobody reads here, what RFC 1858 has for all. */
static __always_inline __u32 fixed_header_of(__u8 protocol)
{
	switch (protocol) {
	case IPPROTO_TCP:
		return sizeof(struct tcphdr);
	case IPPROTO_SCTP:
		return sizeof(struct sctp_header);
	}
	return sizeof(struct udphdr);
}

/* The types are IANA's; abi.h lists them. */
static __always_inline enum icmp_kind icmp_kind_of(bool ipv6, __u8 type, __u8 code)
{
	if (ipv6) {
		switch (type) {
		case 128:
			return ICMP_ECHO_REQUEST;
		case 129:
			return ICMP_ECHO_ANSWER;
		case 1:
			return ICMP_UNREACHABLE;
		case 2:
			return ICMP_TOO_BIG;
		case 3:
			return ICMP_TIME_OUT;
		case 4:
			return ICMP_PARAMETER;
		}
		return ICMP_OTHER;
	}
	switch (type) {
	case 8:
		return ICMP_ECHO_REQUEST;
	case 0:
		return ICMP_ECHO_ANSWER;
	case 3:
		return code == 4 ? ICMP_TOO_BIG : ICMP_UNREACHABLE;
	case 11:
		return ICMP_TIME_OUT;
	case 12:
		return ICMP_PARAMETER;
	}
	return ICMP_OTHER;
}

/*
 * `size` bytes at `offset`: in `copy`; where there is none, in place, and then `offset` must be a constant. NULL: the packet ends before, or
 * they are not linear.
 */
static __always_inline const void *look(struct __sk_buff *skb, __u32 offset, void *copy, __u32 size)
{
	const void *data = (const void *)(long)skb->data;
	const void *data_end = (const void *)(long)skb->data_end;

	if (copy)
		return bpf_skb_load_bytes(skb, offset, copy, size) ? NULL : copy;
	return data + offset + size <= data_end ? data + offset : NULL;
}

/* As look, where the offset was computed. NULL, too: options or extension headers precede it, and it should be in place. */
static __always_inline const void *look_anywhere(struct __sk_buff *skb, __u32 base, __u32 offset, void *copy, __u32 size)
{
	if (copy)
		return look(skb, base + offset, copy, size);
	if (offset == sizeof(struct iphdr))
		return look(skb, base + sizeof(struct iphdr), NULL, size);
	if (offset == sizeof(struct ipv6hdr))
		return look(skb, base + sizeof(struct ipv6hdr), NULL, size);
	return NULL;
}

/* One place for whatever header is copied: each is read before the next one is asked for. */
union header {
	struct iphdr ipv4;
	struct ipv6hdr ipv6;
	struct tcphdr tcp;
	struct udphdr udp;
	struct icmp_header icmp;
	struct sctp_header sctp;
} __attribute__((aligned(8)));

static __always_inline enum reason too_short(const struct packet *packet)
{
	return packet->fragment == FRAGMENT_FIRST ? REASON_FRAGMENT_TINY : REASON_TRUNCATED_HEADER;
}

static __always_inline void set_ports(struct packet *packet, enum direction direction, __be16 source, __be16 destination)
{
	packet->local_port = direction == DIRECTION_EGRESS ? source : destination;
	packet->socket_port = packet->local_port;
	packet->remote_port = direction == DIRECTION_EGRESS ? destination : source;
}

static __always_inline enum reason parse_tcp(struct __sk_buff *skb, __u32 base, struct packet *packet, enum direction direction,
					     union header *copy)
{
	__u32 room = packet->end - packet->offset, header;
	const struct tcphdr *tcp;

	if (room < sizeof(*tcp))
		return too_short(packet);
	tcp = look_anywhere(skb, base, packet->offset, copy, sizeof(*tcp));
	if (!tcp)
		return REASON_TRUNCATED_HEADER;
	header = (((const __u8 *)tcp)[12] >> 4) * 4;
	if (header < sizeof(*tcp))
		return REASON_BAD_LENGTH;
	if (header > room)
		return packet->fragment == FRAGMENT_FIRST ? REASON_FRAGMENT_TINY : REASON_BAD_LENGTH;
	packet->tcp_flags = ((const __u8 *)tcp)[13];
	set_ports(packet, direction, tcp->source, tcp->dest);
	return 0;
}

static __always_inline enum reason parse_udp(struct __sk_buff *skb, __u32 base, struct packet *packet, enum direction direction,
					     union header *copy)
{
	__u32 room = packet->end - packet->offset, length;
	const struct udphdr *udp;

	if (room < sizeof(*udp))
		return too_short(packet);
	udp = look_anywhere(skb, base, packet->offset, copy, sizeof(*udp));
	if (!udp)
		return REASON_TRUNCATED_HEADER;
	/* A length shorter than the room is legal (RFC 9868); receivers read no further than it says. */
	length = bpf_ntohs(udp->len);
	if (length < sizeof(*udp))
		return REASON_BAD_LENGTH;
	if (length > room && packet->fragment != FRAGMENT_FIRST)
		return REASON_BAD_LENGTH;
	set_ports(packet, direction, udp->source, udp->dest);
	return 0;
}

static __always_inline enum reason parse_sctp(struct __sk_buff *skb, __u32 base, struct packet *packet, enum direction direction,
					      union header *copy)
{
	const struct sctp_header *sctp;

	if (packet->end - packet->offset < sizeof(*sctp))
		return too_short(packet);
	sctp = look_anywhere(skb, base, packet->offset, copy, sizeof(*sctp));
	if (!sctp)
		return REASON_TRUNCATED_HEADER;
	set_ports(packet, direction, sctp->source, sctp->destination);
	return 0;
}

static __always_inline enum reason parse_icmp(struct __sk_buff *skb, __u32 base, struct packet *packet, union header *copy)
{
	const struct icmp_header *icmp;

	if (packet->end - packet->offset < sizeof(*icmp))
		return too_short(packet);
	icmp = look_anywhere(skb, base, packet->offset, copy, sizeof(*icmp));
	if (!icmp)
		return REASON_TRUNCATED_HEADER;
	packet->icmp_type = icmp->type;
	packet->icmp_code = icmp->code;
	packet->icmp = icmp_kind_of(packet->ipv6, icmp->type, icmp->code);
	if (packet->icmp == ICMP_ECHO_REQUEST || packet->icmp == ICMP_ECHO_ANSWER)
		packet->local_port = packet->socket_port = icmp->id;
	return 0;
}

static __always_inline enum reason parse_transport(struct __sk_buff *skb, __u32 base, struct packet *packet,
						   enum direction direction, union header *copy)
{
	switch (packet->protocol) {
	case IPPROTO_TCP:
		return parse_tcp(skb, base, packet, direction, copy);
	case IPPROTO_UDP:
		return parse_udp(skb, base, packet, direction, copy);
	case IPPROTO_SCTP:
		return parse_sctp(skb, base, packet, direction, copy);
	case IPPROTO_ICMP:
		return parse_icmp(skb, base, packet, copy);
	}
	return 0;
}

/*
 * What both families ask of a fragment. `payload` is what it carries beyond the headers that every fragment repeats; `repeated` is what
 * of these the length field of the whole would count.
 */
static __always_inline enum reason check_fragment(struct packet *packet, __u32 repeated, __u32 payload, bool more)
{
	packet->fragment = packet->fragment_offset ? FRAGMENT_LATER : FRAGMENT_FIRST;
	if ((more && payload % 8) || repeated + packet->fragment_offset + payload > MAX_DATAGRAM)
		return REASON_BAD_LENGTH;
	if (packet->fragment == FRAGMENT_FIRST)
		return 0;
	/* One that begins inside the transport header could rewrite what was judged in the first. */
	if (packet->fragment_offset < fixed_header_of(packet->protocol))
		return REASON_FRAGMENT_TINY;
	return 0;
}

/* From `offset` on. RFC 791, 3.1: options are of one byte (end, no operation) or hold their own length. */
__noinline int parse_ipv4_options(struct __sk_buff *skb, __u32 offset, __u32 end)
{

	for (int i = 0; i < MAX_IPV4_OPTION_BYTES; i++) {
		__u8 option[2];
		if (offset >= end || bpf_skb_load_bytes(skb, offset, option, 1))
			return 0;
		if (option[0] == 0)
			return 0;
		if (option[0] == 1) {
			offset++;
			continue;
		}
		if (offset + 2 > end || bpf_skb_load_bytes(skb, offset, option, 2))
			return REASON_BAD_LENGTH;
		if (option[0] == 131 || option[0] == 137)
			return REASON_SOURCE_ROUTE;
		if (option[1] < 2 || offset + option[1] > end)
			return REASON_BAD_LENGTH;
		offset += option[1];
	}
	return 0;
}

static __always_inline enum reason parse_ipv4(struct __sk_buff *skb, __u32 base, struct packet *packet, enum direction direction,
					      union header *copy)
{
	const struct iphdr *ip = look(skb, base, copy, sizeof(*ip));
	__u32 header, total;
	__u16 fragment;
	enum reason reason;

	if (!ip)
		return REASON_TRUNCATED_HEADER;
	/* The nibble, too: a raw socket of one family can send the other's. */
	if (*(const __u8 *)ip >> 4 != 4)
		return REASON_BAD_VERSION;
	header = (*(const __u8 *)ip & 0xf) * 4;
	total = bpf_ntohs(ip->tot_len);
	map_ipv4(&packet->local, direction == DIRECTION_EGRESS ? ip->saddr : ip->daddr);
	map_ipv4(&packet->remote, direction == DIRECTION_EGRESS ? ip->daddr : ip->saddr);
	packet->protocol = ip->protocol;
	fragment = bpf_ntohs(ip->frag_off);
	/* Only segmentation offload may leave it to others to say how long a packet is (BIG TCP). */
	if (!total && skb->gso_size)
		total = packet->length;
	if (header < sizeof(*ip) || total < header || total > packet->length)
		return REASON_BAD_LENGTH;
	packet->offset = header;
	packet->end = total;
	if (fragment & 0x3fff) {
		packet->fragment_offset = (fragment & 0x1fff) * 8;
		packet->fragment_id = bpf_ntohs(ip->id);
		packet->fragment_protocol = packet->protocol;
		packet->fragment_start = header;
		reason = check_fragment(packet, header, total - header, fragment & 0x2000);
		if (reason)
			return reason;
	}
	if (header > sizeof(*ip)) {
		reason = parse_ipv4_options(skb, base + sizeof(*ip), base + header);
		if (reason)
			return reason;
	}
	if (packet->fragment == FRAGMENT_LATER)
		return 0;
	return parse_transport(skb, base, packet, direction, copy);
}

/* ICMPv6 is held as ICMP; so that IPv4's ICMP inside IPv6 is taken for neither, the two numbers change places. */
static __always_inline __u8 hold_protocol(__u8 next)
{
	if (next == IPPROTO_ICMPV6)
		return IPPROTO_ICMP;
	return next == IPPROTO_ICMP ? IPPROTO_ICMPV6 : next;
}

/* Moves packet->offset over a chain of extension headers (RFC 8200, 4), and sets the protocol behind it. Global: verified once. */
__noinline int parse_extensions(struct __sk_buff *skb, struct packet *packet, __u32 next)
{
	bool fragmented = false;

	if (!packet)
		return REASON_TRUNCATED_HEADER;
	for (int i = 0; i <= MAX_EXTENSION_HEADERS; i++) {
		__u8 header[8];
		__u32 length;
		__u16 fragment;

		switch (next) {
		case IPPROTO_HOPOPTS:
		case IPPROTO_DSTOPTS:
		case IPPROTO_FRAGMENT:
		case NEXT_HEADER_AUTH:
			break;
		case IPPROTO_ROUTING:
			return REASON_SOURCE_ROUTE;
		case NEXT_HEADER_MOBILITY:
		case NEXT_HEADER_HIP:
		case NEXT_HEADER_SHIM6:
		case NEXT_HEADER_EXPERIMENT_1:
		case NEXT_HEADER_EXPERIMENT_2:
			return REASON_UNKNOWN_EXTENSION_HEADER;
		default:
			packet->protocol = hold_protocol(next);
			return 0;
		}
		if (i == MAX_EXTENSION_HEADERS)
			return REASON_TOO_MANY_EXTENSION_HEADERS;
		if (packet->end - packet->offset < sizeof(header) ||
		    bpf_skb_load_bytes(skb, packet->base + packet->offset, header, sizeof(header)))
			return too_short(packet);

		if (next == IPPROTO_FRAGMENT) {
			/* A second one would be of a datagram inside the datagram: nobody sends that honestly. */
			if (fragmented)
				return REASON_TOO_MANY_EXTENSION_HEADERS;
			fragmented = true;
			packet->offset += sizeof(header);
			fragment = header[2] << 8 | header[3];
			if (fragment & 0xfff9) {
				int reason;
				packet->fragment_offset = fragment & 0xfff8;
				packet->fragment_id = (__u32)header[4] << 24 | header[5] << 16 | header[6] << 8 | header[7];
				packet->fragment_protocol = header[0];
				packet->fragment_start = packet->offset;
				packet->protocol = hold_protocol(header[0]);
				/* All headers in front count but IPv6's own and the fragment's. */
				reason = check_fragment(packet, packet->offset - sizeof(struct ipv6hdr) - sizeof(header),
							packet->end - packet->offset, fragment & 1);
				if (reason || packet->fragment == FRAGMENT_LATER)
					return reason;
			}
			next = header[0];
			continue;
		}
		length = next == NEXT_HEADER_AUTH ? (header[1] + 2) * 4 : (header[1] + 1) * 8;
		if (length > packet->end - packet->offset)
			return too_short(packet);
		packet->offset += length;
		next = header[0];
	}
	return REASON_TOO_MANY_EXTENSION_HEADERS;
}

static __always_inline enum reason parse_ipv6(struct __sk_buff *skb, __u32 base, struct packet *packet, enum direction direction,
					      union header *copy)
{
	const struct ipv6hdr *ip = look(skb, base, copy, sizeof(*ip));
	__u32 payload;

	if (!ip)
		return REASON_TRUNCATED_HEADER;
	if (*(const __u8 *)ip >> 4 != 6)
		return REASON_BAD_VERSION;
	packet->ipv6 = 1;
	packet->hop_limit = ip->hop_limit;
	copy_address(&packet->local, direction == DIRECTION_EGRESS ? &ip->saddr : &ip->daddr);
	copy_address(&packet->remote, direction == DIRECTION_EGRESS ? &ip->daddr : &ip->saddr);
	packet->protocol = hold_protocol(ip->nexthdr);
	packet->offset = sizeof(*ip);
	payload = bpf_ntohs(ip->payload_len);
	/* 0 is an empty packet, or one longer than the field can say, which only segmentation offload makes (BIG TCP). */
	if (!payload && skb->gso_size)
		payload = packet->length - sizeof(*ip);
	packet->end = sizeof(*ip) + payload;
	if (packet->end > packet->length || (!payload && packet->length > sizeof(*ip)))
		return REASON_BAD_LENGTH;
	if (is_mapped(&packet->local) || is_mapped(&packet->remote))
		return REASON_MAPPED_ADDRESS;
	if (packet->protocol != IPPROTO_TCP && packet->protocol != IPPROTO_UDP && packet->protocol != IPPROTO_ICMP) {
		enum reason reason = parse_extensions(skb, packet, ip->nexthdr);
		if (reason || packet->fragment == FRAGMENT_LATER)
			return reason;
	}
	return parse_transport(skb, base, packet, direction, copy);
}

static __always_inline enum reason parse_datagram(struct __sk_buff *skb, __u32 base, struct packet *packet,
						  enum direction direction, union header *copy)
{
	switch (skb->protocol) {
	case bpf_htons(ETH_P_IP):
		return parse_ipv4(skb, base, packet, direction, copy);
	case bpf_htons(ETH_P_IPV6):
		return parse_ipv6(skb, base, packet, direction, copy);
	}
	return REASON_BAD_VERSION;
}

/* As parse, wherever headers are. Apart from its callers, whose stack has no room for copies of them. */
__noinline int parse_copied(struct __sk_buff *skb, __u32 base, struct packet *packet, enum direction direction)
{
	union header copy;

	if (!packet)
		return 0;
	*packet = (struct packet){.base = base, .length = skb->len - base};
	packet->reason = parse_datagram(skb, base, packet, direction, &copy);
	return 0;
}

/*
 * Fills `packet`, which must be zero. An unreadable one has its reason set, and what was read before. `base`, a constant, is where IP
 * begins: behind the link's header, where programs of interfaces run; at 0, where those of cgroups do.
 */
static __always_inline void parse(struct __sk_buff *skb, __u32 base, struct packet *packet, enum direction direction)
{
	packet->base = base;
	packet->length = skb->len - base;
	packet->reason = parse_datagram(skb, base, packet, direction, NULL);
	if (packet->reason == REASON_TRUNCATED_HEADER)
		parse_copied(skb, base, packet, direction);
}

/* What rules call the port: of ICMP its kind, of protocols without ports 0. Host order. */
static __always_inline __u16 port_of(const struct packet *packet)
{
	return packet->protocol == IPPROTO_ICMP ? packet->icmp : bpf_ntohs(packet->remote_port);
}

#endif
