/* SPDX-License-Identifier: MIT */
/*
 * lookout.c: looking out for completions before the sleep; lookout.h has the idea.
 *
 * Relies on a driver that can say without a system call that it has completions; with another one
 * nobody looks out.
 */
#include "runtime/lookout.h"

#include "runtime/task.h"

enum { LOOKS_PER_CLOCK = 16 };

/* ---- What is learned ---------------------------------------------------- */

static void begin(struct weir__lookout *lookout, int64_t max_ns)
{
	lookout->is_on = true;
	lookout->looks = 0;
	lookout->early_ns = max_ns * 7 / 2; /* two in vain, one after the other, end it */
}

static void give_up(struct weir__lookout *lookout)
{
	uint32_t rests = lookout->rests * 2;

	lookout->is_on = false;
	lookout->early_ns = 0;
	if (rests < WEIR__LOOKOUT_RESTS_MIN)
		rests = WEIR__LOOKOUT_RESTS_MIN;
	lookout->rests = rests < WEIR__LOOKOUT_RESTS_MAX ? rests : WEIR__LOOKOUT_RESTS_MAX;
	lookout->rest = lookout->rests;
}

void weir__lookout_learn(struct weir__lookout *lookout, int64_t gap_ns, int64_t max_ns)
{
	int64_t most = 4 * max_ns;

	lookout->early_ns += ((gap_ns < most ? most - gap_ns : 0) - lookout->early_ns) / 8;
	if (!lookout->is_on) {
		if (lookout->early_ns > most - 2 * max_ns)
			begin(lookout, max_ns);
		return;
	}
	if (lookout->early_ns < most - max_ns)
		give_up(lookout);
	else if (lookout->looks < WEIR__LOOKOUT_PROVEN && ++lookout->looks == WEIR__LOOKOUT_PROVEN)
		lookout->rests = 0;
}

/* ---- Looking out -------------------------------------------------------- */

static bool has_come(struct weir__worker *self)
{
	return self->driver->ops->is_ready(self->driver) || weir__worker_has_news(self);
}

/* Up to the limit or the next timer; the clock is not read for what is there already. */
static bool look_out(struct weir__worker *self, int64_t max_ns)
{
	int64_t until = weir__wheel_next(&self->wheel), start = 0, now = 0;

	do {
		for (int n = 0; n < LOOKS_PER_CLOCK; n++) {
			if (has_come(self)) {
				weir__lookout_learn(&self->lookout, now - start, max_ns);
				return true;
			}
			weir__pause();
		}
		now = weir__clock_ns();
		if (!start)
			start = now;
	} while (now - start < max_ns && now < until);
	self->lookout.idle_ns = start;
	return false;
}

bool weir__lookout(struct weir__worker *self)
{
	struct weir__lookout *lookout = &self->lookout;

	if (self->runq_head || self->classes_waiting || weir__fresh_count(&self->fresh) > 0 ||
	    !self->driver->ops->is_ready)
		return false;
	if (lookout->rest) {
		lookout->rest--;
		return false;
	}
	if (!lookout->is_on) {
		lookout->idle_ns = weir__clock_ns();
		return false;
	}
	self->driver->ops->submit_and_wait(self->driver, 0);
	bool found = look_out(self, self->runtime->lookout_ns);
	self->counts.lingers++;
	self->counts.lingers_found += found;
	return found;
}

void weir__lookout_slept(struct weir__worker *self, unsigned completions)
{
	struct weir__lookout *lookout = &self->lookout;

	if (lookout->idle_ns && completions)
		weir__lookout_learn(lookout, self->now_ns - lookout->idle_ns,
				    self->runtime->lookout_ns);
	lookout->idle_ns = 0;
}
