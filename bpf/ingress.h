/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * cgroup_skb/ingress: notes what comes in, so that answers to it pass. Refuses nothing.
 */
#ifndef POSTERN_INGRESS_H
#define POSTERN_INGRESS_H

#include <stdbool.h>
#include <linux/bpf.h>
#include <linux/in.h>
#include <bpf/bpf_helpers.h>

#include "abi.h"
#include "maps.h"
#include "parse.h"
#include "record.h"
#include "related.h"
#include "subject.h"

/* A connection is coming: what its listener accepts may answer. */
static __always_inline void mark_listener(struct bpf_sock *sk)
{
	struct record *record = record_of(sk);

	if (record && is_unbound(record))
		return;
	if (!record)
		record = make_record(sk);
	if (!record || !begin_write(record))
		return;
	record->version = RECORD_VERSION;
	record->verdict = VERDICT_ALLOW;
	record->reason = REASON_REPLY;
	record->protocol = IPPROTO_TCP;
	record->rule = RULE_NONE;
	record->slot = SLOT_UNKNOWN;
	record->epoch = 0;
	record->port = 0;
	record->address = (struct address){};
	record->ruleset = 0;
	end_write(record, DIRECTION_INGRESS);
}

/* Somebody outside asked: notes it, so that the answer passes. */
__noinline int note_inbound(struct __sk_buff *skb, const struct packet *packet)
{
	struct subject subject = {};
	struct flow_key key;
	struct flow *flow;
	__u64 now_ns;

	if (!packet || !find_by_socket(skb, &subject) || !has_ruleset(&subject))
		return 0;
	flow_key_of(&key, packet, subject.slot, netns_of(skb));
	flow = bpf_map_lookup_elem(&flows, &key);
	now_ns = bpf_ktime_get_ns();
	if (flow && is_fresh(flow, now_ns, FLOW_INBOUND_NS)) {
		if (flow->direction == DIRECTION_INGRESS)
			refresh(flow, now_ns);
	} else {
		struct flow inbound = {
			.seen_ns = now_ns,
			.direction = DIRECTION_INGRESS,
			.reason = REASON_REPLY,
			.rule = RULE_NONE,
		};
		keep_flow(&key, &inbound);
	}
	return 0;
}

static __always_inline void watch_ingress(struct __sk_buff *skb)
{
	struct packet packet = {};
	struct bpf_sock *sk;
	const struct record *record;

	if (!skb->sk)
		return;
	sk = bpf_sk_fullsock(skb->sk);
	/* Of connections only their beginnings matter, and those come to listeners. */
	if (!sk || (sk->type == SOCKET_STREAM && sk->state != BPF_TCP_LISTEN))
		return;
	parse(skb, &packet, DIRECTION_INGRESS);
	if (packet.reason || packet.fragment)
		return;
	switch (packet.protocol) {
	case IPPROTO_TCP:
		if (sk->state == BPF_TCP_LISTEN && sk->type == SOCKET_STREAM &&
		    (packet.tcp_flags & (TCP_FLAG_BYTE_SYN | TCP_FLAG_BYTE_ACK)) == TCP_FLAG_BYTE_SYN)
			mark_listener(sk);
		break;
	case IPPROTO_UDP:
		record = record_of(sk);
		if (record && record->direction == DIRECTION_EGRESS && is_of(record, &packet))
			break;
		if (!is_loopback(&packet.remote))
			note_inbound(skb, &packet);
		break;
	case IPPROTO_ICMP:
		if (packet.icmp == ICMP_ECHO_REQUEST && !is_loopback(&packet.remote))
			note_inbound(skb, &packet);
		break;
	}
}

#endif
