/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Who is held? From the cgroup of a socket or of a caller to the workload, its rulesets and its epoch. Knows no packet.
 */
#ifndef POSTERN_SUBJECT_H
#define POSTERN_SUBJECT_H

#include <stdbool.h>
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "abi.h"
#include "maps.h"
#include "origin.h"
#include "parse.h"

/* Who is held, as it stood when its epoch was read. */
struct subject {
	__u64 cgroup;
	__u64 enforced;
	__u64 shadow;
	__u64 netns; /* the namespace that a guard watches; 0: none does */
	__u32 slot;
	__u32 epoch;
	__u32 lasting; /* the epoch can be relied on: what is decided may be recorded under it */
	__u32 is_host; /* an unknown one that cannot be a pod: it is outside the cgroup of all pods */
};

/*
 * Nothing that is read after this is read before it, or the other way round. BPF of a kernel before 6.14 has no lighter barrier. `at` is a
 * word that may be written, and is left as it is: there is no stack to spare for one.
 */
static __always_inline void order_loads(const void *at)
{
	asm volatile("" ::: "memory");
	if (reorders_loads)
		asm volatile("" ::"r"(__sync_fetch_and_add((half_word *)at, 0)) : "memory");
}

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

		subject->epoch = *epoch;
		order_loads((const void *)epoch);
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
	subject->netns = workload->netns;
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
	if (workload) {
		hold(subject, cgroup, workload);
		return true;
	}
	subject->cgroup = bpf_skb_cgroup_id(skb);
	subject->is_host = setting->pods && bpf_skb_ancestor_cgroup_id(skb, setting->pods_level) != setting->pods;
	return false;
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
	if (workload) {
		hold(subject, cgroup, workload);
		return true;
	}
	subject->cgroup = bpf_get_current_cgroup_id();
	subject->is_host = setting->pods && bpf_get_current_ancestor_cgroup_id(setting->pods_level) != setting->pods;
	return false;
}

static __always_inline bool has_ruleset(const struct subject *subject)
{
	return subject->enforced || subject->shadow;
}

/* The namespace of a socket's packet, as its flows have it. A kernel that doesn't tell: the one where the guard notes what comes in. */
static __always_inline __u64 netns_of(struct __sk_buff *skb, const struct subject *subject)
{
	if (has_netns_cookie)
		return bpf_get_netns_cookie(skb);
	return netns_cookie_offset ? read_netns_cookie(skb) : subject->netns;
}

/* Are answers to this workload learned by its cgroup's own programs? Where a guard watches, it learns; elsewhere only the host can't forge. */
static __always_inline bool is_learning_here(const struct subject *subject, __u64 netns)
{
	const struct settings *setting = read_settings();

	return setting && netns && netns == setting->host_netns && subject->netns != netns;
}

/* The same for a call, which every kernel tells: what one hook notes another must find. */
static __always_inline __u64 netns_of_call(struct bpf_sock_addr *call, const struct subject *subject)
{
	return has_netns_cookie || netns_cookie_offset ? bpf_get_netns_cookie(call) : subject->netns;
}

#endif
