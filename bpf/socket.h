/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Is this frame what that socket sends? At an interface a frame can have a socket that did not make it: a tunnel's, whose packet is
 * inside. Knows no policy, and no record.
 */
#ifndef POSTERN_SOCKET_H
#define POSTERN_SOCKET_H

#include <stdbool.h>
#include <linux/bpf.h>
#include <linux/in.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>

#include "abi.h"
#include "parse.h"
#include "record.h"
#include "subject.h"

/* linux/socket.h, which only libc's headers have. */
#define FAMILY_IPV4 2
#define FAMILY_IPV6 10
#define SOCKET_RAW 3

/*
 * Is this packet one that its socket sends, rather than something that only carries it (a tunnel of the pod's own)? A socket that was
 * closed since has no port any more.
 */
static __always_inline bool is_of_socket(const struct bpf_sock *sk, const struct packet *packet)
{
	if (packet->protocol == IPPROTO_ICMP)
		return sk->protocol == IPPROTO_ICMP || sk->protocol == IPPROTO_ICMPV6;
	return sk->protocol == packet->protocol &&
	       (packet->fragment == FRAGMENT_LATER || !sk->src_port || sk->src_port == bpf_ntohs(packet->local_port));
}

/* Has the socket this packet's own two ends? */
static __always_inline bool is_between(const struct bpf_sock *sk, const struct packet *packet)
{
	const half_word *local = (const half_word *)&packet->local;
	__u32 differs;

	if (sk->type != SOCKET_STREAM || packet->protocol != IPPROTO_TCP || !is_of_socket(sk, packet))
		return false;
	if (packet->ipv6) {
		differs = sk->src_ip6[0] ^ local[0];
		differs |= sk->src_ip6[1] ^ local[1];
		differs |= sk->src_ip6[2] ^ local[2];
		differs |= sk->src_ip6[3] ^ local[3];
	} else {
		differs = sk->src_ip4 ^ local[3];
		/* Or the compiler would join the two ways by a pointer into the socket, which the verifier forbids. */
		asm volatile("" : "+r"(differs));
	}
	return !differs;
}

/*
 * Egress has judged and counted what the workload's own sockets send. What it says is not what this is about: the frame may be
 * another's, and its cgroup too.
 */
static __noinline int is_counted(struct __sk_buff *skb, const struct packet *packet, __u64 cgroup)
{
	const struct settings *setting = read_settings();
	struct bpf_sock *sk = skb->sk;

	if (!sk || !setting || (sk->family != FAMILY_IPV4 && sk->family != FAMILY_IPV6))
		return false;
	/* Of an answer to a SYN the listener is the socket. */
	if (sk->state != BPF_TCP_NEW_SYN_RECV) {
		sk = bpf_sk_fullsock(sk);
		if (!sk || (sk->type != SOCKET_RAW && !is_of_socket(sk, packet)))
			return false;
	}
	for (int level = 0; level < MAX_LEVELS; level++) {
		if (setting->levels & (1 << level) && bpf_skb_ancestor_cgroup_id(skb, level) == cgroup)
			return true;
	}
	return false;
}

#endif
