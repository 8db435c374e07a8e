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

Dump Maps::dump(const std::string &name) const
{
	const Handle &map = find(name, "dump");
	const std::string operation = "dump " + name;
	const std::size_t key_size = map.shape.key_size;
	Dump dump{{}, {}, 0};

	// The place in a batched walk is a key, or for hashes a bucket number of 4 bytes.
	Bytes place(std::max<std::size_t>(key_size, 4));
	bool first = true;
	std::uint32_t room = batch_elements;
	while (true) {
		std::uint32_t size = room;
		dump.keys.resize((dump.count + size) * key_size);
		dump.values.resize((dump.count + size) * map.value_bytes);
		Bytes next(place.size());
		LIBBPF_OPTS(bpf_map_batch_opts, options);
		const int error = bpf_map_lookup_batch(map.fd, first ? nullptr : place.data(), next.data(),
						       dump.keys.data() + dump.count * key_size,
						       dump.values.data() + dump.count * map.value_bytes, &size, &options);
		if (error && lacks_batches(-error)) {
			dump.keys.clear();
			dump.values.clear();
			dump.count = 0;
			break;
		}
		if (error == -ENOSPC && room < (1U << 24)) {
			room *= 2; // a bucket of the hash holds more than the room left
			continue;
		}
		if (error && error != -ENOENT)
			throw Failure(-error, operation);
		dump.count += size;
		if (error == -ENOENT) {
			dump.keys.resize(dump.count * key_size);
			dump.values.resize(dump.count * map.value_bytes);
			return dump;
		}
		place = next;
		first = false;
	}

	Bytes key(key_size);
	Bytes value(map.value_bytes);
	const std::uint8_t *previous = nullptr;
	Bytes last(key_size);
	while (!bpf_map_get_next_key(map.fd, previous, key.data())) {
		if (!bpf_map_lookup_elem(map.fd, key.data(), value.data())) {
			dump.keys.insert(dump.keys.end(), key.begin(), key.end());
			dump.values.insert(dump.values.end(), value.begin(), value.end());
			dump.count++;
		} else if (errno != ENOENT) {
			throw Failure(errno, operation);
		}
		last = key;
		previous = last.data();
	}
	if (errno != ENOENT)
		throw Failure(errno, operation);
	return dump;
}

} // namespace postern
