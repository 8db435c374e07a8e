/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Whence does it come? The network namespace of a packet and the process that runs, by helpers where the kernel has them for
 * cgroup_skb programs, else read where its own structures hold them. Knows neither workloads nor policy.
 */
#ifndef POSTERN_ORIGIN_H
#define POSTERN_ORIGIN_H

#include <stdbool.h>
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "maps.h"

/* TASK_COMM_LEN, which only the kernel's own headers have; the helper's users are given as much. */
#define COMMAND_BYTES 16

/* The verifier lets nobody count from a socket, so its address is read as a number first. What cannot be read is 0. */
static __noinline __u64 read_netns_cookie(struct __sk_buff *skb)
{
	struct bpf_sock *sk = skb->sk;
	__u64 at = 0;

	if (!sk)
		return 0;
	bpf_probe_read_kernel(&at, sizeof(at), &sk);
	bpf_probe_read_kernel(&at, sizeof(at), (const void *)(at + sock_netns_offset));
	bpf_probe_read_kernel(&at, sizeof(at), (const void *)(at + netns_cookie_offset));
	return at;
}

/* Can cgroup_skb programs ask who runs? Calls always can. */
static __always_inline bool is_process_known(void)
{
	return has_current_process || task_pid_offset;
}

static __always_inline __u32 running_pid(void)
{
	__u32 pid = 0;

	if (has_current_process)
		return bpf_get_current_pid_tgid() >> 32;
	bpf_probe_read_kernel(&pid, sizeof(pid), (const void *)(bpf_get_current_task() + task_pid_offset));
	return pid;
}

static __always_inline void running_command(char command[COMMAND_BYTES])
{
	if (has_current_process || !task_pid_offset)
		bpf_get_current_comm(command, COMMAND_BYTES);
	else
		bpf_probe_read_kernel(command, COMMAND_BYTES, (const void *)(bpf_get_current_task() + task_command_offset));
}

#endif
