/* SPDX-License-Identifier: MIT */
/*
 * ring.c: one io_uring per worker, through liburing.
 *
 * Comes from: conn.c and listener.c (operations). Goes to: the kernel, and back as completions that
 * make tasks ready.
 *
 * The hard idea: user_data is not a pointer but (generation, code, slot). A completion that arrives
 * for an operation that no longer exists is recognised, what it carries (a buffer, a descriptor) is
 * released, and it is counted. Timeouts are the timer wheel's: the kernel sees one deadline per
 * wait.
 */
#include "io/io_internal.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include "io/buffer_ring.h"
#include "io/datagram.h"
#include "io/file.h"
#include "io/readiness.h"
#include "io/ring.h"
#include "io/ring_wake.h"
#include "io/socket.h"
#include "io/stream.h"
#include "io/uring_compat.h"

enum {
	REAP_MAX = 256,
	SLOTS_FIRST = 64,
	GENERATION_SHIFT = 40, /* in user_data */
	SHRINKS_SLEPT = 6,     /* looks after the receive buffers that an idle worker skips */
	SMALL_SHARE = 8,       /* of recv_busy_bytes: what small buffers may have of it */
	/*
	 * Of the groups of receive buffers. Below 64 Linux before 6.9 keeps a group's record when
	 * its ring is unregistered, and with it how far it has read: it goes on there in the next
	 * ring, which is another, and writes to where entries long gone point.
	 */
	FIRST_GROUP = 64,
};

/* In the code of an accept that never gives a slot. */
enum { CODE_WANTS_FD = 0x40 };
_Static_assert(WEIR__CODE_NONE == 0xff, "all bits: any code | WEIR__CODE_NONE is WEIR__CODE_NONE");

static struct weir__ring *ring_of(struct weir__io *io)
{
	return (struct weir__ring *)(void *)io;
}

/* ---- Entering the kernel ------------------------------------------------ */

/* The kernel sets these bits for work that waits for us to enter. */
static inline unsigned sq_flags(const struct weir__ring *ring)
{
	return __atomic_load_n(ring->uring.sq.kflags, __ATOMIC_RELAXED);
}

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

static inline struct weir__slot *slot_of(struct weir__ring *ring, const struct weir__op *op)
{
	return &ring->slots[(uint32_t)op->tag];
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

static void free_slot(struct weir__ring *ring, struct weir__op *op)
{
	struct weir__slot *slot = slot_of(ring, op);

	slot->tag |= weir__ring_special(WEIR__CODE_NONE, 0);
	slot->next_free = ring->slots_free;
	ring->slots_free = (uint32_t)op->tag;
	op->has_slot = false;
}

/* The last completion of an operation: others with this tag are not its any more. */
static inline void end(struct weir__ring *ring, struct weir__op *op)
{
	struct weir__slot *slot = slot_of(ring, op);

	slot->tag += (uint64_t)1 << GENERATION_SHIFT;
	op->tag = slot->tag;
	if (op->is_kept) {
		op->state = WEIR__OP_FREE;
	} else {
		free_slot(ring, op);
		weir__op_unlink(op);
	}
}

static void ring_forget(struct weir__io *io, struct weir__op *op)
{
	if (op->has_slot)
		free_slot(ring_of(io), op);
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

/* Without multishot receives the poll says readable, and we receive by hand. */
static bool is_datagram_by_hand(const struct weir__ring *ring)
{
	return !ring->has_recv_multi;
}

/* The kernel puts name and payload into the buffer as struct weir__datagram has them. */
static void fill_recv_from(struct weir__ring *ring, struct weir__op *op, struct io_uring_sqe *sqe)
{
	if (is_datagram_by_hand(ring)) {
		io_uring_prep_poll_add(sqe, op->handle->fd, POLLIN);
		return;
	}
	io_uring_prep_recvmsg_multishot(sqe, op->handle->fd, op->data, 0);
	sqe->flags |= IOSQE_BUFFER_SELECT;
	sqe->buf_group = ring->groups[op->group].id;
}

/* What every entry has. */
static inline void mark(const struct weir__op *op, struct io_uring_sqe *sqe)
{
	if (op->handle->is_direct)
		sqe->flags |= IOSQE_FIXED_FILE;
	sqe->user_data = op->tag;
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
	mark(op, sqe);
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

/* What found the submission queue full, as far as it goes now. */
static void start_waiting(struct weir__ring *ring)
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

/* Has a slot already: (re-)submits. */
static void submit(struct weir__ring *ring, struct weir__op *op)
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
static bool sends_now(struct weir__ring *ring, struct weir__op *op)
{
	weir__count(&ring->io.driver.enters, 1);
	op->res = weir__datagram_send(op->handle->fd, op);
	return op->res != -EAGAIN;
}

/* By hand: what has come already needs no poll. */
static bool receives_now(struct weir__ring *ring, struct weir__op *op)
{
	op->block = NULL;
	weir__count(&ring->io.driver.enters, 1);
	op->res = weir__datagram_receive(op->handle->fd, op->len, &op->block);
	return op->res != -EAGAIN;
}

static unsigned code_of(const struct weir__op *op)
{
	return op->code | (op->code == WEIR__OP_ACCEPT && op->wants_fd ? CODE_WANTS_FD : 0);
}

static bool ring_start(struct weir__io *io, struct weir__op *op)
{
	struct weir__ring *ring = ring_of(io);
	int err = 0;

	op->more = false;
	op->is_waiting = false;
	if (op->code == WEIR__OP_RECV)
		err = has_group(ring, op);
	else if (op->code == WEIR__OP_RECV_FROM && !is_datagram_by_hand(ring))
		err = has_group(ring, op);
	else if (op->code == WEIR__OP_RECV_FROM && receives_now(ring, op))
		return true;
	else if (op->code == WEIR__OP_SEND_TO && sends_now(ring, op))
		return true;
	if (err == 0 && !op->has_slot) {
		err = take_slot(ring, op, code_of(op));
		op->may_be_quiet = op->code == WEIR__OP_SEND && op->is_kept && ring->skip_success;
	}
	if (err < 0) {
		op->res = err;
		return true;
	}
	if (op->is_kept)
		op->state = WEIR__OP_QUEUED;
	else
		weir__op_link(op);
	submit(ring, op);
	return false;
}

static ssize_t ring_send(struct weir__io *io, struct weir__op *op)
{
	struct weir__ring *ring = ring_of(io);

	if (__builtin_expect(!op->may_be_quiet || ring->waiting ||
				     ring->uring.sq.sqe_tail == ring->full_at,
			     0))
		return weir__conn_send(io, op);
	op->state = WEIR__OP_QUEUED;
	weir__quiet_send(&ring->quiet, op, weir__ring_next_sqe(ring));
	return (ssize_t)op->len;
}

static void finish(struct weir__ring *ring, struct weir__op *op, int res)
{
	bool was_found = op->code == WEIR__OP_RECV && op->has_end; /* nobody else sets it */

	op->res = was_found && (res == 0 || res == -ECANCELED) ? op->why : res;
	op->block = NULL;
	op->more = false;
	weir__quiet_calm(op);
	end(ring, op);
	op->done(op);
}

static void forget_waiting(struct weir__ring *ring, struct weir__op *op)
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

static void ring_cancel(struct weir__io *io, struct weir__op *op)
{
	struct weir__ring *ring = ring_of(io);

	if (op->state != WEIR__OP_QUEUED)
		return;
	/* it is over before a cancellation could reach it, and its place is in the quiet list */
	if (op->is_quiet) {
		op->state = WEIR__OP_CANCELLING;
		io->is_send_awaited = true;
		return;
	}
	if (op->is_waiting) { /* the kernel has never seen it */
		forget_waiting(ring, op);
		finish(ring, op, -ECANCELED);
		return;
	}
	op->state = WEIR__OP_CANCELLING;
	struct io_uring_sqe *sqe = ring->waiting ? NULL : weir__ring_get_sqe(ring);
	if (sqe)
		fill_cancel(ring, op, sqe);
	else
		wait_for_sqe(ring, op);
}

static void ring_close_handle(struct weir__io *io, struct weir__handle *handle)
{
	struct weir__ring *ring = ring_of(io);
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

/* ---- Completions -------------------------------------------------------- */

/* A completion for an operation that is no more: what it carries must not leak. */
static void on_stale(struct weir__ring *ring, const struct io_uring_cqe *cqe, unsigned code)
{
	weir__count(&ring->io.driver.stale_completions, 1);
	if ((code & ~CODE_WANTS_FD) == WEIR__OP_ACCEPT && cqe->res >= 0) {
		struct weir__handle orphan = {
			.fd = cqe->res,
			.is_direct = ring->io.accepts_direct && !(code & CODE_WANTS_FD),
		};
		ring_close_handle(&ring->io, &orphan);
	}
}

static void restart_recv(struct weir__buffer_ring *group, struct weir__op *op)
{
	struct weir__ring *ring =
		(struct weir__ring *)(void *)((char *)group - offsetof(struct weir__ring, groups) -
					      op->group * sizeof *group);

	submit(ring, op);
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
	mark(op, sqe);
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
		ring_cancel(&ring->io, op);
	}
}

/* No provided buffers on this rung: the poll says readable, we receive by hand. */
static void recv_by_hand(struct weir__ring *ring, struct weir__op *op)
{
	weir_buf buf = WEIR_BUF_INIT;
	size_t bytes = ring->groups[op->group].bytes;

	if (op->res < 0) {
		finish(ring, op, op->res);
		return;
	}
	if (weir_buf_get(&buf, bytes) < 0) {
		finish(ring, op, -ENOMEM);
		return;
	}
	ssize_t n = recv(op->handle->fd, buf.data, bytes, MSG_DONTWAIT);
	int res = n < 0 ? -errno : (int)n;
	weir__count(&ring->io.driver.enters, 1);
	if (n <= 0)
		weir_buf_release(&buf);
	if (res == -EAGAIN && op->state == WEIR__OP_QUEUED) {
		submit(ring, op);
		return;
	}
	end(ring, op);
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
		if (!receives_now(ring, op) && op->state == WEIR__OP_QUEUED) {
			submit(ring, op);
			return;
		}
		res = op->res == -EAGAIN ? -ECANCELED : op->res;
	}
	end(ring, op);
	op->res = res;
	op->more = false;
	op->done(op);
}

/* The socket is writable, or the wait for that has ended with an error. */
static void send_to_again(struct weir__ring *ring, struct weir__op *op, int res)
{
	if (res >= 0) {
		if (!sends_now(ring, op) && op->state == WEIR__OP_QUEUED) {
			submit(ring, op);
			return;
		}
		res = op->res == -EAGAIN ? -ECANCELED : op->res;
	}
	finish(ring, op, res);
}

/* One receive that waits for its turn. */
static __attribute__((noinline)) void take_turn(struct weir__ring *ring)
{
	struct weir__op *op = ring->turns.first;

	(void)weir__turns_forget(&ring->turns, op);
	op->socket_has_more = true;
	submit(ring, op);
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
	submit(ring, op);
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
	finish(ring, op, err);
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
		end(ring, op);
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
		submit(ring, op);
	else
		finish(ring, op, res == -EAGAIN ? -ECANCELED : res);
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
		if (is_datagram_by_hand(ring))
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
		finish(ring, op, cqe->res);
	}
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
		weir__ring_wake_by_fd(ring_of(
			weir__io_of(ring->io.worker->runtime->workers[(uint32_t)cqe->user_data])));
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

/* ---- The driver --------------------------------------------------------- */

static void sleep_until(struct weir__ring *ring, int64_t until_ns)
{
	struct __kernel_timespec ts;
	struct io_uring_getevents_arg arg = { .sigmask_sz = _NSIG / 8 };

	if (until_ns == INT64_MAX) {
		(void)weir__ring_enter(ring, 1, NULL);
		return;
	}
	int64_t left = until_ns - weir__clock_ns();
	if (left < 0)
		left = 0;
	ts.tv_sec = left / WEIR_SEC;
	ts.tv_nsec = left % WEIR_SEC;
	arg.ts = (uintptr_t)&ts;
	(void)weir__ring_enter(ring, 1, &arg);
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
static __attribute__((noinline)) void shrink_groups(struct weir__ring *ring, unsigned reaped)
{
	int64_t slept_ns = ring->slept_ns, now = weir__clock_coarse_ns();
	bool is_idle = reaped == 0 && now - slept_ns >= ring->shrink_ns;
	bool is_still = ring->uring.flags & IORING_SETUP_DEFER_TASKRUN &&
			!(sq_flags(ring) & IORING_SQ_CQ_OVERFLOW) &&
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

	start_waiting(ring);
	is_over = !ring->waiting && !weir__ring_queued(ring) && !weir__quiet_any(&ring->quiet) &&
		  !io_uring_cq_ready(&ring->uring);
	if (ring->is_starving && (feed_groups(ring, wait_until_ns && is_over) || !is_over))
		wait_until_ns = 0;
	/* the next turn tries again: nothing else would */
	return ring->waiting || ring->is_deaf ? 0 : wait_until_ns;
}

/*
 * What enter() refuses is harmless here: EINTR and ETIME end a wait early, EBUSY and EAGAIN leave
 * the entries queued for the next turn, which reaps first.
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
	unsigned flags = sq_flags(ring);
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

static unsigned ring_reap(struct weir__driver *driver)
{
	struct weir__ring *ring = weir__ring_of_driver(driver);
	struct io_uring_cq *cq = &ring->uring.cq;
	unsigned head = *cq->khead, count = io_uring_cq_ready(&ring->uring); /* acquires the tail */
	unsigned mask = cq->ring_mask;
	bool is_all = !weir__ring_queued(ring) && !(sq_flags(ring) & IORING_SQ_CQ_OVERFLOW);

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
		shrink_groups(ring, count);
	return count;
}

static bool ring_is_ready(const struct weir__driver *driver)
{
	const struct weir__ring *ring = (const struct weir__ring *)(const void *)driver;

	return io_uring_cq_ready(&ring->uring) ||
	       __atomic_load_n(ring->uring.sq.kflags, __ATOMIC_RELAXED) &
		       (IORING_SQ_CQ_OVERFLOW | IORING_SQ_TASKRUN);
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
	io_uring_queue_exit(&ring->uring);
	for (int i = 0; i < WEIR__RING_GROUPS; i++)
		weir__buffer_ring_close(&ring->groups[i]);
	weir__ring_wake_close(ring);
	weir_free(ring->slots);
	weir_free(ring);
}

static const struct weir__driver_ops driver_ops = {
	.name = "io_uring",
	.submit_and_wait = ring_submit_and_wait,
	.reap = ring_reap,
	.wake = weir__ring_wake,
	.is_ready = ring_is_ready,
	.pollable = weir__ring_pollable,
	.flush = ring_flush,
	.close = ring_close,
	.readiness_begin = weir__readiness_begin,
	.readiness_forget = weir__readiness_forget,
};

static const struct weir__io_ops io_ops = {
	.start = ring_start,
	.send = ring_send,
	.cancel = ring_cancel,
	.forget = ring_forget,
	.close = ring_close_handle,
};

/* ---- Life -------------------------------------------------------------- */

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
	ring->io.ops = &io_ops;
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
	struct weir__ring *ring = weir_zalloc(sizeof *ring);

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
		weir_free(ring);
		return err;
	}
	init_ring(ring, worker);
	weir__ring_wake_arm(ring);
	*ret = &ring->io;
	return 0;
}
