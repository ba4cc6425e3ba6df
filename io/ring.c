/* SPDX-License-Identifier: MIT */
/*
 * ring.c: one io_uring per worker, through liburing: the worker's driver.
 *
 * Comes from: ring_op.c, which has filled entries. Goes to: the kernel, once a turn; and back
 * through ring_reap.c as completions.
 *
 * The hard idea: one call a turn hands over all entries and waits. Timeouts are the timer wheel's:
 * the kernel sees one deadline per wait. What the queues do not hold waits here.
 */
#include "io/ring.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "io/datagram.h"
#include "io/readiness.h"
#include "io/ring_wake.h"
#include "io/socket.h"
#include "io/stream.h"

enum {
	SHRINKS_SLEPT = 6, /* looks after the receive buffers that an idle worker skips */
	SMALL_SHARE = 8,   /* of recv_busy_bytes: what small buffers may have of it */
	/*
	 * Of the groups of receive buffers. Below 64 Linux before 6.9 keeps a group's record when
	 * its ring is unregistered, and with it how far it has read: it goes on there in the next
	 * ring, which is another, and writes to where entries long gone point.
	 */
	FIRST_GROUP = 64,
};

/* ---- Entering the kernel ------------------------------------------------ */

/* Publishes the queued entries and enters. The index array is the identity, laid out once at
 * set-up. */
int weir__ring_enter(struct weir__ring *ring, unsigned wait_count,
		     struct io_uring_getevents_arg *arg)
{
	struct io_uring_sq *sq = &ring->uring.sq;
	unsigned flags =
		ring->enter_flags | IORING_ENTER_GETEVENTS | (arg ? IORING_ENTER_EXT_ARG : 0);

	sq->sqe_head = sq->sqe_tail;
	/* release: the kernel reads the entries after it reads the tail */
	__atomic_store_n(sq->ktail, sq->sqe_tail, __ATOMIC_RELEASE);
	weir__count(&ring->io.driver.enters, 1);
	int n = io_uring_enter2((unsigned)ring->uring.enter_ring_fd, weir__ring_queued(ring),
				wait_count, flags, (sigset_t *)(void *)arg,
				arg ? sizeof *arg : _NSIG / 8);
	if (n > 0) {
		ring->full_at += (unsigned)n;
		weir__count(&ring->io.driver.submissions, (unsigned)n);
	}
	return n;
}

/* ---- The driver --------------------------------------------------------- */

static inline int sleep_once(struct weir__ring *ring, int64_t until_ns)
{
	struct __kernel_timespec ts;
	struct io_uring_getevents_arg arg = { .sigmask_sz = _NSIG / 8 };

	if (until_ns == INT64_MAX)
		return weir__ring_enter(ring, 1, NULL);
	int64_t left = until_ns - weir__clock_ns();
	if (left < 0)
		left = 0;
	ts.tv_sec = left / WEIR_SEC;
	ts.tv_nsec = left % WEIR_SEC;
	arg.ts = (uintptr_t)&ts;
	return weir__ring_enter(ring, 1, &arg);
}

static inline bool has_news(const struct weir__ring *ring)
{
	return io_uring_cq_ready(&ring->uring) ||
	       weir__ring_sq_flags(ring) & (IORING_SQ_CQ_OVERFLOW | IORING_SQ_TASKRUN);
}

static __attribute__((noinline, cold)) void sleep_on(struct weir__ring *ring, int64_t until_ns)
{
	while (!has_news(ring) && sleep_once(ring, until_ns) == -EINTR)
		;
}

/*
 * A signal ends the call, even one that nobody handles when a stopped process goes on, but not the
 * sleep: a handler that wants the worker to do something wakes it, which is a completion.
 */
static inline void sleep_until(struct weir__ring *ring, int64_t until_ns)
{
	if (__builtin_expect(sleep_once(ring, until_ns) == -EINTR, 0))
		sleep_on(ring, until_ns);
}

static inline bool is_any_grown(const struct weir__ring *ring)
{
	bool grown = false;

	for (int i = 0; i < WEIR__RING_GROUPS; i++)
		grown |= weir__buffer_ring_is_grown(&ring->groups[i]);
	return grown;
}

/*
 * Gives back the receive buffers that a burst has left; all of them at once when nothing has
 * arrived in a long sleep. Only with DEFER_TASKRUN does the kernel touch no buffer until we enter;
 * elsewhere what is in the ring stays until traffic has brought it round. Not before the sleep but
 * after it, when the worker has its heap back; and never in turns without a sleep, whose tasks may
 * all hold buffers and wait for more.
 */
void weir__ring_shrink(struct weir__ring *ring, unsigned reaped)
{
	int64_t slept_ns = ring->slept_ns, now = weir__clock_coarse_ns();
	bool is_idle = reaped == 0 && now - slept_ns >= ring->shrink_ns;
	bool is_still = ring->uring.flags & IORING_SETUP_DEFER_TASKRUN &&
			!(weir__ring_sq_flags(ring) & IORING_SQ_CQ_OVERFLOW) &&
			!io_uring_cq_ready(&ring->uring);

	ring->slept_ns = 0;
	if (now < ring->shrink_at_ns)
		return;
	for (int i = 0; i < WEIR__RING_GROUPS; i++)
		weir__buffer_ring_shrink(&ring->groups[i], is_still, is_idle);
	ring->shrink_at_ns = is_any_grown(ring) ? now + ring->shrink_ns : 0;
}

/* Until when to sleep for that at most: who wakes up for its heap before has looked by then. */
static inline int64_t shrink_time(struct weir__ring *ring)
{
	if (__builtin_expect(!is_any_grown(ring), 1))
		return INT64_MAX;
	ring->slept_ns = ring->io.worker->now_ns;
	if (!ring->shrink_at_ns)
		ring->shrink_at_ns = ring->slept_ns + ring->shrink_ns;
	return ring->slept_ns + SHRINKS_SLEPT * ring->shrink_ns;
}

/* Receives that wait for a buffer. False: none of them can go on before something else happens. */
static bool feed_groups(struct weir__ring *ring, bool is_last)
{
	bool again = false;

	ring->is_starving = false;
	for (int i = 0; i < WEIR__RING_GROUPS; i++) {
		again |= weir__buffer_ring_feed(&ring->groups[i], is_last);
		ring->is_starving |= ring->groups[i].starved != NULL;
	}
	return again;
}

/* What could not be handed over at once. Returns until when to sleep then. */
static __attribute__((noinline)) int64_t hand_over(struct weir__ring *ring, int64_t wait_until_ns)
{
	bool is_over; /* nothing is under way that may bring buffers back */

	weir__ring_start_waiting(ring);
	is_over = !ring->waiting && !weir__ring_queued(ring) && !weir__quiet_any(&ring->quiet) &&
		  !io_uring_cq_ready(&ring->uring);
	if (ring->is_starving && (feed_groups(ring, wait_until_ns && is_over) || !is_over))
		wait_until_ns = 0;
	/* the next turn tries again: nothing else would */
	return ring->waiting || ring->is_deaf ? 0 : wait_until_ns;
}

/* One receive that waits for its turn. */
static __attribute__((noinline)) void take_turn(struct weir__ring *ring)
{
	struct weir__op *op = ring->turns.first;

	(void)weir__turns_forget(&ring->turns, op);
	op->socket_has_more = true;
	weir__ring_submit(ring, op);
}

/*
 * What enter() refuses is harmless here: ETIME ends a wait, EBUSY and EAGAIN leave the entries
 * queued for the next turn, which reaps first.
 */
static void ring_submit_and_wait(struct weir__driver *driver, int64_t wait_until_ns)
{
	struct weir__ring *ring = weir__ring_of_driver(driver);

	if (__builtin_expect(ring->turns.first != NULL, 0)) {
		take_turn(ring);
		wait_until_ns = 0; /* what it receives is there */
	}
	if (__builtin_expect(ring->waiting || ring->is_deaf || ring->is_starving, 0))
		wait_until_ns = hand_over(ring, wait_until_ns);
	unsigned flags = weir__ring_sq_flags(ring);
	if (flags & IORING_SQ_CQ_OVERFLOW)
		weir__count(&driver->cq_overflows, 1);
	bool is_awaited = ring->io.is_send_awaited && weir__quiet_any(&ring->quiet);
	ring->io.is_send_awaited =
		is_awaited; /* until it is over: the kernel may refuse its entry */
	if (wait_until_ns && !is_awaited && !io_uring_cq_ready(&ring->uring)) {
		int64_t shrink_ns = shrink_time(ring);
		sleep_until(ring, wait_until_ns < shrink_ns ? wait_until_ns : shrink_ns);
	} else if (weir__ring_queued(ring) || flags & (IORING_SQ_CQ_OVERFLOW | IORING_SQ_TASKRUN))
		(void)weir__ring_enter(ring, 0, NULL);
}

static bool ring_is_ready(const struct weir__driver *driver)
{
	const struct weir__ring *ring = (const struct weir__ring *)(const void *)driver;

	return has_news(ring);
}

/* The head is the owner's to move, hence atomic here. */
static bool ring_is_due(const struct weir__driver *driver)
{
	const struct io_uring *uring = &((const struct weir__ring *)(const void *)driver)->uring;

	return __atomic_load_n(uring->sq.kflags, __ATOMIC_RELAXED) & IORING_SQ_TASKRUN ||
	       __atomic_load_n(uring->cq.ktail, __ATOMIC_RELAXED) !=
		       __atomic_load_n(uring->cq.khead, __ATOMIC_RELAXED);
}

static int64_t ring_flush(struct weir__driver *driver)
{
	struct weir__ring *ring = weir__ring_of_driver(driver);
	int64_t until_ns = INT64_MAX;
	uint64_t count;

	/* first: what completes after it is written again */
	if (ring->event_fd >= 0)
		(void)!read(ring->event_fd, &count, sizeof count);
	if (ring->is_starving)
		until_ns = hand_over(ring, until_ns);
	ring_submit_and_wait(driver, 0);
	return ring->waiting || ring->is_deaf || ring->turns.first || weir__ring_queued(ring) ||
			       weir__quiet_any(&ring->quiet) || io_uring_cq_ready(&ring->uring)
		       ? 0
		       : until_ns;
}

static void ring_close(struct weir__driver *driver)
{
	struct weir__ring *ring = weir__ring_of_driver(driver);

	/* Closes of handles may still be queued. Everything else has been waited for by its owner.
	 */
	if (weir__ring_queued(ring))
		(void)weir__ring_enter(ring, 0, NULL);
	weir__uring_close(&ring->uring);
	for (int i = 0; i < WEIR__RING_GROUPS; i++)
		weir__buffer_ring_close(&ring->groups[i]);
	weir__ring_wake_close(ring);
	weir_free(ring->slots);
}

static const struct weir__driver_ops driver_ops = {
	.name = "io_uring",
	.submit_and_wait = ring_submit_and_wait,
	.reap = weir__ring_reap,
	.wake = weir__ring_wake,
	.is_ready = ring_is_ready,
	.is_due = ring_is_due,
	.pollable = weir__ring_pollable,
	.flush = ring_flush,
	.close = ring_close,
	.readiness_begin = weir__readiness_begin,
	.readiness_forget = weir__readiness_forget,
};

/* ---- Life -------------------------------------------------------------- */

static void restart_recv(struct weir__buffer_ring *group, struct weir__op *op)
{
	struct weir__ring *ring =
		(struct weir__ring *)(void *)((char *)group - offsetof(struct weir__ring, groups) -
					      op->group * sizeof *group);

	weir__ring_submit(ring, op);
}

static void init_group(struct weir__ring *ring, unsigned size, size_t bytes, unsigned first)
{
	const struct weir__config *config = &ring->io.worker->runtime->config;
	uint64_t share = size == WEIR__BUFFER_SMALL ? SMALL_SHARE : 1;
	uint64_t busy = config->recv_busy_bytes / share / bytes;

	if (busy < config->recv_buffers)
		busy = config->recv_buffers;
	if (busy > config->recv_buffers_max)
		busy = config->recv_buffers_max;
	weir__buffer_ring_init(&ring->groups[size], &ring->uring, &ring->io.driver,
			       (uint16_t)(FIRST_GROUP + size), bytes, first,
			       (unsigned)config->recv_buffers_max, restart_recv);
	ring->groups[size].busy = (unsigned)busy;
	/* the first message after a rest finds a small one */
	ring->groups[size].kept = size == WEIR__BUFFER_SMALL ? first : 0;
}

static void init_ring(struct weir__ring *ring, struct weir__worker *worker)
{
	const struct weir__config *config = &worker->runtime->config;

	ring->io.driver.ops = &driver_ops;
	ring->io.ops = &weir__ring_io_ops;
	ring->io.sockets = &weir__kernel_sockets;
	ring->io.pipes = &weir__kernel_pipes;
	ring->io.worker = worker;
	ring->waiting_tail = &ring->waiting;
	weir__quiet_init(&ring->quiet);
	weir__turns_init(&ring->turns);
	ring->io.bulk_crowd = weir__turns_crowd(config->recv_bulk_bytes);
	ring->shrink_ns = config->recv_shrink_ms * WEIR_MS;
	init_group(ring, WEIR__BUFFER_SMALL, config->recv_bytes, config->recv_buffers);
	init_group(ring, WEIR__BUFFER_BULK, config->recv_bulk_bytes, 4);
	init_group(ring, WEIR__BUFFER_TURNS, config->recv_bulk_bytes, WEIR__TURNS_BUFFERS);
	init_group(ring, WEIR__BUFFER_DATAGRAM,
		   sizeof(struct weir__datagram) + WEIR__DATAGRAM_BYTES_MAX, 4);
}

int weir__ring_open(struct weir__worker *worker, struct weir__io **ret, const char **ret_refused)
{
	const struct weir__config *config = &worker->runtime->config;
	struct weir__ring *ring = weir__io_new(sizeof *ring);

	*ret_refused = "memory for the ring's record";
	if (!ring)
		return -ENOMEM;
	*ret_refused = "eventfd";
	int err = weir__ring_wake_open(ring);
	if (err == 0) {
		err = weir__ring_setup(ring, config, ret_refused);
		if (err < 0)
			weir__ring_wake_close(ring);
	}
	if (err < 0) {
		free(ring);
		return err;
	}
	init_ring(ring, worker);
	weir__ring_wake_arm(ring);
	*ret = &ring->io;
	return 0;
}
