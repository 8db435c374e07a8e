/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Does this packet belong to something that was let pass before? Answers to what came in, ICMP errors that quote a flow, later
 * fragments; and what is kept of those that are let pass, so that it can be known.
 */
#ifndef POSTERN_RELATED_H
#define POSTERN_RELATED_H

#include <stdbool.h>
#include <linux/bpf.h>
#include <linux/in.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>

#include "abi.h"
#include "decide.h"
#include "maps.h"
#include "origin.h"
#include "parse.h"
#include "record.h"
#include "subject.h"
#include "tell.h"
#include "verdict.h"

/* The namespace where sockets are looked for, of programs that have one of their own. */
#define OWN_NAMESPACE BPF_F_CURRENT_NETNS
/* What has no number can't be looked into. Every negative number is one's own (bpf_sk_lookup in net/core/filter.c). */
#define NO_NAMESPACE 0x7fffffff

/* May what this record says be relied on where the direction is ingress? In front of a guard everybody can forge that. */
static __always_inline bool is_inbound_proven(const struct record *record, const struct subject *subject)
{
	return !subject->netns || record->flags & (RECORD_GUARDED | RECORD_OLD);
}

/* A connection of this socket, which `packet` would belong to, and which is allowed now. */
static __always_inline bool is_allowed_connection(struct bpf_sock *socket, const struct packet *packet,
						  const struct subject *subject)
{
	const struct record *record;
	__u32 begun, slot;

	/* It answers somebody's SYN, and its own packets pass for that. */
	if (socket->state == BPF_TCP_NEW_SYN_RECV)
		return true;
	if (socket->state == BPF_TCP_LISTEN)
		return false;
	record = record_of(socket);
	if (!record)
		return false;
	begun = begin_read(record);
	if (record->slot != subject->slot || !is_current(record, packet, &slot))
		return false;
	return (record->direction == DIRECTION_EGRESS || is_inbound_proven(record, subject)) && is_whole(record, begun);
}

/* From whom a segment has come in, it has come from outside. Its first answer may then leave although nobody remembers the SYN. */
static __always_inline bool vouch_for_accepted(struct bpf_sock *socket, const struct packet *packet)
{
	struct record *record;
	__u32 begun;

	/* The connection is not made yet: a note must do. */
	if (socket->state == BPF_TCP_NEW_SYN_RECV || socket->state == BPF_TCP_LISTEN)
		return true;
	record = record_of(socket);
	if (!record)
		return false;
	begun = begin_read(record);
	if (is_unbound(record) || (record->direction == DIRECTION_INGRESS && is_of(record, packet)))
		add_flag(record, begun, RECORD_GUARDED);
	return false;
}

enum wanted_socket {
	LISTENER = 0, /* that would take a connection to `packet`'s local end */
	ALLOWED_CONNECTION = 1, /* between its two ends */
	ACCEPTED = 2, /* as vouch_for_accepted */
};

/* Has `packet`'s local end such a TCP socket? */
static __noinline int has_tcp_socket(struct __sk_buff *skb, __s64 nsid, const struct packet *packet,
				     const struct subject *subject, enum wanted_socket wanted)
{
	struct bpf_sock_tuple tuple = {};
	struct bpf_sock *socket;
	bool found;

	/* As an arriving packet has it: our end is the destination. From port 0 comes nothing, so only a listener is found. */
	if (packet->ipv6) {
		if (wanted != LISTENER) {
			copy_address((struct address *)&tuple.ipv6.saddr, &packet->remote);
			tuple.ipv6.sport = packet->remote_port;
		}
		copy_address((struct address *)&tuple.ipv6.daddr, &packet->local);
		tuple.ipv6.dport = packet->local_port;
		socket = bpf_skc_lookup_tcp(skb, &tuple, sizeof(tuple.ipv6), nsid, 0);
	} else {
		if (wanted != LISTENER) {
			tuple.ipv4.saddr = ((const half_word *)&packet->remote)[3];
			tuple.ipv4.sport = packet->remote_port;
		}
		tuple.ipv4.daddr = ((const half_word *)&packet->local)[3];
		tuple.ipv4.dport = packet->local_port;
		socket = bpf_skc_lookup_tcp(skb, &tuple, sizeof(tuple.ipv4), nsid, 0);
	}
	if (!socket)
		return false;
	if (wanted == LISTENER)
		found = socket->state == BPF_TCP_LISTEN;
	else if (wanted == ALLOWED_CONNECTION)
		found = is_allowed_connection(socket, packet, subject);
	else
		found = vouch_for_accepted(socket, packet);
	bpf_sk_release(socket);
	return found;
}

static __noinline int is_known_flow(const struct packet *packet, __u32 slot, __u64 netns)
{
	struct flow_key key;
	const struct flow *flow;

	flow_key_of(&key, packet, slot, netns);
	flow = bpf_map_lookup_elem(&flows, &key);
	return flow && flow->verdict != VERDICT_DENY && is_fresh(flow, bpf_ktime_get_ns(), FLOW_INBOUND_NS) &&
	       is_flow(flow, &key);
}

/* Did its peer begin this? */
static __noinline int is_reply(const struct packet *packet, __u32 slot, __u64 netns)
{
	struct flow_key key;
	const struct flow *flow;

	flow_key_of(&key, packet, slot, netns);
	flow = bpf_map_lookup_elem(&flows, &key);
	return flow && flow->direction == DIRECTION_INGRESS && is_fresh(flow, bpf_ktime_get_ns(), FLOW_INBOUND_NS) &&
	       is_flow(flow, &key);
}

/* For whom an answer is learned, if for anybody. */
struct asker {
	__u64 owner; /* as in struct asked_key */
	__u32 slot;
	__u32 is_known;
};

enum inbound {
	INBOUND_QUESTION = 0, /* or an answer that is nobody's to learn from */
	INBOUND_ANSWER = 1, /* of a resolver's */
	INBOUND_UNKNOWN = 2, /* nothing was known of its flow */
};

/* Has the socket that this datagram comes to asked its sender? A socket remembers whom it asked last; whom before is in `flows`. */
static __noinline int answers_socket(struct __sk_buff *skb, __s64 nsid, const struct packet *packet)
{
	struct bpf_sock_tuple tuple = {};
	const struct record *record;
	struct bpf_sock *socket;
	bool asked = false;

	if (packet->ipv6) {
		copy_address((struct address *)&tuple.ipv6.saddr, &packet->remote);
		copy_address((struct address *)&tuple.ipv6.daddr, &packet->local);
		tuple.ipv6.sport = packet->remote_port;
		tuple.ipv6.dport = packet->local_port;
		socket = bpf_sk_lookup_udp(skb, &tuple, sizeof(tuple.ipv6), nsid, 0);
	} else {
		tuple.ipv4.saddr = ((const half_word *)&packet->remote)[3];
		tuple.ipv4.daddr = ((const half_word *)&packet->local)[3];
		tuple.ipv4.sport = packet->remote_port;
		tuple.ipv4.dport = packet->local_port;
		socket = bpf_sk_lookup_udp(skb, &tuple, sizeof(tuple.ipv4), nsid, 0);
	}
	if (!socket)
		return false;
	record = record_of(socket);
	if (record) {
		__u32 begun = begin_read(record);
		asked = record->direction == DIRECTION_EGRESS && is_of(record, packet) && is_whole(record, begun);
	}
	bpf_sk_release(socket);
	return asked;
}

/*
 * Somebody outside asked: notes it, so that the answer passes. What this workload asked first stays its own question, as long as either
 * side goes on. `nsid` is of a guard, which may not have seen what was asked before it stood there; NO_NAMESPACE: no socket is looked for.
 */
static __noinline int keep_inbound(struct __sk_buff *skb, __s64 nsid, const struct packet *packet, __u32 slot, __u64 netns)
{
	struct flow inbound = {
		.direction = DIRECTION_INGRESS,
		.reason = REASON_REPLY,
		.rule = RULE_NONE,
	};
	struct flow_key key;
	struct flow *flow;
	__u64 now_ns;

	flow_key_of(&key, packet, slot, netns);
	flow = bpf_map_lookup_elem(&flows, &key);
	/* Asked now: with one more thing to remember over the lookup, the frame would take 32 bytes more on 6.1. */
	now_ns = bpf_ktime_get_ns();
	if (!flow || !is_fresh(flow, now_ns, FLOW_INBOUND_NS)) {
		if (nsid == NO_NAMESPACE || packet->protocol != IPPROTO_UDP || !answers_socket(skb, nsid, packet))
			keep_flow(&key, &inbound);
		return INBOUND_UNKNOWN;
	}
	refresh(flow, now_ns);
	return flow->direction == DIRECTION_EGRESS && flow->detail & FLOW_RESOLVER ? INBOUND_ANSWER : INBOUND_QUESTION;
}

/* Does this ICMP error quote a packet that its destination sent us in a flow we know? */
static __noinline int quotes_known_flow(struct __sk_buff *skb, __s64 nsid, const struct packet *packet,
					const struct subject *subject, __u64 netns)
{
	struct packet quoted __attribute__((aligned(8))) = {};
	__u32 offset = packet->base + packet->offset + sizeof(struct icmp_header);
	union {
		__u8 bytes[8];
		__be32 addresses[2];
		__be16 ports[4];
	} part;

	/* In small pieces: little stack is left here. What lies behind the datagram is looked at last. */
	if (bpf_skb_load_bytes(skb, offset, &part, 8) || part.bytes[0] >> 4 != (packet->ipv6 ? 6 : 4))
		return false;
	if (packet->ipv6) {
		quoted.protocol = hold_protocol(part.bytes[6]);
		quoted.ipv6 = 1;
		if (bpf_skb_load_bytes(skb, offset + 8, &quoted.remote, sizeof(quoted.remote)) ||
		    bpf_skb_load_bytes(skb, offset + 24, &quoted.local, sizeof(quoted.local)))
			return false;
		offset += sizeof(struct ipv6hdr);
	} else {
		__u32 header = (part.bytes[0] & 0xf) * 4;
		/* RFC 1122, 3.2.2: nobody tells errors about later fragments, whose first bytes are no ports. */
		if (header < sizeof(struct iphdr) || part.ports[3] & bpf_htons(0x1fff))
			return false;
		if (bpf_skb_load_bytes(skb, offset + 9, &quoted.protocol, 1) || bpf_skb_load_bytes(skb, offset + 12, &part, 8))
			return false;
		map_ipv4(&quoted.remote, part.addresses[0]);
		map_ipv4(&quoted.local, part.addresses[1]);
		offset += header;
	}
	if (!same_address(&quoted.remote, &packet->remote) || offset + 8 > packet->base + packet->end ||
	    bpf_skb_load_bytes(skb, offset, &part, 8))
		return false;
	switch (quoted.protocol) {
	case IPPROTO_TCP:
	case IPPROTO_UDP:
		quoted.remote_port = part.ports[0];
		quoted.local_port = quoted.socket_port = part.ports[1];
		break;
	case IPPROTO_ICMP:
		quoted.icmp = icmp_kind_of(packet->ipv6, part.bytes[0], 0);
		if (quoted.icmp != ICMP_ECHO_REQUEST && quoted.icmp != ICMP_ECHO_ANSWER)
			return false;
		quoted.local_port = quoted.socket_port = part.ports[2];
		break;
	default:
		return false;
	}
	if (quoted.protocol == IPPROTO_TCP)
		return has_tcp_socket(skb, nsid, &quoted, subject, ALLOWED_CONNECTION);
	return is_known_flow(&quoted, subject->slot, netns);
}

/* A whole one: behind a first fragment anything could follow. */
static __always_inline bool is_icmp_error(const struct packet *packet)
{
	return packet->icmp >= ICMP_UNREACHABLE && !packet->fragment;
}

static __always_inline void decide_icmp(struct __sk_buff *skb, __s64 nsid, const struct packet *packet,
					const struct subject *subject, __u64 netns, struct decision *decision)
{
	if (is_neighbour_discovery(packet))
		allow(decision, subject->enforced, REASON_NEIGHBOUR_DISCOVERY);
	else if (packet->icmp == ICMP_ECHO_ANSWER && is_known_flow(packet, subject->slot, netns))
		allow(decision, subject->enforced, REASON_REPLY);
	else if (is_icmp_error(packet) && quotes_known_flow(skb, nsid, packet, subject, netns))
		allow(decision, subject->enforced, REASON_ICMP_ERROR);
	else
		decide(subject, packet, decision);
}

/* A later fragment says nothing that policy could judge; it goes where its first one was let. Returns whether that is news. */
static __noinline int decide_fragment(const struct packet *packet, const struct subject *subject, __u64 netns,
				      struct decision *decision)
{
	struct flow_key key;
	const struct flow *flow;

	if (is_loopback(&packet->remote) && !packet->leaves) {
		allow(decision, subject->enforced, REASON_LOOPBACK);
		return false;
	}
	fragment_key_of(&key, packet, subject->slot, netns);
	flow = bpf_map_lookup_elem(&flows, &key);
	if (flow && is_fresh(flow, bpf_ktime_get_ns(), FLOW_FRAGMENT_NS)) {
		bool overlaps = packet->fragment_offset < flow->detail;

		allow(decision, subject->enforced, REASON_FRAGMENT);
		if (flow->verdict == VERDICT_AUDIT) {
			decision->verdict = VERDICT_AUDIT;
			decision->reason = flow->reason;
			decision->ruleset = flow->ruleset;
			decision->rule = flow->rule;
		}
		if (is_flow(flow, &key)) {
			if (overlaps)
				refuse_unread(subject, decision, REASON_FRAGMENT_TINY);
			return overlaps;
		}
	}
	refuse_unread(subject, decision, REASON_FRAGMENT_UNTRACKED);
	return true;
}

static __always_inline struct flow outbound_flow(const struct decision *decision, __u32 epoch, __u16 detail)
{
	return (struct flow){
		.epoch = epoch,
		.direction = DIRECTION_EGRESS,
		.verdict = decision->verdict,
		.reason = decision->reason,
		.ruleset = decision->ruleset,
		.rule = decision->rule,
		.detail = detail,
		.name = decision->name,
	};
}

static __noinline int keep_fragment(const struct packet *packet, const struct subject *subject, __u64 netns,
				    const struct decision *decision)
{
	struct flow_key key;
	struct flow flow = outbound_flow(decision, subject->epoch, 0);

	/* What follows the headers that every fragment repeats counts from there; extension headers may be among it. */
	flow.detail = packet->offset - packet->fragment_start + fixed_header_of(packet->protocol);
	fragment_key_of(&key, packet, subject->slot, netns);
	return keep_flow(&key, &flow);
}

/*
 * Keeps what a record held before another destination takes its place, so that late answers are not taken for questions. Only if
 * nobody wrote meanwhile: half of one destination and half of another would be a third that nobody judged.
 */
static __noinline int spill(const struct record *record, const struct packet *packet, const struct subject *subject, __u64 netns)
{
	__u32 begun = begin_read(record);
	struct flow_key key;
	struct flow flow = {
		.epoch = record->epoch,
		.direction = DIRECTION_EGRESS,
		.verdict = record->verdict,
		.reason = record->reason,
		.ruleset = record->ruleset,
		.rule = record->rule,
		.detail = record->flags & RECORD_RESOLVER ? FLOW_RESOLVER : 0,
		.name = name_of(record),
	};

	flow_key_of(&key, packet, subject->slot, netns);
	copy_address(&key.remote, &record->address);
	key.remote_port = record->port;
	if (record->slot != subject->slot || !is_whole(record, begun))
		return 0;
	return keep_flow(&key, &flow);
}

static __noinline int recall_flow(const struct packet *packet, const struct subject *subject, __u64 netns,
				  struct decision *decision, bool outbound)
{
	struct flow_key key;
	struct flow *flow;
	__u64 now_ns;

	flow_key_of(&key, packet, subject->slot, netns);
	flow = bpf_map_lookup_elem(&flows, &key);
	if (!flow)
		return false;
	now_ns = bpf_ktime_get_ns();
	if (flow->direction == DIRECTION_INGRESS) {
		if (outbound || !is_fresh(flow, now_ns, FLOW_INBOUND_NS))
			return false;
		allow(decision, subject->enforced, REASON_REPLY);
		return is_flow(flow, &key);
	}
	if (flow->verdict == VERDICT_DENY)
		return false;
	if (!subject->lasting || flow->epoch != subject->epoch) {
		__u32 name = flow->name;

		if (name && is_flow(flow, &key))
			decision->name = name;
		return false;
	}
	refresh(flow, now_ns);
	allow(decision, flow->ruleset, flow->reason);
	decision->rule = flow->rule;
	decision->verdict = flow->verdict;
	decision->name = flow->name;
	return is_flow(flow, &key);
}

static __noinline int keep_outbound(const struct packet *packet, const struct subject *subject, __u64 netns,
				    const struct decision *decision, __u16 flags)
{
	struct flow_key key;
	struct flow flow;

	/* In this order: with one more thing to remember over a call, kernels that count frames in steps of 32 bytes find no room. */
	flow_key_of(&key, packet, subject->slot, netns);
	flow = outbound_flow(decision, subject->epoch, flags);
	return keep_flow(&key, &flow);
}

/* What was allowed once stays outbound: its peer's packets must not turn into an inbound flow that may be answered. */
static __noinline int cut_outbound(const struct packet *packet, const struct subject *subject, __u64 netns)
{
	struct flow_key key;
	struct flow *flow;

	flow_key_of(&key, packet, subject->slot, netns);
	flow = bpf_map_lookup_elem(&flows, &key);
	if (!flow || flow->direction != DIRECTION_EGRESS)
		return 0;
	flow->verdict = VERDICT_DENY;
	flow->seen_ns = bpf_ktime_get_ns();
	return 0;
}

#endif
