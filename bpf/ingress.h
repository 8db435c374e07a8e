/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * cgroup_skb/ingress: notes what comes in, so that answers to it pass. Refuses nothing but what a resolver has to send again.
 */
#ifndef POSTERN_INGRESS_H
#define POSTERN_INGRESS_H

#include <stdbool.h>
#include <linux/bpf.h>
#include <linux/in.h>
#include <bpf/bpf_helpers.h>

#include "abi.h"
#include "dns.h"
#include "maps.h"
#include "origin.h"
#include "parse.h"
#include "record.h"
#include "related.h"
#include "subject.h"

/*
 * A connection is coming: what its listener accepts may answer. Where no guard watches that could have seen it come, that is said, so
 * that one which is put there later trusts what it finds.
 */
static __noinline int mark_listener(struct __sk_buff *skb, struct bpf_sock *sk)
{
	struct record *record = record_of(sk);
	struct subject subject = {};

	if (record && is_unbound(record) && !(record->flags & RECORD_OLD))
		return 0;
	find_by_socket(skb, &subject);
	if (!record)
		record = make_record(sk);
	if (!record || !begin_write(record))
		return 0;
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
	record->reserved[0] = 0;
	end_write(record, DIRECTION_INGRESS, subject.netns ? 0 : RECORD_OLD);
	return 0;
}

/* Somebody outside asked. Where a guard watches, it notes that itself, where no process can play the stranger. */
__noinline int note_inbound(struct __sk_buff *skb, const struct packet *packet)
{
	struct subject subject = {};
	__u64 netns;

	if (!packet || !find_by_socket(skb, &subject) || !has_ruleset(&subject))
		return 0;
	netns = netns_of(skb, &subject);
	if (!subject.netns || subject.netns != netns)
		keep_inbound(skb, NO_NAMESPACE, packet, subject.slot, netns);
	return 0;
}

/*
 * A resolver answers, in the host's namespace: in one of its own, a process could be the resolver. Where a guard watches, that learns
 * itself. The question was kept by the socket's cookie.
 */
__noinline int note_answer(struct __sk_buff *skb, const struct packet *packet)
{
	struct subject subject = {};
	const struct settings *setting = read_settings();

	if (!packet || !setting || !is_resolver(&packet->remote, packet->remote_port) || !find_by_socket(skb, &subject) ||
	    !is_learning_here(&subject, netns_of(skb, &subject)))
		return 0;
	return learn_answer(skb, packet, bpf_get_socket_cookie(skb), subject.slot, ASKED_OF_SOCKET);
}

/* False: it must not go on now, and will be sent again. */
static __always_inline bool watch_ingress(struct __sk_buff *skb)
{
	struct packet packet = {};
	struct bpf_sock *sk;
	const struct record *record;
	bool known;

	if (!skb->sk)
		return true;
	sk = bpf_sk_fullsock(skb->sk);
	/* Of connections only their beginnings matter, and those come to listeners; but for those to a resolver. */
	if (!sk || (sk->type == SOCKET_STREAM && sk->state != BPF_TCP_LISTEN && sk->dst_port != bpf_htons(DNS_PORT)))
		return true;
	parse(skb, 0, &packet, DIRECTION_INGRESS);
	if (packet.reason || packet.fragment)
		return true;
	switch (packet.protocol) {
	case IPPROTO_TCP:
		if (sk->state == BPF_TCP_LISTEN && sk->type == SOCKET_STREAM &&
		    (packet.tcp_flags & (TCP_FLAG_BYTE_SYN | TCP_FLAG_BYTE_ACK)) == TCP_FLAG_BYTE_SYN)
			mark_listener(skb, sk);
		else if (packet.remote_port == bpf_htons(DNS_PORT))
			return !note_answer(skb, &packet);
		break;
	case IPPROTO_UDP:
		record = record_of(sk);
		known = record && record->direction == DIRECTION_EGRESS && is_of(record, &packet);
		if (!known && !is_loopback(&packet.remote))
			note_inbound(skb, &packet);
		if (!known || record->flags & RECORD_RESOLVER)
			note_answer(skb, &packet);
		break;
	case IPPROTO_ICMP:
		if (packet.icmp == ICMP_ECHO_REQUEST && !is_loopback(&packet.remote))
			note_inbound(skb, &packet);
		break;
	}
	return true;
}

#endif
