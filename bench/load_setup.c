/* SPDX-License-Identifier: MIT */
/*
 * load_setup.c: the ring, the provided buffers, the payload and the connections of echoload.
 */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>

#include "load_state.h"

static unsigned power_of_two(uint64_t at_least, unsigned min, unsigned max)
{
	unsigned n = min;
	while (n < at_least && n < max)
		n *= 2;
	return n;
}

static void *zeroed(size_t bytes)
{
	void *memory =
		mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (memory == MAP_FAILED)
		load_die("%zu bytes of memory: %s", bytes, strerror(errno));
	return memory;
}

/* Large buffers are staggered by a cache line, or their first lines would share one cache set. */
static void init_buffers(struct load *l)
{
	unsigned bytes = power_of_two((uint64_t)l->opt.size * l->opt.depth, 256, 65536);
	unsigned count = power_of_two(l->opt.connections, 128, 4096);
	while (count > 128 && (uint64_t)count * bytes > 32 << 20)
		count /= 2;
	l->buffer_bytes = bytes;
	l->buffer_count = count;
	l->buffer_stride = bytes >= 4096 ? bytes + 64 : bytes;
	l->buffer_memory = zeroed((size_t)count * l->buffer_stride);
	l->buffers = zeroed(count * sizeof(struct io_uring_buf));
	struct io_uring_buf_reg reg = { .ring_addr = (uintptr_t)l->buffers,
					.ring_entries = count,
					.bgid = BUFFER_GROUP };
	int err = io_uring_register_buf_ring(&l->ring, &reg, 0);
	if (err < 0)
		load_die("provided buffers: %s", strerror(-err));
	io_uring_buf_ring_init(l->buffers);
	for (unsigned i = 0; i < count; i++)
		load_give_buffer(l, i);
}

static void init_payload(struct load *l)
{
	size_t longest = (size_t)l->opt.size * l->opt.depth;
	if (longest < l->buffer_bytes)
		longest = l->buffer_bytes;
	size_t bytes = PAYLOAD_PERIOD + longest;
	uint64_t random = UINT64_C(88172645463325252);
	l->payload = zeroed(bytes);
	for (size_t i = 0; i < bytes; i++) {
		random ^= random << 13;
		random ^= random >> 7;
		random ^= random << 17;
		l->payload[i] = i < PAYLOAD_PERIOD ? (char)random : l->payload[i - PAYLOAD_PERIOD];
	}
}

static void init_ring(struct load *l)
{
	struct rlimit limit;
	if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
		limit.rlim_cur = limit.rlim_max;
		setrlimit(RLIMIT_NOFILE, &limit);
	}
	struct io_uring_params params = {
		.flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN |
			 IORING_SETUP_SUBMIT_ALL | IORING_SETUP_CLAMP | IORING_SETUP_CQSIZE,
		.cq_entries = power_of_two(4 * (uint64_t)l->opt.connections, 4096, 65536),
	};
	int err = io_uring_queue_init_params(2048, &l->ring, &params);
	if (err < 0)
		load_die("io_uring is not available: %s", strerror(-err));
	io_uring_register_ring_fd(&l->ring);
	err = io_uring_register_files_sparse(&l->ring, l->opt.connections);
	if (err < 0)
		load_die("%u connections: %s (see ulimit -n)", l->opt.connections, strerror(-err));
}

void load_setup(struct load *l)
{
	init_ring(l);
	init_buffers(l);
	init_payload(l);
	l->conns = zeroed(l->opt.connections * sizeof(*l->conns));
	l->sent_at_ns = zeroed((size_t)l->opt.connections * l->opt.depth * sizeof(int64_t));
	l->dead = l->opt.connections;
	if (l->opt.server) {
		int err = procstat_read(l->opt.server, &l->server_before);
		if (err < 0)
			load_die("process %d: %s", (int)l->opt.server, strerror(-err));
		l->server_known = true;
	}
}
