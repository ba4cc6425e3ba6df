/* SPDX-License-Identifier: MIT */
/*
 * worker.c: one thread, one driver, one heap, one loop.
 *
 * The turn: wait (or just submit) and reap; read the clock; expire timers; take from the inbox; run
 * ready tasks for a slice. Completions, timers and messages only make tasks ready; user code runs
 * in the slice alone.
 *
 * Parking. A producer pushes to the inbox, then looks at park_state; the worker sets park_state,
 * then looks at the inbox. A seq_cst fence between the two on both sides makes it impossible that
 * both look too early; whoever turns PARKED back into AWAKE is the one waker.
 */
#include "runtime/task.h"

#include <sched.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "alloc/usdt.h"
#include "runtime/linger.h"
#include "runtime/sanitizer.h"
#include "runtime/watch.h"

enum {
	RESUMES_PER_CLOCK_MAX = 64,
	RESUMES_GROWTH = 8,	/* from one reading of the clock to the next */
	RESUMES_IN_ORDER = 16,	/* of a slice; 64: five times the memory for a tree of a million */
	READINGS_PER_SLICE = 8, /* of the clock, about, while tasks run */
	TIMERS_PER_TURN = 256,
	MESSAGES_PER_TURN = 256,
};

/* From when on a message beside a worker that sleeps is not on its way any more. */
#define LATE_NS WEIR_SEC

__thread struct weir__worker *weir__worker_tls;
__thread const struct weir__virtual *weir__virtual;

int64_t weir__clock_ns(void)
{
	struct timespec now;

	if (__builtin_expect(weir__virtual != NULL, 0))
		return weir__virtual->clock_ns();
	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * WEIR_SEC + now.tv_nsec;
}

int64_t weir_now(void)
{
	return weir__clock_ns();
}

/* ---- Messages and orders ------------------------------------------------ */

/* Whether the worker is parked, and the caller has the right to wake it. */
static bool claim_parked(struct weir__worker *target)
{
	int parked = WEIR__PARKED;

	return atomic_load_explicit(&target->park_state, memory_order_relaxed) == WEIR__PARKED &&
	       atomic_compare_exchange_strong_explicit(&target->park_state, &parked, WEIR__AWAKE,
						       memory_order_relaxed, memory_order_relaxed);
}

bool weir__worker_wake_parked(struct weir__worker *target)
{
	struct weir__worker *self = weir__worker_self();
	/*
	 * What our driver sends goes out at the end of our turn, and a task may compute until then;
	 * and it knows drivers of its own kind only, those of this runtime. Between turns we are a
	 * signal's handler, amid whatever the driver does before it sleeps.
	 */
	bool can_wait = self && !self->current && self->runtime == target->runtime &&
			!atomic_load_explicit(&self->is_settled, memory_order_relaxed);

	struct weir__driver *driver = weir__driver_of(target);
	/* without one it is yet to begin, and looks before it sleeps */
	if (!driver || !claim_parked(target))
		return false;
	if (can_wait)
		self->has_sent = true;
	driver->ops->wake(driver, can_wait ? self->driver : NULL);
	return true;
}

static void push(struct weir__worker *target, struct weir__msg *msg)
{
	if (__builtin_expect(weir__virtual != NULL, 0))
		(void)weir__virtual->clock_ns(); /* much can happen before it is there */
	struct weir__msg *head = atomic_load_explicit(&target->inbox, memory_order_relaxed);

	do {
		msg->next = head;
		/* release: pairs with the acquire in take_posted() */
	} while (!atomic_compare_exchange_weak_explicit(
		&target->inbox, &head, msg, memory_order_release, memory_order_relaxed));
}

static void post(struct weir__worker *target, struct weir__msg *msg)
{
	push(target, msg);
	weir__worker_wake(target);
}

/* To one of this runtime: what the sender keeps of it, and the receiver. */
static inline void note_sender(struct weir__worker *self, struct weir__worker *target)
{
	self->posted_to = target;
	/* in the line that the push takes anyway */
	atomic_store_explicit(&target->sender_cpu, self->cpu, memory_order_relaxed);
}

static void wake_owed(struct weir__worker *self)
{
	struct weir__worker *target = self->owes_wake;

	self->owes_wake = NULL;
	/* pairs with the fence in settle(), as in weir__worker_wake() */
	atomic_thread_fence(memory_order_seq_cst);
	if (claim_parked(target))
		target->driver->ops->wake(target->driver, NULL);
}

void weir__worker_post_soon(struct weir__worker *self, struct weir__worker *target,
			    struct weir__msg *msg)
{
	if (self->owes_wake && self->owes_wake != target)
		wake_owed(self);
	note_sender(self, target);
	push(target, msg);
	self->owes_wake = target;
}

/*
 * Another runtime's worker, or no worker at all, is not waited for in leave_together() as one of
 * ours; and once the message is out, the task it wakes may be the runtime's last.
 */
void weir__worker_post(struct weir__worker *target, struct weir__msg *msg)
{
	struct weir__worker *self = weir__worker_self();
	struct weir__runtime *runtime = target->runtime;

	if (__builtin_expect(self && self->runtime == runtime, 1)) {
		note_sender(self, target);
		post(target, msg);
		return;
	}
	/* relaxed: the message, which the runtime's end depends on, is released after it */
	atomic_fetch_add_explicit(&runtime->foreign_posts, 1, memory_order_relaxed);
	post(target, msg);
	/*
	 * Who is no worker does not look again as watch_target() does: the watcher does, for a
	 * worker that is awake in name only. Pairs with the fence in sleep_for_good().
	 */
	atomic_thread_fence(memory_order_seq_cst);
	weir__watcher_see(runtime);
	/* release: pairs with the load in leave_together() */
	atomic_fetch_sub_explicit(&runtime->foreign_posts, 1, memory_order_release);
}

void weir__worker_wake(struct weir__worker *target)
{
	/* pairs with the fence in settle(): our push is seen there, or its PARKED is seen here */
	atomic_thread_fence(memory_order_seq_cst);
	(void)weir__worker_wake_parked(target);
}

/* What has been posted since the last look, oldest first. */
static struct weir__msg *take_posted(struct weir__worker *self)
{
	struct weir__msg *oldest_first = NULL;

	if (!atomic_load_explicit(&self->inbox, memory_order_relaxed))
		return NULL;
	/* acquire: pairs with the release in weir__worker_post() */
	struct weir__msg *msg = atomic_exchange_explicit(&self->inbox, NULL, memory_order_acquire);
	while (msg) {
		struct weir__msg *next = msg->next;
		msg->next = oldest_first;
		oldest_first = msg;
		msg = next;
	}
	return oldest_first;
}

/* Messages in the order they came; what is left over waits for the next turn. */
static void handle_messages(struct weir__worker *self)
{
	for (int n = 0; n < MESSAGES_PER_TURN; n++) {
		struct weir__msg *msg = self->taken ? self->taken : take_posted(self);
		if (!msg)
			return;
		self->taken = msg->next;
		msg->fn(self, msg);
	}
}

static void handle_orders(struct weir__worker *self, struct weir__msg *msg)
{
	unsigned orders = atomic_exchange_explicit(&self->orders, 0, memory_order_acquire);

	(void)msg;
	if (orders & WEIR__ORDER_DRAIN) {
		struct weir__drain *next;
		for (struct weir__drain *drain = self->drains; drain; drain = next) {
			next = drain->next;
			drain->begin(drain);
		}
	}
	if (orders & WEIR__ORDER_STAND_STILL)
		weir__watcher_stand_still(self);
	if (orders & WEIR__ORDER_ABANDON)
		self->runtime->is_abandoned = true;
	if (orders & (WEIR__ORDER_STOP | WEIR__ORDER_ABANDON))
		self->stopping = true;
}

void weir__worker_order(struct weir__worker *target, unsigned order)
{
	unsigned old = atomic_fetch_or_explicit(&target->orders, order | WEIR__ORDER_QUEUED,
						memory_order_release);

	if (!(old & WEIR__ORDER_QUEUED))
		weir__worker_post(target, &target->control);
}

/* ---- The loop ----------------------------------------------------------- */

static void expire_timers(struct weir__worker *self)
{
	struct weir__timer *timer;

	weir__wheel_advance(&self->wheel, self->now_ns);
	for (int n = 0; n < TIMERS_PER_TURN && (timer = weir__wheel_pop(&self->wheel)); n++)
		weir__task_timer_fired(self, timer);
}

/* How many resumptions fit between two readings, going by how long the last `resumes` took. */
static uint32_t next_resumes(uint32_t resumes, int64_t took_ns, int64_t period_ns)
{
	if (weir__virtual) /* which has a say before each */
		return 1;
	if (took_ns < period_ns / RESUMES_GROWTH)
		took_ns = period_ns / RESUMES_GROWTH;
	int64_t next = took_ns > 0 ? resumes * period_ns / took_ns : resumes;
	if (next > RESUMES_PER_CLOCK_MAX)
		return RESUMES_PER_CLOCK_MAX;
	return next > 0 ? (uint32_t)next : 1;
}

/*
 * What messages, timers, completions and weir__fresh_feed() have sent lies in our driver. A task
 * may compute for as long as it likes: it goes out now, unless the driver is called next anyway.
 */
static __attribute__((noinline)) void send_out(struct weir__worker *self)
{
	self->has_sent = false;
	if (self->runq_head || weir__fresh_count(&self->fresh) > 0)
		self->driver->ops->submit_and_wait(self->driver, 0);
}

/*
 * A reading of the clock costs as much as five switches, so it is taken every so many resumptions;
 * slow tasks bring that down to one.
 *
 * After the first few resumptions of a slice the order is depth first: what a task has spawned runs
 * when it parks, and an opener runs when its last child has ended. A tree of tasks then has as many
 * stacks as it is deep, where in the order of spawning it has as many as it is broad. Until then
 * all queue at the end: so everybody moves up, in each slice, whoever spawns.
 */
static void run_slice(struct weir__worker *self)
{
	int64_t read = self->now_ns;
	int64_t slice = (int64_t)self->runtime->config.slice_us * WEIR_US;
	int64_t end = read + slice;

	if (self->classes_waiting)
		weir__class_next(self, 0);
	while (read < end) {
		self->slice_left = (int32_t)self->slice_resumes;
		self->slice_deep = 0;
		if (!self->depth_first && self->slice_left > RESUMES_IN_ORDER) {
			self->slice_deep = self->slice_left - RESUMES_IN_ORDER;
			self->slice_left = RESUMES_IN_ORDER;
		}
		if (atomic_load_explicit(&self->runtime->has_fresh, memory_order_relaxed))
			weir__fresh_feed(self);
		if (__builtin_expect(self->has_sent, 0))
			send_out(self);
		weir__run_ready(self);
		if (self->owes_wake)
			wake_owed(self);
		if (!self->runq_head && !self->classes_waiting &&
		    weir__fresh_count(&self->fresh) == 0)
			break;
		self->now_ns = weir__clock_ns();
		weir__slice_cut(self); /* the class has run dry */
		self->slice_resumes = next_resumes(self->slice_resumes, self->now_ns - read,
						   slice / READINGS_PER_SLICE);
		if (self->classes_waiting)
			weir__class_next(self, self->now_ns - read);
		read = self->now_ns;
		self->depth_first = true;
		/*
		 * who sends to a worker that is awake waits for this, not for the slice; nor do
		 * those of whom there were too many for one turn
		 */
		if (self->taken || atomic_load_explicit(&self->inbox, memory_order_relaxed))
			break;
	}
	self->depth_first = false;
}

bool weir__worker_has_news(struct weir__worker *self)
{
	if (self->taken || atomic_load_explicit(&self->inbox, memory_order_relaxed) ||
	    weir__heap_has_news() || weir__fresh_anywhere(self->runtime))
		return true;
	return self->index == 0 &&
	       atomic_load_explicit(&self->runtime->stop_requests, memory_order_relaxed) !=
		       self->runtime->stop_seen;
}

/*
 * A wake-up that was lost would leave a worker asleep beside a message, for ever if all are idle.
 * Who sent to it looks once more before it sleeps itself, and if the worker sleeps, again after a
 * second: a message that is still there then is counted, and the worker woken. In a runtime that
 * does what it should this never adds a wake-up, but for a sender that was held up for so long
 * between its message and its wake-up. Returns when to look again.
 */
static __attribute__((noinline)) int64_t watch_target(struct weir__worker *self)
{
	struct weir__worker *target = self->posted_to;
	const struct weir__msg *head = atomic_load_explicit(&target->inbox, memory_order_relaxed);

	if (!head || !atomic_load_explicit(&target->is_settled, memory_order_relaxed)) {
		self->posted_to = NULL;
		return INT64_MAX;
	}
	uint64_t turns = weir__peek(&target->counts.turns);
	if (head != self->suspect || turns != self->suspect_turns) {
		self->suspect = head;
		self->suspect_turns = turns;
		self->suspect_ns = self->now_ns + LATE_NS;
	}
	if (self->now_ns < self->suspect_ns)
		return self->suspect_ns;
	self->counts.wakes_late++;
	self->suspect = NULL;
	self->posted_to = NULL;
	target->driver->ops->wake(target->driver, NULL);
	return INT64_MAX;
}

int64_t weir__worker_settle(struct weir__worker *self)
{
	if (self->runq_head || self->classes_waiting || weir__fresh_count(&self->fresh) > 0)
		return 0;
	int64_t until = weir__wheel_next(&self->wheel);
	int64_t heap = weir__heap_idle(self->now_ns);
	int64_t late = self->posted_to ? watch_target(self) : INT64_MAX;

	self->heap_until_ns = heap;
	if (late < until)
		until = late;
	if (heap < until)
		until = heap;
	if (self->index == 0 && self->runtime->drain_until_ns < until)
		until = self->runtime->drain_until_ns;
	atomic_store_explicit(&self->is_settled, true, memory_order_relaxed);
	atomic_store_explicit(&self->park_state, WEIR__PARKED, memory_order_relaxed);
	/* pairs with the fences in weir__worker_post() and weir__fresh_push() */
	atomic_thread_fence(memory_order_seq_cst);
	return until <= self->now_ns || weir__worker_has_news(self) ? 0 : until;
}

/* Takes PARKED back, if nobody has yet. Whether somebody has. */
static bool rouse(struct weir__worker *self)
{
	if (!atomic_load_explicit(&self->is_settled, memory_order_relaxed))
		return false;
	atomic_store_explicit(&self->is_settled, false, memory_order_relaxed);
	if (atomic_load_explicit(&self->park_state, memory_order_relaxed) != WEIR__AWAKE &&
	    atomic_exchange_explicit(&self->park_state, WEIR__AWAKE, memory_order_relaxed) !=
		    WEIR__AWAKE)
		return false;
	self->counts.wakes++;
	return true;
}

/*
 * The time has come that the heap wanted to be woken at, and nothing else has happened: all its
 * steps in a row, until something does. A driver that cannot tell gets a turn between two of them.
 */
static __attribute__((noinline)) void tidy_up(struct weir__worker *self, int64_t rested_ns)
{
	const struct weir__driver_ops *ops = self->driver->ops;

	while (weir__heap_rested(self->now_ns, rested_ns) && ops->is_ready &&
	       !ops->is_ready(self->driver) && !weir__worker_has_news(self))
		self->now_ns = weir__clock_ns();
}

/* A sleep from then until then at most has been ended by no message and no completion. */
static __attribute__((noinline)) void count_timeout(struct weir__worker *self, int64_t since_ns,
						    int64_t until_ns)
{
	if (self->now_ns < until_ns) {
		self->counts.wakes_other++;
	} else if (until_ns == self->heap_until_ns) {
		self->counts.wakes_heap++;
		tidy_up(self, self->now_ns - since_ns);
	} else if (weir__wheel_next(&self->wheel) <= self->now_ns) {
		self->counts.wakes_timer++;
	} else {
		self->counts.wakes_other++;
	}
}

/*
 * Before anything of the program's runs, and only then: who wakes up for the heap's sake, or the
 * driver's, does not wake the watcher as well, which would look for some ticks.
 */
static __attribute__((noinline)) void be_watched(struct weir__worker *self)
{
	if (self->runq_head || self->classes_waiting || self->taken ||
	    atomic_load_explicit(&self->inbox, memory_order_relaxed) ||
	    weir__fresh_anywhere(self->runtime))
		weir__watcher_see(self->runtime);
}

/* Worker 0: the runtime is asked to stop, or clients had their time. */
static void handle_stop(struct weir__worker *self)
{
	struct weir__runtime *runtime = self->runtime;
	unsigned requests = atomic_load_explicit(&runtime->stop_requests, memory_order_relaxed);
	bool is_first = runtime->stop_seen == 0 && requests == 1;

	if (requests != runtime->stop_seen) {
		runtime->stop_seen = requests;
		if (requests > 1)
			atomic_store_explicit(&runtime->is_stopping_hard, true,
					      memory_order_relaxed);
		atomic_store_explicit(&runtime->draining, true, memory_order_relaxed);
		if (is_first && atomic_load_explicit(&runtime->drains, memory_order_relaxed) > 0) {
			runtime->drain_until_ns =
				self->now_ns + (int64_t)runtime->config.drain_ms * WEIR_MS;
			for (unsigned i = 0; i < runtime->workers_count; i++)
				weir__worker_order(runtime->workers[i], WEIR__ORDER_DRAIN);
			return;
		}
		runtime->drain_until_ns = self->now_ns;
	}
	if (self->now_ns >= runtime->drain_until_ns) {
		runtime->drain_until_ns = INT64_MAX;
		weir__task_cancel(self, &runtime->root);
	}
}

bool weir__runtime_is_left(const struct weir__runtime *runtime)
{
	return atomic_load_explicit(&runtime->left, memory_order_acquire) >= runtime->workers_count;
}

/*
 * A worker whose loop is over closes its driver, but another may have claimed the right to wake it
 * and not done so yet. All have been told to stop: nobody waits here for longer than the last turn
 * of another.
 */
static void leave_together(struct weir__runtime *runtime)
{
	while (!weir__runtime_is_left(runtime))
		weir__relax();
	while (atomic_load_explicit(&runtime->foreign_posts, memory_order_acquire) > 0)
		weir__relax();
}

/* A sleep is over; `before_ns` is the clock as it was read last before it. */
static void note_sleep(struct weir__worker *self, int64_t before_ns)
{
	bool by_message = atomic_load_explicit(&self->inbox, memory_order_relaxed);

	self->cpu = sched_getcpu();
	weir__linger_slept(&self->linger, self->now_ns - before_ns, by_message,
			   self->runtime->linger_ns);
}

/* What ended a sleep, and how long it was. */
static inline void note_wake(struct weir__worker *self, int64_t before_ns, int64_t wait_until_ns,
			     bool is_woken, unsigned completions)
{
	if (!is_woken && completions > 0)
		self->counts.wakes_io++;
	else if (!is_woken)
		count_timeout(self, before_ns, wait_until_ns);
	if (self->runtime->linger_ns)
		note_sleep(self, before_ns);
	if (self->runtime->lookout_ns)
		weir__lookout_slept(self, completions);
}

bool weir__worker_turn(struct weir__worker *self, int64_t wait_until_ns)
{
	int64_t before_ns = self->now_ns;

	self->counts.turns++;
	if (wait_until_ns) {
		self->counts.parks++;
		weir__hook(self, self->runtime->hooks.park);
		WEIR__USDT(worker_park, self->index, wait_until_ns);
		weir__heap_lend();
	}
	self->driver->ops->submit_and_wait(self->driver, wait_until_ns);
	weir__heap_resume();
	bool is_woken = rouse(self);
	self->may_owe_fresh = is_woken;
	if (wait_until_ns) {
		WEIR__USDT(worker_unpark, self->index, wait_until_ns);
		weir__hook(self, self->runtime->hooks.unpark);
	}
	unsigned completions = self->driver->ops->reap(self->driver);
	self->now_ns = weir__clock_ns();
	if (wait_until_ns)
		note_wake(self, before_ns, wait_until_ns, is_woken, completions);
	expire_timers(self);
	if (__builtin_expect(
		    atomic_load_explicit(&self->runtime->is_unwatched, memory_order_relaxed), 0))
		be_watched(self);
	if (self->taken || atomic_load_explicit(&self->inbox, memory_order_relaxed))
		handle_messages(self);
	if (self->index == 0)
		handle_stop(self);
	if (!wait_until_ns) /* else weir__worker_settle() has done it a moment ago */
		weir__heap_turn(self->now_ns);
	run_slice(self);
	return !self->stopping;
}

void weir__worker_run(struct weir__worker *self)
{
	bool goes_on;

	do {
		if (self->runtime->rescue_ns)
			weir__rescue(self);
		bool has_come = (self->linger.allowance_ns && weir__linger(self)) ||
				(self->runtime->lookout_ns && weir__lookout(self));
		goes_on = weir__worker_turn(self, has_come ? 0 : weir__worker_settle(self));
	} while (goes_on);
	weir__worker_stand_down(self);
	weir__worker_finish(self);
}

void weir__worker_stand_down(struct weir__worker *self)
{
	if (self->runtime->is_abandoned)
		return; /* with the others still at work */
	self->driver->ops->submit_and_wait(self->driver, 0);
	(void)self->driver->ops->reap(self->driver);
	/* acq_rel: pairs with the load in weir__runtime_is_left(), in the other workers */
	atomic_fetch_add_explicit(&self->runtime->left, 1, memory_order_acq_rel);
}

void weir__worker_finish(struct weir__worker *self)
{
	if (self->runtime->is_abandoned)
		return;
	leave_together(self->runtime);
	while (self->taken || atomic_load_explicit(&self->inbox, memory_order_relaxed))
		handle_messages(self); /* weir_post(): from here on it is refused */
}

/* ---- Life --------------------------------------------------------------- */

void weir__worker_init(struct weir__worker *worker, struct weir__runtime *runtime, unsigned index)
{
	memset(worker, 0, sizeof *worker);
	worker->runtime = runtime;
	worker->index = (uint16_t)index;
	worker->budget_full = (int32_t)runtime->config.budget;
	worker->stack_shift = weir__stack_shift(runtime, WEIR_STACK_DEFAULT);
	worker->use_ucontext = runtime->use_ucontext;
	worker->slice_resumes = 1;
	worker->runq_tail = &worker->runq_head;
	weir__classes_init(worker);
	weir__census_init(worker);
	worker->control.fn = handle_orders;
	weir__fresh_init(&worker->fresh);
	/* until its first turn; a wake-up that comes before that ends its first wait */
	atomic_init(&worker->is_settled, true);
	atomic_init(&worker->park_state, WEIR__PARKED);
	atomic_init(&worker->sender_cpu, -1);
	worker->now_ns = weir__clock_ns();
	weir__wheel_init(&worker->wheel, worker->now_ns);
}

void weir__worker_enter(struct weir__worker *worker)
{
	weir__worker_tls = worker;
	worker->thread = pthread_self();
	worker->tid = gettid();
	weir__san_thread(&worker->thread_stack);
}

void weir__worker_leave(struct weir__worker *worker)
{
	(void)worker;
	weir__worker_tls = NULL;
}

int weir_worker_index(void)
{
	struct weir__worker *self = weir__worker_self();

	return self ? self->index : -1;
}

/* ---- Stopping ----------------------------------------------------------- */

void weir__runtime_stop(struct weir__runtime *runtime)
{
	/* the second: who asks once more gives nobody more time */
	if (atomic_fetch_add_explicit(&runtime->stop_requests, 1, memory_order_relaxed) == 1)
		weir__watcher_order(runtime, WEIR__WATCH_LAST_CALL);
	runtime->workers[0]->driver->ops->wake(runtime->workers[0]->driver, NULL);
}

void weir__drain_add(struct weir__worker *self, struct weir__drain *drain)
{
	drain->next = self->drains;
	drain->pprev = &self->drains;
	if (drain->next)
		drain->next->pprev = &drain->next;
	self->drains = drain;
	atomic_fetch_add_explicit(&self->runtime->drains, 1, memory_order_relaxed);
}

void weir__drain_del(struct weir__worker *self, struct weir__drain *drain)
{
	*drain->pprev = drain->next;
	if (drain->next)
		drain->next->pprev = drain->pprev;
	atomic_fetch_sub_explicit(&self->runtime->drains, 1, memory_order_relaxed);
}
