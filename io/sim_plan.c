/* SPDX-License-Identifier: MIT */
/*
 * sim_plan.c: what a seed means.
 *
 * Each run draws which kinds of trouble it has and how much of each, and then draws the trouble. A
 * run with every fault at once hides more than it finds: half of the kinds are absent from any one
 * run, and the sizes (of buffers, queues, latencies) range from the smallest that work to generous.
 */
#include "io/sim.h"

enum { PIPE_BYTES_LEAST = 64 << 10 }; /* of a pipe of Linux; its sockets hold more */

uint64_t weir__sim_random(struct weir__sim *sim)
{
	/* xoroshiro128+ */
	uint64_t a = sim->state[0], b = sim->state[1], sum = a + b;

	b ^= a;
	sim->state[0] = ((a << 24) | (a >> 40)) ^ b ^ (b << 16);
	sim->state[1] = (b << 37) | (b >> 27);
	return sum;
}

uint64_t weir__sim_below(struct weir__sim *sim, uint64_t n)
{
	return n ? (weir__sim_random(sim) >> 11) % n : 0;
}

bool weir__sim_chance(struct weir__sim *sim, unsigned permille)
{
	return permille && weir__sim_below(sim, 1000) < permille;
}

int64_t weir__sim_delay(struct weir__sim *sim, int64_t most_ns)
{
	if (weir__sim_chance(sim, sim->plan.faults.late)) {
		sim->result.faults++;
		most_ns = 20 * WEIR_MS;
	}
	return (int64_t)weir__sim_below(sim, (uint64_t)most_ns + 1);
}

/* splitmix64: seeds that follow each other give runs that have nothing in common. */
static uint64_t scramble(uint64_t *state)
{
	uint64_t z = *state += 0x9e3779b97f4a7c15;

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
	z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
	return z ^ (z >> 31);
}

/* Absent from half of the runs. */
static unsigned rate(struct weir__sim *sim, unsigned most)
{
	if (weir__sim_below(sim, 2))
		return 0;
	return 1 + (unsigned)weir__sim_below(sim, most);
}

/* One of many orders of magnitude, at most `most`. */
static int64_t magnitude(struct weir__sim *sim, int64_t least, int64_t most)
{
	int64_t value = least;

	while (value < most && weir__sim_below(sim, 4))
		value *= 4;
	return value < most ? value : most;
}

static void draw_faults(struct weir__sim *sim, const struct weir_sim_opts *opts)
{
	struct weir_sim_faults *faults = &sim->plan.faults;

	faults->short_io = rate(sim, 500);
	faults->late = rate(sim, 100);
	faults->no_buffers = rate(sim, 100);
	faults->late_success = rate(sim, 700);
	faults->cancel_refused = rate(sim, 500);
	faults->overflow = rate(sim, 300);
	faults->stall = rate(sim, 10);
	if (!opts->failures)
		return;
	faults->reset = rate(sim, 20);
	faults->refuse = rate(sim, 50);
	faults->no_descriptors = rate(sim, 50);
	faults->no_memory = rate(sim, 10);
	faults->lost = rate(sim, 200);
	faults->doubled = rate(sim, 100);
	faults->overtaken = rate(sim, 300);
	faults->io_error = rate(sim, 20);
	faults->no_space = rate(sim, 50);
}

static void draw_ways(struct weir__sim *sim)
{
	struct weir__sim_plan *plan = &sim->plan;

	plan->preempt = rate(sim, 500);
	plan->reorder = rate(sim, 300);
	plan->jumble = rate(sim, 800);
	plan->ends_multi = rate(sim, 200);
	plan->completes_at_once = rate(sim, 1000);
	plan->cancels_at_once = rate(sim, 1000);
	plan->submits_at_once = rate(sim, 300);
	plan->spurious = rate(sim, 50);
	plan->latency_ns = magnitude(sim, 100, 2 * WEIR_MS);
	plan->delay_ns = magnitude(sim, 100, WEIR_MS);
	plan->tick_ns = magnitude(sim, 50, 20 * WEIR_US);
	plan->pipe_bytes = (size_t)magnitude(sim, 4096, 1 << 18);
}

void weir__sim_plan_draw(struct weir__sim *sim, const struct weir_sim_opts *opts)
{
	struct weir__sim_plan *plan = &sim->plan;
	uint64_t state = sim->seed;

	sim->state[0] = scramble(&state);
	sim->state[1] = scramble(&state);
	*plan = (struct weir__sim_plan){ .pipe_bytes = 1 << 18, .backlog_least = 1 };
	plan->is_multi = weir__sim_below(sim, 4) > 0;
	plan->lists_kept = weir__sim_below(sim, 2);
	plan->is_direct = weir__sim_below(sim, 2);
	sim->workers_count = opts->workers ? opts->workers : 1 + (unsigned)weir__sim_below(sim, 4);
	if (!opts->calm) {
		draw_ways(sim);
		draw_faults(sim, opts);
	}
	if (opts->faults)
		plan->faults = *opts->faults;
}

void weir__sim_plan_spare(struct weir__sim *sim)
{
	sim->plan.reorder = 0;
	sim->plan.backlog_least = 512;
	if (sim->plan.pipe_bytes < PIPE_BYTES_LEAST)
		sim->plan.pipe_bytes = PIPE_BYTES_LEAST;
	if (sim->plan.tick_ns < WEIR_US)
		sim->plan.tick_ns = WEIR_US;
}

static void set(struct weir__config *config, enum weir__option option, uint64_t value)
{
	if (config->source[option] == WEIR__SOURCE_DEFAULT)
		config->value[option] = value;
}

void weir__sim_plan_config(struct weir__sim *sim, struct weir__config *config)
{
	uint64_t budget = (uint64_t)magnitude(sim, 1, 128), lend = 1 + weir__sim_below(sim, 8);
	uint64_t small = (uint64_t)magnitude(sim, 512, 4096);
	uint64_t backlog = (uint64_t)magnitude(sim, sim->plan.backlog_least, 4096);

	if (sim->opts->calm)
		return;
	set(config, WEIR__OPTION_budget, budget);
	set(config, WEIR__OPTION_lend_max, lend);
	set(config, WEIR__OPTION_recv_bytes, small);
	set(config, WEIR__OPTION_recv_bulk_bytes, small * 8);
	set(config, WEIR__OPTION_backlog, backlog);
}
