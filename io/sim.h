/* SPDX-License-Identifier: MIT */
/*
 * sim.h: the simulator: virtual workers on one thread, virtual time, a network in memory.
 *
 *   sim.c          runs the workers, each on a stack of its own, and decides who is next
 *   sim_driver.c   the third driver: operations, completions, wake-ups
 *   sim_net.c      sockets, listeners and byte streams
 *   sim_datagram.c datagrams
 *   sim_disk.c     files and their names
 *   sim_plan.c     what a seed means: the random numbers, delays and faults
 *   sim_report.c   who waits on what, and what was left over
 *
 * Everything here happens on one thread. Its own memory is malloc's, so that failing allocations
 * are the program's and the library's alone. The hard idea: nothing may depend on anything but the
 * seed, no address, no real time, no state that another run has left in the process.
 */
#ifndef WEIR_SIM_H
#define WEIR_SIM_H

#include <stdio.h>

#include "io/address.h"
#include "io/io_internal.h"

struct weir__sim;
struct weir__sim_worker;
struct weir__sim_op;
struct weir__sim_socket;

/* ---- What a seed means: sim_plan.c -------------------------------------- */

/* Drawn once per run. Rates are per thousand. */
struct weir__sim_plan {
	struct weir_sim_faults faults;
	unsigned preempt;	    /* another worker goes on at a reading of the clock */
	unsigned reorder;	    /* a ready task goes to the end of the queue */
	unsigned jumble;	    /* completions of different operations change places */
	unsigned ends_multi;	    /* a multishot operation ends by itself */
	unsigned completes_at_once; /* start() completes what it can, as epoll's does */
	unsigned cancels_at_once;   /* cancel() completes, as epoll's does */
	unsigned submits_at_once;   /* not with the next turn: the queue was full */
	unsigned spurious;	    /* a wait ends for no reason */
	int64_t latency_ns;	    /* between two sockets, at most */
	int64_t delay_ns;	    /* of an operation, at most */
	int64_t tick_ns;	    /* between two readings of the clock, at most */
	size_t pipe_bytes;	    /* a stream holds, one way */
	int64_t backlog_least;
	bool is_multi;	 /* multishot operations are */
	bool lists_kept; /* kept operations are in the handle's list */
	bool is_direct;	 /* accepted connections are slots */
};

void weir__sim_plan_draw(struct weir__sim *sim, const struct weir_sim_opts *opts);
/*
 * For programs that were not written for the simulator: takes out what no machine does to them, a
 * worker's tasks in another order than they became ready, listeners with hardly a backlog, streams
 * that hold less than a pipe does, and a clock that who computes would read for ever.
 */
void weir__sim_plan_spare(struct weir__sim *sim);
/* Options of the runtime that nobody has set. */
void weir__sim_plan_config(struct weir__sim *sim, struct weir__config *config);

uint64_t weir__sim_random(struct weir__sim *sim);
/* 0 to n - 1; 0 for n = 0 */
uint64_t weir__sim_below(struct weir__sim *sim, uint64_t n);
bool weir__sim_chance(struct weir__sim *sim, unsigned permille);
/* How long an operation or a packet takes: mostly short, with the fault `late` now and then long.
 */
int64_t weir__sim_delay(struct weir__sim *sim, int64_t most_ns);

/* ---- Time: sim.c -------------------------------------------------------- */

struct weir__sim_event {
	int64_t at_ns;
	uint64_t order;
	void (*fn)(struct weir__sim *sim, void *what);
	void *what;
};

/*
 * The worker's turn may end here, whatever stack it is on; with `until_ns` (not 0) it does, until
 * it has a completion, is woken, or the time has come.
 */
void weir__sim_pause(struct weir__sim_worker *worker, int64_t until_ns);

/* Whether the calling thread is the one that simulates. */
bool weir__sim_is_here(const struct weir__sim *sim);

/* Calls fn(sim, what) at now + delay_ns, between two turns of workers. False: no memory. */
bool weir__sim_at(struct weir__sim *sim, int64_t delay_ns,
		  void (*fn)(struct weir__sim *sim, void *what), void *what);

/* ---- Workers and operations: sim_driver.c ------------------------------- */

/* A completion that its worker has not seen yet. */
struct weir__sim_done {
	struct weir__sim_done *next;
	struct weir__sim_op *record;
	struct weir__block *block;
	int res;
	bool more;
};

struct weir__sim_worker {
	struct weir__io io; /* first */
	struct weir__sim *sim;
	struct weir__heap *heap;
	struct weir__stack *stack; /* the loop's */
	void *sp;		   /* while another runs; NULL before the first turn */
	uint64_t in_use_before;	   /* objects of the heap */
	bool is_over;		   /* its loop has ended */
	bool is_waiting;
	bool is_woken;
	_Atomic bool is_called;	    /* woken by a thread that is none of the run's; it sets */
	int64_t until_ns;	    /* of its wait */
	int64_t stalled_ns;	    /* its thread stands still until then */
	unsigned readings;	    /* of the clock since it went on */
	unsigned wakes;		    /* bits of workers: sent with the next submission */
	struct weir__sim_op *queue; /* started, not submitted; oldest first */
	struct weir__sim_op **queue_tail;
	struct weir__sim_done *done; /* oldest first */
	struct weir__sim_done **done_tail;
	unsigned done_count;
	uint64_t ended_at;	   /* counts.switches when a task ended last */
	struct weir__task *cancel; /* parked at the point where it is to be cancelled */
};

/* What the simulator knows of an operation from its start to the last reference here. */
struct weir__sim_op {
	struct weir__sim_op *next; /* the socket's */
	struct weir__sim_op **pprev;
	struct weir__sim_op *queue_next;
	struct weir__op *op;
	struct weir__sim_worker *worker;
	struct weir__sim_socket *socket;
	uint64_t number;
	size_t moved;
	size_t bytes_max;  /* the script's; 0: no limit */
	int error;	   /* the script's */
	unsigned tries;	   /* to connect */
	unsigned refusals; /* to be cancelled */
	uint32_t index;
	uint32_t pins; /* events and completions that name it, and one until it has ended */
	uint8_t code;
	bool is_linked;
	bool is_submitted;
	bool is_final;	   /* its last completion is made */
	bool is_cancelled; /* asked for */
	bool is_starting;  /* inside start(): a completion is the result */
	bool is_scheduled; /* will be looked at again */
};

/* The driver of a worker; NULL: no memory. Its close() frees it. */
struct weir__sim_worker *weir__sim_driver_new(struct weir__sim *sim, struct weir__worker *worker);
/* Looks at it again after a while, if it is in flight. */
void weir__sim_op_later(struct weir__sim *sim, struct weir__sim_op *record, int64_t delay_ns);
/* A completion. Takes the block. */
void weir__sim_op_done(struct weir__sim *sim, struct weir__sim_op *record, int res,
		       struct weir__block *block, bool more);
const char *weir__sim_op_name(unsigned code);

/* ---- The network: sim_net.c --------------------------------------------- */

enum weir__sim_kind {
	WEIR__SIM_FRESH,
	WEIR__SIM_LISTENING,
	WEIR__SIM_STREAM,
	WEIR__SIM_DGRAM,
	WEIR__SIM_FILE,
};
enum weir__sim_segment_kind { WEIR__SIM_DATA, WEIR__SIM_FIN, WEIR__SIM_RESET };

/* On its way to a socket, in order. */
struct weir__sim_segment {
	struct weir__sim_segment *next;
	size_t len;
	uint8_t kind;
};

struct weir__sim_socket {
	struct weir__sim_socket *next; /* of all */
	struct weir__sim_socket **pprev;
	struct weir__address name; /* listening: where; else its own */
	struct weir__address peer_name;
	uint32_t number;
	uint32_t fds;  /* descriptors of it */
	uint32_t pins; /* events and operations that name it */
	uint8_t kind;
	struct weir__sim_op *ops; /* in flight, newest first */

	/* streams */
	struct weir__sim_socket *peer; /* NULL: gone */
	char *bytes;		       /* a ring: arrived, then on the way */
	size_t first, count, arrived;
	struct weir__sim_segment *segments;
	struct weir__sim_segment **segments_tail;
	int64_t last_ns; /* when the last segment arrives */
	bool has_fin;
	bool is_shut; /* this side has ended its sending half */
	int error;    /* -ECONNRESET, once it has arrived */

	/* listening */
	struct weir__sim_socket *backlog; /* oldest first */
	struct weir__sim_socket **backlog_tail;
	struct weir__sim_socket *backlog_next; /* of the one that waits */
	unsigned backlog_count, backlog_max;

	/* datagrams; `name`, `error` and `last_ns` as above */
	struct weir__sim_datagram *datagrams; /* arrived, oldest first */
	struct weir__sim_datagram **datagrams_tail;
	struct weir__sim_datagram *datagrams_coming; /* on their way */
	size_t datagrams_bytes;	  /* of them, with what each costs the kernel beside */
	unsigned datagrams_count; /* arrived or on the way */
	bool is_shared;
	bool has_peer; /* peer_name */

	/* files */
	struct weir__sim_node *node; /* NULL: the disk itself, for operations on names */
	int flags;		     /* as it was opened */
};

extern const struct weir__socket_ops weir__sim_sockets;
extern const struct weir__pipe_ops weir__sim_pipes;

/* For sim_datagram.c. */
struct weir__sim_socket *weir__sim_socket_new(struct weir__sim *sim, enum weir__sim_kind kind);
/* Takes the socket; frees it when there is no descriptor for it. */
int weir__sim_socket_open(struct weir__sim *sim, struct weir__sim_socket *socket);
/* Operations of this kind on the socket may have become possible. */
void weir__sim_stir(struct weir__sim *sim, struct weir__sim_socket *socket, unsigned code);
/* Whether who turns to `to` comes out at a socket at `at`. */
bool weir__sim_reaches(struct weir__address *to, struct weir__address *at);
uint16_t *weir__sim_port_of(struct weir__address *address); /* NULL: it has none */
bool weir__sim_is_any(const struct weir__address *address);
uint16_t weir__sim_next_port(struct weir__sim *sim);

/* NULL: no such descriptor. */
struct weir__sim_socket *weir__sim_socket_of(struct weir__sim *sim, int fd);
/* The operation has its socket, or is to be looked at again: does what can be done of it. */
void weir__sim_net_step(struct weir__sim *sim, struct weir__sim_op *record);
void weir__sim_net_close(struct weir__sim *sim, int fd);
void weir__sim_socket_unpin(struct weir__sim *sim, struct weir__sim_socket *socket);
void weir__sim_net_free(struct weir__sim *sim);
/* Some of `len`, by the operation's script and the faults. */
size_t weir__sim_shorten(struct weir__sim *sim, const struct weir__sim_op *record, size_t len);

/* ---- The disk: sim_disk.c ----------------------------------------------- */

/* What operations on names are operations on; made when it is wanted first. */
struct weir__sim_socket *weir__sim_disk(struct weir__sim *sim);
void weir__sim_disk_step(struct weir__sim *sim, struct weir__sim_op *record);
/* An open file is no longer open. */
void weir__sim_node_release(struct weir__sim_node *node);
void weir__sim_disk_free(struct weir__sim *sim);

/* ---- Datagrams: sim_datagram.c ------------------------------------------ */

int weir__sim_datagram_open(struct weir__io *io, struct weir__address *address, bool shared);
int weir__sim_datagram_connect(struct weir__io *io, int fd, const struct weir__address *to);
void weir__sim_datagram_recv(struct weir__sim *sim, struct weir__sim_op *record);
void weir__sim_datagram_send(struct weir__sim *sim, struct weir__sim_op *record);
/* The last descriptor is closed: what has arrived goes. */
void weir__sim_datagram_hang_up(struct weir__sim *sim, struct weir__sim_socket *socket);
/* The socket goes, at the end of a run with what is on its way to it. */
void weir__sim_datagram_free(struct weir__sim_socket *socket);

/* ---- All of it ---------------------------------------------------------- */

/* Virtual time begins here: far from 0, where a time could be taken for a duration. */
#define WEIR__SIM_START_NS (1000 * WEIR_SEC)

enum {
	WEIR__SIM_WORKERS_MAX = 16,
	WEIR__SIM_FD_FIRST = 1 << 20,
	WEIR__SIM_PORTS = 32768, /* to be given out for port 0, in turn */
};

struct weir__sim {
	struct weir__runtime *runtime;
	struct weir__sim_worker *workers[WEIR__SIM_WORKERS_MAX];
	unsigned workers_count;
	struct weir__sim_worker *running;
	void *sp; /* of sim.c's loop, while a worker runs */
	struct weir__stack thread_stack;
	struct weir__heap *thread_heap;
	bool use_ucontext;

	uint64_t seed;
	uint64_t state[2];
	struct weir__sim_plan plan;
	int64_t now_ns;
	uint64_t order;
	struct weir__sim_event *events; /* a heap by time and order */
	size_t events_count, events_room;

	struct weir__sim_op **records;
	uint32_t records_count, records_room;
	uint32_t *records_free;
	uint32_t records_free_count;
	uint64_t op_numbers;
	uint64_t started[WEIR__OP_CODES];

	struct weir__sim_socket **fds;
	size_t fds_room;
	struct weir__sim_socket *sockets;
	struct weir__sim_socket *disk;
	struct weir__sim_node *nodes; /* files and directories, newest first */
	uint32_t socket_numbers;
	uint16_t port_next;

	const struct weir_sim_opts *opts;
	FILE *out;
	bool is_traced;
	bool is_ending;		    /* everything was cancelled, for it had come to a stop */
	bool is_lost;		    /* tasks stand on its stacks for ever; the runtime stays */
	int error;		    /* of the run, whatever fn said */
	struct weir__msg cancel[2]; /* of everything: asked for, and because it came to a stop */
	struct weir_sim_result result;
};

/* Every decision goes into the run's hash, and to the report when it is traced. */
void weir__sim_trace(struct weir__sim *sim, const char *what, uint64_t a, uint64_t b, uint64_t c);

/* ---- Reports: sim_report.c ---------------------------------------------- */

void weir__sim_report_tasks(struct weir__sim *sim);
/* Returns how many descriptors, operations and objects were left. */
uint64_t weir__sim_report_left(struct weir__sim *sim);

#endif
