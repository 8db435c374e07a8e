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

// Some of a map's elements, and where the next ones are. `next` is for read_page() alone to read; empty: these were the last.
struct Page {
	Dump elements;
	Bytes next;
};

struct Found {
	Bytes values;
	Bytes are_there; // a byte for each key: 1, or 0 and its value is zeroes
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
	// One by one: the kernel has no batch of keys that are asked for.
	Found find_all(const std::string &name, View keys, std::size_t count) const;
	Dump dump(const std::string &name) const;
	// As many as `room`, or more where a bucket of a hash holds more. `place`: `next` of the page before; empty: from the beginning. What is
	// in the map all the while comes once; but where it is walked by key (tries) and the key is gone, the walk begins again.
	Page read_page(const std::string &name, View place, std::size_t room) const;

      private:
	struct Handle {
		int fd;
		MapShape shape;
		std::size_t value_bytes; // of one element as it crosses the system call: all CPUs of a per-CPU map
	};
	// False: the kernel has no batches for this type.
	bool read_batch(const std::string &name, const Handle &map, const Bytes &place, std::size_t room, Page &page) const;
	void read_by_key(const std::string &name, const Handle &map, const Bytes &place, std::size_t room, Page &page) const;
	const Handle &find(const std::string &name, const char *operation) const;

	std::map<std::string, Handle> handles_;
	bool closed_ = false;
};

// Of a map that was pinned at `path`. EINVAL: something else is pinned there.
MapShape shape_of(int map_fd, const std::string &path);

} // namespace postern

#endif
