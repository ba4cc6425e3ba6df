/* SPDX-License-Identifier: MIT */
/*
 * blocking.c: work that blocks its thread, on threads kept for that.
 *
 * A pool has a name, a bound on its threads and a bound on its queue. Threads start when work
 * waits and none is idle, and end after ten idle seconds. A job lies on the stack of the task that
 * waits for it. The hard idea is what happens when that task may wait no longer: a job in the queue
 * is taken out and has never run; one that runs is waited for, because it may use the task's
 * memory, unless the caller said how to abandon it. Then a record of its own takes its place, the
 * task goes on, and the thread that finds it abandoned hands the argument to `abandon`.
 *
 * Threads belong to no runtime and are never joined, so the end of a runtime, or of the process,
 * never waits for one.
 *
 * Waking is what a short job costs, so little of it is done. Where jobs have come soon after one
 * another, one idle thread looks out for the next before it sleeps, as a worker does for messages
 * (linger.h), and nobody is woken while it does. And one thread is woken at a time: it wakes the
 * next if there is work left when it has come. At all times, if work waits and threads sleep, one
 * of them is being woken or one looks out.
 */
#include <weir/runtime.h>

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <string.h>

#include "alloc/opts.h"
#include "runtime/linger.h"
#include "runtime/task.h"
#include "runtime/wait_kind.h"

#define IDLE_SECONDS 10

enum { LOOKS_PER_CLOCK = 16 };

/* On the stack of the task that waits, which outlives an abandoned job's own end. */
struct wait {
	struct job *job;
	bool is_abandoned; /* the job is its thread's now */
};

enum job_state { JOB_QUEUED, JOB_RUNNING, JOB_DONE, JOB_ABANDONED };

struct job {
	struct job *next;
	weir_fn fn;
	void *arg;
	void (*abandon)(void *arg); /* NULL: a job that runs is waited for */
	weir_blocking_pool *pool;
	struct weir__task *task; /* parked until DONE */
	int result;
	enum job_state state; /* all from here under the pool's lock */
};

/* Freed by whoever is last: its owner or one of its threads. */
struct weir_blocking_pool {
	pthread_mutex_t lock;
	pthread_cond_t work;
	const char *name;
	struct job *head;
	struct job **tail;
	unsigned threads_max;
	unsigned queue_max;
	_Atomic unsigned queued; /* written under the lock, read by who looks out */
	unsigned threads;
	unsigned busy;	   /* of them with a job */
	unsigned asleep;   /* of the others: all but those that come, go or look out */
	bool is_waking;	   /* one of those asleep, which has not come yet */
	bool has_lookout;  /* one of the idle looks out for work */
	int caller_cpu;	   /* of the last caller */
	int64_t linger_ns; /* of its runtime; 0: nobody looks out */
	struct weir__linger linger;
	bool is_static;
	bool is_freed;
	weir_blocking_pool *next; /* of all; under pools_lock, as pprev */
	weir_blocking_pool **pprev;
};

static weir_blocking_pool user_pool = { .lock = PTHREAD_MUTEX_INITIALIZER,
					.name = "user",
					.is_static = true };
static weir_blocking_pool dns_pool = { .lock = PTHREAD_MUTEX_INITIALIZER,
				       .name = "dns",
				       .is_static = true };
static weir_blocking_pool fs_pool = { .lock = PTHREAD_MUTEX_INITIALIZER,
				      .name = "fs",
				      .is_static = true };
static pthread_once_t static_pools_once = PTHREAD_ONCE_INIT;

/* Taken before the lock of a pool. */
static pthread_mutex_t pools_lock = PTHREAD_MUTEX_INITIALIZER;
static weir_blocking_pool *pools;

/* ---- Pools ---------------------------------------------------------------------------------- */

/* Idle threads wait by the clock that nobody sets. */
static int init_wait(weir_blocking_pool *pool)
{
	pthread_condattr_t attributes;
	int err = -pthread_condattr_init(&attributes);

	if (err < 0)
		return err;
	pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
	err = -pthread_cond_init(&pool->work, &attributes);
	pthread_condattr_destroy(&attributes);
	pool->tail = &pool->head;
	return err;
}

static void enlist(weir_blocking_pool *pool)
{
	pthread_mutex_lock(&pools_lock);
	pool->next = pools;
	pool->pprev = &pools;
	if (pools)
		pools->pprev = &pool->next;
	pools = pool;
	pthread_mutex_unlock(&pools_lock);
}

static void delist(weir_blocking_pool *pool)
{
	pthread_mutex_lock(&pools_lock);
	*pool->pprev = pool->next;
	if (pool->next)
		pool->next->pprev = pool->pprev;
	pthread_mutex_unlock(&pools_lock);
}

static void init_static_pools(void)
{
	/* glibc's cannot fail: no memory is asked for */
	(void)init_wait(&user_pool);
	(void)init_wait(&dns_pool);
	(void)init_wait(&fs_pool);
	enlist(&user_pool);
	enlist(&dns_pool);
	enlist(&fs_pool);
}

static weir_blocking_pool *static_pool(weir_blocking_pool *pool, uint32_t threads_max,
				       uint32_t queue_max)
{
	pthread_once(&static_pools_once, init_static_pools);
	pthread_mutex_lock(&pool->lock);
	pool->threads_max = threads_max;
	pool->queue_max = queue_max;
	pthread_mutex_unlock(&pool->lock);
	return pool;
}

weir_blocking_pool *weir__blocking_dns(struct weir__worker *self)
{
	const struct weir__config *config = &self->runtime->config;

	return static_pool(&dns_pool, config->dns_threads, config->blocking_queue);
}

/* A job in its queue is a task that waits for it, on whose stack it lies: no other bound is needed.
 */
weir_blocking_pool *weir__blocking_fs(struct weir__worker *self)
{
	return static_pool(&fs_pool, self->runtime->config.fs_threads, 1U << 30);
}

int weir_blocking_pool_new_with(weir_blocking_pool **ret,
				const struct weir_blocking_pool_opts *opts)
{
	struct weir_blocking_pool_opts known = { 0 };
	int err = weir__opts_copy(&known, sizeof known, opts, opts->size);

	if (err < 0)
		return err;
	if (known.threads_max == 0)
		return -EINVAL;
	weir_blocking_pool *pool = weir_zalloc(sizeof *pool);
	if (!pool)
		return -ENOMEM;
	pthread_mutex_init(&pool->lock, NULL);
	err = init_wait(pool);
	if (err < 0) {
		weir_free(pool);
		return err;
	}
	pool->name = known.name ? known.name : "unnamed";
	pool->threads_max = known.threads_max;
	pool->queue_max = known.queue_max ? known.queue_max : 1024;
	enlist(pool);
	*ret = pool;
	return 0;
}

static void destroy(weir_blocking_pool *pool)
{
	delist(pool);
	pthread_cond_destroy(&pool->work);
	pthread_mutex_destroy(&pool->lock);
	weir_free(pool);
}

void weir_blocking_pool_free(weir_blocking_pool *pool)
{
	if (!pool)
		return;
	pthread_mutex_lock(&pool->lock);
	WEIR_ASSERT(!pool->head && !pool->is_static && !pool->is_freed);
	pool->is_freed = true;
	bool is_last = pool->threads == 0;
	pthread_cond_broadcast(&pool->work);
	pthread_mutex_unlock(&pool->lock);
	if (is_last)
		destroy(pool);
}

void weir_blocking_stats_get(weir_blocking_pool *pool, struct weir_blocking_stats *ret)
{
	if (!pool) {
		pthread_once(&static_pools_once, init_static_pools);
		pool = &user_pool;
	}
	pthread_mutex_lock(&pool->lock);
	*ret = (struct weir_blocking_stats){ .threads = pool->threads,
					     .idle = pool->threads - pool->busy,
					     .queued = pool->queued };
	pthread_mutex_unlock(&pool->lock);
}

/* ---- fork() --------------------------------------------------------------------------------- */

void weir__blocking_lock(void)
{
	pthread_mutex_lock(&pools_lock);
	for (weir_blocking_pool *pool = pools; pool; pool = pool->next)
		pthread_mutex_lock(&pool->lock);
}

void weir__blocking_unlock(void)
{
	for (weir_blocking_pool *pool = pools; pool; pool = pool->next)
		pthread_mutex_unlock(&pool->lock);
	pthread_mutex_unlock(&pools_lock);
}

/* The child has none of the threads, and none of the tasks that wait for them. */
void weir__blocking_forget(void)
{
	for (weir_blocking_pool *pool = pools; pool; pool = pool->next) {
		(void)init_wait(pool); /* as if nobody had ever waited */
		pool->head = NULL;
		atomic_store_explicit(&pool->queued, 0, memory_order_relaxed);
		pool->threads = pool->busy = pool->asleep = 0;
		pool->is_waking = pool->has_lookout = false;
	}
}

/* ---- Threads: the lock is held on entry and on return ---------------------------------------- */

static struct job *take(weir_blocking_pool *pool)
{
	struct job *job = pool->head;

	pool->head = job->next;
	if (!pool->head)
		pool->tail = &pool->head;
	pool->queued--;
	pool->busy++;
	job->state = JOB_RUNNING;
	return job;
}

/* What is left over is for another thread. */
static void wake_one(weir_blocking_pool *pool)
{
	if (!pool->head || !pool->asleep || pool->is_waking || pool->has_lookout)
		return;
	pool->is_waking = true;
	pthread_cond_signal(&pool->work);
}

/* For linger_ns at most, and without the lock. Whether there is work, and how long it took. */
static bool look_out(const weir_blocking_pool *pool, int64_t allowance_ns, int64_t *ret_took_ns)
{
	int64_t now, start = 0;

	do {
		for (int n = 0; n < LOOKS_PER_CLOCK; n++) {
			if (atomic_load_explicit(&pool->queued, memory_order_relaxed)) {
				*ret_took_ns = start ? weir__clock_ns() - start : 0;
				return true;
			}
			weir__pause();
		}
		now = weir__clock_ns();
		if (!start)
			start = now;
	} while (now - start < allowance_ns);
	*ret_took_ns = now - start;
	return false;
}

/* One thread at a time, and not where the caller could not call meanwhile. */
static bool may_look_out(const weir_blocking_pool *pool)
{
	return pool->linger_ns && pool->linger.allowance_ns && !pool->has_lookout && !pool->head &&
	       !pool->is_freed && pool->caller_cpu != sched_getcpu();
}

static void linger(weir_blocking_pool *pool)
{
	int64_t allowance = pool->linger.allowance_ns, took;

	pool->has_lookout = true;
	pthread_mutex_unlock(&pool->lock);
	bool has_come = look_out(pool, allowance, &took);
	pthread_mutex_lock(&pool->lock);
	pool->has_lookout = false;
	weir__linger_ended(&pool->linger, has_come, took, pool->linger_ns);
}

/* False when nothing came for so long that the thread should end. */
static bool sleep_for_work(weir_blocking_pool *pool)
{
	int64_t start = weir__clock_ns();
	int64_t end = start + IDLE_SECONDS * WEIR_SEC;
	const struct timespec until = { .tv_sec = end / WEIR_SEC, .tv_nsec = end % WEIR_SEC };
	int err = 0;

	while (!pool->head && !pool->is_freed && err == 0) {
		pool->asleep++;
		err = pthread_cond_timedwait(&pool->work, &pool->lock, &until);
		pool->asleep--;
		pool->is_waking = false;
	}
	if (pool->linger_ns)
		weir__linger_slept(&pool->linger, weir__clock_ns() - start, pool->head,
				   pool->linger_ns);
	return pool->head != NULL;
}

static bool wait_for_work(weir_blocking_pool *pool)
{
	if (may_look_out(pool))
		linger(pool);
	return pool->head || sleep_for_work(pool);
}

/* Tells the worker where it comes from, as weir__worker_post() does for its own kind. */
static void wake_caller(struct weir__task *task)
{
	atomic_store_explicit(&task->worker->sender_cpu, sched_getcpu(), memory_order_relaxed);
	weir__wake(task);
}

/* The job is the task's again when it is DONE and the lock is free: nothing of it is used then. */
static void run(weir_blocking_pool *pool, struct job *job)
{
	wake_one(pool);
	pthread_mutex_unlock(&pool->lock);
	int result = job->fn(job->arg);
	pthread_mutex_lock(&pool->lock);
	bool is_abandoned = job->state == JOB_ABANDONED;
	struct weir__task *task = job->task;
	job->result = result;
	job->state = JOB_DONE;
	pool->busy -= !is_abandoned; /* before the caller comes with the next job */
	pthread_mutex_unlock(&pool->lock);
	if (is_abandoned) {
		job->abandon(job->arg);
		weir_free(job);
	} else {
		wake_caller(task);
	}
	pthread_mutex_lock(&pool->lock);
	pool->busy -= is_abandoned;
}

static void take_name(const weir_blocking_pool *pool)
{
	char name[16];

	snprintf(name, sizeof name, "weir/%s", pool->name);
	(void)pthread_setname_np(pthread_self(), name);
}

static void *thread_main(void *arg)
{
	weir_blocking_pool *pool = arg;

	pthread_mutex_lock(&pool->lock);
	if (!pool->is_freed) /* else its name may be gone: others have done what this was for */
		take_name(pool);
	do
		while (pool->head)
			run(pool, take(pool));
	while (wait_for_work(pool));
	pool->threads--;
	bool is_last = pool->is_freed && pool->threads == 0;
	pthread_mutex_unlock(&pool->lock);
	if (is_last)
		destroy(pool);
	return NULL;
}

/* Signals are for the application's threads: ours take none. */
static int start_thread(weir_blocking_pool *pool)
{
	pthread_attr_t attributes;
	pthread_t thread;
	sigset_t others, old;

	weir__fatal_mask(&others);
	pthread_sigmask(SIG_SETMASK, &others, &old);
	pthread_attr_init(&attributes);
	pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
	int err = -pthread_create(&thread, &attributes, thread_main, pool);
	pthread_attr_destroy(&attributes);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (err == 0)
		pool->threads++;
	return err;
}

/* ---- Waiting for a job ----------------------------------------------------------------------- */

static int enqueue(weir_blocking_pool *pool, struct job *job)
{
	/* threads that have just started will take what is in the queue, too */
	if (pool->queued >= pool->threads - pool->busy && pool->threads < pool->threads_max) {
		int err = start_thread(pool);
		if (err < 0 && pool->threads == 0)
			return err;
	}
	unsigned idle = pool->threads - pool->busy;
	if (pool->queued >= idle && pool->queued - idle >= pool->queue_max)
		return -EAGAIN;
	job->next = NULL;
	job->state = JOB_QUEUED;
	*pool->tail = job;
	pool->tail = &job->next;
	pool->queued++;
	wake_one(pool);
	return 0;
}

static void take_out(weir_blocking_pool *pool, const struct job *job)
{
	struct job **at = &pool->head;

	while (*at != job)
		at = &(*at)->next;
	*at = job->next;
	if (!*at)
		pool->tail = at;
	pool->queued--;
}

static void abort_blocking(struct weir__task *task, int why)
{
	struct wait *wait = task->wait;
	struct job *job = wait->job;
	weir_blocking_pool *pool = job->pool;

	pthread_mutex_lock(&pool->lock);
	bool is_queued = job->state == JOB_QUEUED;
	if (is_queued) {
		take_out(pool, job);
	} else if (job->state == JOB_RUNNING && job->abandon) {
		job->state = JOB_ABANDONED;
		wait->is_abandoned = true;
	}
	pthread_mutex_unlock(&pool->lock);
	if (is_queued || wait->is_abandoned)
		weir__ready(task->worker, task, why);
}

static void describe_blocking(const struct weir__task *task, char *ret, size_t cap)
{
	const struct wait *wait = task->wait;

	snprintf(ret, cap, "pool %s", wait->job->pool->name);
}
WEIR__WAIT_KIND(abort_blocking, "blocking call", describe_blocking);

/* Returns what fn returned, in *ret, and 0; or why it was not run, or not waited for. */
static int wait_for(struct weir__worker *self, struct wait *wait, int *ret)
{
	struct job *job = wait->job;
	weir_blocking_pool *pool = job->pool;

	job->task = self->current;
	pthread_mutex_lock(&pool->lock);
	pool->caller_cpu = self->cpu;
	pool->linger_ns = self->runtime->linger_ns;
	int err = enqueue(pool, job);
	pthread_mutex_unlock(&pool->lock);
	if (err == 0)
		err = weir__park(self, abort_blocking, wait);
	if (err == 0)
		*ret = job->result;
	return err;
}

static int run_abandonable(struct weir__worker *self, const struct job *plan, int *ret)
{
	struct wait wait = { .job = weir_alloc(sizeof *plan) };
	int err = -ENOMEM;

	if (wait.job) {
		*wait.job = *plan;
		err = wait_for(self, &wait, ret);
	}
	if (wait.is_abandoned)
		return err;
	weir_free(wait.job);
	if (err < 0)
		plan->abandon(plan->arg);
	return err;
}

static int run_in_pool(struct weir__worker *self, struct job *job, int *ret)
{
	int err = weir__interrupted(self, self->current);

	if (err < 0) {
		if (job->abandon)
			job->abandon(job->arg);
		return err;
	}
	if (weir__virtual) { /* simulated time does not pass while it runs */
		*ret = job->fn(job->arg);
		return 0;
	}
	if (!job->pool)
		job->pool = static_pool(&user_pool, self->runtime->config.blocking_threads,
					self->runtime->config.blocking_queue);
	return job->abandon ? run_abandonable(self, job, ret)
			    : wait_for(self, &(struct wait){ .job = job }, ret);
}

int weir_blocking_with(const struct weir_blocking_opts *opts)
{
	struct weir__worker *self = weir__worker_self();
	struct weir_blocking_opts known = { 0 };
	int result = 0;

	if (!self || !self->current)
		return -EINVAL;
	int err = weir__opts_copy(&known, sizeof known, opts, opts->size);
	if (err < 0)
		return err;
	if (!known.fn || (known.abandon && !known.ret_result))
		return -EINVAL;
	struct job job = {
		.fn = known.fn, .arg = known.arg, .abandon = known.abandon, .pool = known.pool
	};
	err = run_in_pool(self, &job, &result);
	if (err < 0)
		return err;
	if (!known.ret_result)
		return result;
	*known.ret_result = result;
	return 0;
}
