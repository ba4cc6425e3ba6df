/* SPDX-License-Identifier: MIT */
/*
 * listener.h: a listening socket, and what a server consists of: an acceptor on each worker
 * (serve.c) and lanes between them (serve_lanes.c).
 */
#ifndef WEIR_LISTENER_H
#define WEIR_LISTENER_H

#include "io/address.h"
#include "io/io_internal.h"

struct weir_listener {
	struct weir__handle handle;
	struct weir__io *io;
	struct weir__address address;
	int backlog;
	bool nagle;
	bool is_inherited;
	bool is_lent; /* its descriptor was asked for: another process may serve the address */
	char text[WEIR__ADDRESS_TEXT_MAX];
};

/*
 * With WEIR_BALANCE_HANDOFF or _HASH a worker's part of a server. `load` is what home chooses by. A
 * lane opens when its acceptor has started; from then on that acceptor stays until `over`, home's
 * last word, which comes behind every client that was handed to it.
 */
struct weir__lane {
	struct weir__worker *worker;
	struct weir__acceptor *acceptor; /* `worker` only */
	struct weir__msg over;
	bool is_over;	       /* `worker` only */
	_Atomic int state;     /* enum weir__lane_state */
	_Atomic unsigned load; /* clients on it or on their way: home adds, `worker` takes off */
};
enum weir__lane_state { WEIR__LANE_EMPTY, WEIR__LANE_OPEN, WEIR__LANE_CLOSED };

/* Home waits for a client to leave; one has, and `room` says so or soon will. */
enum weir__wants_room { WEIR__ROOM_UNWANTED, WEIR__ROOM_WANTED, WEIR__ROOM_POSTED };

/* What all acceptors of a weir_serve() share: read only, but for the lanes. */
struct weir__serve {
	struct weir_serve_opts opts;
	weir_listener *listener;
	struct weir__worker *home;
	/* with WEIR_BALANCE_HANDOFF or _HASH */
	struct weir__lane *lanes; /* one for each worker; NULL: each accepts for itself */
	unsigned count;
	unsigned last;			/* lane that got a client; home only */
	_Atomic unsigned entered;	/* lanes; before all have nobody is accepted */
	unsigned conns_max;		/* of each lane */
	_Atomic int wants_room;		/* enum weir__wants_room */
	struct weir__msg room;		/* one has: to home */
	struct weir__acceptor *accepts; /* home only; NULL: it is gone */
};

/* On the acceptor task's stack. Its worker only. */
struct weir__acceptor {
	struct weir__serve *serve;
	struct weir__lane *lane; /* of its worker; NULL: no lanes */
	struct weir__io *io;
	struct weir__handle own; /* this worker's listening socket, when it is not the listener's */
	struct weir__handle *handle;
	struct weir__op op;
	struct weir__task *task;
	struct weir__drain drain;
	struct weir_scope clients;
	int *accepted; /* descriptors not yet made clients: a growing array used as a queue */
	size_t accepted_first, accepted_count, accepted_cap;
	unsigned open; /* clients now */
	unsigned conns_max;
	int backlog;
	int error; /* that ended the accept operation */
	bool is_accepting;
	bool is_parked;
	bool is_full;  /* accepting has stopped at conns_max */
	bool is_short; /* it has stopped for want of memory */
	bool is_draining;
};

/* ---- serve.c ------------------------------------------------------------ */

/* If it is parked. */
void weir__acceptor_wake(struct weir__acceptor *acceptor);
/* The descriptor belongs to nobody yet: it is queued, or (-ENOMEM) closed. */
int weir__acceptor_queue(struct weir__acceptor *acceptor, int fd);
/* Clients a worker may have of the `asked`, 0 being no wish, with the descriptors that there are.
 */
unsigned weir__serve_conns_max(const struct weir__worker *self, unsigned asked);

/* ---- serve_lanes.c ------------------------------------------------------ */

WEIR_MUST int weir__lanes_new(struct weir__serve *serve);
/* False: home is gone already. */
WEIR_MUST bool weir__lane_enter(struct weir__acceptor *acceptor);
/* Clients that all lanes together may take; when it is none home is told of the next to leave. */
WEIR_MUST unsigned weir__lanes_room(struct weir__serve *serve);
/* The open lane with the fewest clients; of equals the one whose turn it is. Home's is open. */
WEIR_MUST struct weir__lane *weir__lane_choose(struct weir__serve *serve);
/* The one the client's host belongs to. NULL: it has no host, or that lane no room. */
WEIR_MUST struct weir__lane *weir__lane_of_host(struct weir__serve *serve, struct weir__io *io,
						int fd);
/* Takes the descriptor, unless there is no memory for the message. */
WEIR_MUST int weir__lane_give(struct weir__lane *lane, int fd);
/* A client of the lane's has left, or was turned away. */
void weir__lane_release(struct weir__acceptor *acceptor);
/* Home's worker: nothing more is handed to anybody. */
void weir__lanes_close(struct weir__serve *serve);
/* On every way out of an acceptor that has entered. */
void weir__lane_leave(struct weir__acceptor *acceptor);

#endif
