/* SPDX-License-Identifier: MIT */
/*
 * rival_uring.c: the roofline, an echo server of callbacks on raw liburing with every trick on.
 *
 * No tasks, timers, scopes or pools: what it costs is what io_uring and TCP cost, and weir is
 * measured by how near it comes. One worker: SINGLE_ISSUER, DEFER_TASKRUN and NO_SQARRAY, a
 * registered ring, multishot accept straight into the ring's file table, multishot receive into one
 * ring of provided buffers, and the reply sent from the very buffer it came in. Completions are
 * taken in batches, one io_uring_enter for each.
 *
 * The hard idea is to keep the stream in order without copying: a connection has at most one send
 * in flight, and pieces that arrive meanwhile wait in a list threaded through the pieces. Buffers
 * are the only memory that grows with load, so a connection whose peer does not read may hold only
 * a quarter of them; then its receive is cancelled until the list is empty. When the ring of
 * buffers is dry, receives fail with ENOBUFS and are armed again as buffers come back. With
 * --fixed it gives every request the same answer instead, see fixed.h.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <getopt.h>
#include <liburing.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include "fixed.h"

/* from newer kernel headers than Debian 12's liburing 2.3 carries */
#define SETUP_NO_SQARRAY (1U << 16) /* liburing 2.5 */
#define PBUF_RING_INC	 2	    /* IOU_PBUF_RING_INC, liburing 2.8 */
#define CQE_F_BUF_MORE	 (1U << 4)  /* IORING_CQE_F_BUF_MORE, liburing 2.8 */
#define ENTER_NO_IOWAIT	 (1U << 7)  /* IORING_ENTER_NO_IOWAIT, liburing 2.10 */
#define FEAT_NO_IOWAIT	 (1U << 17)

#define SQ_ENTRIES   1024
#define CQ_ENTRIES   8192
#define BUFFER_GROUP 0
#define NONE	     UINT32_MAX

enum op { OP_RECV, OP_SEND, OP_ACCEPT, OP_CLOSE, OP_CANCEL, OP_BITS = 3 };

/* Bytes that arrived and are not sent yet. */
struct piece {
	char *data;
	uint32_t len;
	uint32_t buffer;
	uint32_t next; /* of the same connection, or of the free list */
};

struct conn {
	uint32_t first, last; /* pieces not yet sent; the first is in flight when `sending` */
	uint32_t pieces;
	uint32_t next_dry; /* list of connections whose receive found no buffer */
	bool sending;
	bool receiving; /* a multishot receive is armed */
	bool held;	/* it was cancelled: too many pieces */
	bool dry;
	bool closing; /* nothing more is received or sent */
	bool ended;   /* the peer sends no more; what is queued still goes out */
};

struct buffer {
	uint32_t pieces; /* that lie in it */
	uint32_t used;	 /* incremental: bytes the kernel has filled */
	bool released;	 /* incremental: the kernel is done with it */
};

struct server {
	struct io_uring ring;
	struct conn *conns; /* by slot of the file table */
	struct piece *pieces;
	struct buffer *buffers;
	struct io_uring_buf_ring *buffer_ring;
	char *memory;
	unsigned buffer_count, buffer_bytes, buffer_stride;
	unsigned returned; /* buffers put back since the tail was last published */
	uint32_t free_piece;
	uint32_t first_dry;
	unsigned conns_max;
	unsigned enter_flags;
	int listener;
	bool accepting;
	bool incremental;
	const char *fixed_text;
	struct fixed fixed;
};

static void die(const char *what, int err)
{
	fprintf(stderr, "rival_uring: %s: %s\n", what, strerror(err));
	exit(1);
}

static void enter(struct server *s, unsigned wait)
{
	struct io_uring *ring = &s->ring;
	struct io_uring_sq *sq = &ring->sq;
	unsigned to_submit = sq->sqe_tail - sq->sqe_head;
	sq->sqe_head = sq->sqe_tail;
	io_uring_smp_store_release(sq->ktail, sq->sqe_tail);
	int n = io_uring_enter2((unsigned)ring->enter_ring_fd, to_submit, wait, s->enter_flags,
				NULL, 0);
	if (n < 0 && n != -EINTR && n != -EAGAIN && n != -EBUSY)
		die("io_uring_enter", -n);
}

static struct io_uring_sqe *get_sqe(struct server *s)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&s->ring);
	while (!sqe) {
		enter(s, 0);
		sqe = io_uring_get_sqe(&s->ring);
	}
	return sqe;
}

static void arm_accept(struct server *s)
{
	struct io_uring_sqe *sqe = get_sqe(s);
	io_uring_prep_multishot_accept_direct(sqe, s->listener, NULL, NULL, 0);
	sqe->user_data = OP_ACCEPT;
	s->accepting = true;
}

static void arm_recv(struct server *s, uint32_t slot)
{
	struct io_uring_sqe *sqe = get_sqe(s);
	io_uring_prep_recv_multishot(sqe, (int)slot, NULL, 0, 0);
	sqe->ioprio |= IORING_RECVSEND_POLL_FIRST;
	sqe->flags = IOSQE_FIXED_FILE | IOSQE_BUFFER_SELECT;
	sqe->buf_group = BUFFER_GROUP;
	sqe->user_data = (uint64_t)slot << OP_BITS | OP_RECV;
	s->conns[slot].receiving = true;
}

static void arm_send(struct server *s, uint32_t slot)
{
	struct piece *piece = &s->pieces[s->conns[slot].first];
	struct io_uring_sqe *sqe = get_sqe(s);
	io_uring_prep_send(sqe, (int)slot, piece->data, piece->len, MSG_WAITALL | MSG_NOSIGNAL);
	sqe->flags = IOSQE_FIXED_FILE;
	sqe->user_data = (uint64_t)slot << OP_BITS | OP_SEND;
	s->conns[slot].sending = true;
}

static void cancel_recv(struct server *s, uint32_t slot)
{
	struct io_uring_sqe *sqe = get_sqe(s);
	io_uring_prep_cancel64(sqe, (uint64_t)slot << OP_BITS | OP_RECV, 0);
	sqe->flags = IOSQE_CQE_SKIP_SUCCESS;
	sqe->user_data = OP_CANCEL;
}

/* ---- buffers ------------------------------------------------------------------------------- */

static char *buffer_data(struct server *s, uint32_t id)
{
	return s->memory + (size_t)id * s->buffer_stride;
}

static void return_buffer(struct server *s, uint32_t id)
{
	s->buffers[id].used = 0;
	s->buffers[id].released = false;
	io_uring_buf_ring_add(s->buffer_ring, buffer_data(s, id), s->buffer_bytes,
			      (unsigned short)id, io_uring_buf_ring_mask(s->buffer_count),
			      (int)s->returned);
	s->returned++;
}

/*
 * Once for each batch of completions. Everybody who found the ring dry tries again: whoever is
 * picked alone might have nothing to receive, and then no buffer would ever come back for the
 * others.
 */
static void publish_buffers(struct server *s)
{
	if (s->returned == 0)
		return;
	io_uring_buf_ring_advance(s->buffer_ring, (int)s->returned);
	s->returned = 0;
	while (s->first_dry != NONE) {
		uint32_t slot = s->first_dry;
		struct conn *c = &s->conns[slot];
		s->first_dry = c->next_dry;
		c->dry = false;
		if (!c->closing && !c->receiving && !c->held)
			arm_recv(s, slot);
	}
}

static void free_piece(struct server *s, uint32_t index)
{
	struct piece *piece = &s->pieces[index];
	struct buffer *buffer = &s->buffers[piece->buffer];
	if (--buffer->pieces == 0 && buffer->released)
		return_buffer(s, piece->buffer);
	piece->next = s->free_piece;
	s->free_piece = index;
}

/* Gives the piece of a receive completion, or NONE when all are in use. */
static uint32_t take_piece(struct server *s, uint32_t id, uint32_t len, unsigned flags)
{
	struct buffer *buffer = &s->buffers[id];
	uint32_t index = s->free_piece;
	buffer->released = !(flags & CQE_F_BUF_MORE);
	if (index != NONE) {
		struct piece *piece = &s->pieces[index];
		s->free_piece = piece->next;
		*piece = (struct piece){ .data = buffer_data(s, id) + buffer->used,
					 .len = len,
					 .buffer = id,
					 .next = NONE };
		buffer->pieces++;
	} else if (buffer->released && buffer->pieces == 0) {
		return_buffer(s, id);
		return NONE;
	}
	buffer->used += len;
	return index;
}

/* The answer goes out in place of what has come. False: there is none to it. */
static bool answer(struct server *s, struct piece *piece)
{
	piece->len = (uint32_t)fixed_answer(&s->fixed, piece->data, piece->len);
	piece->data = s->fixed.answers;
	return piece->len > 0;
}

/* ---- connections --------------------------------------------------------------------------- */

static void finish_close(struct server *s, uint32_t slot)
{
	struct conn *c = &s->conns[slot];
	if (c->sending || c->receiving)
		return;
	while (c->first != NONE) {
		uint32_t index = c->first;
		c->first = s->pieces[index].next;
		free_piece(s, index);
	}
	struct io_uring_sqe *sqe = get_sqe(s);
	io_uring_prep_close_direct(sqe, slot);
	sqe->user_data = (uint64_t)slot << OP_BITS | OP_CLOSE;
}

/* The file table's slot is free only after the close, so the record is not reused before it. */
static void begin_close(struct server *s, uint32_t slot)
{
	struct conn *c = &s->conns[slot];
	c->closing = true;
	if (c->receiving)
		cancel_recv(s, slot);
	finish_close(s, slot);
}

static void on_accept(struct server *s, int res, unsigned flags)
{
	if (!(flags & IORING_CQE_F_MORE))
		s->accepting = false;
	if (res >= 0) {
		s->conns[res] = (struct conn){ .first = NONE,
					       .last = NONE,
					       .next_dry = s->conns[res].next_dry,
					       .dry = s->conns[res].dry };
		arm_recv(s, (uint32_t)res);
	} else if (res != -ENFILE && res != -ECONNABORTED && res != -EMFILE && res != -ENOMEM) {
		die("accept", -res);
	}
	/* with the table full, accepting goes on after the next close */
	if (!s->accepting && (res >= 0 || res == -ECONNABORTED))
		arm_accept(s);
}

static void append(struct server *s, struct conn *c, uint32_t slot, uint32_t index)
{
	if (c->first == NONE)
		c->first = index;
	else
		s->pieces[c->last].next = index;
	c->last = index;
	c->pieces++;
	if (!c->sending) {
		arm_send(s, slot);
	} else if (c->pieces > s->buffer_count / 4 && c->receiving && !c->held) {
		c->held = true;
		cancel_recv(s, slot);
	}
}

static void receive_ended(struct server *s, uint32_t slot, int res)
{
	struct conn *c = &s->conns[slot];
	if (res == -ENOBUFS && !c->dry) {
		c->dry = true;
		c->next_dry = s->first_dry;
		s->first_dry = slot;
	} else if (res == 0) {
		c->ended = true;
		if (!c->sending)
			begin_close(s, slot);
	} else if (res > 0 || res == -ECANCELED) {
		/* when the list ran empty before the cancel arrived, nobody else arms it */
		if (!c->held)
			arm_recv(s, slot);
	} else if (res != -ENOBUFS) {
		begin_close(s, slot);
	}
}

static void on_recv(struct server *s, uint32_t slot, int res, unsigned flags)
{
	struct conn *c = &s->conns[slot];
	if (__builtin_expect(res > 0, 1)) {
		uint32_t id = flags >> IORING_CQE_BUFFER_SHIFT;
		uint32_t index = take_piece(s, id, (uint32_t)res, flags);
		if (index == NONE)
			res = -ENOMEM; /* bytes of the stream are gone */
		else if (s->fixed.answers && !answer(s, &s->pieces[index]))
			free_piece(s, index);
		else
			append(s, c, slot, index);
	}
	if (__builtin_expect(flags & IORING_CQE_F_MORE && res > 0, 1))
		return;
	if (!(flags & IORING_CQE_F_MORE))
		c->receiving = false;
	if (c->closing)
		finish_close(s, slot);
	else
		receive_ended(s, slot, res);
}

static void drained(struct server *s, uint32_t slot)
{
	struct conn *c = &s->conns[slot];
	if (c->ended) {
		begin_close(s, slot);
	} else if (c->held) {
		c->held = false;
		if (!c->receiving && !c->dry)
			arm_recv(s, slot);
	}
}

static void on_send(struct server *s, uint32_t slot, int res)
{
	struct conn *c = &s->conns[slot];
	struct piece *piece = &s->pieces[c->first];
	c->sending = false;
	if (__builtin_expect(c->closing || res <= 0, 0)) {
		if (c->closing)
			finish_close(s, slot);
		else
			begin_close(s, slot);
		return;
	}
	if (__builtin_expect((uint32_t)res < piece->len, 0)) {
		piece->data += res;
		piece->len -= (uint32_t)res;
		arm_send(s, slot);
		return;
	}
	uint32_t index = c->first;
	c->first = piece->next;
	c->pieces--;
	free_piece(s, index);
	if (c->first != NONE)
		arm_send(s, slot);
	else if (__builtin_expect(c->ended || c->held, 0))
		drained(s, slot);
}

static inline void on_completion(struct server *s, const struct io_uring_cqe *cqe)
{
	uint32_t slot = (uint32_t)(cqe->user_data >> OP_BITS);
	switch ((enum op)(cqe->user_data & ((1 << OP_BITS) - 1))) {
	case OP_RECV:
		on_recv(s, slot, cqe->res, cqe->flags);
		break;
	case OP_SEND:
		on_send(s, slot, cqe->res);
		break;
	case OP_ACCEPT:
		on_accept(s, cqe->res, cqe->flags);
		break;
	case OP_CLOSE:
		if (!s->accepting)
			arm_accept(s);
		break;
	default:
		break;
	}
}

static void serve(struct server *s)
{
	arm_accept(s);
	for (;;) {
		enter(s, 1);
		unsigned head, count = 0;
		struct io_uring_cqe *cqe;
		io_uring_for_each_cqe(&s->ring, head, cqe)
		{
			on_completion(s, cqe);
			count++;
		}
		io_uring_cq_advance(&s->ring, count);
		publish_buffers(s);
	}
}

/* ---- start --------------------------------------------------------------------------------- */

/*
 * Maps the ring by hand, because liburing 2.3 fills the submission array, which NO_SQARRAY leaves
 * out, only in io_uring_queue_init_params().
 */
static int open_ring(struct server *s, unsigned extra_flags)
{
	struct io_uring_params params = {
		.flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN |
			 IORING_SETUP_TASKRUN_FLAG | IORING_SETUP_SUBMIT_ALL | IORING_SETUP_CLAMP |
			 IORING_SETUP_CQSIZE | extra_flags,
		.cq_entries = CQ_ENTRIES,
	};
	if (!(extra_flags & SETUP_NO_SQARRAY)) {
		int err = io_uring_queue_init_params(SQ_ENTRIES, &s->ring, &params);
		s->ring.features = params.features;
		return err;
	}
	int fd = io_uring_setup(SQ_ENTRIES, &params);
	if (fd < 0)
		return fd;
	int err = io_uring_queue_mmap(fd, &params, &s->ring);
	if (err < 0) {
		close(fd);
		return err;
	}
	s->ring.features = params.features;
	s->ring.flags = params.flags;
	s->ring.ring_fd = s->ring.enter_ring_fd = fd;
	return 0;
}

static void init_ring(struct server *s)
{
	int err = open_ring(s, SETUP_NO_SQARRAY);
	if (err == -EINVAL)
		err = open_ring(s, 0);
	if (err < 0)
		die("io_uring", -err);
	s->enter_flags = IORING_ENTER_GETEVENTS;
	if (s->ring.features & FEAT_NO_IOWAIT)
		s->enter_flags |= ENTER_NO_IOWAIT;
	if (io_uring_register_ring_fd(&s->ring) == 1)
		s->enter_flags |= IORING_ENTER_REGISTERED_RING;
	err = io_uring_register_files_sparse(&s->ring, s->conns_max);
	if (err < 0)
		die("file table", -err);
}

static void *zeroed(size_t bytes)
{
	void *memory =
		mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (memory == MAP_FAILED)
		die("memory", errno);
	return memory;
}

/* Large buffers are staggered by a cache line, or their first lines would share one cache set. */
static void init_buffers(struct server *s)
{
	unsigned piece_count = s->incremental ? 16 * s->buffer_count : s->buffer_count;
	s->buffer_stride = s->buffer_bytes >= 4096 ? s->buffer_bytes + 64 : s->buffer_bytes;
	s->memory = zeroed((size_t)s->buffer_count * s->buffer_stride);
	s->buffers = zeroed(s->buffer_count * sizeof(*s->buffers));
	s->buffer_ring = zeroed(s->buffer_count * sizeof(struct io_uring_buf));
	s->pieces = zeroed(piece_count * sizeof(*s->pieces));
	struct io_uring_buf_reg reg = { .ring_addr = (uintptr_t)s->buffer_ring,
					.ring_entries = s->buffer_count,
					.bgid = BUFFER_GROUP };
	/* the 16 bits behind bgid: "pad" until liburing 2.3, "flags" since */
	uint16_t flags = s->incremental ? PBUF_RING_INC : 0;
	memcpy((char *)&reg + offsetof(struct io_uring_buf_reg, bgid) + sizeof(reg.bgid), &flags,
	       sizeof(flags));
	int err = io_uring_register_buf_ring(&s->ring, &reg, 0);
	if (err < 0)
		die("provided buffers", -err);
	io_uring_buf_ring_init(s->buffer_ring);
	for (unsigned i = 0; i < piece_count; i++)
		s->pieces[i].next = i + 1 < piece_count ? i + 1 : NONE;
	s->first_dry = NONE;
	for (unsigned i = 0; i < s->buffer_count; i++)
		return_buffer(s, i);
	publish_buffers(s);
}

/* Accepted sockets inherit TCP_NODELAY. */
static int listen_on(unsigned port)
{
	struct sockaddr_in addr = { .sin_family = AF_INET,
				    .sin_port = htons((uint16_t)port),
				    .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	int one = 1;
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		die("socket", errno);
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	if (bind(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0 || listen(fd, 4096) < 0)
		die("listen", errno);
	return fd;
}

static void pin(int cpu)
{
	cpu_set_t set;
	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	if (sched_setaffinity(0, sizeof(set), &set) < 0)
		die("--cpu", errno);
}

static const char usage[] =
	"usage: rival_uring PORT [options]\n"
	"Echoes on 127.0.0.1:PORT with one io_uring worker.\n"
	"  --cpu N            run on CPU N\n"
	"  --buffers N        provided buffers, a power of two (256)\n"
	"  --buffer-bytes N   size of each (16384)\n"
	"  --fixed N:ANSWER   send ANSWER for every N bytes of a stream instead\n"
	"  --incremental      let the kernel fill a buffer piece by piece (Linux 6.12)\n";

static const struct option long_options[] = {
	{ "cpu", required_argument, NULL, 'c' },
	{ "buffers", required_argument, NULL, 'n' },
	{ "buffer-bytes", required_argument, NULL, 'b' },
	{ "fixed", required_argument, NULL, 'f' },
	{ "incremental", no_argument, NULL, 'i' },
	{ "help", no_argument, NULL, 'h' },
	{ NULL, 0, NULL, 0 },
};

static void parse_options(struct server *s, int argc, char **argv)
{
	int letter;
	s->buffer_count = 256;
	s->buffer_bytes = 16384;
	while ((letter = getopt_long(argc, argv, "h", long_options, NULL)) != -1) {
		if (letter == 'c') {
			pin(atoi(optarg));
		} else if (letter == 'n') {
			s->buffer_count = (unsigned)atoi(optarg);
		} else if (letter == 'b') {
			s->buffer_bytes = (unsigned)atoi(optarg);
		} else if (letter == 'f') {
			s->fixed_text = optarg;
		} else if (letter == 'i') {
			s->incremental = true;
		} else {
			fputs(usage, letter == 'h' ? stdout : stderr);
			exit(letter == 'h' ? 0 : 1);
		}
	}
	if (optind != argc - 1 || s->buffer_bytes == 0 || atoi(argv[optind]) <= 0 ||
	    (s->fixed_text && fixed_init(&s->fixed, s->fixed_text, s->buffer_bytes) < 0)) {
		fputs(usage, stderr);
		exit(1);
	}
}

int main(int argc, char **argv)
{
	static struct server server;
	struct rlimit limit;
	parse_options(&server, argc, argv);
	if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
		die("getrlimit", errno);
	limit.rlim_cur = limit.rlim_max;
	setrlimit(RLIMIT_NOFILE, &limit);
	server.conns_max = limit.rlim_max < 1 << 20 ? (unsigned)limit.rlim_max - 64 : 1 << 20;
	server.conns = zeroed(server.conns_max * sizeof(*server.conns));
	server.listener = listen_on((unsigned)atoi(argv[optind]));
	init_ring(&server);
	init_buffers(&server);
	serve(&server);
}
