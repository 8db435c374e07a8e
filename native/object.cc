// SPDX-License-Identifier: Apache-2.0
// Objects over libbpf: opened, sized, loaded.
#include "object.h"

#include <fcntl.h>

#include <cerrno>
#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <optional>

#include <bpf/bpf.h>
#include <bpf/btf.h>
#include <bpf/libbpf.h>
#include <pthread.h>
#include <signal.h>
#include <sys/resource.h>

namespace postern
{

namespace
{

constexpr std::size_t log_bytes = 1 << 20;

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

// The map that is pinned at `path` instead of a new one.
void reuse(bpf_object *object, const std::string &name, const std::string &path)
{
	const std::string operation = "reuse map " + name;
	bpf_map *map = bpf_object__find_map_by_name(object, name.c_str());
	if (!map)
		throw Failure(ENOENT, operation);
	const Descriptor pinned = open_pin(path, pinned_map);
	const MapShape there = shape_of(pinned.get(), path);
	const MapShape wanted = shape_of(map);
	if (there.type != wanted.type || there.key_size != wanted.key_size || there.value_size != wanted.value_size ||
	    there.max_entries != wanted.max_entries || there.flags != wanted.flags)
		throw Failure(EINVAL, operation, path + " has another shape");
	const int error = bpf_map__reuse_fd(map, pinned.get());
	if (error)
		throw Failure(-error, operation);
}

} // namespace

void ObjectCloser::operator()(bpf_object *object) const
{
	bpf_object__close(object);
}

std::unique_ptr<bpf_object, ObjectCloser> open_object(const std::string &path,
						      const std::map<std::string, std::uint32_t> &max_entries)
{
	libbpf_set_print(catch_log);
	library_log.clear();
	std::unique_ptr<bpf_object, ObjectCloser> object(bpf_object__open_file(path.c_str(), nullptr));
	if (!object)
		throw Failure(errno, "open " + path, library_log);
	for (const auto &[name, entries] : max_entries) {
		bpf_map *map = bpf_object__find_map_by_name(object.get(), name.c_str());
		if (!map)
			throw Failure(ENOENT, "resize map " + name);
		const int error = bpf_map__set_max_entries(map, entries);
		if (error)
			throw Failure(-error, "resize map " + name);
	}
	return object;
}

MapShape shape_of(const bpf_map *map)
{
	return {bpf_map__type(map), bpf_map__key_size(map), bpf_map__value_size(map), bpf_map__max_entries(map),
		bpf_map__map_flags(map)};
}

Object::Object(const std::map<std::string, std::string> &pinned)
{
	for (const auto &[name, path] : pinned) {
		const int fd = opened_.emplace_back(open_pin(path, pinned_map)).get();
		maps_.add(name, fd, shape_of(fd, path));
	}
}

Object::Object(const std::map<std::string, std::uint32_t> &ids)
{
	for (const auto &[name, id] : ids) {
		const int fd = opened_.emplace_back(bpf_map_get_fd_by_id(id)).get();
		if (fd < 0)
			throw Failure(errno, "open map " + std::to_string(id));
		maps_.add(name, fd, shape_of(fd, name));
	}
}

Object::Object(const std::string &path, const std::map<std::string, std::uint32_t> &max_entries,
	       const std::map<std::string, std::uint32_t> &constants, const std::map<std::string, std::string> &pinned)
{
	raise_memlock();
	object_ = open_object(path, max_entries);
	bpf_object *opened = object_.get();

	for (const auto &[name, place] : pinned)
		reuse(opened, name, place);

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
		maps_.add(bpf_map__name(map), bpf_map__fd(map), shape_of(map));
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
	links_.close();
	maps_.close();
	for (Descriptor &turn : grace_)
		turn.reset();
	object_.reset();
	opened_.clear();
}

const bpf_program *Object::program(const std::string &name, const char *operation) const
{
	if (!object_)
		throw Failure(EBADF, std::string(operation) + " " + name, "the object is closed");
	const bpf_program *program = bpf_object__find_program_by_name(object_.get(), name.c_str());
	if (!program)
		throw Failure(ENOENT, std::string(operation) + " " + name, "no such program");
	return program;
}

int Object::program_fd(const std::string &name, const char *operation) const
{
	return bpf_program__fd(program(name, operation));
}

ProgramInfo Object::info(const std::string &name) const
{
	return program_info(program_fd(name, "ask about"));
}

void Object::pin_program(const std::string &name, const std::string &path) const
{
	if (bpf_obj_pin(program_fd(name, "pin"), path.c_str()))
		throw Failure(errno, "pin " + path);
}

std::uint32_t Object::attach_cgroup(const std::string &name, const std::string &cgroup_path)
{
	const bpf_program *attached = program(name, "attach");
	return links_.attach_cgroup(bpf_program__fd(attached), bpf_program__expected_attach_type(attached), cgroup_path,
				    "attach " + name + " to " + cgroup_path);
}

std::vector<std::string> Object::programs() const
{
	std::vector<std::string> names;
	bpf_program *one;
	if (object_)
		bpf_object__for_each_program(one, object_.get()) names.push_back(bpf_program__name(one));
	return names;
}

void Object::wait_for_programs()
{
	program_wait()();
}

static std::shared_ptr<Descriptor> duplicate(int fd)
{
	const int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);
	if (copy < 0)
		throw Failure(errno, "wait for programs");
	return std::make_shared<Descriptor>(copy);
}

// An update of a map of maps returns only after synchronize_rcu (maybe_wait_bpf_programs in kernel/bpf/syscall.c).
std::function<void()> Object::program_wait()
{
	const auto grace = duplicate(maps_.fd("grace", "wait for programs with"));
	grace_turn_ ^= 1;
	const auto inner = duplicate(grace_[grace_turn_].get());
	return [grace, inner] {
		const std::uint32_t slot = 0;
		const int value = inner->get();
		if (bpf_map_update_elem(grace->get(), &slot, &value, BPF_ANY))
			throw Failure(errno, "wait for programs");
	};
}

TestRun Object::test_run(const std::string &name, View packet, std::uint32_t repeat)
{
	const int program = program_fd(name, "test run");
	LIBBPF_OPTS(bpf_test_run_opts, options);
	options.data_in = packet.data;
	options.data_size_in = static_cast<std::uint32_t>(packet.size);
	options.repeat = static_cast<int>(repeat);
	const SignalBlock block;
	const int error = bpf_prog_test_run_opts(program, &options);
	if (error)
		throw Failure(-error, "test run " + name);
	return {options.retval, options.duration};
}

} // namespace postern
