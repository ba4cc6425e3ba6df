/* SPDX-License-Identifier: MIT */
/*
 * watch.c: a thread per runtime that looks at the workers from outside.
 *
 * A list of tasks touches every worker's memory, so they are made to stand still: each finds an
 * order in its inbox, at its turn, and waits in weir__watcher_stand_still(). One that has not come
 * within 100 ms runs a task that does not let go: its thread is asked by a signal what it does, and
 * held in the handler. A worker whose task asks for the list waits for the watcher and
 * stands still meanwhile: so two of them cannot wait for each other.
 */
#include "runtime/watch.h"

#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/capture.h"
#include "runtime/count.h"
#include "runtime/dump.h"
#include "runtime/stall.h"

static const int64_t COME_NS = 100 * WEIR_MS;

/* A task's call of weir_tasks_write(); lies on its stack. */
struct request {
	struct request *next;
	FILE *out;
	bool is_done;
	int result;
};

struct weir__watch {
	struct weir__runtime *runtime;
	pthread_t thread;
	bool is_stopped;    /* worker 0's, who sets it under the lock */
	int64_t abandon_ns; /* the thread's; INT64_MAX: never */
	sem_t news;
	_Atomic unsigned orders; /* enum weir__watch_order; set by anybody, taken by the thread */
	pthread_mutex_t lock;	 /* of all below */
	pthread_cond_t came;
	pthread_cond_t go_on;
	struct request *requests;
	bool is_looking;
	struct weir__view
		*views; /* of each worker; is_here under the lock, the rest the thread's */
	struct weir__capture *captures;
	struct weir__stalls *stalls;
};

/* ---- Standing still ----------------------------------------------------- */

void weir__watcher_stand_still(struct weir__worker *self)
{
	struct weir__watch *watch = self->runtime->watch;

	pthread_mutex_lock(&watch->lock);
	if (watch->is_looking) {
		watch->views[self->index].is_here = true;
		pthread_cond_signal(&watch->came);
		while (watch->is_looking)
			pthread_cond_wait(&watch->go_on, &watch->lock);
		watch->views[self->index].is_here = false;
	}
	pthread_mutex_unlock(&watch->lock);
}

static bool all_here(const struct weir__watch *watch)
{
	for (unsigned i = 0; i < watch->runtime->workers_count; i++)
		if (!watch->views[i].is_here)
			return false;
	return true;
}

/* Has the workers stand still, those that can; `views` says which. */
static void ask_all(struct weir__watch *watch, struct weir__view *views)
{
	unsigned count = watch->runtime->workers_count;
	int64_t end = weir__clock_ns() + COME_NS;
	const struct timespec until = { .tv_sec = end / WEIR_SEC, .tv_nsec = end % WEIR_SEC };

	pthread_mutex_lock(&watch->lock);
	watch->is_looking = true;
	for (unsigned i = 0; i < count; i++)
		if (!watch->views[i].is_here)
			weir__worker_order(watch->runtime->workers[i], WEIR__ORDER_STAND_STILL);
	while (!all_here(watch) && pthread_cond_timedwait(&watch->came, &watch->lock, &until) == 0)
		;
	(void)WEIR_COUNT(!all_here(watch), "a worker did not stand still within 100 ms");
	memcpy(views, watch->views, count * sizeof *views);
	pthread_mutex_unlock(&watch->lock);
}

/* One that did not come is held where it is; some tries, because that may be amid a switch. */
static void hold(struct weir__watch *watch, unsigned i, struct weir__view *view)
{
	enum { TRIES = 8 };
	struct weir__capture *capture = &watch->captures[i];

	for (unsigned n = 0; n < TRIES && !view->is_here; n++) {
		if (!weir__capture_take(watch->runtime->workers[i], capture, true))
			return;
		view->capture = capture;
		view->is_here = capture->is_orderly;
		if (!view->is_here)
			weir__capture_release(capture);
	}
}

static void halt(struct weir__watch *watch, struct weir__view *views)
{
	ask_all(watch, views);
	for (unsigned i = 0; i < watch->runtime->workers_count; i++)
		if (!views[i].is_here)
			hold(watch, i, &views[i]);
}

static void resume(struct weir__watch *watch, const struct weir__view *views)
{
	for (unsigned i = 0; i < watch->runtime->workers_count; i++)
		if (views[i].capture && views[i].is_here)
			weir__capture_release(&watch->captures[i]);
	pthread_mutex_lock(&watch->lock);
	watch->is_looking = false;
	pthread_cond_broadcast(&watch->go_on);
	pthread_mutex_unlock(&watch->lock);
}

static int write_tasks(struct weir__watch *watch, FILE *out)
{
	struct weir__view *views = calloc(watch->runtime->workers_count, sizeof *views);
	struct weir__dump *dump = weir__dump_new(watch->runtime);
	int err = -ENOMEM;

	if (views && dump) {
		halt(watch, views);
		err = weir__dump_take(dump, views);
		resume(watch, views);
		weir__stalls_forget(watch->stalls);
		if (err == 0)
			err = weir__dump_write(dump, views, out);
		if (err == 0)
			err = weir__census_write(watch->runtime, out);
	}
	weir__dump_free(dump);
	free(views);
	return err;
}

/* ---- The thread --------------------------------------------------------- */

static struct request *take_request(struct weir__watch *watch)
{
	pthread_mutex_lock(&watch->lock);
	struct request *request = watch->requests;
	if (request)
		watch->requests = request->next;
	pthread_mutex_unlock(&watch->lock);
	return request;
}

static void serve_requests(struct weir__watch *watch)
{
	struct request *request;

	while ((request = take_request(watch)) != NULL) {
		int result = write_tasks(watch, request->out);

		pthread_mutex_lock(&watch->lock);
		request->result = result;
		request->is_done = true;
		pthread_cond_broadcast(&watch->go_on);
		pthread_mutex_unlock(&watch->lock);
	}
}

static void dump_to_stderr(struct weir__watch *watch, const char *heading)
{
	FILE *out = weir__stderr_open();

	if (!out)
		return;
	fputs(heading, out);
	(void)write_tasks(watch, out);
	(void)fclose(out);
}

/* Until somebody asks for something; false: the tick is over. */
static bool await_news(struct weir__watch *watch, int64_t tick_ns)
{
	int64_t end = weir__clock_ns() + tick_ns;
	const struct timespec until = { .tv_sec = end / WEIR_SEC, .tv_nsec = end % WEIR_SEC };
	int err;

	do {
		err = sem_clockwait(&watch->news, CLOCK_MONOTONIC, &until) < 0 ? errno : 0;
	} while (err == EINTR);
	return err == 0;
}

static bool any_awake(const struct weir__runtime *runtime)
{
	for (unsigned i = 0; i < runtime->workers_count; i++)
		if (atomic_load_explicit(&runtime->workers[i]->park_state, memory_order_relaxed) ==
		    WEIR__AWAKE)
			return true;
	return false;
}

/* Until somebody asks for something or, after all have slept, a worker wakes up. */
static void sleep_for_good(struct weir__watch *watch)
{
	struct weir__runtime *runtime = watch->runtime;

	atomic_store_explicit(&runtime->is_unwatched, true, memory_order_relaxed);
	/*
	 * Pairs with the one in weir__worker_post() of who is no worker, and with nothing in a
	 * worker that wakes up just now and may not see it. Then its first stay is not looked at,
	 * and the next wake-up is noticed.
	 */
	atomic_thread_fence(memory_order_seq_cst);
	if (!any_awake(runtime))
		(void)sem_wait(&watch->news);
	atomic_store_explicit(&runtime->is_unwatched, false, memory_order_relaxed);
}

void weir__watcher_rouse(struct weir__runtime *runtime)
{
	if (atomic_exchange_explicit(&runtime->is_unwatched, false, memory_order_relaxed))
		(void)sem_post(&runtime->watch->news);
}

/* The time all tasks were given to end is over: worker 0 leaves its loop, if it still can. */
static void abandon(struct weir__watch *watch)
{
	watch->abandon_ns = INT64_MAX;
	dump_to_stderr(watch, "weir: told to stop twice, and these do not end:\n");
	weir__worker_order(watch->runtime->workers[0], WEIR__ORDER_ABANDON);
}

/* One round: waits, then looks or does what was asked. */
static void wait_for_work(struct weir__watch *watch, unsigned *idle)
{
	enum { IDLE_TICKS = 4 }; /* so that a worker that naps does not have to call us each time */
	int64_t tick = weir__stalls_tick_ns(watch->runtime);
	int64_t left = watch->abandon_ns - weir__clock_ns();

	if (watch->abandon_ns != INT64_MAX) {
		if (!await_news(watch, left > 0 ? left : 0))
			abandon(watch);
	} else if (tick == INT64_MAX) {
		(void)sem_wait(&watch->news);
	} else if (*idle >= IDLE_TICKS) {
		sleep_for_good(watch);
		*idle = 0;
	} else if (!await_news(watch, tick)) {
		*idle = weir__stalls_look(watch->stalls) ? 0 : *idle + 1;
	}
}

static void *watch_main(void *arg)
{
	struct weir__watch *watch = arg;
	unsigned orders = 0, idle = 0;

	(void)pthread_setname_np(pthread_self(), "weir/watch");
	while (!(orders & WEIR__WATCH_QUIT)) {
		wait_for_work(watch, &idle);
		orders = atomic_exchange_explicit(&watch->orders, 0, memory_order_acquire);
		serve_requests(watch);
		if (orders & WEIR__WATCH_DUMP)
			dump_to_stderr(watch, "");
		if (orders & WEIR__WATCH_LAST_CALL)
			watch->abandon_ns = weir__clock_ns() +
					    (int64_t)watch->runtime->config.stop_ms * WEIR_MS;
	}
	return NULL;
}

void weir__watcher_order(struct weir__runtime *runtime, unsigned order)
{
	struct weir__watch *watch = runtime->watch;

	if (!watch)
		return;
	atomic_fetch_or_explicit(&watch->orders, order, memory_order_release);
	(void)sem_post(&watch->news);
}

/* ---- Asking ------------------------------------------------------------- */

/* The worker's thread waits, and stands still until it is served. */
static int ask(struct weir__worker *self, FILE *out)
{
	struct weir__watch *watch = self->runtime->watch;
	struct weir__view *view = &watch->views[self->index];
	struct request request = { .out = out };

	pthread_mutex_lock(&watch->lock);
	if (watch->is_stopped) { /* a hook's, or a posted function's, after the last task */
		pthread_mutex_unlock(&watch->lock);
		return -ESHUTDOWN;
	}
	struct request **link = &watch->requests;
	while (*link)
		link = &(*link)->next;
	*link = &request;
	weir__view_caller(view, self);
	view->is_here = true;
	pthread_cond_signal(&watch->came);
	(void)sem_post(&watch->news);
	while (!request.is_done)
		pthread_cond_wait(&watch->go_on, &watch->lock);
	while (watch->is_looking) /* for another */
		pthread_cond_wait(&watch->go_on, &watch->lock);
	view->is_here = false;
	view->frames = 0;
	pthread_mutex_unlock(&watch->lock);
	return request.result;
}

/* All workers of a runtime without a watcher are this thread's. */
static int write_own(struct weir__worker *self, FILE *out)
{
	struct weir__view *views = calloc(self->runtime->workers_count, sizeof *views);
	struct weir__dump *dump = weir__dump_new(self->runtime);
	int err = -ENOMEM;

	if (views && dump) {
		for (unsigned i = 0; i < self->runtime->workers_count; i++)
			views[i].is_here = true;
		weir__view_caller(&views[self->index], self);
		err = weir__dump_take(dump, views);
		if (err == 0)
			err = weir__dump_write(dump, views, out);
		if (err == 0)
			err = weir__census_write(self->runtime, out);
	}
	weir__dump_free(dump);
	free(views);
	return err;
}

int weir_tasks_write(FILE *out)
{
	struct weir__worker *self = weir__worker_self();

	if (!self)
		return -EINVAL;
	return self->runtime->watch ? ask(self, out) : write_own(self, out);
}

/* ---- Life --------------------------------------------------------------- */

static void watch_free(struct weir__watch *watch)
{
	unsigned count = watch->runtime->workers_count;

	for (unsigned i = 0; watch->captures && i < count; i++)
		weir__capture_done(&watch->captures[i]);
	(void)sem_destroy(&watch->news);
	pthread_cond_destroy(&watch->go_on);
	pthread_cond_destroy(&watch->came);
	pthread_mutex_destroy(&watch->lock);
	weir__stalls_free(watch->stalls);
	free(watch->captures);
	free(watch->views);
	free(watch);
}

static struct weir__watch *watch_new(struct weir__runtime *runtime)
{
	unsigned count = runtime->workers_count;
	struct weir__watch *watch = calloc(1, sizeof *watch);
	pthread_condattr_t attr;

	if (!watch)
		return NULL;
	watch->runtime = runtime;
	watch->abandon_ns = INT64_MAX;
	(void)sem_init(&watch->news, 0, 0);
	pthread_mutex_init(&watch->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&watch->came, &attr);
	pthread_cond_init(&watch->go_on, &attr);
	pthread_condattr_destroy(&attr);
	watch->views = calloc(count, sizeof *watch->views);
	watch->captures = calloc(count, sizeof *watch->captures);
	for (unsigned i = 0; watch->captures && i < count; i++)
		weir__capture_init(&watch->captures[i]);
	if (watch->captures)
		watch->stalls = weir__stalls_new(runtime, watch->captures);
	if (watch->views && watch->captures && watch->stalls)
		return watch;
	watch_free(watch);
	return NULL;
}

int weir__watcher_start(struct weir__runtime *runtime)
{
	struct weir__watch *watch = watch_new(runtime);
	sigset_t others, old;

	if (!watch)
		return -ENOMEM;
	weir__capture_init_process();
	weir__fatal_mask(&others);
	pthread_sigmask(SIG_SETMASK, &others, &old);
	int err = -pthread_create(&watch->thread, NULL, watch_main, watch);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (err < 0) {
		watch_free(watch);
		return err;
	}
	for (unsigned i = 0; i < runtime->workers_count; i++)
		/* pairs with on_signal(): a worker that has yet to start may be asked already */
		__atomic_store_n(&runtime->workers[i]->capture, &watch->captures[i],
				 __ATOMIC_RELEASE);
	runtime->watch = watch;
	return 0;
}

void weir__watcher_stop(struct weir__runtime *runtime)
{
	struct weir__watch *watch = runtime->watch;

	if (watch->is_stopped)
		return;
	pthread_mutex_lock(&watch->lock);
	watch->is_stopped = true; /* who has asked before is served by the thread's last round */
	watch->views[0].is_here = true; /* it may be waited for just now */
	pthread_cond_signal(&watch->came);
	pthread_mutex_unlock(&watch->lock);
	weir__watcher_order(runtime, WEIR__WATCH_QUIT);
	pthread_join(watch->thread, NULL);
}

void weir__watcher_free(struct weir__runtime *runtime)
{
	if (!runtime->watch)
		return;
	weir__watcher_stop(runtime);
	watch_free(runtime->watch);
	runtime->watch = NULL;
}
