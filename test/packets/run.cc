// SPDX-License-Identifier: Apache-2.0
// Runs programs of the kernel over packets, fast: run COUNTERS FLOWS FLOW_ORDER PROGRAM..., each an id. Judges nothing: what the
// programs return and count goes to standard output, batch by batch, as they come from standard input. Little-endian throughout.
//   in:  u32 packets, u32 reset (0: flows stay), then for each packet u16 program (its place in the arguments), u16 gso size, u16 gso
//        segments, u16 bytes, and these
//   out: a byte a packet (what the program returned; 100: the kernel refused to run it), then u32 counters, and for each its key, u64
//        packets and u64 bytes, summed over CPUs; the counters begin at 0 again
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include <bpf/bpf.h>
#include <bpf/libbpf.h>

namespace
{

constexpr std::uint8_t not_run = 100;
constexpr std::uint32_t batch_entries = 4096;

[[noreturn]] void fail(const char *what)
{
	std::fprintf(stderr, "run: %s: %s\n", what, std::strerror(errno));
	std::exit(1);
}

int descriptor(const char *id, int (*open)(std::uint32_t))
{
	const int fd = open(static_cast<std::uint32_t>(std::strtoul(id, nullptr, 10)));
	if (fd < 0)
		fail(id);
	return fd;
}

struct Map {
	int fd;
	std::uint32_t key_size;
	std::uint32_t value_size; // of all CPUs where it has one each

	explicit Map(const char *id) : fd(descriptor(id, bpf_map_get_fd_by_id))
	{
		bpf_map_info info{};
		std::uint32_t size = sizeof(info);
		if (bpf_obj_get_info_by_fd(fd, &info, &size))
			fail("ask about a map");
		key_size = info.key_size;
		value_size = info.value_size;
		if (info.type == BPF_MAP_TYPE_PERCPU_HASH)
			value_size = (value_size + 7) / 8 * 8 * static_cast<std::uint32_t>(libbpf_num_possible_cpus());
	}

	// Takes everything out of it.
	template <typename Take> void empty(Take take) const
	{
		std::vector<std::uint8_t> keys(std::size_t{key_size} * batch_entries),
			values(std::size_t{value_size} * batch_entries);
		while (true) {
			// The kernel's place in the map, which is as long as a bucket's number or a key.
			std::vector<std::uint8_t> place(key_size < 4 ? 4 : key_size);
			std::uint32_t count = batch_entries;
			LIBBPF_OPTS(bpf_map_batch_opts, options);
			const int error = bpf_map_lookup_and_delete_batch(fd, nullptr, place.data(), keys.data(), values.data(),
									  &count, &options);
			if (error && error != -ENOENT)
				fail("empty a map");
			for (std::uint32_t index = 0; index < count; index++)
				take(keys.data() + std::size_t{index} * key_size,
				     values.data() + std::size_t{index} * value_size);
			if (error)
				return;
		}
	}
};

void read(void *to, std::size_t size)
{
	if (std::fread(to, 1, size, stdin) != size)
		std::exit(std::feof(stdin) ? 0 : 1);
}

void write(const void *from, std::size_t size)
{
	if (std::fwrite(from, 1, size, stdout) != size)
		fail("write");
}

struct Header {
	std::uint16_t program;
	std::uint16_t gso_size;
	std::uint16_t gso_segments;
	std::uint16_t bytes;
};

std::uint8_t run(int program, const Header &header, const std::vector<std::uint8_t> &packet)
{
	__sk_buff context{};
	context.gso_size = header.gso_size;
	context.gso_segs = header.gso_segments;
	LIBBPF_OPTS(bpf_test_run_opts, options);
	options.data_in = packet.data();
	options.data_size_in = header.bytes;
	options.repeat = 1;
	if (header.gso_size || header.gso_segments) {
		options.ctx_in = &context;
		options.ctx_size_in = sizeof(context);
	}
	return bpf_prog_test_run_opts(program, &options) ? not_run : static_cast<std::uint8_t>(options.retval);
}

} // namespace

int main(int argc, char **argv)
{
	if (argc < 5) {
		std::fprintf(stderr, "usage: run COUNTERS FLOWS FLOW_ORDER PROGRAM...\n");
		return 1;
	}
	const Map counters(argv[1]), flows(argv[2]), flow_order(argv[3]);
	std::vector<int> programs;
	for (int index = 4; index < argc; index++)
		programs.push_back(descriptor(argv[index], bpf_prog_get_fd_by_id));
	std::vector<std::uint8_t> packet(65536), counted;
	while (true) {
		std::uint32_t header[2];
		read(header, sizeof(header));
		const auto forget = [](const std::uint8_t *, const std::uint8_t *) {};
		if (header[1]) {
			flows.empty(forget);
			flow_order.empty(forget);
			counters.empty(forget);
		}
		for (std::uint32_t index = 0; index < header[0]; index++) {
			Header one;
			read(&one, sizeof(one));
			read(packet.data(), one.bytes);
			const std::uint8_t returned = run(programs.at(one.program), one, packet);
			write(&returned, 1);
		}
		std::uint32_t count = 0;
		counted.clear();
		counters.empty([&](const std::uint8_t *key, const std::uint8_t *values) {
			std::uint64_t sums[2] = {};
			for (std::uint32_t at = 0; at < counters.value_size; at += sizeof(sums)) {
				std::uint64_t one[2];
				std::memcpy(one, values + at, sizeof(one));
				sums[0] += one[0];
				sums[1] += one[1];
			}
			const auto *bytes = reinterpret_cast<const std::uint8_t *>(sums);
			counted.insert(counted.end(), key, key + counters.key_size);
			counted.insert(counted.end(), bytes, bytes + sizeof(sums));
			count++;
		});
		write(&count, sizeof(count));
		write(counted.data(), counted.size());
		if (std::fflush(stdout))
			fail("write");
	}
}
