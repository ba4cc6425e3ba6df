/* SPDX-License-Identifier: MIT */
/*
 * task.c: birth, first run, parking and end of a task.
 *
 * The hard idea: whoever stops running picks the next ready task and switches to it directly; the
 * loop in worker.c runs again only when nothing is ready or the slice is used up. A task that ends
 * hands its still warm stack to the next task that has none, without any switch at all.
 */
#include "runtime/task.h"

#include <stdlib.h>
#include <string.h>

#include "alloc/usdt.h"
#include "runtime/extra.h"
#include "runtime/fatal.h"
#include "runtime/join.h"
#include "alloc/opts.h"
#include "runtime/sanitizer.h"
#include "runtime/switch.h"
#include "runtime/wait_kind.h"

static weir_pool *task_pool;

/* Never freed: task records of all runtimes come from one pool. */
int weir__task_pool_init(void)
{
	if (task_pool)
		return 0;
	return weir_pool_new(&task_pool, .object_bytes = sizeof(struct weir__task), .align = 64,
			     .name = "task");
}

/* ---- Switching ---------------------------------------------------------- */

static void task_main(void *unused);

/* Inlined everywhere: see switch.h. */
static inline __attribute__((always_inline)) void
switch_stacks(struct weir__worker *self, void **save_sp, struct weir__stack *from, void *load_sp,
	      struct weir__stack *to, bool for_good)
{
	weir__san_leave(from, to, for_good);
	if (__builtin_expect(self->use_ucontext, 0))
		weir__switch_ucontext(save_sp, load_sp);
	else
		weir__switch_inline(save_sp, load_sp);
	weir__san_enter(from);
}

/* Gives an un-started task its stack. -ENOMEM leaves it as it was. */
static int bind_stack(struct weir__worker *self, struct weir__task *task)
{
	struct weir__stack *stack = weir__stack_get((size_t)32768 << task->stack_shift);

	if (!stack)
		return -ENOMEM;
	weir__san_start(stack);
	task->stack = stack;
	task->sp = self->use_ucontext ? weir__switch_prepare_ucontext(stack->top, task_main, NULL)
				      : weir__switch_prepare(stack->top, task_main, NULL);
	return 0;
}

static void end_task(struct weir__worker *self, struct weir__task *task, int result);

/* There is no stack for it. */
static void end_unborn(struct weir__worker *self, struct weir__task *task)
{
	weir_fn fn = task->fn == weir__census_main ? task->measured_fn : task->fn;
	bool is_joined = fn == weir__join_main;

	if (is_joined)
		weir__join_end(task->arg, -ENOMEM);
	end_task(self, task, is_joined ? 0 : -ENOMEM);
}

/* One that may start anywhere starts here, unless it has to wait for the turn of its class. */
static __attribute__((noinline)) struct weir__task *pick_fresh(struct weir__worker *self)
{
	struct weir__task *task = weir__fresh_take(self);

	if (!task || task->priority == self->priority)
		return task;
	weir__ready(self, task, 0);
	return NULL;
}

/* False when the slice is used up. What is left of it in order may be followed by depth first. */
static inline bool has_slice(struct weir__worker *self)
{
	if (self->slice_left > 0)
		return true;
	if (self->slice_deep == 0)
		return false;
	self->slice_left = self->slice_deep;
	self->slice_deep = 0;
	self->depth_first = true;
	return true;
}

/*
 * Where more tasks are alive, what they have touched does not fit the second cache. Asking for it
 * early costs 5 ns a task where it does, and spares half of 500 where it has to come from memory.
 */
enum { MANY_TASKS = 1024 };

/*
 * `after` runs one switch from here: its innermost frames. Of many, all frames of the one behind
 * it, which it returns through line by line, and the record of the third.
 */
static inline __attribute__((always_inline)) void fetch_ahead(const struct weir__worker *self,
							      const struct weir__task *after)
{
	const char *sp = after->sp;

	if (__builtin_expect(self->live > MANY_TASKS, 0)) {
		after = after->next;
		if (!after)
			return;
		sp = after->sp;
		__builtin_prefetch(after->next);
		if (!sp)
			return;
		for (int line = 2; line < 6; line++)
			__builtin_prefetch(sp + line * 64);
	}
	__builtin_prefetch(sp);
	__builtin_prefetch(sp + 64);
}

/* The next ready task, NULL when there is none or the slice is used up. */
static inline struct weir__task *pick(struct weir__worker *self)
{
	struct weir__task *task = self->runq_head;

	if ((!task && weir__fresh_count(&self->fresh) == 0) || !has_slice(self))
		return NULL;
	self->slice_left--;
	if (!task)
		return pick_fresh(self);
	if (task == self->fed)
		self->fed = NULL;
	self->runq_head = task->next;
	if (!task->next)
		self->runq_tail = &self->runq_head;
	else if (__builtin_expect(self->live > MANY_TASKS, 0))
		fetch_ahead(self, task->next);
	return task;
}

/*
 * The same, with a stack. A task that cannot get one ends here with -ENOMEM. One that has inherited
 * its stack has no `sp` before it leaves it: it may be picked while it yields.
 */
static struct weir__task *pick_runnable(struct weir__worker *self)
{
	struct weir__task *task;

	while ((task = pick(self)) != NULL) {
		if (__builtin_expect(task->sp != NULL, 1) || task == self->current ||
		    bind_stack(self, task) == 0)
			return task;
		end_unborn(self, task);
	}
	return NULL;
}

static inline void set_current(struct weir__worker *self, struct weir__task *task)
{
	self->current = task;
	self->born = &self->runq_head;
	self->budget = self->budget_full;
	self->counts.switches++;
	task->state = WEIR__TASK_RUNNING;
}

/* The next of run_next() when it is not simply a task that has run before; NULL: the scheduler. */
static __attribute__((noinline)) struct weir__task *next_slow(struct weir__worker *self)
{
	if (__builtin_expect(weir__virtual != NULL, 0))
		weir__virtual->suspended(self, self->current);
	struct weir__task *next = pick_runnable(self);

	if (next)
		set_current(self, next);
	else
		self->current = NULL;
	return next;
}

/*
 * Leaves the running task, which is parked or (may_be_next) in the run queue, for whatever is next.
 * 18 instructions before the switch. All switches of a park are here, at one depth of calls: the
 * task that goes on finds its returns predicted when it has parked in the same call.
 */
static inline __attribute__((always_inline)) void
run_next(struct weir__worker *self, struct weir__task *task, bool may_be_next)
{
	struct weir__task *next = self->runq_head;

	if (__builtin_expect(!next || !next->sp || (may_be_next && next == task) ||
				     --self->slice_left < 0,
			     0)) {
		next = next_slow(self);
		if (!next)
			switch_stacks(self, &task->sp, task->stack, self->scheduler_sp,
				      &self->thread_stack, false);
		else if (next != task)
			switch_stacks(self, &task->sp, task->stack, next->sp, next->stack, false);
		return;
	}
	struct weir__task *after = next->next;
	self->runq_head = after;
	if (after)
		fetch_ahead(self, after);
	else
		self->runq_tail = &self->runq_head;
	set_current(self, next);
	switch_stacks(self, &task->sp, task->stack, next->sp, next->stack, false);
}

void weir__run_ready(struct weir__worker *self)
{
	struct weir__task *next = pick_runnable(self);

	if (!next)
		return;
	set_current(self, next);
	switch_stacks(self, &self->scheduler_sp, &self->thread_stack, next->sp, next->stack, false);
}

/* ---- First run and end -------------------------------------------------- */

/*
 * On the stack of a task that has ended: the next task if it can have this stack (NULL: none can),
 * else leaves for good. The stack is put back last, when everything that needs a stack of its own
 * has one.
 */
static inline __attribute__((always_inline)) struct weir__task *
inherit(struct weir__worker *self, struct weir__stack *stack, uint8_t shift)
{
	struct weir__task *next;
	void *unused;

	while ((next = pick(self)) != NULL) {
		if (next->sp)
			break;
		if (next->stack_shift == shift) {
			next->stack = stack;
			return next;
		}
		if (bind_stack(self, next) == 0)
			break;
		end_unborn(self, next);
	}
	weir__stack_put(stack);
	if (next) {
		set_current(self, next);
		switch_stacks(self, &unused, stack, next->sp, next->stack, true);
	} else {
		self->current = NULL;
		switch_stacks(self, &unused, stack, self->scheduler_sp, &self->thread_stack, true);
	}
	__builtin_unreachable();
}

/*
 * Who runs between the end of a task and the next: that one's record may be gone, and be another
 * task's on another worker. Never NULL: the loop does not run. Nobody writes to it.
 */
static struct weir__task nobody = { .state = WEIR__TASK_ENDED };

static void task_main(void *unused)
{
	struct weir__worker *self = weir__worker_self();
	struct weir__task *task = self->current;

	(void)unused;
	weir__san_enter(task->stack);
	for (;;) {
		WEIR__USDT(task_begin, task->id_low, task->site);
		int result = task->fn(task->arg);
		WEIR__USDT(task_end, task->id_low, result);
		if (__builtin_expect(task->has_extra, 0))
			weir__extra_done(self, task);
		struct weir__stack *stack = task->stack;
		uint8_t shift = task->stack_shift;

		self->current = &nobody;
		atomic_signal_fence(
			memory_order_release); /* for capture.c, which may interrupt us */
		end_task(self, task, result);
		task = inherit(self, stack, shift);
		set_current(self, task);
	}
}

const uintptr_t weir__task_entry = (uintptr_t)task_main;

static void go_home(struct weir__worker *self, struct weir__msg *msg)
{
	struct weir__task *task = (void *)((char *)msg - offsetof(struct weir__task, in));

	weir__scope_child_ended(self, task);
}

/* Many may end in a row: their home is woken once for those of one reading of the clock. */
static void send_home(struct weir__worker *self, struct weir__task *task)
{
	task->in.fn = go_home;
	weir__worker_post_soon(self, task->owner->task->worker, &task->in);
}

static void end_task(struct weir__worker *self, struct weir__task *task, int result)
{
	WEIR_ASSERT(!task->scope); /* a scope must be closed before the function that opened it
				      returns */
	weir__timer_cancel(&self->wheel, &task->timer);
	task->result = result;
	task->state = WEIR__TASK_ENDED;
	task->stack = NULL;
	if (__builtin_expect(weir__virtual != NULL, 0))
		weir__virtual->ended(self);
	self->live--;
	if (!task->owner) {
		self->runtime->root_result = result;
		for (unsigned i = self->runtime->workers_count; i-- > 0;)
			weir__worker_order(self->runtime->workers[i], WEIR__ORDER_STOP);
	} else if (task->owner->task->worker == self) {
		weir__scope_child_ended(self, task);
	} else {
		uint8_t old = atomic_fetch_or_explicit(&task->remote, WEIR__REMOTE_ENDED,
						       memory_order_acq_rel);
		if (!(old & WEIR__REMOTE_QUEUED))
			send_home(self, task);
	}
}

/* ---- From other workers ------------------------------------------------- */

static void handle_remote(struct weir__worker *self, struct weir__msg *msg)
{
	struct weir__task *task = (void *)((char *)msg - offsetof(struct weir__task, in));
	/* acquire: pairs with the release in post_remote */
	uint8_t bits =
		atomic_fetch_and_explicit(&task->remote, WEIR__REMOTE_ENDED, memory_order_acq_rel);

	if (bits & WEIR__REMOTE_ENDED) {
		send_home(self, task);
		return;
	}
	if (bits & WEIR__REMOTE_START) {
		self->live++;
		weir__ready(self, task, 0);
	}
	if (bits & WEIR__REMOTE_WAKE)
		weir__ready(self, task, 0);
	if (bits & WEIR__REMOTE_CANCEL)
		weir__task_cancel(self, task);
}

static void post_remote(struct weir__task *task, uint8_t bit)
{
	uint8_t old = atomic_fetch_or_explicit(&task->remote, bit | WEIR__REMOTE_QUEUED,
					       memory_order_acq_rel);

	if (old & (WEIR__REMOTE_QUEUED | WEIR__REMOTE_ENDED | WEIR__REMOTE_FRESH))
		return;
	task->in.fn = handle_remote;
	weir__worker_post(task->worker, &task->in);
}

void weir__task_cancel_remote(struct weir__task *task)
{
	post_remote(task, WEIR__REMOTE_CANCEL);
}

void weir__wake(struct weir__task *task)
{
	struct weir__worker *self = weir__worker_self();

	if (task->worker == self)
		weir__ready(self, task, 0);
	else
		post_remote(task, WEIR__REMOTE_WAKE);
}

/* ---- Spawning ----------------------------------------------------------- */

uint8_t weir__stack_shift(const struct weir__runtime *runtime, enum weir_stack_class stack_class)
{
	static const uint8_t shifts[] = { 0, 0, 1, 3, 5 };
	unsigned i = stack_class;

	if (stack_class == WEIR_STACK_DEFAULT)
		for (i = WEIR_STACK_32K; i < WEIR_STACK_1M; i++)
			if (((size_t)32 << shifts[i]) >= runtime->config.stack_kb)
				break;
	return shifts[i];
}

/* The function of the task is set. */
static inline void number(struct weir__task *task, struct weir__worker *self)
{
	uint64_t id = ++self->ids;

	task->id_low = (uint32_t)id;
	task->id_high = (uint16_t)(id >> 32);
	if (__builtin_expect(id == self->census_at, 0))
		weir__census_choose(self, task);
}

static void init_task(struct weir__task *task, struct weir__worker *self, struct weir__scope *scope,
		      const struct weir__spawn *spawn)
{
	task->sp = NULL;
	task->stack = NULL;
	task->state = WEIR__TASK_NEW;
	task->cancelled = 0;
	task->base_cancelled = 0;
	task->priority = spawn->priority ? spawn->priority : scope->task->priority;
	task->stack_shift = spawn->stack_shift & 15u;
	task->has_extra = 0;
	task->scope = NULL;
	task->deadline_ns = scope->deadline_ns;
	task->abort = NULL;
	task->fn = spawn->fn;
	task->arg = spawn->arg;
	task->owner = scope;
	task->timer.pprev = NULL;
	task->timer.expires_ns = INT64_MAX;
	task->name = spawn->name;
	task->site = spawn->site;
	atomic_init(&task->remote, spawn->any ? WEIR__REMOTE_FRESH : 0);
	number(task, self);
	task->worker = spawn->worker ? spawn->worker : self;
}

static void adopt(struct weir__scope *scope, struct weir__task *task)
{
	task->sibling_next = scope->children;
	task->sibling_pprev = &scope->children;
	if (scope->children)
		scope->children->sibling_pprev = &task->sibling_next;
	atomic_signal_fence(memory_order_release); /* for dump.c, which may interrupt us */
	scope->children = task;
	scope->pending++;
}

int weir__spawn(struct weir__scope *scope, const struct weir__spawn *spawn)
{
	struct weir__worker *self = weir__worker_self();

	if (!self || !scope->task)
		return -EINVAL;
	if (scope->task->worker != self)
		return -EXDEV;
	if (scope->cancelled)
		return weir__cancelled_why(scope->cancelled);
	struct weir__task *task = weir_pool_get(task_pool);
	if (!task)
		return -ENOMEM;
	init_task(task, self, scope, spawn);
	if (spawn->stack_now && bind_stack(self, task) < 0) {
		weir_pool_put(task_pool, task);
		return -ENOMEM;
	}
	adopt(scope, task);
	self->counts.spawns++;
	if (spawn->any) {
		weir__fresh_push(self, task);
	} else if (task->worker == self) {
		self->live++;
		if (weir__ready_before(self, task, self->born))
			self->born = &task->next;
	} else {
		post_remote(task, WEIR__REMOTE_START);
	}
	return 0;
}

void weir__task_free(struct weir__task *task)
{
	weir_pool_put(task_pool, task);
}

static inline __attribute__((always_inline)) int
spawn_known(struct weir__worker *self, struct weir_scope *scope, const struct weir_task_opts *opts)
{
	if (!opts->fn || opts->stack > WEIR_STACK_1M || opts->priority > WEIR_PRIORITY_BACKGROUND ||
	    opts->worker > self->runtime->workers_count)
		return -EINVAL;
	if (opts->any && opts->worker)
		return -EINVAL;
	struct weir__spawn spawn = {
		.fn = opts->fn,
		.arg = opts->arg,
		.name = opts->name,
		.site = opts->site,
		.worker = opts->worker ? self->runtime->workers[opts->worker - 1] : NULL,
		.stack_shift = opts->stack ? weir__stack_shift(self->runtime, opts->stack)
					   : self->stack_shift,
		.any = opts->any && self->runtime->workers_count > 1,
		.priority = (uint8_t)opts->priority,
	};
	if (opts->join)
		return weir__join_spawn(weir__scope_of(scope), &spawn, opts->join);
	return weir__spawn(weir__scope_of(scope), &spawn);
}

/* Options of this version's size are read where they are. */
int weir_spawn_with(struct weir_scope *scope, const struct weir_task_opts *opts)
{
	struct weir__worker *self = weir__worker_self();
	struct weir_task_opts known = { 0 };

	if (!self)
		return -EINVAL;
	if (__builtin_expect(opts->size == sizeof known, 1))
		return spawn_known(self, scope, opts);
	int err = weir__opts_copy(&known, sizeof known, opts, opts->size);
	return err < 0 ? err : spawn_known(self, scope, &known);
}

void weir__task_root(struct weir__runtime *runtime, weir_fn fn, void *arg)
{
	struct weir__worker *self = runtime->workers[0];
	struct weir__task *root = &runtime->root;

	memset(root, 0, sizeof *root);
	root->fn = fn;
	root->arg = arg;
	root->name = "main";
	root->site = "weir_run";
	root->deadline_ns = INT64_MAX;
	root->timer.expires_ns = INT64_MAX;
	number(root, self);
	root->worker = self;
	root->priority = WEIR_PRIORITY_NORMAL;
	root->stack_shift = weir__stack_shift(runtime, WEIR_STACK_DEFAULT) & 15u;
	if (root->stack_shift < 3)
		root->stack_shift = 3; /* main functions are the deep ones: 256 KiB */
	self->live++;
	weir__ready(self, root, 0);
}

/* ---- Parking ------------------------------------------------------------ */

/*
 * The timer is left armed after the park. As long as it fires no later than needed it stays: a
 * server that opens a 60 s scope per request touches the wheel once a minute.
 */
static inline void arm(struct weir__worker *self, struct weir__task *task, int64_t wake_ns)
{
	task->wake_ns = wake_ns;
	if (__builtin_expect(task->timer.expires_ns > wake_ns, 0))
		weir__timer_arm(&self->wheel, &task->timer, wake_ns);
}

static inline __attribute__((always_inline)) int
park(struct weir__worker *self, weir__abort_fn abort, void *wait, int64_t wake_ns)
{
	struct weir__task *task = self->current;

	task->abort = abort;
	task->wait = wait;
	task->state = WEIR__TASK_PARKED;
	task->parked_ns = self->now_ns;
	if (abort)
		arm(self, task, wake_ns);
	else
		task->aborted = NULL;
	run_next(self, task, false);
	return task->result;
}

int weir__park(struct weir__worker *self, weir__abort_fn abort, void *wait)
{
	return park(self, abort, wait, self->current->deadline_ns);
}

void weir__park_for(struct weir__worker *self, const char *what)
{
	(void)park(self, NULL, (void *)what, 0);
}

int weir__park_until(struct weir__worker *self, weir__abort_fn abort, void *wait, int64_t until_ns)
{
	int64_t deadline = self->current->deadline_ns;

	return park(self, abort, wait, deadline < until_ns ? deadline : until_ns);
}

void weir__interrupt(struct weir__task *task, int why)
{
	weir__abort_fn abort = task->abort;

	if (task->state != WEIR__TASK_PARKED || !abort)
		return;
	task->abort = NULL;
	task->aborted = abort;
	abort(task, why);
}

void weir__task_timer_fired(struct weir__worker *self, struct weir__timer *timer)
{
	struct weir__task *task = (void *)((char *)timer - offsetof(struct weir__task, timer));

	self->counts.timers_fired++;
	timer->expires_ns = INT64_MAX; /* the wheel has let go of it */
	if (task->state != WEIR__TASK_PARKED || !task->abort)
		return;
	if (self->now_ns >= task->wake_ns)
		weir__interrupt(task, self->now_ns >= task->deadline_ns ? -ETIME : 0);
	else if (task->wake_ns != INT64_MAX)
		weir__timer_arm(&self->wheel, timer, task->wake_ns);
}

void weir__abort_ready(struct weir__task *task, int why)
{
	weir__ready(task->worker, task, why);
}

WEIR__WAIT_KIND(weir__abort_ready, "a wake-up", NULL);

static void abort_sleep(struct weir__task *task, int why)
{
	weir__ready(task->worker, task, why);
}
WEIR__WAIT_KIND(abort_sleep, "sleep", NULL);

static inline __attribute__((always_inline)) void requeue(struct weir__worker *self)
{
	struct weir__task *task = self->current;

	weir__ready(self, task, 0);
	run_next(self, task, true);
}

void weir__budget_spend_slow(struct weir__worker *self)
{
	self->now_ns = weir__clock_ns();
	requeue(self);
}

bool weir__deadline_passed(struct weir__worker *self, const struct weir__task *task)
{
	int64_t now = weir__clock_coarse_ns();

	if (now > self->now_ns)
		self->now_ns = now;
	return task->deadline_ns <= self->now_ns;
}

int weir_yield(void)
{
	struct weir__worker *self = weir__worker_self();

	if (!self || !self->current)
		return -EINVAL;
	requeue(self);
	return weir__interrupted(self, self->current);
}

int weir_sleep(int64_t ns)
{
	struct weir__worker *self = weir__worker_self();

	if (!self || !self->current)
		return -EINVAL;
	if (ns <= 0)
		return weir_yield();
	self->now_ns = weir__clock_ns();
	int err = weir__interrupted(self, self->current);
	if (err < 0)
		return err;
	int64_t until = ns < INT64_MAX - self->now_ns ? self->now_ns + ns : INT64_MAX;
	err = weir__park_until(self, abort_sleep, NULL, until);
	__asm__ volatile(""); /* no tail call: a list of tasks shows who is in weir_sleep() */
	return err;
}

/* ---- Asking ------------------------------------------------------------- */

uint64_t weir__task_id(const struct weir__task *task)
{
	const struct weir__worker *home = task->owner ? task->owner->task->worker : task->worker;

	return (uint64_t)(home->index + 1) << 48 | (uint64_t)task->id_high << 32 | task->id_low;
}

uint64_t weir_task_id(void)
{
	struct weir__worker *self = weir__worker_self();

	return self && self->current ? weir__task_id(self->current) : 0;
}

const char *weir_task_name(void)
{
	struct weir__worker *self = weir__worker_self();

	if (!self || !self->current)
		return NULL;
	return self->current->name ? self->current->name : "task";
}

int64_t weir_time_left(void)
{
	struct weir__worker *self = weir__worker_self();

	if (!self || !self->current || self->current->deadline_ns == INT64_MAX)
		return WEIR_FOREVER;
	int64_t left = self->current->deadline_ns - weir__clock_ns();
	return left > 0 ? left : 0;
}

bool weir__fatal_task_info(struct weir__task_info *ret)
{
	struct weir__worker *self = weir__worker_self();

	if (!self || !self->current || !self->current->stack)
		return false;
	const struct weir__task *task = self->current;
	*ret = (struct weir__task_info){
		.id = weir__task_id(task),
		.name = task->name ? task->name : "task",
		.site = task->site ? task->site : "unknown",
		.stack_base = task->stack->base,
		.stack_top = task->stack->top,
		.guard_bytes = task->stack->guard_bytes,
		.worker = self->index,
	};
	return true;
}
