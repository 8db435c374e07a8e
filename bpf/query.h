/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * May this be asked of a resolver? Of what policy lets go there each question is read: what it says of the name holds for the packet. What
 * may be asked is noted, so that its answer can teach. Knows not what becomes of a packet that is refused.
 */
#ifndef POSTERN_QUERY_H
#define POSTERN_QUERY_H

#include <stdbool.h>
#include <linux/bpf.h>
#include <linux/in.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>

#include "abi.h"
#include "decide.h"
#include "dns.h"
#include "learn.h"
#include "maps.h"
#include "origin.h"
#include "parse.h"
#include "record.h"
#include "socket.h"
#include "subject.h"
#include "tell.h"
#include "verdict.h"

/*
 * A connection to a resolver: TCP's number of the byte where its next message begins, in `reserved[1]` of its record, and this once that is
 * known, from its SYN on. All before it was looked at; what its socket sends again is the same. So no cut through the stream can show one
 * message here and another there: only what a socket of the workload's own sends from there on is read, whole messages alone.
 */
#define STREAM_FOLLOWED (1ULL << 32)

/* Asked for both families at once, and once more for a rainy day. */
#define DNS_SEGMENT_QUESTIONS 4

enum interest {
	INTEREST_LEARNING = 1, /* what is answered may teach */
	INTEREST_LIMITED = 2, /* policy says which names may be asked */
	INTEREST_BOUNDED = 4, /* the node says how long names may be, or how many */
};

static __always_inline bool may_query(const struct packet *packet)
{
	return packet->protocol == IPPROTO_UDP || packet->protocol == IPPROTO_TCP;
}

/* What one ruleset says of a name of this class, as verdict.h says it; where there is a `reason`, of what is refused for that. */
static __noinline __u32 judge_name(__u64 ruleset, __u64 class, __u32 reason)
{
	const struct row *every = ruleset ? row_of(ruleset, 0, NAME_ASKED) : NULL, *own;
	const struct answer *said;

	if (!every)
		return VERDICT_OF(REASON_NOT_ISOLATED, 0, RULE_NONE);
	said = &every->entries[0].answer;
	if (class && !reason) {
		own = row_of(ruleset, class, NAME_ASKED);
		if (own)
			said = &own->entries[0].answer;
	}
	return VERDICT_OF(reason ?: said->final & FINAL_REASON, !!(said->final & FINAL_SILENT), said->policy);
}

/*
 * What both rulesets say of a question is put into the decision on its packet, where that would pass else. True: there is to be an answer
 * that the name does not exist.
 */
static __noinline int settle(const struct subject *subject, struct decision *decision, __u64 class, __u32 reason)
{
	__u32 answer = judge_name(subject->enforced, class, reason), shadow_answer = answer;

	if (subject->shadow != subject->enforced)
		shadow_answer = judge_name(subject->shadow, class, reason);
	/* Whether it might pass in the shadow the packet has a say in, too. */
	if (IS_DENIED(answer))
		combine(decision, subject->enforced, answer, subject->shadow,
			decision->verdict == VERDICT_AUDIT ? answer : shadow_answer);
	else if (IS_DENIED(shadow_answer) && decision->verdict == VERDICT_ALLOW)
		combine(decision, subject->enforced, answer, subject->shadow, shadow_answer);
	return REASON_OF(answer) == REASON_SEARCH_DOMAIN;
}

static __always_inline bool limits_queries(const struct subject *subject)
{
	return (subject->enforced && row_of(subject->enforced, 0, NAME_ASKED)) ||
	       (subject->shadow && row_of(subject->shadow, 0, NAME_ASKED));
}

/*
 * Is it for the cgroup's programs to judge what is asked? Behind a guard, that does, which can answer. What stays in a namespace of the
 * workload's own goes to nobody, whatever address that has there.
 */
static __always_inline bool is_judged_here(const struct packet *packet, const struct subject *subject, __u64 netns)
{
	const struct settings *setting = read_settings();

	if (subject->netns && subject->netns == netns)
		return false;
	return packet->leaves || !netns || !setting || netns == setting->host_netns;
}

/* Why there are too many questions like this, whatever they ask for; 0: there are not. */
static __noinline __u32 exceeds(const struct dns_work *work, __u32 slot, bool is_question)
{
	const struct settings *setting = read_settings();
	struct budget *budget = bpf_map_lookup_elem(&budgets, &slot);
	__u32 per_second;

	if (!setting || !budget)
		return 0;
	per_second = setting->queries_per_second;
	if (per_second &&
	    !take_token(&budget->queries_refilled_ns, &budget->query_tokens, bpf_ktime_get_ns(), per_second, 2 * per_second))
		return REASON_QUERY_RATE;
	if (setting->longest_query && is_question && TEXT_END - work->text_begin > setting->longest_query)
		return REASON_QUERY_TOO_LONG;
	return 0;
}

static __always_inline bool is_bounded(const struct subject *subject)
{
	const struct settings *setting = read_settings();

	return has_ruleset(subject) && setting && (setting->longest_query || setting->queries_per_second);
}

/* The message that the work is at. The code of the answer that may be given at once; 0: none. */
static __noinline int judge_message(struct __sk_buff *skb, struct dns_work *work, const struct subject *subject,
				    struct decision *decision)
{
	int read = read_question(skb, work, true), answer = 0;
	bool is_question = read < 0 && !(work->flags & DNS_FLAG_ANSWER);
	const __u64 *class;

	if (!is_question)
		lose_dns(DNS_UNREADABLE_QUESTION);
	if (work->interest & INTEREST_BOUNDED) {
		__u32 reason = exceeds(work, subject->slot, is_question);

		if (reason)
			refuse_unread(subject, decision, reason);
	}
	if (work->interest & INTEREST_LIMITED && decision->verdict != VERDICT_DENY) {
		class = is_question ? bpf_map_lookup_elem(&names, key_of_text(work, NAME_BYTES * 8)) : NULL;
		if (settle(subject, decision, class ? *class : 0, is_question ? 0 : REASON_QUERY_UNREADABLE))
			answer = DNS_RCODE_NO_NAME;
	}
	if (decision->verdict == VERDICT_DENY)
		return read != DNS_TRUNCATED_MESSAGE && !(work->flags & DNS_FLAG_ANSWER) ? DNS_RCODE_REFUSED : 0;
	if (is_question && read == DNS_READ && work->interest & INTEREST_LEARNING)
		keep_question(work);
	return answer;
}

/* All messages of a segment, and that there is nothing else in it. */
static __always_inline int judge_segment(struct __sk_buff *skb, const struct packet *packet, struct dns_work *work,
					 const struct subject *subject, struct decision *decision)
{
	struct bpf_sock *sk = skb->sk ? bpf_sk_fullsock(skb->sk) : NULL;
	struct record *record = sk && is_between(sk, packet) ? record_of(sk) : NULL;
	__u32 length, ahead;

	if (!find_in_segment(skb, packet, work) || work->unread > work->segment_end)
		goto in_pieces;
	length = work->segment_end - work->unread;
	if (packet->tcp_flags & TCP_FLAG_BYTE_SYN) {
		/* Fast Open: what it carries follows it (RFC 7413). */
		work->sequence++;
		if (record)
			record->reserved[1] = STREAM_FOLLOWED | work->sequence;
	}
	if (!length)
		return 0;
	if (work->interest & INTEREST_LIMITED) {
		if (!record || !(record->reserved[1] & STREAM_FOLLOWED))
			goto in_pieces;
		ahead = (__u32)record->reserved[1] - work->sequence;
		if (ahead >> 31)
			goto in_pieces;
		if (ahead >= length)
			return 0;
		work->unread += ahead;
		work->sequence += ahead;
	}
	for (int i = 0; i < DNS_SEGMENT_QUESTIONS && next_in_segment(skb, work); i++) {
		judge_message(skb, work, subject, decision);
		if (decision->verdict == VERDICT_DENY)
			return 0;
	}
	if (work->unread != work->segment_end)
		lose_dns(DNS_SEGMENTED);
	if (!(work->interest & INTEREST_LIMITED))
		return 0;
	if (work->unread != work->segment_end)
		goto in_pieces;
	if (record)
		record->reserved[1] = STREAM_FOLLOWED | work->sequence;
	return 0;
in_pieces:
	if (work->interest & INTEREST_LIMITED)
		settle(subject, decision, 0, REASON_QUERY_IN_PIECES);
	return 0;
}

/* Why what a packet asks is to be read. Apart from its caller, as what that calls: there is little stack. */
static __noinline int interest_in(struct __sk_buff *skb, const struct packet *packet, const struct subject *subject,
				  enum asked_kind kind)
{
	int interest = (limits_queries(subject) ? INTEREST_LIMITED : 0) | (is_bounded(subject) ? INTEREST_BOUNDED : 0);
	__u64 netns;

	if (kind == ASKED_OF_GUARD)
		return interest | INTEREST_LEARNING;
	netns = netns_of(skb, subject);
	if (!is_judged_here(packet, subject, netns))
		interest = 0;
	return interest | (is_learning_here(subject, netns) ? INTEREST_LEARNING : 0);
}

/*
 * A packet that policy lets pass: is it to a resolver, and may be asked what it asks? The code of the answer that may be given in the
 * resolver's place, 0: none. Where a name was refused, `packet->work` says where it is, until forget_question. A global function: the
 * verifier reads it once.
 */
__noinline int judge_question(struct __sk_buff *skb, struct packet *packet, const struct subject *subject,
			      struct decision *decision, enum asked_kind kind)
{
	struct dns_work *work;
	__u32 index;
	int interest, answer = 0;

	if (!packet || !subject || !decision)
		return 0;
	if (!subject->slot || packet->reason || packet->fragment == FRAGMENT_LATER ||
	    !is_resolver(&packet->remote, packet->remote_port))
		return 0;
	interest = interest_in(skb, packet, subject, kind);
	if (!interest)
		return 0;
	/* Of a batch of datagrams only the first would be read. */
	if (packet->fragment || (packet->protocol == IPPROTO_UDP && skb->gso_segs > 1)) {
		lose_dns(DNS_FRAGMENT);
		settle(subject, decision, 0, REASON_QUERY_IN_PIECES);
		return 0;
	}
	index = take_work();
	work = bpf_map_lookup_elem(&dns_works, &index);
	if (!work) {
		settle(subject, decision, 0, REASON_NO_MEMORY);
		return 0;
	}
	work->interest = interest;
	set_key(work, packet, kind == ASKED_OF_GUARD ? subject->netns : bpf_get_socket_cookie(skb), subject->slot, kind);
	if (packet->protocol == IPPROTO_TCP)
		judge_segment(skb, packet, work, subject, decision);
	else if (find_in_datagram(skb, packet, work))
		answer = judge_message(skb, work, subject, decision);
	else
		settle(subject, decision, 0, REASON_QUERY_UNREADABLE);
	if (decision->reason == REASON_NAME_NOT_ALLOWED || decision->reason == REASON_QUERY_TOO_LONG ||
	    decision->reason == REASON_QUERY_RATE)
		packet->work = index + 1;
	else
		give_work(work);
	return answer;
}

/* Gives back what judge_question may have kept. */
static __always_inline void forget_question(struct packet *packet)
{
	__u32 index = packet->work - 1;
	struct dns_work *work = packet->work ? bpf_map_lookup_elem(&dns_works, &index) : NULL;

	packet->work = 0;
	if (work)
		give_work(work);
}

/* As tell, with the name that may not be asked. */
static __noinline int tell_question(const struct packet *packet, const struct subject *subject, const struct decision *decision,
				    const struct moment *moment, bool named)
{
	__u64 now_ns = bpf_ktime_get_ns();
	__u32 index = packet->work - 1;
	struct dns_work *work = bpf_map_lookup_elem(&dns_works, &index);
	struct named_event *event;

	if (!work || !is_in_budget(moment, subject->slot, now_ns))
		return 0;
	event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);
	if (!event) {
		lose(LOSS_EVENTS_FULL);
		return 0;
	}
	fill_event(&event->event, now_ns, packet, subject, decision, moment);
	copy_name(event->text, key_of_text(work, 0) + __builtin_offsetof(struct text_key, name));
	if (named)
		running_command(event->event.command);
	bpf_ringbuf_submit(event, 0);
	return 0;
}

#endif
