/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * What was decided before, and for whom? Records of sockets, notes of flows. Whoever reads them here may trust what they say;
 * what they say is decided elsewhere.
 */
#ifndef POSTERN_RECORD_H
#define POSTERN_RECORD_H

#include <stdbool.h>
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>

#include "abi.h"
#include "maps.h"
#include "parse.h"
#include "tell.h"
#include "verdict.h"

/* SOCK_STREAM and SOCK_DGRAM, which only libc's headers have. */
#define SOCKET_STREAM 1
#define SOCKET_DATAGRAM 2

/*
 * Threads may send on one UDP socket at once, and a half-written record would join one's address to another's verdict. So direction,
 * flags and sequence, one aligned word, are a sequence lock whose writers don't wait: who finds it taken goes without a record.
 * Of the writers' side the atomics are full barriers, as all are whose value is used; readers' loads are kept in order by order_loads.
 */
#define RECORD_WORD(record) (*(volatile half_word *)&(record)->direction)
#define RECORD_WORD_TURN (__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__ ? 1U << 16 : 1U) /* sequence + 1 */
#define RECORD_WORD_FLAG(flag) bpf_htonl((flag) << 16)

/* Nothing that is read of a record afterwards may be read before. */
static __always_inline __u32 begin_read(const struct record *record)
{
	__u32 word = RECORD_WORD(record);
	order_loads(&record->direction);
	return word;
}

/* Was all that was read since begin_read written by one writer? */
static __always_inline bool is_whole(const struct record *record, __u32 begun)
{
	order_loads(&record->direction);
	return !(begun & RECORD_WORD_FLAG(RECORD_BUSY)) && RECORD_WORD(record) == begun;
}

/* Under the spelling that the layout has for ever. */
static __always_inline __u32 name_of(const struct record *record)
{
	return record->reserved[0];
}

_Static_assert(sizeof(struct record) == 64, "sk_storage outlives every version of the agent");
_Static_assert(__builtin_offsetof(struct record, direction) % 4 == 0, "direction, flags and sequence are one word");

static __always_inline bool begin_write(struct record *record)
{
	__u32 before = RECORD_WORD(record);
	if (before & RECORD_WORD_FLAG(RECORD_BUSY))
		return false;
	return __sync_val_compare_and_swap((half_word *)&record->direction, before, before | RECORD_WORD_FLAG(RECORD_BUSY)) ==
	       before;
}

static __always_inline void end_write(struct record *record, enum direction direction, __u8 flags)
{
	union {
		struct {
			__u8 direction;
			__u8 flags;
			__u16 sequence;
		} fields;
		__u32 word;
	} after = {.fields = {.direction = direction, .flags = flags, .sequence = record->sequence + 1}};
	asm volatile("" ::: "memory");
	/* Where stores are not kept in order one alone could be seen before those of the fields. */
	if (reorders_loads)
		asm volatile("" ::"r"(__sync_lock_test_and_set((half_word *)&record->direction, after.word)) : "memory");
	else
		RECORD_WORD(record) = after.word;
}

static __always_inline bool is_of(const struct record *record, const struct packet *packet)
{
	return record->version == RECORD_VERSION && record->protocol == packet->protocol && record->port == packet->remote_port &&
	       same_address(&record->address, &packet->remote);
}

/* An inbound record as its listener had it: no peer yet. */
static __always_inline bool is_unbound(const struct record *record)
{
	return record->version == RECORD_VERSION && record->protocol == IPPROTO_TCP && record->direction == DIRECTION_INGRESS &&
	       !record->port && is_zero(&record->address);
}

/*
 * Is the record's verdict on this packet one that lets it pass, and is it still the policy's? To be asked between begin_read and
 * is_whole. A SYN is always judged: it may be the first after the socket changed its purpose. `slot` is room for the record's, on the
 * caller's stack.
 */
static __always_inline bool is_current(const struct record *record, const struct packet *packet, __u32 *slot)
{
	const __u32 *epoch;

	if (!is_of(record, packet) || (packet->tcp_flags & TCP_FLAG_BYTE_SYN))
		return false;
	*slot = record->slot;
	epoch = bpf_map_lookup_elem(&epochs, slot);
	return epoch && *epoch == record->epoch && record->verdict < VERDICT_DENY;
}

/* Does the record decide this packet? Fills `key` from it, then looks again whether anybody wrote meanwhile. */
static __always_inline bool recall(const struct record *record, const struct packet *packet, struct counter_key *key)
{
	__u32 begun = begin_read(record);

	if (!is_current(record, packet, &key->slot))
		return false;
	key->ruleset = record->ruleset;
	key->rule = record->rule;
	key->reason = record->reason;
	key->verdict = record->verdict;
	/* What goes to a resolver may be another question each time. */
	return key->verdict < VERDICT_DENY && !(begun & RECORD_WORD_FLAG(RECORD_RESOLVER)) && is_whole(record, begun);
}

/* Sets a flag of a record that nobody has written since it was read. */
static __always_inline void add_flag(struct record *record, __u32 begun, __u8 flag)
{
	if (!is_whole(record, begun) || begun & RECORD_WORD_FLAG(flag))
		return;
	__sync_val_compare_and_swap((half_word *)&record->direction, begun, (begun | RECORD_WORD_FLAG(flag)) + RECORD_WORD_TURN);
}

/* `epoch` of a denial is when its cut was told. What the guard knows of the record holds as long as its two ends do. */
static __always_inline bool write_record(struct record *record, const struct packet *packet, const struct subject *subject,
					 const struct decision *decision, enum direction direction, __u32 epoch, __u8 flags)
{
	if (!begin_write(record))
		return false;
	if (record->direction == direction && (is_unbound(record) || (is_of(record, packet) && record->slot == subject->slot)))
		flags |= record->flags & (RECORD_GUARDED | RECORD_OLD);
	record->version = RECORD_VERSION;
	record->verdict = decision->verdict;
	record->reason = decision->reason;
	record->protocol = packet->protocol;
	record->slot = subject->slot;
	record->epoch = epoch;
	record->rule = decision->rule;
	record->port = packet->remote_port;
	copy_address(&record->address, &packet->remote);
	record->ruleset = decision->ruleset;
	/* What was refused has not begun: once it is allowed, it is by a name that still counts then. */
	record->reserved[0] = decision->verdict == VERDICT_DENY ? 0 : decision->name;
	end_write(record, direction, flags);
	return true;
}

static __always_inline struct record *record_of(struct bpf_sock *sk)
{
	return bpf_sk_storage_get(&sockets, sk, 0, 0);
}

static __always_inline struct record *make_record(struct bpf_sock *sk)
{
	struct record *record = bpf_sk_storage_get(&sockets, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!record)
		lose(LOSS_RECORDS);
	return record;
}

static __always_inline void flow_key_of(struct flow_key *key, const struct packet *packet, __u32 slot, __u64 netns)
{
	__builtin_memset(key, 0, sizeof(*key));
	key->netns = netns;
	copy_address(&key->local, &packet->local);
	copy_address(&key->remote, &packet->remote);
	key->slot = slot;
	key->local_port = packet->socket_port;
	key->remote_port = packet->remote_port;
	key->protocol = packet->protocol;
	key->kind = FLOW_TRANSPORT;
}

static __always_inline void fragment_key_of(struct flow_key *key, const struct packet *packet, __u32 slot, __u64 netns)
{
	flow_key_of(key, packet, slot, netns);
	key->local_port = bpf_htons(packet->fragment_id >> 16);
	key->remote_port = bpf_htons(packet->fragment_id & 0xffff);
	key->protocol = packet->fragment_protocol;
	key->kind = FLOW_FRAGMENT;
}

static __always_inline bool is_fresh(const struct flow *flow, __u64 now_ns, __u64 lifetime_ns)
{
	/* Another CPU may have seen it a moment after `now`. */
	return flow->seen_ns + lifetime_ns > now_ns;
}

/* At most once a second: the entry's cache line then stays shared between CPUs. */
static __always_inline void refresh(struct flow *flow, __u64 now_ns)
{
	if (now_ns > flow->seen_ns + 1000000000ULL)
		flow->seen_ns = now_ns;
}

/* Whose it is, looked at once all else was read: see struct flow. */
static __always_inline bool is_flow(const struct flow *flow, const struct flow_key *key)
{
	order_loads(&flow->epoch);
	return flow->slot == key->slot && flow->local_port == key->local_port && flow->remote_port == key->remote_port &&
	       flow->protocol == key->protocol && flow->number >> 31 == key->kind && same_address(&flow->remote, &key->remote);
}

/* Notes that the workload has lost what it might still need. */
static __always_inline void note_crowd(__u32 slot, __u32 now)
{
	struct budget *budget = bpf_map_lookup_elem(&budgets, &slot);

	if (budget && budget->crowded != now)
		budget->crowded = now;
}

/* May a note be missing because newer ones took its room? */
static __always_inline bool is_crowded(__u32 slot)
{
	const struct budget *budget = bpf_map_lookup_elem(&budgets, &slot);

	return budget && budget->crowded && (__u32)(bpf_ktime_get_coarse_ns() >> 30) - budget->crowded <= CROWDED_TURNS;
}

/* Gives the room back that flow `number` of a workload has, unless it is long somebody else's. */
static __noinline int evict_flow(__u32 slot, __u32 number)
{
	struct flow_order_key order = {.slot = slot, .number = number};
	const struct flow_key *key = bpf_map_lookup_elem(&flow_order, &order);
	const struct flow *flow;

	if (!key)
		return 0;
	flow = bpf_map_lookup_elem(&flows, key);
	if (flow && flow->slot == slot && flow->number == number) {
		__u64 now_ns = bpf_ktime_get_ns();

		if (is_fresh(flow, now_ns, number >> 31 ? FLOW_FRAGMENT_NS : FLOW_INBOUND_NS)) {
			lose(LOSS_FLOWS_EVICTED);
			note_crowd(slot, now_ns >> 30);
			note_crowd(SLOT_UNKNOWN, now_ns >> 30);
		}
		bpf_map_delete_elem(&flows, key);
	}
	bpf_map_delete_elem(&flow_order, &order);
	return 0;
}

/* Keeps `flow` from now on; its identity is taken from the key. First comes the order: a flow that is in none would stay for ever. */
static __noinline int keep_flow(const struct flow_key *key, struct flow *flow)
{
	struct flow_order_key order = {.slot = key->slot};
	const struct flow *before = bpf_map_lookup_elem(&flows, key);
	struct budget *budget;
	__u32 fragment = key->kind == FLOW_FRAGMENT, most, n;

	flow->seen_ns = bpf_ktime_get_ns();
	copy_address(&flow->remote, &key->remote);
	flow->slot = key->slot;
	flow->local_port = key->local_port;
	flow->remote_port = key->remote_port;
	flow->protocol = key->protocol;
	if (before) {
		flow->number = before->number;
		if (is_flow(before, key) && !bpf_map_update_elem(&flows, key, flow, BPF_EXIST))
			return true;
	}
	budget = bpf_map_lookup_elem(&budgets, &order.slot);
	if (!budget)
		goto lost;
	n = __sync_fetch_and_add(fragment ? &budget->fragments : &budget->flows, 1);
	most = fragment ? FRAGMENTS_PER_WORKLOAD : flows_per_workload - FRAGMENTS_PER_WORKLOAD;
	evict_flow(order.slot, fragment << 31 | ((n - most) & 0x7fffffff));
	order.number = fragment << 31 | (n & 0x7fffffff);
	if (bpf_map_update_elem(&flow_order, &order, key, BPF_ANY))
		goto lost;
	flow->number = order.number;
	if (!bpf_map_update_elem(&flows, key, flow, BPF_ANY))
		return true;
	bpf_map_delete_elem(&flow_order, &order);
lost:
	lose(LOSS_FLOWS);
	return false;
}

#endif
