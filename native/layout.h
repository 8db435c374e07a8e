// SPDX-License-Identifier: Apache-2.0
// Would what one map holds mean the same in another? Layouts as text, from BTF, of maps in a file and of maps in the kernel alike.
#ifndef POSTERN_LAYOUT_H
#define POSTERN_LAYOUT_H

#include "kernel.h"

struct btf;

namespace postern
{

struct MapShape;

// Type, sizes, flags, and each field of key and value by name, place and type: equal text, equal meaning. Types 0: not known.
std::string layout_of(const MapShape &shape, const btf *types, std::uint32_t key_type, std::uint32_t value_type);

// The maps that an object file would make, with these sizes, by name; loads nothing. Internal maps are left out.
std::map<std::string, std::string> layouts_in(const std::string &path, const std::map<std::string, std::uint32_t> &max_entries);

} // namespace postern

#endif
