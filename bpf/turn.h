/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * How does a guard answer a question in the resolver's place? By the question itself, turned round: who asked gets it back with another code, as
 * long as it was. Knows not why.
 */
#ifndef POSTERN_TURN_H
#define POSTERN_TURN_H

#include <stdbool.h>
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/pkt_cls.h>
#include <linux/udp.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>

#include "dns.h"
#include "parse.h"

/* linux/if_packet.h: to this host. A bridge's port sees frames that are not. */
#define FRAME_TO_HOST 0

/* Of a question's header what its answer keeps: RFC 1035, 4.1.1; RFC 4035, 3.2.2. */
#define DNS_FLAGS_KEPT 0x7910 /* opcode, recursion desired, checking disabled */
#define DNS_FLAG_RECURSION 0x0080 /* available */

/* Swaps two neighbours of `size` bytes each. Checksums are sums, and stay what they were. */
static __always_inline bool swap(struct __sk_buff *skb, __u32 at, __u8 *first, __u8 *second, __u32 size)
{
	return !bpf_skb_load_bytes(skb, at, first, size) && !bpf_skb_load_bytes(skb, at + size, second, size) &&
	       !bpf_skb_store_bytes(skb, at, second, size, 0) && !bpf_skb_store_bytes(skb, at + size, first, size, 0);
}

/*
 * At an interface's ingress. What to return: the frame goes back to the other end of the interface, or, where that can't be, is dropped. Options
 * behind the question go back, too: RFC 6891 wants an OPT record in the answer to one, and asks for none that is known.
 */
static __noinline int turn_round(struct __sk_buff *skb, const struct packet *packet, __u32 code)
{
	__u8 first[16], second[16];
	__u32 datagram = packet->base + packet->offset,
	      flags_at = datagram + sizeof(struct udphdr) + __builtin_offsetof(struct dns_header, flags);
	__be16 before, after;

	if (!swap(skb, 0, first, second, ETH_ALEN))
		return TC_ACT_SHOT;
	if (packet->ipv6) {
		if (!swap(skb, packet->base + __builtin_offsetof(struct ipv6hdr, saddr), first, second, sizeof(struct in6_addr)))
			return TC_ACT_SHOT;
	} else if (!swap(skb, packet->base + __builtin_offsetof(struct iphdr, saddr), first, second, sizeof(__be32))) {
		return TC_ACT_SHOT;
	}
	if (!swap(skb, datagram, first, second, sizeof(__be16)) || bpf_skb_load_bytes(skb, flags_at, &before, sizeof(before)))
		return TC_ACT_SHOT;
	after = bpf_htons(DNS_FLAG_ANSWER | DNS_FLAG_RECURSION | (bpf_ntohs(before) & DNS_FLAGS_KEPT) | code);
	/* A datagram without a checksum keeps none; of one that is left to others to work out nothing changes here. */
	if (bpf_skb_store_bytes(skb, flags_at, &after, sizeof(after), 0) ||
	    bpf_l4_csum_replace(skb, datagram + __builtin_offsetof(struct udphdr, check), before, after,
				BPF_F_MARK_MANGLED_0 | sizeof(after)))
		return TC_ACT_SHOT;
	bpf_skb_change_type(skb, FRAME_TO_HOST);
	return bpf_redirect_peer(skb->ifindex, 0);
}

#endif
