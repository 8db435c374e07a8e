// SPDX-License-Identifier: Apache-2.0
// BPF_OBJ_GET_INFO_BY_FD, and walks by id.
#include "inventory.h"

#include <cerrno>

#include <bpf/bpf.h>
#include <linux/bpf.h>

namespace postern
{

namespace
{

constexpr std::uint32_t link_type_cgroup = 3;
constexpr std::uint32_t link_type_tcx = 11; // include/uapi/linux/bpf.h of Linux 6.6

// struct bpf_link_info, as far as it concerns cgroups and tcx.
struct RawLinkInfo {
	std::uint32_t type;
	std::uint32_t id;
	std::uint32_t program;
	std::uint32_t padding;
	union {
		struct {
			std::uint64_t cgroup;
			std::uint32_t attach_type;
		} cgroup;
		struct {
			std::uint32_t ifindex;
			std::uint32_t attach_type;
		} tcx;
	};
};

bool is_constants(const std::string &name)
{
	return name.size() >= 7 && name.substr(name.size() - 7) == ".rodata";
}

Bytes first_value(int map_fd, std::uint32_t size)
{
	Bytes value(size);
	const std::uint32_t zero = 0;
	if (bpf_map_lookup_elem(map_fd, &zero, value.data()))
		throw Failure(errno, "read constants");
	return value;
}

} // namespace

LinkInfo link_info(int link_fd)
{
	RawLinkInfo raw{};
	std::uint32_t size = sizeof(raw);
	if (bpf_obj_get_info_by_fd(link_fd, &raw, &size))
		throw Failure(errno, "ask about a link");
	LinkInfo info{raw.id, raw.type, raw.program, 0, 0, 0};
	if (raw.type == link_type_cgroup) {
		info.cgroup = raw.cgroup.cgroup;
		info.attach_type = raw.cgroup.attach_type;
	} else if (raw.type == link_type_tcx) {
		info.ifindex = raw.tcx.ifindex;
		info.attach_type = raw.tcx.attach_type;
	}
	return info;
}

std::vector<LinkInfo> all_links()
{
	std::vector<LinkInfo> links;
	std::uint32_t id = 0;
	while (!bpf_link_get_next_id(id, &id)) {
		const Descriptor link(bpf_link_get_fd_by_id(id));
		if (link.get() >= 0)
			links.push_back(link_info(link.get()));
		else if (errno != ENOENT && errno != EAGAIN) // gone by now, or only about to be attached
			throw Failure(errno, "open link " + std::to_string(id));
	}
	if (errno != ENOENT)
		throw Failure(errno, "list links");
	return links;
}

std::optional<ProgramInfo> program_by_id(std::uint32_t id)
{
	const Descriptor program(bpf_prog_get_fd_by_id(id));
	if (program.get() >= 0)
		return program_info(program.get());
	if (errno == ENOENT)
		return std::nullopt;
	throw Failure(errno, "ask about program " + std::to_string(id));
}

ProgramInfo program_info(int program_fd)
{
	std::vector<std::uint32_t> ids(64); // MAX_USED_MAPS of the kernel
	bpf_prog_info raw{};
	raw.map_ids = reinterpret_cast<std::uint64_t>(ids.data());
	raw.nr_map_ids = static_cast<std::uint32_t>(ids.size());
	std::uint32_t size = sizeof(raw);
	if (bpf_obj_get_info_by_fd(program_fd, &raw, &size))
		throw Failure(errno, "ask about a program");
	ids.resize(raw.nr_map_ids);

	ProgramInfo info{raw.id, raw.type, raw.name, "", raw.load_time, ids, true, {}, {}};
	for (const std::uint8_t byte : raw.tag) {
		constexpr char digits[] = "0123456789abcdef";
		info.tag += {digits[byte >> 4], digits[byte & 15]};
	}
	for (const std::uint32_t map_id : ids) {
		const Descriptor map(bpf_map_get_fd_by_id(map_id));
		bpf_map_info about{};
		std::uint32_t about_size = sizeof(about);
		if (map.get() < 0 && errno == EPERM) {
			info.is_whole = false;
			return info;
		}
		if (map.get() < 0 || bpf_obj_get_info_by_fd(map.get(), &about, &about_size))
			throw Failure(errno, "ask about a program's map");
		if (!is_constants(about.name)) {
			info.maps[about.name] = map_id;
			continue;
		}
		const Bytes value = first_value(map.get(), about.value_size);
		info.constants.insert(info.constants.end(), value.begin(), value.end());
	}
	return info;
}

} // namespace postern
