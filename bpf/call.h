/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * cgroup/connect and sendmsg: a call judged before there is a packet, so that it fails at once. Records no verdict: the caller need
 * not be the socket's owner.
 */
#ifndef POSTERN_CALL_H
#define POSTERN_CALL_H

#include <stdbool.h>
#include <linux/bpf.h>
#include <linux/in.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>

#include "abi.h"
#include "decide.h"
#include "maps.h"
#include "origin.h"
#include "parse.h"
#include "record.h"
#include "related.h"
#include "subject.h"
#include "tell.h"
#include "verdict.h"

/*
 * The caller may not be whom the socket belongs to, so no verdict is recorded; but what the socket was before is over. False: there is
 * no room for a record, and what TCP does later could not be told from what it did before anybody looked.
 */
static __always_inline bool forget(struct bpf_sock_addr *call, bool held)
{
	struct bpf_sock *sk = call->sk;
	struct record *record;
	bool tcp = call->type == SOCKET_STREAM;

	if (!sk)
		return true;
	record = bpf_sk_storage_get(&sockets, sk, 0, held ? BPF_SK_STORAGE_GET_F_CREATE : 0);
	if (!record)
		return !held || !tcp;
	record->pid = bpf_get_current_pid_tgid() >> 32;
	if (tcp && begin_write(record)) {
		record->version = RECORD_VERSION;
		record->protocol = 0;
		record->verdict = VERDICT_DENY;
		record->epoch = 0;
		record->reserved[0] = record->reserved[1] = 0;
		end_write(record, DIRECTION_EGRESS, 0);
	}
	return true;
}

/* May an answer be going out that only egress can tell from a question, because it alone knows the local address? */
static __always_inline bool may_be_reply(struct bpf_sock_addr *call, struct packet *packet, const struct subject *subject,
					 __u32 message_ipv4, const struct address *message)
{
	struct bpf_sock *sk = call->sk;

	if (!sk || !sk->src_port)
		return false;
	packet->local_port = packet->socket_port = bpf_htons(sk->src_port);
	if (packet->ipv6) {
		copy_address(&packet->local, message);
		if (is_zero(&packet->local)) {
			((half_word *)&packet->local)[0] = sk->src_ip6[0];
			((half_word *)&packet->local)[1] = sk->src_ip6[1];
			((half_word *)&packet->local)[2] = sk->src_ip6[2];
			((half_word *)&packet->local)[3] = sk->src_ip6[3];
		}
		if (is_zero(&packet->local))
			return true;
	} else {
		__u32 ipv4 = message_ipv4 ?: sk->src_ip4;
		if (!ipv4)
			return true;
		map_ipv4(&packet->local, ipv4);
	}
	return is_known_flow(packet, subject->slot, netns_of_call(call, subject));
}

/* Judges a connect or a send before there is a packet. 1: goes on; 0: EPERM. */
static __always_inline int judge_call(struct bpf_sock_addr *call, struct packet *packet, enum hook hook, __u32 message_ipv4,
				      const struct address *message)
{
	struct subject subject = {};
	struct decision decision = {};
	struct moment moment = {.hook = hook, .flags = EVENT_PROCESS};
	bool held = find_by_caller(&subject), kept = true;

	packet->protocol = call->type == SOCKET_STREAM ? IPPROTO_TCP : IPPROTO_UDP;
	packet->remote_port = call->user_port;
	if (hook == HOOK_CONNECT)
		kept = forget(call, held && has_ruleset(&subject));
	/* Ping sockets and SCTP have no place here; a UDP connect to port 0 is getaddrinfo asking for a route: nothing can follow. */
	if (call->type != SOCKET_STREAM && (call->protocol != IPPROTO_UDP || !packet->remote_port))
		return 1;
	if (call->type == SOCKET_STREAM && call->protocol == IPPROTO_SCTP)
		return 1;
	/* The kernel turns these into its loopback addresses. */
	if (is_zero(&packet->remote) || (is_mapped(&packet->remote) && !((const half_word *)&packet->remote)[3]))
		return 1;

	if (held)
		decide(&subject, packet, &decision);
	else
		decide_unknown(&subject, packet, bpf_get_netns_cookie(call), &decision);
	if (!kept) {
		refuse_unread(&subject, &decision, REASON_NO_MEMORY);
		/* Nothing stands behind this call that could refuse in silence. */
		decision.silent = 0;
	}
	/* What passes is counted when its packets do; a silent refusal is one that the caller must not notice. */
	if (decision.verdict != VERDICT_DENY || decision.silent)
		return 1;
	if (packet->protocol == IPPROTO_UDP && held && may_be_reply(call, packet, &subject, message_ipv4, message))
		return 1;

	count_decision(&decision, subject.slot, 1, 0);
	moment.socket_cookie = bpf_get_socket_cookie(call);
	moment.netns_cookie = bpf_get_netns_cookie(call);
	moment.pid = bpf_get_current_pid_tgid() >> 32;
	tell(packet, &subject, &decision, &moment, true);
	return 0;
}

static __always_inline int judge_call4(struct bpf_sock_addr *call, enum hook hook, __u32 message_ipv4)
{
	struct packet packet = {};

	map_ipv4(&packet.remote, call->user_ip4);
	return judge_call(call, &packet, hook, message_ipv4, &packet.local);
}

static __always_inline int judge_call6(struct bpf_sock_addr *call, enum hook hook, const struct address *message)
{
	struct packet packet = {};

	((half_word *)&packet.remote)[0] = call->user_ip6[0];
	((half_word *)&packet.remote)[1] = call->user_ip6[1];
	((half_word *)&packet.remote)[2] = call->user_ip6[2];
	((half_word *)&packet.remote)[3] = call->user_ip6[3];
	packet.ipv6 = !is_mapped(&packet.remote);
	return judge_call(call, &packet, hook, 0, message);
}

#endif
