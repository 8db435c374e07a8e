// SPDX-License-Identifier: Apache-2.0
// Ring buffers over libbpf: a thread that reads in batches, and one last look.
#include "events.h"

#include <cerrno>

#include <bpf/libbpf.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

namespace postern
{

namespace
{

constexpr std::size_t drain_records = 1 << 20;

} // namespace

std::deque<Bytes> drain(int map_fd, const std::string &name)
{
	std::deque<Bytes> records;
	const auto keep = [](void *context, void *data, std::size_t size) {
		auto &kept = *static_cast<std::deque<Bytes> *>(context);
		const auto *bytes = static_cast<const std::uint8_t *>(data);
		kept.emplace_back(bytes, bytes + size);
		return kept.size() < drain_records ? 0 : -ENOBUFS;
	};
	ring_buffer *ring = ring_buffer__new(map_fd, keep, &records, nullptr);
	if (!ring)
		throw Failure(errno, "read " + name);
	const int error = ring_buffer__consume(ring);
	ring_buffer__free(ring);
	if (error < 0 && error != -ENOBUFS)
		throw Failure(-error, "read " + name);
	return records;
}

void EventReader::RingCloser::operator()(ring_buffer *ring) const
{
	ring_buffer__free(ring);
}

EventReader::EventReader(int map_fd, std::function<void()> announce)
    : announce_(std::move(announce)), wake_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)),
      ring_(ring_buffer__new(map_fd, keep, this, nullptr))
{
	if (!ring_)
		throw Failure(errno, "read a ring buffer");
	if (wake_.get() < 0)
		throw Failure(errno, "create an eventfd");
	thread_ = std::thread(&EventReader::run, this);
}

EventReader::~EventReader()
{
	stop();
}

int EventReader::keep(void *context, void *data, std::size_t size)
{
	auto &reader = *static_cast<EventReader *>(context);
	const auto *bytes = static_cast<const std::uint8_t *>(data);
	const std::lock_guard lock(reader.mutex_);
	reader.batch_.emplace_back(bytes, bytes + size);
	// The record counts as read either way; the error only ends this round.
	return reader.batch_.size() < batch_records ? 0 : -ENOBUFS;
}

void EventReader::run()
{
	bool waiting = false; // for the batch on its way to be taken
	bool crowded = false; // there was more than a batch
	while (true) {
		pollfd descriptors[2] = {{wake_.get(), POLLIN, 0}, {ring_buffer__epoll_fd(ring_.get()), POLLIN, 0}};
		if (::poll(descriptors, waiting ? 1 : 2, -1) < 0 && errno != EINTR)
			return;
		std::uint64_t ignored;
		if (descriptors[0].revents)
			(void)!::read(wake_.get(), &ignored, sizeof(ignored));
		{
			const std::lock_guard lock(mutex_);
			if (stopped_)
				return;
			waiting = announced_;
		}
		if (waiting)
			continue;
		// Node runs what is queued for its loop until the queue is empty: it must find it so, or nothing else gets a turn.
		if (crowded && ::poll(descriptors, 1, pause_ms) > 0) {
			crowded = false;
			continue;
		}
		(void)ring_buffer__consume(ring_.get());
		{
			const std::lock_guard lock(mutex_);
			announced_ = waiting = !batch_.empty();
			crowded = batch_.size() >= batch_records;
		}
		if (waiting)
			announce_();
	}
}

std::optional<Bytes> EventReader::take()
{
	{
		const std::lock_guard lock(mutex_);
		if (!batch_.empty()) {
			Bytes record = std::move(batch_.front());
			batch_.pop_front();
			return record;
		}
	}
	resume();
	return std::nullopt;
}

void EventReader::resume()
{
	const std::uint64_t one = 1;
	{
		const std::lock_guard lock(mutex_);
		announced_ = false;
	}
	(void)!::write(wake_.get(), &one, sizeof(one));
}

void EventReader::stop()
{
	{
		const std::lock_guard lock(mutex_);
		stopped_ = true;
	}
	resume();
	if (thread_.joinable())
		thread_.join();
}

} // namespace postern
