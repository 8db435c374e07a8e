// SPDX-License-Identifier: Apache-2.0
// rtnetlink: one request, its answers read to the end. Strict checking is on, so that the kernel refuses what it would otherwise ignore.
// Every length that a message claims is checked against what was received. Knows no message's meaning.
#ifndef POSTERN_NETLINK_H
#define POSTERN_NETLINK_H

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <functional>
#include <optional>

#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <sys/socket.h>

#include "kernel.h"

namespace postern
{

// The kernel fills at most 32 KiB of a dump at a time (netlink_dump in net/netlink/af_netlink.c).
constexpr std::size_t receive_bytes = 1 << 16;
// A table that changes while it is dumped is dumped again; one that never rests is an error.
constexpr int dump_attempts = 16;

class Message
{
      public:
	template <typename Header> Message(std::uint16_t type, std::uint16_t flags, const Header &header)
	{
		nlmsghdr start{};
		start.nlmsg_type = type;
		start.nlmsg_flags = static_cast<std::uint16_t>(NLM_F_REQUEST | flags);
		append(&start, sizeof(start));
		append(&header, sizeof(header));
	}

	Message &with(std::uint16_t type, std::uint32_t value)
	{
		const rtattr attribute{RTA_LENGTH(sizeof(value)), type};
		append(&attribute, sizeof(attribute));
		append(&value, sizeof(value));
		return *this;
	}

	const Bytes &finish()
	{
		const auto size = static_cast<std::uint32_t>(bytes_.size());
		std::memcpy(bytes_.data(), &size, sizeof(size));
		return bytes_;
	}

      private:
	void append(const void *data, std::size_t size)
	{
		const auto *from = static_cast<const std::uint8_t *>(data);
		bytes_.insert(bytes_.end(), from, from + size);
		bytes_.resize(NLMSG_ALIGN(bytes_.size()));
	}

	Bytes bytes_;
};

// The attributes behind a header of `header_bytes`.
class Attributes
{
      public:
	Attributes(const nlmsghdr *message, std::size_t header_bytes)
	    : Attributes(reinterpret_cast<const std::uint8_t *>(message) + NLMSG_SPACE(header_bytes),
			 message->nlmsg_len > NLMSG_SPACE(header_bytes) ? message->nlmsg_len - NLMSG_SPACE(header_bytes) : 0)
	{
	}

	View find(std::uint16_t type) const
	{
		const std::uint8_t *at = data_;
		std::size_t left = size_;
		while (left >= sizeof(rtattr)) {
			rtattr attribute;
			std::memcpy(&attribute, at, sizeof(attribute));
			if (attribute.rta_len < sizeof(rtattr) || attribute.rta_len > left)
				return {nullptr, 0};
			if ((attribute.rta_type & NLA_TYPE_MASK) == type)
				return {at + RTA_LENGTH(0), attribute.rta_len - RTA_LENGTH(0)};
			const std::size_t step = std::min<std::size_t>(RTA_ALIGN(attribute.rta_len), left);
			at += step;
			left -= step;
		}
		return {nullptr, 0};
	}

	Attributes within(std::uint16_t type) const
	{
		const View found = find(type);
		return {found.data, found.size};
	}

	template <typename Number> std::optional<Number> number(std::uint16_t type) const
	{
		const View found = find(type);
		Number value;
		if (found.size < sizeof(value))
			return std::nullopt;
		std::memcpy(&value, found.data, sizeof(value));
		return value;
	}

	std::string text(std::uint16_t type) const
	{
		const View found = find(type);
		const auto *begin = reinterpret_cast<const char *>(found.data);
		return found.data ? std::string(begin, strnlen(begin, found.size)) : "";
	}

      private:
	Attributes(const std::uint8_t *data, std::size_t size) : data_(data), size_(size) {}

	const std::uint8_t *data_;
	std::size_t size_;
};

class Route
{
      public:
	explicit Route(const std::string &operation)
	    : operation_(operation), socket_(::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE)), buffer_(receive_bytes)
	{
		if (socket_.get() < 0)
			throw Failure(errno, operation_);
		const int on = 1;
		if (::setsockopt(socket_.get(), SOL_NETLINK, NETLINK_GET_STRICT_CHK, &on, sizeof(on)))
			throw Failure(errno, operation_);
	}

	// Calls `take` with each message of the answer. False: the table changed meanwhile.
	bool ask(const Bytes &request, const std::function<void(const nlmsghdr *)> &take)
	{
		if (::send(socket_.get(), request.data(), request.size(), 0) < 0)
			throw Failure(errno, operation_);
		const auto *asked = reinterpret_cast<const nlmsghdr *>(request.data());
		const bool is_dump = (asked->nlmsg_flags & NLM_F_DUMP) == NLM_F_DUMP;
		bool steady = true;
		while (true) {
			auto left = static_cast<int>(receive()); // signed: an unaligned last message takes it below 0
			for (const auto *message = reinterpret_cast<const nlmsghdr *>(buffer_.data()); NLMSG_OK(message, left);
			     message = NLMSG_NEXT(message, left)) {
				if (message->nlmsg_flags & NLM_F_DUMP_INTR)
					steady = false;
				if (message->nlmsg_type == NLMSG_ERROR || message->nlmsg_type == NLMSG_DONE) {
					check_end(message);
					return steady;
				}
				take(message);
				if (!is_dump && !(asked->nlmsg_flags & NLM_F_ACK))
					return steady;
			}
		}
	}

	void dump(const Bytes &request, const std::function<void()> &begin, const std::function<void(const nlmsghdr *)> &take)
	{
		for (int attempt = 0; attempt < dump_attempts; attempt++) {
			begin();
			if (ask(request, take))
				return;
		}
		throw Failure(EAGAIN, operation_, "it changes faster than it can be read");
	}

      private:
	std::size_t receive()
	{
		ssize_t size;
		do {
			size = ::recv(socket_.get(), buffer_.data(), buffer_.size(), MSG_TRUNC);
		} while (size < 0 && errno == EINTR);
		if (size < 0)
			throw Failure(errno, operation_);
		if (static_cast<std::size_t>(size) > buffer_.size() ||
		    !NLMSG_OK(reinterpret_cast<nlmsghdr *>(buffer_.data()), size))
			throw Failure(EBADMSG, operation_);
		return static_cast<std::size_t>(size);
	}

	// Both the end of a dump and an error begin with the errno; 0 is none.
	void check_end(const nlmsghdr *message) const
	{
		int error = 0;
		if (message->nlmsg_len >= NLMSG_LENGTH(sizeof(error)))
			std::memcpy(&error, NLMSG_DATA(message), sizeof(error));
		else if (message->nlmsg_type == NLMSG_ERROR)
			throw Failure(EBADMSG, operation_);
		if (error < 0)
			throw Failure(-error, operation_);
	}

	std::string operation_;
	Descriptor socket_;
	Bytes buffer_;
};

} // namespace postern

#endif
