// SPDX-License-Identifier: Apache-2.0
// How does a sched_cls program get in front of everything on an interface of this namespace, and is it still there? By tcx links, or by
// a filter of clsact where the kernel has no tcx (before 6.6). Knows no program's meaning.
#ifndef POSTERN_TC_H
#define POSTERN_TC_H

#include <optional>

#include "kernel.h"

namespace postern
{

// As the interface sees it: of a veth on the host, `ingress` is what its pod sends.
enum class Side { ingress, egress };

struct TcxPlace {
	std::uint32_t ifindex; // 0: the interface is gone, and nothing passes here any more
	std::uint32_t program; // id
};

// First in the chain, before what is there. The link holds until the last descriptor and pin of it are gone. EINVAL: this kernel has no tcx.
Descriptor attach_tcx(int program_fd, std::uint32_t ifindex, Side side);
TcxPlace tcx_place(int link_fd);
// Ids of the programs of a chain, in the order in which they run.
std::vector<std::uint32_t> tcx_chain(std::uint32_t ifindex, Side side);

// As a filter of priority 1, with an own handle, which replaces ours where it is there already. It stays until it is taken away or the
// interface goes. Returns whether the interface had no clsact before.
bool attach_clsact(int program_fd, std::uint32_t ifindex, Side side);
// The id of the program in our place; none: nothing of ours is there.
std::optional<std::uint32_t> clsact_program(std::uint32_t ifindex, Side side);
// Whether there was something to take away. An interface that is gone is no error.
bool detach_clsact(std::uint32_t ifindex, Side side);
// Takes clsact away from an interface where no filter is left in it. Whether it did.
bool remove_empty_clsact(std::uint32_t ifindex);

} // namespace postern

#endif
