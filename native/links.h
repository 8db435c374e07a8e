// SPDX-License-Identifier: Apache-2.0
// What holds a program in its place? Links by number, of whatever kind; knows neither programs nor places.
#ifndef POSTERN_LINKS_H
#define POSTERN_LINKS_H

#include "inventory.h"

namespace postern
{

class Links
{
      public:
	// Takes a link over, and gives it its number.
	std::uint32_t adopt(Descriptor link);
	// `attach_type` is the program's. `operation` is what a failure says.
	std::uint32_t attach_cgroup(int program_fd, std::uint32_t attach_type, const std::string &cgroup_path,
				    const std::string &operation);
	// ENOENT: there is none of this number.
	int fd(std::uint32_t link) const;
	// One that was pinned at `path`, by whomever.
	std::uint32_t open(const std::string &path);
	// It then outlives this process, until the file is removed.
	void pin(std::uint32_t link, const std::string &path) const;
	// No packet falls between the old program and the new one.
	void update(std::uint32_t link, int program_fd, const std::string &program) const;
	LinkInfo info(std::uint32_t link) const;
	// Gives it away: it ends with what is returned.
	Descriptor release(std::uint32_t link);
	// Lets go of it: what is not pinned is detached.
	void detach(std::uint32_t link);
	// Every link.
	void close();

      private:
	std::map<std::uint32_t, Descriptor> links_;
	std::uint32_t next_ = 1;
};

} // namespace postern

#endif
