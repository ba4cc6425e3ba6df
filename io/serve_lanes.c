/* SPDX-License-Identifier: MIT */
/*
 * serve_lanes.c: handing clients to other workers, with WEIR_BALANCE_HANDOFF and _HASH.
 *
 * The caller's worker, home, accepts for all. Each worker has a lane: home adds to its load and
 * sends it descriptors in messages, the lane's own acceptor makes clients of them and takes off the
 * load who has left.
 *
 * The hard idea: no message is outlived by whom it is for. A lane's acceptor stays until home's
 * last word, which comes behind every client; and of room home is told by one message at a time,
 * which belongs to the server.
 */
#include "io/listener.h"

#include <errno.h>

#include "runtime/fatal.h"

/* On its way to a lane. */
struct handover {
	struct weir__msg msg;
	struct weir__lane *lane;
	int fd;
};

static void on_handover(struct weir__worker *self, struct weir__msg *msg)
{
	struct handover *handover = (void *)((char *)msg - offsetof(struct handover, msg));
	struct weir__acceptor *acceptor = handover->lane->acceptor;

	(void)self;
	if (weir__acceptor_queue(acceptor, handover->fd) < 0)
		weir__lane_release(acceptor);
	weir__acceptor_wake(acceptor);
	weir_free(handover);
}

static void on_over(struct weir__worker *self, struct weir__msg *msg)
{
	struct weir__lane *lane = (void *)((char *)msg - offsetof(struct weir__lane, over));

	(void)self;
	lane->is_over = true;
	weir__acceptor_wake(lane->acceptor);
}

static void on_room(struct weir__worker *self, struct weir__msg *msg)
{
	struct weir__serve *serve = (void *)((char *)msg - offsetof(struct weir__serve, room));

	(void)self;
	/* release, and in weir__lanes_room(): the message is free for the next that acquires it */
	atomic_store_explicit(&serve->wants_room, WEIR__ROOM_UNWANTED, memory_order_release);
	if (serve->accepts)
		weir__acceptor_wake(serve->accepts);
}

/* Home is to look, if its wish for that is in state `from`. */
static void tell_home(struct weir__serve *serve, const struct weir__worker *self, int from)
{
	if (!atomic_compare_exchange_strong_explicit(&serve->wants_room, &from, WEIR__ROOM_POSTED,
						     memory_order_acquire, memory_order_relaxed))
		return;
	/* at home there is no message: nothing would wait for it to be handled */
	if (self == serve->home)
		on_room(serve->home, &serve->room);
	else
		weir__worker_post(serve->home, &serve->room);
}

static unsigned load_of(const struct weir__lane *lane)
{
	return atomic_load_explicit(&lane->load, memory_order_relaxed);
}

void weir__lane_release(struct weir__acceptor *acceptor)
{
	struct weir__serve *serve = acceptor->serve;

	atomic_fetch_sub_explicit(&acceptor->lane->load, 1, memory_order_relaxed);
	/* pairs with the fence in weir__lanes_room(): the load is seen there, or wants_room here */
	atomic_thread_fence(memory_order_seq_cst);
	tell_home(serve, acceptor->io->worker, WEIR__ROOM_WANTED);
}

static unsigned lanes_sum(const struct weir__serve *serve)
{
	unsigned sum = 0;

	for (unsigned i = 0; i < serve->count; i++) {
		const struct weir__lane *lane = &serve->lanes[i];
		unsigned load = load_of(lane);
		if (atomic_load_explicit(&lane->state, memory_order_relaxed) == WEIR__LANE_OPEN)
			sum += load < serve->conns_max ? serve->conns_max - load : 0;
	}
	return sum;
}

unsigned weir__lanes_room(struct weir__serve *serve)
{
	unsigned sum = lanes_sum(serve);
	int unwanted = WEIR__ROOM_UNWANTED;

	if (sum > 0)
		return sum;
	(void)atomic_compare_exchange_strong_explicit(&serve->wants_room, &unwanted,
						      WEIR__ROOM_WANTED, memory_order_release,
						      memory_order_relaxed);
	atomic_thread_fence(memory_order_seq_cst);
	return lanes_sum(serve);
}

struct weir__lane *weir__lane_choose(struct weir__serve *serve)
{
	struct weir__lane *best = NULL;
	unsigned at = serve->last;

	for (unsigned n = 0; n < serve->count; n++) {
		at = at + 1 < serve->count ? at + 1 : 0;
		struct weir__lane *lane = &serve->lanes[at];
		/* acquire: pairs with the release in weir__lane_enter() */
		if (atomic_load_explicit(&lane->state, memory_order_acquire) == WEIR__LANE_OPEN &&
		    (!best || load_of(lane) < load_of(best))) {
			best = lane;
			serve->last = at;
		}
	}
	WEIR_ASSERT(best);
	return best;
}

struct weir__lane *weir__lane_of_host(struct weir__serve *serve, struct weir__io *io, int fd)
{
	struct weir__address peer;
	uint32_t host;

	if (io->sockets->peer(io, fd, &peer) < 0 || !weir__address_host(&peer, &host))
		return NULL;
	struct weir__lane *lane = &serve->lanes[host % serve->count];
	/* acquire: pairs with the release in weir__lane_enter() */
	int state = atomic_load_explicit(&lane->state, memory_order_acquire);
	return state == WEIR__LANE_OPEN && load_of(lane) < serve->conns_max ? lane : NULL;
}

int weir__lane_give(struct weir__lane *lane, int fd)
{
	struct handover *handover = weir_alloc(sizeof *handover);

	if (!handover)
		return -ENOMEM;
	*handover = (struct handover){ .msg.fn = on_handover, .lane = lane, .fd = fd };
	weir__worker_post(lane->worker, &handover->msg);
	return 0;
}

bool weir__lane_enter(struct weir__acceptor *acceptor)
{
	struct weir__serve *serve = acceptor->serve;
	struct weir__lane *lane = &serve->lanes[acceptor->io->worker->index];
	int empty = WEIR__LANE_EMPTY;

	acceptor->lane = lane;
	lane->acceptor = acceptor;
	if (!atomic_compare_exchange_strong_explicit(&lane->state, &empty, WEIR__LANE_OPEN,
						     memory_order_release, memory_order_relaxed))
		return false;
	if (lane->worker == serve->home)
		serve->accepts = acceptor;
	if (atomic_fetch_add_explicit(&serve->entered, 1, memory_order_relaxed) + 1 == serve->count)
		tell_home(serve, lane->worker, WEIR__ROOM_UNWANTED);
	return true;
}

void weir__lanes_close(struct weir__serve *serve)
{
	for (unsigned i = 0; i < serve->count; i++) {
		struct weir__lane *lane = &serve->lanes[i];
		/* acquire: pairs with the release in weir__lane_enter() */
		int state = atomic_exchange_explicit(&lane->state, WEIR__LANE_CLOSED,
						     memory_order_acquire);
		if (state == WEIR__LANE_OPEN && lane->worker != serve->home)
			weir__worker_post(lane->worker, &lane->over);
	}
}

void weir__lane_leave(struct weir__acceptor *acceptor)
{
	struct weir__worker *self = acceptor->io->worker;

	if (self == acceptor->serve->home) {
		acceptor->serve->accepts = NULL;
		weir__lanes_close(acceptor->serve);
		return;
	}
	while (!acceptor->lane->is_over) {
		acceptor->is_parked = true;
		weir__park_for(self, "hand-over");
	}
}

int weir__lanes_new(struct weir__serve *serve)
{
	const struct weir__runtime *runtime = serve->home->runtime;

	serve->count = runtime->workers_count;
	serve->conns_max = weir__serve_conns_max(serve->home, serve->opts.conns_max);
	serve->room.fn = on_room;
	serve->lanes = weir_zalloc(serve->count * sizeof *serve->lanes);
	if (!serve->lanes)
		return -ENOMEM;
	for (unsigned i = 0; i < serve->count; i++) {
		serve->lanes[i].worker = runtime->workers[i];
		serve->lanes[i].over.fn = on_over;
	}
	return 0;
}
