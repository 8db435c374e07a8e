// SPDX-License-Identifier: Apache-2.0
// How do records leave a ring buffer without ever flooding whoever reads them? Knows nothing of what they say.
#ifndef POSTERN_EVENTS_H
#define POSTERN_EVENTS_H

#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>

#include "kernel.h"

struct ring_buffer;

namespace postern
{

// Reads one ring buffer in a thread of its own. At most one batch is on its way at a time: a flood then stays in the kernel's
// buffer, whose programs count what no longer fits, and never fills this process.
class EventReader
{
      public:
	// `announce` is called on the reader's thread when a batch is ready, and must not block.
	EventReader(int map_fd, std::function<void()> announce);
	EventReader(const EventReader &) = delete;
	EventReader &operator=(const EventReader &) = delete;
	~EventReader();

	// The next record of the batch; none left: the reader is told to fetch the next batch.
	std::optional<Bytes> take();
	// Lets the thread go on although records are left, after a callback that failed.
	void resume();
	// Ends the thread. What it has read can still be taken.
	void stop();

	static constexpr std::size_t batch_records = 1024;
	static constexpr int pause_ms = 1;

      private:
	void run();
	static int keep(void *reader, void *data, std::size_t size);

	struct RingCloser {
		void operator()(ring_buffer *ring) const;
	};

	std::function<void()> announce_;
	Descriptor wake_;
	std::unique_ptr<ring_buffer, RingCloser> ring_;
	std::mutex mutex_;
	std::deque<Bytes> batch_;
	bool announced_ = false;
	bool stopped_ = false;
	std::thread thread_;
};

// Everything in the ring buffer now.
std::deque<Bytes> drain(int map_fd, const std::string &name);

} // namespace postern

#endif
