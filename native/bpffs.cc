// SPDX-License-Identifier: Apache-2.0
// Who may write in a folder of bpffs, and what was pinned there?
#include "kernel.h"

#include <cerrno>

#include <bpf/bpf.h>
#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

namespace postern
{

Descriptor lock_folder(const std::string &path)
{
	Descriptor folder(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
	if (folder.get() < 0 || ::flock(folder.get(), LOCK_EX | LOCK_NB))
		throw Failure(errno, "lock " + path);
	return folder;
}

Descriptor open_pin(const std::string &path, const char *kind)
{
	const std::string operation = "open " + path;
	Descriptor pin(bpf_obj_get(path.c_str()));
	if (pin.get() < 0)
		throw Failure(errno, operation);
	// Asked about itself, a map answers in the struct of a link as well.
	char name[64] = {};
	const std::string own = "/proc/self/fd/" + std::to_string(pin.get());
	if (::readlink(own.c_str(), name, sizeof(name) - 1) < 0)
		throw Failure(errno, operation);
	if (std::string("anon_inode:") + kind != name)
		throw Failure(EINVAL, operation, std::string("it is ") + name);
	return pin;
}

} // namespace postern
