/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * The guard, on the host's side of a pod's interface: may this frame leave the pod, and who began what comes to it? Nothing inside the
 * pod can avoid it, or write what it reads. Who stands behind an interface, and from which addresses, the agent has written down.
 */
#ifndef POSTERN_GUARD_H
#define POSTERN_GUARD_H

#include <stdbool.h>
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>

#include "abi.h"
#include "decide.h"
#include "dns.h"
#include "maps.h"
#include "parse.h"
#include "query.h"
#include "record.h"
#include "related.h"
#include "socket.h"
#include "subject.h"
#include "tell.h"
#include "turn.h"
#include "verdict.h"

/* What both ways of attaching take: on to the next program of the interface, never past it; or the end of this frame. */
#define GUARD_PASS TC_ACT_UNSPEC
#define GUARD_REFUSE TC_ACT_SHOT

/* linux/skbuff.h, and how long the shortest frame's content is (IEEE 802.3). */
#define CHECKSUM_PARTIAL 3
#define CHECKSUM_MASK 3
#define SHORTEST_CONTENT 46

/* RFC 826, for IPv4 over Ethernet. */
struct arp {
	__be16 hardware;
	__be16 protocol;
	__u8 hardware_bytes;
	__u8 protocol_bytes;
	__be16 operation;
	__u8 sender_hardware[6];
	__u8 sender[4];
	__u8 target_hardware[6];
	__u8 target[4];
} __attribute__((packed));

/* What a guard says of its interface, taken out of the map. */
struct post {
	__s32 nsid;
	__u32 ifindex;
	__u8 hardware_address[ETH_ALEN];
	__u16 flags;
};

/* By the interface that the frame came through, or will. */
static __noinline int find_by_interface(struct __sk_buff *skb, struct subject *subject, struct post *post)
{
	__u32 ifindex = skb->ifindex;
	const struct guard *guard = bpf_map_lookup_elem(&guards, &ifindex);
	const struct workload *workload;
	__u64 cgroup, netns;

	if (!guard)
		return false;
	cgroup = guard->cgroup;
	netns = guard->netns;
	post->nsid = guard->nsid < 0 ? NO_NAMESPACE : guard->nsid;
	post->ifindex = ifindex;
	post->flags = guard->flags;
	__builtin_memcpy(post->hardware_address, guard->hardware_address, sizeof(guard->hardware_address));
	subject->cgroup = cgroup;
	subject->netns = netns;
	workload = bpf_map_lookup_elem(&workloads, &cgroup);
	if (!workload)
		return false;
	hold(subject, cgroup, workload);
	/* What the guard notes counts in the namespace that it watches, also while `workloads` does not say so yet, or no more. */
	subject->netns = netns;
	return true;
}

static __noinline int is_source(__u32 ifindex, const struct address *address)
{
	struct source_key key = {.ifindex = ifindex};
	copy_address(&key.address, address);
	return !!bpf_map_lookup_elem(&sources, &key);
}

static __always_inline bool is_ip(const struct __sk_buff *skb)
{
	return skb->protocol == bpf_htons(ETH_P_IP) || skb->protocol == bpf_htons(ETH_P_IPV6);
}

/* The kernel has taken an outer tag off before this runs. */
static __always_inline bool is_tagged(const struct __sk_buff *skb)
{
	return skb->vlan_present || skb->protocol == bpf_htons(ETH_P_8021Q) || skb->protocol == bpf_htons(ETH_P_8021AD);
}

/* Both are aligned to two bytes. A header that is not where the kernel always has it is nobody's. */
static __always_inline bool is_foreign_hardware(struct __sk_buff *skb, __u32 flags, const __u8 *address)
{
	const quarter_word *source = (const quarter_word *)(long)skb->data + ETH_ALEN / 2;
	const quarter_word *known = (const quarter_word *)address;

	if (!(flags & GUARD_HARDWARE_ADDRESS))
		return false;
	if ((const void *)(source + ETH_ALEN / 2) > (const void *)(long)skb->data_end)
		return true;
	return source[0] != known[0] || source[1] != known[1] || source[2] != known[2];
}

/* Fills in whom it speaks for and of. 0: in order; else why it is refused. */
static __noinline int check_arp(struct __sk_buff *skb, const struct post *post, struct packet *packet)
{
	struct arp arp;
	__u32 sender, target;

	if (bpf_skb_load_bytes(skb, ETH_HLEN, &arp, sizeof(arp)))
		return REASON_TRUNCATED_HEADER;
	/* Behind it may be what fills up the shortest frame, and no message to whoever shares the wire. */
	if (packet->length > SHORTEST_CONTENT)
		return REASON_BAD_LENGTH;
	__builtin_memcpy(&sender, arp.sender, sizeof(sender));
	__builtin_memcpy(&target, arp.target, sizeof(target));
	map_ipv4(&packet->local, sender);
	map_ipv4(&packet->remote, target);
	if (arp.hardware != bpf_htons(1) || arp.protocol != bpf_htons(ETH_P_IP) || arp.hardware_bytes != ETH_ALEN ||
	    arp.protocol_bytes != sizeof(arp.sender))
		return REASON_SPOOFED_ARP;
	/* RFC 5227: whether somebody has an address is asked in nobody's name. */
	if (!sender)
		return arp.operation == bpf_htons(1) ? 0 : REASON_SPOOFED_ARP;
	return is_source(post->ifindex, &packet->local) ? 0 : REASON_SPOOFED_ARP;
}

/* RFC 4861. Whose address an advertisement or the search for a duplicate speaks of follows the first 8 bytes. */
static __noinline int check_neighbour(struct __sk_buff *skb, const struct post *post, const struct packet *packet)
{
	struct address target __attribute__((aligned(8)));

	switch (packet->icmp_type) {
	case 134: /* router advertisement */
	case 137: /* redirect */
		return REASON_SPOOFED_NEIGHBOUR;
	case 135:
		if (!is_zero(&packet->local))
			return 0;
		break;
	case 136:
		break;
	default:
		return 0;
	}
	if (packet->end - packet->offset < sizeof(struct icmp_header) + sizeof(target) ||
	    bpf_skb_load_bytes(skb, packet->base + packet->offset + sizeof(struct icmp_header), &target, sizeof(target)))
		return REASON_TRUNCATED_HEADER;
	return is_source(post->ifindex, &target) ? 0 : REASON_SPOOFED_NEIGHBOUR;
}

/*
 * RFC 4291, 2.5.2 and 2.5.6: no source at all is for finding one's own address, a link-local one is for the link: for what ends there
 * by its address, or as neighbour discovery does (Linux asks by it whether a neighbour is still there, whatever the neighbour's address).
 */
static __noinline int is_foreign_source(const struct post *post, const struct packet *packet)
{
	if (packet->ipv6 && is_zero(&packet->local))
		return !is_neighbour_discovery(packet);
	if (!is_source(post->ifindex, &packet->local))
		return true;
	return packet->ipv6 && is_link_local(&packet->local) && !is_link_local(&packet->remote) &&
	       !is_link_multicast(&packet->remote) && !is_neighbour_discovery(packet);
}

/* Why this frame is refused before anybody asks what policy says; 0: it is not. */
static __noinline int check_frame(struct __sk_buff *skb, const struct post *post, struct packet *packet)
{
	if (is_foreign_hardware(skb, post->flags, post->hardware_address))
		return REASON_SPOOFED_HARDWARE_ADDRESS;
	if (packet->reason)
		return packet->reason;
	if (skb->protocol == bpf_htons(ETH_P_ARP))
		return check_arp(skb, post, packet);
	if (is_foreign_source(post, packet))
		return REASON_SPOOFED_SOURCE;
	if (packet->ipv6 && packet->protocol == IPPROTO_ICMP && packet->fragment != FRAGMENT_LATER)
		return check_neighbour(skb, post, packet);
	return 0;
}

/*
 * Of a segment that policy refuses: was there a connection that is cut? And does the kernel speak for a socket that is gone? It has a raw
 * socket of its own for that, or none; so have forwarded packets. That gets a reason of its own.
 */
static __noinline int tell_apart(struct __sk_buff *skb, const struct packet *packet, __u64 cgroup, struct decision *decision,
				 struct moment *moment)
{
	struct bpf_sock *sk = skb->sk ? bpf_sk_fullsock(skb->sk) : NULL;

	if (sk && is_between(sk, packet) && !decision->silent)
		moment->flags |= EVENT_CUT;
	if (sk && (sk->type != SOCKET_RAW || sk->protocol != IPPROTO_TCP || is_counted(skb, packet, cgroup)))
		return 0;
	if (decision->reason == REASON_NO_RULE || decision->reason == REASON_LIMIT || decision->reason == REASON_ADMIN_DENY ||
	    decision->reason == REASON_BASELINE_DENY)
		decision->reason = REASON_TCP_WITHOUT_SOCKET;
	return 0;
}

/* The end of an inbound connection: when its socket is gone, the kernel still has a last word to say for it. */
static __always_inline bool is_closing(const struct packet *packet)
{
	return packet->tcp_flags & (TCP_FLAG_BYTE_FIN | TCP_FLAG_BYTE_RST);
}

/* Does the record decide this segment? Only one that the guard itself has vouched for: see recall_guarded_segment. */
static __always_inline bool is_vouched(const struct bpf_sock *sk, const struct record *record, const struct packet *packet)
{
	__u32 begun = begin_read(record), slot;

	if ((begun & RECORD_WORD_FLAG(RECORD_GUARDED | RECORD_RESOLVER)) != RECORD_WORD_FLAG(RECORD_GUARDED) ||
	    !is_between(sk, packet))
		return false;
	if (record->direction == DIRECTION_INGRESS && is_closing(packet))
		return false;
	return is_current(record, packet, &slot) && is_whole(record, begun);
}

/*
 * The record of a socket is what egress has decided; the guard takes its word where it can't have been forged. A connection from outside
 * must have been seen to come in, once: after that its record says so, whatever becomes of the note. False: policy is to be asked.
 */
static __noinline int recall_guarded_segment(struct __sk_buff *skb, const struct packet *packet, const struct subject *subject,
					     struct decision *decision, struct moment *moment)
{
	bool syn = packet->tcp_flags & TCP_FLAG_BYTE_SYN, ack = packet->tcp_flags & TCP_FLAG_BYTE_ACK;
	struct bpf_sock *sk = skb->sk ? bpf_sk_fullsock(skb->sk) : NULL;
	bool own = sk && is_between(sk, packet), outbound = false, inbound = false;
	struct record *record = own ? record_of(sk) : NULL;
	__u32 begun = 0;

	if (record) {
		struct counter_key key;

		begun = begin_read(record);
		moment->pid = record->pid;
		if (record->slot != subject->slot || !is_of(record, packet))
			record = NULL;
		else if (record->direction == DIRECTION_EGRESS)
			outbound = true;
		else
			inbound = record->flags & (RECORD_GUARDED | RECORD_OLD);
		if (outbound && subject->lasting && recall(record, packet, &key) && key.slot == subject->slot) {
			allow(decision, key.ruleset, key.reason);
			decision->rule = key.rule;
			decision->verdict = key.verdict;
			decision->name = name_of(record);
			add_flag(record, begun, RECORD_GUARDED);
			return true;
		}
	}
	/* A SYN begins something, whatever came in before; an answer to one does not. */
	if (!outbound && (!syn || ack) && (inbound || is_reply(packet, subject->slot, subject->netns))) {
		allow(decision, subject->enforced, REASON_REPLY);
		if (record && !syn)
			add_flag(record, begun, RECORD_GUARDED);
		return true;
	}
	if (outbound && !syn)
		decision->name = name_of(record);
	return false;
}

/*
 * Is it of a flow that this guard has let pass, under the policy that still holds? Asked before all else: most datagrams are. The clock
 * need not be exact to tell that a second has passed.
 */
static __noinline int is_known_datagram(struct __sk_buff *skb, const struct packet *packet)
{
	__u32 ifindex = skb->ifindex;
	const struct guard *guard = bpf_map_lookup_elem(&guards, &ifindex);
	const struct workload *workload;
	struct counter_key counted = {};
	struct flow_key key;
	struct flow *flow;
	const __u32 *epoch;
	__u64 cgroup, netns;

	if (!guard || is_foreign_hardware(skb, guard->flags, guard->hardware_address))
		return false;
	cgroup = guard->cgroup;
	netns = guard->netns;
	workload = bpf_map_lookup_elem(&workloads, &cgroup);
	if (!workload)
		return false;
	counted.slot = workload->slot;
	epoch = bpf_map_lookup_elem(&epochs, &counted.slot);
	flow_key_of(&key, packet, counted.slot, netns);
	flow = bpf_map_lookup_elem(&flows, &key);
	if (!epoch || !flow || (flow->detail & (FLOW_GUARDED | FLOW_RESOLVER)) != FLOW_GUARDED || flow->verdict == VERDICT_DENY ||
	    flow->epoch != *epoch)
		return false;
	counted.ruleset = flow->ruleset;
	counted.rule = flow->rule;
	counted.reason = flow->reason;
	counted.verdict = flow->verdict;
	refresh(flow, bpf_ktime_get_coarse_ns());
	if (!is_flow(flow, &key))
		return false;
	if (!is_counted(skb, packet, cgroup))
		count(&counted, skb->gso_segs ?: 1, packet->length);
	return true;
}

/* As recall_guarded_segment. Every destination has a flow, so that what it answers is never taken for a question. */
static __noinline int recall_guarded_datagram(struct __sk_buff *skb, const struct packet *packet, const struct subject *subject,
					      struct decision *decision, struct moment *moment)
{
	struct bpf_sock *sk = skb->sk ? bpf_sk_fullsock(skb->sk) : NULL;
	const struct record *record = sk && is_of_socket(sk, packet) ? record_of(sk) : NULL;

	if (record)
		moment->pid = record->pid;
	return recall_flow(packet, subject, subject->netns, decision,
			   record && record->direction == DIRECTION_EGRESS && record->slot == subject->slot &&
				   is_of(record, packet));
}

/* Is it known without policy? */
static __always_inline bool recall_frame(struct __sk_buff *skb, const struct packet *packet, const struct subject *subject,
					 struct decision *decision, struct moment *moment)
{
	switch (packet->protocol) {
	case IPPROTO_TCP:
		return recall_guarded_segment(skb, packet, subject, decision, moment);
	case IPPROTO_UDP:
		return recall_guarded_datagram(skb, packet, subject, decision, moment);
	}
	return false;
}

/* What becomes of a frame that policy was asked about. Not in a function with decide: what each needs of the stack is needed once. */
static __always_inline void note_judged(struct __sk_buff *skb, const struct packet *packet, const struct subject *subject,
					struct decision *decision, struct moment *moment)
{
	if (packet->protocol == IPPROTO_UDP) {
		if (decision->verdict == VERDICT_DENY)
			cut_outbound(packet, subject, subject->netns);
		else if (subject->lasting && has_ruleset(subject))
			keep_outbound(packet, subject, subject->netns, decision,
				      FLOW_GUARDED | (is_resolver(&packet->remote, packet->remote_port) ? FLOW_RESOLVER : 0));
	} else if (packet->protocol == IPPROTO_TCP && decision->verdict == VERDICT_DENY &&
		   !(packet->tcp_flags & TCP_FLAG_BYTE_SYN)) {
		tell_apart(skb, packet, subject->cgroup, decision, moment);
	}
}

/*
 * A packet socket, or a device of the pod's own, may leave it to others to work out a checksum, and say where it goes: over the
 * destination, too, by when nobody judges any more. It must go where the protocol has it, or into what the packet carries. Sockets
 * of IP have the kernel say so.
 */
static __noinline int is_checksum_misplaced(struct __sk_buff *skb, const struct packet *packet)
{
	struct bpf_sock *sk = skb->sk ? bpf_sk_fullsock(skb->sk) : NULL;
	__u64 head = 0, data = 0, buffer = 0;
	__u16 start = 0, field = 0;
	__u8 state = 0;
	__s64 place;

	if (!checksum_start_offset || (sk && (sk->family == FAMILY_IPV4 || sk->family == FAMILY_IPV6)))
		return false;
	/* The verifier lets nobody count from the context, so its address is read as a number first. */
	bpf_probe_read_kernel(&buffer, sizeof(buffer), &skb);
	bpf_probe_read_kernel(&state, sizeof(state), (const void *)(buffer + checksum_state_bit / 8));
	if ((state >> checksum_state_bit % 8 & CHECKSUM_MASK) != CHECKSUM_PARTIAL)
		return false;
	bpf_probe_read_kernel(&start, sizeof(start), (const void *)(buffer + checksum_start_offset));
	bpf_probe_read_kernel(&field, sizeof(field), (const void *)(buffer + checksum_field_offset));
	bpf_probe_read_kernel(&head, sizeof(head), (const void *)(buffer + buffer_head_offset));
	bpf_probe_read_kernel(&data, sizeof(data), (const void *)(buffer + buffer_data_offset));
	place = (__s64)(head + start + field - data) - packet->base - packet->offset;
	if (!packet->offset || place < 0)
		return true;
	if (packet->fragment == FRAGMENT_LATER)
		return false;
	switch (packet->protocol) {
	case IPPROTO_TCP:
		return place != __builtin_offsetof(struct tcphdr, check) && place < (__s64)sizeof(struct tcphdr);
	case IPPROTO_UDP:
		return place != __builtin_offsetof(struct udphdr, check) && place < (__s64)sizeof(struct udphdr);
	case IPPROTO_ICMP:
		return place != __builtin_offsetof(struct icmp_header, checksum);
	case IPPROTO_SCTP:
		return place < 4;
	}
	return false;
}

/* Why what this frame holds is not what would arrive, or not all of it; 0: it is. */
static __noinline int check_whole(struct __sk_buff *skb, const struct packet *packet)
{
	if (packet->reason)
		return packet->reason;
	/* Behind the datagram may be what fills up the shortest frame, and no message to whoever shares the wire. */
	if (is_ip(skb) && packet->length > SHORTEST_CONTENT && packet->end < packet->length)
		return REASON_BAD_LENGTH;
	return is_checksum_misplaced(skb, packet) ? REASON_MISPLACED_CHECKSUM : 0;
}

/* Whatever is not vouched for: what becomes of it. A global function: the verifier reads it apart from the known path. */
__noinline int guard_unvouched(struct __sk_buff *skb, struct packet *packet)
{
	struct subject subject = {};
	struct decision decision = {};
	struct moment moment = {.hook = HOOK_GUARD};
	struct post post = {};
	bool asked = false;
	int reason, answer = 0;

	if (!packet)
		return GUARD_REFUSE;
	if (is_tagged(skb))
		packet->reason = REASON_VLAN_TAGGED;
	else if (!is_ip(skb) && skb->protocol != bpf_htons(ETH_P_ARP))
		packet->reason = REASON_NOT_IP;
	else
		packet->reason = check_whole(skb, packet);
	packet->leaves = 1;
	if (packet->protocol == IPPROTO_UDP && !packet->reason && !packet->fragment && is_known_datagram(skb, packet))
		return GUARD_PASS;
	if (!find_by_interface(skb, &subject, &post)) {
		if (post.ifindex && !subject.cgroup) {
			/* Left behind by a pod that is gone, and its policy with it, which alone could tell what of it may leave. */
			deny(&decision, 0, REASON_UNKNOWN_WORKLOAD);
		} else {
			/* Nobody here is in the host's namespace. */
			decide_unknown(&subject, packet, 0, &decision);
			if (decision.reason == REASON_UNKNOWN_WORKLOAD && skb->protocol == bpf_htons(ETH_P_ARP))
				allow(&decision, 0, REASON_NEIGHBOUR_DISCOVERY);
		}
	} else if ((reason = check_frame(skb, &post, packet))) {
		refuse_unread(&subject, &decision, reason);
	} else if (skb->protocol == bpf_htons(ETH_P_ARP)) {
		allow(&decision, subject.enforced, REASON_NEIGHBOUR_DISCOVERY);
	} else if (packet->fragment == FRAGMENT_LATER) {
		decide_fragment(packet, &subject, subject.netns, &decision);
	} else if (packet->protocol == IPPROTO_ICMP) {
		decide_icmp(skb, post.nsid, packet, &subject, subject.netns, &decision);
	} else if (recall_frame(skb, packet, &subject, &decision, &moment)) {
		/* What follows will need a note: the socket may be gone by then. */
		if (decision.reason == REASON_REPLY && is_closing(packet))
			keep_inbound(skb, NO_NAMESPACE, packet, subject.slot, subject.netns);
	} else {
		decide(&subject, packet, &decision);
		note_judged(skb, packet, &subject, &decision, &moment);
	}
	if (!packet->reason && packet->fragment == FRAGMENT_FIRST && decision.verdict != VERDICT_DENY && has_ruleset(&subject) &&
	    !keep_fragment(packet, &subject, subject.netns, &decision))
		refuse_unread(&subject, &decision, REASON_NO_MEMORY);

	if (decision.verdict != VERDICT_DENY && may_query(packet)) {
		__u8 before = decision.reason;

		answer = judge_question(skb, packet, &subject, &decision, ASKED_OF_GUARD);
		asked = decision.reason != before;
		if (decision.verdict == VERDICT_DENY && packet->protocol == IPPROTO_TCP)
			tell_apart(skb, packet, subject.cgroup, &decision, &moment);
	}
	/* Of what is asked egress has judged nothing. */
	if (decision.verdict == VERDICT_DENY || asked || !is_counted(skb, packet, subject.cgroup)) {
		count_decision(&decision, subject.slot, skb->gso_segs ?: 1, packet->length);
		if (decision.verdict != VERDICT_ALLOW) {
			moment.socket_cookie = bpf_get_socket_cookie(skb);
			moment.netns_cookie = subject.netns;
			if (packet->work)
				tell_question(packet, &subject, &decision, &moment, false);
			else
				tell(packet, &subject, &decision, &moment, false);
		}
	}
	forget_question(packet);
	if (answer && !(decision.verdict == VERDICT_DENY && decision.silent))
		return turn_round(skb, packet, answer);
	return decision.verdict != VERDICT_DENY ? GUARD_PASS : GUARD_REFUSE;
}

static __always_inline int judge_frame(struct __sk_buff *skb)
{
	struct packet packet = {};

	packet.length = skb->len - ETH_HLEN;
	if (!is_tagged(skb) && is_ip(skb)) {
		parse(skb, ETH_HLEN, &packet, DIRECTION_EGRESS);
		if (!packet.reason && !packet.fragment && packet.protocol == IPPROTO_TCP && skb->sk) {
			struct bpf_sock *sk = bpf_sk_fullsock(skb->sk);
			struct record *record = sk ? record_of(sk) : NULL;

			if (record && is_vouched(sk, record, &packet))
				return GUARD_PASS;
		}
	}
	return guard_unvouched(skb, &packet);
}

/* The answers of a pod that is asked must pass; what it asked itself may teach, and then `asker` is known. A global function, as above. */
__noinline int guard_inbound(struct __sk_buff *skb, const struct packet *packet, struct asker *asker)
{
	struct subject subject = {};
	struct post post = {};
	enum inbound inbound = INBOUND_UNKNOWN;

	if (!packet || !asker || !find_by_interface(skb, &subject, &post))
		return 0;
	asker->owner = subject.netns;
	asker->slot = subject.slot;
	if (packet->protocol == IPPROTO_TCP) {
		asker->is_known = may_ask(packet) && is_resolver(&packet->remote, packet->remote_port);
		/* It answers the pod's own SYN. */
		if (packet->tcp_flags & TCP_FLAG_BYTE_SYN && packet->tcp_flags & TCP_FLAG_BYTE_ACK)
			return 0;
	}
	if (!has_ruleset(&subject))
		goto learn;
	/*
	 * Whoever floods a pod with SYNs would otherwise cut off all that had called just before. A segment from outside to a connection
	 * that was accepted proves as much as a SYN does.
	 */
	if (packet->protocol == IPPROTO_TCP && packet->tcp_flags & TCP_FLAG_BYTE_ACK &&
	    (post.nsid < 0 || !is_crowded(subject.slot) || !has_tcp_socket(skb, post.nsid, packet, &subject, ACCEPTED)))
		return 0;
	inbound = keep_inbound(skb, post.nsid, packet, subject.slot, subject.netns);
learn:
	if (packet->protocol == IPPROTO_UDP)
		asker->is_known = inbound != INBOUND_QUESTION && is_resolver(&packet->remote, packet->remote_port);
	return 0;
}

/* False: it must not go on now, and will be sent again. */
static __always_inline bool watch_frame(struct __sk_buff *skb)
{
	struct packet packet = {};
	struct asker asker = {};
	bool asks = false;

	if (is_tagged(skb) || !is_ip(skb))
		return true;
	parse(skb, ETH_HLEN, &packet, DIRECTION_INGRESS);
	if (packet.reason || packet.fragment == FRAGMENT_LATER)
		return true;
	switch (packet.protocol) {
	case IPPROTO_TCP:
		if (packet.tcp_flags & TCP_FLAG_BYTE_ACK)
			asks = may_ask(&packet) || (!(packet.tcp_flags & TCP_FLAG_BYTE_SYN) && is_crowded(SLOT_UNKNOWN));
		else
			asks = packet.tcp_flags & TCP_FLAG_BYTE_SYN;
		break;
	case IPPROTO_UDP:
		asks = true;
		break;
	case IPPROTO_ICMP:
		asks = packet.icmp == ICMP_ECHO_REQUEST;
		break;
	}
	if (asks)
		guard_inbound(skb, &packet, &asker);
	return !asker.is_known || !learn_answer(skb, &packet, asker.owner, asker.slot, ASKED_OF_GUARD);
}

#endif
