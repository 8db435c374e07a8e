// SPDX-License-Identifier: Apache-2.0
// Which program types, map types and helpers does this kernel take, and where are members of its structures? The first is answered by
// loading the smallest that could be refused, the second by the kernel's BTF.
// Reads no version numbers and no configuration: distributions backport.
#include "kernel.h"

#include <cerrno>
#include <cstring>
#include <memory>

#include <bpf/bpf.h>
#include <bpf/btf.h>
#include <bpf/libbpf.h>
#include <linux/bpf.h>

namespace postern
{

namespace
{

constexpr bpf_insn move_immediate(__u8 destination, __s32 value)
{
	return {BPF_ALU64 | BPF_MOV | BPF_K, destination, 0, 0, value};
}
constexpr bpf_insn move_register(__u8 destination, __u8 source)
{
	return {BPF_ALU64 | BPF_MOV | BPF_X, destination, source, 0, 0};
}
constexpr bpf_insn add_immediate(__u8 destination, __s32 value)
{
	return {BPF_ALU64 | BPF_ADD | BPF_K, destination, 0, 0, value};
}
constexpr bpf_insn call_helper(__s32 helper)
{
	return {BPF_JMP | BPF_CALL, 0, 0, 0, helper};
}
constexpr bpf_insn exit_program()
{
	return {BPF_JMP | BPF_EXIT, 0, 0, 0, 0};
}

std::string reason(int error)
{
	const char *name = strerrorname_np(error);
	return std::string(name ? name : "error") + ": " + std::strerror(error);
}

std::string try_program(bpf_prog_type type, bpf_attach_type attach_type, const std::vector<bpf_insn> &instructions)
{
	LIBBPF_OPTS(bpf_prog_load_opts, options);
	options.expected_attach_type = attach_type;
	const Descriptor loaded(bpf_prog_load(type, "probe", "Dual BSD/GPL", instructions.data(), instructions.size(), &options));
	return loaded.get() >= 0 ? "" : reason(errno);
}

std::string try_map(bpf_map_type type, __u32 key_size, __u32 value_size, __u32 max_entries, bpf_map_create_opts options = {})
{
	options.sz = sizeof(options);
	const Descriptor made(bpf_map_create(type, "probe", key_size, value_size, max_entries, &options));
	return made.get() >= 0 ? "" : reason(errno);
}

// Socket storage is refused without BTF for its key and value.
std::string try_socket_storage()
{
	const std::unique_ptr<btf, void (*)(btf *)> types(btf__new_empty(), btf__free);
	if (!types)
		return reason(errno);
	const int integer = btf__add_int(types.get(), "int", 4, BTF_INT_SIGNED);
	if (integer < 0)
		return reason(-integer);
	const int error = btf__load_into_kernel(types.get());
	if (error)
		return reason(-error);
	bpf_map_create_opts options{};
	options.map_flags = BPF_F_NO_PREALLOC;
	options.btf_fd = static_cast<__u32>(btf__fd(types.get()));
	options.btf_key_type_id = static_cast<__u32>(integer);
	options.btf_value_type_id = static_cast<__u32>(integer);
	return try_map(BPF_MAP_TYPE_SK_STORAGE, 4, 4, 0, options);
}

std::string try_array_of_maps()
{
	const Descriptor inner(bpf_map_create(BPF_MAP_TYPE_ARRAY, "probe_inner", 4, 4, 1, nullptr));
	if (inner.get() < 0)
		return reason(errno);
	bpf_map_create_opts options{};
	options.inner_map_fd = static_cast<__u32>(inner.get());
	return try_map(BPF_MAP_TYPE_ARRAY_OF_MAPS, 4, 4, 1, options);
}

// Also looks into members without a name, as C does. In bits; -1: not there.
std::int64_t member_bits(const btf *types, const btf_type *structure, const std::string &name)
{
	if (!structure || !btf_is_composite(structure))
		return -1;
	const btf_member *members = btf_members(structure);
	for (__u32 i = 0; i < btf_vlen(structure); i++) {
		const char *member = btf__name_by_offset(types, members[i].name_off);
		const std::int64_t offset = btf_member_bit_offset(structure, i);
		if (member && name == member)
			return offset;
		if (member && *member)
			continue;
		const std::int64_t inner = member_bits(types, btf__type_by_id(types, members[i].type), name);
		if (inner >= 0)
			return offset + inner;
	}
	return -1;
}

std::int64_t member_offset(const btf *types, const std::string &path)
{
	const std::size_t dot = path.find('.');
	const __s32 id = btf__find_by_name_kind(types, path.substr(0, dot).c_str(), BTF_KIND_STRUCT);
	if (id < 0 || dot == std::string::npos)
		return -1;
	return member_bits(types, btf__type_by_id(types, static_cast<__u32>(id)), path.substr(dot + 1));
}

} // namespace

std::vector<std::int64_t> member_offsets(const std::vector<std::string> &members)
{
	const libbpf_print_fn_t print = libbpf_set_print(nullptr);
	const std::unique_ptr<btf, void (*)(btf *)> types(btf__load_vmlinux_btf(), btf__free);
	libbpf_set_print(print);
	std::vector<std::int64_t> offsets;
	for (const std::string &member : members)
		offsets.push_back(libbpf_get_error(types.get()) ? -1 : member_offset(types.get(), member));
	return offsets;
}

std::map<std::string, std::string> probe()
{
	const std::vector<bpf_insn> allow = {move_immediate(BPF_REG_0, 1), exit_program()};
	// r1 holds the context, which is the helper's argument.
	const std::vector<bpf_insn> cookie = {call_helper(BPF_FUNC_get_netns_cookie), move_immediate(BPF_REG_0, 1),
					      exit_program()};
	const std::vector<bpf_insn> current_process = {call_helper(BPF_FUNC_get_current_pid_tgid), move_immediate(BPF_REG_0, 1),
						       exit_program()};
	// Sixteen bytes of the stack are where it writes.
	const std::vector<bpf_insn> current_command = {
		move_register(BPF_REG_1, BPF_REG_10),   add_immediate(BPF_REG_1, -16), move_immediate(BPF_REG_2, 16),
		call_helper(BPF_FUNC_get_current_comm), move_immediate(BPF_REG_0, 1),  exit_program()};
	// Of address 0 it reads nothing, and says so at run time.
	const std::vector<bpf_insn> read_kernel = {move_register(BPF_REG_1, BPF_REG_10),
						   add_immediate(BPF_REG_1, -8),
						   move_immediate(BPF_REG_2, 8),
						   move_immediate(BPF_REG_3, 0),
						   call_helper(BPF_FUNC_probe_read_kernel),
						   move_immediate(BPF_REG_0, 1),
						   exit_program()};
	const std::vector<bpf_insn> current_task = {call_helper(BPF_FUNC_get_current_task), move_immediate(BPF_REG_0, 1),
						    exit_program()};
	// What fails is in the answer; libbpf would print it besides.
	const libbpf_print_fn_t print = libbpf_set_print(nullptr);
	bpf_map_create_opts no_prealloc{};
	no_prealloc.map_flags = BPF_F_NO_PREALLOC;

	std::map<std::string, std::string> results = {
		{"program/cgroup_skb_egress", try_program(BPF_PROG_TYPE_CGROUP_SKB, BPF_CGROUP_INET_EGRESS, allow)},
		{"program/cgroup_skb_ingress", try_program(BPF_PROG_TYPE_CGROUP_SKB, BPF_CGROUP_INET_INGRESS, allow)},
		{"program/connect4", try_program(BPF_PROG_TYPE_CGROUP_SOCK_ADDR, BPF_CGROUP_INET4_CONNECT, allow)},
		{"program/connect6", try_program(BPF_PROG_TYPE_CGROUP_SOCK_ADDR, BPF_CGROUP_INET6_CONNECT, allow)},
		{"program/sendmsg4", try_program(BPF_PROG_TYPE_CGROUP_SOCK_ADDR, BPF_CGROUP_UDP4_SENDMSG, allow)},
		{"program/sendmsg6", try_program(BPF_PROG_TYPE_CGROUP_SOCK_ADDR, BPF_CGROUP_UDP6_SENDMSG, allow)},
		{"program/sched_cls", try_program(BPF_PROG_TYPE_SCHED_CLS, static_cast<bpf_attach_type>(0), allow)},
		{"map/hash", try_map(BPF_MAP_TYPE_HASH, 4, 4, 1, no_prealloc)},
		{"map/percpu_hash", try_map(BPF_MAP_TYPE_PERCPU_HASH, 4, 8, 1, no_prealloc)},
		{"map/lru_hash", try_map(BPF_MAP_TYPE_LRU_HASH, 4, 4, 1)},
		{"map/lpm_trie", try_map(BPF_MAP_TYPE_LPM_TRIE, 8, 8, 1, no_prealloc)},
		{"map/ringbuf", try_map(BPF_MAP_TYPE_RINGBUF, 0, 0, 1 << 16)},
		{"map/sk_storage", try_socket_storage()},
		{"map/array_of_maps", try_array_of_maps()},
		{"helper/cgroup_skb/bpf_get_netns_cookie", try_program(BPF_PROG_TYPE_CGROUP_SKB, BPF_CGROUP_INET_EGRESS, cookie)},
		{"helper/cgroup_skb/bpf_get_current_pid_tgid",
		 try_program(BPF_PROG_TYPE_CGROUP_SKB, BPF_CGROUP_INET_EGRESS, current_process)},
		{"helper/cgroup_skb/bpf_get_current_comm",
		 try_program(BPF_PROG_TYPE_CGROUP_SKB, BPF_CGROUP_INET_EGRESS, current_command)},
		{"helper/cgroup_skb/bpf_probe_read_kernel",
		 try_program(BPF_PROG_TYPE_CGROUP_SKB, BPF_CGROUP_INET_EGRESS, read_kernel)},
		{"helper/cgroup_skb/bpf_get_current_task",
		 try_program(BPF_PROG_TYPE_CGROUP_SKB, BPF_CGROUP_INET_EGRESS, current_task)},
	};
	libbpf_set_print(print);
	return results;
}

} // namespace postern
