/* SPDX-License-Identifier: MIT */
/*
 * select.c: waiting for several things and taking exactly one.
 *
 * First every case is asked, in turn from a place that moves on with every call: that is fair, and
 * mostly the end. Else the task enters the queue of each with one claim for all (wait.h). Whoever
 * turns the claim decides the case: another task that grants, this one when it finds a case ready
 * while it still enters the rest, a timer, or the interruption. A case that finds the claim taken
 * has not been touched. Who was granted while still entering parks all the same: the wake-up comes.
 */
#include "runtime/wait.h"
#include "runtime/wait_kind.h"

enum { WAITERS_ON_STACK = 8, NO_TIMER = WEIR_CASES_MAX };

struct select {
	_Atomic uint32_t claim;
	unsigned count;
	struct weir_case *cases;
	struct weir__waiter *waiters;
	unsigned timer; /* the case that until_ns is of, or NO_TIMER */
	int64_t until_ns;
	struct weir__waiter few[WAITERS_ON_STACK];
};

static const struct weir__waitable *source_of(const struct weir_case *wanted)
{
	return wanted->source_;
}

/* ---- Time --------------------------------------------------------------- */

static bool poll_time(struct weir__worker *self, struct weir_case *wanted)
{
	(void)self;
	wanted->result = 0;
	return wanted->count_ <= 0;
}

/* Not in any queue: the park has an end. */
static bool enter_time(struct weir__worker *self, struct weir_case *wanted,
		       struct weir__waiter *waiter)
{
	(void)self;
	(void)wanted;
	(void)waiter;
	return false;
}

static const struct weir__waitable time_source = { .poll = poll_time, .enter = enter_time };

struct weir_case weir_case_timer(int64_t ns)
{
	return (struct weir_case){ .source_ = &time_source, .count_ = ns };
}

static void find_timer(struct select *select, struct weir__worker *self)
{
	int64_t shortest = INT64_MAX;

	select->timer = NO_TIMER;
	select->until_ns = INT64_MAX;
	for (unsigned i = 0; i < select->count; i++) {
		if (select->cases[i].source_ == &time_source &&
		    select->cases[i].count_ < shortest) {
			shortest = select->cases[i].count_;
			select->timer = i;
		}
	}
	if (select->timer == NO_TIMER)
		return;
	self->now_ns = weir__clock_ns();
	if (shortest < INT64_MAX - self->now_ns)
		select->until_ns = self->now_ns + shortest;
}

/* ---- Entering and leaving ----------------------------------------------- */

/* True: decided by us; the claim says which. */
static bool enter_all(struct select *select, struct weir__worker *self, unsigned first)
{
	for (unsigned n = 0; n < select->count; n++) {
		unsigned i = (first + n) % select->count;
		struct weir__waiter *waiter = &select->waiters[i];
		const struct weir__waitable *source = source_of(&select->cases[i]);

		weir__waiter_init(waiter, self->current);
		waiter->claim = &select->claim;
		waiter->claims = WEIR__CLAIM_CASE + i;
		if (source && source->enter(self, &select->cases[i], waiter)) {
			/* those behind were never entered */
			while (++n < select->count)
				weir__waiter_init(&select->waiters[(first + n) % select->count],
						  self->current);
			return atomic_load_explicit(&select->claim, memory_order_relaxed) ==
			       waiter->claims;
		}
	}
	return false;
}

static void leave_all(struct select *select, struct weir__worker *self)
{
	for (unsigned i = 0; i < select->count; i++) {
		const struct weir__waitable *source = source_of(&select->cases[i]);
		if (source && source->leave)
			source->leave(self, &select->cases[i], &select->waiters[i]);
		else
			weir__waiter_leave(self, &select->waiters[i]);
	}
}

/* The queues are left when the task runs: who meets the waiters there finds the claim taken. */
static void abort_select(struct weir__task *task, int why)
{
	struct select *select = task->wait;
	uint32_t open = WEIR__CLAIM_OPEN;
	uint32_t end = why == 0 ? WEIR__CLAIM_CASE + select->timer : (uint32_t)WEIR__CLAIM_ENDED;

	if (atomic_compare_exchange_strong_explicit(&select->claim, &open, end,
						    memory_order_relaxed, memory_order_relaxed))
		weir__ready(task->worker, task, why);
}

/* What another granted, or the timer. */
static void fetch(struct select *select, unsigned i)
{
	struct weir_case *taken = &select->cases[i];
	const struct weir__waitable *source = source_of(taken);

	taken->result = i == select->timer ? 0 : select->waiters[i].result;
	if (source->granted)
		source->granted(taken, &select->waiters[i]);
}

WEIR__WAIT_KIND(abort_select, "select", NULL);

static int wait_for_one(struct select *select, struct weir__worker *self, unsigned first)
{
	bool is_ours = enter_all(select, self, first);
	int err = is_ours ? 0 : weir__park_until(self, abort_select, select, select->until_ns);

	leave_all(select, self);
	if (err < 0)
		return err;
	unsigned i = atomic_load_explicit(&select->claim, memory_order_relaxed) - WEIR__CLAIM_CASE;
	if (!is_ours)
		fetch(select, i);
	return (int)i;
}

/* ---- Public ------------------------------------------------------------- */

/*
 * Where to begin: by multiples of the golden ratio, which are spread evenly over the cases whatever
 * every so-manieth of them a task gets, because it selects twice in a loop or takes turns with
 * another.
 */
static unsigned next_turn(struct weir__worker *self, unsigned count)
{
	self->select_turn += 0x9e3779b9u;
	return (unsigned)((uint64_t)self->select_turn * count >> 32);
}

/* The number of the case that was taken, or -EAGAIN. */
static int poll_all(struct weir__worker *self, struct weir_case *cases, unsigned count,
		    unsigned first)
{
	for (unsigned n = 0; n < count; n++) {
		unsigned i = first + n < count ? first + n : first + n - count;
		const struct weir__waitable *source = source_of(&cases[i]);
		if (source && source->poll(self, &cases[i]))
			return (int)i;
	}
	return -EAGAIN;
}

int weir_select_try(struct weir_case *cases, unsigned count)
{
	struct weir__worker *self = weir__worker_self();

	if (!self || !self->current || count == 0 || count > WEIR_CASES_MAX)
		return -EINVAL;
	return poll_all(self, cases, count, next_turn(self, count));
}

int weir_select(struct weir_case *cases, unsigned count)
{
	struct weir__worker *self = weir__worker_self();
	struct select select;
	int err = weir__may_wait(self);

	if (err < 0)
		return err;
	if (count == 0 || count > WEIR_CASES_MAX)
		return -EINVAL;
	unsigned first = next_turn(self, count);
	int taken = poll_all(self, cases, count, first);
	if (taken >= 0) {
		weir__budget_spend(self);
		return taken;
	}
	atomic_init(&select.claim, WEIR__CLAIM_OPEN);
	select.cases = cases;
	select.count = count;
	select.waiters = count <= WAITERS_ON_STACK
				 ? select.few
				 : weir_alloc_aligned(_Alignof(struct weir__waiter),
						      count * sizeof *select.waiters);
	if (!select.waiters)
		return -ENOMEM;
	find_timer(&select, self);
	taken = wait_for_one(&select, self, first);
	if (select.waiters != select.few)
		weir_free(select.waiters);
	return taken;
}
