/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * What policy says of a packet, and what passes or is refused whatever policy says. Knows no flow: what a packet belongs to is
 * related.h's question.
 */
#ifndef POSTERN_DECIDE_H
#define POSTERN_DECIDE_H

#include <stdbool.h>
#include <linux/bpf.h>
#include <linux/in.h>
#include <bpf/bpf_helpers.h>

#include "abi.h"
#include "maps.h"
#include "parse.h"
#include "subject.h"
#include "verdict.h"

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
	if (is_zero(&packet->local) || is_loopback(&packet->local) || is_self(slot, &packet->local))
		return false;
	return is_loopback(&packet->remote) || is_self(slot, &packet->remote);
}

/* What policy says, and the two destinations that no policy can take away. */
static __noinline int decide(const struct subject *subject, const struct packet *packet, struct decision *decision)
{
	struct question question = {
		.port = port_of(packet), .protocol = packet->protocol, .slot = subject->slot, .name = decision->name};
	__u32 answer, shadow_answer;

	if (packet->ipv6 && is_spoofed(subject->slot, packet)) {
		refuse_unread(subject, decision, REASON_SPOOFED_SOURCE);
		return 0;
	}
	if (is_loopback(&packet->remote) && !packet->leaves) {
		allow(decision, subject->enforced, REASON_LOOPBACK);
		return 0;
	}
	copy_address(&question.destination, &packet->remote);
	answer = shadow_answer = judge_with_names(subject->enforced, &question);
	if (subject->shadow != subject->enforced)
		shadow_answer = judge_with_names(subject->shadow, &question);
	combine(decision, subject->enforced, answer, subject->shadow, shadow_answer);
	decision->name = question.led;
	if (decision->verdict != VERDICT_ALLOW && !packet->leaves && is_self(subject->slot, &packet->remote)) {
		allow(decision, subject->enforced, IS_DENIED(answer) ? REASON_SELF : REASON_OF(answer));
		decision->rule = IS_DENIED(answer) ? RULE_NONE : RULE_OF(answer);
	}
	return 0;
}

/* ff02::16 */
static __always_inline bool is_all_mldv2_routers(const struct address *address)
{
	const word *words = (const word *)address;
	return words[0] == bpf_cpu_to_be64(0xff02000000000000ULL) && words[1] == bpf_cpu_to_be64(0x16);
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
		/* The message, one link-layer address and a nonce (RFC 7527), no room for more. */
		if (is_link_local(&packet->remote) || is_link_multicast(&packet->remote))
			return packet->end - packet->offset <= 40;
		/* Unicast, to see whether a neighbour is still there. */
		return packet->icmp_type != 133 && packet->end - packet->offset <= 32;
	case 131: /* MLD report */
	case 132: /* MLD done */
		return packet->hop_limit == 1 && is_link_multicast(&packet->remote) && packet->end - packet->offset <= 24;
	case 143: /* MLDv2 report, as long as its sender has groups; to the routers alone (RFC 3810, 5.2.14) */
		return packet->hop_limit == 1 && is_all_mldv2_routers(&packet->remote);
	}
	return false;
}

/* A workload that nobody named. Its decision is under slot 0, ruleset 0. */
static __always_inline void decide_unknown(const struct subject *subject, const struct packet *packet, __u64 netns,
					   struct decision *decision)
{
	const struct settings *setting = read_settings();

	if (!setting || setting->unknown == UNKNOWN_ALLOW)
		allow(decision, 0, REASON_UNKNOWN_ALLOWED);
	else if (subject->is_host || (setting->host_netns && netns == setting->host_netns))
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

#endif
