/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Small programs and one map of each type that the addon must handle: the addon's fixture, so that its tests fail for the
 * addon's faults alone. Judges nothing.
 */
#include <linux/bpf.h>
#include <linux/types.h>
#include <bpf/bpf_helpers.h>
#include "../../bpf/abi.h"

const struct abi *abi_types SEC("abi");

struct prefix {
	__u32 length;
	__u8 bytes[4];
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u32);
	__type(value, __u64);
} hash SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 16);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct prefix);
	__type(value, __u32);
} prefixes SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(max_entries, 16);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u32);
	__type(value, __u32);
} per_cpu SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 4);
	__type(key, __u32);
	__type(value, __u32);
} array SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 18);
} events SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 1);
	__type(key, __u32);
	__array(
		values, struct {
			__uint(type, BPF_MAP_TYPE_ARRAY);
			__uint(max_entries, 1);
			__type(key, __u32);
			__type(value, __u32);
		});
} grace SEC(".maps");

const volatile __u8 refusal = 0;

/* Counts each packet in `per_cpu` under key 7, tells its length and a running number in `events`, and passes it. */
SEC("cgroup_skb/egress")
int tell(struct __sk_buff *skb)
{
	__u32 key = 7;
	__u32 one = 1;
	__u32 *count = bpf_map_lookup_elem(&per_cpu, &key);

	if (count)
		(*count)++;
	else
		bpf_map_update_elem(&per_cpu, &key, &one, BPF_ANY);

	key = 0;
	__u32 *number = bpf_map_lookup_elem(&array, &key);
	if (!number)
		return 1;
	__u32 record[2] = {skb->len, (*number)++};
	bpf_ringbuf_output(&events, record, sizeof(record), 0);
	return 1;
}

SEC("cgroup_skb/egress")
int refuse(struct __sk_buff *skb)
{
	return refusal;
}

/* TCX_NEXT, TC_ACT_UNSPEC: what comes after this decides. */
SEC("tc")
int pass_on(struct __sk_buff *skb)
{
	return -1;
}

/* TC_ACT_SHOT */
SEC("tc")
int shoot(struct __sk_buff *skb)
{
	return 2;
}

char license_text[] SEC("license") = "Dual BSD/GPL";
