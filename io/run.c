/* SPDX-License-Identifier: MIT */
/*
 * run.c: weir_run(): puts the layers together, starts and stops the workers.
 *
 * The calling thread is worker 0. Every worker opens its driver on its own thread (a ring has one
 * issuer), then reports; the first task starts when all have. Leaving goes the other way round.
 */
#include <weir/io.h>

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "io/cpus.h"
#include "io/io_internal.h"
#include "io/pressure.h"
#include "io/probe.h"
#include "io/readiness.h"
#include "io/signal.h"
#include "runtime/affinity.h"
#include "runtime/backtrace.h"
#include "runtime/capture.h"
#include "runtime/fatal.h"
#include "alloc/alloc_internal.h"
#include "alloc/opts.h"
#include "runtime/watch.h"

/* One run: what the starting threads share. */
struct run {
	struct weir__runtime runtime;
	weir_fn fn; /* the program's */
	void *arg;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	unsigned ready; /* workers that have a driver or an error; under the lock */
	bool may_go;	/* all are ready; under the lock */
	/* the calling thread's: */
	unsigned started;		/* workers, the first among them */
	bool is_open;			/* worker 0 has a driver */
	struct weir__affinity affinity; /* to go back to, when it was pinned */
	int error;			/* the first one; under the lock */
	atomic_bool has_explained;	/* why there is no ring, or no heap; any worker */
	atomic_bool lacks_ring; /* one of those after worker 0, where epoll will do; any worker */
	pthread_t threads[];	/* of workers 1 and up, from index 1 */
};

/* Guards what is made once per process. */
static pthread_mutex_t start_lock = PTHREAD_MUTEX_INITIALIZER;
static unsigned runtimes; /* that run now; under start_lock */

/* ---- One worker --------------------------------------------------------- */

void *weir__io_new(size_t bytes)
{
	enum { LINE = 64 };
	size_t whole = (bytes + LINE - 1) / LINE * LINE;
	void *io = weir__fault() ? NULL : aligned_alloc(LINE, whole);

	return io ? memset(io, 0, whole) : NULL;
}

static struct run *run_of(const struct weir__worker *worker)
{
	return (struct run *)(void *)worker->runtime;
}

/* What every worker of a runtime would say, once. */
static bool explains(const struct weir__worker *worker)
{
	return !atomic_exchange_explicit(&run_of(worker)->has_explained, true,
					 memory_order_relaxed);
}

/* Where epoll will do instead: it needs descriptors as well. Says why, once. */
static bool may_do_without(struct weir__worker *worker, const char *what, int err)
{
	const struct weir__config *config = &worker->runtime->config;
	bool will_do = config->driver == WEIR__DRIVER_AUTO && err != -EMFILE && err != -ENFILE;

	if (!explains(worker))
		return will_do;
	if (!will_do)
		weir__probe_explain_refusal_as_error(stderr, what, err);
	else if (!config->quiet)
		weir__probe_explain_refusal(stderr, what, err);
	return will_do;
}

/*
 * Drivers of two kinds could not wake each other. Worker 0 opens its own before there are others:
 * without a ring it decides for epoll. One of those that lacks a ring ends this start, and
 * start_run() makes another.
 */
static int open_ring(struct weir__worker *worker, struct weir__io **ret)
{
	const char *what;
	int err = weir__ring_open(worker, ret, &what);

	if (err == 0 || !may_do_without(worker, what, err))
		return err;
	if (worker->index == 0) {
		worker->runtime->config.driver = WEIR__DRIVER_EPOLL;
		return 0;
	}
	atomic_store_explicit(&run_of(worker)->lacks_ring, true, memory_order_relaxed);
	return err;
}

static int open_driver(struct weir__worker *worker)
{
	const struct weir__config *config = &worker->runtime->config;
	struct weir__io *io = NULL;
	int err = config->driver != WEIR__DRIVER_EPOLL ? open_ring(worker, &io) : 0;

	if (err == 0 && !io)
		err = weir__poll_open(worker, &io);
	if (err == 0) /* release: pairs with weir__driver_of() in the hooks of others */
		__atomic_store_n(&worker->driver, &io->driver, __ATOMIC_RELEASE);
	return err;
}

static void pin(const struct weir__worker *worker)
{
	struct weir__affinity allowed;
	unsigned cpu = 0;

	if (weir__affinity_get(0, &allowed) < 0)
		return;
	unsigned skip = worker->index % weir__affinity_count(&allowed);
	while (!weir__affinity_has(&allowed, cpu) || skip-- > 0)
		cpu++;
	(void)weir__affinity_set_one(0, cpu);
	weir__affinity_free(&allowed);
}

/* Who has limited the addresses of a process has not thought of what reserves more than it uses. */
static void explain_no_heap(struct weir__worker *worker)
{
	unsigned count = worker->runtime->workers_count;
	struct rlimit limit;

	if (!explains(worker))
		return;
	fprintf(stderr,
		"weir: no memory for the heap of worker %u of %u: it reserves %zu MiB of addresses "
		"at the least",
		worker->index, count, weir__heap_bytes_min() >> 20);
	if (getrlimit(RLIMIT_AS, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY)
		fprintf(stderr, ", and the limit for the process is %llu MiB (ulimit -v)",
			(unsigned long long)limit.rlim_cur >> 20);
	fprintf(stderr, "\nweir:   try: a higher limit%s\n",
		count > 1 ? ", or fewer workers: WEIR_WORKERS=1" : "");
}

/* Its heap has something to do, and the worker may be asleep. Any thread. */
static void look_after_heap(void *arg)
{
	weir__worker_wake(arg);
}

static int worker_open(struct weir__worker *worker)
{
	int err = weir__heap_attach();

	if (err < 0) {
		explain_no_heap(worker);
		return err;
	}
	weir__heap_set_worker(worker->index);
	weir__worker_enter(worker);
	weir__capture_attach_thread();
	err = weir__fatal_attach_thread();
	if (err == 0)
		err = open_driver(worker);
	if (err < 0) {
		weir__fatal_detach_thread();
		weir__capture_detach_thread();
		weir__worker_leave(worker);
		weir__heap_detach();
		return err;
	}
	weir__heap_on_news(look_after_heap, worker);
	if (worker->index == 0)
		weir__pressure_watch(worker, weir__stalls_open(NULL));
	weir__hook(worker, worker->runtime->hooks.start);
	return 0;
}

static void worker_close(struct weir__worker *worker)
{
	worker->stopping =
		true; /* also where the others could not start: there is nobody to post to */
	weir__hook(worker, worker->runtime->hooks.stop);
	weir__heap_on_news(NULL, NULL);
	weir__pressure_unwatch(worker);
	weir__readiness_end(weir__io_of(worker));
	worker->driver->ops->close(worker->driver);
	weir__fatal_detach_thread();
	weir__capture_detach_thread();
	weir__worker_leave(worker);
	weir__heap_detach();
}

/* Reports and waits until everybody has. Returns the first error of any. */
static int meet(struct run *run, int err)
{
	pthread_mutex_lock(&run->lock);
	if (err < 0 && run->error == 0)
		run->error = err;
	run->ready++;
	pthread_cond_broadcast(&run->changed);
	while (!run->may_go)
		pthread_cond_wait(&run->changed, &run->lock);
	err = run->error;
	pthread_mutex_unlock(&run->lock);
	return err;
}

struct start {
	struct run *run;
	unsigned index;
};

static void *worker_main(void *arg)
{
	struct start start = *(struct start *)arg;
	struct weir__worker *worker = start.run->runtime.workers[start.index];
	char name[16];

	free(arg);
	snprintf(name, sizeof name, "weir/%u", start.index);
	(void)pthread_setname_np(pthread_self(), name);
	if (worker->runtime->config.pin)
		pin(worker);
	int own = worker_open(worker);
	int err = meet(start.run, own);
	if (own < 0)
		return NULL;
	if (err == 0)
		weir__worker_run(worker);
	worker_close(worker);
	return NULL;
}

/* ---- All of them -------------------------------------------------------- */

static int start_thread(struct run *run, unsigned index)
{
	struct start *start = malloc(sizeof *start);
	sigset_t others, old;

	if (!start)
		return -ENOMEM;
	*start = (struct start){ run, index };
	/* signals are for the application's threads: ours take none */
	weir__fatal_mask(&others);
	sigdelset(&others, SIGURG); /* the watcher's question: see capture.c */
	pthread_sigmask(SIG_SETMASK, &others, &old);
	int err = -pthread_create(&run->threads[index], NULL, worker_main, start);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (err < 0)
		free(start);
	return err;
}

/* Starts workers 1 and up, and waits until they and worker 0 (err: its outcome) can go or cannot.
 */
static int start_all(struct run *run, int err, unsigned *ret_started)
{
	unsigned count = run->runtime.workers_count, started = 1;

	while (err == 0 && started < count) {
		err = start_thread(run, started);
		if (err == 0)
			started++;
	}
	pthread_mutex_lock(&run->lock);
	if (err < 0 && run->error == 0)
		run->error = err;
	while (run->ready < started - 1)
		pthread_cond_wait(&run->changed, &run->lock);
	if (run->error == 0) /* it looks at threads that are there */
		run->error = weir__watcher_start(&run->runtime);
	run->may_go = true;
	err = run->error;
	pthread_cond_broadcast(&run->changed);
	pthread_mutex_unlock(&run->lock);
	*ret_started = started;
	return err;
}

void weir__run_report(const struct weir__runtime *runtime)
{
	struct weir_worker_stats stats;
	struct weir_mem_stats mem;

	if (weir_worker_stats_get(WEIR_ALL_WORKERS, &stats) < 0)
		return;
	weir_mem_stats_get(&mem);
	fprintf(stderr,
		"weir: %u workers on %s: %llu turns, %llu parks, %llu switches, %llu spawns\n"
		"weir: %llu system calls for %llu operations, %llu completions, %llu found no "
		"buffer, "
		"%llu stale, %llu overflows\n"
		"weir: %llu allocations, %llu missed their cache; %llu KiB in spans, %llu mmap "
		"calls\n",
		runtime->workers_count, runtime->workers[0]->driver->ops->name,
		(unsigned long long)stats.turns, (unsigned long long)stats.parks,
		(unsigned long long)stats.switches, (unsigned long long)stats.spawns,
		(unsigned long long)stats.enters, (unsigned long long)stats.submissions,
		(unsigned long long)stats.completions, (unsigned long long)stats.recv_empty,
		(unsigned long long)stats.stale_completions, (unsigned long long)stats.cq_overflows,
		(unsigned long long)mem.allocs, (unsigned long long)mem.misses,
		(unsigned long long)mem.span_bytes / 1024, (unsigned long long)mem.os_maps);
}

/* The first task. It reports while every worker is still there to be asked, and watched until then.
 */
static int main_task(void *arg)
{
	struct run *run = arg;
	int result = weir__runtime_main(&run->runtime, run->fn, run->arg);

	if (run->runtime.config.verbose)
		weir__run_report(&run->runtime);
	weir__watcher_stop(&run->runtime);
	return result;
}

/*
 * Tasks do not end though told so twice. They run on, or are parked for good, in threads and memory
 * that are theirs until the process ends: nothing of the run is freed.
 */
static int leave_behind(struct weir__worker *first)
{
	weir__fatal_detach_thread();
	weir__capture_detach_thread();
	weir__worker_leave(first);
	return -ECANCELED;
}

/* Everything up to the first turn of worker 0. What it returns, weir__run_close() wants to know. */
static int run_begin(struct run *run, const struct weir_run_opts *opts)
{
	struct weir__runtime *runtime = &run->runtime;
	struct weir__worker *first = runtime->workers[0];

	if (runtime->config.pin)
		(void)weir__affinity_get(0, &run->affinity);
	int err = worker_open(first);
	run->is_open = err == 0;
	err = start_all(run, err, &run->started);
	if (err < 0)
		return err;
	if (run->affinity.set)
		pin(first);
	if (!opts->signals_ignored)
		weir__signals_catch(runtime);
	run->fn = opts->fn;
	run->arg = opts->arg;
	weir__task_root(runtime, main_task, run);
	return 0;
}

/* Undoes it, when worker 0 has left its loop or (err) has never entered it. */
static int run_end(struct run *run, int err)
{
	struct weir__runtime *runtime = &run->runtime;

	if (err == 0) {
		weir__signals_release(runtime);
		if (run->affinity.set)
			(void)weir__affinity_set(0, &run->affinity);
		if (runtime->is_abandoned)
			return leave_behind(runtime->workers[0]);
		err = runtime->root_result;
	}
	for (unsigned i = 1; i < run->started; i++)
		pthread_join(run->threads[i], NULL);
	if (run->is_open)
		worker_close(runtime->workers[0]);
	weir__watcher_free(runtime);
	return err;
}

/* ---- Before and after --------------------------------------------------- */

static int configure(struct weir__config *config, const struct weir_run_opts *opts)
{
	int err = weir__config_load(config, stderr);

	if (err == 0 && opts->workers)
		err = weir__config_set(config, WEIR__OPTION_workers, opts->workers, stderr);
	if (err == 0 && opts->driver)
		err = weir__config_set_text(config, WEIR__OPTION_driver, opts->driver, stderr);
	if (err == 0 && opts->stack_bytes)
		err = weir__config_set(config, WEIR__OPTION_stack_kb,
				       (opts->stack_bytes + 1023) / 1024, stderr);
	if (err == 0 && opts->drain_ns)
		err = weir__config_set(config, WEIR__OPTION_drain_ms,
				       (uint64_t)(opts->drain_ns / WEIR_MS), stderr);
	if (err == 0 && opts->pin)
		err = weir__config_set(config, WEIR__OPTION_pin, 1, stderr);
	return err;
}

__attribute__((constructor)) static void configure_early(void)
{
	weir__config_load_early();
}

/* ---- fork() ------------------------------------------------------------- */

static void before_fork(void)
{
	pthread_mutex_lock(&start_lock);
	weir__calls_lock();
	weir__blocking_lock();
}

static void after_fork_here(void)
{
	weir__blocking_unlock();
	weir__calls_unlock();
	pthread_mutex_unlock(&start_lock);
}

/*
 * The child has one thread, none of the rings (their memory is not handed down) and descriptors
 * that are the parent's as well: it is outside of any runtime, and free to start its own.
 */
static void after_fork_there(void)
{
	weir__blocking_forget();
	weir__blocking_unlock();
	weir__calls_forget();
	weir__calls_unlock();
	runtimes = 0;
	pthread_mutex_unlock(&start_lock);
	weir__signals_forget();
	weir__pressure_forget();
	weir__heap_on_news(NULL, NULL);
	if (weir__worker_self())
		weir__worker_leave(weir__worker_self());
}

static void watch_forks(void)
{
	(void)pthread_atfork(before_fork, after_fork_here, after_fork_there);
}

int weir__process_enter(const struct weir__config *config)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;

	(void)pthread_once(&once, watch_forks);
	pthread_mutex_lock(&start_lock);
	int err = runtimes == 0 ? weir__config_apply_memory(config, stderr) : 0;
	if (err == 0)
		err = weir__task_pool_init();
	if (err == 0)
		err = weir__conn_pool_init();
	if (err == 0)
		weir__fatal_init_process();
	atomic_store_explicit(&weir__frames_writer, weir__frames_write_to, memory_order_relaxed);
	runtimes += err == 0;
	pthread_mutex_unlock(&start_lock);
	return err;
}

void weir__process_leave(void)
{
	pthread_mutex_lock(&start_lock);
	runtimes--;
	pthread_mutex_unlock(&start_lock);
}

static void run_free(struct run *run)
{
	struct weir__runtime *runtime = &run->runtime;

	for (unsigned i = 0; runtime->workers && i < runtime->workers_count; i++) {
		if (runtime->workers[i])
			free(runtime->workers[i]->driver);
		free(runtime->workers[i]);
	}
	free(runtime->workers);
	weir__affinity_free(&run->affinity);
	pthread_cond_destroy(&run->changed);
	pthread_mutex_destroy(&run->lock);
	free(run);
}

/* From malloc, not from our heaps: these outlive every worker. */
static int run_new(const struct weir__config *config, struct run **ret)
{
	unsigned count = config->workers ? (unsigned)config->workers : weir__cpus_count("");
	struct run *run = calloc(1, sizeof *run + count * sizeof *run->threads);

	if (!run)
		return -ENOMEM;
	pthread_mutex_init(&run->lock, NULL);
	pthread_cond_init(&run->changed, NULL);
	run->runtime.config = *config;
	run->runtime.use_ucontext = config->context_switch == WEIR__SWITCH_UCONTEXT;
	run->runtime.drain_until_ns = INT64_MAX;
	run->runtime.workers_count = count;
	/* with more workers than CPUs, who looks out keeps the CPU from who is to send */
	if (count > 1 && count <= weir__cpus_count(""))
		run->runtime.linger_ns = (int64_t)config->linger_us * WEIR_US;
	if (count <= weir__cpus_count(""))
		run->runtime.lookout_ns = (int64_t)config->lookout_us * WEIR_US;
	if (count > 1 && !config->pin)
		run->runtime.rescue_ns = (int64_t)config->rescue_us * WEIR_US;
	run->runtime.workers = calloc(count, sizeof *run->runtime.workers);
	for (unsigned i = 0; run->runtime.workers && i < count; i++) {
		struct weir__worker *worker = aligned_alloc(64, sizeof *worker);
		if (!worker)
			break;
		run->runtime.workers[i] = worker;
		weir__worker_init(worker, &run->runtime, i);
	}
	if (!run->runtime.workers || !run->runtime.workers[count - 1]) {
		run_free(run);
		return -ENOMEM;
	}
	*ret = run;
	return 0;
}

/* 0, or 1 when the process is only to print its help, or -errno. */
static int prepare(struct weir_run_opts *known, const struct weir_run_opts *opts,
		   struct weir__config *ret)
{
	struct weir__config config;

	int err = weir__opts_copy(known, sizeof *known, opts, opts->size);
	if (err < 0)
		return err;
	if (!known->fn || weir__worker_self())
		return -EINVAL;
	err = configure(&config, known);
	if (err < 0)
		return err;
	if (config.help) {
		weir__config_help(stdout);
		return 1;
	}
	err = weir__process_enter(&config);
	if (err < 0)
		return err;
	if (config.verbose) {
		fprintf(stderr, "weir %s\n", WEIR_VERSION);
		weir__config_dump(&config, stderr);
	}
	*ret = config;
	return 0;
}

/* Memcheck does not see what the kernel writes through a ring, and would complain of all of it. */
static void avoid_ring_under_memcheck(struct weir__config *config)
{
	if (config->driver != WEIR__DRIVER_AUTO || !weir__blocks_watched())
		return;
	if (!config->quiet)
		fputs("weir: under memcheck, which does not see what io_uring writes: using epoll "
		      "instead. WEIR_DRIVER=uring insists; WEIR_QUIET=1 hides this.\n",
		      stderr);
	config->driver = WEIR__DRIVER_EPOLL;
}

/* The other half, on a machine: up to the first turn of worker 0. On an error there is no run. */
static int start_run(struct weir__config *config, const struct weir_run_opts *known,
		     struct run **ret)
{
	struct run *run;
	bool lacks_ring;
	int err;

	avoid_ring_under_memcheck(config);
	do {
		err = run_new(config, &run);
		if (err < 0)
			break;
		if (known->hooks)
			run->runtime.hooks = *known->hooks;
		err = run_begin(run, known);
		if (err == 0) {
			*ret = run;
			return 0;
		}
		err = run_end(run, err);
		lacks_ring = atomic_load_explicit(&run->lacks_ring, memory_order_relaxed);
		run_free(run);
		config->driver = WEIR__DRIVER_EPOLL; /* for the second time */
	} while (lacks_ring);
	weir__process_leave();
	return err;
}

static int conclude(struct run *run)
{
	int result = run_end(run, 0);

	if (!run->runtime.is_abandoned)
		run_free(run);
	weir__process_leave();
	return result;
}

int weir_run_with(const struct weir_run_opts *opts)
{
	struct weir_run_opts known = { 0 };
	struct weir__config config;
	struct run *run = NULL;

	int err = prepare(&known, opts, &config);
	if (err != 0)
		return err < 0 ? err : 0;
	if (config.driver == WEIR__DRIVER_SIM) {
		err = weir__sim_instead(&config, &known);
		weir__process_leave();
		return err;
	}
	err = start_run(&config, &known, &run);
	if (err < 0)
		return err;
	weir__worker_run(run->runtime.workers[0]);
	return conclude(run);
}

/* ---- In a foreign loop -------------------------------------------------- */

struct weir_embed {
	struct run *run;
	int fd; /* the driver's */
	bool is_over;
};

static struct weir__worker *embedded(const weir_embed *embed)
{
	return embed->run->runtime.workers[0];
}

/* As by two signals: no time to drain. */
static void end_embedded(weir_embed *embed)
{
	struct weir__worker *self = embedded(embed);

	if (!embed->is_over) {
		self->runtime->config.drain_ms = 0;
		atomic_fetch_add_explicit(&self->runtime->stop_requests, 1, memory_order_relaxed);
		while (weir__worker_turn(self, weir__worker_settle(self)))
			;
		weir__worker_stand_down(self);
	}
	weir__worker_finish(self);
}

/* On an error there is no run. */
static int begin_embedded(weir_embed *embed, struct weir__config *config,
			  struct weir_run_opts *known)
{
	struct weir__driver *driver;

	config->rescue_us = 0; /* a thread of the program's stays where that has it */
	known->signals_ignored = true;
	int err = start_run(config, known, &embed->run);
	if (err < 0)
		return err;
	driver = embedded(embed)->driver;
	embed->fd = driver->ops->pollable(driver);
	if (embed->fd >= 0)
		return 0;
	end_embedded(embed);
	(void)conclude(embed->run);
	return embed->fd;
}

int weir_embed_open_with(weir_embed **ret, const struct weir_run_opts *opts)
{
	struct weir_run_opts known = { 0 };
	struct weir__config config;
	weir_embed *embed = calloc(1, sizeof *embed); /* like the run: outlives our heaps */

	if (!embed)
		return -ENOMEM;
	int err = prepare(&known, opts, &config);
	if (err == 0 && config.driver == WEIR__DRIVER_SIM) {
		weir__process_leave();
		err = -EOPNOTSUPP;
	}
	if (err == 0)
		err = begin_embedded(embed, &config, &known);
	if (err != 0) {
		free(embed);
		return err < 0 ? err : -ECANCELED;
	}
	*ret = embed;
	return 0;
}

int weir_embed_fd(const weir_embed *embed)
{
	return embed->fd;
}

int weir_embed_turn(weir_embed *embed)
{
	struct weir__worker *self = embedded(embed);

	if (embed->is_over)
		return 0;
	self->now_ns = weir__clock_ns(); /* it has been away */
	embed->is_over = !weir__worker_turn(self, 0);
	if (embed->is_over)
		weir__worker_stand_down(self);
	return !embed->is_over;
}

int64_t weir_embed_next(weir_embed *embed)
{
	struct weir__worker *self = embedded(embed);

	if (embed->is_over)
		return 0;
	int64_t until = weir__worker_settle(self);
	int64_t due = self->driver->ops->flush(self->driver);
	if (due < until)
		until = due;
	if (until == INT64_MAX)
		return WEIR_FOREVER;
	int64_t left = until - weir__clock_ns();
	return left > 0 ? left : 0;
}

int weir_embed_close(weir_embed *embed)
{
	if (!embed)
		return 0;
	end_embedded(embed);
	int result = conclude(embed->run);
	free(embed);
	return result;
}
