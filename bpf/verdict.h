/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * May this workload talk to this address, protocol and port? Policy alone, by the algebra that abi.h's rows are made for.
 * Knows neither packets nor sockets, and no exemptions; the agent's own mirror of it must give the same answer to every question.
 */
#ifndef POSTERN_VERDICT_H
#define POSTERN_VERDICT_H

#include <stdbool.h>
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>

#include "abi.h"
#include "maps.h"

struct question {
	struct address destination;
	__u16 port; /* host order; of ICMP its kind */
	__u8 protocol;
	__u8 are_names_asked; /* else a ruleset that has rows of names is not judged */
	__u32 slot; /* whose names count */
	__u32 name; /* by which the flow was allowed before: counts whether it has expired or not; 0: none */
	__u32 led; /* the name that had a say; 0: none */
	struct answer names; /* what they say */
} __attribute__((aligned(8)));

/* What one ruleset answers, in one register: reason, whether a denial is silent, the rule told. */
#define VERDICT_OF(reason, silent, rule) ((__u32)(reason) | (__u32)(silent) << 8 | (__u32)(rule) << 16)
#define REASON_OF(answer) ((__u8)(answer))
#define SILENT_OF(answer) ((__u8)((answer) >> 8))
#define RULE_OF(answer) ((__u16)((answer) >> 16))
/* No verdict: this ruleset has rows of names, which were not asked. A reason of 0 is none. */
#define NAMES_UNASKED 0
#define IS_DENIED(answer) (REASON_OF(answer) >= REASON_DENIED)

static __always_inline const struct row *row_of(__u64 ruleset, __u64 subject, __u32 kind)
{
	struct verdict_key key = {.ruleset = ruleset, .subject = subject, .kind = kind};
	return bpf_map_lookup_elem(&verdicts, &key);
}

static __always_inline __u64 class_of(const struct address *address, enum network_space space)
{
	struct network_key key = {.prefixlen = 32 + 128, .space = space, .address = *address};
	const __u64 *class = bpf_map_lookup_elem(&networks, &key);
	return class ? *class : 0;
}

static __always_inline bool matches(const struct entry *entry, __u8 protocol, __u16 port)
{
	if (entry->protocol == PROTOCOL_ANY)
		return true;
	return entry->protocol == protocol && entry->first <= port && port <= entry->last;
}

/* What this row says of a protocol and port. A global function: the verifier then reads its loop once. */
__noinline int ask(const struct row *row, __u32 protocol, __u32 port, struct answer *said)
{
	const struct answer *found = NULL;

	if (!row || !said)
		return 0;
	if (row->flags & ROW_PORT_SET) {
		struct port_key key = {.prefixlen = 96, .protocol = protocol, .port = {port >> 8, port & 0xff}};
		__builtin_memcpy(key.port_set, &row->port_set, sizeof(key.port_set));
		found = bpf_map_lookup_elem(&ports, &key);
	} else {
		for (int i = 0; i < ROW_ENTRIES; i++) {
			if (i >= row->count)
				break;
			if (matches(&row->entries[i], protocol, port)) {
				*said = row->entries[i].answer;
				return 0;
			}
		}
	}
	if (found)
		*said = *found;
	return 0;
}

static __always_inline __u16 least(__u16 a, __u16 b)
{
	return a < b ? a : b;
}

#define NOTHING_SAID                                                                                                             \
	{                                                                                                                        \
		.admin = RULE_NONE, .policy = RULE_NONE, .baseline = RULE_NONE                                                   \
	}

/* Best precedence of each tier, all Limits that anyone satisfies. */
static __always_inline void merge(struct answer *all, const struct answer *one)
{
	all->admin = least(all->admin, one->admin);
	all->policy = least(all->policy, one->policy);
	all->baseline = least(all->baseline, one->baseline);
	all->limits |= one->limits;
}

static __always_inline void ask_and_merge(const struct row *row, const struct question *question, struct answer *all)
{
	struct answer said = NOTHING_SAID;
	ask(row, question->protocol, question->port, &said);
	merge(all, &said);
}

static __always_inline __u32 lowest_bit(__u8 bits)
{
	for (__u32 i = 0; i < MAX_LIMITS; i++) {
		if (bits & (1 << i))
			return i;
	}
	return MAX_LIMITS;
}

/* api.md's composition, step by step. */
static __always_inline __u32 compose(const struct row *header, const struct answer *all)
{
	__u8 missing = header->limits & ~all->limits;

	if (all->admin != RULE_NONE) {
		if ((all->admin & ACTION_MASK) == ACTION_ACCEPT)
			return VERDICT_OF(REASON_ADMIN_ACCEPT, 0, all->admin >> 2);
		if ((all->admin & ACTION_MASK) == ACTION_DENY)
			return VERDICT_OF(REASON_ADMIN_DENY, 0, all->admin >> 2);
	}
	if (missing)
		return VERDICT_OF(REASON_LIMIT, !(missing & ~header->limits_silent), lowest_bit(missing));
	if (all->policy != RULE_NONE)
		return VERDICT_OF(REASON_RULE, 0, all->policy);
	if (header->flags & ROW_ISOLATED)
		return VERDICT_OF(REASON_NO_RULE, !!(header->flags & ROW_SILENT), RULE_NONE);
	if (all->baseline != RULE_NONE) {
		if ((all->baseline & ACTION_MASK) == ACTION_ACCEPT)
			return VERDICT_OF(REASON_BASELINE_ACCEPT, 0, all->baseline >> 2);
		if ((all->baseline & ACTION_MASK) == ACTION_DENY)
			return VERDICT_OF(REASON_BASELINE_DENY, 0, all->baseline >> 2);
	}
	return VERDICT_OF(REASON_NOT_ISOLATED, 0, RULE_NONE);
}

/* The key is copied: an older verifier (6.1) takes none that an argument of a global function points to. */
static __always_inline const struct identity *identity_of(const struct address *address)
{
	struct address key;

	copy_address(&key, address);
	return bpf_map_lookup_elem(&identities, &key);
}

static __always_inline __u32 coarse_s(void)
{
	return bpf_ktime_get_coarse_ns() / 1000000000ULL;
}

/* Is this address in World, as far as the workloads of this machine are concerned? */
static __noinline int is_in_world(const struct address *address)
{
	const struct identity *identity = identity_of(address);

	return !(identity && identity->id && identity->kind & KIND_NOT_WORLD) && !class_of(address, SPACE_NOT_WORLD);
}

static __noinline __u64 class_of_name(__u32 slot, __u32 number)
{
	struct told_key key = {.slot = slot, .number = number};
	const struct told *name = bpf_map_lookup_elem(&told, &key);
	__u64 class;

	if (!name)
		return 0;
	class = name->class;
	/* An element that makes room is used again at once. */
	asm volatile("" ::: "memory");
	return name->slot == slot && name->number == number ? class : 0;
}

/* The name at one index of the destination's, if it has not expired; above it, up to which index there may be names. */
static __noinline __u64 name_at(const struct question *question, __u32 index, __u32 now_s)
{
	struct learned_key key = {.slot = question->slot, .index = index};
	const struct learned *entry;
	__u64 most, number;

	copy_address(&key.address, &question->destination);
	entry = bpf_map_lookup_elem(&learned, &key);
	if (!entry)
		return (__u64)NAMES_PER_ADDRESS << 32;
	most = (__u64)entry->most << 32;
	number = entry->expires_s >= now_s ? entry->name : 0;
	asm volatile("" ::: "memory");
	if (entry->slot != question->slot || !same_address(&entry->address, &question->destination))
		return (__u64)NAMES_PER_ADDRESS << 32;
	return most | number;
}

static __always_inline bool improves(const struct answer *all, const struct answer *one)
{
	return one->admin < all->admin || one->policy < all->policy || one->baseline < all->baseline ||
	       one->limits & ~all->limits;
}

/* Merges what this ruleset says of destinations to which this name led. */
static __noinline int ask_name(__u64 ruleset, struct question *question, __u32 number, __u32 kind)
{
	__u64 class = class_of_name(question->slot, number);
	struct answer said = NOTHING_SAID;
	const struct row *row;

	if (!class)
		return 0;
	row = row_of(ruleset, class, kind);
	if (!row)
		return 0;
	ask(row, question->protocol, question->port, &said);
	if (improves(&question->names, &said))
		question->led = number;
	merge(&question->names, &said);
	return 0;
}

/*
 * The names by which this workload knows the destination, those that have not expired. Beside judge, not below it: the stack ends there. A
 * global function, as judge.
 */
__noinline int ask_names(__u64 ruleset, struct question *question)
{
	__u32 kind, most = NAMES_PER_ADDRESS, now_s = coarse_s();

	if (!question)
		return 0;
	question->names = (struct answer)NOTHING_SAID;
	question->led = 0;
	question->are_names_asked = 1;
	kind = is_in_world(&question->destination) ? 0 : NAME_ANYWHERE;
	if (question->name)
		ask_name(ruleset, question, question->name, kind);
	for (__u32 i = 0; i < NAMES_PER_ADDRESS && i < most; i++) {
		__u64 found = name_at(question, i, now_s);

		if (!i)
			most = found >> 32;
		if ((__u32)found)
			ask_name(ruleset, question, found, kind);
	}
	return 0;
}

/* Of the names by which this workload knows an address the one that counts, or counted, longest; 0: none is known. */
static __noinline __u32 latest_name(__u32 slot, const struct address *address)
{
	struct learned_key key = {.slot = slot};
	__u32 latest = 0, expires_s = 0;

	copy_address(&key.address, address);
	for (__u32 i = 0; i < NAMES_PER_ADDRESS; i++) {
		const struct learned *entry;

		key.index = i;
		entry = bpf_map_lookup_elem(&learned, &key);
		if (entry && entry->expires_s >= expires_s) {
			expires_s = entry->expires_s;
			latest = entry->name;
		}
	}
	return latest;
}

/* A global function: the verifier reads it once for all programs. */
__noinline __u32 judge(__u64 ruleset, struct question *question)
{
	struct answer all = NOTHING_SAID;
	const struct row *header, *row;
	const struct identity *identity;
	__u64 network = 0;
	__u32 kind = KIND_STRANGER;

	if (!question)
		return VERDICT_OF(REASON_MISSING_ROW, 0, RULE_NONE);
	if (!ruleset)
		return VERDICT_OF(REASON_NOT_ISOLATED, 0, RULE_NONE);
	header = row_of(ruleset, 0, 0);
	if (!header)
		return VERDICT_OF(REASON_MISSING_ROW, 0, RULE_NONE);
	if (header->flags & ROW_NAMES && !question->are_names_asked)
		return NAMES_UNASKED;
	ask_and_merge(header, question, &all);

	identity = identity_of(&question->destination);
	if (identity) {
		network = identity->network;
		if (identity->id) {
			struct answer said = NOTHING_SAID;
			kind = identity->kind;
			row = row_of(ruleset, identity->id, 0);
			if (row)
				ask(row, question->protocol, question->port, &said);
			if (said.final)
				return VERDICT_OF(said.final & FINAL_REASON, !!(said.final & FINAL_SILENT), said.policy);
			merge(&all, &said);
		}
	}

	if (!network)
		network = class_of(&question->destination, SPACE_NETWORKS);
	if (network) {
		row = row_of(ruleset, network, 0);
		if (row)
			ask_and_merge(row, question, &all);
	}

	if (header->flags & ROW_ZONES) {
		row = row_of(ruleset, class_of(&question->destination, SPACE_ZONES), kind);
		if (row)
			ask_and_merge(row, question, &all);
	}

	if (header->flags & ROW_NAMES) {
		if (!improves(&all, &question->names))
			question->led = 0;
		merge(&all, &question->names);
	}
	return compose(header, &all);
}

/* As judge, names included. */
static __always_inline __u32 judge_with_names(__u64 ruleset, struct question *question)
{
	__u32 answer;

	question->are_names_asked = 0;
	answer = judge(ruleset, question);
	if (answer != NAMES_UNASKED)
		return answer;
	ask_names(ruleset, question);
	return judge(ruleset, question);
}

/* The answers of both rulesets as one; the fields are those of struct event. */
struct decision {
	__u64 ruleset;
	__u16 rule;
	__u16 shadow_rule;
	__u8 verdict;
	__u8 reason;
	__u8 shadow_reason; /* 0 where the shadow ruleset has no other answer */
	__u8 silent;
	__u32 name; /* the name that had a say; before: by which the flow was allowed before. 0: none */
};

static __always_inline void allow(struct decision *decision, __u64 ruleset, enum reason reason)
{
	*decision = (struct decision){.ruleset = ruleset, .rule = RULE_NONE, .shadow_rule = RULE_NONE, .reason = reason};
}

static __always_inline void deny(struct decision *decision, __u64 ruleset, enum reason reason)
{
	allow(decision, ruleset, reason);
	decision->verdict = VERDICT_DENY;
}

static __always_inline void combine(struct decision *decision, __u64 enforced, __u32 answer, __u64 shadow, __u32 shadow_answer)
{
	bool differs = IS_DENIED(answer) != IS_DENIED(shadow_answer);

	allow(decision, enforced, REASON_OF(answer));
	decision->rule = RULE_OF(answer);
	if (IS_DENIED(answer)) {
		decision->verdict = VERDICT_DENY;
		decision->silent = SILENT_OF(answer);
	} else if (differs) {
		decision->verdict = VERDICT_AUDIT;
		decision->ruleset = shadow;
		decision->rule = RULE_OF(shadow_answer);
		decision->reason = REASON_OF(shadow_answer);
	}
	if (differs) {
		decision->shadow_rule = RULE_OF(shadow_answer);
		decision->shadow_reason = REASON_OF(shadow_answer);
	}
}

#endif
