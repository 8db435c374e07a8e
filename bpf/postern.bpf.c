/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * The programs, by where they are attached. What a packet says is parse.h's, who is held subject.h's, what policy says verdict.h's and
 * decide.h's, what was decided before record.h's and related.h's, who learns of it tell.h's.
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "call.h"
#include "egress.h"
#include "guard.h"
#include "ingress.h"

SEC("cgroup_skb/egress")
int egress(struct __sk_buff *skb)
{
	return judge_egress(skb);
}

SEC("cgroup_skb/ingress")
int ingress(struct __sk_buff *skb)
{
	return watch_ingress(skb) ? PASS : REFUSE;
}

SEC("cgroup/connect4")
int connect4(struct bpf_sock_addr *call)
{
	return judge_call4(call, HOOK_CONNECT, 0);
}

SEC("cgroup/connect6")
int connect6(struct bpf_sock_addr *call)
{
	struct address none = {};
	return judge_call6(call, HOOK_CONNECT, &none);
}

SEC("cgroup/sendmsg4")
int sendmsg4(struct bpf_sock_addr *call)
{
	return judge_call4(call, HOOK_SENDMSG, call->msg_src_ip4);
}

SEC("cgroup/sendmsg6")
int sendmsg6(struct bpf_sock_addr *call)
{
	struct address message __attribute__((aligned(8))) = {};

	((half_word *)&message)[0] = call->msg_src_ip6[0];
	((half_word *)&message)[1] = call->msg_src_ip6[1];
	((half_word *)&message)[2] = call->msg_src_ip6[2];
	((half_word *)&message)[3] = call->msg_src_ip6[3];
	return judge_call6(call, HOOK_SENDMSG, &message);
}

/* Of the host's, as all interfaces are that these two are attached to: what the pod sends comes in here. */
SEC("tc")
int guard_out(struct __sk_buff *skb)
{
	return judge_frame(skb);
}

SEC("tc")
int guard_in(struct __sk_buff *skb)
{
	return watch_frame(skb) ? GUARD_PASS : GUARD_REFUSE;
}

const char LICENSE[] SEC("license") = "Dual BSD/GPL";
