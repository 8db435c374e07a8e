// SPDX-License-Identifier: Apache-2.0
// Namespaces, cgroups and live TCP sockets: what the kernel tells of them by stat, socket options and sock_diag.
// Knows nothing of BPF.
#include "kernel.h"

#include <cerrno>
#include <cstring>
#include <thread>

#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/inet_diag.h>
#include <linux/magic.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

namespace postern
{

namespace
{

bool is_own(int netns)
{
	struct stat own, other;
	return !::stat("/proc/thread-self/ns/net", &own) && !::fstat(netns, &other) && own.st_dev == other.st_dev &&
	       own.st_ino == other.st_ino;
}

// A socket stays in the namespace it was made in, so only its making needs a thread of its own: a thread that has
// entered another namespace must never go on to serve Node.
Descriptor socket_in(const std::string &netns, int family, int type, int protocol)
{
	const Descriptor target(::open(netns.c_str(), O_RDONLY | O_CLOEXEC));
	if (target.get() < 0)
		throw Failure(errno, "open network namespace " + netns);
	Descriptor made;
	int error = 0;
	const auto make = [&] {
		made = Descriptor(::socket(family, type | SOCK_CLOEXEC, protocol));
		if (made.get() < 0)
			error = errno;
	};
	// Entering takes CAP_SYS_ADMIN even where one already is; an agent without it still knows its own namespace.
	if (is_own(target.get())) {
		make();
		if (error)
			throw Failure(error, "socket in network namespace " + netns);
		return made;
	}
	std::thread([&] {
		if (::setns(target.get(), CLONE_NEWNET)) {
			error = errno;
			return;
		}
		make();
	}).join();
	if (error)
		throw Failure(error, "enter network namespace " + netns);
	return made;
}

struct DiagRequest {
	nlmsghdr header;
	inet_diag_req_v2 body;
};

constexpr int any_state = -1;

DiagRequest diag_request(std::uint16_t type, int family, const Endpoint &local, const Endpoint &remote, const __u32 cookie[2])
{
	DiagRequest request{};
	request.header.nlmsg_len = sizeof(request);
	request.header.nlmsg_type = type;
	request.header.nlmsg_flags = NLM_F_REQUEST | (type == SOCK_DESTROY ? NLM_F_ACK : 0);
	request.body.sdiag_family = static_cast<__u8>(family);
	request.body.sdiag_protocol = IPPROTO_TCP;
	request.body.idiag_states = static_cast<__u32>(any_state);
	request.body.id.idiag_sport = htons(local.port);
	request.body.id.idiag_dport = htons(remote.port);
	const std::size_t skipped = family == AF_INET ? 12 : 0;
	std::memcpy(request.body.id.idiag_src, local.address + skipped, 16 - skipped);
	std::memcpy(request.body.id.idiag_dst, remote.address + skipped, 16 - skipped);
	request.body.id.idiag_cookie[0] = cookie[0];
	request.body.id.idiag_cookie[1] = cookie[1];
	return request;
}

// One request, one answer: the socket's description, or the errno (0: acknowledged).
int ask(int netlink, const DiagRequest &request, inet_diag_msg *found)
{
	if (::send(netlink, &request, sizeof(request), 0) < 0)
		throw Failure(errno, "send to sock_diag");
	alignas(nlmsghdr) std::uint8_t answer[8192];
	ssize_t size;
	do {
		size = ::recv(netlink, answer, sizeof(answer), 0);
	} while (size < 0 && errno == EINTR);
	if (size < 0)
		throw Failure(errno, "receive from sock_diag");
	const auto *header = reinterpret_cast<const nlmsghdr *>(answer);
	if (!NLMSG_OK(header, static_cast<std::size_t>(size)))
		throw Failure(EBADMSG, "receive from sock_diag");
	if (header->nlmsg_type == NLMSG_ERROR) {
		if (header->nlmsg_len < NLMSG_LENGTH(sizeof(nlmsgerr)))
			throw Failure(EBADMSG, "receive from sock_diag");
		return -static_cast<const nlmsgerr *>(NLMSG_DATA(header))->error;
	}
	if (!found || header->nlmsg_len < NLMSG_LENGTH(sizeof(inet_diag_msg)))
		throw Failure(EBADMSG, "receive from sock_diag");
	std::memcpy(found, NLMSG_DATA(header), sizeof(*found));
	return 0;
}

bool is_mapped(const Endpoint &endpoint)
{
	static const std::uint8_t prefix[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};
	return !std::memcmp(endpoint.address, prefix, sizeof(prefix));
}

} // namespace

std::uint64_t cgroup_id(const std::string &path)
{
	const std::string operation = "cgroup id of " + path;
	const Descriptor folder(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
	if (folder.get() < 0)
		throw Failure(errno, operation);
	struct statfs filesystem;
	if (::fstatfs(folder.get(), &filesystem))
		throw Failure(errno, operation);
	if (filesystem.f_type != CGROUP2_SUPER_MAGIC)
		throw Failure(EINVAL, operation, "not on a cgroup2 mount");
	struct stat status;
	if (::fstat(folder.get(), &status))
		throw Failure(errno, operation);
	static_assert(sizeof(status.st_ino) == sizeof(std::uint64_t),
		      "kernfs ids are whole inode numbers on 64-bit machines only");
	return status.st_ino;
}

std::uint64_t netns_cookie(const std::string &path)
{
	const Descriptor socket = socket_in(path, AF_INET, SOCK_DGRAM, 0);
	std::uint64_t cookie;
	socklen_t size = sizeof(cookie);
	if (::getsockopt(socket.get(), SOL_SOCKET, SO_NETNS_COOKIE, &cookie, &size))
		throw Failure(errno, "cookie of network namespace " + path);
	return cookie;
}

bool destroy_tcp(const std::string &netns, const Endpoint &local, const Endpoint &remote, std::uint64_t cookie)
{
	const Descriptor netlink = socket_in(netns, AF_NETLINK, SOCK_RAW, NETLINK_SOCK_DIAG);
	const __u32 no_cookie[2] = {INET_DIAG_NOCOOKIE, INET_DIAG_NOCOOKIE};
	const __u32 halves[2] = {static_cast<__u32>(cookie), static_cast<__u32>(cookie >> 32)};
	const bool mapped = is_mapped(local) && is_mapped(remote);

	for (const int family : {AF_INET, AF_INET6}) {
		if (family == AF_INET && !mapped)
			continue;
		// Asked first, because the kernel's lookup falls back to a listener on the port, which must not be destroyed.
		inet_diag_msg found{};
		int error = ask(netlink.get(),
				diag_request(SOCK_DIAG_BY_FAMILY, family, local, remote, cookie ? halves : no_cookie), &found);
		if (!error && (found.idiag_state == TCP_LISTEN || found.id.idiag_dport != htons(remote.port)))
			error = ENOENT;
		if (!error)
			error = ask(netlink.get(), diag_request(SOCK_DESTROY, family, local, remote, found.id.idiag_cookie),
				    nullptr);
		if (!error)
			return true;
		if (error != ENOENT && error != ESTALE)
			throw Failure(error, "destroy a TCP socket");
	}
	return false;
}

} // namespace postern
