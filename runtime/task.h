/* SPDX-License-Identifier: MIT */
/*
 * task.h: what a task, a scope and a worker are, and how code inside the library parks and wakes
 * tasks.
 *
 * Ownership. A task's record belongs to the worker that spawned it (`home`); the task runs on
 * `worker`, mostly the same. Every field is touched by `worker` alone, except: `remote` and `in`
 * (any worker, by the message protocol below) and the sibling links (home).
 *
 * A task is in exactly one of: a run queue (READY), running (RUNNING), parked on something
 * (PARKED), an inbox on its way to another worker (NEW), or on its way home (ENDED).
 */
#ifndef WEIR_TASK_H
#define WEIR_TASK_H

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <time.h>

#include <weir/runtime.h>

#include "alloc/alloc_internal.h"
#include "runtime/census.h"
#include "runtime/classes.h"
#include "runtime/config.h"
#include "runtime/driver.h"
#include "runtime/fatal.h"
#include "runtime/linger.h"
#include "runtime/lookout.h"
#include "runtime/rescue.h"
#include "runtime/timer.h"

struct weir__worker;
struct weir__runtime;
struct weir__task;

/* ---- Messages between workers ------------------------------------------- */

/* Embedded in what is sent; handled once on the receiving worker's scheduler stack. */
struct weir__msg {
	struct weir__msg *next;
	void (*fn)(struct weir__worker *self, struct weir__msg *msg);
};

/* Any thread. The message must stay alive until it is handled. */
void weir__worker_post(struct weir__worker *target, struct weir__msg *msg);
/*
 * The same to a worker of this runtime, which is woken only when this one reads the clock next, or
 * has nothing more to run: for what comes in numbers. Before the slice of a turn, or in it.
 */
void weir__worker_post_soon(struct weir__worker *self, struct weir__worker *target,
			    struct weir__msg *msg);
/* Wakes the worker if it is parked and nobody else has; says so. Any worker, after a fence. */
bool weir__worker_wake_parked(struct weir__worker *target);

/* Has it turn when it sleeps: what its heap has to do is not in its inbox. Any thread. */
void weir__worker_wake(struct weir__worker *target);

/*
 * Bits of weir__task.remote. Whoever sets QUEUED pushes `in`; the task's worker takes the other
 * bits off when it handles it. ENDED is set once and stays: nobody pushes `in` after it, and
 * whoever of the ending task and the queued `in` comes last sends the record home. FRESH is set
 * while the task waits for any worker to take it (fresh.c): nobody pushes `in`, and the taker sees
 * the other bits.
 */
enum {
	WEIR__REMOTE_QUEUED = 1 << 0,
	WEIR__REMOTE_START = 1 << 1,
	WEIR__REMOTE_CANCEL = 1 << 2,
	WEIR__REMOTE_WAKE = 1 << 3,
	WEIR__REMOTE_ENDED = 1 << 4,
	WEIR__REMOTE_FRESH = 1 << 5,
};

/* ---- Tasks -------------------------------------------------------------- */

enum weir__task_state {
	WEIR__TASK_NEW,
	WEIR__TASK_READY,
	WEIR__TASK_RUNNING,
	WEIR__TASK_PARKED,
	WEIR__TASK_ENDED,
};

struct weir__scope;

/*
 * Ends the wait of a parked task early, `why` is -ECANCELED, -ETIME or, when a sleep is over, 0.
 * Either makes the task ready at once (weir__ready) or, for an operation in the kernel, asks for
 * its cancellation and leaves the waking to its completion. Called at most once per park, on the
 * task's worker.
 */
typedef void (*weir__abort_fn)(struct weir__task *task, int why);

/* Three cache lines: what a switch touches, what spawn and end touch, what the curious touch. */
struct weir__task {
	union {
		struct weir__task *next; /* run queue */
		int64_t parked_ns;	 /* while parked: since when */
	};
	void *sp;		    /* while not running; NULL before the first run */
	struct weir__stack *stack;  /* NULL before the first run */
	int result;		    /* what park() returns; at the end what fn returned */
	uint8_t state;		    /* enum weir__task_state */
	uint8_t cancelled;	    /* of the innermost scope: checked by every blocking call;
				       0 or WEIR__CANCELLED_... */
	uint8_t priority;	    /* enum weir_priority */
	uint8_t stack_shift : 4;    /* stack of 32 KiB << stack_shift */
	uint8_t has_extra : 1;	    /* `extra` is set */
	uint8_t base_cancelled : 3; /* of the task itself, below its own scopes: see scope.c */
	struct weir__scope *scope;  /* innermost of its own; NULL: none open */
	int64_t deadline_ns;	    /* effective, of the innermost scope */
	weir__abort_fn abort;	    /* while parked; NULL: cannot be interrupted */
	/*
	 * The abort function's: what it is parked on. Parked without one: a static text that says
	 * so.
	 */
	void *wait;

	weir_fn fn;
	void *arg;
	struct weir__scope *owner;	 /* the scope it was spawned in; NULL: the root task */
	struct weir__task *sibling_next; /* in owner's list; home only */
	struct weir__task **sibling_pprev;
	/*
	 * May be left armed earlier than needed: see arm() in task.c. expires_ns is INT64_MAX while
	 * it is not armed: one comparison says whether it fires in time.
	 */
	struct weir__timer timer;

	const char *name; /* borrowed; may be NULL */
	const char *site; /* static */
	union {
		int64_t wake_ns;	/* while abort is set: the earlier of deadline and sleep */
		weir__abort_fn aborted; /* parked without: what was called; NULL: nothing was */
	};
	union {
		struct weir__extra *extra; /* memory, deferred calls, values: see extra.h */
		weir_fn measured_fn;	   /* before it has run: see census.h */
	};
	struct weir__msg in; /* START, CANCEL, WAKE from other workers; the record going home */
	_Atomic uint8_t remote;
	uint16_t id_high; /* 48 bits count up per spawning worker: months at full speed */
	uint32_t id_low;
	struct weir__worker *worker; /* where it runs; home is owner->task->worker */
};
_Static_assert(sizeof(struct weir__task) == 192, "three cache lines");

/* ---- Scopes ------------------------------------------------------------- */

enum weir__awaits { WEIR__AWAITS_NOTHING, WEIR__AWAITS_CHILDREN, WEIR__AWAITS_ASK };

/* Of the message that has a scope cancelled. It is sent once in a scope's life. */
enum weir__asked { WEIR__ASKED_NOT, WEIR__ASKED_POSTED, WEIR__ASKED_HANDLED };

/*
 * Lies in struct weir_scope. All fields: the opener's worker only, but for asked and ask (by which
 * others have the scope cancelled) and the links of its token; task and deadline_ns do not change
 * while open.
 */
struct weir__scope {
	struct weir__task *task;    /* the opener; NULL when closed or opened outside tasks */
	struct weir__scope *parent; /* next outer scope of the same task */
	int64_t deadline_ns;
	struct weir__task *children;
	int64_t outer_deadline_ns; /* the task's when this is closed */
	uint32_t pending;	   /* children that have not ended */
	int error;		   /* first failure of a child */
	uint8_t cancelled;
	uint8_t is_shield;
	uint8_t awaits;	       /* enum weir__awaits: what the opener is parked for */
	_Atomic uint8_t asked; /* enum weir__asked, of `ask`; any thread makes it POSTED */
	uint8_t is_bound;      /* the next three hold */
	struct weir__msg ask;
	struct weir__token *token;	/* constant while bound */
	struct weir__scope *bound_next; /* in the token's list, under its lock */
	struct weir__scope **bound_pprev;
};
_Static_assert(sizeof(struct weir__scope) <= sizeof(struct weir_scope), "fits the public struct");

/* ---- Workers ------------------------------------------------------------ */

enum weir__park_state { WEIR__AWAKE, WEIR__PARKED };

/* Tasks that any worker may start; oldest first. Any worker, under the lock. */
struct weir__fresh {
	_Alignas(64) atomic_flag lock;
	struct weir__task *head;
	struct weir__task **tail;
	_Atomic uint32_t count; /* written under the lock, read at any time */
};

struct weir__worker {
	/* hot: owner only */
	struct weir__task *current;
	struct weir__task *runq_head; /* of the class that has its turn; see classes.h */
	struct weir__task **runq_tail;
	struct weir__task **born; /* where in the queue the current task's next child goes */
	int32_t slice_left;	  /* resumptions until the loop looks at the clock again, */
	int32_t slice_deep;	  /* or until so many more that go depth first: see run_slice() */
	int32_t budget;		  /* operations the current task may complete without parking */
	int64_t now_ns;		  /* the clock when it was last read: see run_slice() */
	void *scheduler_sp;
	uint8_t priority;	 /* of the run queue */
	uint8_t classes_waiting; /* bit p: class p, which is not that, has ready tasks */
	uint8_t classes_new;	 /* the same, of those that had none when the turn began */
	uint8_t stack_shift;	 /* of tasks that ask for none; from the configuration, like: */
	int32_t budget_full;
	bool depth_first; /* children before what was ready before them: see run_slice() */
	bool use_ucontext;
	bool has_sent;		 /* wake-ups that lie in its driver until that is called next */
	bool may_owe_fresh;	 /* woken, maybe for one of many un-started tasks: see fresh.c */
	bool stopping;		 /* leave the loop when nothing is left */
	_Atomic bool is_settled; /* about to sleep, or asleep; owner writes */
	uint16_t index;
	struct weir__worker_counts {
		uint64_t switches, turns, parks, spawns, wakes, timers_fired, steals, wakes_late,
			lingers, lingers_found, wakes_io, wakes_timer, wakes_heap, wakes_other,
			rescues;
	} counts;	       /* owner writes, others read relaxed */
	int64_t heap_until_ns; /* when its heap wants to be woken, as of the last settle() */
	struct weir__runtime *runtime;
	struct weir__driver *driver;
	struct weir__stack thread_stack; /* the loop's, for the sanitizers */
	uint32_t slice_resumes;		 /* what slice_left starts from: see run_slice() */
	uint64_t ids;
	uint64_t census_at;	    /* the number of the next task to be measured; 0: none is */
	uint64_t live;		    /* tasks that run here and have not ended */
	struct weir__drain *drains; /* servers to tell when the runtime drains; owner only */
	struct weir__task *fed;	    /* went from `fresh` into the run queue and has not started */
	struct weir__msg *taken;    /* from the inbox, not handled yet; oldest first */
	/* see watch_target() in worker.c */
	struct weir__worker *posted_to;
	struct weir__worker *owes_wake; /* has a message and was not woken for it yet */
	const struct weir__msg *suspect;
	uint64_t suspect_turns;
	int64_t suspect_ns;
	struct weir__linger linger;
	struct weir__lookout lookout;
	struct weir__rescue rescue;
	struct weir__mutex_tries {
		unsigned skip;	  /* so many are not made now */
		unsigned skipped; /* were not made before the last */
	} mutex_tries;		  /* see mutex.c */
	int cpu; /* where it ran after its last sleep; kept while the runtime's linger_ns is not 0
		  */
	struct weir__class classes[WEIR__PRIORITIES];
	unsigned select_turn; /* where the next weir_select() begins; owner only */
	struct weir__wheel wheel;

	/* shared: any thread */
	_Alignas(64) _Atomic(struct weir__msg *) inbox; /* push by CAS, taken whole by the owner */
	_Atomic int park_state;	  /* owner sets PARKED; exactly one waker takes it back */
	_Atomic int sender_cpu;	  /* of the last message from a worker of this runtime; -1: none */
	struct weir__msg control; /* stop and drain orders from worker 0 */
	_Atomic unsigned orders;  /* WEIR__ORDER_* bits that `control` carries */
	_Atomic unsigned posts;	  /* weir_post() to this worker under way */
	struct weir__fresh fresh;
	struct weir__rescue_shown rescue_shown;

	/* for who watches from outside: see watch.h */
	pthread_t thread;
	pid_t tid;
	struct weir__capture *capture; /* the watcher's; NULL: there is none */
	uint64_t stalls;	       /* the watcher writes this and the next */
	uint64_t woken_late;	       /* by it: somebody else was to */
};

enum {
	WEIR__ORDER_QUEUED = 1 << 0,
	WEIR__ORDER_STOP = 1 << 1,
	WEIR__ORDER_DRAIN = 1 << 2,
	WEIR__ORDER_STAND_STILL = 1 << 3,
	WEIR__ORDER_ABANDON = 1 << 4
};

/* A server that finishes its clients before the runtime stops. Lives on its worker. */
struct weir__drain {
	struct weir__drain *next;
	struct weir__drain **pprev;
	void (*begin)(
		struct weir__drain *drain); /* on the scheduler stack: may wake tasks, not park */
};

struct weir__runtime {
	struct weir__config config;
	unsigned workers_count;
	struct weir__worker **workers;
	bool use_ucontext;
	int64_t linger_ns;	 /* 0: no worker lingers before it sleeps */
	int64_t lookout_ns;	 /* the same for completions; see lookout.h */
	int64_t rescue_ns;	 /* 0: nobody is made room for; see rescue.h */
	_Atomic unsigned drains; /* registered on all workers */
	_Atomic unsigned
		stop_requests; /* signals and weir_stop() so far; any thread, signal handlers */
	_Atomic unsigned left; /* workers out of their loops; any worker */
	_Atomic unsigned foreign_posts; /* weir__worker_post() under way outside its workers */
	struct weir_thread_hooks hooks;
	_Atomic bool has_fresh; /* a task was spawned with .any: stays set */
	/* for submissions: see call.c */
	uint64_t id;
	struct weir__runtime *next_running; /* under call.c's lock */
	_Atomic unsigned submissions;	    /* posted to worker 0 and not handled yet */
	struct weir_scope submitted;	    /* of the root task, around the main function */
	/* worker 0 only */
	unsigned stop_seen;
	int64_t drain_until_ns; /* INT64_MAX: not draining */
	_Atomic bool draining;
	struct weir__task root;
	int root_result;
	struct weir__watch *watch;     /* NULL: all workers are one thread's; see watch.h */
	_Atomic bool is_stopping_hard; /* worker 0 sets; shields cover nobody any more */
	struct weir__census census;
	bool is_abandoned;	   /* worker 0's: tasks that do not end are left behind */
	_Atomic bool is_unwatched; /* no worker was awake: who wakes up says so to the watcher */
};

/* ---- Services inside the library ---------------------------------------- */

/*
 * The calling thread's worker, NULL elsewhere. Compilers keep what they read from thread-local
 * storage over a context switch; here that is harmless, because a task never changes its thread.
 */
extern __thread struct weir__worker *weir__worker_tls __attribute__((tls_model("initial-exec")));
static inline struct weir__worker *weir__worker_self(void)
{
	return weir__worker_tls;
}

/* Reads the clock, for the deadline of a task that may have computed since that was last done. */
bool weir__deadline_passed(struct weir__worker *self, const struct weir__task *task);

/* True when weir__interrupted() is 0 without a reading of the clock. */
static inline bool weir__is_calm(const struct weir__worker *self, const struct weir__task *task)
{
	return !task->cancelled && task->deadline_ns - self->now_ns >= WEIR_SEC;
}

/*
 * What `cancelled` of tasks and scopes holds: how hard, and whether the deadline had passed by
 * then. The first reason stays: who was cancelled in time gets -ECANCELED for good, who was late
 * -ETIME.
 */
enum { WEIR__CANCELLED_SOFT = 1, WEIR__CANCELLED_HARD = 2, WEIR__CANCELLED_LATE = 4 };

static inline int weir__cancelled_why(uint8_t cancelled)
{
	return cancelled & WEIR__CANCELLED_LATE ? -ETIME : -ECANCELED;
}

/* The same where nothing may be added to the way of those who are not cancelled. */
int weir__task_cancelled_why(const struct weir__task *task) __attribute__((cold));

/*
 * 0, or what a blocking call has to return at once: -ECANCELED or -ETIME. The worker's clock is as
 * old as its current task has run, so a deadline that is near is compared with a new reading; one
 * that was far when the task was resumed shows when the task parks or has spent its budget.
 */
static inline int weir__interrupted(struct weir__worker *self, const struct weir__task *task)
{
	if (__builtin_expect(task->cancelled, 0))
		return weir__task_cancelled_why(task);
	if (__builtin_expect(task->deadline_ns - self->now_ns < WEIR_SEC, 0) &&
	    weir__deadline_passed(self, task))
		return -ETIME;
	return 0;
}

/*
 * Parks the running task until weir__ready(); `abort` (with `wait` in task->wait) may end it
 * before, at the task's deadline or by cancellation. Returns the result given to weir__ready().
 */
int weir__park(struct weir__worker *self, weir__abort_fn abort, void *wait)
	__attribute__((nonnull(2)));

/* Where nothing can end the wait early: `what` is a static text, such as "close". */
void weir__park_for(struct weir__worker *self, const char *what);

/* The same with a time of its own at which abort(task, 0) is called. */
int weir__park_until(struct weir__worker *self, weir__abort_fn abort, void *wait, int64_t until_ns);

/* Makes a parked task of this worker ready; its park() returns `result`. Once per park. */
static inline void weir__ready(struct weir__worker *self, struct weir__task *task, int result)
{
	WEIR_DASSERT(task->state != WEIR__TASK_READY);
	task->result = result;
	task->state = WEIR__TASK_READY;
	task->next = NULL;
	if (__builtin_expect(task->priority != self->priority, 0)) {
		weir__class_ready(self, task);
		return;
	}
	*self->runq_tail = task;
	self->runq_tail = &task->next;
}

/*
 * Makes a task ready that is to run before those that are ready already: into the queue at `*at`,
 * while the worker goes depth first; else (false) like weir__ready().
 */
static inline bool weir__ready_before(struct weir__worker *self, struct weir__task *task,
				      struct weir__task **at)
{
	if (!self->depth_first || task->priority != self->priority) {
		weir__ready(self, task, 0);
		return false;
	}
	WEIR_DASSERT(task->state != WEIR__TASK_READY);
	task->result = 0;
	task->state = WEIR__TASK_READY;
	task->next = *at;
	*at = task;
	if (self->runq_tail == at)
		self->runq_tail = &task->next;
	return true;
}

/* Makes a task parked on any worker ready with result 0. The task must stay parked until then. */
void weir__wake(struct weir__task *task);

/* abort function for waits that need no more than waking. */
void weir__abort_ready(struct weir__task *task, int why);

/*
 * Spends one of the running task's budget; at zero lets others run. For calls that did not have to
 * park.
 */
void weir__budget_spend_slow(struct weir__worker *self);
static inline void weir__budget_spend(struct weir__worker *self)
{
	if (__builtin_expect(--self->budget < 0, 0))
		weir__budget_spend_slow(self);
}

/* Those whose main function runs, for debuggers: see call.c. */
extern struct weir__runtime *weir__runtimes;

/* Where the outermost frame of every task is. */
extern const uintptr_t weir__task_entry;

/* The pool of task records, made once. Called under io/run.c's start lock. */
WEIR_MUST int weir__task_pool_init(void);
void weir__task_free(struct weir__task *task);
void weir__task_cancel_remote(struct weir__task *task);
uint64_t weir__task_id(const struct weir__task *task);

struct weir__spawn {
	weir_fn fn;
	void *arg;
	const char *name;
	const char *site;
	struct weir__worker *worker; /* NULL: here */
	uint8_t stack_shift;
	uint8_t priority; /* WEIR_PRIORITY_INHERIT: that of the scope's opener */
	bool stack_now;	  /* bind the stack here and now, so that running cannot fail */
	bool any;	  /* any worker may start it; without `worker` and stack_now */
};
WEIR_MUST int weir__spawn(struct weir__scope *scope, const struct weir__spawn *spawn);
uint8_t weir__stack_shift(const struct weir__runtime *runtime, enum weir_stack_class stack_class);

static inline struct weir__scope *weir__scope_of(struct weir_scope *scope)
{
	return (struct weir__scope *)(void *)scope;
}

/* The slice ends with the running task's next park; what was not used of it does not count. */
static inline void weir__slice_cut(struct weir__worker *self)
{
	int32_t left = self->slice_left > 0 ? self->slice_left : 0;

	self->slice_resumes -= (uint32_t)(left + self->slice_deep);
	self->slice_left -= left;
	self->slice_deep = 0;
}

/* Called by the worker that ran it, when a task has ended; the record is gone afterwards. */
void weir__scope_child_ended(struct weir__worker *self, struct weir__task *task);
/*
 * Marks the task (of this worker) cancelled below its shields and interrupts it and all that depend
 * on it.
 */
void weir__task_cancel(struct weir__worker *self, struct weir__task *task);
/* Cancels `scope` of a task of this worker. */
void weir__scope_cancel(struct weir__worker *self, struct weir__scope *scope);
/*
 * Has `scope` cancelled on its worker, by a message. Any thread; the scope must stay open until the
 * message is handled.
 */
void weir__scope_ask(struct weir__scope *scope);
/* Ends the binding of a scope that is being closed: its token knows it no longer. */
void weir__token_unbind(struct weir__scope *scope);
/* The deadline or the sleep of a parked task may be over. On the scheduler stack. */
void weir__task_timer_fired(struct weir__worker *self, struct weir__timer *timer);
/* Ends a task's wait early, if it is in one that can be ended. */
void weir__interrupt(struct weir__task *task, int why);

/* The pool for names. */
weir_blocking_pool *weir__blocking_dns(struct weir__worker *self);
/* The pool for files; who waits for it is never refused for want of room. */
weir_blocking_pool *weir__blocking_fs(struct weir__worker *self);

/* Worker life, for io/run.c. */
void weir__worker_init(struct weir__worker *worker, struct weir__runtime *runtime, unsigned index);
void weir__worker_enter(struct weir__worker *worker); /* on its thread: sets weir__worker_self() */
void weir__worker_run(struct weir__worker *worker);   /* the loop; returns when stopped and empty */
/*
 * The loop in two halves, for who has a loop of its own. settle() publishes that the worker is
 * about to sleep, so that others wake it from here on, and returns until when it may: 0 when there
 * is something to do at once. turn() sleeps so long (0, or any earlier time, if the caller has
 * slept for it), takes what has come and runs ready tasks for a slice; false when the worker is
 * told to stop. Each turn() that sleeps wants a settle() before it.
 */
int64_t weir__worker_settle(struct weir__worker *worker);
bool weir__worker_turn(struct weir__worker *worker, int64_t wait_until_ns);
/* There is something to do, though nothing is ready: messages, others' tasks, a request to stop. */
bool weir__worker_has_news(struct weir__worker *worker);
/*
 * After the last turn(), at once: from here on this worker wakes no other. Whom it has claimed
 * nobody else will wake, and there is no next turn for that to go out with. In a foreign loop it
 * may be long until the finish().
 */
void weir__worker_stand_down(struct weir__worker *worker);
/* Then: waits until no other thread can want to wake this worker. */
void weir__worker_finish(struct weir__worker *worker);
/* Whether all workers have left their loops: from then on each closes its driver when it likes. */
bool weir__runtime_is_left(const struct weir__runtime *runtime);
/* For who may ask before the first task runs: NULL while the worker has not opened one. */
static inline struct weir__driver *weir__driver_of(const struct weir__worker *worker)
{
	/* pairs with the release of who has opened it */
	return __atomic_load_n(&worker->driver, __ATOMIC_ACQUIRE);
}
static inline void weir__hook(const struct weir__worker *self, void (*hook)(unsigned, void *))
{
	if (__builtin_expect(hook != NULL, 0))
		hook(self->index, self->runtime->hooks.user);
}
void weir__worker_leave(struct weir__worker *worker);
void weir__worker_order(struct weir__worker *target, unsigned order);
void weir__task_root(struct weir__runtime *runtime, weir_fn fn, void *arg);
/* Runs the program's main function in the root task, open to submissions (call.c). */
int weir__runtime_main(struct weir__runtime *runtime, weir_fn fn, void *arg);
/* Around fork(): nobody finds or ends a runtime meanwhile; in the child, under the lock, none is
 * left. */
void weir__calls_lock(void);
void weir__calls_unlock(void);
void weir__calls_forget(void);

/* The same for pools of blocking threads; forgotten with the lock held. */
void weir__blocking_lock(void);
void weir__blocking_unlock(void);
void weir__blocking_forget(void);
void weir__run_ready(
	struct weir__worker *self); /* from the scheduler stack: up to slice_left resumptions */

void weir__drain_add(struct weir__worker *self, struct weir__drain *drain);
void weir__drain_del(struct weir__worker *self, struct weir__drain *drain);
/* Asks for an orderly stop; async-signal-safe. */
void weir__runtime_stop(struct weir__runtime *runtime);

/* ---- In place of the machine -------------------------------------------- */

/*
 * What the simulator puts in the place of the machine, for the workers of the calling thread; NULL
 * on real ones. All but clock_ns() may be called on a task's stack and must leave it as it was.
 */
struct weir__virtual {
	/* Another worker of the thread may run before it returns. */
	int64_t (*clock_ns)(void);
	/* The running task is parked, or has yielded, and is about to be left. */
	void (*suspended)(struct weir__worker *self, struct weir__task *task);
	/* The running task ends: from here on its record may be gone. */
	void (*ended)(struct weir__worker *self);
	/* Nothing more can be done here until another worker has done something. */
	void (*relax)(void);
};
extern __thread const struct weir__virtual *weir__virtual
	__attribute__((tls_model("initial-exec")));

/* ---- Tasks any worker may start (fresh.c) ------------------------------- */

void weir__fresh_init(struct weir__fresh *fresh);
/* Queues a task with REMOTE_FRESH set here, and wakes one parked worker. */
void weir__fresh_push(struct weir__worker *self, struct weir__task *task);
/* The oldest of this worker's own, claimed and in no queue; NULL: others were faster. */
struct weir__task *weir__fresh_take(struct weir__worker *self);
/* Makes one of this worker's own ready; if there is none and nothing else to do, some of another's.
 */
void weir__fresh_feed(struct weir__worker *self);
bool weir__fresh_anywhere(const struct weir__runtime *runtime);
static inline uint32_t weir__fresh_count(const struct weir__fresh *fresh)
{
	return atomic_load_explicit(&fresh->count, memory_order_relaxed);
}
/* False also while nobody runs it yet: then its home may not touch it. */
static inline bool weir__runs_here(const struct weir__worker *self, const struct weir__task *task)
{
	/* acquire: pairs with the release of who takes it and writes `worker` */
	return !(atomic_load_explicit(&task->remote, memory_order_acquire) & WEIR__REMOTE_FRESH) &&
	       task->worker == self;
}

/* Between two looks at what another CPU writes. */
static inline void weir__pause(void)
{
#if defined(__x86_64__)
	__builtin_ia32_pause();
#elif defined(__aarch64__)
	__asm__ volatile("isb");
#endif
}

/* In a loop that spins until another worker is through with a few instructions. */
static inline void weir__relax(void)
{
	if (weir__virtual)
		weir__virtual->relax();
	else
		sched_yield();
}

int64_t weir__clock_ns(void);

/* Reads a counter that its one writer may be adding to. */
uint64_t weir__peek(const uint64_t *counter);

/* A cheap reading, up to a tick of the kernel (4 ms) behind. */
static inline int64_t weir__clock_coarse_ns(void)
{
	struct timespec now;

	if (__builtin_expect(weir__virtual != NULL, 0))
		return weir__virtual->clock_ns();
	clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
	return now.tv_sec * WEIR_SEC + now.tv_nsec;
}

#endif
