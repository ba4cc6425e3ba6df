/* SPDX-License-Identifier: MIT */
/*
 * scope.c: structured concurrency: open, cancel, join.
 *
 * A task's scopes form a list, innermost first; each has its children. Cancelling a scope marks it
 * and everything inside it, so that a blocking call asks one byte of its task. Marking stops at
 * shields. The walk goes down to children and up again through their owners: depth costs no stack,
 * and breadth no list.
 */
#include "runtime/task.h"

#include <string.h>

#include "runtime/fatal.h"
#include "runtime/wait_kind.h"

/* ---- Cancellation ------------------------------------------------------- */

/*
 * A cancellation under way. After the second request to stop the runtime it is a hard one: shields
 * cover nobody any more, and what was marked is so again.
 */
struct cancel {
	struct weir__worker *self;
	int64_t now_ns;
	uint8_t level; /* WEIR__CANCELLED_SOFT or _HARD */
};

static uint8_t level_of(uint8_t cancelled)
{
	return cancelled & (WEIR__CANCELLED_SOFT | WEIR__CANCELLED_HARD);
}

static uint8_t level_now(const struct weir__worker *self)
{
	bool hard = atomic_load_explicit(&self->runtime->is_stopping_hard, memory_order_relaxed);

	return hard ? WEIR__CANCELLED_HARD : WEIR__CANCELLED_SOFT;
}

/*
 * What makes all in a scope late is its own deadline, and whoever noticed that first cancels the
 * others. So where it is near the clock is read again: what they are told must not depend on who
 * was first.
 */
static struct cancel cancel_begin(struct weir__worker *self, int64_t deadline_ns)
{
	if (deadline_ns - self->now_ns < WEIR_SEC) {
		int64_t now = weir__clock_ns();
		if (now > self->now_ns)
			self->now_ns = now;
	}
	return (struct cancel){ self, self->now_ns, level_now(self) };
}

/* The mark for what ends at `deadline_ns`; the first reason stays. */
static uint8_t mark(const struct cancel *cancel, uint8_t before, int64_t deadline_ns)
{
	bool late = before ? before & WEIR__CANCELLED_LATE : deadline_ns <= cancel->now_ns;

	return cancel->level | (late ? WEIR__CANCELLED_LATE : 0);
}

/* The task's deadline outside its own scopes. */
static int64_t base_deadline(const struct weir__task *task)
{
	int64_t deadline = task->deadline_ns;

	for (const struct weir__scope *scope = task->scope; scope; scope = scope->parent)
		deadline = scope->outer_deadline_ns;
	return deadline;
}

/*
 * Interrupts `task` unless a shield inside `outermost` covers it. Returns the scope to begin
 * marking with: the innermost that no such shield covers. `outermost` NULL: the whole task.
 */
static struct weir__scope *enter_task(const struct cancel *cancel, struct weir__task *task,
				      struct weir__scope *outermost)
{
	struct weir__scope *first = task->scope;
	bool is_soft = cancel->level == WEIR__CANCELLED_SOFT;

	for (struct weir__scope *scope = first; scope != outermost && is_soft;
	     scope = scope->parent)
		if (scope->is_shield)
			first = scope->parent;
	if (!outermost)
		task->base_cancelled = mark(cancel, task->base_cancelled, base_deadline(task)) & 7;
	if (first == task->scope && level_of(task->cancelled) < cancel->level) {
		task->cancelled = mark(cancel, task->cancelled, task->deadline_ns);
		weir__interrupt(task, weir__cancelled_why(task->cancelled));
	}
	return first;
}

/* `child` or the next of its siblings that is to be cancelled here; others' workers are told. */
static struct weir__task *next_child(const struct cancel *cancel, struct weir__task *child)
{
	for (; child; child = child->sibling_next) {
		if (!weir__runs_here(cancel->self, child))
			weir__task_cancel_remote(child);
		else if (level_of(child->base_cancelled) < cancel->level)
			break;
	}
	return child;
}

/*
 * Marks the scopes of `top` up to `outermost` (NULL: the task itself) and all below them. `scope`
 * goes outwards through the scopes of `task`, down into the children of each that is not marked
 * yet, and from the last child back to its owner. Below a marked scope all is marked.
 */
static void walk(const struct cancel *cancel, struct weir__task *const top,
		 struct weir__scope *const outermost)
{
	struct weir__task *task = top;
	struct weir__scope *scope = enter_task(cancel, task, outermost);

	for (;;) {
		struct weir__task *child = NULL;

		if (!scope && task == top)
			return;
		if (!scope) {
			child = next_child(cancel, task->sibling_next);
			scope = task->owner;
			task = scope->task;
		} else if (level_of(scope->cancelled) < cancel->level) {
			scope->cancelled = mark(cancel, scope->cancelled, scope->deadline_ns);
			child = next_child(cancel, scope->children);
		}
		if (child) {
			task = child;
			scope = enter_task(cancel, child, NULL);
		} else if (task == top && scope == outermost) {
			return;
		} else {
			scope = scope->parent;
		}
	}
}

int weir__task_cancelled_why(const struct weir__task *task)
{
	return weir__cancelled_why(task->cancelled);
}

void weir__task_cancel(struct weir__worker *self, struct weir__task *task)
{
	if (level_of(task->base_cancelled) >= level_now(self))
		return;
	struct cancel cancel = cancel_begin(self, base_deadline(task));
	walk(&cancel, task, NULL);
}

void weir__scope_cancel(struct weir__worker *self, struct weir__scope *scope)
{
	if (level_of(scope->cancelled) >= level_now(self))
		return;
	struct cancel cancel = cancel_begin(self, scope->deadline_ns);
	walk(&cancel, scope->task, scope);
}

/* ---- Children ----------------------------------------------------------- */

void weir__scope_child_ended(struct weir__worker *self, struct weir__task *task)
{
	struct weir__scope *scope = task->owner;
	int result = task->result;

	*task->sibling_pprev = task->sibling_next;
	if (task->sibling_next)
		task->sibling_next->sibling_pprev = task->sibling_pprev;
	weir__task_free(task);
	scope->pending--;
	if (result < 0 && result != -ECANCELED && !scope->error) {
		scope->error = result;
		weir__scope_cancel(self, scope);
	}
	if (scope->pending == 0 && scope->awaits) {
		scope->awaits = WEIR__AWAITS_NOTHING;
		weir__ready_before(self, scope->task, &self->runq_head);
	}
}

/* The opener is ready now: the end of the last child must not make it so again. */
static void abort_await(struct weir__task *task, int why)
{
	struct weir__scope *scope = task->wait;

	scope->awaits = WEIR__AWAITS_NOTHING;
	weir__ready(task->worker, task, why);
}

static void describe_await(const struct weir__task *task, char *ret, size_t cap)
{
	const struct weir__scope *scope = task->wait;

	snprintf(ret, cap, "%u tasks", scope->pending);
}
WEIR__WAIT_KIND(abort_await, "scope join", describe_await);

/* Parks until no child is left, or, with `interruptible`, until the opener is interrupted. */
static int await_children(struct weir__worker *self, struct weir__scope *scope, bool interruptible)
{
	int err = 0;

	while (scope->pending > 0 && err == 0) {
		scope->awaits = WEIR__AWAITS_CHILDREN;
		if (interruptible)
			err = weir__park(self, abort_await, scope);
		else
			weir__park_for(self, "scope join");
	}
	return err;
}

/* ---- Public ------------------------------------------------------------- */

/* The deadline `timeout_ns` from now, if it is before `outer_ns`; that of WEIR_FOREVER never is. */
static inline int64_t shrink(struct weir__worker *self, int64_t outer_ns, int64_t timeout_ns,
			     int64_t now)
{
	if (now > self->now_ns)
		self->now_ns = now;
	return timeout_ns < outer_ns - self->now_ns ? self->now_ns + timeout_ns : outer_ns;
}

/* Reads the clock first, exactly only where that shows: nothing else has to survive the call. */
static inline void open_scope(struct weir__scope *scope, int64_t timeout_ns, bool is_shield)
{
	int64_t now = 0;

	if (timeout_ns < WEIR_SEC) {
		now = weir__clock_ns();
		timeout_ns = timeout_ns < 0 ? 0 : timeout_ns;
	} else if (timeout_ns != WEIR_FOREVER) {
		now = weir__clock_coarse_ns();
	}
	struct weir__worker *self = weir__worker_self();
	struct weir__task *task = self ? self->current : NULL;

	scope->task = task;
	if (!task)
		return;
	int64_t outer = task->deadline_ns;
	int64_t deadline = shrink(self, is_shield ? INT64_MAX : outer, timeout_ns, now);
	if (is_shield)
		task->cancelled = level_of(task->cancelled) & WEIR__CANCELLED_HARD;
	scope->parent = task->scope;
	scope->children = NULL;
	scope->deadline_ns = deadline;
	scope->outer_deadline_ns = outer;
	scope->pending = 0;
	scope->error = 0;
	scope->cancelled = task->cancelled;
	scope->is_shield = is_shield;
	scope->awaits = WEIR__AWAITS_NOTHING;
	atomic_init(&scope->asked, WEIR__ASKED_NOT);
	scope->is_bound = 0;
	atomic_signal_fence(memory_order_release); /* for dump.c, which may interrupt us */
	task->scope = scope;
	task->deadline_ns = deadline;
}

void weir_scope_open(struct weir_scope *scope, int64_t timeout_ns)
{
	open_scope(weir__scope_of(scope), timeout_ns, false);
}

void weir_scope_open_shield(struct weir_scope *scope, int64_t timeout_ns)
{
	open_scope(weir__scope_of(scope), timeout_ns, true);
}

int weir_scope_wait(struct weir_scope *public_scope)
{
	struct weir__scope *scope = weir__scope_of(public_scope);
	struct weir__worker *self = weir__worker_self();

	if (!scope->task || !self || scope->task != self->current)
		return -EINVAL;
	int err = weir__interrupted(self, self->current);
	if (err == 0)
		err = await_children(self, scope, true);
	if (err < 0) {
		weir__scope_cancel(self, scope);
		await_children(self, scope, false);
	}
	return scope->error ? scope->error : err;
}

static void cancel_asked(struct weir__worker *self, struct weir__msg *msg)
{
	struct weir__scope *scope = (void *)((char *)msg - offsetof(struct weir__scope, ask));

	weir__scope_cancel(self, scope);
	atomic_store_explicit(&scope->asked, WEIR__ASKED_HANDLED, memory_order_relaxed);
	if (scope->awaits == WEIR__AWAITS_ASK) {
		scope->awaits = WEIR__AWAITS_NOTHING;
		weir__ready(self, scope->task, 0);
	}
}

void weir__scope_ask(struct weir__scope *scope)
{
	uint8_t not = WEIR__ASKED_NOT;

	if (!atomic_compare_exchange_strong_explicit(&scope->asked, &not, WEIR__ASKED_POSTED,
						     memory_order_relaxed, memory_order_relaxed))
		return;
	scope->ask.fn = cancel_asked;
	weir__worker_post(scope->task->worker, &scope->ask);
}

/*
 * From another worker the caller is, or was spawned below, a task of the scope: its end comes home
 * through the same inbox, behind this message, so the scope is still open when it is handled.
 */
void weir_scope_cancel(struct weir_scope *public_scope)
{
	struct weir__scope *scope = weir__scope_of(public_scope);
	struct weir__worker *self = weir__worker_self();

	if (!self || !scope->task)
		return;
	if (scope->task->worker == self)
		weir__scope_cancel(self, scope);
	else
		weir__scope_ask(scope);
}

static inline void pop_scope(struct weir__task *task, struct weir__scope *scope)
{
	struct weir__scope *parent = scope->parent;

	task->scope = parent;
	task->cancelled = parent ? parent->cancelled : task->base_cancelled;
	task->deadline_ns = scope->outer_deadline_ns;
	scope->task = NULL;
}

/* The token's message may be on its way still, and it lies in the scope. */
static void unbind(struct weir__worker *self, struct weir__scope *scope)
{
	weir__token_unbind(scope);
	while (atomic_load_explicit(&scope->asked, memory_order_relaxed) == WEIR__ASKED_POSTED) {
		scope->awaits = WEIR__AWAITS_ASK;
		weir__park_for(self, "a canceller");
	}
}

static __attribute__((noinline)) void close_slow(struct weir__task *task, struct weir__scope *scope)
{
	struct weir__worker *self = task->worker;

	if (scope->pending > 0) {
		weir__scope_cancel(self, scope);
		await_children(self, scope, false);
	}
	if (scope->is_bound)
		unbind(self, scope);
	pop_scope(task, scope);
}

void weir_scope_close(struct weir_scope *public_scope)
{
	struct weir__scope *scope = weir__scope_of(public_scope);
	struct weir__task *task = scope->task;

	if (!task)
		return;
	/* scopes are closed by their opener, in the reverse order of their opening */
	WEIR_ASSERT(task->scope == scope && task->worker->current == task);
	if (__builtin_expect(scope->pending | scope->is_bound, 0))
		close_slow(task, scope);
	else
		pop_scope(task, scope);
}
