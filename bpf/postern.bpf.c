/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * The programs: who is held, in what order the questions are asked, and what becomes of the packet or the call.
 * What a packet says is parse.h's, what policy says verdict.h's, what was decided before record.h's, who learns of it tell.h's.
 */
#include <stdbool.h>
#include <linux/bpf.h>
#include <linux/in.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>

#include "abi.h"
#include "maps.h"
#include "parse.h"
#include "record.h"
#include "tell.h"
#include "verdict.h"

/* SOCK_STREAM and SOCK_DGRAM, which only libc's headers have. */
#define SOCKET_STREAM 1
#define SOCKET_DATAGRAM 2

/* include/net/net_namespace.h: the loopback device of every namespace. */
#define LOOPBACK_IFINDEX 1

/* What cgroup_skb/egress returns: bit 0 passes, bit 1 reports congestion, which the sender does not see as an error. */
#define PASS 1
#define REFUSE 0
#define REFUSE_SILENTLY 2

/*
 * The epoch is read before the pointer it dates: the agent flips, then bumps, so what is recorded under an epoch is never older
 * than it. That is why the workload is looked up a second time.
 */
static __always_inline void hold(struct subject *subject, __u64 cgroup, const struct workload *workload)
{
	__u32 slot = workload->slot;
	const volatile __u32 *epoch = bpf_map_lookup_elem(&epochs, &slot);

	if (epoch) {
		const struct workload *again;
		__u32 fence = 0;

		subject->epoch = *epoch;
		/* A full barrier: atomics whose value is used are. */
		asm volatile("" ::"r"(__sync_fetch_and_add(&fence, 1)));
		again = bpf_map_lookup_elem(&workloads, &cgroup);
		if (again && again->slot == slot) {
			workload = again;
			subject->lasting = 1;
		}
	}
	subject->cgroup = cgroup;
	subject->slot = slot;
	subject->enforced = workload->enforced;
	subject->shadow = workload->shadow;
}

static __always_inline const struct settings *read_settings(void)
{
	__u32 zero = 0;
	return bpf_map_lookup_elem(&settings, &zero);
}

/* By the cgroup in which the packet's socket was created. */
static __noinline int find_by_socket(struct __sk_buff *skb, struct subject *subject)
{
	const struct settings *setting = read_settings();
	const struct workload *workload = NULL;
	__u64 cgroup = 0;

	if (!setting)
		return false;
	for (int level = 0; level < MAX_LEVELS && !workload; level++) {
		if (!(setting->levels & (1 << level)))
			continue;
		cgroup = bpf_skb_ancestor_cgroup_id(skb, level);
		workload = bpf_map_lookup_elem(&workloads, &cgroup);
	}
	if (workload)
		hold(subject, cgroup, workload);
	else
		subject->cgroup = bpf_skb_cgroup_id(skb);
	return !!workload;
}

/* By the cgroup of whoever calls: the socket may be another's. */
static __noinline int find_by_caller(struct subject *subject)
{
	const struct settings *setting = read_settings();
	const struct workload *workload = NULL;
	__u64 cgroup = 0;

	if (!setting)
		return false;
	for (int level = 0; level < MAX_LEVELS && !workload; level++) {
		if (!(setting->levels & (1 << level)))
			continue;
		cgroup = bpf_get_current_ancestor_cgroup_id(level);
		workload = bpf_map_lookup_elem(&workloads, &cgroup);
	}
	if (workload)
		hold(subject, cgroup, workload);
	else
		subject->cgroup = bpf_get_current_cgroup_id();
	return !!workload;
}

static __always_inline bool has_ruleset(const struct subject *subject)
{
	return subject->enforced || subject->shadow;
}

static __always_inline __u64 netns_of(struct __sk_buff *skb)
{
	return has_netns_cookie ? bpf_get_netns_cookie(skb) : 0;
}

/* What no rule can allow: silent where a default denial is, so that a Drop doesn't tell by this either. */
static __noinline __u32 refuse_by(__u64 ruleset, __u32 reason)
{
	const struct row *header;

	if (!ruleset)
		return VERDICT_OF(REASON_NOT_ISOLATED, 0, RULE_NONE);
	header = row_of(ruleset, 0, 0);
	return VERDICT_OF(reason, header && header->flags & ROW_SILENT ? 1 : 0, RULE_NONE);
}

/* The same refusal from every ruleset; a workload without one has no policy that could refuse. */
static __always_inline void refuse_unread(const struct subject *subject, struct decision *decision, __u8 reason)
{
	combine(decision, subject->enforced, refuse_by(subject->enforced, reason), subject->shadow,
		refuse_by(subject->shadow, reason));
}

/* Apart from its caller, whose stack is what is left below judge. */
static __noinline int is_self(__u32 slot, const struct address *address)
{
	struct self_key key = {.slot = slot};
	copy_address(&key.address, address);
	return !!bpf_map_lookup_elem(&selves, &key);
}

/*
 * Anybody may bind an IPv6 socket to a stranger's address (IPV6_FREEBIND). Sent to oneself, such a packet would arrive as the
 * stranger's question, whose answer passes. (IPv4 asks for CAP_NET_RAW or CAP_NET_ADMIN.) Calls know no source yet.
 */
static __noinline int is_spoofed(__u32 slot, const struct packet *packet)
{
	if (!packet->ipv6 || is_zero(&packet->local) || is_loopback(&packet->local) || is_self(slot, &packet->local))
		return false;
	return is_loopback(&packet->remote) || is_self(slot, &packet->remote);
}

/* What policy says, and the two destinations that no policy can take away. */
static __noinline int decide(const struct subject *subject, const struct packet *packet, struct decision *decision)
{
	struct question question = {.port = port_of(packet), .protocol = packet->protocol};
	__u32 answer, shadow_answer;

	if (is_spoofed(subject->slot, packet)) {
		refuse_unread(subject, decision, REASON_SPOOFED_SOURCE);
		return 0;
	}
	if (is_loopback(&packet->remote) && !packet->leaves) {
		allow(decision, subject->enforced, REASON_LOOPBACK);
		return 0;
	}
	copy_address(&question.destination, &packet->remote);
	answer = shadow_answer = judge(subject->enforced, &question);
	if (subject->shadow != subject->enforced)
		shadow_answer = judge(subject->shadow, &question);
	combine(decision, subject->enforced, answer, subject->shadow, shadow_answer);
	if (decision->verdict != VERDICT_ALLOW && !packet->leaves && is_self(subject->slot, &packet->remote)) {
		allow(decision, subject->enforced, IS_DENIED(answer) ? REASON_SELF : REASON_OF(answer));
		decision->rule = IS_DENIED(answer) ? RULE_NONE : RULE_OF(answer);
	}
	return 0;
}

/* RFC 4861 and RFC 2710, RFC 3810: what a host must send so that its link works. Redirects are for routers; none is fragmented (RFC 6980). */
static __always_inline bool is_neighbour_discovery(const struct packet *packet)
{
	if (!packet->ipv6 || packet->protocol != IPPROTO_ICMP || packet->fragment)
		return false;
	switch (packet->icmp_type) {
	case 133: /* router solicitation */
	case 135: /* neighbour solicitation */
	case 136: /* neighbour advertisement */
		if (packet->icmp_code || packet->hop_limit != 255)
			return false;
		if (is_link_local(&packet->remote) || is_link_multicast(&packet->remote))
			return true;
		/* Unicast, to see whether a neighbour is still there: the message and one link-layer address, no room for more. */
		return packet->icmp_type != 133 && packet->end - packet->offset <= 32;
	case 131: /* MLD report */
	case 132: /* MLD done */
	case 143: /* MLDv2 report */
		return packet->hop_limit == 1 && is_link_multicast(&packet->remote);
	}
	return false;
}

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

/* Is this packet a reply, since its socket was accepted rather than connected? */
static __always_inline bool is_inbound_tcp(const struct record *record, const struct packet *packet)
{
	if (record->version != RECORD_VERSION || record->protocol != IPPROTO_TCP || record->direction != DIRECTION_INGRESS)
		return false;
	return is_unbound(record) || is_of(record, packet);
}

static __always_inline void decide_tcp(struct __sk_buff *skb, struct bpf_sock *sk, const struct subject *subject,
				       const struct packet *packet, struct decision *decision, struct moment *moment)
{
	bool syn = packet->tcp_flags & TCP_FLAG_BYTE_SYN, ack = packet->tcp_flags & TCP_FLAG_BYTE_ACK;
	bool stream = sk && sk->type == SOCKET_STREAM;
	enum direction direction = DIRECTION_EGRESS;
	struct record *record;
	__u32 epoch = subject->epoch;

	record = sk ? record_of(sk) : NULL;
	/*
	 * The listener's, not the connection's: nothing about this peer may be written to it. Or that of a child which Fast Open
	 * made early; one that was connected itself, and met its peer's SYN half-way, is no reply.
	 */
	if (syn && ack) {
		if (stream && (sk->state == BPF_TCP_LISTEN ||
			       (sk->state == BPF_TCP_SYN_RECV && (!record || is_inbound_tcp(record, packet)))))
			allow(decision, subject->enforced, REASON_REPLY);
		else
			decide(subject, packet, decision);
		return;
	}

	if (!syn && record && is_inbound_tcp(record, packet)) {
		allow(decision, subject->enforced, REASON_REPLY);
		direction = DIRECTION_INGRESS;
		if (stream && sk->state == BPF_TCP_LISTEN)
			return;
	} else {
		decide(subject, packet, decision);
		/* Established before the programs were attached, and to a port that is listened on: it came from outside. */
		if (decision->verdict != VERDICT_ALLOW && !record && !syn && stream && has_tcp_socket(skb, packet, true)) {
			allow(decision, subject->enforced, REASON_REPLY);
			direction = DIRECTION_INGRESS;
		}
	}
	if (!sk)
		return;

	if (!record)
		record = make_record(sk);
	if (!record)
		return;
	moment->pid = record->pid;
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
	if (!write_record(record, packet, subject, decision, direction, epoch))
		lose(LOSS_RECORDS);
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

/* Returns whether it was judged anew. */
static __always_inline bool decide_udp(struct __sk_buff *skb, struct bpf_sock *sk, const struct subject *subject,
				       const struct packet *packet, struct decision *decision, struct moment *moment)
{
	struct record *record = sk ? record_of(sk) : NULL;
	bool same = record && is_of(record, packet);

	if (record)
		moment->pid = record->pid;
	if (recall_flow(skb, subject, packet, decision, same))
		return false;
	decide(subject, packet, decision);
	if (!sk)
		return true;
	if (decision->verdict == VERDICT_DENY) {
		if (same)
			record->verdict = VERDICT_DENY;
		cut_outbound(skb, subject, packet);
		return true;
	}
	if (!subject->lasting)
		return true;
	if (!record)
		record = make_record(sk);
	if (!record)
		return true;
	if (!same && record->protocol == IPPROTO_UDP && has_ruleset(subject)) {
		spill(skb, record, packet, subject);
		keep_outbound(skb, subject, packet, decision);
	}
	if (!write_record(record, packet, subject, decision, DIRECTION_EGRESS, subject->epoch))
		lose(LOSS_RECORDS);
	return true;
}

/*
 * TCP may send from a softirq on top of anybody, so its sender is known only where who runs is who connected: the SYN's always is,
 * and may be gone before the agent could ask for its name. Of all others the sender is the one that runs.
 */
static __always_inline bool is_sender_running(const struct packet *packet, const struct moment *moment)
{
	return packet->protocol != IPPROTO_TCP || (moment->pid && moment->pid == bpf_get_current_pid_tgid() >> 32);
}

/* A workload that nobody named. Its decision is under slot 0, ruleset 0. */
static __always_inline void decide_unknown(const struct packet *packet, __u64 netns, struct decision *decision)
{
	const struct settings *setting = read_settings();

	if (!setting || setting->unknown == UNKNOWN_ALLOW)
		allow(decision, 0, REASON_UNKNOWN_ALLOWED);
	else if (setting->host_netns && netns == setting->host_netns)
		allow(decision, 0, REASON_UNKNOWN_HOST);
	else if (packet->reason)
		deny(decision, 0, packet->reason);
	else if (is_loopback(&packet->remote) && !packet->leaves)
		allow(decision, 0, REASON_LOOPBACK);
	else if (is_neighbour_discovery(packet))
		allow(decision, 0, REASON_NEIGHBOUR_DISCOVERY);
	else
		deny(decision, 0, REASON_UNKNOWN_WORKLOAD);
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
 * Whatever no record answers. A global function: the verifier reads it apart from the known path. What runs below it has little
 * stack: kernels that count frames in steps of 32 bytes have 480 of 512 used by the deepest chain (egress, this, decide, judge, ask).
 */
__noinline int egress_unrecorded(struct __sk_buff *skb, struct packet *packet)
{
	struct subject subject = {};
	struct decision decision = {};
	struct moment moment = {.hook = HOOK_EGRESS};
	struct bpf_sock *sk = skb->sk ? bpf_sk_fullsock(skb->sk) : NULL;
	bool anew = true;

	if (!packet)
		return REFUSE;
	packet->leaves = skb->ifindex != LOOPBACK_IFINDEX;
	/* A hostNetwork server behind a node port: it was asked on its own port, and its answer leaves from the node's. */
	if (sk && sk->type == SOCKET_DATAGRAM && sk->protocol == IPPROTO_UDP && packet->protocol == IPPROTO_UDP)
		packet->socket_port = bpf_htons(sk->src_port);
	if (!find_by_socket(skb, &subject)) {
		decide_unknown(packet, netns_of(skb), &decision);
	} else if (packet->reason) {
		refuse_unread(&subject, &decision, packet->reason);
		if (sk && sk->type == SOCKET_STREAM && decision.verdict == VERDICT_DENY && !decision.silent) {
			name_by_socket(packet, sk);
			moment.flags |= EVENT_CUT;
		}
	} else if (packet->fragment == FRAGMENT_LATER) {
		anew = decide_fragment(skb, &subject, packet, &decision);
	} else if (packet->protocol == IPPROTO_ICMP) {
		decide_icmp(skb, &subject, packet, &decision);
	} else if (packet->fragment == FRAGMENT_FIRST) {
		decide(&subject, packet, &decision);
	} else if (packet->protocol == IPPROTO_TCP) {
		decide_tcp(skb, sk, &subject, packet, &decision, &moment);
	} else if (packet->protocol == IPPROTO_UDP) {
		anew = decide_udp(skb, sk, &subject, packet, &decision, &moment);
	} else {
		decide(&subject, packet, &decision);
	}
	if (!packet->reason && packet->fragment == FRAGMENT_FIRST && decision.verdict != VERDICT_DENY && has_ruleset(&subject) &&
	    !keep_fragment(skb, &subject, packet, &decision))
		refuse_unread(&subject, &decision, REASON_NO_MEMORY);

	count_decision(&decision, subject.slot, skb->gso_segs ?: 1, packet->length);
	if (decision.verdict == VERDICT_ALLOW || !anew)
		return PASS;
	if (!moment.muted) {
		moment.socket_cookie = bpf_get_socket_cookie(skb);
		moment.netns_cookie = netns_of(skb);
		if (has_current_process && is_sender_running(packet, &moment)) {
			moment.pid = bpf_get_current_pid_tgid() >> 32;
			moment.flags |= EVENT_PROCESS;
			tell(packet, &subject, &decision, &moment, true);
		} else {
			tell(packet, &subject, &decision, &moment, false);
		}
	}
	if (decision.verdict != VERDICT_DENY)
		return PASS;
	return decision.silent ? REFUSE_SILENTLY : REFUSE;
}

static __always_inline int judge_egress(struct __sk_buff *skb)
{
	struct packet packet = {};

	parse(skb, &packet, DIRECTION_EGRESS);
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

static __always_inline int watch_ingress(struct __sk_buff *skb)
{
	struct packet packet = {};
	struct bpf_sock *sk;
	const struct record *record;

	if (!skb->sk)
		return PASS;
	sk = bpf_sk_fullsock(skb->sk);
	/* Of connections only their beginnings matter, and those come to listeners. */
	if (!sk || (sk->type == SOCKET_STREAM && sk->state != BPF_TCP_LISTEN))
		return PASS;
	parse(skb, &packet, DIRECTION_INGRESS);
	if (packet.reason || packet.fragment)
		return PASS;
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
	return PASS;
}

SEC("cgroup_skb/egress")
int egress(struct __sk_buff *skb)
{
	return judge_egress(skb);
}

SEC("cgroup_skb/ingress")
int ingress(struct __sk_buff *skb)
{
	return watch_ingress(skb);
}

/*
 * The caller may not be whom the socket belongs to, so no verdict is recorded; but what the socket was before is over. False: there is
 * no room for a record, and what TCP does later could not be told from what it did before anybody looked.
 */
static __always_inline bool forget(struct bpf_sock_addr *call, bool held)
{
	struct bpf_sock *sk = call->sk;
	struct record *record;
	bool tcp = call->type == SOCKET_STREAM;

	if (!sk)
		return true;
	record = bpf_sk_storage_get(&sockets, sk, 0, held ? BPF_SK_STORAGE_GET_F_CREATE : 0);
	if (!record)
		return !held || !tcp;
	record->pid = bpf_get_current_pid_tgid() >> 32;
	if (tcp && begin_write(record)) {
		record->version = RECORD_VERSION;
		record->protocol = 0;
		record->verdict = VERDICT_DENY;
		record->epoch = 0;
		end_write(record, DIRECTION_EGRESS);
	}
	return true;
}

/* May an answer be going out that only egress can tell from a question, because it alone knows the local address? */
static __always_inline bool may_be_reply(struct bpf_sock_addr *call, struct packet *packet, const struct subject *subject,
					 __u32 message_ipv4, const struct address *message)
{
	struct bpf_sock *sk = call->sk;

	if (!sk || !sk->src_port)
		return false;
	packet->local_port = packet->socket_port = bpf_htons(sk->src_port);
	if (packet->ipv6) {
		copy_address(&packet->local, message);
		if (is_zero(&packet->local)) {
			((half_word *)&packet->local)[0] = sk->src_ip6[0];
			((half_word *)&packet->local)[1] = sk->src_ip6[1];
			((half_word *)&packet->local)[2] = sk->src_ip6[2];
			((half_word *)&packet->local)[3] = sk->src_ip6[3];
		}
		if (is_zero(&packet->local))
			return true;
	} else {
		__u32 ipv4 = message_ipv4 ?: sk->src_ip4;
		if (!ipv4)
			return true;
		map_ipv4(&packet->local, ipv4);
	}
	return is_known_flow(packet, subject->slot, bpf_get_netns_cookie(call));
}

/* Judges a connect or a send before there is a packet. 1: goes on; 0: EPERM. */
static __always_inline int judge_call(struct bpf_sock_addr *call, struct packet *packet, enum hook hook, __u32 message_ipv4,
				      const struct address *message)
{
	struct subject subject = {};
	struct decision decision = {};
	struct moment moment = {.hook = hook, .flags = EVENT_PROCESS};
	bool held = find_by_caller(&subject), kept = true;

	packet->protocol = call->type == SOCKET_STREAM ? IPPROTO_TCP : IPPROTO_UDP;
	packet->remote_port = call->user_port;
	if (hook == HOOK_CONNECT)
		kept = forget(call, held && has_ruleset(&subject));
	/* Ping sockets and SCTP have no place here; a UDP connect to port 0 is getaddrinfo asking for a route: nothing can follow. */
	if (call->type != SOCKET_STREAM && (call->protocol != IPPROTO_UDP || !packet->remote_port))
		return 1;
	if (call->type == SOCKET_STREAM && call->protocol == IPPROTO_SCTP)
		return 1;
	/* The kernel turns these into its loopback addresses. */
	if (is_zero(&packet->remote) || (is_mapped(&packet->remote) && !((const half_word *)&packet->remote)[3]))
		return 1;

	if (held)
		decide(&subject, packet, &decision);
	else
		decide_unknown(packet, bpf_get_netns_cookie(call), &decision);
	if (!kept) {
		refuse_unread(&subject, &decision, REASON_NO_MEMORY);
		/* Nothing stands behind this call that could refuse in silence. */
		decision.silent = 0;
	}
	/* What passes is counted when its packets do; a silent refusal is one that the caller must not notice. */
	if (decision.verdict != VERDICT_DENY || decision.silent)
		return 1;
	if (packet->protocol == IPPROTO_UDP && held && may_be_reply(call, packet, &subject, message_ipv4, message))
		return 1;

	count_decision(&decision, subject.slot, 1, 0);
	moment.socket_cookie = bpf_get_socket_cookie(call);
	moment.netns_cookie = bpf_get_netns_cookie(call);
	moment.pid = bpf_get_current_pid_tgid() >> 32;
	tell(packet, &subject, &decision, &moment, true);
	return 0;
}

static __always_inline int judge_call4(struct bpf_sock_addr *call, enum hook hook, __u32 message_ipv4)
{
	struct packet packet = {};

	map_ipv4(&packet.remote, call->user_ip4);
	return judge_call(call, &packet, hook, message_ipv4, &packet.local);
}

static __always_inline int judge_call6(struct bpf_sock_addr *call, enum hook hook, const struct address *message)
{
	struct packet packet = {};

	((half_word *)&packet.remote)[0] = call->user_ip6[0];
	((half_word *)&packet.remote)[1] = call->user_ip6[1];
	((half_word *)&packet.remote)[2] = call->user_ip6[2];
	((half_word *)&packet.remote)[3] = call->user_ip6[3];
	packet.ipv6 = !is_mapped(&packet.remote);
	return judge_call(call, &packet, hook, 0, message);
}

SEC("cgroup/connect4")
int connect4(struct bpf_sock_addr *call)
{
	return judge_call4(call, HOOK_CONNECT, 0);
}

SEC("cgroup/connect6")
int connect6(struct bpf_sock_addr *call)
{
	struct address none = {};
	return judge_call6(call, HOOK_CONNECT, &none);
}

SEC("cgroup/sendmsg4")
int sendmsg4(struct bpf_sock_addr *call)
{
	return judge_call4(call, HOOK_SENDMSG, call->msg_src_ip4);
}

SEC("cgroup/sendmsg6")
int sendmsg6(struct bpf_sock_addr *call)
{
	struct address message __attribute__((aligned(8))) = {};

	((half_word *)&message)[0] = call->msg_src_ip6[0];
	((half_word *)&message)[1] = call->msg_src_ip6[1];
	((half_word *)&message)[2] = call->msg_src_ip6[2];
	((half_word *)&message)[3] = call->msg_src_ip6[3];
	return judge_call6(call, HOOK_SENDMSG, &message);
}

const char LICENSE[] SEC("license") = "Dual BSD/GPL";
