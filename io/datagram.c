/* SPDX-License-Identifier: MIT */
/*
 * datagram.c: datagram sockets: UDP, and Unix sockets that keep messages apart.
 *
 * Comes from: ring.c, poll.c or the simulator (completions of the operations below). Goes to: user
 * code, as leases or copies.
 *
 * Receiving is the socket's business, as it is a connection's: one receive stays armed and what it
 * brings queues up here, so a cancelled weir_dgram_recv() loses nothing. Sending is the task's: a
 * datagram goes out whole or not at all and owes nothing to the one before, so each send has its
 * own result and any number of tasks may send at once; the operation lies on the task's stack.
 */
#include "io/datagram.h"

#include <errno.h>
#include <limits.h>
#include <string.h>

#include "io/name.h"
#include "runtime/fatal.h"
#include "alloc/opts.h"
#include "runtime/wait_kind.h"

/* Datagrams that wait here; what comes then waits in the socket's own buffer, and is lost beyond.
 */
enum { QUEUED_MAX = 64 };

struct weir_dgram {
	struct weir__handle handle;
	struct weir__io *io;
	struct weir__worker *worker; /* io's */
	struct weir__address address;
	size_t bytes_max;
	struct weir__task *reader; /* parked in weir_dgram_recv() and its kin; the queue is empty */
	struct weir__block **into; /* the reader's: where its datagram goes */
	struct weir__block *queue; /* arrived and not taken, oldest first */
	struct weir__block **queue_tail;
	unsigned queued;
	unsigned inside; /* tasks parked in a call on it */
	bool is_receiving;
	bool is_closing;
	int error;		   /* that ended the receiving and was not told yet */
	struct weir__task *closer; /* parked until `inside` is 0 and nothing is received */
	struct weir__op recv;
	struct msghdr recv_form; /* of the names and payloads that ring.c receives */
	char text[WEIR__ADDRESS_TEXT_MAX];
};

_Static_assert(sizeof(struct weir_address) == sizeof(struct weir__address) &&
		       offsetof(struct weir_address, len) == offsetof(struct weir__address, len),
	       "the same, but for the sockaddr in it");

/* ---- Addresses ---------------------------------------------------------- */

int weir_address_parse(struct weir_address *ret, const char *text)
{
	struct weir__address address;
	int err = weir__address_parse(text, &address);

	if (err == 0)
		memcpy(ret, &address, sizeof *ret);
	return err;
}

int weir_address_format(const struct weir_address *address, char *ret, size_t cap)
{
	struct weir__address copy;

	memcpy(&copy, address, sizeof copy);
	if (copy.len > sizeof copy.un)
		return -ENOTSUP;
	return weir__address_format(&copy.any, copy.len, ret, cap);
}

bool weir_address_equal(const struct weir_address *a, const struct weir_address *b)
{
	return a->len == b->len && a->len <= sizeof a->sockaddr &&
	       memcmp(a->sockaddr, b->sockaddr, a->len) == 0;
}

/* ---- Who is inside ------------------------------------------------------ */

static void wake_closer(weir_dgram *dgram)
{
	struct weir__task *closer = dgram->closer;

	if (!closer || dgram->inside > 0 || dgram->is_receiving)
		return;
	dgram->closer = NULL;
	weir__ready(dgram->worker, closer, 0);
}

/* A task is back from a park. The socket stays valid until this task parks again or ends. */
static void leave(weir_dgram *dgram)
{
	dgram->inside--;
	wake_closer(dgram);
}

/* Common to all calls that park: 0, -EXDEV, -EINVAL (no task), -ECANCELED, -ETIME. */
static int may_park(const weir_dgram *dgram, struct weir__worker *self)
{
	if (dgram->worker != self)
		return -EXDEV;
	if (!self->current)
		return -EINVAL;
	int err = weir__interrupted(self, self->current);
	return err == 0 && dgram->is_closing ? -ECANCELED : err;
}

/* ---- Receiving ---------------------------------------------------------- */

static void start_recv(weir_dgram *dgram);

static void wake_reader(weir_dgram *dgram, int result)
{
	struct weir__task *reader = dgram->reader;

	dgram->reader = NULL;
	weir__ready(dgram->worker, reader, result);
}

static void enqueue(weir_dgram *dgram, struct weir__block *block)
{
	block->next = NULL;
	*dgram->queue_tail = block;
	dgram->queue_tail = &block->next;
	dgram->queued++;
}

static struct weir__block *dequeue(weir_dgram *dgram)
{
	struct weir__block *block = dgram->queue;

	dgram->queue = block->next;
	if (!dgram->queue)
		dgram->queue_tail = &dgram->queue;
	dgram->queued--;
	return block;
}

static void arrived(struct weir__op *op, struct weir__block *block, size_t bytes)
{
	weir_dgram *dgram = op->owner;

	block->len = bytes;
	if (dgram->reader) {
		*dgram->into = block;
		wake_reader(dgram, 0);
		return;
	}
	enqueue(dgram, block);
	if (dgram->queued >= QUEUED_MAX && dgram->is_receiving)
		dgram->io->ops->cancel(dgram->io, op);
}

static int tell_error(weir_dgram *dgram)
{
	int err = dgram->error;

	dgram->error = 0;
	return err;
}

static void recv_done(struct weir__op *op)
{
	weir_dgram *dgram = op->owner;

	dgram->is_receiving = op->more;
	if (op->block)
		arrived(op, op->block, (size_t)op->res);
	else if (op->res < 0 && op->res != -ECANCELED) /* that we have asked for ourselves */
		dgram->error = op->res;
	if (op->more)
		return;
	if (dgram->reader && dgram->error)
		wake_reader(dgram, tell_error(dgram));
	else if (dgram->reader)
		start_recv(dgram); /* it ended with nothing for the reader who waits */
	wake_closer(dgram);
}

/* Arms the receive operation. It may complete at once. */
static void start_recv(weir_dgram *dgram)
{
	dgram->is_receiving = true;
	if (dgram->io->ops->start(dgram->io, &dgram->recv))
		recv_done(&dgram->recv);
}

static void recv_abort(struct weir__task *task, int why)
{
	weir_dgram *dgram = task->wait;

	dgram->reader = NULL;
	weir__ready(task->worker, task, why);
}

static void describe_dgram(const struct weir__task *task, char *ret, size_t cap)
{
	const weir_dgram *dgram = task->wait;

	snprintf(ret, cap, "fd %d at %s", dgram->handle.fd, dgram->text);
}
WEIR__WAIT_KIND(recv_abort, "datagram recv", describe_dgram);

static int await_arrival(struct weir__worker *self, weir_dgram *dgram, struct weir__block **ret)
{
	dgram->reader = self->current;
	dgram->into = ret;
	dgram->inside++;
	int err = weir__park(self, recv_abort, dgram);
	leave(dgram);
	return err;
}

/* The oldest datagram; parks until there is one. 0 or -errno. */
static int next(struct weir__worker *self, weir_dgram *dgram, struct weir__block **ret)
{
	int err = may_park(dgram, self);

	if (err < 0)
		return err;
	if (dgram->reader)
		return -EBUSY;
	if (!dgram->queue && !dgram->error && !dgram->is_receiving)
		start_recv(dgram);
	if (dgram->queue)
		*ret = dequeue(dgram);
	else if (dgram->error)
		return tell_error(dgram);
	else
		return await_arrival(self, dgram, ret);
	return 0;
}

static struct weir__datagram *datagram_of(const struct weir__block *block)
{
	return (struct weir__datagram *)(void *)block->base;
}

/* The sender's name; a Unix socket that has none is of its family and no more. */
static void copy_name(const struct weir__datagram *datagram, struct weir_address *ret)
{
	static const struct sockaddr nameless = { .sa_family = AF_UNIX };
	const void *name = datagram->name;
	size_t len = datagram->name_len;

	if (len == 0) {
		name = &nameless;
		len = sizeof nameless.sa_family;
	}
	ret->len = len < sizeof(struct sockaddr_un) ? len : sizeof(struct sockaddr_un);
	memset(ret->sockaddr, 0, sizeof ret->sockaddr);
	memcpy(ret->sockaddr, name, ret->len);
}

/* How much of it there is for the caller: at most `cap` bytes, and `cut` says if there were more.
 */
static size_t measure(weir_dgram *dgram, const struct weir__block *block, size_t cap, bool *cut)
{
	struct weir__datagram_counts *counts = &dgram->io->datagrams;
	size_t len = block->len - sizeof(struct weir__datagram);

	*cut = len > cap || datagram_of(block)->flags & MSG_TRUNC;
	weir__count(&counts->received, 1);
	if (*cut)
		weir__count(&counts->cut, 1);
	return len < cap ? len : cap;
}

ssize_t weir_dgram_recv(weir_dgram *dgram, weir_buf *ret, struct weir_address *ret_from)
{
	struct weir__worker *self = weir__worker_self();
	struct weir__block *block = NULL;
	bool cut;

	weir_buf_release(ret);
	int err = next(self, dgram, &block);
	if (err < 0)
		return err;
	*ret = (weir_buf){
		.data = datagram_of(block)->payload,
		.len = measure(dgram, block, dgram->bytes_max, &cut),
		.cap = block->cap - sizeof(struct weir__datagram),
		.block = block,
	};
	if (ret_from)
		copy_name(datagram_of(block), ret_from);
	weir__budget_spend(self);
	return cut ? -EMSGSIZE : (ssize_t)ret->len;
}

ssize_t weir_dgram_read(weir_dgram *dgram, void *ret, size_t cap, struct weir_address *ret_from)
{
	struct weir__worker *self = weir__worker_self();
	struct weir__block *block = NULL;
	bool cut;
	int err = next(self, dgram, &block);

	if (err < 0)
		return err;
	if (cap > dgram->bytes_max)
		cap = dgram->bytes_max;
	size_t len = measure(dgram, block, cap, &cut);
	memcpy(ret, datagram_of(block)->payload, len);
	if (ret_from)
		copy_name(datagram_of(block), ret_from);
	weir__block_drop(block);
	weir__budget_spend(self);
	return cut ? -EMSGSIZE : (ssize_t)len;
}

/* ---- Sending ------------------------------------------------------------ */

/* Between two attempts at a Unix receiver whose queue is full: room in it is no event. */
#define AGAIN_FIRST_NS (50 * WEIR_US)
#define AGAIN_MOST_NS  (2 * WEIR_MS)

static void again_abort(struct weir__task *task, int why)
{
	weir__ready(task->worker, task, why);
}
WEIR__WAIT_KIND(again_abort, "datagram send", describe_dgram);

static int run_send(struct weir__worker *self, weir_dgram *dgram, struct weir__op *op)
{
	int64_t pause_ns = AGAIN_FIRST_NS;
	int n;

	while ((n = weir__op_run(dgram->io, op)) == -EBUSY) {
		int err = weir__interrupted(self, self->current);
		if (err == 0)
			err = weir__park_until(self, again_abort, dgram,
					       weir__clock_ns() + pause_ns);
		if (err == 0)
			err = may_park(dgram, self);
		if (err < 0)
			return err;
		pause_ns = pause_ns < AGAIN_MOST_NS ? pause_ns * 2 : pause_ns;
	}
	return n;
}

ssize_t weir_dgram_send(weir_dgram *dgram, const void *data, size_t len,
			const struct weir_address *to)
{
	struct weir__worker *self = weir__worker_self();
	struct iovec payload = { (void *)data, len };
	struct msghdr message = { .msg_iov = &payload, .msg_iovlen = 1 };
	struct weir__op op;
	int err = may_park(dgram, self);

	if (err < 0)
		return err;
	if (to && (to->len == 0 || to->len > sizeof to->sockaddr))
		return -EINVAL;
	if (len > INT_MAX)
		return -EMSGSIZE;
	if (to) {
		message.msg_name = (void *)to->sockaddr;
		message.msg_namelen = to->len;
	}
	weir__op_init(&op, WEIR__OP_SEND_TO, &dgram->handle);
	op.data = &message;
	op.len = len;
	struct weir__datagram_counts *counts = &dgram->io->datagrams;
	dgram->inside++;
	ssize_t n = run_send(self, dgram, &op);
	weir__count(n < 0 ? &counts->failed : &counts->sent, 1);
	leave(dgram);
	return n;
}

/* ---- Life --------------------------------------------------------------- */

/* "unix:" stands for an abstract name of the kernel's choice, as port 0 does for a port. */
static int parse_own(const char *text, struct weir__address *ret)
{
	if (!text)
		return -EINVAL;
	if (strcmp(text, "unix:") != 0)
		return weir__address_parse(text, ret);
	memset(ret, 0, sizeof *ret);
	ret->un.sun_family = AF_UNIX;
	ret->len = sizeof ret->un.sun_family;
	return 0;
}

static void init_recv(weir_dgram *dgram)
{
	struct weir__op *op = &dgram->recv;
	size_t room = sizeof(struct weir__datagram) + dgram->bytes_max;

	weir__op_init(op, WEIR__OP_RECV_FROM, &dgram->handle);
	dgram->recv_form.msg_namelen = sizeof(((struct weir__datagram *)NULL)->name);
	op->data = &dgram->recv_form;
	op->len = room;
	op->group = room <= dgram->worker->runtime->config.recv_bytes ? WEIR__BUFFER_SMALL
								      : WEIR__BUFFER_DATAGRAM;
	op->multi = true;
	op->is_kept = true;
	op->done = recv_done;
	op->arrived = arrived;
	op->owner = dgram;
}

static weir_dgram *new_dgram(struct weir__worker *self, size_t bytes_max)
{
	weir_dgram *dgram = weir_zalloc(sizeof *dgram);

	if (!dgram)
		return NULL;
	dgram->io = weir__io_of(self);
	dgram->worker = self;
	dgram->bytes_max = bytes_max ? bytes_max : WEIR__DATAGRAM_BYTES_MAX;
	dgram->queue_tail = &dgram->queue;
	init_recv(dgram);
	return dgram;
}

int weir_dgram_open_with(weir_dgram **ret, const struct weir_dgram_opts *opts)
{
	struct weir__worker *self = weir__worker_self();
	struct weir_dgram_opts known = { 0 };
	struct weir__address address;

	if (!self)
		return -EINVAL;
	int err = weir__opts_copy(&known, sizeof known, opts, opts->size);
	if (err == 0)
		err = parse_own(known.address, &address);
	if (err == 0 && known.bytes_max > WEIR__DATAGRAM_BYTES_MAX)
		err = -EINVAL;
	if (err < 0)
		return err;
	weir_dgram *dgram = new_dgram(self, known.bytes_max);
	if (!dgram)
		return -ENOMEM;
	dgram->address = address;
	int fd = dgram->io->sockets->open_datagram(dgram->io, &dgram->address, known.shared);
	if (fd < 0) {
		weir_free(dgram);
		return fd;
	}
	dgram->handle.fd = fd;
	err = weir__address_format(&dgram->address.any, dgram->address.len, dgram->text,
				   sizeof dgram->text);
	if (err < 0) {
		weir_dgram_close(dgram);
		return err;
	}
	*ret = dgram;
	return 0;
}

enum { NAME_ADDRESSES_MAX = 8 };

int weir_dgram_connect(weir_dgram *dgram, const char *text)
{
	struct weir__worker *self = weir__worker_self();
	struct weir__address peers[NAME_ADDRESSES_MAX];
	int count = 1, err = may_park(dgram, self);

	if (err < 0)
		return err;
	if (weir__address_parse(text, &peers[0]) < 0) {
		dgram->inside++;
		count = weir__name_resolve(self, text, peers, NAME_ADDRESSES_MAX);
		leave(dgram);
		if (count >= 0 && dgram->is_closing)
			return -ECANCELED;
	}
	if (count < 0)
		return count;
	for (int i = 0; i < count; i++) {
		err = dgram->io->sockets->connect_datagram(dgram->io, dgram->handle.fd, &peers[i]);
		if (err == 0)
			break;
	}
	return err;
}

const char *weir_dgram_address(const weir_dgram *dgram)
{
	return dgram->text;
}

int weir_dgram_fd(const weir_dgram *dgram)
{
	return dgram->io->sockets->open_datagram == weir__datagram_open ? dgram->handle.fd
									: -EOPNOTSUPP;
}

void weir_dgram_close(weir_dgram *dgram)
{
	if (!dgram)
		return;
	WEIR_ASSERT(dgram->worker == weir__worker_self() && dgram->worker->current);
	dgram->is_closing = true;
	if (dgram->reader)
		wake_reader(dgram, -ECANCELED);
	if (dgram->is_receiving)
		dgram->io->ops->cancel(dgram->io, &dgram->recv);
	weir__handle_cancel(dgram->io, &dgram->handle);
	while (dgram->inside > 0 || dgram->is_receiving) { /* again: as in weir_conn_close() */
		dgram->closer = dgram->worker->current;
		weir__park_for(dgram->worker, "close");
	}
	dgram->io->sockets->unlisten(dgram->io, &dgram->address);
	weir__handle_close(dgram->io, &dgram->handle);
	dgram->io->ops->forget(dgram->io, &dgram->recv);
	while (dgram->queue)
		weir__block_drop(dequeue(dgram));
	weir_free(dgram);
}
