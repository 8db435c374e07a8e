// SPDX-License-Identifier: Apache-2.0
// Maps over bpf(2): in batches where the kernel has them for this type, else one by one.
#include "maps.h"

#include <algorithm>
#include <cerrno>
#include <memory>

#include <bpf/bpf.h>
#include <bpf/btf.h>
#include <bpf/libbpf.h>

#include "layout.h"

namespace postern
{

namespace
{

constexpr std::uint32_t batch_elements = 4096;
// More than any bucket of a hash holds.
constexpr std::size_t max_room = 1U << 24;

bool is_per_cpu(std::uint32_t type)
{
	return type == BPF_MAP_TYPE_PERCPU_HASH || type == BPF_MAP_TYPE_PERCPU_ARRAY || type == BPF_MAP_TYPE_LRU_PERCPU_HASH ||
	       type == BPF_MAP_TYPE_PERCPU_CGROUP_STORAGE;
}

std::size_t bytes_of_value(const MapShape &shape)
{
	if (!is_per_cpu(shape.type))
		return shape.value_size;
	const int cpus = libbpf_num_possible_cpus();
	if (cpus < 0)
		throw Failure(-cpus, "count possible CPUs");
	return (static_cast<std::size_t>(shape.value_size) + 7) / 8 * 8 * static_cast<std::size_t>(cpus);
}

void require_size(const std::string &operation, const char *what, std::size_t actual, std::size_t expected)
{
	if (actual != expected)
		throw Failure(EINVAL, operation,
			      std::string(what) + " has " + std::to_string(actual) + " bytes, the map needs " +
				      std::to_string(expected));
}

bool lacks_batches(int error)
{
	return error == kernel_enotsupp || error == ENOTSUP;
}

bpf_map_info info_of(int map_fd, const std::string &name)
{
	bpf_map_info info{};
	std::uint32_t size = sizeof(info);
	if (bpf_obj_get_info_by_fd(map_fd, &info, &size))
		throw Failure(errno, "ask about map " + name);
	return info;
}

struct BtfCloser {
	void operator()(btf *types) const
	{
		btf__free(types);
	}
};

} // namespace

MapShape shape_of(int map_fd, const std::string &path)
{
	const bpf_map_info info = info_of(map_fd, path);
	return {info.type, info.key_size, info.value_size, info.max_entries, info.map_flags};
}

void Maps::add(const std::string &name, int fd, const MapShape &shape)
{
	handles_[name] = Handle{fd, shape, bytes_of_value(shape)};
}

void Maps::close()
{
	handles_.clear();
	closed_ = true;
}

std::map<std::string, MapShape> Maps::shapes() const
{
	std::map<std::string, MapShape> shapes;
	for (const auto &[name, handle] : handles_)
		shapes[name] = handle.shape;
	return shapes;
}

const Maps::Handle &Maps::find(const std::string &name, const char *operation) const
{
	if (closed_)
		throw Failure(EBADF, std::string(operation) + " " + name, "the object is closed");
	const auto found = handles_.find(name);
	if (found == handles_.end())
		throw Failure(ENOENT, std::string(operation) + " " + name, "no such map");
	return found->second;
}

std::map<std::string, std::uint32_t> Maps::ids() const
{
	std::map<std::string, std::uint32_t> ids;
	for (const auto &[name, handle] : handles_)
		ids[name] = info_of(handle.fd, name).id;
	return ids;
}

std::map<std::string, std::string> Maps::layouts() const
{
	std::map<std::string, std::string> layouts;
	std::map<std::uint32_t, std::unique_ptr<btf, BtfCloser>> known;
	for (const auto &[name, handle] : handles_) {
		const bpf_map_info info = info_of(handle.fd, name);
		auto &types = known[info.btf_id];
		if (info.btf_id && !types) {
			types.reset(btf__load_from_kernel_by_id(info.btf_id));
			if (!types)
				throw Failure(errno, "read the types of map " + name);
		}
		layouts[name] = layout_of(handle.shape, types.get(), info.btf_key_type_id, info.btf_value_type_id);
	}
	return layouts;
}

void Maps::pin(const std::string &name, const std::string &path) const
{
	if (bpf_obj_pin(fd(name, "pin"), path.c_str()))
		throw Failure(errno, "pin " + path);
}

int Maps::fd(const std::string &name, const char *operation) const
{
	return find(name, operation).fd;
}

int Maps::ring_buffer_fd(const std::string &name) const
{
	const Handle &map = find(name, "read");
	if (map.shape.type != BPF_MAP_TYPE_RINGBUF)
		throw Failure(EINVAL, "read " + name, "not a ring buffer");
	return map.fd;
}

void Maps::update(const std::string &name, View keys, View values, std::size_t count, std::uint64_t flags)
{
	const Handle &map = find(name, "update");
	const std::string operation = "update " + name;
	require_size(operation, "keys", keys.size, count * map.shape.key_size);
	require_size(operation, "values", values.size, count * map.value_bytes);

	std::size_t done = 0;
	// Batches refuse NOEXIST and EXIST (generic_map_update_batch allows BPF_F_LOCK only).
	bool batches = (flags & ~static_cast<std::uint64_t>(BPF_F_LOCK)) == 0 && count > 1;
	while (batches && done < count) {
		std::uint32_t size = static_cast<std::uint32_t>(std::min<std::size_t>(count - done, batch_elements));
		LIBBPF_OPTS(bpf_map_batch_opts, options);
		options.elem_flags = flags;
		const int error = bpf_map_update_batch(map.fd, keys.data + done * map.shape.key_size,
						       values.data + done * map.value_bytes, &size, &options);
		if (!error) {
			done += size;
			continue;
		}
		if (!lacks_batches(-error))
			throw Failure(-error, operation);
		batches = false;
	}
	for (; done < count; done++)
		if (bpf_map_update_elem(map.fd, keys.data + done * map.shape.key_size, values.data + done * map.value_bytes,
					flags))
			throw Failure(errno, operation);
}

std::optional<Bytes> Maps::lookup(const std::string &name, View key) const
{
	const Handle &map = find(name, "lookup");
	require_size("lookup " + name, "key", key.size, map.shape.key_size);
	Bytes value(map.value_bytes);
	if (!bpf_map_lookup_elem(map.fd, key.data, value.data()))
		return value;
	if (errno == ENOENT)
		return std::nullopt;
	throw Failure(errno, "lookup " + name);
}

std::size_t Maps::remove(const std::string &name, View keys, std::size_t count)
{
	const Handle &map = find(name, "remove");
	const std::string operation = "remove " + name;
	require_size(operation, "keys", keys.size, count * map.shape.key_size);

	std::size_t done = 0;
	std::size_t removed = 0;
	bool batches = count > 1;
	while (batches && done < count) {
		std::uint32_t size = static_cast<std::uint32_t>(std::min<std::size_t>(count - done, batch_elements));
		LIBBPF_OPTS(bpf_map_batch_opts, options);
		const int error = bpf_map_delete_batch(map.fd, keys.data + done * map.shape.key_size, &size, &options);
		if (error && lacks_batches(-error)) {
			batches = false;
			continue;
		}
		if (error && error != -ENOENT)
			throw Failure(-error, operation);
		// A batch ends at the first key that is absent, having counted those before it.
		done += size + (error ? 1 : 0);
		removed += size;
	}
	for (; done < count; done++) {
		if (!bpf_map_delete_elem(map.fd, keys.data + done * map.shape.key_size))
			removed++;
		else if (errno != ENOENT)
			throw Failure(errno, operation);
	}
	return removed;
}

Found Maps::find_all(const std::string &name, View keys, std::size_t count) const
{
	const Handle &map = find(name, "lookup");
	const std::string operation = "lookup " + name;
	require_size(operation, "keys", keys.size, count * map.shape.key_size);
	Found found{Bytes(count * map.value_bytes), Bytes(count)};
	for (std::size_t at = 0; at < count; at++) {
		if (!bpf_map_lookup_elem(map.fd, keys.data + at * map.shape.key_size, found.values.data() + at * map.value_bytes))
			found.are_there[at] = 1;
		else if (errno != ENOENT)
			throw Failure(errno, operation);
	}
	return found;
}

Dump Maps::dump(const std::string &name) const
{
	Page page = read_page(name, View{nullptr, 0}, batch_elements);
	Dump dump = std::move(page.elements);
	while (!page.next.empty()) {
		page = read_page(name, View{page.next.data(), page.next.size()}, batch_elements);
		dump.keys.insert(dump.keys.end(), page.elements.keys.begin(), page.elements.keys.end());
		dump.values.insert(dump.values.end(), page.elements.values.begin(), page.elements.values.end());
		dump.count += page.elements.count;
	}
	return dump;
}

namespace
{

// How a walk that was begun goes on.
constexpr std::uint8_t by_batch = 'b';
constexpr std::uint8_t by_key = 'k';

Bytes place_of(std::uint8_t way, const Bytes &where)
{
	Bytes place(1 + where.size(), way);
	std::copy(where.begin(), where.end(), place.begin() + 1);
	return place;
}

} // namespace

Page Maps::read_page(const std::string &name, View place, std::size_t room) const
{
	const Handle &map = find(name, "dump");
	const std::size_t where = std::max<std::size_t>(map.shape.key_size, 4);
	if (place.size && place.size != 1 + (place.data[0] == by_key ? map.shape.key_size : where))
		throw Failure(EINVAL, "dump " + name, "no place in this map");
	if (room == 0 || room > max_room)
		throw Failure(EINVAL, "dump " + name, "room for " + std::to_string(room) + " elements");
	const Bytes from(place.data + (place.size ? 1 : 0), place.data + place.size);
	Page page{{{}, {}, 0}, {}};
	if ((place.size && place.data[0] == by_key) || !read_batch(name, map, from, room, page))
		read_by_key(name, map, from, room, page);
	return page;
}

bool Maps::read_batch(const std::string &name, const Handle &map, const Bytes &place, std::size_t room, Page &page) const
{
	// The place in a batched walk is a key, or for hashes a bucket number of 4 bytes.
	Bytes next(std::max<std::size_t>(map.shape.key_size, 4));
	Dump &elements = page.elements;
	while (true) {
		auto size = static_cast<std::uint32_t>(room);
		elements.keys.resize(room * map.shape.key_size);
		elements.values.resize(room * map.value_bytes);
		LIBBPF_OPTS(bpf_map_batch_opts, options);
		const int error =
			bpf_map_lookup_batch(map.fd, place.empty() ? nullptr : const_cast<std::uint8_t *>(place.data()),
					     next.data(), elements.keys.data(), elements.values.data(), &size, &options);
		if (error == -ENOSPC && room < max_room) {
			room *= 2; // a bucket of the hash holds more than there is room for
			continue;
		}
		if (error && lacks_batches(-error) && place.empty())
			return false;
		if (error && error != -ENOENT)
			throw Failure(-error, "dump " + name);
		elements.count = size;
		elements.keys.resize(size * map.shape.key_size);
		elements.values.resize(size * map.value_bytes);
		if (!error)
			page.next = place_of(by_batch, next);
		return true;
	}
}

void Maps::read_by_key(const std::string &name, const Handle &map, const Bytes &place, std::size_t room, Page &page) const
{
	Dump &elements = page.elements;
	elements = {{}, {}, 0};
	Bytes last = place;
	Bytes key(map.shape.key_size);
	Bytes value(map.value_bytes);
	while (elements.count < room) {
		if (bpf_map_get_next_key(map.fd, last.empty() ? nullptr : last.data(), key.data())) {
			if (errno != ENOENT)
				throw Failure(errno, "dump " + name);
			return;
		}
		if (!bpf_map_lookup_elem(map.fd, key.data(), value.data())) {
			elements.keys.insert(elements.keys.end(), key.begin(), key.end());
			elements.values.insert(elements.values.end(), value.begin(), value.end());
			elements.count++;
		} else if (errno != ENOENT) {
			throw Failure(errno, "dump " + name);
		}
		last = key;
	}
	page.next = place_of(by_key, last);
}

} // namespace postern
