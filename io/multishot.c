/* SPDX-License-Identifier: MIT */
/*
 * multishot.c: tries whether a multishot receive hears the end of a stream.
 *
 * Kernels from 6.0 until the mend (6.18.44 has it) count two wake-ups, data and then the end, as
 * one when both come before the receive gets to run: it reads the data and waits for an event that
 * has been. The connection then hangs until its deadline. With DEFER_TASKRUN the receive runs only
 * when we enter, so the race is no race: write, shut down, then look, and the kernel at hand shows
 * which it is. What the mended kernels still miss, a reset behind data, ring_reap.c looks for
 * itself.
 */
#include "io/multishot.h"

#include <errno.h>
#include <sys/socket.h>
#include <unistd.h>

#include "io/ring.h"

enum { GROUP = 7, ENTRIES = 2, BUFFER_BYTES = 64, WAIT_NS = 20000000 };
/* What may be left of the trial in the completion queue is nobody's. */
static const uint64_t RECEIVE = (uint64_t)WEIR__CODE_IGNORE << 32 | 1,
		      CANCEL = (uint64_t)WEIR__CODE_IGNORE << 32 | 2;

/* The next completion of the receive, or -ETIME. `more` says whether others follow. */
static int next(struct io_uring *uring, bool *more)
{
	struct __kernel_timespec patience = { .tv_nsec = WAIT_NS };
	struct io_uring_cqe *cqe;

	for (;;) {
		int err = io_uring_wait_cqe_timeout(uring, &cqe, &patience);
		if (err < 0)
			return -ETIME;
		uint64_t whose = cqe->user_data;
		int res = cqe->res;
		*more = cqe->flags & IORING_CQE_F_MORE;
		io_uring_cqe_seen(uring, cqe);
		if (whose == RECEIVE)
			return res;
	}
}

static void arm(struct io_uring *uring, int fd)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(uring);

	io_uring_prep_recv_multishot(sqe, fd, NULL, 0, 0);
	sqe->flags |= IOSQE_BUFFER_SELECT;
	sqe->buf_group = GROUP;
	sqe->user_data = RECEIVE;
	(void)io_uring_submit_and_get_events(uring);
}

static void disarm(struct io_uring *uring)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(uring);
	bool more = true;

	io_uring_prep_cancel64(sqe, RECEIVE, 0);
	sqe->user_data = CANCEL;
	(void)io_uring_submit(uring);
	while (more && next(uring, &more) != -ETIME)
		;
}

static bool try_on(struct io_uring *uring, int near, int far)
{
	bool more = false;

	arm(uring, near);
	if (write(far, "x", 1) != 1 || shutdown(far, SHUT_WR) < 0)
		return false;
	bool is_good = next(uring, &more) == 1 && more && next(uring, &more) == 0;
	if (more)
		disarm(uring);
	return is_good;
}

bool weir__multishot_hears_the_end(struct io_uring *uring)
{
	/* the ring of two entries, and behind it the two buffers */
	struct io_uring_buf_ring *ring = weir_alloc_aligned(4096, 4096);
	struct io_uring_buf_reg reg = {
		.ring_addr = (uintptr_t)ring,
		.ring_entries = ENTRIES,
		.bgid = GROUP,
	};
	bool is_good = false;
	int pair[2];

	if (!ring)
		return false;
	io_uring_buf_ring_init(ring);
	for (int i = 0; i < ENTRIES; i++)
		io_uring_buf_ring_add(ring, (char *)ring + 1024 + i * BUFFER_BYTES, BUFFER_BYTES,
				      (unsigned short)i, ENTRIES - 1, i);
	io_uring_buf_ring_advance(ring, ENTRIES);
	if (io_uring_register_buf_ring(uring, &reg, 0) == 0) {
		if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0) {
			is_good = try_on(uring, pair[0], pair[1]);
			(void)close(pair[0]);
			(void)close(pair[1]);
		}
		(void)io_uring_unregister_buf_ring(uring, GROUP);
	}
	weir_free(ring);
	return is_good;
}
