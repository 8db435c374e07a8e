// SPDX-License-Identifier: Apache-2.0
// tcx by bpf(2) itself, since libbpf 1.1 and Linux headers before 6.6 lack it; clsact by libbpf.
#include "tc.h"

#include <cerrno>
#include <cstring>

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <linux/bpf.h>
#include <linux/pkt_sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "netlink.h"

namespace postern
{

namespace
{

// include/uapi/linux/bpf.h of Linux 6.6.
constexpr std::uint32_t attach_tcx_ingress = 46;
constexpr std::uint32_t attach_tcx_egress = 47;
constexpr std::uint32_t flag_before = 1U << 3;

struct LinkCreate {
	std::uint32_t program_fd;
	std::uint32_t target_ifindex;
	std::uint32_t attach_type;
	std::uint32_t flags;
	std::uint32_t relative_fd; // 0 with flag_before: before all
	std::uint32_t padding;
	std::uint64_t expected_revision; // 0: whichever
};

struct ProgramQuery {
	std::uint32_t target_ifindex;
	std::uint32_t attach_type;
	std::uint32_t query_flags;
	std::uint32_t attach_flags;
	std::uint64_t program_ids;
	std::uint32_t count;
	std::uint32_t padding;
	std::uint64_t program_attach_flags;
	std::uint64_t link_ids;
	std::uint64_t link_attach_flags;
	std::uint64_t revision;
};

// struct bpf_link_info, as far as it concerns tcx; its union begins at the next 8 bytes.
struct LinkInfo {
	std::uint32_t type;
	std::uint32_t id;
	std::uint32_t program;
	std::uint32_t padding;
	std::uint32_t ifindex;
	std::uint32_t attach_type;
};

struct InfoByDescriptor {
	std::uint32_t fd;
	std::uint32_t size;
	std::uint64_t info;
};

template <typename Attributes> long bpf_call(bpf_cmd command, Attributes &attributes)
{
	return ::syscall(SYS_bpf, command, &attributes, sizeof(attributes));
}

std::uint32_t attach_type_of(Side side)
{
	return side == Side::ingress ? attach_tcx_ingress : attach_tcx_egress;
}

std::string place_name(const char *what, std::uint32_t ifindex, Side side)
{
	return std::string(what) + (side == Side::ingress ? " ingress" : " egress") + " of interface " + std::to_string(ifindex);
}

// Ours among filters: what takes no priority of its own gets 49152 and less, so 1 is before it.
constexpr std::uint32_t filter_priority = 1;
constexpr std::uint32_t filter_handle = 0x706f7374; // "post"

bpf_tc_hook hook_of(std::uint32_t ifindex, int points)
{
	bpf_tc_hook hook{};
	hook.sz = sizeof(hook);
	hook.ifindex = static_cast<int>(ifindex);
	hook.attach_point = static_cast<bpf_tc_attach_point>(points);
	return hook;
}

bpf_tc_attach_point point_of(Side side)
{
	return side == Side::ingress ? BPF_TC_INGRESS : BPF_TC_EGRESS;
}

bpf_tc_opts filter_options()
{
	bpf_tc_opts options{};
	options.sz = sizeof(options);
	options.handle = filter_handle;
	options.priority = filter_priority;
	return options;
}

// ENOENT: no filter of this handle; EINVAL: no clsact at all; ENODEV: no interface.
bool means_absent(int error)
{
	return error == ENOENT || error == EINVAL || error == ENODEV;
}

bool has_filters(std::uint32_t ifindex, Side side)
{
	Route route(place_name("list filters at", ifindex, side));
	tcmsg header{};
	header.tcm_ifindex = static_cast<int>(ifindex);
	header.tcm_parent = TC_H_MAKE(TC_H_CLSACT, side == Side::ingress ? TC_H_MIN_INGRESS : TC_H_MIN_EGRESS);
	bool found = false;
	Message request(RTM_GETTFILTER, NLM_F_DUMP, header);
	route.ask(request.finish(), [&](const nlmsghdr *message) { found = found || message->nlmsg_type == RTM_NEWTFILTER; });
	return found;
}

// What fails is in the error; libbpf would print it besides.
class Quiet
{
      public:
	Quiet() : before_(libbpf_set_print(nullptr)) {}
	~Quiet()
	{
		libbpf_set_print(before_);
	}
	Quiet(const Quiet &) = delete;
	Quiet &operator=(const Quiet &) = delete;

      private:
	libbpf_print_fn_t before_;
};

} // namespace

Descriptor attach_tcx(int program_fd, std::uint32_t ifindex, Side side)
{
	LinkCreate attributes{};
	attributes.program_fd = static_cast<std::uint32_t>(program_fd);
	attributes.target_ifindex = ifindex;
	attributes.attach_type = attach_type_of(side);
	attributes.flags = flag_before;
	Descriptor link(static_cast<int>(bpf_call(BPF_LINK_CREATE, attributes)));
	if (link.get() < 0)
		throw Failure(errno, place_name("attach by tcx to", ifindex, side));
	return link;
}

TcxPlace tcx_place(int link_fd)
{
	LinkInfo info{};
	InfoByDescriptor attributes{static_cast<std::uint32_t>(link_fd), sizeof(info), reinterpret_cast<std::uint64_t>(&info)};
	if (bpf_call(BPF_OBJ_GET_INFO_BY_FD, attributes))
		throw Failure(errno, "ask where a tcx link is");
	return {info.ifindex, info.program};
}

std::vector<std::uint32_t> tcx_chain(std::uint32_t ifindex, Side side)
{
	std::vector<std::uint32_t> programs(64); // BPF_MPROG_MAX: no chain is longer
	ProgramQuery attributes{};
	attributes.target_ifindex = ifindex;
	attributes.attach_type = attach_type_of(side);
	attributes.program_ids = reinterpret_cast<std::uint64_t>(programs.data());
	attributes.count = static_cast<std::uint32_t>(programs.size());
	if (bpf_call(BPF_PROG_QUERY, attributes)) {
		// An interface to which nothing was ever attached.
		if (errno == ENOENT)
			return {};
		throw Failure(errno, place_name("ask for the chain at", ifindex, side));
	}
	programs.resize(attributes.count);
	return programs;
}

bool attach_clsact(int program_fd, std::uint32_t ifindex, Side side)
{
	const std::string operation = place_name("attach by clsact to", ifindex, side);
	const Quiet quiet;
	bpf_tc_hook both = hook_of(ifindex, BPF_TC_INGRESS | BPF_TC_EGRESS);
	const int made = bpf_tc_hook_create(&both);
	if (made && made != -EEXIST)
		throw Failure(-made, operation);
	bpf_tc_hook hook = hook_of(ifindex, point_of(side));
	bpf_tc_opts options = filter_options();
	options.prog_fd = program_fd;
	options.flags = BPF_TC_F_REPLACE;
	const int error = bpf_tc_attach(&hook, &options);
	if (error)
		throw Failure(-error, operation);
	return !made;
}

std::optional<std::uint32_t> clsact_program(std::uint32_t ifindex, Side side)
{
	const Quiet quiet;
	bpf_tc_hook hook = hook_of(ifindex, point_of(side));
	bpf_tc_opts options = filter_options();
	const int error = bpf_tc_query(&hook, &options);
	if (!error)
		return options.prog_id;
	if (means_absent(-error))
		return std::nullopt;
	throw Failure(-error, place_name("ask for the filter at", ifindex, side));
}

bool detach_clsact(std::uint32_t ifindex, Side side)
{
	const Quiet quiet;
	bpf_tc_hook hook = hook_of(ifindex, point_of(side));
	bpf_tc_opts options = filter_options();
	const int error = bpf_tc_detach(&hook, &options);
	if (error && !means_absent(-error))
		throw Failure(-error, place_name("detach from", ifindex, side));
	return !error;
}

bool remove_empty_clsact(std::uint32_t ifindex)
{
	try {
		if (has_filters(ifindex, Side::ingress) || has_filters(ifindex, Side::egress))
			return false;
	} catch (const Failure &failure) {
		if (failure.code == "ENODEV" || failure.code == "EINVAL")
			return false;
		throw;
	}
	const Quiet quiet;
	bpf_tc_hook both = hook_of(ifindex, BPF_TC_INGRESS | BPF_TC_EGRESS);
	const int error = bpf_tc_hook_destroy(&both);
	if (error && !means_absent(-error))
		throw Failure(-error, "remove clsact from interface " + std::to_string(ifindex));
	return !error;
}

} // namespace postern
