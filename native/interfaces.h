// SPDX-License-Identifier: Apache-2.0
// Which interfaces and addresses has this network namespace, and which have others that it knows by number? By rtnetlink; nothing here
// enters a namespace. Knows neither pods nor programs.
#ifndef POSTERN_INTERFACES_H
#define POSTERN_INTERFACES_H

#include <functional>
#include <mutex>
#include <optional>
#include <thread>

#include "kernel.h"

namespace postern
{

struct Interface {
	std::uint32_t ifindex;
	std::string name;
	std::string kind; // `veth`, `macvlan`, …; empty: a device of its own
	std::uint16_t hardware; // ARPHRD_*
	std::optional<std::uint32_t> link; // the other end, or what it lies on; 0: that is gone
	std::optional<std::int32_t>
		link_nsid; // the namespace of `link`, by this namespace's number for it; none: the interface's own
	Bytes mac;
};

struct InterfaceAddress {
	std::uint32_t ifindex;
	std::uint8_t address[16]; // network order, v4 v4-mapped
};

// This namespace's number for the one at `path` (`/proc/PID/ns/net`); it is given one where it has none.
std::int32_t namespace_number(const std::string &path);

// This namespace's number for itself, which is how others' interfaces name it; none: it has none, and nobody does.
std::optional<std::int32_t> own_namespace_number();

// Of this namespace, or of the one with that number. ENONET, EINVAL: nobody has that number any more.
std::vector<Interface> interfaces(std::optional<std::int32_t> nsid);
std::vector<InterfaceAddress> interface_addresses(std::optional<std::int32_t> nsid);

// Frames that an interface of this namespace has received since it was made. ENODEV: it is gone.
std::uint64_t frames_received(std::uint32_t ifindex);

// What changed since it was last asked for. How interfaces are now is for whoever is told to look up: notifications say less than a dump does.
struct InterfaceChanges {
	std::vector<std::uint32_t> gone; // an index that is used again at once shows here alone
	bool lost = false; // the kernel had more to tell than there was room for: anything may have changed
};

// Tells that an interface of this namespace came, went or changed, or a number of a namespace was given or taken back.
class InterfaceWatch
{
      public:
	// `announce` is called on a thread of its own, at most once until `resume`; it must not block.
	explicit InterfaceWatch(std::function<void()> announce);
	InterfaceWatch(const InterfaceWatch &) = delete;
	InterfaceWatch &operator=(const InterfaceWatch &) = delete;
	~InterfaceWatch();

	// From now on what changes is announced again; at once where something changed since.
	InterfaceChanges take();
	void stop();

      private:
	void run();
	void receive();
	void wake();

	std::function<void()> announce_;
	Descriptor socket_;
	Descriptor wake_;
	std::mutex mutex_;
	InterfaceChanges changes_;
	bool announced_ = false;
	bool stopped_ = false;
	std::thread thread_;
};

} // namespace postern

#endif
