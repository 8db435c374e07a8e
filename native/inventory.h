// SPDX-License-Identifier: Apache-2.0
// What is loaded and attached on this machine, whoever's it is? By id, as the kernel tells it.
#ifndef POSTERN_INVENTORY_H
#define POSTERN_INVENTORY_H

#include <optional>

#include "kernel.h"

namespace postern
{

struct LinkInfo {
	std::uint32_t id;
	std::uint32_t type; // enum bpf_link_type
	std::uint32_t program; // id
	std::uint64_t cgroup; // id; 0: another kind of link, or one that was detached
	std::uint32_t ifindex; // of tcx; 0: another kind of link, or the interface is gone
	std::uint32_t attach_type; // enum bpf_attach_type
};

struct ProgramInfo {
	std::uint32_t id;
	std::uint32_t type; // enum bpf_prog_type
	std::string name; // its first 15 bytes
	std::string tag; // hash of its instructions, in hex; maps and constants are not in it
	std::uint64_t loaded_ns; // since boot
	std::vector<std::uint32_t> map_ids; // of every map that it uses, that of its constants included
	// More of these is known to CAP_SYS_ADMIN alone.
	bool is_whole;
	std::map<std::string, std::uint32_t> maps; // id by name; constants left out
	Bytes constants; // what its constants hold, one map after another
};

LinkInfo link_info(int link_fd);
// Links that come or go while they are listed are left out.
std::vector<LinkInfo> all_links();
// None: there is no such program any more. EPERM without CAP_SYS_ADMIN.
std::optional<ProgramInfo> program_by_id(std::uint32_t id);
ProgramInfo program_info(int program_fd);

} // namespace postern

#endif
