/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * cgroup_skb/egress: what a held socket sends, packet by packet. In what order the questions are asked, what is recorded, what
 * becomes of the packet.
 */
#ifndef POSTERN_EGRESS_H
#define POSTERN_EGRESS_H

#include <stdbool.h>
#include <linux/bpf.h>
#include <linux/in.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>

#include "abi.h"
#include "decide.h"
#include "dns.h"
#include "maps.h"
#include "origin.h"
#include "parse.h"
#include "query.h"
#include "record.h"
#include "related.h"
#include "subject.h"
#include "tell.h"
#include "verdict.h"

/* include/net/net_namespace.h: the loopback device of every namespace. */
#define LOOPBACK_IFINDEX 1

/* What cgroup_skb/egress returns: bit 0 passes, bit 1 reports congestion, which the sender does not see as an error. */
#define PASS 1
#define REFUSE 0
#define REFUSE_SILENTLY 2

/* Is this packet a reply, since its socket was accepted rather than connected? */
static __always_inline bool is_inbound_tcp(const struct record *record, const struct packet *packet)
{
	if (record->version != RECORD_VERSION || record->protocol != IPPROTO_TCP || record->direction != DIRECTION_INGRESS)
		return false;
	return is_unbound(record) || is_of(record, packet);
}

static __always_inline bool is_syn_ack(const struct packet *packet)
{
	return packet->tcp_flags & TCP_FLAG_BYTE_SYN && packet->tcp_flags & TCP_FLAG_BYTE_ACK;
}

/* Is it a reply? Else policy is to be asked; the name that let it pass before is known then. */
static __always_inline bool recall_segment(const struct bpf_sock *sk, const struct record *record, const struct packet *packet,
					   const struct subject *subject, struct decision *decision)
{
	bool inbound = record && is_inbound_tcp(record, packet), syn = packet->tcp_flags & TCP_FLAG_BYTE_SYN;

	/*
	 * The listener's, not the connection's: nothing about this peer may be written to it. Or that of a child which Fast Open
	 * made early; one that was connected itself, and met its peer's SYN half-way, is no reply.
	 */
	if (is_syn_ack(packet))
		inbound = sk && sk->type == SOCKET_STREAM &&
			  (sk->state == BPF_TCP_LISTEN || (sk->state == BPF_TCP_SYN_RECV && (!record || inbound)));
	else if (syn)
		inbound = false;
	if (inbound)
		allow(decision, subject->enforced, REASON_REPLY);
	else if (record && !syn && record->slot == subject->slot && is_of(record, packet))
		decision->name = name_of(record);
	return inbound;
}

/* Records what was decided on a segment. */
static __always_inline void record_segment(struct __sk_buff *skb, struct bpf_sock *sk, struct record *record,
					   const struct packet *packet, const struct subject *subject, struct decision *decision,
					   struct moment *moment)
{
	bool syn = packet->tcp_flags & TCP_FLAG_BYTE_SYN;
	bool stream = sk && sk->type == SOCKET_STREAM;
	enum direction direction = decision->reason == REASON_REPLY ? DIRECTION_INGRESS : DIRECTION_EGRESS;
	__u32 epoch = subject->epoch;
	__u8 flags = 0;

	if (is_syn_ack(packet) || (direction == DIRECTION_INGRESS && stream && sk->state == BPF_TCP_LISTEN))
		return;
	/* Established before the programs were attached, and to a port that is listened on: it came from outside. */
	if (direction == DIRECTION_EGRESS && decision->verdict != VERDICT_ALLOW && !record && !syn && stream &&
	    has_tcp_socket(skb, OWN_NAMESPACE, packet, subject, LISTENER)) {
		allow(decision, subject->enforced, REASON_REPLY);
		direction = DIRECTION_INGRESS;
		flags = RECORD_OLD;
	}
	if (!sk)
		return;

	if (!record)
		record = make_record(sk);
	if (!record)
		return;
	if (decision->verdict == VERDICT_DENY) {
		__u32 now = bpf_ktime_get_ns() >> 27;
		bool told = record->verdict == VERDICT_DENY && record->protocol == IPPROTO_TCP && record->epoch == now;
		epoch = now;
		/* One that is still connecting was let by the call: its SYN met another policy, or another cgroup's. */
		if (stream && !decision->silent)
			moment->flags |= told ? 0 : EVENT_CUT;
		if (stream && !syn)
			moment->urgent = 1;
		if (stream && told)
			moment->muted = 1;
	} else if (!subject->lasting) {
		return;
	}
	if (direction == DIRECTION_EGRESS && is_resolver(&packet->remote, packet->remote_port))
		flags = RECORD_RESOLVER;
	/* One that is put there later finds a connection that it could not have seen come in. */
	if (direction == DIRECTION_INGRESS && !subject->netns)
		flags = RECORD_OLD;
	if (!write_record(record, packet, subject, decision, direction, epoch, flags))
		lose(LOSS_RECORDS);
	return;
}

/* Is it of a flow that is known? Else policy is to be asked. */
static __always_inline bool recall_datagram(struct __sk_buff *skb, const struct record *record, const struct packet *packet,
					    const struct subject *subject, struct decision *decision)
{
	bool same = record && is_of(record, packet);

	if (recall_flow(packet, subject, netns_of(skb, subject), decision, same))
		return true;
	if (same && record->slot == subject->slot)
		decision->name = name_of(record);
	return false;
}

/* Records what policy says of a datagram. */
static __always_inline void record_datagram(struct __sk_buff *skb, struct bpf_sock *sk, struct record *record,
					    const struct packet *packet, const struct subject *subject,
					    const struct decision *decision)
{
	bool same = record && is_of(record, packet), to_resolver;

	if (!sk)
		return;
	if (decision->verdict == VERDICT_DENY) {
		if (same)
			record->verdict = VERDICT_DENY;
		cut_outbound(packet, subject, netns_of(skb, subject));
		return;
	}
	if (!subject->lasting)
		return;
	if (!record)
		record = make_record(sk);
	if (!record)
		return;
	to_resolver = is_resolver(&packet->remote, packet->remote_port);
	if (!same && record->protocol == IPPROTO_UDP && has_ruleset(subject)) {
		spill(record, packet, subject, netns_of(skb, subject));
		keep_outbound(packet, subject, netns_of(skb, subject), decision, to_resolver ? FLOW_RESOLVER : 0);
	}
	if (!write_record(record, packet, subject, decision, DIRECTION_EGRESS, subject->epoch, to_resolver ? RECORD_RESOLVER : 0))
		lose(LOSS_RECORDS);
	return;
}

/*
 * TCP may send from a softirq on top of anybody, so its sender is known only where who runs is who connected: the SYN's always is,
 * and may be gone before the agent could ask for its name. Of all others the sender is the one that runs.
 */
static __always_inline bool is_sender_running(const struct packet *packet, const struct moment *moment)
{
	return packet->protocol != IPPROTO_TCP || (moment->pid && moment->pid == running_pid());
}

/*
 * A connection that options make unreadable never gets further: its socket is what must be found. What the socket is connected to need
 * not be where the packet goes first.
 */
static __always_inline void name_by_socket(struct packet *packet, const struct bpf_sock *sk)
{
	packet->local_port = bpf_htons(sk->src_port);
	packet->remote_port = sk->dst_port;
	if (packet->ipv6) {
		((half_word *)&packet->remote)[0] = sk->dst_ip6[0];
		((half_word *)&packet->remote)[1] = sk->dst_ip6[1];
		((half_word *)&packet->remote)[2] = sk->dst_ip6[2];
		((half_word *)&packet->remote)[3] = sk->dst_ip6[3];
	} else {
		map_ipv4(&packet->remote, sk->dst_ip4);
	}
}

/*
 * Whatever no record answers. A global function: the verifier reads it apart from the known path. What runs below it has little stack:
 * of 512 bytes 64 are left on kernels that count frames in steps of 32, in the deepest chains (egress, this, record_datagram or nothing,
 * keep_outbound, keep_flow, evict_flow; of the guard guard_unvouched, decide, judge, ask). So what asks policy and what keeps flows are
 * called beside each other.
 */
__noinline int egress_unrecorded(struct __sk_buff *skb, struct packet *packet)
{
	struct subject subject = {};
	struct decision decision = {};
	struct moment moment = {.hook = HOOK_EGRESS};
	struct bpf_sock *sk = skb->sk ? bpf_sk_fullsock(skb->sk) : NULL;
	struct record *record = sk ? record_of(sk) : NULL;
	bool anew = true;

	if (!packet)
		return REFUSE;
	if (record)
		moment.pid = record->pid;
	packet->leaves = skb->ifindex != LOOPBACK_IFINDEX;
	/* A hostNetwork server behind a node port: it was asked on its own port, and its answer leaves from the node's. */
	if (sk && sk->type == SOCKET_DATAGRAM && sk->protocol == IPPROTO_UDP && packet->protocol == IPPROTO_UDP)
		packet->socket_port = bpf_htons(sk->src_port);
	if (!find_by_socket(skb, &subject)) {
		decide_unknown(&subject, packet, netns_of(skb, &subject), &decision);
	} else if (packet->reason) {
		refuse_unread(&subject, &decision, packet->reason);
		if (sk && sk->type == SOCKET_STREAM && decision.verdict == VERDICT_DENY && !decision.silent) {
			name_by_socket(packet, sk);
			moment.flags |= EVENT_CUT;
		}
	} else if (packet->fragment == FRAGMENT_LATER) {
		anew = decide_fragment(packet, &subject, netns_of(skb, &subject), &decision);
	} else if (packet->protocol == IPPROTO_ICMP) {
		decide_icmp(skb, OWN_NAMESPACE, packet, &subject, netns_of(skb, &subject), &decision);
	} else if (packet->fragment == FRAGMENT_FIRST) {
		decide(&subject, packet, &decision);
	} else if (packet->protocol == IPPROTO_TCP) {
		if (!recall_segment(sk, record, packet, &subject, &decision))
			decide(&subject, packet, &decision);
		record_segment(skb, sk, record, packet, &subject, &decision, &moment);
	} else if (packet->protocol == IPPROTO_UDP) {
		anew = !recall_datagram(skb, record, packet, &subject, &decision);
		if (anew) {
			decide(&subject, packet, &decision);
			record_datagram(skb, sk, record, packet, &subject, &decision);
		}
	} else {
		decide(&subject, packet, &decision);
	}
	if (!packet->reason && packet->fragment == FRAGMENT_FIRST && decision.verdict != VERDICT_DENY && has_ruleset(&subject) &&
	    !keep_fragment(packet, &subject, netns_of(skb, &subject), &decision))
		refuse_unread(&subject, &decision, REASON_NO_MEMORY);

	if (decision.verdict != VERDICT_DENY && may_query(packet)) {
		__u8 reason = decision.reason;

		judge_question(skb, packet, &subject, &decision, ASKED_OF_SOCKET);
		anew = anew || decision.reason != reason;
		if (decision.verdict == VERDICT_DENY && packet->protocol == IPPROTO_TCP && !decision.silent)
			moment.flags |= EVENT_CUT;
	}
	count_decision(&decision, subject.slot, skb->gso_segs ?: 1, packet->length);
	if (decision.verdict != VERDICT_ALLOW && anew && !moment.muted) {
		moment.socket_cookie = bpf_get_socket_cookie(skb);
		moment.netns_cookie = netns_of(skb, &subject);
		if (is_process_known() && is_sender_running(packet, &moment)) {
			moment.pid = running_pid();
			moment.flags |= EVENT_PROCESS;
			if (packet->work)
				tell_question(packet, &subject, &decision, &moment, true);
			else
				tell(packet, &subject, &decision, &moment, true);
		} else if (packet->work) {
			tell_question(packet, &subject, &decision, &moment, false);
		} else {
			tell(packet, &subject, &decision, &moment, false);
		}
	}
	forget_question(packet);
	if (decision.verdict != VERDICT_DENY || !anew)
		return PASS;
	return decision.silent ? REFUSE_SILENTLY : REFUSE;
}

static __always_inline int judge_egress(struct __sk_buff *skb)
{
	struct packet packet = {};

	parse(skb, 0, &packet, DIRECTION_EGRESS);
	if (!packet.reason && !packet.fragment && skb->sk && (packet.protocol == IPPROTO_TCP || packet.protocol == IPPROTO_UDP)) {
		struct bpf_sock *sk = bpf_sk_fullsock(skb->sk);
		struct record *record = sk ? record_of(sk) : NULL;
		struct counter_key key;
		if (record && recall(record, &packet, &key)) {
			count(&key, skb->gso_segs ?: 1, packet.length);
			return PASS;
		}
	}
	/* The verifier knows nothing of what a global function returns. */
	return egress_unrecorded(skb, &packet) & (PASS | REFUSE_SILENTLY);
}

#endif
