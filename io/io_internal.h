/* SPDX-License-Identifier: MIT */
/*
 * io_internal.h: operations, handles, and the half of the driver seam that starts them.
 *
 * conn.c and listener.c describe an operation in a struct weir__op and start it; ring_op.c hands it
 * to io_uring, poll.c tries the system call and waits for readiness. An operation ends only by its
 * own completion: cancelling asks for it, nothing more. Until then the operation, and the memory it
 * points at, must stay where they are.
 */
#ifndef WEIR_IO_INTERNAL_H
#define WEIR_IO_INTERNAL_H

#include <sys/socket.h>

#include <weir/io.h>

#include "runtime/task.h"

struct weir__address;
struct weir__io;
struct weir__op;

/* ---- Handles: what operations work on ----------------------------------- */

struct weir__handle {
	int fd;		      /* a descriptor, or a slot of the ring's own table; -1: closed */
	bool is_direct;	      /* a slot */
	uint8_t ready;	      /* poll.c: WEIR__READABLE | WEIR__WRITABLE, what epoll last said */
	bool is_polled;	      /* poll.c: in the epoll set */
	struct weir__op *ops; /* in flight */
	struct weir__task *closer; /* parked until ops is empty */
};

/* ---- Operations --------------------------------------------------------- */

enum weir__op_code {
	WEIR__OP_ACCEPT,    /* res: a new descriptor or slot (accepted_direct says which) */
	WEIR__OP_CONNECT,   /* to data, len: a sockaddr */
	WEIR__OP_RECV,	    /* res bytes in block, or 0 at the end of the stream */
	WEIR__OP_SEND,	    /* all of data, len; res < len only when cancelled or broken midway */
	WEIR__OP_SHUTDOWN,  /* of the sending half */
	WEIR__OP_INSTALL,   /* res: a descriptor for a slot, the caller's to close; only for direct
			       handles */
	WEIR__OP_POLL,	    /* res: what the descriptor is ready for, of `len`, as in poll(2) */
	WEIR__OP_RECV_FROM, /* res bytes in block, struct weir__datagram first; at most len */
	WEIR__OP_SEND_TO, /* the datagram of the struct msghdr at data, `len` bytes: all or none */
	WEIR__OP_FILES,	  /* from here on: file.h has the arguments */
	WEIR__OP_FILE_READ = WEIR__OP_FILES,
	WEIR__OP_FILE_WRITE,
	WEIR__OP_FILE_SYNC,
	WEIR__OP_FILE_TRUNCATE,
	WEIR__OP_FILE_OPEN, /* res: a descriptor */
	WEIR__OP_FILE_CLOSE,
	WEIR__OP_FILE_STAT, /* of an open file, or of a name */
	WEIR__OP_PATH_REMOVE,
	WEIR__OP_PATH_RENAME,
	WEIR__OP_DIR_MAKE,
	WEIR__OP_DIR_LIST, /* res: how many names */
	WEIR__OP_CODES,
};

/* Of receive buffers. */
enum weir__buffer_size {
	WEIR__BUFFER_SMALL,
	WEIR__BUFFER_BULK,
	WEIR__BUFFER_TURNS,    /* as bulk, few of them: turns.h */
	WEIR__BUFFER_DATAGRAM, /* the longest UDP datagram, and what is in front of it */
	WEIR__BUFFER_SIZES,
};

enum weir__op_state {
	WEIR__OP_FREE,
	WEIR__OP_QUEUED, /* started; the kernel may or may not know it */
	WEIR__OP_CANCELLING,
};

struct weir__op {
	struct weir__op *next; /* the handle's list */
	struct weir__op **pprev;
	struct weir__op *queue_next; /* ring.c: waiting for a submission entry or for a buffer */
	struct weir__handle *handle;
	/*
	 * Called on the scheduler stack for each completion, after the operation has left the
	 * handle's list if it was the last one (!more). May make tasks ready and start operations,
	 * must not park.
	 */
	void (*done)(struct weir__op *op);
	union {
		/*
		 * RECV of a connection, ring.c: what it may call instead of done() for `bytes` in
		 * `block`, one reference to which it gives, when more completions follow.
		 */
		void (*arrived)(struct weir__op *op, struct weir__block *block, size_t bytes);
		size_t moved; /* poll.c: bytes sent so far */
	};
	void *owner; /* of done() and arrived() */
	void *data;
	size_t len;
	struct weir__block *block; /* RECV: gives one reference when res > 0, else NULL */
	int res;
	int why;       /* weir__op_run(): its task was interrupted for; ring.c: has_end */
	uint8_t code;  /* enum weir__op_code */
	uint8_t state; /* enum weir__op_state */
	bool multi;    /* ACCEPT, RECV: go on until cancelled, at the driver's discretion */
	bool more;     /* this completion was not the last */
	bool accepted_direct;
	bool wants_fd;	 /* ACCEPT: never a slot */
	uint8_t group;	 /* RECV, RECV_FROM: enum weir__buffer_size */
	bool is_waiting; /* ring.c: in a queue through queue_next */
	/*
	 * Embedded in a connection and started again and again: its owner cancels it before the
	 * handle is closed, and forgets it before the memory goes. ring.c keeps its slot and leaves
	 * it off the list.
	 */
	bool is_kept;
	bool has_slot;	      /* ring.c */
	bool may_be_quiet;    /* SEND, ring.c: the next one is told of only if it fails */
	bool is_quiet;	      /* SEND, ring.c: and so is this one */
	uint8_t loud;	      /* SEND, ring.c: so many more are told of */
	bool socket_has_more; /* RECV: the kernel said that more lies ready */
	bool is_unsure : 1;   /* RECV, ring.c: an end behind the data may not be heard */
	bool has_end : 1;     /* RECV, ring.c: `why` is the end of the stream, found by a look */
	bool is_polling : 1;  /* RECV, ring.c: what the kernel has is the poll before it */
	uint64_t tag;	      /* ring.c: its user_data; sim_driver.c: the place of its record */
};

/* ---- The worker's I/O --------------------------------------------------- */

struct weir__io_ops {
	/*
	 * Starts an operation (code, handle, done and the arguments set). Returns true when it has
	 * completed already: res (and block) are set, done() is not called, `more` is false.
	 */
	bool (*start)(struct weir__io *io, struct weir__op *op);
	/* Starts a connection's send. Returns its `len`, or how it has failed already. */
	ssize_t (*send)(struct weir__io *io, struct weir__op *op);
	/* Asks for the end of an operation that was started. May call done() before it returns. */
	void (*cancel)(struct weir__io *io, struct weir__op *op);
	/* A kept operation, not in flight, will not be started again. */
	void (*forget)(struct weir__io *io, struct weir__op *op);
	/* Closes a handle with no operation in flight. Never fails, may take effect later. */
	void (*close)(struct weir__io *io, struct weir__handle *handle);
};

/* Sockets for those operations: nothing here waits. Descriptors are closed as handles. */
struct weir__socket_ops {
	/* Bound to *address, which becomes what it got, and listening. A descriptor, or -errno. */
	int (*listen)(struct weir__io *io, struct weir__address *address, int backlog, bool nagle);
	/* Takes a listening socket of the outside's, `fd`, and tells its address. 0 or -errno. */
	int (*adopt)(struct weir__io *io, int fd, struct weir__address *ret, bool nagle);
	/* The same socket once more, for another worker. */
	int (*share)(struct weir__io *io, int fd);
	/* One more of that address, which another worker's listen() gave. Not of Unix sockets. */
	int (*listen_along)(struct weir__io *io, const struct weir__address *address, int backlog,
			    bool nagle);
	/* Nobody finds the address any more: Unix sockets have a file. */
	void (*unlisten)(struct weir__io *io, const struct weir__address *address);
	/* A socket to connect to such an address. */
	int (*open)(struct weir__io *io, const struct weir__address *address);
	int (*peer)(struct weir__io *io, int fd, struct weir__address *ret);
	/* A datagram socket bound to *address, which becomes what it got. A descriptor, or -errno.
	 */
	int (*open_datagram)(struct weir__io *io, struct weir__address *address, bool shared);
	int (*connect_datagram)(struct weir__io *io, int fd, const struct weir__address *to);
};

struct weir__io {
	struct weir__driver driver; /* first: the runtime's view of us */
	const struct weir__io_ops *ops;
	const struct weir__socket_ops *sockets;
	const struct weir__pipe_ops *pipes; /* stream.h */
	uint32_t file_codes; /* bits: operations on files that the driver does; others block */
	struct weir__file_counts {
		uint64_t reads, writes, read_bytes, written_bytes, others, pooled;
	} files; /* owner writes, others read relaxed */
	struct weir__worker *worker;
	bool accepts_direct;	/* accepted connections are slots of the ring's table */
	bool needs_nonblocking; /* descriptors must be O_NONBLOCK */
	/*
	 * A task waits for the end of a kept send, which a driver need not be told of: it must not
	 * sleep before it has looked. The driver takes it back.
	 */
	bool is_send_awaited;
	/*
	 * Connections that receive into bulk buffers, and how many of them are so many that they
	 * should do so in turns (WEIR__BUFFER_TURNS); 0: never, the driver has nothing of the kind.
	 */
	unsigned bulk_conns, bulk_crowd;
	unsigned readiness_count; /* readiness.c: begun and not over */
	struct weir__serve_counts {
		uint64_t accepted, open, failed, accept_pauses;
	} serve; /* owner writes, others read relaxed */
	struct weir__datagram_counts {
		uint64_t received, sent, cut, failed;
	} datagrams; /* the same */
};

/* NULL while the worker has not opened its driver, as in hooks before the first task. */
static inline const struct weir__io *weir__io_of_any(const struct weir__worker *worker)
{
	return (const struct weir__io *)(const void *)weir__driver_of(worker);
}

/*
 * A driver's record, zeroed; NULL: there is no memory. Other workers read its counters until the
 * run has ended, so it is of malloc and outlives close() and the heaps.
 */
void *weir__io_new(size_t bytes);

static inline struct weir__io *weir__io_of(const struct weir__worker *worker)
{
	return (struct weir__io *)(void *)worker->driver;
}

/*
 * Opens the driver the configuration asks for, on the worker's own thread. Returns 0 or -errno; of
 * a ring then also what was refused, for weir__probe_explain_refusal().
 */
WEIR_MUST int weir__ring_open(struct weir__worker *worker, struct weir__io **ret,
			      const char **ret_refused);
WEIR_MUST int weir__poll_open(struct weir__worker *worker, struct weir__io **ret);

/* For the drivers: bookkeeping around starting and completing. */
static inline void weir__op_link(struct weir__op *op)
{
	struct weir__handle *handle = op->handle;

	op->state = WEIR__OP_QUEUED;
	op->next = handle->ops;
	op->pprev = &handle->ops;
	if (op->next)
		op->next->pprev = &op->next;
	handle->ops = op;
}

/* Nothing is in flight any more: wakes who waits to close the handle. */
void weir__handle_free(struct weir__handle *handle);

/* The last completion of `op`: leaves the handle's list. */
static inline void weir__op_unlink(struct weir__op *op)
{
	struct weir__handle *handle = op->handle;

	*op->pprev = op->next;
	if (op->next)
		op->next->pprev = op->pprev;
	op->state = WEIR__OP_FREE;
	if (__builtin_expect(!handle->ops && handle->closer, 0))
		weir__handle_free(handle);
}

/* For conn.c and listener.c. */

/*
 * What every operation needs before it is started; the rest of the struct is the driver's, or
 * `data` and `len` where the code has arguments. A constructor instead of an initialiser: a send
 * would clear 120 bytes.
 */
static inline void weir__op_init(struct weir__op *op, enum weir__op_code code,
				 struct weir__handle *handle)
{
	op->handle = handle;
	op->code = (uint8_t)code;
	op->multi = false;
	op->is_kept = false;
	op->has_slot = false;
	op->may_be_quiet = false;
	op->is_quiet = false;
	op->loud = 0;
	op->block = NULL;
}

void weir__op_wake(struct weir__op *op);	       /* done() of weir__op_run() */
void weir__op_abort(struct weir__task *task, int why); /* its abort function */

/*
 * Starts `op` for the running task and parks until it completes. Returns res; why the task was
 * interrupted, instead of -ECANCELED, or of the -EINTR that a thread of io_uring's says when it is
 * to let go. The operation may lie on the task's stack.
 */
static inline int weir__op_run(struct weir__io *io, struct weir__op *op)
{
	struct weir__worker *self = io->worker;

	op->done = weir__op_wake;
	op->owner = self->current;
	op->why = 0;
	if (io->ops->start(io, op))
		weir__budget_spend(self);
	else
		(void)weir__park(self, weir__op_abort, op);
	return op->why < 0 && (op->res == -ECANCELED || op->res == -EINTR) ? op->why : op->res;
}

/* Says what it is, for people: "fd 7 of 127.0.0.1:4711". Any thread while the worker stands still.
 */
void weir__handle_describe(const struct weir__handle *handle, char *ret, size_t cap);

/* Cancels what is in flight on the handle but kept operations. Does not wait. */
void weir__handle_cancel(struct weir__io *io, struct weir__handle *handle);

/* Cancels what is in flight on the handle but kept operations, parks (not a cancellation point)
 * until it is over, closes. */
void weir__handle_close(struct weir__io *io, struct weir__handle *handle);

/* Open descriptors this process may have (RLIMIT_NOFILE), at most 262,144. */
unsigned weir__descriptors_max(void);

/* `send` of a driver that has no shorter way than start(). */
ssize_t weir__conn_send(struct weir__io *io, struct weir__op *op);

/* Makes a connection of a descriptor (is_direct: slot), which it takes; on -ENOMEM it has not. */
WEIR_MUST int weir__conn_new(struct weir__io *io, int fd, bool is_direct, weir_conn **ret);
/* The same on the ledge of the running task's stack: the task closes it before it ends. */
weir_conn *weir__conn_on_ledge(struct weir__io *io, int fd, bool is_direct);

/*
 * Around a runtime, on any thread: what is made once per process. Returns 0, -ENOMEM, or -EINVAL
 * when the allocator does not take the configuration.
 */
WEIR_MUST int weir__process_enter(const struct weir__config *config);
void weir__process_leave(void);

/* weir_run() on the driver "sim": see sim.c. Options and configuration are read and good. */
WEIR_MUST int weir__sim_instead(const struct weir__config *config,
				const struct weir_run_opts *opts);
/* WEIR_VERBOSE=1: what the calling worker's runtime has done, on standard error. */
void weir__run_report(const struct weir__runtime *runtime);

/* A process-wide pool for connections, made once. Called under io/run.c's start lock. */
WEIR_MUST int weir__conn_pool_init(void);

#endif
