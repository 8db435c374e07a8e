/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Where does state live? Every map, named and typed; what the fields mean is abi.h's business, who reads them the other headers'.
 */
#ifndef POSTERN_MAPS_H
#define POSTERN_MAPS_H

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "abi.h"

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_WORKLOADS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u64);
	__type(value, struct workload);
} workloads SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_GUARDS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u32);
	__type(value, struct guard);
} guards SEC(".maps");

/* A set: the value says nothing. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_SOURCES);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct source_key);
	__type(value, __u8);
} sources SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_IDENTITIES);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct address);
	__type(value, struct identity);
} identities SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, MAX_NETWORKS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct network_key);
	__type(value, __u64);
} networks SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_VERDICTS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct verdict_key);
	__type(value, struct row);
} verdicts SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, MAX_PORTS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct port_key);
	__type(value, struct answer);
} ports SEC(".maps");

/* A set: the value says nothing. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_SELVES);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct self_key);
	__type(value, __u8);
} selves SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_WORKLOADS);
	__type(key, __u32);
	__type(value, __u32);
} epochs SEC(".maps");

/* CLONE: an accepted socket inherits its listener's mark, so established inbound TCP needs no entry of its own in any table. */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC | BPF_F_CLONE);
	__type(key, int);
	__type(value, struct record);
} sockets SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_FLOWS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct flow_key);
	__type(value, struct flow);
} flows SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_FLOWS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct flow_order_key);
	__type(value, struct flow_key);
} flow_order SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, MAX_NAMES);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct name_key);
	__type(value, __u64);
} names SEC(".maps");

/* A set: the value says nothing. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_RESOLVERS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct resolver_key);
	__type(value, __u8);
} resolvers SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_ASKED);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct asked_key);
	__type(value, struct asked);
} asked SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_ASKED);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct order_key);
	__type(value, struct asked_key);
} asked_order SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_TEXTS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct text_key);
	__type(value, struct text);
} texts SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_TEXTS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct told_key);
	__type(value, struct told);
} told SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_TEXTS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct order_key);
	__type(value, __u32);
} told_order SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_LEARNED);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct learned_key);
	__type(value, struct learned);
} learned SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_LEARNED);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct order_key);
	__type(value, struct learned_key);
} learned_order SEC(".maps");

/*
 * What has come of an answer over TCP of which more is to come, as it came: its length, and so many bytes. Who has `taken` it may write it,
 * make it another's or delete it, and nobody else: what is deleted is used again at once. With what the kernel has for an element of its
 * own it fits 16 KiB.
 */
enum begun_room { BEGUN_PIECE = 512 };
struct begun {
	__u32 number; /* n-th << 4 | place: no other of its slot has had it */
	__u32 slot;
	__u32 next; /* sequence number of the byte that belongs behind them */
	__u32 length; /* bytes that have come */
	__u8 bytes[BEGUN_BYTES + BEGUN_PIECE];
	__u32 taken; /* last: whoever fills in an element does so in the order of its bytes */
};
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_BEGUN);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct order_key);
	__type(value, struct begun);
} begun SEC(".maps");

/* What a new one is made of. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct begun);
} begun_blank SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(max_entries, MAX_COUNTERS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct counter_key);
	__type(value, struct counter);
} counters SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, EVENTS_BYTES);
} events SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_WORKLOADS);
	__type(key, __u32);
	__type(value, struct budget);
} budgets SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, LOSS_COUNT);
	__type(key, __u32);
	__type(value, __u64);
} losses SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, DNS_LOSS_COUNT);
	__type(key, __u32);
	__type(value, __u64);
} dns_losses SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct settings);
} settings SEC(".maps");

struct grace_inner {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
};

/* Never read here. An update of its slot returns after every running program has ended, which is what the agent wants of it. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 1);
	__type(key, __u32);
	__array(values, struct grace_inner);
} grace SEC(".maps");

/* Room to read a DNS message in. Several for each processor: who reads one may be interrupted by another that does. */
enum dns_room { DNS_WORKS = 4, DNS_WIRE_BYTES = 512, DNS_TEXT_BYTES = 1024 };
struct dns_work {
	__u32 taken;
	__u32 index; /* its own: a function that the verifier reads apart is told of it by that */
	/* The message; offsets count from the packet's first byte. */
	__u32 begin;
	__u32 end;
	__u32 at; /* what is read next */
	__u16 flags;
	__u16 type; /* of the question */
	__u32 segment_end; /* of TCP, as the next two */
	__u32 unread; /* what of it was not read yet */
	__u32 sequence; /* the same as TCP counts */
	__u32 is_begun; /* the message is not in the packet but in `begun`; offsets count from there */
	struct order_key begun;
	__u32 missing; /* bytes of the packet that are to be put there */
	__u32 interest; /* enum interest of query.h */
	__u32 records; /* of the answer, not read yet */
	__u32 addresses; /* in those that were */
	__s32 loss; /* why it teaches nothing: dns_loss, or a dns_outcome */
	/* The name that is read. */
	__u32 loaded; /* bytes of `wire` that hold something */
	__u32 name_end; /* in `wire`; 0: not reached, or no name */
	__u32 left; /* of the label */
	__u32 label; /* its next byte, in `text` */
	__u32 name_bytes; /* of one that is compressed: so many, without its end */
	__u32 below; /* where its next pointer must lead */
	__u32 resume; /* what follows it, once it has pointed elsewhere */
	__u32 text_begin; /* in `text`, which grows towards its beginning */
	/* What is taught. */
	__u32 number; /* of the text; 0: nothing yet, the message is only looked through */
	__u32 now_s;
	__u32 shortest_ttl_s;
	__u32 expires_s; /* the latest of its addresses */
	struct asked_key key;
	struct asked asked;
	struct learned_key address;
	struct learned learned;
	__u8 told[sizeof(struct told)]; /* as bytes: its lock has no meaning here */
	__u8 wire[DNS_WIRE_BYTES];
	__u8 text[DNS_TEXT_BYTES];
};
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, DNS_WORKS);
	__type(key, __u32);
	__type(value, struct dns_work);
} dns_works SEC(".maps");

/*
 * What cgroup_skb programs may ask on this kernel but not on 6.1. A loader that finds them missing clears these, and the verifier
 * never sees the calls.
 */
const volatile __u8 has_netns_cookie = 1;
const volatile __u8 has_current_process = 1;

/*
 * Loads, or stores, may be done in another order than they stand in (arm64). Where none are, a loader clears this, and the verifier never
 * sees the barriers, which cost as much there as all else on the known path.
 */
const volatile __u8 reorders_loads = 1;

/* How many flows a workload may hold. `flows` and `flow_order` should have room for as many of each. */
const volatile __u32 flows_per_workload = FLOWS_PER_WORKLOAD;

/*
 * Where the same stands in memory, for kernels without these helpers: bytes from the start of struct sock_common, net and task_struct, by
 * the kernel's own BTF. 0: not known. Flows of sockets are then told apart by slot and guarded namespace
 * alone; a refused datagram is told without its sender.
 */
const volatile __u32 sock_netns_offset;
const volatile __u32 netns_cookie_offset;
const volatile __u32 task_pid_offset;
const volatile __u32 task_command_offset;

/*
 * Where struct sk_buff says what is left to do of a frame's checksum: bytes from its start, but of ip_summed, a bit field, bits. 0: not
 * known, and not looked at.
 */
const volatile __u32 checksum_state_bit;
const volatile __u32 checksum_start_offset;
const volatile __u32 checksum_field_offset;
const volatile __u32 buffer_head_offset;
const volatile __u32 buffer_data_offset;

/* Puts every type of abi.h into the object's BTF, from which the agent's view of them is made: a new type must be a member of struct abi. */
const struct abi *abi_types SEC("abi");

#endif
