/* SPDX-License-Identifier: MIT */
/*
 * ring_op.c: operations on their way into the ring: slots, entries, starting and cancelling.
 *
 * Comes from: conn_recv.c, conn_send.c, listener.c, datagram.c, file.c (operations). Goes to: the
 * submission queue; from there ring.c takes them to the kernel.
 *
 * The hard idea: user_data is not a pointer but (generation, code, slot). A completion that arrives
 * for an operation that no longer exists is recognised by that.
 */
#include "io/ring.h"

#include <errno.h>
#include <poll.h>
#include <unistd.h>

#include "io/datagram.h"
#include "io/file.h"
#include "io/ring_wake.h"
#include "io/uring_compat.h"

enum { SLOTS_FIRST = 64 };

/* ---- Slots -------------------------------------------------------------- */

static int grow_slots(struct weir__ring *ring)
{
	uint32_t count = ring->slots_count ? ring->slots_count * 2 : SLOTS_FIRST;
	struct weir__slot *slots = weir_realloc(ring->slots, count * sizeof *slots);

	if (!slots)
		return -ENOMEM;
	for (uint32_t i = ring->slots_count; i < count; i++)
		slots[i] = (struct weir__slot){ .next_free = i + 1,
						.tag = weir__ring_special(WEIR__CODE_NONE, i) };
	ring->slots = slots;
	ring->slots_free = ring->slots_count;
	ring->slots_count = count;
	return 0;
}

static inline int take_slot(struct weir__ring *ring, struct weir__op *op, unsigned code)
{
	if (__builtin_expect(ring->slots_free == ring->slots_count, 0)) {
		int err = grow_slots(ring);
		if (err < 0)
			return err;
	}
	struct weir__slot *slot = &ring->slots[ring->slots_free];
	ring->slots_free = slot->next_free;
	slot->op = op;
	slot->tag ^= weir__ring_special(WEIR__CODE_NONE ^ code, 0);
	op->tag = slot->tag;
	op->has_slot = true;
	return 0;
}

void weir__ring_free_slot(struct weir__ring *ring, struct weir__op *op)
{
	struct weir__slot *slot = weir__ring_slot_of(ring, op);

	slot->tag |= weir__ring_special(WEIR__CODE_NONE, 0);
	slot->next_free = ring->slots_free;
	ring->slots_free = (uint32_t)op->tag;
	op->has_slot = false;
}

static void ring_forget(struct weir__io *io, struct weir__op *op)
{
	if (op->has_slot)
		weir__ring_free_slot(weir__ring_of(io), op);
}

/* ---- Starting operations ------------------------------------------------ */

static void fill_accept(struct weir__ring *ring, struct weir__op *op, struct io_uring_sqe *sqe)
{
	bool multi = op->multi && ring->has_accept_multi;
	int fd = op->handle->fd;

	op->accepted_direct = ring->io.accepts_direct && !op->wants_fd;
	if (op->accepted_direct && multi)
		io_uring_prep_multishot_accept_direct(sqe, fd, NULL, NULL, 0);
	else if (multi)
		io_uring_prep_multishot_accept(sqe, fd, NULL, NULL, SOCK_CLOEXEC);
	else
		io_uring_prep_accept(sqe, fd, NULL, NULL, op->accepted_direct ? 0 : SOCK_CLOEXEC);
	/* liburing 2.3 adds one to this in its _accept_direct: any slot would become slot 0, a
	 * descriptor */
	if (op->accepted_direct)
		sqe->file_index = IORING_FILE_INDEX_ALLOC;
}

/*
 * A single receive skips the first attempt (POLL_FIRST) unless the socket is known to hold more: it
 * would fail, and with an empty buffer ring it would fail with ENOBUFS although nothing has
 * arrived. A multishot one must not: what came before it was armed, data and then the end, would be
 * one event to it, and Linux 6.18 then tells it of the data alone. One that waits for its turn
 * polls, and is tried when that has come.
 */
static void fill_recv(struct weir__ring *ring, struct weir__op *op, struct io_uring_sqe *sqe)
{
	if (!ring->has_buffers) {
		io_uring_prep_poll_add(sqe, op->handle->fd, POLLIN);
		return;
	}
	op->is_polling = op->group == WEIR__BUFFER_TURNS && !op->socket_has_more;
	if (op->is_polling) {
		io_uring_prep_poll_add(sqe, op->handle->fd, POLLIN);
		return;
	}
	if (op->group == WEIR__BUFFER_TURNS) {
		io_uring_prep_recv(sqe, op->handle->fd, NULL, 0, MSG_DONTWAIT);
	} else if (op->multi && ring->has_recv_multi) {
		io_uring_prep_recv_multishot(sqe, op->handle->fd, NULL, 0, 0);
		op->is_unsure = true;
		op->has_end = false;
	} else {
		io_uring_prep_recv(sqe, op->handle->fd, NULL, 0, 0);
		if (!op->socket_has_more)
			sqe->ioprio |= IORING_RECVSEND_POLL_FIRST;
	}
	sqe->flags |= IOSQE_BUFFER_SELECT;
	sqe->buf_group = ring->groups[op->group].id;
}

/* The kernel puts name and payload into the buffer as struct weir__datagram has them. */
static void fill_recv_from(struct weir__ring *ring, struct weir__op *op, struct io_uring_sqe *sqe)
{
	if (weir__ring_is_by_hand(ring)) {
		io_uring_prep_poll_add(sqe, op->handle->fd, POLLIN);
		return;
	}
	io_uring_prep_recvmsg_multishot(sqe, op->handle->fd, op->data, 0);
	sqe->flags |= IOSQE_BUFFER_SELECT;
	sqe->buf_group = ring->groups[op->group].id;
}

static void fill(struct weir__ring *ring, struct weir__op *op, struct io_uring_sqe *sqe)
{
	int fd = op->handle->fd;

	switch (op->code) {
	case WEIR__OP_RECV:
		fill_recv(ring, op, sqe);
		break;
	case WEIR__OP_SEND:
		weir__send_fill(op, sqe, 0, 0);
		if (ring->loses_sent && !op->is_kept)
			sqe->msg_flags &= ~(unsigned)MSG_WAITALL;
		return;
	case WEIR__OP_ACCEPT:
		fill_accept(ring, op, sqe);
		break;
	case WEIR__OP_CONNECT:
		io_uring_prep_connect(sqe, fd, op->data, (socklen_t)op->len);
		break;
	case WEIR__OP_SHUTDOWN:
		io_uring_prep_shutdown(sqe, fd, SHUT_WR);
		break;
	case WEIR__OP_POLL:
		io_uring_prep_poll_add(sqe, fd, (unsigned)op->len);
		break;
	case WEIR__OP_RECV_FROM:
		fill_recv_from(ring, op, sqe);
		break;
	case WEIR__OP_SEND_TO:
		io_uring_prep_poll_add(sqe, fd, POLLOUT);
		break;
	case WEIR__OP_INSTALL:
		io_uring_prep_rw(WEIR__URING_OP_FIXED_FD_INSTALL, sqe, fd, NULL, 0, 0);
		break;
	default:
		weir__ring_file_fill(op, sqe);
	}
	weir__ring_mark(op, sqe);
}

static void fill_cancel(struct weir__ring *ring, struct weir__op *op, struct io_uring_sqe *sqe)
{
	io_uring_prep_cancel64(sqe, op->tag, 0);
	sqe->flags |= ring->skip_success;
	sqe->user_data = weir__ring_special(WEIR__CODE_IGNORE, 0);
}

static void wait_for_sqe(struct weir__ring *ring, struct weir__op *op)
{
	op->queue_next = NULL;
	op->is_waiting = true;
	*ring->waiting_tail = op;
	ring->waiting_tail = &op->queue_next;
}

void weir__ring_start_waiting(struct weir__ring *ring)
{
	if (ring->is_deaf)
		weir__ring_wake_arm(ring);
	while (ring->waiting) {
		struct io_uring_sqe *sqe = weir__ring_get_sqe(ring);
		struct weir__op *op = ring->waiting;
		if (!sqe)
			return;
		ring->waiting = op->queue_next;
		if (!ring->waiting)
			ring->waiting_tail = &ring->waiting;
		op->is_waiting = false;
		if (op->state == WEIR__OP_CANCELLING)
			fill_cancel(ring, op, sqe);
		else
			fill(ring, op, sqe);
	}
}

void weir__ring_submit(struct weir__ring *ring, struct weir__op *op)
{
	struct io_uring_sqe *sqe = ring->waiting ? NULL : weir__ring_get_sqe(ring);

	if (__builtin_expect(sqe == NULL, 0))
		wait_for_sqe(ring, op);
	else if (op->may_be_quiet)
		weir__quiet_send(&ring->quiet, op, sqe);
	else
		fill(ring, op, sqe);
}

/* Makes sure that the buffers of the size a receive wants are there. */
static int has_group(struct weir__ring *ring, const struct weir__op *op)
{
	struct weir__buffer_ring *group = &ring->groups[op->group];

	return !ring->has_buffers || group->ring ? 0 : weir__buffer_ring_fill(group);
}

/*
 * A datagram goes out by a call of its own: that says at once what became of it. Where its socket
 * has no room we wait for that, and call again. It must not be the kernel that waits: an
 * IORING_OP_SENDMSG that has copied its bytes and then finds no room begins behind them when it
 * tries again (Linux 6.18), and what arrives is cut or empty.
 */
bool weir__ring_sends_now(struct weir__ring *ring, struct weir__op *op)
{
	weir__count(&ring->io.driver.enters, 1);
	op->res = weir__datagram_send(op->handle->fd, op);
	return op->res != -EAGAIN;
}

/* By hand: what has come already needs no poll. */
bool weir__ring_receives_now(struct weir__ring *ring, struct weir__op *op)
{
	op->block = NULL;
	weir__count(&ring->io.driver.enters, 1);
	op->res = weir__datagram_receive(op->handle->fd, op->len, &op->block);
	return op->res != -EAGAIN;
}

static unsigned code_of(const struct weir__op *op)
{
	return op->code | (op->code == WEIR__OP_ACCEPT && op->wants_fd ? WEIR__CODE_WANTS_FD : 0);
}

static bool ring_start(struct weir__io *io, struct weir__op *op)
{
	struct weir__ring *ring = weir__ring_of(io);
	int err = 0;

	op->more = false;
	op->is_waiting = false;
	if (op->code == WEIR__OP_RECV)
		err = has_group(ring, op);
	else if (op->code == WEIR__OP_RECV_FROM && !weir__ring_is_by_hand(ring))
		err = has_group(ring, op);
	else if (op->code == WEIR__OP_RECV_FROM && weir__ring_receives_now(ring, op))
		return true;
	else if (op->code == WEIR__OP_SEND_TO && weir__ring_sends_now(ring, op))
		return true;
	if (err == 0 && !op->has_slot) {
		err = take_slot(ring, op, code_of(op));
		op->may_be_quiet = op->code == WEIR__OP_SEND && op->is_kept && ring->skip_success;
	}
	if (err < 0) {
		op->res = err;
		op->block = NULL; /* that of its last completion is somebody's by now */
		return true;
	}
	if (op->is_kept)
		op->state = WEIR__OP_QUEUED;
	else
		weir__op_link(op);
	weir__ring_submit(ring, op);
	return false;
}

static ssize_t ring_send(struct weir__io *io, struct weir__op *op)
{
	struct weir__ring *ring = weir__ring_of(io);

	if (__builtin_expect(!op->may_be_quiet || ring->waiting ||
				     ring->uring.sq.sqe_tail == ring->full_at,
			     0))
		return weir__conn_send(io, op);
	op->state = WEIR__OP_QUEUED;
	weir__quiet_send(&ring->quiet, op, weir__ring_next_sqe(ring));
	return (ssize_t)op->len;
}

void weir__ring_finish(struct weir__ring *ring, struct weir__op *op, int res)
{
	bool was_found = op->code == WEIR__OP_RECV && op->has_end; /* nobody else sets it */

	op->res = was_found && (res == 0 || res == -ECANCELED) ? op->why : res;
	op->block = NULL;
	op->more = false;
	weir__quiet_calm(op);
	weir__ring_end(ring, op);
	op->done(op);
}

void weir__ring_stop_waiting(struct weir__ring *ring, struct weir__op *op)
{
	struct weir__op **at = &ring->waiting;

	if (weir__turns_forget(&ring->turns, op))
		return;
	while (*at && *at != op)
		at = &(*at)->queue_next;
	if (!*at) {
		weir__buffer_ring_forget(&ring->groups[op->group], op);
		return;
	}
	*at = op->queue_next;
	if (!*at)
		ring->waiting_tail = at;
	op->is_waiting = false;
}

void weir__ring_cancel(struct weir__io *io, struct weir__op *op)
{
	struct weir__ring *ring = weir__ring_of(io);

	if (op->state != WEIR__OP_QUEUED)
		return;
	/* it is over before a cancellation could reach it, and its place is in the quiet list */
	if (op->is_quiet) {
		op->state = WEIR__OP_CANCELLING;
		io->is_send_awaited = true;
		return;
	}
	if (op->is_waiting) { /* the kernel has never seen it */
		weir__ring_stop_waiting(ring, op);
		weir__ring_finish(ring, op, -ECANCELED);
		return;
	}
	op->state = WEIR__OP_CANCELLING;
	struct io_uring_sqe *sqe = ring->waiting ? NULL : weir__ring_get_sqe(ring);
	if (sqe)
		fill_cancel(ring, op, sqe);
	else
		wait_for_sqe(ring, op);
}

void weir__ring_close_handle(struct weir__io *io, struct weir__handle *handle)
{
	struct weir__ring *ring = weir__ring_of(io);
	struct io_uring_sqe *sqe = handle->is_direct ? weir__ring_get_sqe(ring) : NULL;
	int none = -1;

	if (!handle->is_direct) { /* listeners, and what we connected: gone when we return */
		(void)close(handle->fd);
	} else if (sqe) {
		io_uring_prep_close_direct(sqe, (unsigned)handle->fd);
		sqe->flags |= ring->skip_success;
		sqe->user_data = weir__ring_special(WEIR__CODE_IGNORE, 0);
	} else {
		(void)io_uring_register_files_update(&ring->uring, (unsigned)handle->fd, &none, 1);
	}
}

const struct weir__io_ops weir__ring_io_ops = {
	.start = ring_start,
	.send = ring_send,
	.cancel = weir__ring_cancel,
	.forget = ring_forget,
	.close = weir__ring_close_handle,
};
