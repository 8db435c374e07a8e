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
#include "parse.h"
#include "record.h"
#include "subject.h"
#include "tell.h"
#include "verdict.h"

/* Has `packet`'s local end a TCP socket for its remote end, or, with `listening`, one that listens? */
static __noinline int has_tcp_socket(struct __sk_buff *skb, const struct packet *packet, bool listening)
{
	struct bpf_sock_tuple tuple = {};
	struct bpf_sock *socket;
	__u32 state;

	/* As an arriving packet has it: our end is the destination. From port 0 comes nothing, so only a listener is found. */
	if (packet->ipv6) {
		if (!listening) {
			copy_address((struct address *)&tuple.ipv6.saddr, &packet->remote);
			tuple.ipv6.sport = packet->remote_port;
		}
		copy_address((struct address *)&tuple.ipv6.daddr, &packet->local);
		tuple.ipv6.dport = packet->local_port;
		socket = bpf_skc_lookup_tcp(skb, &tuple, sizeof(tuple.ipv6), BPF_F_CURRENT_NETNS, 0);
	} else {
		if (!listening) {
			tuple.ipv4.saddr = ((const half_word *)&packet->remote)[3];
			tuple.ipv4.sport = packet->remote_port;
		}
		tuple.ipv4.daddr = ((const half_word *)&packet->local)[3];
		tuple.ipv4.dport = packet->local_port;
		socket = bpf_skc_lookup_tcp(skb, &tuple, sizeof(tuple.ipv4), BPF_F_CURRENT_NETNS, 0);
	}
	if (!socket)
		return false;
	state = socket->state;
	bpf_sk_release(socket);
	return (state == BPF_TCP_LISTEN) == listening;
}

static __noinline int is_known_flow(const struct packet *packet, __u32 slot, __u64 netns)
{
	struct flow_key key;
	const struct flow *flow;

	flow_key_of(&key, packet, slot, netns);
	flow = bpf_map_lookup_elem(&flows, &key);
	return flow && flow->verdict != VERDICT_DENY && is_fresh(flow, bpf_ktime_get_ns(), FLOW_INBOUND_NS);
}

/* Does this ICMP error quote a packet that its destination sent us in a flow we know? */
static __noinline int quotes_known_flow(struct __sk_buff *skb, const struct packet *packet, const struct subject *subject)
{
	struct packet quoted __attribute__((aligned(8))) = {};
	__u32 offset = packet->offset + sizeof(struct icmp_header);
	__u8 header[8];

	if (packet->ipv6) {
		struct ipv6hdr ip __attribute__((aligned(8)));
		if (bpf_skb_load_bytes(skb, offset, &ip, sizeof(ip)) || *(__u8 *)&ip >> 4 != 6)
			return false;
		copy_address(&quoted.remote, &ip.saddr);
		copy_address(&quoted.local, &ip.daddr);
		quoted.protocol = hold_protocol(ip.nexthdr);
		quoted.ipv6 = 1;
		offset += sizeof(ip);
	} else {
		struct iphdr ip;
		if (bpf_skb_load_bytes(skb, offset, &ip, sizeof(ip)) || *(__u8 *)&ip >> 4 != 4)
			return false;
		map_ipv4(&quoted.remote, ip.saddr);
		map_ipv4(&quoted.local, ip.daddr);
		quoted.protocol = ip.protocol;
		offset += (*(__u8 *)&ip & 0xf) * 4;
	}
	if (!same_address(&quoted.remote, &packet->remote) || bpf_skb_load_bytes(skb, offset, header, sizeof(header)))
		return false;
	switch (quoted.protocol) {
	case IPPROTO_TCP:
	case IPPROTO_UDP:
		quoted.remote_port = ((const __be16 *)header)[0];
		quoted.local_port = quoted.socket_port = ((const __be16 *)header)[1];
		break;
	case IPPROTO_ICMP:
		quoted.local_port = quoted.socket_port = ((const __be16 *)header)[2];
		break;
	default:
		return false;
	}
	if (quoted.protocol == IPPROTO_TCP)
		return has_tcp_socket(skb, &quoted, false);
	return is_known_flow(&quoted, subject->slot, netns_of(skb));
}

/* A whole one: behind a first fragment anything could follow. */
static __always_inline bool is_icmp_error(const struct packet *packet)
{
	return packet->icmp >= ICMP_UNREACHABLE && !packet->fragment;
}

static __always_inline void decide_icmp(struct __sk_buff *skb, const struct subject *subject, const struct packet *packet,
					struct decision *decision)
{
	if (is_neighbour_discovery(packet))
		allow(decision, subject->enforced, REASON_NEIGHBOUR_DISCOVERY);
	else if (packet->icmp == ICMP_ECHO_ANSWER && is_known_flow(packet, subject->slot, netns_of(skb)))
		allow(decision, subject->enforced, REASON_REPLY);
	else if (is_icmp_error(packet) && quotes_known_flow(skb, packet, subject))
		allow(decision, subject->enforced, REASON_ICMP_ERROR);
	else
		decide(subject, packet, decision);
}

/* A later fragment says nothing that policy could judge; it goes where its first one was let. Returns whether that is news. */
static __noinline int decide_fragment(struct __sk_buff *skb, const struct subject *subject, const struct packet *packet,
				      struct decision *decision)
{
	struct flow_key key;
	const struct flow *flow;

	if (is_loopback(&packet->remote) && !packet->leaves) {
		allow(decision, subject->enforced, REASON_LOOPBACK);
		return false;
	}
	fragment_key_of(&key, packet, subject->slot, netns_of(skb));
	flow = bpf_map_lookup_elem(&flows, &key);
	if (!flow || !is_fresh(flow, bpf_ktime_get_ns(), FLOW_FRAGMENT_NS)) {
		refuse_unread(subject, decision, REASON_FRAGMENT_UNTRACKED);
		return true;
	}
	if (packet->fragment_offset < flow->header_bytes) {
		refuse_unread(subject, decision, REASON_FRAGMENT_TINY);
		return true;
	}
	allow(decision, subject->enforced, REASON_FRAGMENT);
	if (flow->verdict == VERDICT_AUDIT) {
		decision->verdict = VERDICT_AUDIT;
		decision->reason = flow->reason;
		decision->ruleset = flow->ruleset;
		decision->rule = flow->rule;
	}
	return false;
}

static __always_inline struct flow outbound_flow(const struct decision *decision, __u32 epoch)
{
	return (struct flow){
		.seen_ns = bpf_ktime_get_ns(),
		.epoch = epoch,
		.direction = DIRECTION_EGRESS,
		.verdict = decision->verdict,
		.reason = decision->reason,
		.ruleset = decision->ruleset,
		.rule = decision->rule,
	};
}

static __noinline int keep_fragment(struct __sk_buff *skb, const struct subject *subject, const struct packet *packet,
				    const struct decision *decision)
{
	struct flow_key key;
	struct flow flow = outbound_flow(decision, subject->epoch);
	__u32 header = packet->protocol == IPPROTO_TCP ? sizeof(struct tcphdr) : sizeof(struct udphdr);

	/* What follows the headers that every fragment repeats counts from there; extension headers may be among it. */
	flow.header_bytes = packet->offset - packet->fragment_start + header;
	fragment_key_of(&key, packet, subject->slot, netns_of(skb));
	return keep_flow(&key, &flow);
}

/*
 * Keeps what a record held before another destination takes its place, so that late answers are not taken for questions. Only if
 * nobody wrote meanwhile: half of one destination and half of another would be a third that nobody judged.
 */
static __noinline int spill(struct __sk_buff *skb, const struct record *record, const struct packet *packet,
			    const struct subject *subject)
{
	__u32 begun = begin_read(record);
	struct flow_key key;
	struct flow flow = {
		.seen_ns = bpf_ktime_get_ns(),
		.epoch = record->epoch,
		.direction = DIRECTION_EGRESS,
		.verdict = record->verdict,
		.reason = record->reason,
		.ruleset = record->ruleset,
		.rule = record->rule,
	};

	flow_key_of(&key, packet, subject->slot, netns_of(skb));
	copy_address(&key.remote, &record->address);
	key.remote_port = record->port;
	if (record->slot != subject->slot || !is_whole(record, begun))
		return 0;
	return keep_flow(&key, &flow);
}

static __noinline int recall_flow(struct __sk_buff *skb, const struct subject *subject, const struct packet *packet,
				  struct decision *decision, bool outbound)
{
	struct flow_key key;
	struct flow *flow;
	__u64 now_ns;

	flow_key_of(&key, packet, subject->slot, netns_of(skb));
	flow = bpf_map_lookup_elem(&flows, &key);
	if (!flow)
		return false;
	now_ns = bpf_ktime_get_ns();
	if (flow->direction == DIRECTION_INGRESS) {
		if (outbound || !is_fresh(flow, now_ns, FLOW_INBOUND_NS))
			return false;
		allow(decision, subject->enforced, REASON_REPLY);
		return true;
	}
	if (flow->verdict == VERDICT_DENY || !subject->lasting || flow->epoch != subject->epoch)
		return false;
	refresh(flow, now_ns);
	allow(decision, flow->ruleset, flow->reason);
	decision->rule = flow->rule;
	decision->verdict = flow->verdict;
	return true;
}

static __noinline int keep_outbound(struct __sk_buff *skb, const struct subject *subject, const struct packet *packet,
				    const struct decision *decision)
{
	struct flow_key key;
	struct flow flow = outbound_flow(decision, subject->epoch);

	flow_key_of(&key, packet, subject->slot, netns_of(skb));
	return keep_flow(&key, &flow);
}

/* What was allowed once stays outbound: its peer's packets must not turn into an inbound flow that may be answered. */
static __noinline int cut_outbound(struct __sk_buff *skb, const struct subject *subject, const struct packet *packet)
{
	struct flow_key key;
	struct flow *flow;

	flow_key_of(&key, packet, subject->slot, netns_of(skb));
	flow = bpf_map_lookup_elem(&flows, &key);
	if (!flow || flow->direction != DIRECTION_EGRESS)
		return 0;
	flow->verdict = VERDICT_DENY;
	flow->seen_ns = bpf_ktime_get_ns();
	return 0;
}

#endif
