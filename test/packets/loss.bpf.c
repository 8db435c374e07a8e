/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * A wire that loses every fifth segment of a resolver's, without its sender being told: for tests that look at what TCP makes of that.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define EVERY 5
/* More than any segment has that carries nothing. */
#define EMPTY_BYTES 200

static __u32 seen;

SEC("tc")
int lose(struct __sk_buff *skb)
{
	__u32 header = skb->protocol == bpf_htons(ETH_P_IPV6) ? 40 : 20;
	__u8 protocol = 0;
	__be16 port = 0;

	bpf_skb_load_bytes(skb, ETH_HLEN + (header == 40 ? 6 : 9), &protocol, sizeof(protocol));
	bpf_skb_load_bytes(skb, ETH_HLEN + header, &port, sizeof(port));
	if (protocol != IPPROTO_TCP || port != bpf_htons(53) || skb->len < EMPTY_BYTES)
		return TC_ACT_UNSPEC;
	return __sync_fetch_and_add(&seen, 1) % EVERY == 1 ? TC_ACT_STOLEN : TC_ACT_UNSPEC;
}

const char LICENSE[] SEC("license") = "Dual BSD/GPL";
