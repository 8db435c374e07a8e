// SPDX-License-Identifier: Apache-2.0
// What do maps hold, and how is it written? Sizes are checked against the map's own before a byte crosses into the kernel.
// Knows no layout of bpf/abi.h beyond what the maps themselves say.
#ifndef POSTERN_MAPS_H
#define POSTERN_MAPS_H

#include <optional>

#include "kernel.h"

namespace postern
{

struct MapShape {
	std::uint32_t type;
	std::uint32_t key_size;
	std::uint32_t value_size;
	std::uint32_t max_entries;
	std::uint32_t flags;
};

struct Dump {
	Bytes keys;
	Bytes values;
	std::size_t count;
};

// By name. The descriptors are whoever's who added them.
class Maps
{
      public:
	void add(const std::string &name, int fd, const MapShape &shape);
	// From now on there is nothing: every call fails with EBADF.
	void close();

	std::map<std::string, MapShape> shapes() const;
	std::map<std::string, std::uint32_t> ids() const;
	// As layout.h has them, from what the kernel knows of each.
	std::map<std::string, std::string> layouts() const;
	void pin(const std::string &name, const std::string &path) const;
	int fd(const std::string &name, const char *operation) const;
	// EINVAL if it is another type.
	int ring_buffer_fd(const std::string &name) const;

	void update(const std::string &name, View keys, View values, std::size_t count, std::uint64_t flags);
	std::optional<Bytes> lookup(const std::string &name, View key) const;
	std::size_t remove(const std::string &name, View keys, std::size_t count);
	Dump dump(const std::string &name) const;

      private:
	struct Handle {
		int fd;
		MapShape shape;
		std::size_t value_bytes; // of one element as it crosses the system call: all CPUs of a per-CPU map
	};
	const Handle &find(const std::string &name, const char *operation) const;

	std::map<std::string, Handle> handles_;
	bool closed_ = false;
};

// Of a map that was pinned at `path`. EINVAL: something else is pinned there.
MapShape shape_of(int map_fd, const std::string &path);

} // namespace postern

#endif
