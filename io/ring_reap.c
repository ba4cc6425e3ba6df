/* SPDX-License-Identifier: MIT */
/*
 * ring_reap.c: completions: whose they are, and what they bring.
 *
 * Comes from: the kernel. Goes to: the operations' own functions, which make tasks ready.
 *
 * What an operation that is no more has left (a buffer, a descriptor) is released and counted. A
 * connection's data, one buffer of a multishot receive after the other, takes the shortest way:
 * weir__ring_reap(), on_completion(), on_arrival() and the connection's arrived().
 */
#include "io/ring.h"

#include <errno.h>
#include <sys/socket.h>

#include "io/datagram.h"
#include "io/ring_wake.h"

enum { REAP_MAX = 256 };

/* A completion for an operation that is no more: what it carries must not leak. */
static void on_stale(struct weir__ring *ring, const struct io_uring_cqe *cqe, unsigned code)
{
	weir__count(&ring->io.driver.stale_completions, 1);
	if ((code & ~WEIR__CODE_WANTS_FD) == WEIR__OP_ACCEPT && cqe->res >= 0) {
		struct weir__handle orphan = {
			.fd = cqe->res,
			.is_direct = ring->io.accepts_direct && !(code & WEIR__CODE_WANTS_FD),
		};
		weir__ring_close_handle(&ring->io, &orphan);
	}
}

/*
 * A multishot receive that finds, when its poll is armed, both data and a reset, takes them for one
 * event: it brings the data, and nothing wakes it again (Linux 6.18; an end of stream behind data
 * it does hear). So after its first data we look once ourselves: for a socket with nothing left to
 * read and no error, whatever comes later is an event of its own. What is found ends the receive:
 * looking takes a socket's error away.
 */
static void look_for_end(struct weir__ring *ring, struct weir__op *op)
{
	struct io_uring_sqe *sqe = weir__ring_get_sqe(ring);

	if (!sqe)
		return; /* after the next data, then */
	op->is_unsure = false;
	io_uring_prep_recv(sqe, op->handle->fd, &ring->peeked, 1, MSG_PEEK | MSG_DONTWAIT);
	weir__ring_mark(op, sqe);
	sqe->user_data ^= weir__ring_special(WEIR__OP_RECV ^ WEIR__CODE_LOOK, 0);
}

static void on_look(struct weir__ring *ring, const struct io_uring_cqe *cqe)
{
	uint64_t tag = cqe->user_data ^ weir__ring_special(WEIR__OP_RECV ^ WEIR__CODE_LOOK, 0);
	uint32_t index = (uint32_t)tag;
	int res = cqe->res;

	if (index >= ring->slots_count || ring->slots[index].tag != tag)
		return;
	struct weir__op *op = ring->slots[index].op;
	if (res > 0) {
		op->is_unsure = true;
	} else if (res != -EAGAIN && res != -EINTR) {
		op->has_end = true;
		op->why = res;
		weir__ring_cancel(&ring->io, op);
	}
}

/* No provided buffers on this rung: the poll says readable, we receive by hand. */
static void recv_by_hand(struct weir__ring *ring, struct weir__op *op)
{
	weir_buf buf = WEIR_BUF_INIT;
	size_t bytes = ring->groups[op->group].bytes;

	if (op->res < 0) {
		weir__ring_finish(ring, op, op->res);
		return;
	}
	if (weir_buf_get(&buf, bytes) < 0) {
		weir__ring_finish(ring, op, -ENOMEM);
		return;
	}
	ssize_t n = recv(op->handle->fd, buf.data, bytes, MSG_DONTWAIT);
	int res = n < 0 ? -errno : (int)n;
	weir__count(&ring->io.driver.enters, 1);
	if (n <= 0)
		weir_buf_release(&buf);
	if (res == -EAGAIN && op->state == WEIR__OP_QUEUED) {
		weir__ring_submit(ring, op);
		return;
	}
	weir__ring_end(ring, op);
	op->res = res == -EAGAIN ? -ECANCELED : res;
	op->block = buf.block;
	op->more = false;
	op->done(op);
}

/* The same for a datagram: `res` is the poll's. */
static void recv_from_by_hand(struct weir__ring *ring, struct weir__op *op, int res)
{
	op->block = NULL;
	if (res >= 0) {
		if (!weir__ring_receives_now(ring, op) && op->state == WEIR__OP_QUEUED) {
			weir__ring_submit(ring, op);
			return;
		}
		res = op->res == -EAGAIN ? -ECANCELED : op->res;
	}
	weir__ring_end(ring, op);
	op->res = res;
	op->more = false;
	op->done(op);
}

/* The socket is writable, or the wait for that has ended with an error. */
static void send_to_again(struct weir__ring *ring, struct weir__op *op, int res)
{
	if (res >= 0) {
		if (!weir__ring_sends_now(ring, op) && op->state == WEIR__OP_QUEUED) {
			weir__ring_submit(ring, op);
			return;
		}
		res = op->res == -EAGAIN ? -ECANCELED : op->res;
	}
	weir__ring_finish(ring, op, res);
}

/* A receive in turns whose socket is readable, or was and is no more. Whether it goes on. */
static bool awaits_turn(struct weir__ring *ring, struct weir__op *op, int res)
{
	if (op->state != WEIR__OP_QUEUED)
		return false;
	if (op->is_polling && res >= 0) {
		weir__turns_add(&ring->turns, op);
		return true;
	}
	if (op->is_polling || res != -EAGAIN)
		return false;
	op->socket_has_more = false;
	weir__ring_submit(ring, op);
	return true;
}

/* A receive that brought nothing, or is done by hand. */
static void on_empty_recv(struct weir__ring *ring, struct weir__op *op,
			  const struct io_uring_cqe *cqe)
{
	struct weir__buffer_ring *group = &ring->groups[op->group];
	int err = cqe->res;

	if (!ring->has_buffers) {
		op->res = cqe->res;
		recv_by_hand(ring, op);
		return;
	}
	op->block = NULL;
	if (op->group == WEIR__BUFFER_TURNS) {
		if (awaits_turn(ring, op, err))
			return;
		if (err == -EAGAIN || (op->is_polling && err >= 0))
			err = -ECANCELED;
	}
	if (cqe->flags & IORING_CQE_F_BUFFER)
		weir__block_drop(
			weir__buffer_ring_take(group, cqe->flags >> IORING_CQE_BUFFER_SHIFT));
	op->socket_has_more = cqe->flags & IORING_CQE_F_SOCK_NONEMPTY;
	if (err == -ENOBUFS) {
		weir__count(&ring->io.driver.recv_empty, 1);
		err = op->state == WEIR__OP_QUEUED ? weir__buffer_ring_starve(group, op)
						   : -ECANCELED;
		ring->is_starving |= err == 0;
		if (err == 0)
			return;
	}
	weir__ring_finish(ring, op, err);
}

/* A buffer with data, the last of its receive or the first. */
static __attribute__((noinline)) void on_odd_arrival(struct weir__ring *ring, struct weir__op *op,
						     struct weir__block *block,
						     const struct io_uring_cqe *cqe)
{
	op->block = block;
	op->res = cqe->res;
	op->more = true;
	if (__builtin_expect(!(cqe->flags & IORING_CQE_F_MORE), 0)) {
		op->more = false;
		op->socket_has_more = cqe->flags & IORING_CQE_F_SOCK_NONEMPTY;
		weir__ring_end(ring, op);
	} else if (__builtin_expect(op->is_unsure, 0)) {
		look_for_end(ring, op);
	}
	op->done(op);
}

/* A buffer with data. */
static inline void on_arrival(struct weir__ring *ring, struct weir__op *op,
			      const struct io_uring_cqe *cqe)
{
	struct weir__block *block = weir__buffer_ring_take(&ring->groups[op->group],
							   cqe->flags >> IORING_CQE_BUFFER_SHIFT);

	if (__builtin_expect(!(cqe->flags & IORING_CQE_F_MORE) || op->is_unsure, 0))
		on_odd_arrival(ring, op, block, cqe);
	else
		op->arrived(op, block, (size_t)cqe->res);
}

/* What a full socket did not take goes again, loudly. */
static void on_quiet_failure(struct weir__ring *ring, struct weir__op *op, int res)
{
	weir__quiet_refuse(&ring->quiet, op);
	if (res == -EAGAIN && op->state == WEIR__OP_QUEUED)
		weir__ring_submit(ring, op);
	else
		weir__ring_finish(ring, op, res == -EAGAIN ? -ECANCELED : res);
}

/* All but what brings a connection data. */
static __attribute__((noinline)) void
on_odd_completion(struct weir__ring *ring, struct weir__op *op, const struct io_uring_cqe *cqe)
{
	if (op->code == WEIR__OP_RECV) {
		on_empty_recv(ring, op, cqe);
	} else if (op->code == WEIR__OP_SEND_TO) {
		send_to_again(ring, op, cqe->res);
	} else if (op->code == WEIR__OP_RECV_FROM) {
		if (weir__ring_is_by_hand(ring))
			recv_from_by_hand(ring, op, cqe->res);
		else
			on_empty_recv(ring, op, cqe);
	} else if (op->is_quiet) {
		on_quiet_failure(ring, op, cqe->res);
	} else if (cqe->flags & IORING_CQE_F_MORE) {
		op->res = cqe->res;
		op->more = true;
		op->done(op);
	} else {
		weir__ring_finish(ring, op, cqe->res);
	}
}

/*
 * A message to another worker's ring did not arrive. One that was sent in the last turn of all may
 * go out when that ring is closed already: then nobody waits for it, and there is nobody to wake.
 */
static void on_lost_message(struct weir__ring *ring, unsigned index)
{
	struct weir__runtime *runtime = ring->io.worker->runtime;

	if (!weir__runtime_is_left(runtime))
		weir__ring_wake_by_fd(weir__ring_of(weir__io_of(runtime->workers[index])));
}

/* Not of an operation in flight: our own signals, or too late. */
static __attribute__((noinline)) void on_other(struct weir__ring *ring,
					       const struct io_uring_cqe *cqe)
{
	unsigned code = (unsigned)(cqe->user_data >> 32) & 0xff;

	if (code == WEIR__CODE_LOOK)
		on_look(ring, cqe);
	else if (code == WEIR__CODE_WAKE)
		weir__ring_woken(ring, cqe);
	else if (code == WEIR__CODE_MESSAGE_LOST)
		on_lost_message(ring, (uint32_t)cqe->user_data);
	else if (code < WEIR__CODE_IGNORE)
		on_stale(ring, cqe, code);
}

static inline void on_completion(struct weir__ring *ring, const struct io_uring_cqe *cqe)
{
	uint32_t index = (uint32_t)cqe->user_data;
	struct weir__slot *slot = &ring->slots[index];

	if (__builtin_expect(index >= ring->slots_count || slot->tag != cqe->user_data, 0)) {
		on_other(ring, cqe);
		return;
	}
	if ((cqe->flags & IORING_CQE_F_BUFFER) && cqe->res > 0)
		on_arrival(ring, slot->op, cqe);
	else
		on_odd_completion(ring, slot->op, cqe);
}

unsigned weir__ring_reap(struct weir__driver *driver)
{
	struct weir__ring *ring = weir__ring_of_driver(driver);
	struct io_uring_cq *cq = &ring->uring.cq;
	unsigned head = *cq->khead, count = io_uring_cq_ready(&ring->uring); /* acquires the tail */
	unsigned mask = cq->ring_mask;
	bool is_all =
		!weir__ring_queued(ring) && !(weir__ring_sq_flags(ring) & IORING_SQ_CQ_OVERFLOW);

	if (__builtin_expect(count > REAP_MAX, 0)) {
		count = REAP_MAX;
		is_all = false;
	}
	for (unsigned end = head + count; head != end; head++)
		on_completion(ring, &cq->cqes[head & mask]);
	io_uring_cq_advance(&ring->uring, count);
	weir__count(&driver->completions, count);
	if (is_all && weir__quiet_any(&ring->quiet)) {
		ring->io.is_send_awaited = false;
		weir__quiet_finish(&ring->quiet);
	}
	if (__builtin_expect(ring->slept_ns != 0, 0))
		weir__ring_shrink(ring, count);
	return count;
}
