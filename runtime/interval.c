/* SPDX-License-Identifier: MIT */
/*
 * interval.c: ticks.
 *
 * A tick counts as missed when the one after it is due, too. So small delays do not add up,
 * whatever the policy: the next tick is reckoned from when this one was due, not from when it was
 * delivered.
 */
#include "runtime/interval.h"

#include <limits.h>

#include "runtime/task.h"
#include "runtime/wait_kind.h"

static int64_t add(int64_t ns, int64_t more_ns)
{
	return more_ns < INT64_MAX - ns ? ns + more_ns : INT64_MAX;
}

int64_t weir__interval_advance(struct weir__interval *interval, int64_t now_ns)
{
	int64_t due = interval->next_ns;
	int64_t missed = (now_ns - due) / interval->period_ns;

	if (missed == 0 || interval->missed == WEIR_MISSED_BURST) {
		interval->next_ns = add(due, interval->period_ns);
		return 0;
	}
	if (interval->missed == WEIR_MISSED_DELAY)
		due = now_ns;
	else
		due += missed * interval->period_ns;
	interval->next_ns = add(due, interval->period_ns);
	return missed;
}

int weir_interval_init(struct weir_interval *interval, int64_t period_ns, enum weir_missed missed)
{
	struct weir__interval *known = (void *)interval;

	if (period_ns < 1 || missed > WEIR_MISSED_DELAY)
		return -EINVAL;
	*known = (struct weir__interval){
		.next_ns = add(weir__clock_ns(), period_ns),
		.period_ns = period_ns,
		.missed = missed,
	};
	return 0;
}

static void abort_interval(struct weir__task *task, int why)
{
	weir__ready(task->worker, task, why);
}
WEIR__WAIT_KIND(abort_interval, "interval", NULL);

/* Parks until the tick, or lets others run when the task does nothing but catch up. */
static int reach(struct weir__worker *self, int64_t tick_ns)
{
	int err = weir__interrupted(self, self->current);

	if (err < 0)
		return err;
	if (self->now_ns < tick_ns)
		return weir__park_until(self, abort_interval, NULL, tick_ns);
	weir__budget_spend(self);
	return 0;
}

int weir_interval_wait(struct weir_interval *interval)
{
	struct weir__interval *known = (void *)interval;
	struct weir__worker *self = weir__worker_self();

	if (!self || !self->current)
		return -EINVAL;
	self->now_ns = weir__clock_ns();
	int err = reach(self, known->next_ns);
	if (err < 0)
		return err;
	int64_t dropped = weir__interval_advance(known, weir__clock_ns());
	return dropped < INT_MAX ? (int)dropped : INT_MAX;
}
