/* SPDX-License-Identifier: MIT */
/*
 * weir/runtime.h: tasks, scopes, time, channels.
 *
 * A task is a function with a stack of its own. It runs until it calls something that has to wait;
 * then it is *parked* and its worker runs another. A task starts, runs and dies on one worker, so
 * thread-local storage and errno behave; but do not keep a pointer to either across a call that
 * parks.
 *
 * Tasks live in scopes, and a scope lives on the stack of the task that opened it. Leaving a scope
 * cancels and then joins the tasks in it, so a child may point at its parent's locals.
 *
 * Errors are negative errno values. Three endings are kept apart:
 *   -ECANCELED   my scope was cancelled
 *   -ETIME       the deadline of my scope has passed
 *   -ETIMEDOUT   the network gave up
 * Every call marked "parks" is a cancellation point: it may return the first two; where no task
 * runs it returns -EINVAL. A call that moved data reports the data. Results come through `ret`
 * parameters, untouched on failure.
 *
 * Options are structs whose `size` the macros fill in; the macros are C, in C++ fill the struct and
 * call weir_spawn_with() and its kin. A shorter one is an older program's: what it
 * lacks is zero, the default. -EINVAL: a size that no such struct has; -E2BIG: a longer one, with
 * something in it that this library does not know.
 *
 * Durations are int64_t nanoseconds: 500 * WEIR_MS.
 */
#ifndef WEIR_RUNTIME_H
#define WEIR_RUNTIME_H

#include <errno.h>
#include <stdio.h>
#include <sys/types.h>

#include "alloc.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- Time --------------------------------------------------------------- */

#define WEIR_NS	     ((int64_t)1)
#define WEIR_US	     ((int64_t)1000)
#define WEIR_MS	     ((int64_t)1000000)
#define WEIR_SEC     ((int64_t)1000000000)
#define WEIR_FOREVER INT64_MAX

/* Nanoseconds on the monotonic clock. */
WEIR_API int64_t weir_now(void);

/* Parks for `ns` nanoseconds, never less. Returns 0, -ECANCELED or -ETIME. */
WEIR_API int weir_sleep(int64_t ns);

/* What becomes of the ticks that have passed before they were waited for. */
enum weir_missed {
	WEIR_MISSED_BURST, /* each is delivered at once: as many ticks as periods */
	WEIR_MISSED_SKIP,  /* dropped: ticks stay multiples of the period from the first */
	WEIR_MISSED_DELAY, /* dropped, and the period begins anew with the one that came late */
};

/* Caller's memory; the fields are the runtime's. */
struct weir_interval {
	int64_t private_[3];
};

/*
 * Ticks every `period_ns`, at least 1, for the first time one period from now. There is nothing to
 * free. Returns 0 or -EINVAL.
 */
WEIR_API WEIR_MUST WEIR_NONNULL int weir_interval_init(struct weir_interval *interval,
						       int64_t period_ns, enum weir_missed missed);

/*
 * Parks until the next tick, never less; a tick that has passed is delivered without parking. One
 * task at a time. Returns how many ticks were dropped since the last, 0 as a rule; -ECANCELED or
 * -ETIME: then the tick is still to come.
 */
WEIR_API WEIR_MUST WEIR_NONNULL int weir_interval_wait(struct weir_interval *interval);

/* Nanoseconds to the deadline of the innermost scope; WEIR_FOREVER when there is none, 0 when it
 * passed. */
WEIR_API int64_t weir_time_left(void);

/* ---- Tasks -------------------------------------------------------------- */

typedef int (*weir_fn)(void *arg);

enum weir_stack_class {
	WEIR_STACK_DEFAULT, /* the runtime's .stack_bytes: 64 KiB */
	WEIR_STACK_32K,
	WEIR_STACK_64K,
	WEIR_STACK_256K,
	WEIR_STACK_1M,
};

/*
 * Classes of tasks. Where tasks of several are ready on a worker, each class gets time in
 * proportion to its shares (WEIR_SHARES_HIGH, _NORMAL, _BACKGROUND: 1000, 100, 10), so none is shut
 * out. A class that was idle has saved nothing up, but a task of a higher class that becomes ready
 * is next.
 */
enum weir_priority {
	WEIR_PRIORITY_INHERIT, /* that of the task that opened the scope; the first has NORMAL */
	WEIR_PRIORITY_HIGH,
	WEIR_PRIORITY_NORMAL,
	WEIR_PRIORITY_BACKGROUND,
};

/* worker number + 1, so that zero stays the default: the spawner's own worker */
#define WEIR_ON_WORKER(n) ((n) + 1)

struct weir_scope;

struct weir_task_opts {
	weir_fn fn;	  /* the two positional ones come first and never move */
	void *arg;	  /* borrowed until the task ends */
	size_t size;	  /* filled by the macro */
	const char *name; /* borrowed until the scope is closed, since a task that was joined is
			     listed for a moment longer; NULL: lists show the function's name */
	const char *site; /* static; filled by the macro: "file.c:12" */
	enum weir_stack_class stack;
	unsigned worker; /* WEIR_ON_WORKER(n); 0: here */
	bool any;	 /* here, or wherever a worker is idle before it has started; not with
			    .worker */
	enum weir_priority priority;
	struct weir_join *join; /* gets the result; borrowed until the scope is closed */
};

/*
 * Starts fn(arg) as a task in `scope`, which the caller has open. The task gets its stack when it
 * first runs; should there be no memory for one it ends with -ENOMEM, and fn was not called. When
 * it returns a negative value the scope's other tasks are cancelled and weir_scope_wait() reports
 * the value. Does not park. Returns 0, -ENOMEM, -EINVAL (bad options, or the scope is not open),
 * -EXDEV (the scope is another worker's), or -ECANCELED when the scope is cancelled already
 * (-ETIME: by its deadline; one that has just passed may show only in the task's first call that
 * parks). A failed spawn has not taken `arg`.
 */
WEIR_API WEIR_MUST WEIR_NONNULL int weir_spawn_with(struct weir_scope *scope,
						    const struct weir_task_opts *opts);
#define WEIR__STR2(x) #x
#define WEIR__STR(x)  WEIR__STR2(x)
#define weir_spawn(scope, ...)                                                                     \
	weir_spawn_with((scope), &(struct weir_task_opts){                                         \
					 __VA_ARGS__, .size = sizeof(struct weir_task_opts),       \
					 .site = __FILE__ ":" WEIR__STR(__LINE__) })

/*
 * The result of one task: weir_spawn(&scope, fn, arg, .join = &join). It goes there instead of to
 * the scope: a negative one does not cancel the siblings. Caller's memory, declared before the
 * scope.
 */
struct weir_join {
	void *private_[6];
};

/*
 * Parks until the task has ended and writes what it returned to *ret. Any task of any worker may
 * ask, as often as it likes. Returns 0; -ECANCELED, -ETIME, -EINVAL (outside tasks, or nothing was
 * spawned with it).
 */
WEIR_API WEIR_MUST WEIR_NONNULL int weir_join_wait(struct weir_join *join, int *ret);
WEIR_API WEIR_NONNULL bool weir_join_has_ended(const struct weir_join *join);

/* Lets other ready tasks run. Returns 0, -ECANCELED or -ETIME. */
WEIR_API int weir_yield(void);

/*
 * The running task is of another class from when it next parks or yields. Returns 0, or -EINVAL
 * outside tasks or for WEIR_PRIORITY_INHERIT.
 */
WEIR_API int weir_task_priority_set(enum weir_priority priority);

/* The running task's name, or a generated one; never NULL inside a task. */
WEIR_API const char *weir_task_name(void);

/* The running task's id, unique in its runtime; 0 outside tasks. */
WEIR_API uint64_t weir_task_id(void);

/* The running worker's number from 0; -1 outside workers. */
WEIR_API int weir_worker_index(void);

/* ---- Scopes ------------------------------------------------------------- */

/* Caller's memory; the fields are the runtime's. */
struct weir_scope {
	void *private_[12];
};

/*
 * Opens a scope in the running task; every blocking call until its end, here and in its tasks,
 * returns -ETIME once `timeout_ns` has passed, or -ECANCELED once the scope has been cancelled:
 * what came first, for good. A timeout never extends the enclosing scope's; 0 and less has passed
 * already. Costs no system call and no allocation. Timeouts of a second or more may end up to 4 ms
 * early. Where no task runs it opens nothing: what is done with it returns -EINVAL.
 */
WEIR_API WEIR_NONNULL void weir_scope_open(struct weir_scope *scope, int64_t timeout_ns);

/*
 * The same, but cut off from the cancellation and the deadlines around it: clean-up work in it may
 * block, for at most `timeout_ns`.
 */
WEIR_API WEIR_NONNULL void weir_scope_open_shield(struct weir_scope *scope, int64_t timeout_ns);

/*
 * Parks until every task in the scope has ended. Returns 0 or the first error of a task (cancelled
 * tasks do not count); -ETIME or -ECANCELED when the scope ended so: then its tasks were cancelled
 * and joined; -EINVAL when it is not open, or another task's.
 */
WEIR_API WEIR_NONNULL int weir_scope_wait(struct weir_scope *scope);

/*
 * Cancels the scope: its tasks and its opener get -ECANCELED from every blocking call. Does not
 * park. A task of another worker than the opener's may do so when it was spawned in the scope, or
 * below it.
 */
WEIR_API WEIR_NONNULL void weir_scope_cancel(struct weir_scope *scope);

/*
 * Cancels, joins (parks, without being a cancellation point) and closes. Idempotent. For the opener
 * alone; inner scopes first.
 */
WEIR_API WEIR_NONNULL void weir_scope_close(struct weir_scope *scope);

/* Declares and opens a scope that is closed on every way out of the block. */
#define WEIR_SCOPE(name, timeout)                                                                  \
	WEIR_CLEANUP(weir_scope_close) struct weir_scope name;                                     \
	weir_scope_open(&name, (timeout))
#define WEIR_SHIELD(name, timeout)                                                                 \
	WEIR_CLEANUP(weir_scope_close) struct weir_scope name;                                     \
	weir_scope_open_shield(&name, (timeout))

/* ---- Cancelling from outside -------------------------------------------- */

/* Caller's memory; the field is the runtime's. Must outlive the scopes that are bound to it. */
struct weir_token {
	void *private_[3];
};
/* clang-format off */
#define WEIR_TOKEN_INIT { { NULL } }
/* clang-format on */

/* A token that is not cancelled; the same as WEIR_TOKEN_INIT. There is nothing to free. */
WEIR_API WEIR_NONNULL void weir_token_init(struct weir_token *token);

/*
 * Cancels every scope that is bound to the token, now and later, as weir_scope_cancel() would: at
 * once where that is the caller's worker, by a message to others. From any task and any thread, but
 * not from a signal handler. Does not park. Once cancelled a token stays so.
 */
WEIR_API WEIR_NONNULL void weir_token_cancel(struct weir_token *token);

/* Any thread. What was written before weir_token_cancel() is visible when this is true. */
WEIR_API WEIR_NONNULL bool weir_token_is_cancelled(const struct weir_token *token);

/*
 * Binds a scope that the running task has open to a token (borrowed until the scope is closed).
 * Several scopes, of any workers, may be bound to one token; a scope to one. Closing a bound scope
 * may park. Returns 0; -ECANCELED when the token was cancelled already: so is the scope then;
 * -EBUSY when the scope is bound; -EINVAL when it is not the caller's or not open.
 */
WEIR_API WEIR_NONNULL int weir_scope_bind(struct weir_scope *scope, struct weir_token *token);

/* ---- What belongs to a task --------------------------------------------- */

/*
 * Gives memory, aligned to 16, that is freed when the running task ends: a few nanoseconds, and
 * nothing to free. The caller may pass it on to the task's children. NULL when memory is exhausted
 * or outside tasks. Never parks.
 */
WEIR_API WEIR_MUST WEIR_MALLOC(1) void *weir_task_alloc(size_t size);

/* The same with a copy of `text`. */
WEIR_API WEIR_MUST WEIR_NONNULL char *weir_task_strdup(const char *text);

/*
 * Has fn(arg) called when the running task ends, whichever way it goes: last given, first called,
 * before the task's memory is freed and before anybody hears of its end: its scope, who joins it,
 * the thread that has submitted it, the client it serves. The calls run in the task under a shield:
 * they may block, all together for WEIR_DEFER_MS. They may defer more. Returns 0, -ENOMEM, or
 * -EINVAL outside tasks; a failed call has not taken `arg`.
 */
WEIR_API WEIR_MUST int weir_task_defer(void (*fn)(void *arg), void *arg);

/*
 * Names a value that each task has for itself. The address is the key: make it static, and declare
 * it in the header of whoever may ask for the value.
 */
struct weir_task_key {
	const char *name;	   /* for people */
	void (*done)(void *value); /* takes a value that is replaced or left over; may be NULL */
};

/*
 * Takes `value` for `key` in the running task; it is done with when it is replaced, or after the
 * deferred calls when the task ends. NULL takes the value away. Children do not inherit it. Returns
 * 0, -ENOMEM, or -EINVAL outside tasks: then nothing was taken.
 */
WEIR_API WEIR_MUST int weir_task_set(const struct weir_task_key *key, void *value);

/* Borrows the running task's value for `key`; NULL: it has none. */
WEIR_API void *weir_task_get(const struct weir_task_key *key);

/* ---- Other workers, other threads --------------------------------------- */

/* Workers of the runtime the caller runs in, 0 outside one. */
WEIR_API int weir_worker_count(void);

/*
 * Parks until fn(arg) has run as a task on worker `worker`. `arg` is borrowed until it returns. The
 * caller's cancellation and deadline reach the task, and its end is waited for. Returns what fn
 * returned; -ECANCELED or -ETIME when there was no time to start it, -EINVAL (no such worker),
 * -ENOMEM.
 */
WEIR_API WEIR_MUST int weir_call_on(unsigned worker, weir_fn fn, void *arg);

/*
 * Has fn(arg) run on worker `worker`, soon, and forgets it. It runs between tasks, without a stack
 * of its own: it must be brief, and what would park in it returns -EINVAL. Posts of one task to one
 * worker run in their order, and all of them before the runtime ends. For tasks, and in posted
 * functions. Does not park. Returns 0, -EAGAIN (4096 wait for that worker already), -ENOMEM,
 * -EINVAL, -ESHUTDOWN (the runtime has ended but for what was posted).
 */
WEIR_API WEIR_MUST int weir_post(unsigned worker, void (*fn)(void *arg), void *arg);

/*
 * What a program wants to do on each worker's own thread: called with the worker's number and
 * `user`, between tasks; what would park in them returns -EINVAL. NULL: nothing. park and unpark
 * enclose every sleep in the kernel; not those of a worker in a foreign loop (weir_embed_open()).
 * Workers that have started before another could not stop again; with epoll instead of io_uring
 * they then start once more.
 */
struct weir_thread_hooks {
	void (*start)(unsigned worker, void *user);
	void (*stop)(unsigned worker, void *user);
	void (*park)(unsigned worker, void *user);
	void (*unpark)(unsigned worker, void *user);
	void *user;
};

/* A runtime's name, for threads that are none of its workers. Never used for another. */
typedef struct weir_runtime {
	uint64_t id;
} weir_runtime;

/* That of the runtime the caller runs in; id 0 outside one. */
WEIR_API weir_runtime weir_runtime_self(void);

struct weir_submit_opts {
	weir_runtime runtime; /* the three positional ones come first */
	weir_fn fn;
	void *arg;	    /* borrowed until it returns */
	size_t size;	    /* filled by the macro */
	int64_t timeout_ns; /* the task's deadline; 0: none */
	unsigned worker;    /* WEIR_ON_WORKER(n); 0: worker 0 */
};

/*
 * From a thread that is no worker: runs fn(arg) as a task of the runtime and blocks the thread
 * until it has ended. When the program's main function returns, or the runtime is stopped hard, the
 * task is cancelled. Returns what fn returned; -ESHUTDOWN when the runtime has been stopped or has
 * ended (whenever that was), -ETIME when there was no time to start it on another worker,
 * -EDEADLK on a worker's thread, -EINVAL, -ENOMEM.
 */
WEIR_API WEIR_MUST WEIR_NONNULL int weir_submit_with(const struct weir_submit_opts *opts);
#define weir_submit(...)                                                                           \
	weir_submit_with(&(struct weir_submit_opts){ __VA_ARGS__,                                  \
						     .size = sizeof(struct weir_submit_opts) })

/* ---- Channels ----------------------------------------------------------- */

typedef struct weir_chan weir_chan;

/*
 * Gives a bounded channel for items of `item_bytes`, holding up to `capacity` (0 counts as 1, at
 * most UINT32_MAX) of them; NULL when memory is exhausted or the sizes are out of bounds. Many
 * senders, many receivers, first come first served, tasks of any workers.
 *
 * It costs the same whatever its capacity: memory follows what is in it, by blocks of some eight
 * items (1 KiB at least, 16 KiB or one item at most) that are used again and given back when it
 * empties; but for two blocks and 8 KiB no more than twice as many are held as have items in them.
 * Up to 1 KiB in all is there from the start. Items that go to who waits for them need no room.
 */
WEIR_API WEIR_MUST weir_chan *weir_chan_new(size_t item_bytes, size_t capacity);

/*
 * Takes the channel. Who still waits in it gets -EPIPE, or as many as its batch had moved. Accepts
 * NULL.
 */
WEIR_API void weir_chan_free(weir_chan *chan);

/*
 * Copies *item in; parks while the channel is full. Returns 0; -EPIPE when closed, -ECANCELED,
 * -ETIME, or -ENOMEM when memory for another block is exhausted: then nothing has been sent, and
 * what is in it can be received. Never -ENOMEM when capacity * item_bytes is at most 1 KiB.
 */
WEIR_API WEIR_MUST WEIR_NONNULL int weir_chan_send(weir_chan *chan, const void *item);

/* Copies the oldest item to *ret; parks while empty. Returns 0; -EPIPE when closed and drained,
 * -ECANCELED, -ETIME, -EINVAL. */
WEIR_API WEIR_MUST WEIR_NONNULL int weir_chan_recv(weir_chan *chan, void *ret);

/* The same without parking: -EAGAIN when full or empty. Any thread. */
WEIR_API WEIR_MUST WEIR_NONNULL int weir_chan_try_send(weir_chan *chan, const void *item);
WEIR_API WEIR_MUST WEIR_NONNULL int weir_chan_try_recv(weir_chan *chan, void *ret);

/*
 * Copies `count` items in, in their order, though those of others may come between; parks while the
 * channel is full. Returns how many went in: all, or fewer when it was closed or interrupted or
 * memory was refused after the first; or the errors of weir_chan_send().
 */
WEIR_API WEIR_MUST WEIR_NONNULL ssize_t weir_chan_send_many(weir_chan *chan, const void *items,
							    size_t count);

/* Copies what is there to *ret, at most `count` items; parks while there is none. Returns how many,
 * or the errors of weir_chan_recv(). */
WEIR_API WEIR_MUST WEIR_NONNULL ssize_t weir_chan_recv_many(weir_chan *chan, void *ret,
							    size_t count);

/* No more sends; receivers drain what is left and then get -EPIPE. Does not park, any thread. */
WEIR_API WEIR_NONNULL void weir_chan_close(weir_chan *chan);

/* Closes it and parks until everything has been received. Returns 0, -ECANCELED, -ETIME, -EPIPE
 * (freed), -EINVAL. */
WEIR_API WEIR_MUST WEIR_NONNULL int weir_chan_drain(weir_chan *chan);

/* Items in it now; those of waiting senders are not. Any thread. */
WEIR_API WEIR_NONNULL size_t weir_chan_len(weir_chan *chan);

static inline void weir__chan_cleanup(weir_chan **chan)
{
	weir_chan_free(*chan);
}
#define weir_auto_chan WEIR_CLEANUP(weir__chan_cleanup) __typeof__(weir_chan *)

/* ---- Locks and signals between tasks ------------------------------------ */

/*
 * They serve tasks of any workers, in the order in which those came to wait, and lie in the
 * caller's memory. All-zero memory is as good as _init() where there is no count to give.
 *
 * What lets others on (unlock, post, set, notify, send) does not park and may come from any thread.
 * What waits is for tasks: elsewhere it returns -EINVAL. A wait that returns -ECANCELED or -ETIME
 * has taken nothing; one that was served says so even when it was cancelled a moment later.
 *
 * _done() ends the object's life; it does not park. Who still waits gets -EPIPE and does not touch
 * the object again. Nobody else may be in a call on it, or come later.
 */

/* One task at a time. */
struct weir_mutex {
	unsigned state_; /* the fields are the runtime's */
	unsigned lock_;
	void *waiters_[2];
};

WEIR_API WEIR_NONNULL void weir_mutex_init(struct weir_mutex *mutex);
WEIR_API WEIR_NONNULL void weir_mutex_done(struct weir_mutex *mutex);
WEIR_API WEIR_MUST WEIR_NONNULL int weir__mutex_lock_slow(struct weir_mutex *mutex);
WEIR_API WEIR_NONNULL void weir__mutex_unlock_slow(struct weir_mutex *mutex);

/* Returns 0, or -EBUSY when it is held. Does not park. */
WEIR_MUST WEIR_NONNULL static inline int weir_mutex_try_lock(struct weir_mutex *mutex)
{
	unsigned is_free = 0;

	return __atomic_compare_exchange_n(&mutex->state_, &is_free, 1, false, __ATOMIC_ACQUIRE,
					   __ATOMIC_RELAXED)
		       ? 0
		       : -EBUSY;
}

/*
 * Parks while another holds it. Taking a free one is no cancellation point: clean-up code may do
 * so. Returns 0 with the mutex held, or -ECANCELED, -ETIME, -EPIPE (done), -EINVAL (no task)
 * without.
 */
WEIR_MUST WEIR_NONNULL static inline int weir_mutex_lock(struct weir_mutex *mutex)
{
	return WEIR_LIKELY(weir_mutex_try_lock(mutex) == 0) ? 0 : weir__mutex_lock_slow(mutex);
}

/* Hands it to who has waited longest. For the task that holds it. */
WEIR_NONNULL static inline void weir_mutex_unlock(struct weir_mutex *mutex)
{
	unsigned held_alone = 1;

	if (!WEIR_LIKELY(__atomic_compare_exchange_n(&mutex->state_, &held_alone, 0, false,
						     __ATOMIC_RELEASE, __ATOMIC_RELAXED)))
		weir__mutex_unlock_slow(mutex);
}

/* Waiting, with a mutex released, until another task says that something has changed. */
struct weir_cond {
	void *private_[3];
};

WEIR_API WEIR_NONNULL void weir_cond_init(struct weir_cond *cond);
WEIR_API WEIR_NONNULL void weir_cond_done(struct weir_cond *cond);

/*
 * Unlocks the mutex, parks until signalled, and locks it again. The mutex is held when it returns,
 * whatever it returns; locking it again is no cancellation point. Returns 0, -ECANCELED, -ETIME,
 * -EPIPE (the condition is done); -EINVAL outside tasks. Look at the condition again after 0:
 * another task may have been faster.
 */
WEIR_API WEIR_MUST WEIR_NONNULL int weir_cond_wait(struct weir_cond *cond,
						   struct weir_mutex *mutex);

/* Wakes who has waited longest, or all who wait. With the mutex held or not. */
WEIR_API WEIR_NONNULL void weir_cond_signal(struct weir_cond *cond);
WEIR_API WEIR_NONNULL void weir_cond_broadcast(struct weir_cond *cond);

/* Many readers or one writer. First come first served, so neither starves the other. */
struct weir_rwlock {
	void *private_[3];
};

WEIR_API WEIR_NONNULL void weir_rwlock_init(struct weir_rwlock *lock);
WEIR_API WEIR_NONNULL void weir_rwlock_done(struct weir_rwlock *lock);

/* Park while it is held the other way, or a writer waits. Return like weir_mutex_lock(). */
WEIR_API WEIR_MUST WEIR_NONNULL int weir_rwlock_read(struct weir_rwlock *lock);
WEIR_API WEIR_MUST WEIR_NONNULL int weir_rwlock_write(struct weir_rwlock *lock);
/* -EBUSY instead of parking. */
WEIR_API WEIR_MUST WEIR_NONNULL int weir_rwlock_try_read(struct weir_rwlock *lock);
WEIR_API WEIR_MUST WEIR_NONNULL int weir_rwlock_try_write(struct weir_rwlock *lock);
/* Ends what _read() or _write() began. */
WEIR_API WEIR_NONNULL void weir_rwlock_unlock(struct weir_rwlock *lock);

/* A number of units, taken and given back: back-pressure. */
struct weir_sem {
	void *private_[4];
};

/* Starts with so many units. */
WEIR_API WEIR_NONNULL void weir_sem_init(struct weir_sem *sem, size_t units);
WEIR_API WEIR_NONNULL void weir_sem_done(struct weir_sem *sem);

/*
 * Takes `units` at once; parks until they are there. Who waits for many is not overtaken by who
 * wants few. Returns 0, -ECANCELED, -ETIME, -EPIPE, -EINVAL.
 */
WEIR_API WEIR_MUST WEIR_NONNULL int weir_sem_wait_for(struct weir_sem *sem, size_t units);
/* Takes one. */
WEIR_API WEIR_MUST WEIR_NONNULL int weir_sem_wait(struct weir_sem *sem);
/* -EAGAIN instead of parking, and while others wait. */
WEIR_API WEIR_MUST WEIR_NONNULL int weir_sem_try_wait(struct weir_sem *sem, size_t units);

/* Gives one, or so many; -EOVERFLOW, and nothing given, above SIZE_MAX / 4 units. */
WEIR_API WEIR_NONNULL int weir_sem_post(struct weir_sem *sem);
WEIR_API WEIR_NONNULL int weir_sem_post_many(struct weir_sem *sem, size_t units);

/* Units free now. */
WEIR_API WEIR_NONNULL size_t weir_sem_units(const struct weir_sem *sem);

/* Something that has happened, or not yet: all who wait go on when it is set. */
struct weir_event {
	void *private_[3];
};

WEIR_API WEIR_NONNULL void weir_event_init(struct weir_event *event);
WEIR_API WEIR_NONNULL void weir_event_done(struct weir_event *event);
WEIR_API WEIR_NONNULL void weir_event_set(struct weir_event *event);
WEIR_API WEIR_NONNULL void weir_event_reset(struct weir_event *event);
WEIR_API WEIR_NONNULL bool weir_event_is_set(const struct weir_event *event);

/* Parks until it is set. Returns 0, -ECANCELED, -ETIME, -EPIPE, -EINVAL. */
WEIR_API WEIR_MUST WEIR_NONNULL int weir_event_wait(struct weir_event *event);

/*
 * A wake-up for one: a notification that finds nobody waiting is kept, one of them, for the next
 * who comes.
 */
struct weir_notify {
	void *private_[3];
};

WEIR_API WEIR_NONNULL void weir_notify_init(struct weir_notify *notify);
WEIR_API WEIR_NONNULL void weir_notify_done(struct weir_notify *notify);
WEIR_API WEIR_NONNULL void weir_notify_one(struct weir_notify *notify);
/* Wakes all who wait now; keeps nothing. */
WEIR_API WEIR_NONNULL void weir_notify_all(struct weir_notify *notify);
/* Parks until notified. Returns 0, -ECANCELED, -ETIME, -EPIPE, -EINVAL. */
WEIR_API WEIR_MUST WEIR_NONNULL int weir_notify_wait(struct weir_notify *notify);

/* One value, sent once, received once. */
struct weir_oneshot {
	void *private_[4];
};

WEIR_API WEIR_NONNULL void weir_oneshot_init(struct weir_oneshot *oneshot);
WEIR_API WEIR_NONNULL void weir_oneshot_done(struct weir_oneshot *oneshot);

/*
 * Hands over `value`, what it points at included. Returns 0; -EPIPE when closed, -EALREADY when
 * there was one: `value` is the caller's still.
 */
WEIR_API WEIR_MUST int weir_oneshot_send(struct weir_oneshot *oneshot, void *value);

/*
 * Parks until the value has come. Returns 0, -EPIPE when closed before or received already,
 * -ECANCELED, -ETIME, -EINVAL.
 */
WEIR_API WEIR_MUST WEIR_NONNULL int weir_oneshot_recv(struct weir_oneshot *oneshot, void **ret);
/* -EAGAIN instead of parking. */
WEIR_API WEIR_MUST WEIR_NONNULL int weir_oneshot_try_recv(struct weir_oneshot *oneshot, void **ret);

/* Nothing more will be sent: what was sent can be received, then -EPIPE. Either side may say so. */
WEIR_API WEIR_NONNULL void weir_oneshot_close(struct weir_oneshot *oneshot);

/* Something that is to be done once. All-zero memory is a new one; there is nothing to end. */
struct weir_once {
	void *private_[3];
};

/*
 * Runs fn(arg), in the first task that comes; parks who comes meanwhile. When fn fails, its error
 * is the result of that call alone, and the next who waits, or comes, runs its own. Returns 0 once
 * some fn has returned 0 or more, an error of fn's, -ECANCELED, -ETIME, -EINVAL.
 */
WEIR_API WEIR_MUST int weir_once(struct weir_once *once, weir_fn fn, void *arg);

/* A place where so many tasks wait for each other, again and again. */
struct weir_barrier {
	void *private_[4];
};

WEIR_API WEIR_NONNULL void weir_barrier_init(struct weir_barrier *barrier, unsigned parties);
WEIR_API WEIR_NONNULL void weir_barrier_done(struct weir_barrier *barrier);

/*
 * Parks until `parties` tasks have come. Returns 1 in the one that came last, 0 in the others;
 * -ECANCELED or -ETIME: it has not come, and may do so later; -EPIPE, -EINVAL.
 */
WEIR_API WEIR_MUST WEIR_NONNULL int weir_barrier_wait(struct weir_barrier *barrier);

/* Counts what is under way, for who waits until nothing is. */
struct weir_group {
	void *private_[4];
};

WEIR_API WEIR_NONNULL void weir_group_init(struct weir_group *group);
WEIR_API WEIR_NONNULL void weir_group_done(struct weir_group *group);

/* So many more. Does not park, any thread. Returns 0, -EPIPE when closed, -EOVERFLOW. */
WEIR_API WEIR_MUST WEIR_NONNULL int weir_group_add(struct weir_group *group, size_t members);
/* One less, of those that were added. Any thread. */
WEIR_API WEIR_NONNULL void weir_group_finish(struct weir_group *group);
/* Nothing more can be added. */
WEIR_API WEIR_NONNULL void weir_group_close(struct weir_group *group);
/* Parks until there is none. Returns 0, -ECANCELED, -ETIME, -EPIPE, -EINVAL. */
WEIR_API WEIR_MUST WEIR_NONNULL int weir_group_wait(struct weir_group *group);

/* ---- One to many -------------------------------------------------------- */

/* A channel whose every item goes to every reader. Sending never waits: slow readers miss items. */
typedef struct weir_broadcast weir_broadcast;

/* Gives one that keeps the last `capacity` (0 counts as 1) items of `item_bytes`; NULL when memory
 * is exhausted or the sizes are out of bounds. */
WEIR_API WEIR_MUST weir_broadcast *weir_broadcast_new(size_t item_bytes, size_t capacity);
/* Takes it. Who still waits gets -EPIPE; no reader may be used again. Accepts NULL. */
WEIR_API void weir_broadcast_free(weir_broadcast *broadcast);
/* Copies *item in, over the oldest one. Does not park, any thread. Returns 0 or -EPIPE (closed). */
WEIR_API WEIR_MUST WEIR_NONNULL int weir_broadcast_send(weir_broadcast *broadcast,
							const void *item);
/* No more sends; readers read what is left and then get -EPIPE. */
WEIR_API WEIR_NONNULL void weir_broadcast_close(weir_broadcast *broadcast);

/* Where one task has got to. Caller's memory; nothing to end. For one task at a time. */
struct weir_reader {
	void *private_[4];
};

/* Reads what is sent from now on. */
WEIR_API WEIR_NONNULL void weir_reader_init(struct weir_reader *reader, weir_broadcast *broadcast);

/*
 * Copies the next item to *ret; parks until there is one. Returns 0; -EOVERFLOW when items were
 * overwritten unread: weir_reader_missed() counts them, and the next call gets the oldest that is
 * left; -EPIPE when closed and everything read, -ECANCELED, -ETIME, -EINVAL.
 */
WEIR_API WEIR_MUST WEIR_NONNULL int weir_reader_recv(struct weir_reader *reader, void *ret);
/* -EAGAIN instead of parking. */
WEIR_API WEIR_MUST WEIR_NONNULL int weir_reader_try_recv(struct weir_reader *reader, void *ret);
/* Items missed so far, as far as weir_reader_recv() has said so. */
WEIR_API WEIR_NONNULL uint64_t weir_reader_missed(const struct weir_reader *reader);

/* A value that changes, such as a configuration: who waits gets the latest, not every one. */
typedef struct weir_watch weir_watch;

/* Gives one that holds a copy of *item; NULL when memory is exhausted. */
WEIR_API WEIR_MUST WEIR_NONNULL weir_watch *weir_watch_new(size_t item_bytes, const void *item);
/* Takes it. Who still waits gets -EPIPE. Accepts NULL. */
WEIR_API void weir_watch_free(weir_watch *watch);
/* Copies *item in and wakes who waits. Does not park, any thread. */
WEIR_API WEIR_NONNULL void weir_watch_set(weir_watch *watch, const void *item);
/* Copies the value to *ret and returns its version, which grows with every change. Any thread. */
WEIR_API WEIR_NONNULL uint64_t weir_watch_get(weir_watch *watch, void *ret);
/* There will be no more changes: who waits gets -EPIPE. */
WEIR_API WEIR_NONNULL void weir_watch_close(weir_watch *watch);

/*
 * Parks until the version is another than *version (0: any), then copies the value to *ret and its
 * version to *version. Returns 0, -EPIPE, -ECANCELED, -ETIME, -EINVAL.
 */
WEIR_API WEIR_MUST WEIR_NONNULL int weir_watch_wait(weir_watch *watch, uint64_t *version,
						    void *ret);

static inline void weir__broadcast_cleanup(weir_broadcast **broadcast)
{
	weir_broadcast_free(*broadcast);
}
static inline void weir__watch_cleanup(weir_watch **watch)
{
	weir_watch_free(*watch);
}
#define weir_auto_broadcast WEIR_CLEANUP(weir__broadcast_cleanup) __typeof__(weir_broadcast *)
#define weir_auto_watch	    WEIR_CLEANUP(weir__watch_cleanup) __typeof__(weir_watch *)

/* ---- Waiting for several things ----------------------------------------- */

/* One of the things a weir_select() waits for, made by a weir_case_...() function. */
struct weir_case {
	const void *source_; /* the fields but result are the runtime's */
	void *object_;
	void *item_;
	int64_t count_;
	int result; /* of the case that was taken: what the call by itself would have returned */
};

/*
 * Parks until one of the cases can be had, and takes exactly that one: of the others nothing is
 * taken, received or sent. Among several that are ready it chooses in turn. A closed channel is
 * ready, with -EPIPE as its result; a zeroed case never is. Returns the number of the case, whose
 * `result` is set; or -ECANCELED, -ETIME, -EINVAL (no task, no case or more than WEIR_CASES_MAX),
 * -ENOMEM.
 */
WEIR_API WEIR_MUST WEIR_NONNULL int weir_select(struct weir_case *cases, unsigned count);
/* -EAGAIN instead of parking, and no cancellation point. */
WEIR_API WEIR_MUST WEIR_NONNULL int weir_select_try(struct weir_case *cases, unsigned count);
enum { WEIR_CASES_MAX = 64 };

/* A select of that one case: parks, returns its result, or the errors of weir_select(). */
WEIR_API WEIR_MUST int weir_fd_wait(int fd, unsigned events);

/* Each does what its call does; what is pointed at is borrowed until weir_select() returns. */
WEIR_API WEIR_NONNULL struct weir_case weir_case_send(weir_chan *chan, const void *item);
WEIR_API WEIR_NONNULL struct weir_case weir_case_recv(weir_chan *chan, void *ret);
/* Is over after so many nanoseconds, from the call of weir_select(). */
WEIR_API struct weir_case weir_case_timer(int64_t ns);
/*
 * Its result is what the descriptor is ready for, of `events`, as in poll(2); or -EBADF, -ENOMEM,
 * -EMFILE, -EOPNOTSUPP (no driver of the kernel's). The descriptor is borrowed.
 */
WEIR_API struct weir_case weir_case_fd(int fd, unsigned events);
/* Its result is the task's. */
WEIR_API WEIR_NONNULL struct weir_case weir_case_join(struct weir_join *join);
WEIR_API WEIR_NONNULL struct weir_case weir_case_sem(struct weir_sem *sem, size_t units);
WEIR_API WEIR_NONNULL struct weir_case weir_case_event(struct weir_event *event);
WEIR_API WEIR_NONNULL struct weir_case weir_case_notify(struct weir_notify *notify);
WEIR_API WEIR_NONNULL struct weir_case weir_case_group(struct weir_group *group);
WEIR_API WEIR_NONNULL struct weir_case weir_case_reader(struct weir_reader *reader, void *ret);
WEIR_API WEIR_NONNULL struct weir_case weir_case_watch(weir_watch *watch, uint64_t *version,
						       void *ret);
WEIR_API WEIR_NONNULL struct weir_case weir_case_oneshot(struct weir_oneshot *oneshot, void **ret);

/* ---- Generators --------------------------------------------------------- */

/* Caller's memory, declared before the scope; the fields are the runtime's. */
struct weir_gen {
	void *private_[8];
};

/* Calls weir_gen_yield() for each item; what it returns ends the sequence. */
typedef int (*weir_gen_fn)(struct weir_gen *gen, void *arg);

/*
 * Starts fn(gen, arg) as a task of `scope` that runs only while it is asked: from weir_gen_next()
 * to weir_gen_yield(). Both are borrowed until the scope is closed. Returns 0 or the errors of
 * weir_spawn().
 */
WEIR_API WEIR_MUST int weir_gen_open(struct weir_gen *gen, struct weir_scope *scope, weir_gen_fn fn,
				     void *arg);

/*
 * For the generator: shows `item` (lent to the consumer until this returns) and parks until the
 * next is wanted. Returns 0, -ECANCELED, -ETIME, -EINVAL (not in its task).
 */
WEIR_API WEIR_MUST int weir_gen_yield(struct weir_gen *gen, void *item);

/*
 * Parks until the generator has shown an item, which stays as it is until the next call or until
 * the generator's scope is cancelled, or has ended. Returns 1 with the item in *ret; 0 at the end;
 * the error fn has returned; -ECANCELED, -ETIME: the item is the next call's; -EBUSY (another task
 * waits for it), -EINVAL (outside tasks, on another worker, or nothing was opened).
 */
WEIR_API WEIR_MUST WEIR_NONNULL int weir_gen_next(struct weir_gen *gen, void **ret);

/* ---- Blocking calls ----------------------------------------------------- */

typedef struct weir_blocking_pool weir_blocking_pool;

struct weir_blocking_pool_opts {
	const char *name; /* positional; borrowed while the pool lives; shown by ps and dumps */
	size_t size;	  /* filled by the macro */
	unsigned threads_max;
	unsigned queue_max; /* jobs that may wait for a thread; 0: 1024 */
};

/*
 * Gives a pool of threads for work that blocks, so that slow work of one kind does not hold up
 * another. Threads start when they are needed and end after 10 idle seconds. Does not park. Returns
 * 0, -EINVAL (no threads_max), -ENOMEM.
 */
WEIR_API WEIR_MUST WEIR_NONNULL int
weir_blocking_pool_new_with(weir_blocking_pool **ret, const struct weir_blocking_pool_opts *opts);
#define weir_blocking_pool_new(ret, ...)                                                           \
	weir_blocking_pool_new_with(                                                               \
		(ret), &(struct weir_blocking_pool_opts){                                          \
			       __VA_ARGS__, .size = sizeof(struct weir_blocking_pool_opts) })

/* Takes the pool; never waits: abandoned work ends on its own. No task may be waiting for it.
 * Accepts NULL. */
WEIR_API void weir_blocking_pool_free(weir_blocking_pool *pool);

struct weir_blocking_opts {
	weir_fn fn; /* the two positional ones come first and never move */
	void *arg;
	size_t size;		  /* filled by the macro */
	weir_blocking_pool *pool; /* NULL: the pool "user", of WEIR_BLOCKING_THREADS threads */
	int *ret_result; /* gets what fn returned; the call then returns 0, or an error of its own
			  */
	/*
	 * Makes the work abandonable: when the task is cancelled or its time is up, the call
	 * returns although fn still runs. The call takes `arg`, which must not lie on the task's
	 * stack: when it succeeds it gives it back, on an error of its own abandon(arg) is called,
	 * at once or on fn's thread when fn has ended; but with -EINVAL or -E2BIG nothing was
	 * taken. Needs ret_result. NULL: work that runs is waited for.
	 */
	void (*abandon)(void *arg);
};

/*
 * Runs fn(arg) on a thread of a pool and parks until it has returned; fn may block, and may call
 * nothing that parks. Returns what fn returned; or without having run it -EAGAIN (the queue is
 * full, or no thread can be had), -ENOMEM, -ECANCELED, -ETIME, -EINVAL (not in a task, no fn). Once
 * fn runs it is not interrupted: the task waits for it, or abandons it.
 */
WEIR_API WEIR_MUST WEIR_NONNULL int weir_blocking_with(const struct weir_blocking_opts *opts);
#define weir_blocking(...)                                                                         \
	weir_blocking_with(&(struct weir_blocking_opts){                                           \
		__VA_ARGS__, .size = sizeof(struct weir_blocking_opts) })

struct weir_blocking_stats {
	unsigned threads; /* alive */
	unsigned idle;	  /* of them without work */
	unsigned queued;  /* jobs that wait for a thread */
};
/* Of a pool; NULL: of the pool "user". */
WEIR_API void weir_blocking_stats_get(weir_blocking_pool *pool, struct weir_blocking_stats *ret);

/* ---- Errors, version ---------------------------------------------------- */

/* A constant sentence for a negative errno value, e.g. "connection reset by peer". Never NULL. */
WEIR_API const char *weir_strerror(int err);

/* Its name, e.g. "ECONNRESET"; "0" for 0 as strerrorname_np(3) has it, "unknown" for others. */
WEIR_API const char *weir_errname(int err);

#define WEIR_VERSION "0.1.0"
WEIR_API const char *weir_version(void);

/* ---- Seeing inside ------------------------------------------------------ */

/* What one worker has done since it started; sums with WEIR_ALL_WORKERS. */
struct weir_worker_stats {
	uint64_t turns;	   /* trips round the loop */
	uint64_t parks;	   /* times it slept in the kernel */
	uint64_t switches; /* task resumptions */
	uint64_t spawns;
	uint64_t tasks; /* alive now */
	uint64_t
		enters; /* system calls that submitted or waited: io_uring_enter, or all on epoll */
	uint64_t submissions; /* entries handed to the kernel: operations, cancels, closes */
	uint64_t completions;
	uint64_t wakes; /* times another thread woke it */
	uint64_t timers_fired;
	uint64_t recv_empty; /* receives that found no buffer (ENOBUFS) */
	uint64_t cq_overflows;
	uint64_t stale_completions;
	uint64_t steals;	/* un-started tasks (.any) it took from other workers */
	uint64_t wakes_late;	/* wake-ups it had to make good, or the watcher for it: a bug, or a
				   machine at its end */
	uint64_t stalls;	/* times a task held it beyond WEIR_STALL_MS */
	uint64_t lingers;	/* times it looked out for something before it would sleep */
	uint64_t lingers_found; /* of them: times there was something to do, and it did not sleep */
	uint64_t rescues;	/* times it rested because another worker had no CPU */
	/* what ended the other parks, those that are not `wakes` */
	uint64_t wakes_io;    /* completions; on epoll descriptors that are ready */
	uint64_t wakes_timer; /* a task's deadline or sleep */
	uint64_t wakes_heap;  /* memory to give back */
	uint64_t wakes_other; /* receive buffers to give back; a look after another worker
			       */
};
#define WEIR_ALL_WORKERS (-1)

/* Statistics of the runtime the caller runs in. Returns 0, or -EINVAL outside it or for no such
 * worker. */
WEIR_API WEIR_MUST WEIR_NONNULL int weir_worker_stats_get(int worker,
							  struct weir_worker_stats *ret);

/*
 * Writes every task of the runtime, as a tree, to `out`, which is borrowed: id, name, what it waits
 * for and how long it has, where it was spawned, its stack (in use, of, and touched so far) and its
 * frames; then how deep stacks get, as weir_stack_uses_get() tells. All workers stand still while
 * it looks, not while it writes; one that does not let itself be stopped for 100 ms is interrupted
 * by SIGURG and shown with what it runs. The caller's worker waits. Does not park. Returns 0,
 * -EINVAL outside a runtime, -ESHUTDOWN when all tasks have ended, -ENOMEM, or the error of
 * writing. SIGQUIT does the same to standard
 * error (WEIR_DUMP_SIGNAL=0: not).
 */
WEIR_API WEIR_MUST WEIR_NONNULL int weir_tasks_write(FILE *out);

/* How deep the stacks of the tasks have got that were spawned at one place with one stack class. */
struct weir_stack_use {
	char site[80];	   /* "file.c:12", the end of it if it is longer */
	uint64_t measured; /* tasks, those that still run among them */
	uint32_t deepest_bytes;
	uint32_t usable_bytes;
	enum weir_stack_class stack; /* theirs */
	enum weir_stack_class fits;  /* the smallest of which the deepest took two thirds at most */
};
enum { WEIR_STACK_USES_MAX = 128 };

/*
 * Fills up to `n` entries, one per place; there are at most WEIR_STACK_USES_MAX. A worker measures
 * one in WEIR_STACK_CENSUS of the tasks it spawns, to the byte; the first ones more often. Returns
 * how many were filled, 0 outside a runtime.
 */
WEIR_API WEIR_NONNULL size_t weir_stack_uses_get(struct weir_stack_use *ret, size_t n);

#ifdef __cplusplus
}
#endif
#endif
