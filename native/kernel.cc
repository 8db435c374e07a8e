// SPDX-License-Identifier: Apache-2.0
// Objects, maps and links over libbpf: sizes are checked against the map's own before a byte crosses into the kernel.
// Knows neither Node nor the meaning of any map but `grace`, whose update waits for running programs.
#include "kernel.h"

#include <algorithm>
#include <cerrno>
#include <cstdarg>
#include <cstdio>
#include <cstring>

#include <bpf/bpf.h>
#include <bpf/btf.h>
#include <bpf/libbpf.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <unistd.h>

namespace postern
{

namespace
{

constexpr int kernel_enotsupp = 524; // the kernel's ENOTSUPP, which user space has no name for
constexpr std::size_t log_bytes = 1 << 20;
constexpr std::uint32_t batch_elements = 4096;
constexpr std::size_t drain_records = 1 << 20;

thread_local std::string library_log;

// The verifier's log is only ever printed by libbpf, so that is where it is caught.
int catch_log(libbpf_print_level level, const char *format, va_list arguments)
{
	if (level > LIBBPF_WARN || library_log.size() > log_bytes)
		return 0;
	va_list again;
	va_copy(again, arguments);
	const int size = std::vsnprintf(nullptr, 0, format, arguments);
	if (size > 0) {
		std::string line(static_cast<std::size_t>(size) + 1, '\0');
		std::vsnprintf(line.data(), line.size(), format, again);
		line.pop_back();
		library_log += line;
	}
	va_end(again);
	return 0;
}

std::string error_name(int error)
{
	if (error == kernel_enotsupp)
		return "ENOTSUPP";
	// libbpf's own errors, which it numbers from 4000 on; most reach us as errnos instead.
	switch (error) {
	case LIBBPF_ERRNO__LIBELF:
		return "LIBBPF_LIBELF";
	case LIBBPF_ERRNO__FORMAT:
		return "LIBBPF_FORMAT";
	case LIBBPF_ERRNO__ENDIAN:
		return "LIBBPF_ENDIAN";
	case LIBBPF_ERRNO__RELOC:
		return "LIBBPF_RELOC";
	default:
		if (error >= __LIBBPF_ERRNO__START)
			return "LIBBPF_" + std::to_string(error);
	}
	const char *name = strerrorname_np(error);
	return name ? name : "E" + std::to_string(error);
}

std::string error_message(int error, const std::string &operation, const std::string &detail)
{
	char description[128];
	(void)libbpf_strerror(error, description, sizeof(description));
	std::string message = operation + ": " + error_name(error) + " (" + description + ")";
	if (!detail.empty())
		message += ": " + detail;
	return message;
}

// Kernels before 5.11 charge maps to RLIMIT_MEMLOCK; later ones ignore it, so a refusal is no failure here.
void raise_memlock()
{
	const rlimit unlimited{RLIM_INFINITY, RLIM_INFINITY};
	(void)setrlimit(RLIMIT_MEMLOCK, &unlimited);
}

// A signal makes the verifier give up (EAGAIN) and a test run stop (EINTR); a profiler sends one each millisecond.
class SignalBlock
{
      public:
	SignalBlock()
	{
		sigset_t all;
		sigfillset(&all);
		pthread_sigmask(SIG_SETMASK, &all, &before_);
	}
	~SignalBlock()
	{
		pthread_sigmask(SIG_SETMASK, &before_, nullptr);
	}
	SignalBlock(const SignalBlock &) = delete;
	SignalBlock &operator=(const SignalBlock &) = delete;

      private:
	sigset_t before_;
};

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

// Where a variable lies in .rodata only BTF says.
void set_constant(bpf_object *object, const std::string &name, std::uint32_t value)
{
	const std::string operation = "set constant " + name;
	bpf_map *rodata = nullptr;
	bpf_map *map;
	bpf_object__for_each_map(map, object)
	{
		const std::string map_name = bpf_map__name(map);
		if (bpf_map__is_internal(map) && map_name.size() >= 7 && map_name.substr(map_name.size() - 7) == ".rodata")
			rodata = map;
	}
	const btf *types = bpf_object__btf(object);
	const int section = types ? btf__find_by_name_kind(types, ".rodata", BTF_KIND_DATASEC) : -ENOENT;
	if (!rodata || section < 0)
		throw Failure(ENOENT, operation, "the object has no constants");

	std::size_t size = 0;
	auto *data = static_cast<std::uint8_t *>(const_cast<void *>(bpf_map__initial_value(rodata, &size)));
	const btf_type *type = btf__type_by_id(types, static_cast<__u32>(section));
	const btf_var_secinfo *place = btf_var_secinfos(type);
	for (int index = 0; index < btf_vlen(type); index++, place++) {
		if (name != btf__name_by_offset(types, btf__type_by_id(types, place->type)->name_off))
			continue;
		if (!data || place->size > sizeof(value) || place->offset + place->size > size ||
		    (place->size < sizeof(value) && value >> (8 * place->size)))
			throw Failure(EINVAL, operation, "the value does not fit");
		std::memcpy(data + place->offset, &value, place->size); // little-endian, as the object is
		return;
	}
	throw Failure(ENOENT, operation);
}

bool lacks_batches(int error)
{
	return error == kernel_enotsupp || error == ENOTSUP;
}

} // namespace

Failure::Failure(int error, const std::string &operation_, const std::string &detail)
    : std::runtime_error(error_message(error, operation_, detail)), code(error_name(error)), operation(operation_)
{
}

Descriptor &Descriptor::operator=(Descriptor &&other) noexcept
{
	if (this != &other) {
		reset();
		fd_ = other.release();
	}
	return *this;
}

Descriptor::~Descriptor()
{
	reset();
}

int Descriptor::release()
{
	const int fd = fd_;
	fd_ = -1;
	return fd;
}

void Descriptor::reset()
{
	if (fd_ >= 0)
		::close(fd_);
	fd_ = -1;
}

void Object::ObjectCloser::operator()(bpf_object *object) const
{
	bpf_object__close(object);
}

void Object::LinkCloser::operator()(bpf_link *link) const
{
	bpf_link__destroy(link);
}

Object::Object(const std::string &path, const std::map<std::string, std::uint32_t> &max_entries,
	       const std::map<std::string, std::uint32_t> &constants)
{
	raise_memlock();
	libbpf_set_print(catch_log);
	library_log.clear();

	bpf_object *opened = bpf_object__open_file(path.c_str(), nullptr);
	if (!opened)
		throw Failure(errno, "open " + path, library_log);
	object_.reset(opened);

	for (const auto &[name, entries] : max_entries) {
		bpf_map *map = bpf_object__find_map_by_name(opened, name.c_str());
		if (!map)
			throw Failure(ENOENT, "resize map " + name);
		const int error = bpf_map__set_max_entries(map, entries);
		if (error)
			throw Failure(-error, "resize map " + name);
	}

	for (const auto &[name, value] : constants)
		set_constant(opened, name, value);

	// libbpf forgets the inner map's template on load.
	std::optional<MapShape> inner;
	if (const bpf_map *grace = bpf_object__find_map_by_name(opened, "grace"))
		if (bpf_map *template_map = bpf_map__inner_map(const_cast<bpf_map *>(grace)))
			inner = MapShape{bpf_map__type(template_map), bpf_map__key_size(template_map),
					 bpf_map__value_size(template_map), bpf_map__max_entries(template_map),
					 bpf_map__map_flags(template_map)};

	int error;
	{
		const SignalBlock block;
		error = bpf_object__load(opened);
	}
	if (error)
		throw Failure(-error, "load " + path, library_log);

	bpf_map *map;
	bpf_object__for_each_map(map, opened)
	{
		if (bpf_map__is_internal(map))
			continue;
		const MapShape shape{bpf_map__type(map), bpf_map__key_size(map), bpf_map__value_size(map),
				     bpf_map__max_entries(map), bpf_map__map_flags(map)};
		maps_[bpf_map__name(map)] = MapHandle{bpf_map__fd(map), shape, bytes_of_value(shape)};
	}

	if (inner)
		for (Descriptor &turn : grace_) {
			LIBBPF_OPTS(bpf_map_create_opts, options);
			options.map_flags = inner->flags;
			turn = Descriptor(bpf_map_create(static_cast<bpf_map_type>(inner->type), "grace_turn", inner->key_size,
							 inner->value_size, inner->max_entries, &options));
			if (turn.get() < 0)
				throw Failure(errno, "create an inner map of grace");
		}
}

Object::~Object()
{
	close();
}

void Object::close()
{
	links_.clear();
	maps_.clear();
	for (Descriptor &turn : grace_)
		turn.reset();
	object_.reset();
}

const Object::MapHandle &Object::find_map(const std::string &name, const char *operation) const
{
	if (!object_)
		throw Failure(EBADF, std::string(operation) + " " + name, "the object is closed");
	const auto found = maps_.find(name);
	if (found == maps_.end())
		throw Failure(ENOENT, std::string(operation) + " " + name, "no such map");
	return found->second;
}

bpf_program *Object::find_program(const std::string &name, const char *operation) const
{
	if (!object_)
		throw Failure(EBADF, std::string(operation) + " " + name, "the object is closed");
	bpf_program *program = bpf_object__find_program_by_name(object_.get(), name.c_str());
	if (!program)
		throw Failure(ENOENT, std::string(operation) + " " + name, "no such program");
	return program;
}

std::map<std::string, MapShape> Object::maps() const
{
	std::map<std::string, MapShape> shapes;
	for (const auto &[name, handle] : maps_)
		shapes[name] = handle.shape;
	return shapes;
}

std::vector<std::string> Object::programs() const
{
	std::vector<std::string> names;
	bpf_program *program;
	if (object_)
		bpf_object__for_each_program(program, object_.get()) names.push_back(bpf_program__name(program));
	return names;
}

void Object::update(const std::string &name, View keys, View values, std::size_t count, std::uint64_t flags)
{
	const MapHandle &map = find_map(name, "update");
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

std::optional<Bytes> Object::lookup(const std::string &name, View key) const
{
	const MapHandle &map = find_map(name, "lookup");
	require_size("lookup " + name, "key", key.size, map.shape.key_size);
	Bytes value(map.value_bytes);
	if (!bpf_map_lookup_elem(map.fd, key.data, value.data()))
		return value;
	if (errno == ENOENT)
		return std::nullopt;
	throw Failure(errno, "lookup " + name);
}

std::size_t Object::remove(const std::string &name, View keys, std::size_t count)
{
	const MapHandle &map = find_map(name, "remove");
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

Dump Object::dump(const std::string &name) const
{
	const MapHandle &map = find_map(name, "dump");
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

// An update of a map of maps returns only after synchronize_rcu (maybe_wait_bpf_programs in kernel/bpf/syscall.c).
void Object::wait_for_programs()
{
	const MapHandle &map = find_map("grace", "wait for programs with");
	const std::uint32_t slot = 0;
	grace_turn_ ^= 1;
	const int inner = grace_[grace_turn_].get();
	if (bpf_map_update_elem(map.fd, &slot, &inner, BPF_ANY))
		throw Failure(errno, "wait for programs");
}

std::uint32_t Object::attach_cgroup(const std::string &name, const std::string &cgroup_path)
{
	bpf_program *program = find_program(name, "attach");
	const std::string operation = "attach " + name + " to " + cgroup_path;
	const Descriptor cgroup(::open(cgroup_path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
	if (cgroup.get() < 0)
		throw Failure(errno, operation);
	library_log.clear();
	bpf_link *link = bpf_program__attach_cgroup(program, cgroup.get());
	if (!link)
		throw Failure(errno, operation, library_log);
	const std::uint32_t number = next_link_++;
	links_.emplace(number, link);
	return number;
}

void Object::detach(std::uint32_t link)
{
	if (!links_.erase(link))
		throw Failure(ENOENT, "detach link " + std::to_string(link));
}

TestRun Object::test_run(const std::string &name, View packet, std::uint32_t repeat)
{
	bpf_program *program = find_program(name, "test run");
	LIBBPF_OPTS(bpf_test_run_opts, options);
	options.data_in = packet.data;
	options.data_size_in = static_cast<std::uint32_t>(packet.size);
	options.repeat = static_cast<int>(repeat);
	const SignalBlock block;
	const int error = bpf_prog_test_run_opts(bpf_program__fd(program), &options);
	if (error)
		throw Failure(-error, "test run " + name);
	return {options.retval, options.duration};
}

int Object::ring_buffer_fd(const std::string &name) const
{
	const MapHandle &map = find_map(name, "read");
	if (map.shape.type != BPF_MAP_TYPE_RINGBUF)
		throw Failure(EINVAL, "read " + name, "not a ring buffer");
	return map.fd;
}

std::deque<Bytes> Object::drain(const std::string &name) const
{
	std::deque<Bytes> records;
	const auto keep = [](void *context, void *data, std::size_t size) {
		auto &kept = *static_cast<std::deque<Bytes> *>(context);
		const auto *bytes = static_cast<const std::uint8_t *>(data);
		kept.emplace_back(bytes, bytes + size);
		return kept.size() < drain_records ? 0 : -ENOBUFS;
	};
	ring_buffer *ring = ring_buffer__new(ring_buffer_fd(name), keep, &records, nullptr);
	if (!ring)
		throw Failure(errno, "read " + name);
	const int error = ring_buffer__consume(ring);
	ring_buffer__free(ring);
	if (error < 0 && error != -ENOBUFS)
		throw Failure(-error, "read " + name);
	return records;
}

void EventReader::RingCloser::operator()(ring_buffer *ring) const
{
	ring_buffer__free(ring);
}

EventReader::EventReader(int map_fd, std::function<void()> announce)
    : announce_(std::move(announce)), wake_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)),
      ring_(ring_buffer__new(map_fd, keep, this, nullptr))
{
	if (!ring_)
		throw Failure(errno, "read a ring buffer");
	if (wake_.get() < 0)
		throw Failure(errno, "create an eventfd");
	thread_ = std::thread(&EventReader::run, this);
}

EventReader::~EventReader()
{
	stop();
}

int EventReader::keep(void *context, void *data, std::size_t size)
{
	auto &reader = *static_cast<EventReader *>(context);
	const auto *bytes = static_cast<const std::uint8_t *>(data);
	const std::lock_guard lock(reader.mutex_);
	reader.batch_.emplace_back(bytes, bytes + size);
	// The record counts as read either way; the error only ends this round.
	return reader.batch_.size() < batch_records ? 0 : -ENOBUFS;
}

void EventReader::run()
{
	bool waiting = false; // for the batch on its way to be taken
	bool crowded = false; // there was more than a batch
	while (true) {
		pollfd descriptors[2] = {{wake_.get(), POLLIN, 0}, {ring_buffer__epoll_fd(ring_.get()), POLLIN, 0}};
		if (::poll(descriptors, waiting ? 1 : 2, -1) < 0 && errno != EINTR)
			return;
		std::uint64_t ignored;
		if (descriptors[0].revents)
			(void)!::read(wake_.get(), &ignored, sizeof(ignored));
		{
			const std::lock_guard lock(mutex_);
			if (stopped_)
				return;
			waiting = announced_;
		}
		if (waiting)
			continue;
		// Node runs what is queued for its loop until the queue is empty: it must find it so, or nothing else gets a turn.
		if (crowded && ::poll(descriptors, 1, pause_ms) > 0) {
			crowded = false;
			continue;
		}
		(void)ring_buffer__consume(ring_.get());
		{
			const std::lock_guard lock(mutex_);
			announced_ = waiting = !batch_.empty();
			crowded = batch_.size() >= batch_records;
		}
		if (waiting)
			announce_();
	}
}

std::optional<Bytes> EventReader::take()
{
	{
		const std::lock_guard lock(mutex_);
		if (!batch_.empty()) {
			Bytes record = std::move(batch_.front());
			batch_.pop_front();
			return record;
		}
	}
	resume();
	return std::nullopt;
}

void EventReader::resume()
{
	const std::uint64_t one = 1;
	{
		const std::lock_guard lock(mutex_);
		announced_ = false;
	}
	(void)!::write(wake_.get(), &one, sizeof(one));
}

void EventReader::stop()
{
	{
		const std::lock_guard lock(mutex_);
		stopped_ = true;
	}
	resume();
	if (thread_.joinable())
		thread_.join();
}

} // namespace postern
