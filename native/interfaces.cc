// SPDX-License-Identifier: Apache-2.0
// What rtnetlink says of interfaces, addresses and the numbers of namespaces, as netlink.h reads it.
#include "interfaces.h"

#include <cerrno>
#include <cstddef>
#include <cstring>

#include <fcntl.h>
#include <linux/if_addr.h>
#include <linux/if_link.h>
#include <linux/net_namespace.h>
#include <linux/rtnetlink.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "netlink.h"

namespace postern
{

namespace
{

constexpr std::int32_t no_number = -1;

std::int32_t ask_number(Route &route, int netns)
{
	std::int32_t number = no_number;
	Message request(RTM_GETNSID, 0, rtgenmsg{AF_UNSPEC});
	route.ask(request.with(NETNSA_FD, static_cast<std::uint32_t>(netns)).finish(), [&](const nlmsghdr *message) {
		if (message->nlmsg_type == RTM_NEWNSID)
			number = Attributes(message, sizeof(rtgenmsg)).number<std::int32_t>(NETNSA_NSID).value_or(no_number);
	});
	return number;
}

Descriptor open_namespace(const std::string &path, const std::string &operation)
{
	Descriptor netns(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
	if (netns.get() < 0)
		throw Failure(errno, operation);
	return netns;
}

std::string of_namespace(const char *what, std::optional<std::int32_t> nsid)
{
	return std::string("list ") + what + (nsid ? " of network namespace " + std::to_string(*nsid) : "");
}

Interface read_interface(const nlmsghdr *message)
{
	const auto *header = static_cast<const ifinfomsg *>(NLMSG_DATA(message));
	const Attributes attributes(message, sizeof(ifinfomsg));
	const View mac = attributes.find(IFLA_ADDRESS);
	return {static_cast<std::uint32_t>(header->ifi_index),
		attributes.text(IFLA_IFNAME),
		attributes.within(IFLA_LINKINFO).text(IFLA_INFO_KIND),
		header->ifi_type,
		attributes.number<std::uint32_t>(IFLA_LINK),
		attributes.number<std::int32_t>(IFLA_LINK_NETNSID),
		Bytes(mac.data, mac.data + mac.size)};
}

std::optional<InterfaceAddress> read_address(const nlmsghdr *message)
{
	const auto *header = static_cast<const ifaddrmsg *>(NLMSG_DATA(message));
	const Attributes attributes(message, sizeof(ifaddrmsg));
	// IFA_ADDRESS is the other end's on a point-to-point link that has one; IFA_LOCAL is always ours, where it is told.
	View own = attributes.find(IFA_LOCAL);
	if (!own.data)
		own = attributes.find(IFA_ADDRESS);
	InterfaceAddress result{};
	result.ifindex = header->ifa_index;
	if (header->ifa_family == AF_INET && own.size == 4) {
		result.address[10] = result.address[11] = 0xff;
		std::memcpy(result.address + 12, own.data, 4);
	} else if (header->ifa_family == AF_INET6 && own.size == 16) {
		std::memcpy(result.address, own.data, 16);
	} else {
		return std::nullopt;
	}
	return result;
}

} // namespace

std::int32_t namespace_number(const std::string &path)
{
	const std::string operation = "number of network namespace " + path;
	const Descriptor netns = open_namespace(path, operation);
	Route route(operation);
	const std::int32_t known = ask_number(route, netns.get());
	if (known != no_number)
		return known;
	try {
		Message request(RTM_NEWNSID, NLM_F_ACK, rtgenmsg{AF_UNSPEC});
		request.with(NETNSA_FD, static_cast<std::uint32_t>(netns.get()));
		request.with(NETNSA_NSID, static_cast<std::uint32_t>(no_number));
		route.ask(request.finish(), [](const nlmsghdr *) {});
	} catch (const Failure &failure) {
		// Somebody else was faster.
		if (failure.code != "EEXIST")
			throw;
	}
	const std::int32_t given = ask_number(route, netns.get());
	if (given == no_number)
		throw Failure(ENOENT, operation, "it was given none");
	return given;
}

std::optional<std::int32_t> own_namespace_number()
{
	const std::string operation = "number of the own network namespace";
	const Descriptor netns = open_namespace("/proc/thread-self/ns/net", operation);
	Route route(operation);
	const std::int32_t number = ask_number(route, netns.get());
	return number == no_number ? std::nullopt : std::optional(number);
}

std::vector<Interface> interfaces(std::optional<std::int32_t> nsid)
{
	Route route(of_namespace("interfaces", nsid));
	Message request(RTM_GETLINK, NLM_F_DUMP, ifinfomsg{});
	request.with(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS);
	if (nsid)
		request.with(IFLA_TARGET_NETNSID, static_cast<std::uint32_t>(*nsid));
	std::vector<Interface> found;
	route.dump(
		request.finish(), [&] { found.clear(); },
		[&](const nlmsghdr *message) {
			if (message->nlmsg_type == RTM_NEWLINK && message->nlmsg_len >= NLMSG_LENGTH(sizeof(ifinfomsg)))
				found.push_back(read_interface(message));
		});
	return found;
}

std::vector<InterfaceAddress> interface_addresses(std::optional<std::int32_t> nsid)
{
	Route route(of_namespace("addresses", nsid));
	Message request(RTM_GETADDR, NLM_F_DUMP, ifaddrmsg{});
	if (nsid)
		request.with(IFA_TARGET_NETNSID, static_cast<std::uint32_t>(*nsid));
	std::vector<InterfaceAddress> found;
	route.dump(
		request.finish(), [&] { found.clear(); },
		[&](const nlmsghdr *message) {
			if (message->nlmsg_type != RTM_NEWADDR || message->nlmsg_len < NLMSG_LENGTH(sizeof(ifaddrmsg)))
				return;
			if (const auto address = read_address(message))
				found.push_back(*address);
		});
	return found;
}

std::uint64_t frames_received(std::uint32_t ifindex)
{
	const std::string operation = "statistics of interface " + std::to_string(ifindex);
	Route route(operation);
	ifinfomsg header{};
	header.ifi_index = static_cast<int>(ifindex);
	Message request(RTM_GETLINK, 0, header);
	std::optional<std::uint64_t> frames;
	route.ask(request.finish(), [&](const nlmsghdr *message) {
		frames = Attributes(message, sizeof(ifinfomsg)).number<std::uint64_t>(IFLA_STATS64);
	});
	static_assert(offsetof(rtnl_link_stats64, rx_packets) == 0, "the first of the statistics");
	if (!frames)
		throw Failure(EBADMSG, operation);
	return *frames;
}

InterfaceWatch::InterfaceWatch(std::function<void()> announce)
    : announce_(std::move(announce)), socket_(::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_ROUTE)),
      wake_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK))
{
	const std::string operation = "watch interfaces";
	if (socket_.get() < 0 || wake_.get() < 0)
		throw Failure(errno, operation);
	sockaddr_nl address{};
	address.nl_family = AF_NETLINK;
	if (::bind(socket_.get(), reinterpret_cast<const sockaddr *>(&address), sizeof(address)))
		throw Failure(errno, operation);
	for (const int group : {RTNLGRP_LINK, RTNLGRP_NSID})
		if (::setsockopt(socket_.get(), SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, &group, sizeof(group)))
			throw Failure(errno, operation);
	thread_ = std::thread(&InterfaceWatch::run, this);
}

InterfaceWatch::~InterfaceWatch()
{
	stop();
}

void InterfaceWatch::run()
{
	bool waiting = false; // until what was announced has been taken
	while (true) {
		pollfd descriptors[2] = {{wake_.get(), POLLIN, 0}, {socket_.get(), POLLIN, 0}};
		if (::poll(descriptors, waiting ? 1 : 2, -1) < 0 && errno != EINTR)
			return;
		std::uint64_t count;
		if (descriptors[0].revents)
			(void)!::read(wake_.get(), &count, sizeof(count));
		{
			const std::lock_guard lock(mutex_);
			if (stopped_)
				return;
			waiting = announced_;
		}
		if (waiting || !descriptors[1].revents)
			continue;
		receive();
		{
			const std::lock_guard lock(mutex_);
			announced_ = waiting = true;
		}
		announce_();
	}
}

void InterfaceWatch::receive()
{
	Bytes buffer(receive_bytes);
	while (true) {
		const ssize_t size = ::recv(socket_.get(), buffer.data(), buffer.size(), 0);
		if (size < 0 && errno == EINTR)
			continue;
		if (size < 0 && errno != ENOBUFS)
			return;
		const std::lock_guard lock(mutex_);
		if (size < 0) {
			changes_.lost = true;
			continue;
		}
		auto left = static_cast<int>(size);
		for (const auto *message = reinterpret_cast<const nlmsghdr *>(buffer.data()); NLMSG_OK(message, left);
		     message = NLMSG_NEXT(message, left)) {
			// A bridge tells that a port has left it by the same message, of its own family.
			const auto *header = static_cast<const ifinfomsg *>(NLMSG_DATA(message));
			if (message->nlmsg_type == RTM_DELLINK && message->nlmsg_len >= NLMSG_LENGTH(sizeof(*header)) &&
			    header->ifi_family == AF_UNSPEC)
				changes_.gone.push_back(static_cast<std::uint32_t>(header->ifi_index));
		}
	}
}

InterfaceChanges InterfaceWatch::take()
{
	InterfaceChanges changes;
	{
		const std::lock_guard lock(mutex_);
		announced_ = false;
		std::swap(changes, changes_);
	}
	wake();
	return changes;
}

void InterfaceWatch::stop()
{
	{
		const std::lock_guard lock(mutex_);
		stopped_ = true;
	}
	wake();
	if (thread_.joinable())
		thread_.join();
}

void InterfaceWatch::wake()
{
	const std::uint64_t one = 1;
	(void)!::write(wake_.get(), &one, sizeof(one));
}

} // namespace postern
