/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * What does this DNS message ask or tell? An answer to a question that was noted teaches. What is malformed teaches nothing, and is counted
 * by why. Decides nothing, and changes no message.
 */
#ifndef POSTERN_DNS_H
#define POSTERN_DNS_H

#include <stdbool.h>
#include <linux/bpf.h>
#include <linux/udp.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>

#include "abi.h"
#include "learn.h"
#include "maps.h"
#include "parse.h"
#include "subject.h"
#include "tell.h"
#include "verdict.h"

/* RFC 1035, 4.1.1. */
struct dns_header {
	__be16 id;
	__be16 flags;
	__be16 questions;
	__be16 answers;
	__be16 authorities;
	__be16 additionals;
};
#define DNS_FLAG_ANSWER 0x8000
#define DNS_OPCODE_MASK 0x7800
#define DNS_RCODE_MASK 0x000f
#define DNS_RCODE_NONE 0
#define DNS_RCODE_NO_NAME 3
#define DNS_RCODE_REFUSED 5

/* RFC 1035, 3.2.2 and 3.2.4; RFC 3596, 2.1. */
#define DNS_TYPE_A 1
#define DNS_TYPE_CNAME 5
#define DNS_TYPE_AAAA 28
#define DNS_CLASS_IN 1

#define DNS_NAME_BYTES 255 /* on the wire, the root's label among them; RFC 1035, 2.3.4 */
#define DNS_LABEL_BYTES 63
#define DNS_MAX_LABELS 256 /* more than a name has labels, and pointers between them */
#define DNS_POINTER 0xc0

/* What precedes the data of a record, behind its owner's name. */
struct dns_record {
	__be16 type;
	__be16 class;
	__be32 ttl;
	__be16 length;
} __attribute__((packed));

/* The smallest record: its owner the root, or less than a pointer; without data. */
#define DNS_MIN_RECORD_BYTES (1 + sizeof(struct dns_record))
/* What one frame may hold: of TCP, each with its length. */
#define DNS_SEGMENT_MESSAGES (MAX_DATAGRAM / (sizeof(__be16) + sizeof(struct dns_header)))
/*
 * After so many segments before their turn, or for so long, and none in turn, it is not the sender that is behind: the workload has what
 * was not read here, and would wait for ever. A lost segment is sent again after some 200 ms.
 */
#define DNS_EARLY_SEGMENTS 64
#define DNS_EARLY_S 3
#define DNS_MAX_RECORDS (MAX_DATAGRAM / DNS_MIN_RECORD_BYTES)

static __always_inline void lose_dns(enum dns_loss loss)
{
	__u32 index = loss;
	__u64 *lost = bpf_map_lookup_elem(&dns_losses, &index);
	if (lost)
		__sync_fetch_and_add(lost, 1);
}

static __noinline int is_resolver(const struct address *address, __be16 port)
{
	struct resolver_key key = {.port = port};

	copy_address(&key.address, address);
	return !!bpf_map_lookup_elem(&resolvers, &key);
}

/* Room to read a message in, until it is given back. Its index; DNS_WORKS: there is none. */
static __noinline __u32 take_work(void)
{
	for (__u32 i = 0; i < DNS_WORKS; i++) {
		__u32 index = i;
		struct dns_work *work = bpf_map_lookup_elem(&dns_works, &index);
		if (work && !__sync_val_compare_and_swap(&work->taken, 0, 1)) {
			work->index = i;
			return i;
		}
	}
	lose_dns(DNS_BUSY);
	return DNS_WORKS;
}

static __always_inline void give_work(struct dns_work *work)
{
	__sync_lock_test_and_set(&work->taken, 0);
}

enum dns_outcome {
	DNS_READ = -1,
	DNS_OF_NO_INTEREST = -2, /* in order, but no address was asked for */
};

/* bpf_loop hands its callbacks nothing but a place on the stack. What changes is in the work: of that the verifier assumes nothing. */
struct dns_reader {
	struct __sk_buff *skb;
	struct dns_work *work;
};

/* What the message holds at an offset, wherever it is. 0: done. */
static __always_inline long load(struct __sk_buff *skb, struct dns_work *work, bool in_packet, __u32 at, void *to, __u32 bytes)
{
	const struct begun *message;

	if (in_packet || !work->is_begun)
		return bpf_skb_load_bytes(skb, at, to, bytes);
	message = bpf_map_lookup_elem(&begun, &work->begun);
	if (!message || at > BEGUN_BYTES)
		return -1;
	__builtin_memcpy(to, message->bytes + at, bytes);
	return 0;
}

/* The same into `wire`. What is read of a message that has begun may be behind its end: it is not looked at. */
static __always_inline long load_wire(struct __sk_buff *skb, struct dns_work *work, __u32 bytes)
{
	const struct begun *message;

	/* In a form that the verifier can bound. */
	if (!work->is_begun)
		return bpf_skb_load_bytes(skb, work->at, work->wire, ((bytes - 1) & (DNS_WIRE_BYTES - 1)) + 1);
	message = bpf_map_lookup_elem(&begun, &work->begun);
	if (!message || work->at > BEGUN_BYTES)
		return -1;
	copy_name((char *)work->wire, message->bytes + work->at);
	return 0;
}

/*
 * One byte of the name in `wire`, into the text: labels from the last to the first. Bytes that no name of a host has are not taken:
 * a dot inside a label would make two names one.
 */
static long read_name_byte(__u32 index, struct dns_reader *reader)
{
	struct dns_work *work = reader->work;
	__u8 byte;

	if (index >= work->loaded)
		return 1;
	byte = work->wire[index & (DNS_WIRE_BYTES - 1)];
	if (work->left) {
		if (byte <= ' ' || byte >= 0x7f || byte == '.')
			return 1;
		if (byte >= 'A' && byte <= 'Z')
			byte |= 0x20;
		work->text[work->label & TEXT_MASK] = byte;
		work->label++;
		work->left--;
		return 0;
	}
	if (!byte) {
		work->name_end = index + 1;
		return 1;
	}
	if (byte > DNS_LABEL_BYTES)
		return 1;
	if (work->text_begin != TEXT_END) {
		work->text_begin--;
		work->text[work->text_begin & TEXT_MASK] = '.';
	}
	work->text_begin -= byte;
	work->label = work->text_begin;
	work->left = byte;
	return 0;
}

/* Reads the name of a question, which is not compressed, and moves behind it. The root is none: nobody connects to it. */
static __noinline int read_name(struct __sk_buff *skb, struct dns_work *work)
{
	struct dns_reader reader = {.skb = skb, .work = work};
	__u32 length = work->end - work->at;

	if (work->at >= work->end)
		return false;
	if (length > DNS_NAME_BYTES)
		length = DNS_NAME_BYTES;
	work->loaded = length;
	work->left = 0;
	work->name_end = 0;
	work->text_begin = TEXT_END;
	if (load_wire(skb, work, length))
		return false;
	bpf_loop(DNS_NAME_BYTES, read_name_byte, &reader, 0);
	work->at += work->name_end;
	return work->name_end > 1;
}

/*
 * Reads a message to the end of its question, whose text is then in the work. A dns_loss, or a dns_outcome. Who knows that it is `in_packet`
 * says so: there is little stack where questions are judged.
 */
static __always_inline int read_question(struct __sk_buff *skb, struct dns_work *work, bool in_packet)
{
	struct dns_header header;
	__be16 question[2];

	work->at = work->begin + sizeof(header);
	if (work->at > work->end || load(skb, work, in_packet, work->begin, &header, sizeof(header)))
		return DNS_TRUNCATED_MESSAGE;
	work->key.id = header.id;
	work->flags = bpf_ntohs(header.flags);
	work->records = bpf_ntohs(header.answers);
	if (work->flags & DNS_OPCODE_MASK || header.questions != bpf_htons(1))
		return DNS_BAD_HEADER;
	if (!read_name(skb, work))
		return DNS_BAD_NAME;
	if (work->at + sizeof(question) > work->end || load(skb, work, in_packet, work->at, question, sizeof(question)))
		return DNS_TRUNCATED_MESSAGE;
	work->at += sizeof(question);
	work->type = bpf_ntohs(question[0]);
	if (question[1] != bpf_htons(DNS_CLASS_IN) || (work->type != DNS_TYPE_A && work->type != DNS_TYPE_AAAA))
		return DNS_OF_NO_INTEREST;
	return DNS_READ;
}

/* The message of a datagram, by its own length, which was checked when it was parsed. */
static __always_inline bool find_in_datagram(struct __sk_buff *skb, const struct packet *packet, struct dns_work *work)
{
	__be16 length;

	work->begin = packet->base + packet->offset;
	if (bpf_skb_load_bytes(skb, work->begin + __builtin_offsetof(struct udphdr, len), &length, sizeof(length)))
		return false;
	work->end = work->begin + bpf_ntohs(length);
	work->begin += sizeof(struct udphdr);
	return true;
}

/* What a segment carries. */
static __always_inline bool find_in_segment(struct __sk_buff *skb, const struct packet *packet, struct dns_work *work)
{
	__u8 header;

	work->segment_end = packet->base + packet->end;
	work->unread = packet->base + packet->offset;
	if (bpf_skb_load_bytes(skb, work->unread + 4, &work->sequence, sizeof(work->sequence)) ||
	    bpf_skb_load_bytes(skb, work->unread + 12, &header, 1))
		return false;
	work->unread += (header >> 4) * 4;
	work->sequence = bpf_ntohl(work->sequence);
	return true;
}

/* The next message of a segment (RFC 1035, 4.2.2); false: there is none, or not all of it. */
static __noinline int next_in_segment(struct __sk_buff *skb, struct dns_work *work)
{
	__be16 length;

	if (work->unread + sizeof(length) > work->segment_end || bpf_skb_load_bytes(skb, work->unread, &length, sizeof(length)))
		return false;
	work->begin = work->unread + sizeof(length);
	work->end = work->begin + bpf_ntohs(length);
	if (work->end > work->segment_end)
		return false;
	work->sequence += work->end - work->unread;
	work->unread = work->end;
	return true;
}

static __always_inline void set_key(struct dns_work *work, const struct packet *packet, __u64 owner, __u32 slot,
				    enum asked_kind kind)
{
	__builtin_memset(&work->key, 0, sizeof(work->key));
	work->is_begun = 0;
	work->key.owner = owner;
	work->key.slot = slot;
	work->key.kind = kind;
	work->key.protocol = packet->protocol;
	if (kind == ASKED_OF_GUARD) {
		copy_address(&work->key.local, &packet->local);
		copy_address(&work->key.resolver, &packet->remote);
		work->key.local_port = packet->local_port;
		work->key.resolver_port = packet->remote_port;
	}
}

/* Over TCP only the port that resolvers have by the RFC is looked at, so that all other connections cost no look. */
#define DNS_PORT 53

static __always_inline bool may_ask(const struct packet *packet)
{
	return packet->protocol == IPPROTO_UDP || (packet->protocol == IPPROTO_TCP && packet->remote_port == bpf_htons(DNS_PORT));
}

/* One label of a name that may be compressed (RFC 1035, 4.1.4). Sets `left` once the name has ended as it may. */
static long skip_label(__u32 index, struct dns_reader *reader)
{
	struct dns_work *work = reader->work;
	__u8 label[2];
	__u32 target;

	if (work->at >= work->end || load(reader->skb, work, false, work->at, label, 1))
		return 1;
	if (!label[0]) {
		work->at++;
		work->left = work->name_bytes < DNS_NAME_BYTES;
		return 1;
	}
	if (label[0] <= DNS_LABEL_BYTES) {
		work->at += 1 + label[0];
		work->name_bytes += 1 + label[0];
		return 0;
	}
	if ((label[0] & DNS_POINTER) != DNS_POINTER || work->at + 2 > work->end ||
	    load(reader->skb, work, false, work->at, label, 2))
		return 1;
	/* Each further back than where its name began: or it could be followed for ever. */
	target = work->begin + ((label[0] & ~DNS_POINTER) << 8 | label[1]);
	if (target < work->begin + sizeof(struct dns_header) || target >= work->below)
		return 1;
	if (!work->resume)
		work->resume = work->at + 2;
	work->at = work->below = target;
	/* The question's name, which has been read. */
	if (target == work->begin + sizeof(struct dns_header) && !work->name_bytes) {
		work->left = 1;
		return 1;
	}
	return 0;
}

/* Moves behind a name that may be compressed. False: it is none. */
static __always_inline bool skip_name(struct dns_reader *reader)
{
	struct dns_work *work = reader->work;

	work->left = 0;
	work->name_bytes = 0;
	work->resume = 0;
	work->below = work->at;
	bpf_loop(DNS_MAX_LABELS, skip_label, reader, 0);
	if (work->resume)
		work->at = work->resume;
	return work->left;
}

/* An answer is taught by each of its addresses that counts at least as long as the agent says. RFC 2181, 8: no negative time. */
static __always_inline __u32 expiry_of(const struct dns_work *work, __be32 ttl)
{
	__u32 ttl_s = bpf_ntohl(ttl);

	if (ttl_s >> 31)
		ttl_s = 0;
	if (ttl_s > MAX_TTL_S)
		ttl_s = MAX_TTL_S;
	if (ttl_s < work->shortest_ttl_s)
		ttl_s = work->shortest_ttl_s;
	return work->now_s + ttl_s;
}

static __always_inline int learn_address(struct __sk_buff *skb, struct dns_work *work, __u16 type, __be32 ttl)
{
	struct address *address = &work->address.address;

	if (type == DNS_TYPE_A) {
		__be32 ipv4;

		if (load(skb, work, false, work->at, &ipv4, sizeof(ipv4)))
			return DNS_TRUNCATED_MESSAGE;
		map_ipv4(address, ipv4);
	} else if (load(skb, work, false, work->at, address, sizeof(*address))) {
		return DNS_TRUNCATED_MESSAGE;
	}
	if (class_of(address, SPACE_NOT_WORLD))
		lose_dns(DNS_NOT_WORLD);
	__builtin_memset(&work->learned, 0, sizeof(work->learned));
	copy_address(&work->learned.address, address);
	work->learned.slot = work->address.slot = work->key.slot;
	work->learned.name = work->number;
	work->learned.expires_s = expiry_of(work, ttl);
	keep_learned(work);
	return DNS_READ;
}

/* One record of the answer: looked through, or, once the text has its number, taught. */
static long read_record(__u32 index, struct dns_reader *reader)
{
	struct dns_work *work = reader->work;
	struct dns_record record;
	__u32 expires_s, length;
	__u16 type;

	if (!work->records)
		return 1;
	work->records--;
	if (!skip_name(reader)) {
		work->loss = DNS_BAD_NAME;
		return 1;
	}
	if (work->at + sizeof(record) > work->end || load(reader->skb, work, false, work->at, &record, sizeof(record))) {
		work->loss = DNS_TRUNCATED_MESSAGE;
		return 1;
	}
	work->at += sizeof(record);
	length = bpf_ntohs(record.length);
	if (work->at + length > work->end) {
		work->loss = DNS_TRUNCATED_MESSAGE;
		return 1;
	}
	type = bpf_ntohs(record.type);
	if (record.class == bpf_htons(DNS_CLASS_IN) && (type == DNS_TYPE_A || type == DNS_TYPE_AAAA)) {
		if (length != (type == DNS_TYPE_A ? sizeof(__be32) : sizeof(struct address))) {
			work->loss = DNS_BAD_RECORD;
			return 1;
		}
		work->addresses++;
		expires_s = expiry_of(work, record.ttl);
		if (work->expires_s < expires_s)
			work->expires_s = expires_s;
		if (work->number) {
			work->loss = learn_address(reader->skb, work, type, record.ttl);
			if (work->loss >= 0)
				return 1;
		}
	}
	length += work->at;
	/* Where an alias leads is not asked; that it is a name, and nothing else, is. */
	if (record.class == bpf_htons(DNS_CLASS_IN) && type == DNS_TYPE_CNAME && (!skip_name(reader) || work->at != length)) {
		work->loss = DNS_BAD_NAME;
		return 1;
	}
	work->at = length;
	return 0;
}

/* Was this asked, and not answered yet? A dns_loss, or DNS_READ. */
static __noinline int match_question(struct dns_work *work)
{
	const struct asked *question = bpf_map_lookup_elem(&asked, &work->key);

	if (!question)
		return DNS_UNASKED;
	if (question->type != work->type ||
	    !same_name(question->name, key_of_text(work, 0) + __builtin_offsetof(struct text_key, name)))
		return DNS_OTHER_QUESTION;
	if (work->now_s - question->asked_s > ASKED_S)
		return DNS_LATE;
	if (question->owner != work->key.owner || question->slot != work->key.slot || question->id != work->key.id)
		return DNS_UNASKED;
	return DNS_READ;
}

/* Reads all records from the question's end on. */
static __always_inline void read_records(struct __sk_buff *skb, struct dns_work *work)
{
	struct dns_reader reader = {.skb = skb, .work = work};

	work->loss = DNS_READ;
	work->addresses = 0;
	bpf_loop(DNS_MAX_RECORDS, read_record, &reader, 0);
}

/*
 * What a resolver answers: in order from the first byte to the last, or nothing of it is learned. Every address in it belongs to the name
 * that was asked for, whatever aliases stand between; who answers is trusted to say so.
 */
static __always_inline int learn(struct __sk_buff *skb, struct dns_work *work)
{
	const struct settings *setting = read_settings();
	__u32 records = work->records, at = work->at, rcode = work->flags & DNS_RCODE_MASK;
	int loss = match_question(work);

	if (loss != DNS_READ)
		return loss;
	work->shortest_ttl_s = setting ? setting->shortest_ttl_s : 0;
	work->number = 0;
	work->expires_s = 0;
	read_records(skb, work);
	if (work->loss != DNS_READ)
		return work->loss;
	/* Who gets no answer asks on, under the same number, maybe somebody else. */
	if (rcode != DNS_RCODE_NONE && rcode != DNS_RCODE_NO_NAME)
		return DNS_OF_NO_INTEREST;
	if (bpf_map_delete_elem(&asked, &work->key))
		return DNS_UNASKED;
	if (rcode != DNS_RCODE_NONE || !work->addresses)
		return DNS_OF_NO_INTEREST;
	work->number = number_of_text(work, work->key.slot, work->expires_s);
	if (!work->number)
		return DNS_OF_NO_INTEREST;
	work->records = records;
	work->at = at;
	read_records(skb, work);
	return work->loss;
}

/* A message from a resolver. A global function, as put_learned. */
__noinline int learn_message(struct __sk_buff *skb, __u32 index)
{
	struct dns_work *work = bpf_map_lookup_elem(&dns_works, &index);
	int loss;

	if (!work)
		return 0;
	loss = read_question(skb, work, false);
	if (loss == DNS_READ) {
		work->now_s = coarse_s();
		loss = work->flags & DNS_FLAG_ANSWER ? learn(skb, work) : DNS_BAD_HEADER;
	}
	if (loss >= 0)
		lose_dns(loss);
	return 0;
}

/* How a message that has begun stands. */
enum standing {
	STANDING_BEGUN, /* more is to come */
	STANDING_OVER, /* nothing of it, and its room is given back */
	STANDING_LOST, /* and where it ends is not known */
};

static long append_piece(__u32 index, struct dns_reader *reader)
{
	struct dns_work *work = reader->work;
	struct begun *message = bpf_map_lookup_elem(&begun, &work->begun);
	__u32 bytes = work->missing, at;

	if (!message || !bytes)
		return 1;
	at = message->length;
	if (at > BEGUN_BYTES)
		return 1;
	if (bytes > BEGUN_PIECE)
		bytes = BEGUN_PIECE;
	/* In a form that the verifier can bound. */
	bytes = ((bytes - 1) & (BEGUN_PIECE - 1)) + 1;
	if (bpf_skb_load_bytes(reader->skb, work->unread, message->bytes + at, bytes))
		return 1;
	message->length += bytes;
	work->unread += bytes;
	work->sequence += bytes;
	work->missing -= bytes;
	return 0;
}

/* So many bytes of the segment belong behind those that have come. False: it does not have them all. */
static __always_inline bool append(struct __sk_buff *skb, struct dns_work *work, __u32 bytes)
{
	struct dns_reader reader = {.skb = skb, .work = work};
	bool is_all = bytes <= work->segment_end - work->unread;

	work->missing = is_all ? bytes : work->segment_end - work->unread;
	bpf_loop(BEGUN_BYTES / BEGUN_PIECE + 1, append_piece, &reader, 0);
	return is_all && !work->missing;
}

/*
 * Takes of the segment what belongs to the message that has begun, and learns it once it is whole. An enum standing. A global function, as
 * above; whoever calls it has taken the message.
 */
__noinline int go_on(struct __sk_buff *skb, __u32 index)
{
	struct dns_work *work = bpf_map_lookup_elem(&dns_works, &index);
	struct begun *message;
	__u32 whole;

	if (!work)
		return STANDING_LOST;
	message = bpf_map_lookup_elem(&begun, &work->begun);
	if (!message)
		return STANDING_LOST;
	work->missing = 0;
	if (message->length < sizeof(__be16) && !append(skb, work, sizeof(__be16) - message->length))
		goto more;
	whole = sizeof(__be16) + (message->bytes[0] << 8 | message->bytes[1]);
	if (whole > BEGUN_BYTES) {
		lose_dns(DNS_TOO_LONG);
		/* It ends there, whatever it says. */
		work->unread += whole - message->length;
		work->sequence += whole - message->length;
		goto over;
	}
	if (!append(skb, work, whole - message->length))
		goto more;
	work->is_begun = 1;
	work->begin = sizeof(__be16);
	work->end = whole;
	learn_message(skb, index);
	work->is_begun = 0;
over:
	bpf_map_delete_elem(&begun, &work->begun);
	return STANDING_OVER;
more:
	if (work->missing) {
		bpf_map_delete_elem(&begun, &work->begun);
		return STANDING_LOST;
	}
	message->next = work->sequence;
	return STANDING_BEGUN;
}

#define BEGUN_PLACE_BITS 4
_Static_assert(BEGUN_PER_WORKLOAD == 1 << BEGUN_PLACE_BITS, "a number says its place");

static __always_inline bool take_begun(struct begun *message)
{
	return !__sync_val_compare_and_swap(&message->taken, 0, 1);
}

static __always_inline void give_begun(struct begun *message)
{
	__sync_lock_test_and_set(&message->taken, 0);
}

enum taking { TAKEN, TAKEN_BY_ANOTHER, TAKEN_NOT_THERE };

/* Takes the message of this number. An enum taking. */
static __always_inline int find_begun(struct dns_work *work, __u32 number)
{
	struct begun *message;

	work->begun.slot = work->key.slot;
	work->begun.number = number & (BEGUN_PER_WORKLOAD - 1);
	message = bpf_map_lookup_elem(&begun, &work->begun);
	if (!message)
		return TAKEN_NOT_THERE;
	if (!take_begun(message))
		return TAKEN_BY_ANOTHER;
	if (message->number == number && message->slot == work->key.slot)
		return TAKEN;
	give_begun(message);
	return TAKEN_NOT_THERE;
}

/* Room for a message that begins: a free place of its workload's, or that of its oldest. Its number, and the message taken; 0: there is none. */
static __noinline __u32 begin_message(struct dns_work *work)
{
	__u32 slot = work->key.slot, zero = 0, oldest = 0, n;
	struct budget *budget = bpf_map_lookup_elem(&budgets, &slot);
	const struct begun *blank = bpf_map_lookup_elem(&begun_blank, &zero);
	struct begun *message = NULL;

	if (!budget || !blank)
		return 0;
	work->begun.slot = slot;
	n = (__sync_fetch_and_add(&budget->begun, 1) + 1) << BEGUN_PLACE_BITS;
	for (__u32 i = 0; i < BEGUN_PER_WORKLOAD; i++) {
		work->begun.number = i;
		message = bpf_map_lookup_elem(&begun, &work->begun);
		if (!message && !bpf_map_update_elem(&begun, &work->begun, blank, BPF_NOEXIST))
			break;
		if (message && (!i || (__s32)(message->number - oldest) < 0))
			oldest = message->number;
	}
	if (message)
		work->begun.number = oldest & (BEGUN_PER_WORKLOAD - 1);
	message = bpf_map_lookup_elem(&begun, &work->begun);
	if (!message || !take_begun(message))
		return 0;
	message->number = n | work->begun.number;
	message->slot = slot;
	message->length = 0;
	return message->number;
}

/* Of this connection nothing is known from here on. */
static __noinline int forget_stream(struct dns_work *work)
{
	const struct asked *stream;

	work->key.kind |= ASKED_BY_STREAM;
	work->key.id = 0;
	stream = bpf_map_lookup_elem(&asked, &work->key);
	if (!stream)
		return 0;
	if (stream->begun && find_begun(work, stream->begun) == TAKEN)
		bpf_map_delete_elem(&begun, &work->begun);
	bpf_map_delete_elem(&asked, &work->key);
	return 0;
}

static long learn_next(__u32 index, struct dns_reader *reader)
{
	if (!next_in_segment(reader->skb, reader->work))
		return 1;
	learn_message(reader->skb, reader->work->index);
	return 0;
}

/* All that a segment tells, from `unread` on. The number of the message that has begun in `begun`: before, and after. An enum standing. */
static __always_inline int learn_stream(struct __sk_buff *skb, struct dns_work *work, struct asked *stream)
{
	struct dns_reader reader = {.skb = skb, .work = work};
	__u32 number = stream->begun;
	struct begun *message;
	int standing = STANDING_OVER;

	work->key.kind &= ~ASKED_BY_STREAM;
	if (number) {
		standing = go_on(skb, work->index);
		if (standing == STANDING_LOST)
			return STANDING_LOST;
	}
	if (standing == STANDING_OVER) {
		number = 0;
		bpf_loop(DNS_SEGMENT_MESSAGES, learn_next, &reader, 0);
		if (work->unread < work->segment_end) {
			number = begin_message(work);
			if (!number)
				return STANDING_LOST;
			standing = go_on(skb, work->index);
			if (standing == STANDING_LOST)
				return STANDING_LOST;
			if (standing == STANDING_OVER)
				number = 0;
		}
	}
	stream->begun = number;
	stream->next = work->sequence;
	message = number ? bpf_map_lookup_elem(&begun, &work->begun) : NULL;
	if (message)
		give_begun(message);
	return STANDING_OVER;
}

/*
 * A resolver's segment. Only what begins where a message begins is read as one, and that is known from the connection's first byte on: or
 * the text of one answer, which anybody may have written, could play another. What comes before its turn is to be sent again: true. Else
 * the workload would read what was not learned.
 */
static __always_inline bool learn_segment(struct __sk_buff *skb, const struct packet *packet, struct dns_work *work)
{
	struct asked *stream;
	struct begun *message;
	__u32 ahead;

	if (!find_in_segment(skb, packet, work))
		return false;
	work->key.kind |= ASKED_BY_STREAM;
	work->key.id = 0;
	stream = bpf_map_lookup_elem(&asked, &work->key);
	if (stream && (stream->owner != work->key.owner || stream->slot != work->key.slot || stream->type))
		stream = NULL;
	if (packet->tcp_flags & TCP_FLAG_BYTE_SYN) {
		work->sequence++;
		/* It may come again. */
		if (!stream || stream->first != work->sequence) {
			if (stream)
				forget_stream(work);
			work->type = 0;
			work->text_begin = TEXT_END;
			work->asked.first = work->asked.next = work->sequence;
			work->asked.begun = work->asked.early = 0;
			keep_question(work);
			stream = bpf_map_lookup_elem(&asked, &work->key);
		}
	}
	ahead = stream ? stream->next - work->sequence : 0;
	if (work->unread >= work->segment_end) {
		if (stream && !ahead && packet->tcp_flags & (TCP_FLAG_BYTE_FIN | TCP_FLAG_BYTE_RST))
			forget_stream(work);
		return false;
	}
	if (!stream) {
		lose_dns(DNS_UNASKED);
		return false;
	}
	if (ahead >> 31)
		goto early;
	/* It comes again, or it is what was not worth keeping. */
	if (ahead >= work->segment_end - work->unread)
		return false;
	work->unread += ahead;
	work->sequence += ahead;
	if (stream->begun) {
		int taking = find_begun(work, stream->begun);

		if (taking == TAKEN_BY_ANOTHER)
			goto early;
		message = taking == TAKEN ? bpf_map_lookup_elem(&begun, &work->begun) : NULL;
		if (!message)
			goto lost;
		if (message->next != work->sequence) {
			give_begun(message);
			/* Another processor has just read the same. */
			if (stream->next != work->sequence)
				goto early;
			goto lost;
		}
	}
	stream->early = 0;
	if (learn_stream(skb, work, stream) != STANDING_LOST)
		return false;
lost:
	lose_dns(DNS_SEGMENTED);
	forget_stream(work);
	return false;
early:
	lose_dns(DNS_OUT_OF_ORDER);
	if (!stream->early)
		stream->asked_s = coarse_s();
	if (stream->early++ < DNS_EARLY_SEGMENTS && coarse_s() - stream->asked_s <= DNS_EARLY_S)
		return true;
	forget_stream(work);
	return false;
}

/* What comes from a resolver. True: it must not go on now, and will be sent again. A global function, as above. */
__noinline int learn_answer(struct __sk_buff *skb, const struct packet *packet, __u64 owner, __u32 slot, enum asked_kind kind)
{
	struct dns_work *work;
	__u32 index;
	bool is_again = false;

	if (!packet)
		return 0;
	if (packet->fragment) {
		lose_dns(DNS_FRAGMENT);
		if (packet->protocol != IPPROTO_TCP)
			return 0;
	}
	index = take_work();
	work = bpf_map_lookup_elem(&dns_works, &index);
	if (!work)
		return packet->protocol == IPPROTO_TCP;
	set_key(work, packet, owner, slot, kind);
	if (packet->fragment)
		forget_stream(work);
	else if (packet->protocol == IPPROTO_TCP)
		is_again = learn_segment(skb, packet, work);
	else if (find_in_datagram(skb, packet, work))
		learn_message(skb, work->index);
	give_work(work);
	return is_again;
}

#endif
