/* SPDX-License-Identifier: MIT */
/*
 * serve.c: weir_serve().
 *
 * It starts one acceptor task on every worker. Each has a listening socket of its own bound to the
 * same address (SO_REUSEPORT; Unix sockets are shared), keeps an accept armed, and spawns a task
 * per client in a scope of its own. Accepting stops, and the backlog fills, when conns_max is
 * reached or descriptors run out; it goes on when a client leaves. A multishot accept can overshoot
 * by a whole backlog, so it is used only while there is room for one. While memory is critically
 * short nobody new is let in: who was accepted before that was noticed waits too.
 */
#include "io/listener.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "alloc/opts.h"
#include "io/conn.h"
#include "runtime/extra.h"
#include "runtime/wait_kind.h"

enum {
	DESCRIPTORS_SPARE = 64,	  /* left to the process when conns_max goes by RLIMIT_NOFILE */
	RETRY_NS = 100 * 1000000, /* accepting again after the kernel ran out of something */
};

/* ---- The acceptor ------------------------------------------------------- */

void weir__acceptor_wake(struct weir__acceptor *acceptor)
{
	if (!acceptor->is_parked)
		return;
	acceptor->is_parked = false;
	weir__ready(acceptor->io->worker, acceptor->task, 0);
}

static void acceptor_abort(struct weir__task *task, int why)
{
	struct weir__acceptor *acceptor = task->wait;

	acceptor->is_parked = false;
	weir__ready(task->worker, task, why);
}

static void describe_acceptor(const struct weir__task *task, char *ret, size_t cap)
{
	const struct weir__acceptor *acceptor = task->wait;

	snprintf(ret, cap, "%u clients open", acceptor->open);
}
WEIR__WAIT_KIND(acceptor_abort, "accept", describe_acceptor);

static int acceptor_park(struct weir__acceptor *acceptor, int64_t until_ns)
{
	/* cancelled while it was ready: nobody interrupts it again */
	int err = weir__interrupted(acceptor->io->worker, acceptor->task);

	if (err < 0)
		return err;
	acceptor->is_parked = true;
	err = weir__park_until(acceptor->io->worker, acceptor_abort, acceptor, until_ns);
	acceptor->is_parked = false;
	return err;
}

static void accept_done(struct weir__op *op)
{
	struct weir__acceptor *acceptor = op->owner;

	if (op->res >= 0)
		(void)weir__acceptor_queue(acceptor, op->res);
	else if (op->res != -ECANCELED)
		acceptor->error = op->res;
	acceptor->is_accepting = op->more;
	weir__acceptor_wake(acceptor);
}

int weir__acceptor_queue(struct weir__acceptor *acceptor, int fd)
{
	struct weir__handle handle = { .fd = fd, .is_direct = acceptor->op.accepted_direct };
	size_t end = acceptor->accepted_first + acceptor->accepted_count;

	if (end == acceptor->accepted_cap) {
		size_t cap = acceptor->accepted_cap ? acceptor->accepted_cap * 2 : 64;
		int *grown = weir_realloc(acceptor->accepted, cap * sizeof *grown);
		if (!grown) {
			acceptor->io->ops->close(acceptor->io, &handle);
			return -ENOMEM;
		}
		acceptor->accepted = grown;
		acceptor->accepted_cap = cap;
	}
	acceptor->accepted[end] = fd;
	acceptor->accepted_count++;
	return 0;
}

unsigned weir__serve_conns_max(const struct weir__worker *self, unsigned asked)
{
	unsigned most = weir__descriptors_max();
	unsigned workers = self->runtime->workers_count;

	if (!asked)
		asked = self->runtime->config.conns_max;
	most = most > 2 * DESCRIPTORS_SPARE ? most - DESCRIPTORS_SPARE : most / 2;
	most = most > workers ? most / workers : 1;
	return asked && asked < most ? asked : most;
}

/* ---- Accepting ---------------------------------------------------------- */

/* Clients that may still come in. */
static unsigned room(const struct weir__acceptor *acceptor)
{
	size_t queued = acceptor->accepted_count;
	size_t taken = acceptor->open + queued;

	if (acceptor->lane) {
		size_t left = weir__lanes_room(acceptor->serve);
		return left > queued ? (unsigned)(left - queued) : 0;
	}
	return taken < acceptor->conns_max ? (unsigned)(acceptor->conns_max - taken) : 0;
}

static void start_accept(struct weir__acceptor *acceptor, bool multi)
{
	struct weir__op *op = &acceptor->op;

	op->code = WEIR__OP_ACCEPT;
	op->handle = acceptor->handle;
	op->done = accept_done;
	op->owner = acceptor;
	op->multi = multi;
	acceptor->is_accepting = true;
	if (acceptor->io->ops->start(acceptor->io, op))
		accept_done(op);
}

static void stop_accept(struct weir__acceptor *acceptor)
{
	if (acceptor->is_accepting && acceptor->op.state == WEIR__OP_QUEUED)
		acceptor->io->ops->cancel(acceptor->io, &acceptor->op);
}

/* ---- Clients ------------------------------------------------------------ */

/* A client's connection lies where its stack begins: a page that is touched anyway. */
static int client_main(void *fd)
{
	struct weir__scope *clients = weir__worker_self()->current->owner;
	struct weir__acceptor *acceptor =
		(void *)((char *)clients - offsetof(struct weir__acceptor, clients));
	weir_conn *conn =
		weir__conn_on_ledge(acceptor->io, (int)(intptr_t)fd, acceptor->op.accepted_direct);

	conn->user = acceptor->serve->opts.user;
	int result = acceptor->serve->opts.handler(conn);
	weir__extra_end(acceptor->io->worker); /* what was deferred may still speak to the client */
	weir_conn_close(conn);
	if (result < 0 && result != -ECANCELED)
		weir__count(&acceptor->io->serve.failed, 1);
	weir__count(&acceptor->io->serve.open, -1);
	acceptor->open--;
	if (acceptor->lane)
		weir__lane_release(acceptor);
	else
		weir__acceptor_wake(acceptor);
	return 0;
}

static int start_client(struct weir__acceptor *acceptor, int fd)
{
	const struct weir_serve_opts *opts = &acceptor->serve->opts;
	struct weir__worker *self = acceptor->io->worker;
	int err = weir__spawn(weir__scope_of(&acceptor->clients),
			      &(struct weir__spawn){
				      .fn = client_main,
				      .arg = (void *)(intptr_t)fd,
				      .name = opts->name ? opts->name : "client",
				      .site = opts->site ? opts->site : "weir_serve",
				      .stack_shift = weir__stack_shift(self->runtime, opts->stack),
				      .stack_now = true,
			      });

	if (err < 0)
		return err;
	acceptor->open++;
	weir__count(&acceptor->io->serve.open, 1);
	weir__count(&acceptor->io->serve.accepted, 1);
	return 0;
}

/* Here, where there are fewer, or where its host belongs. The load is home's to add, once for each
 * client. */
static int place_client(struct weir__acceptor *acceptor, int fd)
{
	struct weir__serve *serve = acceptor->serve;
	struct weir__lane *lane = acceptor->lane;
	int err;

	if (lane && lane->worker == serve->home) {
		lane = serve->opts.balance == WEIR_BALANCE_HASH
			       ? weir__lane_of_host(serve, acceptor->io, fd)
			       : NULL;
		lane = lane ? lane : weir__lane_choose(serve);
		atomic_fetch_add_explicit(&lane->load, 1, memory_order_relaxed);
	}
	if (lane && lane != acceptor->lane)
		err = weir__lane_give(lane, fd);
	else
		err = start_client(acceptor, fd);
	if (err < 0 && lane && lane == acceptor->lane)
		weir__lane_release(acceptor);
	else if (err < 0 && lane)
		atomic_fetch_sub_explicit(&lane->load, 1, memory_order_relaxed);
	return err;
}

/* One more may start. In a lane it may: home has counted it. */
static bool has_place(const struct weir__acceptor *acceptor)
{
	if (!acceptor->handle)
		return true;
	return acceptor->lane ? weir__lanes_room(acceptor->serve) > 0
			      : acceptor->open < acceptor->conns_max;
}

/*
 * Makes clients of what was accepted. A client there is no memory for is turned away; one beyond
 * conns_max, when more came at once than our backlog should hold, waits here, unless we drain.
 */
static void start_clients(struct weir__acceptor *acceptor)
{
	while (acceptor->accepted_count > 0 && (acceptor->is_draining || has_place(acceptor))) {
		int fd = acceptor->accepted[acceptor->accepted_first++];
		int err = place_client(acceptor, fd);

		acceptor->accepted_count--;
		if (err < 0) {
			struct weir__handle handle = { .fd = fd,
						       .is_direct = acceptor->op.accepted_direct };
			acceptor->io->ops->close(acceptor->io, &handle);
			acceptor->error = err;
		}
	}
	if (acceptor->accepted_count > 0)
		memmove(acceptor->accepted, acceptor->accepted + acceptor->accepted_first,
			acceptor->accepted_count * sizeof *acceptor->accepted);
	acceptor->accepted_first = 0;
}

/*
 * Errors of accept that pass: something ran out, the client was gone before we saw it, or its
 * network was: accept(2) has the list.
 */
static bool is_passing(int err)
{
	switch (err) {
	case -EMFILE:
	case -ENFILE:
	case -ENOBUFS:
	case -ENOMEM:
	case -ECONNABORTED:
	case -EPROTO:
	case -EINTR:
	case -EAGAIN:
	case -EPERM: /* a firewall rule */
	case -ENETDOWN:
	case -ENETUNREACH:
	case -EHOSTDOWN:
	case -EHOSTUNREACH:
	case -ENONET:
	case -ENOPROTOOPT:
		return true;
	default:
		return false;
	}
}

/*
 * Nobody tells when the level falls, and an idle process does not measure it: a look now and then
 * is both.
 */
static int wait_for_memory(struct weir__acceptor *acceptor)
{
	stop_accept(acceptor);
	weir__count(&acceptor->io->serve.accept_pauses, !acceptor->is_short);
	acceptor->is_short = true;
	return acceptor_park(acceptor, weir__clock_ns() + RETRY_NS);
}

/* One round: returns 0 to go on. */
static int accept_some(struct weir__acceptor *acceptor)
{
	int64_t until = INT64_MAX;

	if (acceptor->lane && atomic_load_explicit(&acceptor->serve->entered,
						   memory_order_relaxed) < acceptor->serve->count)
		return acceptor_park(acceptor, until);

	if (weir_mem_level_get() >= WEIR_MEM_CRITICAL)
		return wait_for_memory(acceptor);
	acceptor->is_short = false;
	start_clients(acceptor);
	if (acceptor->error < 0) {
		if (!is_passing(acceptor->error))
			return acceptor->error;
		acceptor->error = 0;
		weir__count(&acceptor->io->serve.accept_pauses, 1);
		until = weir__clock_ns() + RETRY_NS;
	} else if (room(acceptor) == 0) {
		stop_accept(acceptor);
		weir__count(&acceptor->io->serve.accept_pauses, !acceptor->is_full);
		acceptor->is_full = true;
	} else if (!acceptor->is_accepting) {
		start_accept(acceptor, room(acceptor) > (unsigned)acceptor->backlog);
	} else if (acceptor->op.multi && room(acceptor) <= (unsigned)acceptor->backlog) {
		stop_accept(acceptor);
	}
	if (acceptor->accepted_count > 0 && has_place(acceptor))
		return 0;
	if (room(acceptor) > 0)
		acceptor->is_full = false;
	return acceptor_park(acceptor, until);
}

/* The same where another worker accepts. What there is no memory for has been turned away. */
static int receive_some(struct weir__acceptor *acceptor)
{
	start_clients(acceptor);
	acceptor->error = 0;
	return acceptor_park(acceptor, INT64_MAX);
}

static void drain_begin(struct weir__drain *drain)
{
	struct weir__acceptor *acceptor =
		(void *)((char *)drain - offsetof(struct weir__acceptor, drain));

	acceptor->is_draining = true;
	weir__acceptor_wake(acceptor);
}

/* This worker's socket: the listener's own at home and for Unix sockets, else one more on the same
 * port. */
static int acceptor_open(struct weir__acceptor *acceptor)
{
	const struct weir__serve *serve = acceptor->serve;
	const weir_listener *listener = serve->listener;
	struct weir__io *io = acceptor->io;

	acceptor->backlog = listener->backlog;
	acceptor->own.fd = -1;
	if (io->worker == serve->home) {
		acceptor->handle = &serve->listener->handle;
		acceptor->op.wants_fd = serve->lanes != NULL;
		return 0;
	}
	if (serve->lanes)
		return 0;
	if (listener->is_inherited || listener->address.any.sa_family == AF_UNIX)
		acceptor->own.fd = io->sockets->share(io, listener->handle.fd);
	else
		acceptor->own.fd = io->sockets->listen_along(io, &listener->address,
							     listener->backlog, listener->nagle);
	if (acceptor->own.fd < 0)
		return acceptor->own.fd;
	acceptor->handle = &acceptor->own;
	return 0;
}

/* Nobody more comes in. */
static void end_accept(struct weir__acceptor *acceptor)
{
	stop_accept(acceptor);
	while (acceptor->is_accepting) {
		acceptor->is_parked = true;
		weir__park_for(acceptor->io->worker, "close");
	}
}

/*
 * Who was accepted before a drain is served: no other process that listens on the same socket would
 * see that client again. Of all who wait at a shared socket the kernel wakes one for a client; when
 * that was this acceptor, and it gave up before it looked, the client would wait there until
 * another came. So it looks once more.
 */
static void begin_drain(struct weir__acceptor *acceptor)
{
	const weir_listener *listener = acceptor->serve->listener;
	bool is_shared = listener->is_inherited || listener->is_lent ||
			 listener->address.any.sa_family == AF_UNIX;

	end_accept(acceptor);
	if (is_shared && acceptor->handle && room(acceptor) > 0) {
		start_accept(acceptor, false);
		end_accept(acceptor);
	}
	if (weir__interrupted(acceptor->io->worker, acceptor->task) == 0)
		start_clients(acceptor);
}

static void acceptor_close(struct weir__acceptor *acceptor)
{
	end_accept(acceptor);
	for (size_t i = 0; i < acceptor->accepted_count; i++) {
		struct weir__handle handle = {
			.fd = acceptor->accepted[acceptor->accepted_first + i],
			.is_direct = acceptor->op.accepted_direct,
		};
		acceptor->io->ops->close(acceptor->io, &handle);
	}
	if (acceptor->own.fd >= 0)
		weir__handle_close(acceptor->io, &acceptor->own);
	weir_free(acceptor->accepted);
}

static int acceptor_main(void *arg)
{
	struct weir__worker *self = weir__worker_self();
	struct weir__serve *serve = arg;
	struct weir__acceptor acceptor = { .serve = serve, .io = weir__io_of(self) };
	int err = acceptor_open(&acceptor);

	if (err < 0)
		return err;
	acceptor.task = self->current;
	if (serve->lanes && !weir__lane_enter(&acceptor))
		return 0;
	acceptor.conns_max = weir__serve_conns_max(self, serve->opts.conns_max);
	acceptor.drain.begin = drain_begin;
	weir_scope_open(&acceptor.clients, WEIR_FOREVER);
	weir__drain_add(self, &acceptor.drain);
	acceptor.is_draining = atomic_load_explicit(&self->runtime->draining, memory_order_relaxed);
	while (err == 0 && !acceptor.is_draining)
		err = acceptor.handle ? accept_some(&acceptor) : receive_some(&acceptor);
	if (acceptor.is_draining && acceptor.handle)
		begin_drain(&acceptor);
	if (acceptor.lane)
		weir__lane_leave(&acceptor);
	if (acceptor.is_draining && !acceptor.handle)
		begin_drain(&acceptor);
	acceptor_close(&acceptor);
	if (acceptor.is_draining)
		err = weir_scope_wait(&acceptor.clients);
	weir_scope_close(&acceptor.clients);
	weir__drain_del(self, &acceptor.drain);
	return err;
}

/* The acceptor at home has its stack at once: the others wait for its last word. */
static int serve_all(struct weir__serve *serve)
{
	struct weir__worker *self = serve->home;
	WEIR_SCOPE(acceptors, WEIR_FOREVER);
	int err = 0;

	for (unsigned i = 0; i < self->runtime->workers_count && err == 0; i++) {
		struct weir__worker *worker = self->runtime->workers[i];
		if (serve->opts.balance == WEIR_BALANCE_FIXED && worker != self)
			continue;
		err = weir__spawn(
			weir__scope_of(&acceptors),
			&(struct weir__spawn){
				.fn = acceptor_main,
				.arg = serve,
				.name = "acceptor",
				.site = "weir_serve",
				.worker = worker,
				.stack_shift = weir__stack_shift(self->runtime, WEIR_STACK_DEFAULT),
				.stack_now = worker == self,
			});
	}
	if (err == 0)
		return weir_scope_wait(&acceptors);
	if (!serve->accepts)
		weir__lanes_close(serve);
	return err;
}

int weir_serve_with(const struct weir_serve_opts *opts)
{
	struct weir__worker *self = weir__worker_self();
	struct weir__serve serve = { .home = self };

	if (!self || !self->current)
		return -EINVAL;
	int err = weir__opts_copy(&serve.opts, sizeof serve.opts, opts, opts->size);
	if (err < 0)
		return err;
	if (!serve.opts.listener || !serve.opts.handler || serve.opts.stack > WEIR_STACK_1M ||
	    serve.opts.balance > WEIR_BALANCE_HASH)
		return -EINVAL;
	serve.listener = serve.opts.listener;
	if (serve.listener->io->worker != self)
		return -EXDEV;
	if (serve.opts.balance == WEIR_BALANCE_HANDOFF || serve.opts.balance == WEIR_BALANCE_HASH)
		err = weir__lanes_new(&serve);
	if (err == 0)
		err = serve_all(&serve);
	weir_free(serve.lanes);
	return err == 0 ? -ECANCELED : err;
}

void weir_serve_stats_get(struct weir_serve_stats *ret)
{
	struct weir__worker *self = weir__worker_self();

	*ret = (struct weir_serve_stats){ 0 };
	for (unsigned i = 0; self && i < self->runtime->workers_count; i++) {
		const struct weir__io *io = weir__io_of_any(self->runtime->workers[i]);
		if (!io)
			continue;
		const struct weir__serve_counts *counts = &io->serve;
		ret->accepted += __atomic_load_n(&counts->accepted, __ATOMIC_RELAXED);
		ret->open += __atomic_load_n(&counts->open, __ATOMIC_RELAXED);
		ret->failed += __atomic_load_n(&counts->failed, __ATOMIC_RELAXED);
		ret->accept_pauses += __atomic_load_n(&counts->accept_pauses, __ATOMIC_RELAXED);
	}
}
