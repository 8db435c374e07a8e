/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * How does anybody learn of a verdict? Counters (exact), events (within a budget), and the count of what was lost.
 * Decides nothing.
 */
#ifndef POSTERN_TELL_H
#define POSTERN_TELL_H

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "abi.h"
#include "maps.h"
#include "origin.h"
#include "parse.h"
#include "subject.h"
#include "verdict.h"

/* What the context of a program tells of the moment. */
struct moment {
	__u64 socket_cookie;
	__u64 netns_cookie;
	__u32 pid;
	__u8 hook;
	__u8 flags; /* event_flags */
	__u8 muted; /* was told a moment ago */
	__u8 urgent; /* whatever the budget: how often it is told is bounded where it is decided */
};

static __always_inline void lose(enum loss loss)
{
	__u32 index = loss;
	__u64 *lost = bpf_map_lookup_elem(&losses, &index);
	if (lost)
		__sync_fetch_and_add(lost, 1);
}

/* Apart from count, whose callers have no stack to spare and seldom come here. */
static __noinline struct counter *make_counter(const struct counter_key *key)
{
	struct counter zero = {};
	struct counter *counter;

	/* Fails where another CPU was first, and then the lookup finds that one's. */
	bpf_map_update_elem(&counters, key, &zero, BPF_NOEXIST);
	counter = bpf_map_lookup_elem(&counters, key);
	if (!counter)
		lose(LOSS_COUNTERS);
	return counter;
}

/* Atomic although per CPU: a softirq may count on top of a process. */
static __always_inline void count(const struct counter_key *key, __u64 packets, __u64 bytes)
{
	struct counter *counter = bpf_map_lookup_elem(&counters, key) ?: make_counter(key);
	if (!counter)
		return;
	__sync_fetch_and_add(&counter->packets, packets);
	__sync_fetch_and_add(&counter->bytes, bytes);
}

/* Apart from its callers, as make_counter: the key takes stack. */
static __noinline int count_decision(const struct decision *decision, __u32 slot, __u64 packets, __u64 bytes)
{
	struct counter_key key = {
		.ruleset = decision->ruleset,
		.slot = slot,
		.rule = decision->rule,
		.reason = decision->reason,
		.verdict = decision->verdict,
	};
	count(&key, packets, bytes);
	return 0;
}

/* A token bucket without a lock: whoever moves the clock forward refills. Tokens below zero are those that several took at once. */
static __always_inline bool take_token(__u64 *refilled_at, __u32 *tokens_left, __u64 now_ns, __u32 per_second, __u32 burst)
{
	__u64 token_ns = 1000000000ULL / per_second;
	__u64 refilled_ns = *refilled_at;
	__u64 due = now_ns > refilled_ns ? (now_ns - refilled_ns) / token_ns : 0;

	if (due) {
		__u64 next_ns = due >= burst ? now_ns : refilled_ns + due * token_ns;
		if (__sync_val_compare_and_swap(refilled_at, refilled_ns, next_ns) == refilled_ns) {
			__s32 tokens = *tokens_left;
			tokens = (tokens < 0 ? 0 : tokens) + (due > burst ? burst : due);
			*tokens_left = tokens > (__s32)burst ? (__s32)burst : tokens;
		}
	}
	if ((__s32)__sync_fetch_and_sub(tokens_left, 1) > 0)
		return true;
	__sync_fetch_and_add(tokens_left, 1);
	return false;
}

static __always_inline bool may_tell(__u32 slot, __u64 now_ns)
{
	struct budget *budget = bpf_map_lookup_elem(&budgets, &slot);

	return budget && take_token(&budget->refilled_ns, &budget->tokens, now_ns, EVENTS_PER_SECOND, EVENTS_BURST);
}

static __always_inline void fill_event(struct event *event, __u64 now_ns, const struct packet *packet,
				       const struct subject *subject, const struct decision *decision,
				       const struct moment *moment)
{
	__builtin_memset(event, 0, sizeof(*event));
	event->time_ns = now_ns;
	event->cgroup = subject->cgroup;
	event->ruleset = decision->ruleset;
	event->shadow = decision->shadow_reason ? subject->shadow : 0;
	event->socket_cookie = moment->socket_cookie;
	event->netns_cookie = moment->netns_cookie;
	event->slot = subject->slot;
	event->pid = moment->pid;
	event->length = packet->length;
	event->rule = decision->rule;
	event->shadow_rule = decision->shadow_rule;
	event->reason = decision->reason;
	event->shadow_reason = decision->shadow_reason;
	event->verdict = decision->verdict;
	event->hook = moment->hook;
	event->protocol = packet->protocol;
	event->icmp = packet->icmp;
	event->flags = moment->flags | (decision->silent ? EVENT_SILENT : 0);
	event->local_port = packet->local_port;
	event->remote_port = packet->remote_port;
	event->name = decision->name ?: latest_name(subject->slot, &packet->remote);
	event->local = packet->local;
	event->remote = packet->remote;
}

static __always_inline bool is_in_budget(const struct moment *moment, __u32 slot, __u64 now_ns)
{
	if (moment->urgent || may_tell(slot, now_ns))
		return true;
	lose(LOSS_EVENTS_RATE);
	return false;
}

/* `named`: whoever runs is the sender. A constant wherever this is called, so that the verifier can tell dead code. */
static __noinline int tell(const struct packet *packet, const struct subject *subject, const struct decision *decision,
			   const struct moment *moment, bool named)
{
	__u64 now_ns = bpf_ktime_get_ns();
	struct event *event;

	if (!is_in_budget(moment, subject->slot, now_ns))
		return 0;
	event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);
	if (!event) {
		lose(LOSS_EVENTS_FULL);
		return 0;
	}
	fill_event(event, now_ns, packet, subject, decision, moment);
	if (named)
		running_command(event->command);
	bpf_ringbuf_submit(event, 0);
	return 0;
}

#endif
