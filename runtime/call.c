/* SPDX-License-Identifier: MIT */
/*
 * call.c: having something done elsewhere: on another worker, or in the runtime by a thread that is
 * none of its workers.
 *
 * A call is a task in a scope of the caller's: its cancellation and its deadline come with the
 * scope. A post is a message and nothing more. A submission is a message to worker 0, which runs it
 * as a task in a scope that the runtime keeps open around the program's main function.
 *
 * The hard idea: a foreign thread may hold a runtime's name for longer than the runtime lives. So
 * the name is a number, never used twice, and it is looked up under the lock under which a runtime
 * leaves the list; a submission is posted before that lock is let go, and what was posted is waited
 * for before the runtime ends.
 */
#include "runtime/task.h"

#include <pthread.h>
#include <semaphore.h>

#include "alloc/opts.h"
#include "runtime/extra.h"

enum { POSTS_MAX = 4096 };

/* ---- Another worker ----------------------------------------------------- */

struct call {
	weir_fn fn;
	void *arg;
	int result;
};

static int call_main(void *arg)
{
	struct call *call = arg;

	call->result = call->fn(call->arg);
	return 0;
}

int weir_worker_count(void)
{
	struct weir__worker *self = weir__worker_self();

	return self ? (int)self->runtime->workers_count : 0;
}

int weir_call_on(unsigned worker, weir_fn fn, void *arg)
{
	struct weir__worker *self = weir__worker_self();
	struct call call = { fn, arg, -ECANCELED };

	if (!self || !self->current || worker >= self->runtime->workers_count || !fn)
		return -EINVAL;
	int err = weir__interrupted(self, self->current);
	if (err < 0)
		return err;
	WEIR_SCOPE(scope, WEIR_FOREVER);
	err = weir_spawn(&scope, call_main, &call, .name = "call",
			 .worker = WEIR_ON_WORKER(worker));
	if (err == 0)
		err = weir_scope_wait(&scope);
	/*
	 * Whatever ended the wait, the function has ended: its own word counts, but for why. Its
	 * worker may have seen the deadline before ours.
	 */
	if (call.result == -ECANCELED &&
	    (err == -ETIME || weir__interrupted(self, self->current) == -ETIME))
		return -ETIME;
	return err == 0 || err == -ECANCELED || err == -ETIME ? call.result : err;
}

struct post {
	struct weir__msg msg;
	void (*fn)(void *arg);
	void *arg;
};

static void handle_post(struct weir__worker *self, struct weir__msg *msg)
{
	struct post *posted = (void *)((char *)msg - offsetof(struct post, msg));
	struct post post = *posted;

	weir_free(posted);
	atomic_fetch_sub_explicit(&self->posts, 1, memory_order_relaxed);
	post.fn(post.arg);
}

int weir_post(unsigned worker, void (*fn)(void *arg), void *arg)
{
	struct weir__worker *self = weir__worker_self();

	if (!self || worker >= self->runtime->workers_count || !fn)
		return -EINVAL;
	if (self->stopping)
		return -ESHUTDOWN;
	struct weir__worker *target = self->runtime->workers[worker];
	if (atomic_fetch_add_explicit(&target->posts, 1, memory_order_relaxed) >= POSTS_MAX) {
		atomic_fetch_sub_explicit(&target->posts, 1, memory_order_relaxed);
		return -EAGAIN;
	}
	struct post *post = weir_alloc(sizeof *post);
	if (!post) {
		atomic_fetch_sub_explicit(&target->posts, 1, memory_order_relaxed);
		return -ENOMEM;
	}
	*post = (struct post){ .msg.fn = handle_post, .fn = fn, .arg = arg };
	weir__worker_post(target, &post->msg);
	return 0;
}

/* ---- Foreign threads ---------------------------------------------------- */

static pthread_mutex_t list_lock = PTHREAD_MUTEX_INITIALIZER;
struct weir__runtime *weir__runtimes; /* through next_running; under list_lock */
static uint64_t last_id;	      /* under list_lock */

/* On the stack of the thread that waits for it. */
struct submission {
	struct weir__msg msg;
	struct weir_submit_opts opts;
	struct weir__runtime *runtime;
	sem_t done;
	int result;
};

static void enlist(struct weir__runtime *runtime)
{
	pthread_mutex_lock(&list_lock);
	runtime->id = ++last_id;
	runtime->next_running = weir__runtimes;
	weir__runtimes = runtime;
	pthread_mutex_unlock(&list_lock);
}

static void delist(const struct weir__runtime *runtime)
{
	pthread_mutex_lock(&list_lock);
	struct weir__runtime **at = &weir__runtimes;
	while (*at != runtime)
		at = &(*at)->next_running;
	*at = runtime->next_running;
	pthread_mutex_unlock(&list_lock);
}

void weir__calls_lock(void)
{
	pthread_mutex_lock(&list_lock);
}

void weir__calls_unlock(void)
{
	pthread_mutex_unlock(&list_lock);
}

void weir__calls_forget(void)
{
	weir__runtimes = NULL;
}

static int submission_main(void *arg)
{
	struct submission *submission = arg;
	const struct weir_submit_opts *opts = &submission->opts;
	int result;
	{
		WEIR_SCOPE(scope, opts->timeout_ns ? opts->timeout_ns : WEIR_FOREVER);
		result = opts->worker ? weir_call_on(opts->worker - 1, opts->fn, opts->arg)
				      : opts->fn(opts->arg);
	}
	weir__extra_end(weir__worker_self());
	submission->result = result;
	(void)sem_post(&submission->done); /* it may be gone now */
	return 0;
}

/* With a stack at once: from here on nothing but its own end can answer the thread that waits. */
static void handle_submission(struct weir__worker *self, struct weir__msg *msg)
{
	struct submission *submission = (void *)((char *)msg - offsetof(struct submission, msg));
	struct weir__runtime *runtime = submission->runtime;
	int err = weir__spawn(weir__scope_of(&runtime->submitted),
			      &(struct weir__spawn){
				      .fn = submission_main,
				      .arg = submission,
				      .name = "submitted",
				      .site = "weir_submit",
				      .stack_shift = weir__stack_shift(runtime, WEIR_STACK_DEFAULT),
				      .stack_now = true,
			      });

	(void)self;
	if (err < 0) {
		submission->result = err == -ECANCELED ? -ESHUTDOWN : err;
		(void)sem_post(&submission->done);
	}
	atomic_fetch_sub_explicit(&runtime->submissions, 1, memory_order_relaxed);
}

/* Finds the runtime and hands the submission over, in one: it cannot end in between. */
static int hand_over(struct submission *submission)
{
	int err = -ESHUTDOWN;

	pthread_mutex_lock(&list_lock);
	struct weir__runtime *runtime = weir__runtimes;
	while (runtime && runtime->id != submission->opts.runtime.id)
		runtime = runtime->next_running;
	if (runtime && submission->opts.worker > runtime->workers_count) {
		err = -EINVAL;
	} else if (runtime &&
		   !atomic_load_explicit(&runtime->stop_requests, memory_order_relaxed)) {
		submission->runtime = runtime;
		atomic_fetch_add_explicit(&runtime->submissions, 1, memory_order_relaxed);
		weir__worker_post(runtime->workers[0], &submission->msg);
		err = 0;
	}
	pthread_mutex_unlock(&list_lock);
	return err;
}

int weir_submit_with(const struct weir_submit_opts *opts)
{
	struct submission submission = { .msg.fn = handle_submission };
	int err = weir__opts_copy(&submission.opts, sizeof submission.opts, opts, opts->size);

	if (err < 0)
		return err;
	if (!submission.opts.fn || submission.opts.timeout_ns < 0)
		return -EINVAL;
	if (weir__worker_self())
		return -EDEADLK;
	(void)sem_init(&submission.done, 0, 0);
	err = hand_over(&submission);
	if (err == 0) {
		while (sem_wait(&submission.done) < 0) /* EINTR */
			;
		err = submission.result;
	}
	(void)sem_destroy(&submission.done);
	return err;
}

weir_runtime weir_runtime_self(void)
{
	const struct weir__worker *self = weir__worker_self();

	return (weir_runtime){ self ? self->runtime->id : 0 };
}

/* ---- The main function -------------------------------------------------- */

int weir__runtime_main(struct weir__runtime *runtime, weir_fn fn, void *arg)
{
	weir_scope_open(&runtime->submitted, WEIR_FOREVER);
	enlist(runtime);
	int result = fn(arg);
	/* a scope must be closed before the function that opened it returns */
	WEIR_ASSERT(weir__worker_self()->current->scope == weir__scope_of(&runtime->submitted));
	delist(runtime);
	weir_scope_cancel(&runtime->submitted);
	/* what was posted before that is at the latest a turn away from being refused */
	while (atomic_load_explicit(&runtime->submissions, memory_order_relaxed) > 0)
		(void)weir_yield();
	weir_scope_close(&runtime->submitted);
	return result;
}
