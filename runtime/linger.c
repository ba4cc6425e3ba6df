/* SPDX-License-Identifier: MIT */
/*
 * linger.c: looking out for a message before the sleep; linger.h has the idea.
 *
 * Relies on senders that leave a worker alone which is not parked (worker.c). When nothing comes
 * the worker parks as if it had not lingered: the protocol begins only then.
 */
#include "runtime/linger.h"

#include <sched.h>

#include "runtime/task.h"

/*
 * A sleep as short as that may have been one that lingering spares: waking up takes most of it, up
 * to 25 us on each side where an idle CPU is a halted virtual one.
 */
static const int64_t QUICK_NS = 100 * WEIR_US;

/* Below that a look is over before a message can have crossed to another CPU and back. */
static const int64_t LEAST_NS = 500;

/* The first answer of a try comes from a worker that has to wake up for it. */
enum { TRY_FACTOR = 5 };

enum { LOOKS_PER_CLOCK = 16 };

/* ---- What is learned ---------------------------------------------------- */

void weir__linger_slept(struct weir__linger *linger, int64_t slept_ns, bool by_message,
			int64_t max_ns)
{
	uint32_t wanted = linger->wanted ? linger->wanted : WEIR__LINGER_SLEEPS_MIN;

	if (linger->allowance_ns)
		return;
	linger->quick = by_message && slept_ns <= QUICK_NS ? linger->quick + 1 : 0;
	if (linger->quick < wanted)
		return;
	linger->quick = 0;
	linger->wanted =
		wanted * 2 < WEIR__LINGER_SLEEPS_MAX ? wanted * 2 : WEIR__LINGER_SLEEPS_MAX;
	linger->allowance_ns = max_ns * TRY_FACTOR;
}

void weir__linger_ended(struct weir__linger *linger, bool has_come, int64_t took_ns, int64_t max_ns)
{
	if (has_come && took_ns <= max_ns) {
		linger->allowance_ns = max_ns;
		linger->wanted = WEIR__LINGER_SLEEPS_MIN;
		return;
	}
	linger->allowance_ns = has_come ? linger->allowance_ns * 3 / 4 : linger->allowance_ns / 2;
	if (linger->allowance_ns < LEAST_NS)
		linger->allowance_ns = 0;
}

/* ---- Looking out -------------------------------------------------------- */

static inline bool has_message(const struct weir__worker *self)
{
	return atomic_load_explicit(&self->inbox, memory_order_relaxed) != NULL;
}

/* What else ends it: completions, the news of settle(). */
static bool has_other_news(struct weir__worker *self)
{
	const struct weir__driver_ops *ops = self->driver->ops;

	return (ops->is_ready && ops->is_ready(self->driver)) || weir__worker_has_news(self);
}

/*
 * Whether something came, and after what time. The first looks are free of the clock: an answer
 * that is under way comes within them.
 */
static bool look_out(struct weir__worker *self, int64_t until_ns, int64_t *ret_took_ns)
{
	int64_t now = 0, start = 0;
	bool has_come = false;

	do {
		for (int n = 0; n < LOOKS_PER_CLOCK && !has_come; n++) {
			has_come = has_message(self);
			weir__pause();
		}
		if (has_come || has_other_news(self)) {
			*ret_took_ns = now - start;
			return true;
		}
		now = weir__clock_ns();
		if (!start)
			start = now;
	} while (now - start < self->linger.allowance_ns && now < until_ns);
	*ret_took_ns = now - start;
	return false;
}

bool weir__linger(struct weir__worker *self)
{
	int64_t took_ns;

	if (self->runq_head || self->classes_waiting || weir__fresh_count(&self->fresh) > 0)
		return true;
	self->driver->ops->submit_and_wait(self->driver, 0);
	/* a sender on this CPU cannot send while we look */
	self->cpu = sched_getcpu();
	if (self->cpu == atomic_load_explicit(&self->sender_cpu, memory_order_relaxed))
		return false;
	bool has_come = look_out(self, weir__wheel_next(&self->wheel), &took_ns);
	weir__linger_ended(&self->linger, has_come, took_ns, self->runtime->linger_ns);
	self->counts.lingers++;
	self->counts.lingers_found += has_come;
	return has_come;
}
