// SPDX-License-Identifier: Apache-2.0
// What is an error called, and who closes a descriptor? Knows no system call but close(2).
#include "kernel.h"

#include <cerrno>
#include <cstring>

#include <bpf/libbpf.h>
#include <unistd.h>

namespace postern
{

namespace
{

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

} // namespace postern
