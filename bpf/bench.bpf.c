/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * What do the programs cost? An empty one to compare with, and the programs as they are but for the destination, which can be
 * another for each run of the same packet: BPF_PROG_TEST_RUN repeats one packet, and cgroup_skb programs can't write to it.
 * For bench/ alone: never attached.
 */
#include "parse.h"

/*
 * A packet to 0.0.0.0 goes to any of `destinations`, all of them as often. Destination i is a port above `destination_port`, or,
 * where that is 0, an address of 10.0.0.0/8: low bits of i times an odd factor, so that neighbours by number are none in a trie.
 */
const volatile __u32 destinations = 1;
const volatile __u32 destination_factor = 1;
const volatile __u32 destination_mask = 0xffffff;
const volatile __u32 destination_shift = 0;
const volatile __u32 destination_port = 0;

__u32 random_state = 1;

/* Computed, not looked up: what is measured must be all that misses a cache. */
static __always_inline void parse_anywhere(struct __sk_buff *skb, __u32 base, struct packet *packet, enum direction direction)
{
	__u32 index;

	parse(skb, base, packet, direction);
	if (((const half_word *)&packet->remote)[3] || packet->ipv6)
		return;
	random_state = random_state * 1664525 + 1013904223;
	index = (__u64)random_state * destinations >> 32;
	if (destination_port) {
		packet->remote_port = bpf_htons(destination_port + index);
		index = 1;
	}
	index = (index * destination_factor & destination_mask) << destination_shift;
	map_ipv4(&packet->remote, bpf_htonl(10 << 24 | index));
}

#define parse parse_anywhere
#include "socket.h"

/* A test run's socket has no ends. It is asked for as much as a real one. */
static __always_inline bool is_between_none(const struct bpf_sock *sk, const struct packet *packet)
{
	__u32 differs = sk->type | sk->src_port;

	if (packet->protocol != IPPROTO_TCP || differs | sk->protocol)
		return false;
	differs = sk->src_ip4 & (packet->remote_port == 0);
	asm volatile("" : "+r"(differs));
	return !differs;
}

#define is_between is_between_none
#include "postern.bpf.c"

/* As egress does with what it lets pass. */
static __noinline int remember(struct __sk_buff *skb)
{
	struct bpf_sock *sk = skb->sk ? bpf_sk_fullsock(skb->sk) : NULL;
	struct record *record = sk ? make_record(sk) : NULL;
	struct decision decision = {.rule = RULE_NONE, .reason = REASON_RULE};
	struct subject subject = {};
	struct packet packet = {};
	struct post post = {};

	parse(skb, ETH_HLEN, &packet, DIRECTION_EGRESS);
	return record && find_by_interface(skb, &subject, &post) &&
	       write_record(record, &packet, &subject, &decision, DIRECTION_EGRESS, subject.epoch, 0);
}

/* The guard, behind an egress program that has judged the flow: once for each run, whose repeats have one socket. */
SEC("tc")
int guard_known(struct __sk_buff *skb)
{
	if (!skb->mark) {
		if (!remember(skb))
			return GUARD_REFUSE;
		skb->mark = 1;
	}
	return judge_frame(skb);
}

/*
 * A question as the guard noted it, put here by bench/: an answer ends its waiting, so it is noted again before each. Both are of bench/'s own
 * making: IPv4 without options, a name whose first label has FRESH_BYTES letters, below a domain of DOMAIN_BYTES, and addresses of 16 bytes a
 * record behind it.
 */
enum {
	FRESH_BYTES = 8,
	DOMAIN_BYTES = 13,
	DNS_AT = ETH_HLEN + 20 + 8,
	RECORD_COUNT_AT = DNS_AT + 6,
	LABEL_AT = DNS_AT + 12 + 1,
	RECORD_BYTES = 16
};
#define RECORDS_AT (LABEL_AT + FRESH_BYTES + 1 + DOMAIN_BYTES + 1 + 4)
struct waiting {
	struct asked_key key;
	struct asked question;
};
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct waiting);
} waiting SEC(".maps");

static __always_inline void write_label(char *label, __u32 number)
{
	for (int i = 0; i < FRESH_BYTES; i++)
		label[i] = 'a' + (number >> 4 * i & 15);
}

/* Another name each time, in a message of the packet; and another number, where it is a question. */
static __noinline __u32 rename_message(struct __sk_buff *skb, bool is_question)
{
	char label[FRESH_BYTES];
	__u16 id;

	random_state = random_state * 1664525 + 1013904223;
	write_label(label, random_state);
	bpf_skb_store_bytes(skb, LABEL_AT, label, sizeof(label), 0);
	id = random_state >> 16;
	if (is_question)
		bpf_skb_store_bytes(skb, DNS_AT, &id, sizeof(id), 0);
	return random_state;
}

static __noinline int wait_again(__u32 name)
{
	__u32 zero = 0;
	struct waiting *one = bpf_map_lookup_elem(&waiting, &zero);

	if (!one)
		return 0;
	one->question.asked_s = coarse_s();
	if (name)
		write_label(one->question.name + DOMAIN_BYTES + 1, name);
	return bpf_map_update_elem(&asked, &one->key, &one->question, BPF_ANY);
}

/* As guard_out, of a question that was never asked before. */
SEC("tc")
int ask_another(struct __sk_buff *skb)
{
	rename_message(skb, true);
	return judge_frame(skb);
}

/* As guard_in, of an answer whose question waits. */
SEC("tc")
int answer_again(struct __sk_buff *skb)
{
	wait_again(0);
	watch_frame(skb);
	return GUARD_PASS;
}

/* The same, of names and addresses that nobody was told before. */
SEC("tc")
int answer_another(struct __sk_buff *skb)
{
	__u32 name = rename_message(skb, false), address;
	__be16 records = 0;

	bpf_skb_load_bytes(skb, RECORD_COUNT_AT, &records, sizeof(records));
	for (__u32 i = 0; i < NAMES_PER_ADDRESS && i < bpf_ntohs(records); i++) {
		address = bpf_htonl(10 << 24 | ((name + i * destination_factor) & 0xffffff));
		bpf_skb_store_bytes(skb, RECORDS_AT + i * RECORD_BYTES + RECORD_BYTES - sizeof(address), &address,
				    sizeof(address), 0);
	}
	wait_again(name);
	watch_frame(skb);
	return GUARD_PASS;
}

SEC("cgroup_skb/egress")
int empty(struct __sk_buff *skb)
{
	return PASS;
}
