// SPDX-License-Identifier: Apache-2.0
// BTF as text. A name that changes counts as a change: whoever renames a field mostly means something else by it.
#include "layout.h"

#include <cerrno>
#include <memory>

#include <bpf/btf.h>
#include <bpf/libbpf.h>

#include "maps.h"
#include "object.h"

namespace postern
{

namespace
{

std::string describe(const btf *types, std::uint32_t id)
{
	const btf_type *type = btf__type_by_id(types, id);
	if (!id || !type)
		return "-";
	switch (btf_kind(type)) {
	case BTF_KIND_TYPEDEF:
	case BTF_KIND_CONST:
	case BTF_KIND_VOLATILE:
	case BTF_KIND_RESTRICT:
	case BTF_KIND_TYPE_TAG:
		return describe(types, type->type);
	case BTF_KIND_INT:
		return (btf_int_encoding(type) & BTF_INT_SIGNED ? "i" : "u") + std::to_string(8 * type->size);
	case BTF_KIND_ENUM:
		return "e" + std::to_string(8 * type->size);
	case BTF_KIND_ARRAY:
		return describe(types, btf_array(type)->type) + "[" + std::to_string(btf_array(type)->nelems) + "]";
	case BTF_KIND_STRUCT:
	case BTF_KIND_UNION: {
		std::string text = std::string(btf__name_by_offset(types, type->name_off)) + "{";
		for (std::uint32_t index = 0; index < btf_vlen(type); index++) {
			const btf_member &member = btf_members(type)[index];
			text += std::string(btf__name_by_offset(types, member.name_off)) + "@" +
				std::to_string(btf_member_bit_offset(type, index)) + " " + describe(types, member.type) + ";";
		}
		return text + "}" + std::to_string(type->size);
	}
	default:
		return "kind " + std::to_string(btf_kind(type));
	}
}

} // namespace

std::string layout_of(const MapShape &shape, const btf *types, std::uint32_t key_type, std::uint32_t value_type)
{
	return "type " + std::to_string(shape.type) + " flags " + std::to_string(shape.flags) + " entries " +
	       std::to_string(shape.max_entries) + " key " + std::to_string(shape.key_size) + " " +
	       (types ? describe(types, key_type) : "-") + " value " + std::to_string(shape.value_size) + " " +
	       (types ? describe(types, value_type) : "-");
}

std::map<std::string, std::string> layouts_in(const std::string &path, const std::map<std::string, std::uint32_t> &max_entries)
{
	const auto object = open_object(path, max_entries);
	std::map<std::string, std::string> layouts;
	const btf *types = bpf_object__btf(object.get());
	const bpf_map *map;
	bpf_object__for_each_map(map, object.get())
	{
		if (!bpf_map__is_internal(map))
			layouts[bpf_map__name(map)] =
				layout_of(shape_of(map), types, bpf_map__btf_key_type_id(map), bpf_map__btf_value_type_id(map));
	}
	return layouts;
}

} // namespace postern
