/* SPDX-License-Identifier: MIT */
/*
 * rescue.c: making room for a worker without a CPU; rescue.h has the idea.
 *
 * Relies on leave_together(): while a worker is in its loop the drivers and threads of all others
 * are there. Not so when a runtime leaves tasks behind, hence nobody looks once it drains.
 */
#include "runtime/rescue.h"

#include <sched.h>

#include "runtime/affinity.h"
#include "runtime/task.h"

enum { LOOKS_LEFT_OUT = 3 };

/* Of a rest, with the timer slack that threads have by default; and between rests in vain. */
static const int64_t REST_NS = 60 * WEIR_US, PAUSE_MAX_NS = 100 * WEIR_MS;

/* ---- Who has no CPU ----------------------------------------------------- */

static struct weir__worker *next_other(struct weir__worker *self)
{
	struct weir__runtime *runtime = self->runtime;
	unsigned next = self->rescue.next++ % (runtime->workers_count - 1);

	return runtime->workers[next < self->index ? next : next + 1];
}

/* It is in a turn, or would begin one if it could. */
static bool wants_cpu(struct weir__worker *other, int64_t now_ns)
{
	const struct weir__driver_ops *ops = other->driver->ops;

	if (atomic_load_explicit(&other->rescue_shown.rests_until_ns, memory_order_relaxed) >
	    now_ns)
		return false;
	return !atomic_load_explicit(&other->is_settled, memory_order_relaxed) ||
	       atomic_load_explicit(&other->inbox, memory_order_relaxed) ||
	       (ops->is_due && ops->is_due(other->driver));
}

static int64_t cpu_time(struct weir__worker *other)
{
	struct timespec time;
	clockid_t clock;

	if (pthread_getcpuclockid(other->thread, &clock) != 0 || clock_gettime(clock, &time) < 0)
		return -1;
	return time.tv_sec * WEIR_SEC + time.tv_nsec;
}

static bool is_here(const struct weir__worker *self, const struct weir__worker *other)
{
	return atomic_load_explicit(&self->rescue_shown.cpu, memory_order_relaxed) ==
	       atomic_load_explicit(&other->rescue_shown.cpu, memory_order_relaxed);
}

/*
 * The next look says more. Its CPU time, a system call, is read when it has not got out of this
 * turn by then; at once where two share a CPU, and then the next look is sooner: who has been woken
 * elsewhere may be on its way.
 */
static void suspect(struct weir__worker *self, struct weir__worker *other)
{
	struct weir__rescue *rescue = &self->rescue;

	rescue->suspect = wants_cpu(other, self->now_ns) ? other : NULL;
	if (!rescue->suspect)
		return;
	rescue->turns = weir__peek(&other->counts.turns);
	rescue->cpu_ns = -1;
	if (is_here(self, other)) {
		rescue->cpu_ns = cpu_time(other);
		rescue->look_ns = self->now_ns + self->runtime->rescue_ns / 2;
	}
}

/* Whether it has had no CPU time since the last look. One that runs is left alone for a while. */
static bool is_stuck(struct weir__worker *self)
{
	struct weir__rescue *rescue = &self->rescue;
	struct weir__worker *other = rescue->suspect;

	if (!other || weir__peek(&other->counts.turns) != rescue->turns ||
	    !wants_cpu(other, self->now_ns)) {
		suspect(self, next_other(self));
		return false;
	}
	int64_t cpu_ns = cpu_time(other);
	if (cpu_ns >= 0 && cpu_ns == rescue->cpu_ns)
		return true;
	if (rescue->cpu_ns >= 0)
		rescue->look_ns += LOOKS_LEFT_OUT * self->runtime->rescue_ns;
	rescue->cpu_ns = cpu_ns;
	return false;
}

/* ---- What is done about it ---------------------------------------------- */

/*
 * By one of the others, once in a turn of its. Whoever sets the affinity of a worker's thread
 * between the two calls has it undone: `WEIR_PIN`, or 0 us, for who does that while it runs.
 */
static bool fetch(struct weir__worker *other, uint64_t turns)
{
	struct weir__affinity allowed;
	int cpu = sched_getcpu();

	if (atomic_exchange_explicit(&other->rescue_shown.fetched, turns + 1,
				     memory_order_relaxed) == turns + 1)
		return false;
	if (cpu < 0 || weir__affinity_get(other->tid, &allowed) < 0)
		return false;
	bool is_fetched = weir__affinity_has(&allowed, (unsigned)cpu) &&
			  weir__affinity_count(&allowed) > 1 &&
			  weir__affinity_set_one(other->tid, (unsigned)cpu) == 0 &&
			  weir__affinity_set(other->tid, &allowed) == 0;
	weir__affinity_free(&allowed);
	return is_fetched;
}

/* A sleep and not sched_yield(), which gives up more than the moment (6.18: a whole slice). */
static void rest(struct weir__worker *self)
{
	static const struct timespec least = { .tv_nsec = 1 };

	atomic_store_explicit(&self->rescue_shown.rests_until_ns, weir__clock_ns() + REST_NS,
			      memory_order_relaxed);
	(void)nanosleep(&least, NULL);
	atomic_store_explicit(&self->rescue_shown.rests_until_ns, 0, memory_order_relaxed);
	self->now_ns = weir__clock_ns();
}

static int64_t next_pause(const struct weir__rescue *rescue, int64_t least_ns)
{
	int64_t pause_ns = rescue->pause_ns * 2 < least_ns ? least_ns : rescue->pause_ns * 2;

	return pause_ns < PAUSE_MAX_NS ? pause_ns : PAUSE_MAX_NS;
}

static __attribute__((noinline)) void make_room(struct weir__worker *self)
{
	struct weir__rescue *rescue = &self->rescue;
	struct weir__worker *other = rescue->suspect;
	int64_t period_ns = self->runtime->rescue_ns;

	if (is_here(self, other) || fetch(other, rescue->turns)) {
		self->driver->ops->submit_and_wait(self->driver, 0);
		rest(self);
		self->counts.rescues++;
	}
	bool has_run = cpu_time(other) != rescue->cpu_ns;
	rescue->pause_ns = has_run ? 0 : next_pause(rescue, period_ns);
	rescue->look_ns = self->now_ns + period_ns;
	suspect(self, other);
	rescue->look_ns += rescue->pause_ns;
}

void weir__rescue(struct weir__worker *self)
{
	struct weir__rescue *rescue = &self->rescue;
	int cpu = sched_getcpu();

	/* in a line that others read: only when it changes */
	if (atomic_load_explicit(&self->rescue_shown.cpu, memory_order_relaxed) != cpu)
		atomic_store_explicit(&self->rescue_shown.cpu, cpu, memory_order_relaxed);
	if (self->now_ns < rescue->look_ns ||
	    atomic_load_explicit(&self->runtime->draining, memory_order_relaxed))
		return;
	rescue->look_ns = self->now_ns + self->runtime->rescue_ns;
	if (is_stuck(self))
		make_room(self);
}
