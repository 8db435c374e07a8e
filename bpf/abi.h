/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * The contract between the programs in this folder and the agent: every layout, number and limit that both must know is written
 * here and nowhere else. TypeScript's view of it is generated from the BTF of the compiled object.
 *
 * Addresses are 16 bytes in network order; IPv4 is held v4-mapped (::ffff:a.b.c.d), so nothing exists twice.
 * Ids (rulesets, identities, classes, port sets) are the first 64 bits of a SHA-256 of their content, bytes in the digest's order
 * whatever the machine's; 0 means none.
 */
#ifndef POSTERN_ABI_H
#define POSTERN_ABI_H

#include <linux/bpf.h>
#include <linux/types.h>

typedef __u64 content_id;

/* Constants that the agent needs too are enumerators, because BTF carries no macros. */
enum abi_version { POSTERN_ABI = 1 };

/* Defaults; the agent may resize every map before it loads the object. */
enum map_limit {
	MAX_WORKLOADS = 4096,
	MAX_IDENTITIES = 1048576,
	MAX_NETWORKS = 1048576,
	MAX_VERDICTS = 262144,
	MAX_PORTS = 262144,
	MAX_SELVES = 16384,
	MAX_GUARDS = 4096,
	MAX_SOURCES = 16384,
	MAX_COUNTERS = 65536,
	MAX_FLOWS = 524288, /* what 256 workloads may hold, see enum flows_budget */
	MAX_NAMES = 65536, /* patterns of policies */
	MAX_RESOLVERS = 4096,
	MAX_ASKED = 65536, /* what 32 workloads may hold, see enum names_budget; of the next two, 64 */
	MAX_TEXTS = 65536,
	MAX_LEARNED = 262144,
	MAX_BEGUN = 4096, /* what 256 workloads may hold; up to 16 KiB each, while they are held */
	EVENTS_BYTES = 1 << 20,
};

enum abi_bound {
	SLOT_UNKNOWN = 0, /* workloads that no policy source has named; slots of the known begin at 1 */
	ROW_ENTRIES = 6, /* inline entries: a verdicts element then fills a 192-byte allocation */
	MAX_LIMITS = 8, /* Limits on one workload; a bit each */
	NAME_BYTES = 256, /* 253 of text (RFC 1035, 2.3.4), an end, and room to a word */
	NAMES_PER_ADDRESS = 8, /* that led one workload to one address */
	MAX_LEVELS = 16, /* levels of cgroups, the root's 0 among them, where workloads are looked for; kubelet stops at 5 */
	RULE_NONE = 0xffff,
};

struct address {
	__u8 bytes[16];
};

/* workloads: cgroup id -> workload. A ruleset of 0 is no policy at all: everything passes. */
struct workload {
	__u32 slot; /* index of epochs and budgets */
	struct bpf_spin_lock lock; /* see below */
	content_id enforced; /* what packets get */
	content_id shadow; /* what they would get if Audit policies were enforced; equal to enforced where there are none */
	__u64 netns; /* cookie of the network namespace whose way out is guarded; 0: none is */
};

/*
 * guards: index of an interface of the host's, whose other end is in a pod -> whose frames come out of it. Policy is asked of
 * `workloads`, so that there is one pointer to flip.
 */
enum guard_flags {
	GUARD_HARDWARE_ADDRESS = 1, /* `hardware_address` is known: frames under another are refused */
};
struct guard {
	__u64 cgroup; /* key of workloads; 0: the pod is gone, and nothing leaves any more */
	__u64 netns; /* cookie of the pod's network namespace, as flows have it */
	__s32 nsid; /* that namespace by the number that the host's has for it; -1: it has none */
	__u32 flags; /* guard_flags */
	__u8 hardware_address[6]; /* of the pod's end */
	__u8 reserved[2];
	struct bpf_spin_lock lock; /* as in struct workload */
};

/* sources: what may be sent from, by interface. A set. */
struct source_key {
	__u32 ifindex;
	__u32 reserved;
	struct address address;
};

/* identities: address -> who has it. Also holds host prefixes of networks (/32, /128), which a hash finds faster than a trie. */
struct identity {
	content_id id; /* pod, node or service; 0: none */
	content_id network; /* network class of exactly this address; 0: ask networks */
	__u32 kind; /* what entity rules need to know of this address; KIND_STRANGER where id is 0 */
	struct bpf_spin_lock lock; /* see below */
};

/*
 * The lock is never taken here. It lets the agent write over a value in place (BPF_F_LOCK). An ordinary update replaces the
 * element, and the old one is used again at once: a program that still reads it would see another workload's ruleset.
 */
enum kind {
	KIND_STRANGER = 1, /* an address that nothing in the cluster has; other kinds are hashes, above 1 */
	KIND_NOT_WORLD = 1 << 30, /* a bit of those: somebody in the cluster has it, or this machine */
};

/* networks: LPM, prefix -> class. Three tries in one map: `space` is compared first. prefixlen counts space: 32 + prefix. */
enum network_space {
	SPACE_NETWORKS = 0, /* prefixes that policies list */
	SPACE_ZONES = 1, /* prefixes that entities are made of */
	SPACE_NOT_WORLD =
		2, /* what is outside of World, class not 0: no name leads there, unless the policy says so (`answers: Any`) */
};
struct network_key {
	__u32 prefixlen;
	__u32 space;
	struct address address;
};

/*
 * verdicts: ruleset, subject -> row. The subjects of a destination, each looked up on its own and merged:
 *   subject 0, kind 0             the header: settings of the ruleset, and what holds for every destination
 *   its identity, kind 0          if it has one
 *   its network class, kind 0
 *   its zone class, its kind      only if the header has ROW_ZONES
 *   the class of each name that   only if the header has ROW_NAMES: kind 0 where the destination is in World; where it is not
 *   led this workload to it       (KIND_NOT_WORLD, SPACE_NOT_WORLD), NAME_ANYWHERE, and only rules whose policy says `answers: Any`
 */
enum name_kind {
	NAME_ANYWHERE = 1,
	NAME_ASKED = 4, /* may the name be asked? */
};
/*
 * What may be asked of resolvers is told by rows of one entry, whose answer is final: subject 0 under NAME_ASKED says what holds of every
 * name (no such row: all may be asked), the class of a name what holds of that one instead. `policy` is RULE_NONE, or a Limit's bit number.
 */
struct verdict_key {
	content_id ruleset;
	content_id subject;
	__u32 kind;
	__u32 reserved;
};

/* What one subject contributes for a protocol and port. Merging takes the smallest of each precedence and ORs limits. */
struct answer {
	__u16 admin; /* precedence << 2 | action; RULE_NONE: silent on it */
	__u16 policy; /* precedence of the first rule that allows; RULE_NONE: none does */
	__u16 baseline; /* as admin */
	__u8 limits; /* the Limits that this satisfies */
	__u8 final; /* not 0: the whole verdict, and nothing else is asked; FINAL_* | reason; `policy` is the rule told */
};
enum action {
	ACTION_ACCEPT = 0,
	ACTION_DENY = 1,
	ACTION_PASS = 2,
	ACTION_MASK = 3,
};
enum final {
	FINAL_SILENT = 0x80, /* a denial that is a Drop */
	FINAL_REASON = 0x7f,
};

/* The first entry that matches answers. Ports in host order, bounds included; for ICMP an icmp_kind stands for the port. */
struct entry {
	__u8 protocol; /* IP protocol number; ICMPv6 is held as ICMP (1); PROTOCOL_ANY matches every protocol, port ignored */
	__u8 reserved;
	__u16 first;
	__u16 last;
	struct answer answer;
};
enum entry_protocol { PROTOCOL_ANY = 0 };

enum row_flags {
	ROW_ISOLATED = 1, /* header: without an allowing rule the policy tier denies */
	ROW_SILENT = 2, /* header: that default denial is a Drop */
	ROW_ZONES = 4, /* header: this ruleset has zone rows */
	ROW_PORT_SET = 8, /* entries are in `ports`, under port_set; the inline ones are unused */
	ROW_NAMES = 16, /* header: this ruleset has rows of names */
};
struct row {
	__u8 count; /* inline entries in use */
	__u8 flags; /* row_flags */
	__u8 limits; /* header: the Limits that must be satisfied */
	__u8 limits_silent; /* header: those of them that say Drop */
	__u32 reserved;
	content_id port_set;
	struct entry entries[ROW_ENTRIES];
	__u8 padding[12];
};

/* ports: LPM, (port set, protocol, port) -> answer, for rows of more than ROW_ENTRIES entries. prefixlen: 64 any protocol, 80 any port, 96 one port. */
struct port_key {
	__u32 prefixlen;
	__u8 port_set[8]; /* as held in struct row, byte for byte */
	__u8 protocol;
	__u8 zero;
	__u8 port[2]; /* network order, so that a prefix is a range */
};

/* selves: a workload's own addresses. Traffic to oneself passes. */
struct self_key {
	__u32 slot;
	__u32 reserved;
	struct address address;
};

/* ICMP types of both families under one number; anything else is ICMP_OTHER. */
enum icmp_kind {
	ICMP_OTHER = 0,
	ICMP_ECHO_REQUEST = 1, /* v4 8, v6 128 */
	ICMP_ECHO_ANSWER = 2, /* v4 0, v6 129 */
	ICMP_UNREACHABLE = 3, /* v4 3 (but code 4), v6 1 */
	ICMP_TOO_BIG = 4, /* v4 3 code 4, v6 2 */
	ICMP_TIME_OUT = 5, /* v4 11, v6 3 */
	ICMP_PARAMETER = 6, /* v4 12, v6 4 */
};

enum verdict {
	VERDICT_ALLOW = 0,
	VERDICT_AUDIT = 1, /* passes; would be refused if Audit policies were enforced */
	VERDICT_DENY = 2,
};

/*
 * Why. Numbers are never reused: a retired one stays taken. Below REASON_DENIED it passed. The spelling that users see is the
 * enumerator's, less REASON_, in lower case.
 */
enum reason {
	REASON_RULE = 1, /* a rule of the policy tier allows it */
	REASON_ADMIN_ACCEPT = 2, /* ClusterNetworkPolicy, Admin tier */
	REASON_BASELINE_ACCEPT = 3,
	REASON_NOT_ISOLATED = 4, /* no policy isolates this workload */
	REASON_REPLY = 5, /* answers a connection that came from outside */
	REASON_LOOPBACK = 6,
	REASON_SELF = 7, /* the workload's own address */
	REASON_NEIGHBOUR_DISCOVERY = 8, /* ARP, too */
	REASON_ICMP_ERROR = 9, /* belongs to a known flow */
	REASON_UNKNOWN_ALLOWED = 10, /* workload unknown, --unknown allow */
	REASON_UNKNOWN_HOST = 11, /* workload unknown, in the host's network namespace or outside the cgroup of all pods */
	REASON_FRAGMENT = 12, /* later fragment of a datagram that was allowed */
	REASON_SEARCH_DOMAIN =
		14, /* asks DNS for an allowed name with a search domain behind it: a guard answers that there is none */

	REASON_DENIED = 32, /* not a reason: the first number of refusals */
	REASON_NO_RULE = 32, /* isolated, and no rule allows it: default deny */
	REASON_LIMIT = 33, /* a Limit does not contain it */
	REASON_ADMIN_DENY = 34,
	REASON_BASELINE_DENY = 35,
	REASON_NO_READY_ENDPOINT = 36, /* a Service that nothing stands behind */
	REASON_UNKNOWN_WORKLOAD = 37, /* --unknown deny */
	REASON_MISSING_ROW = 38, /* the ruleset's header is not in the kernel: a bug or drift, refused */
	REASON_TRUNCATED_HEADER = 48,
	REASON_BAD_LENGTH = 49, /* lengths in headers contradict the packet */
	REASON_BAD_VERSION = 50, /* neither IPv4 nor IPv6 */
	REASON_UNKNOWN_EXTENSION_HEADER = 51,
	REASON_TOO_MANY_EXTENSION_HEADERS = 52,
	REASON_SOURCE_ROUTE = 53, /* IPv4 LSRR or SSRR, IPv6 routing header: the address judged is not where it goes */
	REASON_MAPPED_ADDRESS = 54, /* ::ffff:0:0/96 on the wire */
	REASON_FRAGMENT_UNTRACKED = 55, /* no first fragment was allowed */
	REASON_FRAGMENT_TINY = 56, /* first fragment without the whole transport header, or a later one that overlaps it */
	REASON_NO_MEMORY = 57, /* a record that opens something could not be kept */
	REASON_SPOOFED_SOURCE =
		58, /* from an address that is not the pod's; to oneself, from an IPv6 address that is not one's own */
	REASON_VLAN_TAGGED = 59,
	REASON_NOT_IP = 60, /* neither IP nor ARP */
	REASON_SPOOFED_ARP = 61, /* ARP in the name of an address that is not the pod's, or no ARP for IPv4 over Ethernet */
	REASON_SPOOFED_NEIGHBOUR = 62, /* the same of IPv6: an advertisement of another's address, a router's messages */
	REASON_SPOOFED_HARDWARE_ADDRESS = 63, /* from another Ethernet address than the pod's */
	REASON_TCP_WITHOUT_SOCKET = 64, /* refused by policy, but opens nothing: the late answer of a socket that is gone */
	REASON_MISPLACED_CHECKSUM = 65, /* whoever works out its checksum would write it over what was judged */
	/* Questions to a resolver, where policies say which names may be asked (`dns.queries: AllowedNamesOnly`). */
	REASON_NAME_NOT_ALLOWED = 72, /* a name that no policy lists */
	REASON_QUERY_UNREADABLE = 73, /* no single standard question, so that nobody can tell what is asked */
	REASON_QUERY_IN_PIECES =
		74, /* its question is not whole in one packet, or not where its connection's next message begins */
	/* And whatever they say: settings.longest_query, settings.queries_per_second. */
	REASON_QUERY_TOO_LONG = 75,
	REASON_QUERY_RATE = 76,
};

enum direction {
	DIRECTION_EGRESS = 0,
	DIRECTION_INGRESS = 1, /* began outside; what leaves are replies */
};

/* sockets: sk_storage. 64 bytes for ever: sk_storage cannot be iterated, so this map outlives every version of the agent. */
enum record_version { RECORD_VERSION = 1 };
enum record_flags {
	RECORD_BUSY = 1, /* someone is writing it: not to be trusted, not to be written */
	RECORD_GUARDED =
		2, /* the guard has seen it: at its workload's interface, from an address of its own; if ingress, it did come in */
	RECORD_RESOLVER = 8, /* to a resolver: each packet may hold a question, and is looked at */
	RECORD_OLD = 4, /* direction ingress, from before a guard watched that could have seen it come in */
};
struct record {
	__u8 version;
	__u8 verdict;
	__u8 reason;
	__u8 protocol; /* 0: no verdict yet, only the process that called connect */
	__u32 slot;
	__u32 epoch; /* where the verdict is a denial, which nobody trusts: when EVENT_CUT was last told, in 2^27 ns */
	__u16 rule;
	__be16 port; /* remote */
	struct address address; /* remote; all zero in an inbound record not yet used */
	content_id ruleset; /* the one that is told: shadow's where the verdict is audit */
	__u8 direction;
	__u8 flags; /* record_flags */
	__u16 sequence; /* every writer adds one; direction, flags and this are one aligned word */
	__u32 pid; /* who last called connect; 0: nobody did */
	__u64 reserved
		[2]; /* [0]: number of the name that led here, 0 none; [1]: see query.h. Another spelling would be another layout. */
};

/* flows: what has no socket storage or needs it by 5-tuple: inbound UDP and ICMP, outbound UDP of sockets with many peers, fragments. */
enum flow_kind { FLOW_TRANSPORT = 0, FLOW_FRAGMENT = 1 };
struct flow_key {
	__u64 netns; /* cookie: a note made in a namespace of the workload's own opens nothing in the pod's */
	struct address local;
	struct address remote;
	__u32 slot;
	__be16 local_port; /* of ICMP echo, the id; of a fragment, the high half of its id */
	__be16 remote_port; /* of ICMP 0; of a fragment, the low half of its id */
	__u8 protocol;
	__u8 kind; /* flow_kind */
	__u16 reserved;
	__u32 reserved2;
};
/*
 * An element that makes room is used again at once, while a program still reads it. So a flow holds what tells it from every other,
 * and who reads one looks at that last.
 */
struct flow {
	__u64 seen_ns; /* last inbound packet, or last use; monotonic */
	content_id ruleset;
	struct address remote; /* this and the next five as in the key; the number's highest bit is the kind */
	__u32 slot;
	__u32 number; /* of flow_order */
	__be16 local_port;
	__be16 remote_port;
	__u32 epoch;
	__u8 direction;
	__u8 verdict;
	__u8 reason;
	__u8 protocol;
	__u16 rule;
	__u16 detail; /* of a fragment: where the transport header ends, and no later one may begin before; of transport: flow_flags */
	__u32 name; /* number of the name that led here; 0: none */
	__u32 reserved;
};
enum flow_flags {
	FLOW_GUARDED = 1, /* the guard has judged it itself, its source too */
	FLOW_RESOLVER = 2, /* as RECORD_RESOLVER */
};

/*
 * flow_order: what a workload's n-th flow was. A workload that would hold more than its budget loses its own oldest, so nobody's
 * flood takes another's room. Transport and fragments are counted apart.
 */
enum flows_budget { FLOWS_PER_WORKLOAD = 2048, FRAGMENTS_PER_WORKLOAD = 256 /* of these */ };
struct flow_order_key {
	__u32 slot;
	__u32 number; /* kind << 31 | n, modulo 2^31 */
};

/*
 * Names are text: lower case, label by label from the last to the first, dots between, zeroes behind: `com.example.api`. A slot's text
 * has a number, which is what everything else holds; numbers begin at 1 and are not used again. Seconds are monotonic.
 *
 * Before a slot becomes another workload's, the agent deletes all that texts, told, learned and asked, and their orders, hold of it.
 */

/*
 * names: LPM, pattern -> class: the set of all patterns that match where this one is the longest. A pattern that stands for one name
 * ends in a zero byte, one that stands for names below another in a dot: `*.example.org` is `org.example.`. prefixlen in bits.
 */
struct name_key {
	__u32 prefixlen;
	char name[NAME_BYTES];
};

/* resolvers: whose answers count. A set. In a cluster the Service's address and port, and each endpoint's. */
struct resolver_key {
	struct address address;
	__be16 port;
	__u16 reserved;
};

/* asked: a question that a workload has for a resolver, until it is answered. */
enum asked_kind {
	ASKED_OF_SOCKET = 0, /* of its cgroup's programs: addresses and ports are 0, since they see one way translated */
	ASKED_OF_GUARD = 1,
	ASKED_BY_STREAM = 2, /* or that: a TCP connection itself, its id 0: what has come on it */
};
struct asked_key {
	__u64 owner; /* cookie of the socket; of ASKED_OF_GUARD, of the namespace */
	struct address local;
	struct address resolver;
	__u32 slot;
	__be16 local_port;
	__be16 resolver_port;
	__be16 id;
	__u8 protocol;
	__u8 kind; /* asked_kind */
	__u32 reserved;
};
struct asked {
	__u64 owner; /* this and the next two as in the key, see struct flow */
	__u32 slot;
	__be16 id;
	__u16 type; /* of the question */
	__u32 asked_s;
	__u32 order; /* number in asked_order */
	/* Of ASKED_BY_STREAM; sequence numbers of what answers. */
	__u32 first;
	__u32 next; /* of the byte that is read next */
	__u32 begun; /* number of the message that has begun; 0: none has */
	__u32 early; /* segments that came before their turn, since one last came in turn */
	char name[NAME_BYTES];
};

/* texts: what a workload was told addresses of -> its number. told: the other way round, with the class that `names` has for it. */
struct text_key {
	__u32 slot;
	char name[NAME_BYTES];
};
struct text {
	__u32 number;
	__u32 order; /* number in told_order */
	__u32 expires_s; /* the latest of its addresses */
	__u32 slot;
};
struct told_key {
	__u32 slot;
	__u32 number;
};
/*
 * The agent writes classes anew, in place, when it has changed `names` and all programs have ended that may have read them before;
 * who adds a text reads `names` after it is in here, or finds it changed.
 */
struct told {
	content_id class; /* what `names` says of it; 0: no pattern matches */
	struct bpf_spin_lock lock; /* as in struct workload */
	__u32 number; /* this and the next as in the key */
	__u32 slot; /* this and the next are a struct text_key */
	char name[NAME_BYTES];
	__u32 reserved;
};

/* learned: a workload's address -> a name that led to it, by index. */
struct learned_key {
	__u32 slot;
	__u32 index; /* below NAMES_PER_ADDRESS; any may be free */
	struct address address;
};
struct learned {
	__u32 name; /* number in told */
	__u32 expires_s;
	__u32 order; /* number in learned_order */
	__u32 slot; /* this and the address as in the key */
	struct address address;
	__u32 most; /* at index 0: no index from here on was ever used */
	__u32 reserved;
};

/* asked_order, told_order, learned_order: a workload's n-th of each, as flow_order has it. begun: by its place, below BEGUN_PER_WORKLOAD. */
struct order_key {
	__u32 slot;
	__u32 number;
};
enum names_budget {
	ASKED_PER_WORKLOAD = 2048,
	TEXTS_PER_WORKLOAD = 1024,
	LEARNED_PER_WORKLOAD = 4096,
	BEGUN_PER_WORKLOAD = 16, /* answers over TCP of which a part has come */
};
enum names_bound {
	ASKED_S = 30, /* how long a question waits for its answer */
	SHORTEST_TTL_S = 60, /* default of settings.shortest_ttl_s */
	MAX_TTL_S = 604800, /* RFC 8767, 4: a week */
	BEGUN_BYTES = 15360, /* of such an answer, its length among them */
};

#define FLOW_INBOUND_NS (180ULL * 1000000000ULL)
#define FLOW_FRAGMENT_NS (30ULL * 1000000000ULL)

/* counters: per CPU. The hook that decides counts, once: packets by gso_segs, bytes at L3. A refused connect or send is one packet of no bytes. */
struct counter_key {
	content_id ruleset;
	__u32 slot;
	__u16 rule; /* precedence in the tier that the reason names; of REASON_LIMIT the Limit's bit number */
	__u8 reason;
	__u8 verdict;
};
struct counter {
	__u64 packets;
	__u64 bytes;
};

enum hook {
	HOOK_EGRESS = 0,
	HOOK_CONNECT = 1,
	HOOK_SENDMSG = 2,
	HOOK_GUARD = 3,
};
enum event_flags {
	EVENT_SILENT = 1, /* a Drop */
	EVENT_PROCESS = 2, /* pid and command are the sender's (else they are those of its socket's last connect, or 0) */
	EVENT_CUT = 4, /* an established TCP flow was cut: the agent ends the socket */
};
/* events: ring buffer. */
struct event {
	__u64 time_ns; /* monotonic */
	__u64 cgroup; /* of the workload; of an unknown one its own */
	content_id ruleset;
	content_id shadow; /* the shadow ruleset where it has another answer, else 0 */
	__u64 socket_cookie;
	__u64 netns_cookie;
	__u32 slot;
	__u32 pid;
	__u32 length; /* L3 bytes; 0 from connect and sendmsg */
	__u16 rule;
	__u16 shadow_rule;
	__u8 reason;
	__u8 shadow_reason;
	__u8 verdict;
	__u8 hook;
	__u8 protocol;
	__u8 icmp; /* icmp_kind */
	__u8 flags;
	__u8 reserved;
	__be16 local_port;
	__be16 remote_port;
	__u32 name; /* number in told, of the slot: the name that led to the remote address; 0: none is known */
	struct address local;
	struct address remote;
	char command[16];
};

/* Or this: of what is asked of DNS, with the name as in struct told. */
struct named_event {
	struct event event;
	char text[NAME_BYTES];
};

/* budgets: ARRAY by slot; a token bucket of events, and how many flows of each kind were kept so far. */
enum events_budget { EVENTS_PER_SECOND = 100, EVENTS_BURST = 200 };
struct budget {
	__u64 refilled_ns;
	__u32 tokens;
	__u32 flows;
	__u32 fragments;
	__u32 crowded; /* when a flow that still counted last made room, in 2^30 ns; of slot 0: of whichever workload */
	__u32 asked; /* this and the next two: how many were kept so far, see enum names_budget */
	__u32 told;
	__u32 learned;
	__u32 numbers; /* of texts, given so far */
	__u64 queries_refilled_ns; /* the same token bucket, of questions to resolvers */
	__u32 query_tokens;
	__u32 begun; /* as asked */
};
#define CROWDED_TURNS (FLOW_INBOUND_NS >> 30)

/* losses: per CPU; what could not be done, counted and never ignored. */
enum loss {
	LOSS_EVENTS_RATE = 0, /* events beyond a workload's budget */
	LOSS_EVENTS_FULL = 1, /* events that found the ring buffer full */
	LOSS_COUNTERS = 2, /* packets that found no room in counters */
	LOSS_RECORDS = 3, /* sockets without a record: judged packet by packet */
	LOSS_FLOWS = 4, /* flows that could not be kept */
	LOSS_FLOWS_EVICTED = 5, /* flows that still counted when newer ones of their workload took their room */
	LOSS_QUESTIONS = 6, /* questions that could not be kept: their answers teach nothing */
	LOSS_QUESTIONS_EVICTED = 7, /* questions that still waited when newer ones of their workload took their room */
	LOSS_TEXTS = 8, /* names that could not be kept, of answers that would have taught */
	LOSS_TEXTS_EVICTED = 9, /* names that still counted when newer ones of their workload took their room */
	LOSS_LEARNED = 10, /* addresses that could not be kept */
	LOSS_LEARNED_EVICTED = 11, /* addresses that still counted when newer ones of their workload took their room */
	LOSS_LEARNED_CROWDED = 12, /* names beyond NAMES_PER_ADDRESS that lead to one address */
	LOSS_COUNT = 13,
};

/* dns_losses: per CPU; why a question was not noted, or an answer of a resolver's taught nothing. Numbers are never reused. */
enum dns_loss {
	DNS_UNREADABLE_QUESTION = 0, /* a question that says nothing that could be noted */
	DNS_UNASKED = 1, /* nobody waits for it: not asked by this workload from there, or answered before, or forgotten */
	DNS_LATE = 2, /* it was asked too long ago */
	DNS_OTHER_QUESTION = 3, /* another name or type than was asked under its number */
	DNS_TRUNCATED_MESSAGE = 4, /* ends before its header or records say */
	DNS_BAD_NAME = 5, /* labels or pointers that RFC 1035 does not allow, or bytes that no name of a host has */
	DNS_BAD_RECORD = 6, /* an address of another length than its type's */
	DNS_BAD_HEADER = 7, /* no answer to one standard question */
	DNS_FRAGMENT = 8, /* in fragments: what is behind the first can't be known to belong to it */
	DNS_NOT_WORLD = 9, /* addresses outside of World: kept, but only policies that say `answers: Any` follow them */
	DNS_BUSY = 10, /* no room to work in: others were at it on the same processor */
	DNS_SEGMENTED =
		11, /* over TCP, in more than one segment: a question, or an answer whose beginning could not be kept till its end came */
	DNS_OUT_OF_ORDER = 12, /* a segment that came before its turn: it is not let through, and will be sent again */
	DNS_TOO_LONG = 13, /* over TCP, in more than one segment, and longer than BEGUN_BYTES */
	DNS_LOSS_COUNT = 14,
};

/* settings: ARRAY of one. */
enum unknown_policy { UNKNOWN_ALLOW = 0, UNKNOWN_DENY = 1 };
struct settings {
	__u32 levels; /* bit n: some workload's cgroup is an ancestor at level n (the cgroup2 root is level 0) */
	__u32 unknown; /* unknown_policy */
	__u64 host_netns; /* cookie of the host's network namespace; 0: not known, nobody is in it */
	__u64 pods; /* cgroup that all pods are below: whatever is not is the host's; 0: what is enforced is pods and nothing else */
	__u32 pods_level; /* its depth below the cgroup2 root */
	__u32 shortest_ttl_s; /* what an answer counts at least */
	__u32 longest_query; /* bytes of a name that a workload with a policy may ask for; 0: any */
	__u32 queries_per_second; /* of such a workload, and twice as many at once; 0: any number */
};

/*
 * Every type above. A variable of this type in an object puts all of them into its BTF, whatever its programs use; it needs no
 * more than `const struct abi *abi_types SEC("abi");`, a section that no loader maps.
 */
struct abi {
	enum abi_version abi_version;
	enum map_limit map_limit;
	enum abi_bound abi_bound;
	enum kind kind;
	enum network_space network_space;
	enum action action;
	enum final final;
	enum entry_protocol entry_protocol;
	enum row_flags row_flags;
	enum icmp_kind icmp_kind;
	enum verdict verdict;
	enum reason reason;
	enum direction direction;
	enum record_version record_version;
	enum record_flags record_flags;
	enum guard_flags guard_flags;
	enum flow_kind flow_kind;
	enum flow_flags flow_flags;
	enum hook hook;
	enum event_flags event_flags;
	enum events_budget events_budget;
	enum flows_budget flows_budget;
	enum name_kind name_kind;
	enum asked_kind asked_kind;
	enum names_budget names_budget;
	enum names_bound names_bound;
	enum loss loss;
	enum dns_loss dns_loss;
	enum unknown_policy unknown_policy;
	struct address address;
	struct workload workload;
	struct guard guard;
	struct source_key source_key;
	struct identity identity;
	struct network_key network_key;
	struct verdict_key verdict_key;
	struct answer answer;
	struct entry entry;
	struct row row;
	struct port_key port_key;
	struct self_key self_key;
	struct record record;
	struct flow_key flow_key;
	struct flow flow;
	struct flow_order_key flow_order_key;
	struct name_key name_key;
	struct resolver_key resolver_key;
	struct asked_key asked_key;
	struct asked asked;
	struct text_key text_key;
	struct text text;
	struct told_key told_key;
	struct told told;
	struct learned_key learned_key;
	struct learned learned;
	struct order_key order_key;
	struct counter_key counter_key;
	struct counter counter;
	struct event event;
	struct named_event named_event;
	struct budget budget;
	struct settings settings;
};

#endif
