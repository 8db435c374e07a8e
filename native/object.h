// SPDX-License-Identifier: Apache-2.0
// An object file in the kernel: its maps, its programs, and what these are attached to. Knows the meaning of no map but `grace`, whose
// update waits for running programs.
#ifndef POSTERN_OBJECT_H
#define POSTERN_OBJECT_H

#include <functional>
#include <memory>

#include "links.h"
#include "maps.h"

struct bpf_map;
struct bpf_object;
struct bpf_program;

namespace postern
{

struct TestRun {
	std::uint32_t retval;
	std::uint32_t duration_ns;
};

struct ObjectCloser {
	void operator()(bpf_object *object) const;
};

// Opened and sized, and nothing of it loaded.
std::unique_ptr<bpf_object, ObjectCloser> open_object(const std::string &path,
						      const std::map<std::string, std::uint32_t> &max_entries);
MapShape shape_of(const bpf_map *map);

// A loaded object file, or maps alone. Closing it closes every descriptor and link.
class Object
{
      public:
	// `constants`: values of `const volatile` variables, which the verifier then takes as known. `pinned`: maps that are there
	// already, by name, and where; their shapes must be the file's.
	Object(const std::string &path, const std::map<std::string, std::uint32_t> &max_entries,
	       const std::map<std::string, std::uint32_t> &constants, const std::map<std::string, std::string> &pinned);
	// Maps that are pinned somewhere, without a program.
	explicit Object(const std::map<std::string, std::string> &pinned);
	// Maps by id, whether pinned or not.
	explicit Object(const std::map<std::string, std::uint32_t> &ids);
	~Object();
	Object(const Object &) = delete;
	Object &operator=(const Object &) = delete;

	Maps &maps()
	{
		return maps_;
	}
	Links &links()
	{
		return links_;
	}
	std::vector<std::string> programs() const;
	// ENOENT: there is none of this name.
	int program_fd(const std::string &name, const char *operation) const;
	// ProgramInfo of a program of this object.
	ProgramInfo info(const std::string &program) const;
	void pin_program(const std::string &program, const std::string &path) const;
	// Returns the link's number.
	std::uint32_t attach_cgroup(const std::string &program, const std::string &cgroup_path);

	void wait_for_programs();
	// The same, to be called on another thread; good even after this object is closed.
	std::function<void()> program_wait();
	TestRun test_run(const std::string &program, View packet, std::uint32_t repeat);

	void close();

      private:
	const bpf_program *program(const std::string &name, const char *operation) const;

	std::unique_ptr<bpf_object, ObjectCloser> object_;
	std::vector<Descriptor> opened_; // maps of no object file
	Maps maps_;
	Links links_;
	Descriptor grace_[2];
	int grace_turn_ = 0;
};

} // namespace postern

#endif
