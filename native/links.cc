// SPDX-License-Identifier: Apache-2.0
// Links over bpf(2).
#include "links.h"

#include <cerrno>

#include <bpf/bpf.h>
#include <fcntl.h>

namespace postern
{

std::uint32_t Links::adopt(Descriptor link)
{
	const std::uint32_t number = next_++;
	links_.emplace(number, std::move(link));
	return number;
}

std::uint32_t Links::attach_cgroup(int program_fd, std::uint32_t attach_type, const std::string &cgroup_path,
				   const std::string &operation)
{
	const Descriptor cgroup(::open(cgroup_path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
	if (cgroup.get() < 0)
		throw Failure(errno, operation);
	Descriptor link(bpf_link_create(program_fd, cgroup.get(), static_cast<bpf_attach_type>(attach_type), nullptr));
	if (link.get() < 0)
		throw Failure(errno, operation);
	return adopt(std::move(link));
}

std::uint32_t Links::open(const std::string &path)
{
	return adopt(open_pin(path, pinned_link));
}

void Links::pin(std::uint32_t link, const std::string &path) const
{
	if (bpf_obj_pin(fd(link), path.c_str()))
		throw Failure(errno, "pin " + path);
}

void Links::update(std::uint32_t link, int program_fd, const std::string &program) const
{
	if (bpf_link_update(fd(link), program_fd, nullptr))
		throw Failure(errno, "update the link of " + program);
}

LinkInfo Links::info(std::uint32_t link) const
{
	return link_info(fd(link));
}

int Links::fd(std::uint32_t link) const
{
	const auto found = links_.find(link);
	if (found == links_.end())
		throw Failure(ENOENT, "find link " + std::to_string(link));
	return found->second.get();
}

Descriptor Links::release(std::uint32_t link)
{
	const auto found = links_.find(link);
	if (found == links_.end())
		throw Failure(ENOENT, "detach link " + std::to_string(link));
	Descriptor released = std::move(found->second);
	links_.erase(found);
	return released;
}

void Links::detach(std::uint32_t link)
{
	(void)release(link);
}

void Links::close()
{
	links_.clear();
}

} // namespace postern
