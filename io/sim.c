/* SPDX-License-Identifier: MIT */
/*
 * sim.c: weir_sim_run(): virtual workers on one thread, in virtual time.
 *
 * Every worker runs the loop of worker.c on a stack of its own. Where it would sleep, and wherever
 * it or one of its tasks reads the clock, it may be left for another: so workers overlap as threads
 * do, at points that include the middle of a task and the moment between publishing that one sleeps
 * and sleeping. When nobody can go on, time jumps to what happens next; when nothing will happen,
 * that is a deadlock.
 *
 * Thread-local state changes hands with the worker: who is running (weir__worker_self) and whose
 * heap serves allocations.
 */
#include "io/sim.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "runtime/fatal.h"
#include "alloc/opts.h"
#include "runtime/sanitizer.h"
#include "runtime/switch.h"

enum {
	LOOP_STACK_BYTES = 256 << 10,
	STEPS_MAX = 10000000,
	READINGS_MAX = 1000, /* of the clock, before others have their turn in any case */
};

static __thread struct weir__sim *current;

bool weir__sim_is_here(const struct weir__sim *sim)
{
	return sim == current;
}

/* ---- The hash and the trace --------------------------------------------- */

static void mix(struct weir__sim *sim, uint64_t value)
{
	uint64_t hash = (sim->result.hash ^ value) * 0x9e3779b97f4a7c15;

	sim->result.hash = hash ^ (hash >> 29);
}

void weir__sim_trace(struct weir__sim *sim, const char *what, uint64_t a, uint64_t b, uint64_t c)
{
	int worker = sim->running ? sim->running->io.worker->index : -1;

	mix(sim, (uint64_t)sim->now_ns);
	mix(sim, (uint64_t)what[0] << 56 | (uint64_t)what[1] << 48 | (uint64_t)(worker + 1));
	mix(sim, a);
	mix(sim, b);
	mix(sim, c);
	if (sim->is_traced)
		fprintf(sim->out, "%12.6f ms w%d %-8s %lld %lld %lld\n",
			(double)(sim->now_ns - WEIR__SIM_START_NS) / 1e6, worker, what,
			(long long)a, (long long)b, (long long)c);
}

/* ---- Events ------------------------------------------------------------- */

static bool is_before(const struct weir__sim_event *a, const struct weir__sim_event *b)
{
	return a->at_ns != b->at_ns ? a->at_ns < b->at_ns : a->order < b->order;
}

bool weir__sim_at(struct weir__sim *sim, int64_t delay_ns,
		  void (*fn)(struct weir__sim *sim, void *what), void *what)
{
	struct weir__sim_event event = { sim->now_ns + delay_ns, ++sim->order, fn, what };

	if (sim->events_count == sim->events_room) {
		size_t room = sim->events_room ? sim->events_room * 2 : 256;
		struct weir__sim_event *events = realloc(sim->events, room * sizeof(*events));
		if (!events)
			return false;
		sim->events = events;
		sim->events_room = room;
	}
	size_t at = sim->events_count++;
	while (at > 0 && is_before(&event, &sim->events[(at - 1) / 2])) {
		sim->events[at] = sim->events[(at - 1) / 2];
		at = (at - 1) / 2;
	}
	sim->events[at] = event;
	return true;
}

static struct weir__sim_event pop_event(struct weir__sim *sim)
{
	struct weir__sim_event first = sim->events[0], last = sim->events[--sim->events_count];
	size_t at = 0, count = sim->events_count;

	for (;;) {
		size_t child = 2 * at + 1;
		if (child + 1 < count && is_before(&sim->events[child + 1], &sim->events[child]))
			child++;
		if (child >= count || is_before(&last, &sim->events[child]))
			break;
		sim->events[at] = sim->events[child];
		at = child;
	}
	sim->events[at] = last;
	return first;
}

static void fire_due(struct weir__sim *sim)
{
	while (sim->events_count > 0 && sim->events[0].at_ns <= sim->now_ns) {
		struct weir__sim_event event = pop_event(sim);
		event.fn(sim, event.what);
	}
}

/* ---- From stack to stack ------------------------------------------------ */

static void switch_to(struct weir__sim *sim, void **save_sp, struct weir__stack *from,
		      void *load_sp, struct weir__stack *to, bool for_good)
{
	weir__san_leave(from, to, for_good);
	if (sim->use_ucontext)
		weir__switch_ucontext(save_sp, load_sp);
	else
		weir__switch(save_sp, load_sp);
	weir__san_enter(from);
}

/* Where the worker is: on its loop's stack or on a task's. */
static struct weir__stack *stack_of(struct weir__worker *worker)
{
	return worker->current ? worker->current->stack : &worker->thread_stack;
}

static void enter_worker(struct weir__sim *sim, struct weir__sim_worker *worker)
{
	struct weir__stack *to = stack_of(worker->io.worker);

	sim->running = worker;
	sim->result.steps++;
	worker->readings = 0;
	weir__sim_trace(sim, "worker", worker->io.worker->index, 0, 0);
	weir__worker_tls = worker->io.worker;
	(void)weir__heap_switch(worker->heap);
	switch_to(sim, &sim->sp, &sim->thread_stack, worker->sp, to, false);
	(void)weir__heap_switch(sim->thread_heap);
	weir__worker_tls = NULL;
	sim->running = NULL;
}

static void leave_worker(struct weir__sim_worker *worker, bool for_good)
{
	struct weir__sim *sim = worker->sim;

	switch_to(sim, &worker->sp, stack_of(worker->io.worker), sim->sp, &sim->thread_stack,
		  for_good);
}

/* ---- What a worker's turn passes through -------------------------------- */

/*
 * A task that has ended stands on a stack that is nobody's: no place to be left at. Its record may
 * be gone: the worker's `current` is not to be followed then.
 */
static bool may_be_left(const struct weir__sim_worker *worker)
{
	const struct weir__worker *self = worker->io.worker;

	return !self->current || self->counts.switches != worker->ended_at;
}

/* Puts the first of the ready tasks last. */
static void reorder(struct weir__worker *worker)
{
	struct weir__task *first = worker->runq_head;

	if (!first || !first->next)
		return;
	worker->runq_head = first->next;
	first->next = NULL;
	*worker->runq_tail = first;
	worker->runq_tail = &first->next;
}

static void cancel_root(struct weir__worker *self, struct weir__msg *msg)
{
	(void)msg;
	weir__task_cancel(self, &self->runtime->root);
}

static void cancel_everything(struct weir__sim *sim, struct weir__msg *msg)
{
	msg->fn = cancel_root;
	weir__worker_post(sim->runtime->workers[0], msg);
}

/* Programs do not know the tasks of weir_serve() that accept, and cannot cancel one of them. */
static bool is_internal(const struct weir__task *task)
{
	return task->owner && task->site && strcmp(task->site, "weir_serve") == 0 && task->name &&
	       strcmp(task->name, "acceptor") == 0;
}

static void cancel_chosen(struct weir__sim_worker *worker)
{
	struct weir__sim *sim = worker->sim;
	struct weir__task *task = worker->cancel;

	worker->cancel = NULL;
	weir__sim_trace(sim, "cancel", weir__task_id(task), sim->result.suspensions, 0);
	while (sim->opts->cancel_task && is_internal(task))
		task = task->owner->task;
	if (task->worker == worker->io.worker)
		weir__task_cancel(task->worker, task);
	else
		weir__task_cancel_remote(task);
	if (!sim->opts->cancel_task)
		cancel_everything(sim, &sim->cancel[0]);
}

/* On the scheduler's stack the run queue is whole and nobody is running. */
static void meddle(struct weir__sim_worker *worker)
{
	struct weir__sim *sim = worker->sim;

	if (worker->io.worker->current)
		return;
	if (worker->cancel)
		cancel_chosen(worker);
	while (weir__sim_chance(sim, sim->plan.reorder) && worker->io.worker->runq_head)
		reorder(worker->io.worker);
}

void weir__sim_pause(struct weir__sim_worker *worker, int64_t until_ns)
{
	struct weir__sim *sim = worker->sim;

	meddle(worker);
	if (until_ns && weir__sim_chance(sim, sim->plan.spurious))
		until_ns = 0;
	worker->is_waiting = until_ns != 0 && !worker->io.worker->runq_head &&
			     !worker->io.worker->classes_waiting;
	worker->until_ns = until_ns;
	leave_worker(worker, false);
	worker->is_waiting = false;
	worker->is_woken = false;
}

static int64_t sim_clock(void)
{
	struct weir__sim *sim = current;
	struct weir__sim_worker *worker = sim->running;

	if (!worker)
		return sim->now_ns;
	sim->now_ns += 1 + (int64_t)weir__sim_below(sim, (uint64_t)sim->plan.tick_ns);
	if (weir__sim_chance(sim, sim->plan.faults.stall)) {
		sim->result.faults++;
		worker->stalled_ns = sim->now_ns + (int64_t)weir__sim_below(sim, 50 * WEIR_MS);
	}
	if (may_be_left(worker)) {
		meddle(worker);
		if (worker->stalled_ns > sim->now_ns || weir__sim_chance(sim, sim->plan.preempt) ||
		    ++worker->readings >= READINGS_MAX)
			leave_worker(worker, false);
	}
	return sim->now_ns;
}

/* It spins, so only another worker's turn helps. */
static void sim_relax(void)
{
	struct weir__sim_worker *worker = current->running;

	/* a task that has ended is left nowhere: then who holds the lock is not left inside it */
	WEIR_ASSERT(worker && may_be_left(worker));
	current->now_ns += WEIR_US;
	leave_worker(worker, false);
}

static void sim_suspended(struct weir__worker *self, struct weir__task *task)
{
	struct weir__sim *sim = current;

	if (task->state != WEIR__TASK_PARKED || !task->abort)
		return;
	if (++sim->result.suspensions == sim->opts->cancel_at)
		sim->workers[self->index]->cancel = task;
}

static void sim_ended(struct weir__worker *self)
{
	if (current->running) /* else the simulator itself ends a task that never ran */
		current->running->ended_at = self->counts.switches;
}

static const struct weir__virtual machine = {
	.clock_ns = sim_clock,
	.suspended = sim_suspended,
	.ended = sim_ended,
	.relax = sim_relax,
};

static bool memory_fails(void)
{
	struct weir__sim *sim = current;

	if (!sim || !sim->running || !weir__sim_chance(sim, sim->plan.faults.no_memory))
		return false;
	sim->result.faults++;
	return true;
}

/* ---- The loop ----------------------------------------------------------- */

static void worker_main(void *arg)
{
	struct weir__sim_worker *worker = arg;
	struct weir__worker *self = worker->io.worker;
	int64_t until;

	weir__san_enter(&self->thread_stack);
	do {
		until = weir__worker_settle(self);
		(void)sim_clock(); /* somebody may look for us just now */
	} while (weir__worker_turn(self, until));
	weir__worker_stand_down(self);
	weir__worker_finish(self);
	worker->is_over = true;
	leave_worker(worker, true);
	__builtin_unreachable();
}

/* By a thread that is no worker of the run. What it does is in no seed. */
static bool is_woken_from_outside(struct weir__sim_worker *worker)
{
	if (!atomic_load_explicit(&worker->is_called, memory_order_relaxed))
		return false;
	/* acquire: pairs with the release in sim_wake() */
	worker->is_woken |=
		atomic_exchange_explicit(&worker->is_called, false, memory_order_acquire);
	return worker->is_woken;
}

static bool can_go_on(const struct weir__sim *sim, struct weir__sim_worker *worker)
{
	if (worker->is_over || worker->stalled_ns > sim->now_ns)
		return false;
	return !worker->is_waiting || worker->is_woken || worker->done ||
	       worker->until_ns <= sim->now_ns || is_woken_from_outside(worker);
}

static struct weir__sim_worker *choose(struct weir__sim *sim)
{
	struct weir__sim_worker *chosen = NULL;
	uint64_t count = 0;

	for (unsigned i = 0; i < sim->workers_count; i++)
		if (can_go_on(sim, sim->workers[i]) && weir__sim_below(sim, ++count) == 0)
			chosen = sim->workers[i];
	return chosen;
}

/* When something happens next; INT64_MAX: never. */
static int64_t next_time(const struct weir__sim *sim)
{
	int64_t next = sim->events_count > 0 ? sim->events[0].at_ns : INT64_MAX;

	for (unsigned i = 0; i < sim->workers_count; i++) {
		const struct weir__sim_worker *worker = sim->workers[i];
		int64_t at = worker->is_waiting && !worker->is_woken && !worker->done
				     ? worker->until_ns
				     : worker->stalled_ns;
		if (at < worker->stalled_ns)
			at = worker->stalled_ns;
		if (!worker->is_over && at < next)
			next = at;
	}
	return next;
}

static bool is_over(const struct weir__sim *sim)
{
	for (unsigned i = 0; i < sim->workers_count; i++)
		if (!sim->workers[i]->is_over)
			return false;
	return true;
}

/* Says so, and cancels everything once. False: that did not help either. */
static bool come_to_a_stop(struct weir__sim *sim, int error)
{
	if (sim->error == 0)
		sim->error = error;
	if (!sim->is_ending || error == -EDEADLK)
		weir__sim_report_tasks(sim);
	if (sim->is_ending)
		return false;
	sim->is_ending = true;
	cancel_everything(sim, &sim->cancel[1]);
	return true;
}

/* A thread that is none of the run's has sent something, or is about to wake somebody. */
static bool is_called_from_outside(const struct weir__sim *sim)
{
	/* acquire: when its post is over, its wake-up is seen below */
	bool is_called =
		atomic_load_explicit(&sim->runtime->foreign_posts, memory_order_acquire) > 0;

	for (unsigned i = 0; i < sim->workers_count; i++)
		is_called |=
			atomic_load_explicit(&sim->workers[i]->is_called, memory_order_relaxed);
	return is_called;
}

/* Nobody can go on now: time passes. False: nobody ever will. */
static bool wait_for_next(struct weir__sim *sim)
{
	int64_t next = next_time(sim);

	if (next == INT64_MAX)
		return is_called_from_outside(sim) || come_to_a_stop(sim, -EDEADLK);
	if (next > sim->now_ns)
		sim->now_ns = next;
	return true;
}

/* Until every worker's loop has ended. False: they never will. */
static bool run_workers(struct weir__sim *sim)
{
	uint64_t most = sim->opts->steps_max ? sim->opts->steps_max : STEPS_MAX;

	while (!is_over(sim)) {
		fire_due(sim);
		struct weir__sim_worker *worker = choose(sim);
		if (worker)
			enter_worker(sim, worker);
		else if (!wait_for_next(sim))
			return false;
		if (sim->result.steps >= most) {
			most = 2 * sim->result.steps;
			if (!come_to_a_stop(sim, -ELOOP))
				return false;
		}
	}
	return true;
}

/* ---- Beginning and end -------------------------------------------------- */

static int open_worker(struct weir__sim *sim, unsigned index)
{
	struct weir__worker *worker = aligned_alloc(64, sizeof(*worker));

	if (!worker)
		return -ENOMEM;
	sim->runtime->workers[index] = worker;
	weir__worker_init(worker, sim->runtime, index);
	struct weir__sim_worker *own = weir__sim_driver_new(sim, worker);
	if (!own)
		return -ENOMEM;
	sim->workers[index] = own;
	worker->driver = &own->io.driver;
	(void)weir__heap_switch(&weir__heap_none);
	int err = weir__heap_attach();
	weir__heap_set_worker(index);
	weir__heap_stop_clock();
	own->stack = err == 0 ? weir__stack_get(LOOP_STACK_BYTES) : NULL;
	own->heap = weir__heap_switch(sim->thread_heap);
	if (!own->stack)
		return -ENOMEM;
	weir__san_start(own->stack);
	worker->thread_stack = *own->stack;
	own->sp = sim->use_ucontext
			  ? weir__switch_prepare_ucontext(own->stack->top, worker_main, own)
			  : weir__switch_prepare(own->stack->top, worker_main, own);
	return 0;
}

/* All workers are there when the first is called, and still when the last has been. */
static void call_hooks(struct weir__sim *sim, void (*hook)(unsigned worker, void *user))
{
	for (unsigned i = 0; i < sim->workers_count; i++) {
		struct weir__sim_worker *own = sim->workers[i];

		(void)weir__heap_switch(own->heap);
		weir__worker_tls = own->io.worker;
		weir__hook(own->io.worker, hook);
		weir__worker_tls = NULL;
		own->in_use_before = weir__heap_in_use();
		own->heap = weir__heap_switch(sim->thread_heap);
	}
}

static void close_worker(struct weir__sim *sim, unsigned index)
{
	struct weir__sim_worker *own = sim->workers[index];

	if (!own) {
		free(sim->runtime->workers[index]);
		return;
	}
	(void)weir__heap_switch(own->heap ? own->heap : &weir__heap_none);
	if (own->stack)
		weir__stack_put(own->stack);
	own->io.driver.ops->close(&own->io.driver);
	weir__heap_detach();
	(void)weir__heap_switch(sim->thread_heap);
	free(sim->runtime->workers[index]);
}

static void free_sim(struct weir__sim *sim)
{
	weir__sim_net_free(sim);
	weir__sim_disk_free(sim);
	free(sim->events);
	for (uint32_t i = 0; i < sim->records_count; i++)
		free(sim->records[i]);
	free(sim->records);
	free(sim->records_free);
	if (!sim->is_lost) {
		free(sim->runtime->workers);
		free(sim->runtime);
	}
	free(sim);
}

/* What to simulate: a call of weir_sim_run(), or of weir_run() on the driver "sim". */
struct request {
	const struct weir_sim_opts *opts;
	const struct weir__config *config;
	const struct weir_run_opts *instead; /* of this; NULL: weir_sim_run() */
};

static struct weir__sim *new_sim(const struct request *request, uint64_t seed)
{
	const struct weir_sim_opts *opts = request->opts;
	const struct weir__config *config = request->config;
	struct weir__sim *sim = calloc(1, sizeof(*sim));
	struct weir__runtime *runtime = calloc(1, sizeof(*runtime));

	if (!sim || !runtime) {
		free(sim);
		free(runtime);
		return NULL;
	}
	sim->opts = opts;
	sim->seed = sim->result.seed = seed;
	sim->runtime = runtime;
	sim->now_ns = WEIR__SIM_START_NS;
	sim->out = opts->report ? opts->report : stderr;
	sim->is_traced = config->sim_trace;
	sim->use_ucontext = config->context_switch == WEIR__SWITCH_UCONTEXT;
	sim->thread_heap = weir__heap_switch(&weir__heap_none);
	(void)weir__heap_switch(sim->thread_heap);
	weir__san_thread(&sim->thread_stack);
	weir__sim_plan_draw(sim, opts);
	if (request->instead)
		weir__sim_plan_spare(sim);
	runtime->config = *config;
	runtime->config.workers = sim->workers_count;
	weir__sim_plan_config(sim, &runtime->config);
	runtime->use_ucontext = sim->use_ucontext;
	runtime->drain_until_ns = INT64_MAX;
	runtime->workers_count = sim->workers_count;
	if (request->instead && request->instead->hooks)
		runtime->hooks = *request->instead->hooks;
	runtime->workers = calloc(sim->workers_count, sizeof(struct weir__worker *));
	if (!runtime->workers) {
		free_sim(sim);
		return NULL;
	}
	return sim;
}

static void inject(struct weir__sim *sim, bool on)
{
	if (!sim->plan.faults.no_memory)
		return;
	weir__fault_ask(on ? memory_fails : NULL);
	for (unsigned i = 0; i < sim->workers_count; i++) {
		struct weir__heap *heap = weir__heap_switch(sim->workers[i]->heap);
		weir__heap_turn(0);
		(void)weir__heap_switch(heap);
	}
}

/* Memory fails from here on: a function that is not even called says nothing. */
static int main_task(void *arg)
{
	struct weir__sim *sim = arg;

	inject(sim, true);
	int result = weir__runtime_main(sim->runtime, sim->opts->fn, sim->opts->arg);

	if (sim->runtime->config.verbose)
		weir__run_report(sim->runtime);
	return result;
}

static void start_root(struct weir__sim *sim)
{
	struct weir__worker *first = sim->runtime->workers[0];

	weir__worker_tls = first;
	(void)weir__heap_switch(sim->workers[0]->heap);
	weir__task_root(sim->runtime, main_task, sim);
	(void)weir__heap_switch(sim->thread_heap);
	weir__worker_tls = NULL;
}

/* One run, from the first task to the last check. */
static int run(struct weir__sim *sim)
{
	unsigned opened = 0;
	int err = 0;

	current = sim;
	weir__virtual = &machine;
	while (err == 0 && opened < sim->workers_count)
		err = open_worker(sim, opened++);
	if (err == 0) {
		call_hooks(sim, sim->runtime->hooks.start);
		start_root(sim);
		bool has_ended = run_workers(sim);
		inject(sim, false);
		err = sim->error ? sim->error : sim->runtime->root_result;
		if (has_ended && weir__sim_report_left(sim) > 0 && !sim->error)
			err = -ENOTEMPTY;
		sim->is_lost = !has_ended;
		if (has_ended)
			call_hooks(sim, sim->runtime->hooks.stop);
	}
	sim->result.elapsed_ns = sim->now_ns - WEIR__SIM_START_NS;
	for (unsigned i = 0; i < opened && !sim->is_lost; i++)
		close_worker(sim, i);
	weir__virtual = NULL;
	current = NULL;
	return err;
}

static int run_seed(const struct request *request, uint64_t seed)
{
	struct weir__sim *sim = new_sim(request, seed);

	if (!sim)
		return -ENOMEM;
	int err = run(sim);
	/* what weir_run() returns is the program's business, if it is the program's */
	if (err < 0 && (!request->instead || err != sim->runtime->root_result))
		fprintf(sim->out, "weir: seed %llu ends with %s; WEIR_SIM_SEED=%llu repeats it\n",
			(unsigned long long)seed, weir_errname(err), (unsigned long long)seed);
	if (request->opts->result)
		*request->opts->result = sim->result;
	free_sim(sim);
	return err;
}

static uint64_t seed_of_the_day(void)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	return (uint64_t)now.tv_sec * 1000003u + (uint64_t)now.tv_nsec;
}

static int run_seeds(const struct request *request)
{
	const struct weir_sim_opts *opts = request->opts;
	uint64_t given = request->config->sim_seed;
	uint64_t seed = given ? given : opts->seed;
	uint64_t runs = given || !opts->runs ? 1 : opts->runs;
	int err = weir__fatal_attach_thread();

	if (err < 0)
		return err;
	if (!seed)
		seed = seed_of_the_day();
	for (uint64_t i = 0; i < runs && err >= 0; i++)
		err = run_seed(request, seed + i);
	weir__fatal_detach_thread();
	return err;
}

int weir_sim_run_with(const struct weir_sim_opts *opts)
{
	struct weir_sim_opts known = { 0 };
	struct weir__config config;

	int err = weir__opts_copy(&known, sizeof known, opts, opts->size);
	if (err < 0)
		return err;
	if (!known.fn || weir__worker_self() || known.workers > WEIR__SIM_WORKERS_MAX)
		return -EINVAL;
	err = weir__config_load(&config, known.report ? known.report : stderr);
	if (err == 0)
		err = weir__process_enter(&config);
	if (err < 0)
		return err;
	err = run_seeds(&(struct request){ .opts = &known, .config = &config });
	weir__process_leave();
	return err;
}

int weir__sim_instead(const struct weir__config *config, const struct weir_run_opts *opts)
{
	const struct weir_sim_opts as = {
		.seed = 1,
		.fn = opts->fn,
		.arg = opts->arg,
		.workers = (unsigned)config->workers,
	};

	if (as.workers > WEIR__SIM_WORKERS_MAX)
		return -EINVAL;
	return run_seeds(&(struct request){ .opts = &as, .config = config, .instead = opts });
}
