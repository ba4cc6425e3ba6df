/* SPDX-License-Identifier: MIT */
/*
 * bench_suite.c: Tokio's own benchmarks on weir, one for one.
 *
 *   bench_suite [--rounds N] [--csv] [FILTER]      WEIR_WORKERS (1): how many workers
 *
 * The names are those of Tokio's benches (bench/README.md has the table); rivals/tokio's
 * tokio_suite is the same program for Tokio. The channels are in bench_mpsc.c. The
 * spawn_many_remote rows need a second worker and are left out without.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

#include <weir/weir.h>

#include "tasks.h"

enum {
	SPAWNS = 10000,
	BUSY_TASKS = 4,
	STALL_NS = 10000,
	PINGS = 1000,
	TIGHT = 100,
	REQUESTS = 1000,
	NOTIFIED = 500,
	SHOWS = 100,
	ACQUIRES = 6,
	TURNS = 10000,
	BLOCKING = 2000,
	TIMEOUTS = 10000,
	BLOCKS = 1000,
	BLOCK_BYTES = 4096,
	BATCH = 16,
	LISTENERS = 10,
	SIGNALS = 200,
};

/* ---- rt_multi_threaded, rt_current_thread -------------------------------------------------- */

static int count_down(void *arg)
{
	_Atomic unsigned *left = arg;
	atomic_fetch_sub_explicit(left, 1, memory_order_relaxed);
	return 0;
}

static uint64_t spawn_many_on(unsigned worker)
{
	_Atomic unsigned left = SPAWNS;
	WEIR_SCOPE(scope, WEIR_FOREVER);
	for (unsigned i = 0; i < SPAWNS; i++) {
		if (weir_spawn(&scope, count_down, &left, .worker = worker) < 0)
			return 0;
	}
	return weir_scope_wait(&scope) < 0 || left ? 0 : SPAWNS;
}

static uint64_t spawn_many_local(void *arg)
{
	(void)arg;
	return spawn_many_on(0);
}

static uint64_t spawn_many_remote_idle(void *arg)
{
	(void)arg;
	return spawn_many_on(WEIR_ON_WORKER(1));
}

static int stall(void *arg)
{
	const _Atomic bool *stop = arg;
	while (!atomic_load_explicit(stop, memory_order_relaxed)) {
		for (int64_t end = weir_now() + STALL_NS; weir_now() < end;)
			;
		int err = weir_yield();
		if (err < 0)
			return err;
	}
	return 0;
}

/* The other worker has tasks that spin for 10 us and yield. */
static uint64_t spawn_many_remote_busy(void *arg)
{
	_Atomic bool stop = false;
	(void)arg;
	WEIR_SCOPE(scope, WEIR_FOREVER);
	for (unsigned i = 0; i < BUSY_TASKS; i++) {
		if (weir_spawn(&scope, stall, &stop, .worker = WEIR_ON_WORKER(1)) < 0)
			return 0;
	}
	uint64_t done = spawn_many_on(WEIR_ON_WORKER(1));
	stop = true;
	return weir_scope_wait(&scope) < 0 ? 0 : done;
}

struct rally {
	struct weir_oneshot ping;
	struct weir_oneshot pong;
};

static int answer_ping(void *arg)
{
	struct rally *rally = arg;
	void *value;
	int err = weir_oneshot_recv(&rally->ping, &value);
	return err < 0 ? err : weir_oneshot_send(&rally->pong, value);
}

/* A task that has a child, asks it once and waits for the answer. */
static int play(void *arg)
{
	struct rally rally;
	void *value;
	(void)arg;
	weir_oneshot_init(&rally.ping);
	weir_oneshot_init(&rally.pong);
	WEIR_SCOPE(scope, WEIR_FOREVER);
	int err = weir_spawn(&scope, answer_ping, &rally);
	if (err == 0)
		err = weir_oneshot_send(&rally.ping, NULL);
	if (err == 0)
		err = weir_oneshot_recv(&rally.pong, &value);
	if (err == 0)
		err = weir_scope_wait(&scope);
	return err;
}

static uint64_t ping_pong(void *arg)
{
	(void)arg;
	WEIR_SCOPE(scope, WEIR_FOREVER);
	for (unsigned i = 0; i < PINGS; i++) {
		if (weir_spawn(&scope, play, NULL) < 0)
			return 0;
	}
	return weir_scope_wait(&scope) < 0 ? 0 : PINGS;
}

/* ---- sync_mpsc_oneshot (sync_mpsc is bench_mpsc.c) ------------------------------------------- */

/* A request is a oneshot in which the answer is wanted. */
static int answer_requests(void *arg)
{
	weir_chan *chan = arg;
	struct weir_oneshot *request;
	int err;
	while ((err = weir_chan_recv(chan, &request)) == 0) {
		err = weir_oneshot_send(request, NULL);
		if (err < 0)
			return err;
	}
	return err == -EPIPE ? 0 : err;
}

static uint64_t request_reply(void *arg)
{
	(void)arg;
	weir_auto_chan chan = weir_chan_new(sizeof(void *), TIGHT);
	if (!chan)
		return 0;
	WEIR_SCOPE(scope, WEIR_FOREVER);
	if (weir_spawn(&scope, answer_requests, chan) < 0)
		return 0;
	for (unsigned i = 0; i < REQUESTS; i++) {
		struct weir_oneshot answer, *request = &answer;
		void *value;
		weir_oneshot_init(&answer);
		if (weir_chan_send(chan, &request) < 0 || weir_oneshot_recv(&answer, &value) < 0)
			return 0;
		weir_oneshot_done(&answer);
	}
	weir_chan_close(chan);
	return weir_scope_wait(&scope) < 0 ? 0 : REQUESTS;
}

/* ---- sync_notify --------------------------------------------------------------------------- */

struct crowd {
	struct weir_notify notify;
	_Atomic unsigned awake;
};

static int wait_for_notice(void *arg)
{
	struct crowd *crowd = arg;
	for (;;) {
		int err = weir_notify_wait(&crowd->notify);
		if (err < 0)
			return err == -EPIPE ? 0 : err;
		atomic_fetch_add_explicit(&crowd->awake, 1, memory_order_relaxed);
	}
}

/* So many tasks wait; each notice is counted until NOTIFIED are. */
static uint64_t notify_tasks(unsigned tasks, void (*notify)(struct weir_notify *))
{
	struct crowd crowd = { .awake = 0 };
	weir_notify_init(&crowd.notify);
	WEIR_SCOPE(scope, WEIR_FOREVER);
	for (unsigned i = 0; i < tasks; i++) {
		if (weir_spawn(&scope, wait_for_notice, &crowd) < 0)
			return 0;
	}
	while (crowd.awake < NOTIFIED) {
		notify(&crowd.notify);
		if (weir_yield() < 0)
			return 0;
	}
	unsigned awake = crowd.awake;
	weir_notify_done(&crowd.notify);
	return weir_scope_wait(&scope) < 0 ? 0 : awake;
}

static uint64_t notify_one(void *arg)
{
	return notify_tasks(*(const unsigned *)arg, weir_notify_one);
}

static uint64_t notify_waiters(void *arg)
{
	return notify_tasks(*(const unsigned *)arg, weir_notify_all);
}

/* ---- sync_broadcast, sync_watch ------------------------------------------------------------- */

/* One sender, so many readers; all read each item before the next is sent. */
struct audience {
	weir_broadcast *broadcast;
	weir_watch *watch;
	struct weir_event all_read;
	unsigned readers;
	_Atomic unsigned left; /* readers of this item that have not read it */
};

static void item_read(struct audience *audience)
{
	if (atomic_fetch_sub_explicit(&audience->left, 1, memory_order_acq_rel) == 1)
		weir_event_set(&audience->all_read);
}

static int read_broadcast(void *arg)
{
	struct audience *audience = arg;
	struct weir_reader reader;
	uint64_t item;
	weir_reader_init(&reader, audience->broadcast);
	item_read(audience);
	int err;
	while ((err = weir_reader_recv(&reader, &item)) == 0)
		item_read(audience);
	return err == -EPIPE ? 0 : err;
}

static int read_watch(void *arg)
{
	struct audience *audience = arg;
	uint64_t item, version = weir_watch_get(audience->watch, &item);
	item_read(audience);
	int err;
	while ((err = weir_watch_wait(audience->watch, &version, &item)) == 0)
		item_read(audience);
	return err == -EPIPE ? 0 : err;
}

static void show(struct audience *audience, uint64_t item)
{
	audience->left = audience->readers;
	weir_event_reset(&audience->all_read);
	if (audience->watch)
		weir_watch_set(audience->watch, &item);
	else if (weir_broadcast_send(audience->broadcast, &item) < 0)
		weir_event_set(&audience->all_read);
}

/* An operation is one item at one reader. */
static uint64_t perform(struct audience *audience, weir_fn reader)
{
	WEIR_SCOPE(scope, WEIR_FOREVER);
	weir_event_init(&audience->all_read);
	audience->left = audience->readers;
	for (unsigned i = 0; i < audience->readers; i++) {
		if (weir_spawn(&scope, reader, audience) < 0)
			return 0;
	}
	for (uint64_t i = 0; i <= SHOWS; i++) {
		if (weir_event_wait(&audience->all_read) < 0)
			return 0;
		if (i < SHOWS)
			show(audience, i);
	}
	if (audience->watch)
		weir_watch_close(audience->watch);
	else
		weir_broadcast_close(audience->broadcast);
	return weir_scope_wait(&scope) < 0 ? 0 : (uint64_t)SHOWS * audience->readers;
}

static uint64_t broadcast(void *arg)
{
	struct audience audience = { .readers = *(const unsigned *)arg };
	audience.broadcast = weir_broadcast_new(sizeof(uint64_t), TIGHT);
	if (!audience.broadcast)
		return 0;
	uint64_t done = perform(&audience, read_broadcast);
	weir_broadcast_free(audience.broadcast);
	return done;
}

static uint64_t watch(void *arg)
{
	struct audience audience = { .readers = *(const unsigned *)arg };
	uint64_t first = 0;
	audience.watch = weir_watch_new(sizeof(first), &first);
	uint64_t done = perform(&audience, read_watch);
	weir_watch_free(audience.watch);
	return done;
}

/* ---- sync_semaphore, sync_rwlock, mutex ---------------------------------------------------- */

static uint64_t semaphore_uncontended(void *arg)
{
	struct weir_sem sem;
	(void)arg;
	weir_sem_init(&sem, 10);
	for (unsigned i = 0; i < TURNS; i++) {
		if (weir_sem_wait(&sem) < 0 || weir_sem_post(&sem) < 0)
			return 0;
	}
	weir_sem_done(&sem);
	return TURNS;
}

static int acquire_and_yield(void *arg)
{
	struct weir_sem *sem = arg;
	int err = weir_sem_wait(sem);
	if (err < 0)
		return err;
	err = weir_yield();
	weir_sem_post(sem);
	return err;
}

/* Six tasks; units enough for all or for five. */
static uint64_t semaphore_concurrent(void *arg)
{
	struct weir_sem sem;
	weir_sem_init(&sem, *(const unsigned *)arg);
	for (unsigned round = 0; round < TURNS / 10; round++) {
		WEIR_SCOPE(scope, WEIR_FOREVER);
		for (unsigned i = 0; i < ACQUIRES; i++) {
			if (weir_spawn(&scope, acquire_and_yield, &sem) < 0)
				return 0;
		}
		if (weir_scope_wait(&scope) < 0)
			return 0;
	}
	weir_sem_done(&sem);
	return TURNS / 10 * ACQUIRES;
}

static uint64_t rwlock_read(void *arg)
{
	struct weir_rwlock lock;
	(void)arg;
	weir_rwlock_init(&lock);
	for (unsigned i = 0; i < TURNS; i++) {
		if (weir_rwlock_read(&lock) < 0)
			return 0;
		weir_rwlock_unlock(&lock);
	}
	weir_rwlock_done(&lock);
	return TURNS;
}

static int read_once(void *arg)
{
	struct weir_rwlock *lock = arg;
	int err = weir_rwlock_read(lock);
	if (err < 0)
		return err;
	err = weir_yield();
	weir_rwlock_unlock(lock);
	return err;
}

static bool six_readers(struct weir_rwlock *lock, bool while_written)
{
	WEIR_SCOPE(scope, WEIR_FOREVER);
	if (while_written && weir_rwlock_write(lock) < 0)
		return false;
	for (unsigned i = 0; i < ACQUIRES; i++) {
		if (weir_spawn(&scope, read_once, lock) < 0)
			return false;
	}
	int err = while_written ? weir_yield() : 0;
	if (while_written)
		weir_rwlock_unlock(lock);
	return err == 0 && weir_scope_wait(&scope) == 0;
}

/* Six readers, alone or while a writer holds the lock and lets go. */
static uint64_t rwlock_concurrent(void *arg)
{
	struct weir_rwlock lock;
	weir_rwlock_init(&lock);
	for (unsigned round = 0; round < TURNS / 10; round++) {
		if (!six_readers(&lock, *(const bool *)arg))
			return 0;
	}
	weir_rwlock_done(&lock);
	return TURNS / 10 * ACQUIRES;
}

static uint64_t mutex_uncontended(void *arg)
{
	static struct weir_mutex mutex; /* where the compiler cannot see that nobody else has it */
	(void)arg;
	for (unsigned i = 0; i < TURNS; i++) {
		if (weir_mutex_lock(&mutex) < 0)
			return 0;
		weir_mutex_unlock(&mutex);
	}
	return TURNS;
}

static int lock_often(void *arg)
{
	struct weir_mutex *mutex = arg;
	for (unsigned i = 0; i < TURNS / 10; i++) {
		int err = weir_mutex_lock(mutex);
		if (err < 0)
			return err;
		err = weir_yield();
		weir_mutex_unlock(mutex);
		if (err < 0)
			return err;
	}
	return 0;
}

/* Six tasks, each yields while it holds the lock. */
static uint64_t mutex_contended(void *arg)
{
	struct weir_mutex mutex;
	(void)arg;
	weir_mutex_init(&mutex);
	WEIR_SCOPE(scope, WEIR_FOREVER);
	for (unsigned i = 0; i < ACQUIRES; i++) {
		if (weir_spawn(&scope, lock_often, &mutex) < 0)
			return 0;
	}
	int err = weir_scope_wait(&scope);
	weir_mutex_done(&mutex);
	return err < 0 ? 0 : TURNS / 10 * ACQUIRES;
}

/* ---- spawn_blocking, time_now, time_timeout ------------------------------------------------ */

static int nothing(void *arg)
{
	(void)arg;
	return 0;
}

static uint64_t spawn_blocking(void *arg)
{
	(void)arg;
	for (unsigned i = 0; i < BLOCKING; i++) {
		if (weir_blocking(nothing, NULL) < 0)
			return 0;
	}
	return BLOCKING;
}

static int block_once(void *arg)
{
	(void)arg;
	return weir_blocking(nothing, NULL);
}

/* Sixteen at once, from as many tasks. */
static uint64_t spawn_blocking_batch(void *arg)
{
	(void)arg;
	for (unsigned i = 0; i < BLOCKING / BATCH; i++) {
		WEIR_SCOPE(scope, WEIR_FOREVER);
		for (unsigned j = 0; j < BATCH; j++) {
			if (weir_spawn(&scope, block_once, NULL) < 0)
				return 0;
		}
		if (weir_scope_wait(&scope) < 0)
			return 0;
	}
	return BLOCKING / BATCH * BATCH;
}

static uint64_t time_now(void *arg)
{
	int64_t last = 0;
	(void)arg;
	for (unsigned i = 0; i < TURNS; i++) {
		int64_t now = weir_now();
		if (now < last)
			return 0;
		last = now;
	}
	return TURNS;
}

/* A deadline around one yield: armed and cancelled. */
static int quick_job(void *arg)
{
	(void)arg;
	WEIR_SCOPE(scope, 10 * WEIR_SEC);
	return weir_yield();
}

static uint64_t timeouts(void *arg)
{
	(void)arg;
	WEIR_SCOPE(scope, WEIR_FOREVER);
	for (unsigned i = 0; i < TIMEOUTS; i++) {
		if (weir_spawn(&scope, quick_job, NULL) < 0)
			return 0;
	}
	return weir_scope_wait(&scope) < 0 ? 0 : TIMEOUTS;
}

/* ---- fs, signal ----------------------------------------------------------------------------- */

static uint64_t fs_read(void *arg)
{
	weir_auto_file file = NULL;
	char block[BLOCK_BYTES];
	uint64_t done = 0;

	(void)arg;
	if (weir_file_open(&file, "/dev/zero", O_RDONLY) < 0)
		return 0;
	while (done < BLOCKS && weir_file_read_at(file, block, sizeof(block), 0) == BLOCK_BYTES)
		done++;
	return done == BLOCKS ? done : 0;
}

struct listener {
	weir_chan *heard;
	int number;
};

static int hear(void *arg)
{
	const struct listener *listener = arg;
	for (;;) {
		int number = weir_signal_wait_any(&listener->number, 1);
		int err = number < 0 ? number : weir_chan_send(listener->heard, &number);
		if (err < 0)
			return err == -ECANCELED ? 0 : err;
	}
}

static bool all_hear(weir_chan *heard, int number)
{
	int got;
	if (kill(getpid(), number) < 0)
		return false;
	for (unsigned i = 0; i < LISTENERS; i++) {
		if (weir_chan_recv(heard, &got) < 0 || got != number)
			return false;
	}
	return true;
}

/* Ten tasks wait for each of two signals, which come in turn and are told to all ten. */
static uint64_t many_signals(void *arg)
{
	(void)arg;
	weir_auto_chan heard = weir_chan_new(sizeof(int), LISTENERS);
	struct listener kinds[] = { { heard, SIGCHLD }, { heard, SIGIO } };
	if (!heard)
		return 0;
	WEIR_SCOPE(scope, WEIR_FOREVER);
	for (unsigned i = 0; i < 2 * LISTENERS; i++) {
		if (weir_spawn(&scope, hear, &kinds[i % 2]) < 0)
			return 0;
	}
	if (weir_yield() < 0)
		return 0;
	for (unsigned i = 0; i < SIGNALS; i++) {
		if (!all_hear(heard, kinds[i % 2].number))
			return 0;
	}
	weir_scope_cancel(&scope);
	return SIGNALS;
}

/* ---- A2 of the Zokio document -------------------------------------------------------------- */

/* i of "size = 1024 + i % 4096" is what arg holds. */
static int alloc_clear_free(void *arg)
{
	size_t bytes = 1024 + (uintptr_t)arg % 4096;
	char *block = weir_zalloc(bytes);
	if (!block)
		return -ENOMEM;
	*(volatile char *)block = 1;
	weir_free(block);
	return 0;
}

/* A task for each allocation, joined in windows of 1,000. */
static uint64_t spawn_alloc(void *arg)
{
	(void)arg;
	for (uintptr_t i = 0; i < SPAWNS;) {
		WEIR_SCOPE(scope, WEIR_FOREVER);
		for (unsigned j = 0; j < 1000; j++, i++) {
			if (weir_spawn(&scope, alloc_clear_free, (void *)i) < 0)
				return 0;
		}
		if (weir_scope_wait(&scope) < 0)
			return 0;
	}
	return SPAWNS;
}

/* ---- all ----------------------------------------------------------------------------------- */

static void add_all(struct bench *bench, unsigned workers)
{
	static unsigned few = 10, some = 50, more = 100, twice = 200, many = 500, most = 1000;
	static unsigned five = ACQUIRES - 1;
	static bool no = false, yes = true;
	bench_add(bench, "spawn_many_local", spawn_many_local, NULL);
	bench_add(bench, "ping_pong", ping_pong, NULL);
	bench_add(bench, "request_reply", request_reply, NULL);
	bench_add(bench, "notify_one_10", notify_one, &few);
	bench_add(bench, "notify_one_50", notify_one, &some);
	bench_add(bench, "notify_one_100", notify_one, &more);
	bench_add(bench, "notify_one_200", notify_one, &twice);
	bench_add(bench, "notify_one_500", notify_one, &many);
	bench_add(bench, "notify_waiters_10", notify_waiters, &few);
	bench_add(bench, "notify_waiters_50", notify_waiters, &some);
	bench_add(bench, "notify_waiters_100", notify_waiters, &more);
	bench_add(bench, "notify_waiters_200", notify_waiters, &twice);
	bench_add(bench, "notify_waiters_500", notify_waiters, &many);
	bench_add(bench, "broadcast_10", broadcast, &few);
	bench_add(bench, "broadcast_100", broadcast, &more);
	bench_add(bench, "broadcast_500", broadcast, &many);
	bench_add(bench, "broadcast_1000", broadcast, &most);
	bench_add(bench, "watch_10", watch, &few);
	bench_add(bench, "watch_100", watch, &more);
	bench_add(bench, "watch_500", watch, &many);
	bench_add(bench, "watch_1000", watch, &most);
	bench_add(bench, "semaphore_uncontended", semaphore_uncontended, NULL);
	bench_add(bench, "semaphore_concurrent", semaphore_concurrent, &few);
	bench_add(bench, "semaphore_contended", semaphore_concurrent, &five);
	bench_add(bench, "rwlock_read", rwlock_read, NULL);
	bench_add(bench, "rwlock_concurrent", rwlock_concurrent, &no);
	bench_add(bench, "rwlock_contended", rwlock_concurrent, &yes);
	bench_add(bench, "mutex_uncontended", mutex_uncontended, NULL);
	bench_add(bench, "mutex_contended", mutex_contended, NULL);
	bench_add(bench, "spawn_blocking", spawn_blocking, NULL);
	bench_add(bench, "spawn_blocking_16", spawn_blocking_batch, NULL);
	bench_add(bench, "fs_read", fs_read, NULL);
	bench_add(bench, "many_signals", many_signals, NULL);
	bench_add(bench, "time_now", time_now, NULL);
	bench_add(bench, "timeout", timeouts, NULL);
	bench_add(bench, "spawn_alloc_A2", spawn_alloc, NULL);
	if (workers < 2)
		return;
	bench_add(bench, "spawn_many_remote_idle", spawn_many_remote_idle, NULL);
	bench_add(bench, "spawn_many_remote_busy", spawn_many_remote_busy, NULL);
}

int main(int argc, char **argv)
{
	static struct bench bench;
	const char *text = getenv("WEIR_WORKERS");
	unsigned workers = text ? (unsigned)atoi(text) : 1;
	bench_init(&bench, "bench_suite", argc, argv);
	add_all(&bench, workers);
	return bench_run_tasks(&bench, bench_run_in_task, workers);
}
