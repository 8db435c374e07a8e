/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * What does a workload know by name? Questions that wait, names that were answered, addresses that they led to; each within its
 * workload's budget. Knows no DNS message; how names count for a verdict is verdict.h's.
 */
#ifndef POSTERN_LEARN_H
#define POSTERN_LEARN_H

#include <stdbool.h>
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "abi.h"
#include "maps.h"
#include "parse.h"
#include "tell.h"
#include "verdict.h"

/* Where the text of a work ends. What is behind is never written, so that a name which begins before is followed by zeroes. */
#define TEXT_END 320
#define TEXT_MASK 511

_Static_assert(TEXT_MASK + sizeof(struct text_key) <= DNS_TEXT_BYTES, "a key begins below the mask");
_Static_assert(__builtin_offsetof(struct told, name) - __builtin_offsetof(struct told, slot) ==
		       __builtin_offsetof(struct text_key, name),
	       "a told holds its text's key");

typedef __u64 __attribute__((may_alias, aligned(1))) unaligned_word;
typedef __u32 __attribute__((may_alias, aligned(1))) unaligned_half_word;

/* The text as a key, with `before` in front of it: a slot, or a length in bits. */
static __always_inline __u8 *key_of_text(struct dns_work *work, __u32 before)
{
	__u8 *key = work->text + ((work->text_begin - __builtin_offsetof(struct text_key, name)) & TEXT_MASK);

	*(unaligned_half_word *)key = before;
	return key;
}

static __always_inline void copy_name(char *to, const __u8 *from)
{
#pragma unroll
	for (int i = 0; i < NAME_BYTES / 8; i++) {
		((unaligned_word *)to)[i] = ((const unaligned_word *)from)[i];
		asm volatile("" ::: "memory");
	}
}

static __always_inline bool same_name(const char *a, const __u8 *b)
{
	__u64 differs = 0;

#pragma unroll
	for (int i = 0; i < NAME_BYTES / 8; i++) {
		differs |= ((const unaligned_word *)a)[i] ^ ((const unaligned_word *)b)[i];
		/* Or the compiler would load all words before it compares the first. */
		asm volatile("" : "+r"(differs));
	}
	return !differs;
}

/* Gives the room back that a workload's n-th question has, if it still waits. */
static __noinline int evict_question(__u32 slot, __u32 n)
{
	struct order_key order = {.slot = slot, .number = n};
	const struct asked_key *key = bpf_map_lookup_elem(&asked_order, &order);
	const struct asked *question;

	if (!key)
		return 0;
	question = bpf_map_lookup_elem(&asked, key);
	if (question && question->slot == slot && question->order == n) {
		if (coarse_s() - question->asked_s <= ASKED_S)
			lose(LOSS_QUESTIONS_EVICTED);
		bpf_map_delete_elem(&asked, key);
	}
	bpf_map_delete_elem(&asked_order, &order);
	return 0;
}

/* Keeps the question that `work` holds; the last one under a key is the one that waits. */
static __noinline int keep_question(struct dns_work *work)
{
	struct order_key order = {.slot = work->key.slot};
	struct budget *budget = bpf_map_lookup_elem(&budgets, &order.slot);
	const struct asked *before = bpf_map_lookup_elem(&asked, &work->key);

	work->asked.owner = work->key.owner;
	work->asked.slot = work->key.slot;
	work->asked.id = work->key.id;
	work->asked.type = work->type;
	work->asked.asked_s = coarse_s();
	copy_name(work->asked.name, key_of_text(work, 0) + __builtin_offsetof(struct text_key, name));
	if (before) {
		work->asked.order = before->order;
		if (before->slot == order.slot && !bpf_map_update_elem(&asked, &work->key, &work->asked, BPF_EXIST))
			return 0;
	}
	if (!budget)
		goto lost;
	order.number = __sync_fetch_and_add(&budget->asked, 1);
	evict_question(order.slot, order.number - ASKED_PER_WORKLOAD);
	work->asked.order = order.number;
	if (bpf_map_update_elem(&asked_order, &order, &work->key, BPF_ANY))
		goto lost;
	if (!bpf_map_update_elem(&asked, &work->key, &work->asked, BPF_ANY))
		return 0;
	bpf_map_delete_elem(&asked_order, &order);
lost:
	lose(LOSS_QUESTIONS);
	return 0;
}

/* Gives the room back that a workload's n-th text has, unless it was used since. */
static __noinline int evict_text(__u32 slot, __u32 n)
{
	struct order_key order = {.slot = slot, .number = n};
	const __u32 *number = bpf_map_lookup_elem(&told_order, &order);
	struct told_key key = {.slot = slot};
	const struct told *name;
	const struct text *text;

	if (!number)
		return 0;
	key.number = *number;
	name = bpf_map_lookup_elem(&told, &key);
	if (name) {
		text = bpf_map_lookup_elem(&texts, &name->slot);
		if (text && text->number == key.number && text->order == n) {
			if (text->expires_s >= coarse_s())
				lose(LOSS_TEXTS_EVICTED);
			bpf_map_delete_elem(&texts, &name->slot);
			bpf_map_delete_elem(&told, &key);
		} else if (!text || text->number != key.number) {
			bpf_map_delete_elem(&told, &key);
		}
	}
	bpf_map_delete_elem(&told_order, &order);
	return 0;
}

/* The next place in the order of a workload's texts, for text `number`. False: there is none. */
static __always_inline bool enrol_text(struct budget *budget, __u32 slot, __u32 number, __u32 *n)
{
	struct order_key order = {.slot = slot};

	*n = order.number = __sync_fetch_and_add(&budget->told, 1);
	evict_text(slot, *n - TEXTS_PER_WORKLOAD);
	return !bpf_map_update_elem(&told_order, &order, &number, BPF_ANY);
}

/* As bytes: struct told has a lock, which no map of this kind may hold. */
static __always_inline bool tell_text(struct dns_work *work, const struct told_key *key)
{
	struct told *name = (struct told *)work->told;
	struct told *there;
	const __u64 *class;

	name->class = 0;
	name->number = key->number;
	name->slot = key->slot;
	copy_name(name->name, key_of_text(work, key->slot) + __builtin_offsetof(struct text_key, name));
	if (bpf_map_update_elem(&told, key, name, BPF_ANY))
		return false;
	class = bpf_map_lookup_elem(&names, key_of_text(work, NAME_BYTES * 8));
	there = class ? bpf_map_lookup_elem(&told, key) : NULL;
	if (there)
		there->class = *class;
	return true;
}

/* The number of the text, which is from now on known to its workload until `expires_s` at least. 0: it can't be kept. */
static __noinline __u32 number_of_text(struct dns_work *work, __u32 slot, __u32 expires_s)
{
	struct text text = {.slot = slot, .expires_s = expires_s};
	struct budget *budget = bpf_map_lookup_elem(&budgets, &slot);
	const struct text *before = bpf_map_lookup_elem(&texts, key_of_text(work, slot));
	struct told_key key = {.slot = slot};

	if (!budget)
		goto lost;
	if (before) {
		text = *before;
		if (text.expires_s < expires_s)
			text.expires_s = expires_s;
		/* What is used stays: it moves on in the order before it comes to its turn. */
		if (budget->told - text.order > TEXTS_PER_WORKLOAD / 2 && !enrol_text(budget, slot, text.number, &text.order))
			goto lost;
		if (text.slot == slot && !bpf_map_update_elem(&texts, key_of_text(work, slot), &text, BPF_EXIST))
			return text.number;
		text.slot = slot;
		text.expires_s = expires_s;
	}
	key.number = text.number = __sync_fetch_and_add(&budget->numbers, 1) + 1;
	if (!text.number || !enrol_text(budget, slot, text.number, &text.order))
		goto lost;
	if (!tell_text(work, &key))
		goto lost;
	if (!bpf_map_update_elem(&texts, key_of_text(work, slot), &text, BPF_NOEXIST))
		return text.number;
	/* Another processor was first. */
	bpf_map_delete_elem(&told, &key);
	before = bpf_map_lookup_elem(&texts, key_of_text(work, slot));
	if (before)
		return before->number;
lost:
	lose(LOSS_TEXTS);
	return 0;
}

static __noinline int evict_learned(__u32 slot, __u32 n)
{
	struct order_key order = {.slot = slot, .number = n};
	const struct learned_key *key = bpf_map_lookup_elem(&learned_order, &order);
	const struct learned *entry;

	if (!key)
		return 0;
	entry = bpf_map_lookup_elem(&learned, key);
	if (entry && entry->slot == slot && entry->order == n) {
		if (entry->expires_s >= coarse_s())
			lose(LOSS_LEARNED_EVICTED);
		bpf_map_delete_elem(&learned, key);
	}
	bpf_map_delete_elem(&learned_order, &order);
	return 0;
}

/*
 * Where the name that `work->learned` speaks of is at its address, or could be put: that index. NAMES_PER_ADDRESS: nowhere. Says, too, what
 * index 0 would have to say.
 */
static __noinline __u32 find_place(struct dns_work *work)
{
	__u32 place = NAMES_PER_ADDRESS;

	work->learned.most = 1;
	for (__u32 i = 0; i < NAMES_PER_ADDRESS; i++) {
		const struct learned *entry;

		work->address.index = i;
		entry = bpf_map_lookup_elem(&learned, &work->address);
		if (entry)
			work->learned.most = NAMES_PER_ADDRESS;
		if (entry && entry->name == work->learned.name)
			return i;
		if (place == NAMES_PER_ADDRESS && (!entry || entry->expires_s < work->now_s))
			place = i;
	}
	return place;
}

/* The next place in the order of what a workload has learned. False: there is none. */
static __always_inline bool enrol_learned(struct budget *budget, struct dns_work *work, __u32 *n)
{
	struct order_key order = {.slot = work->address.slot};

	*n = order.number = __sync_fetch_and_add(&budget->learned, 1);
	evict_learned(order.slot, order.number - LEARNED_PER_WORKLOAD);
	return !bpf_map_update_elem(&learned_order, &order, &work->address, BPF_ANY);
}

/* What is learned again counts longer, and moves on in the order before it comes to its turn. In place: `most` is others' too. */
static __always_inline bool renew_learned(struct budget *budget, struct dns_work *work, struct learned *entry)
{
	__u32 n;

	if (budget->learned - entry->order > LEARNED_PER_WORKLOAD / 2) {
		if (!enrol_learned(budget, work, &n))
			return false;
		entry->order = n;
	}
	if (entry->expires_s < work->learned.expires_s)
		entry->expires_s = work->learned.expires_s;
	return true;
}

/* Processors that learn names of one address at once look for a place at once. */
#define PLACE_TRIES 4

/*
 * From now on the name that `learned` of this work speaks of leads to its `address`. 1: it does; 0: another try may find a place; -1: lost.
 * A global function, which the verifier reads once and not for each record of a message.
 */
__noinline int put_learned(__u32 index)
{
	struct dns_work *work = bpf_map_lookup_elem(&dns_works, &index);
	struct budget *budget;
	struct learned *there;
	__u32 slot, place;

	if (!work)
		return -1;
	slot = work->address.slot;
	budget = bpf_map_lookup_elem(&budgets, &slot);
	place = find_place(work);
	if (place >= NAMES_PER_ADDRESS) {
		lose(LOSS_LEARNED_CROWDED);
		return 1;
	}
	if (!budget)
		return -1;
	work->address.index = place;
	there = bpf_map_lookup_elem(&learned, &work->address);
	if (there && there->name == work->learned.name)
		return renew_learned(budget, work, there) ? 1 : -1;
	if (!enrol_learned(budget, work, &work->learned.order))
		return -1;
	/* In place of one that has expired, or where there was none. */
	if (bpf_map_update_elem(&learned, &work->address, &work->learned, there ? BPF_EXIST : BPF_NOEXIST))
		return 0;
	there = bpf_map_lookup_elem(&learned, &work->address);
	if (!there || there->name != work->learned.name)
		return 0;
	if (place) {
		work->address.index = 0;
		there = bpf_map_lookup_elem(&learned, &work->address);
		if (there && there->most <= place)
			there->most = place + 1;
	}
	return 1;
}

static __always_inline void keep_learned(struct dns_work *work)
{
	for (int i = 0; i < PLACE_TRIES; i++) {
		int put = put_learned(work->index);

		if (put > 0)
			return;
		if (put < 0)
			break;
	}
	lose(LOSS_LEARNED);
}

#endif
