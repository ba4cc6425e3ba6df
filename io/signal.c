/* SPDX-License-Identifier: MIT */
/*
 * signal.c: what SIGINT, SIGTERM and SIGQUIT mean while a runtime runs.
 *
 * One runtime of a process has them, the first that asked. A handler may run on any thread, of the
 * program's too, at the time the runtime goes away: whoever takes the signals back waits for those
 * that are still inside.
 */
#include "io/signal.h"

#include <sched.h>
#include <signal.h>

#include <weir/io.h>

#include "runtime/watch.h"

static _Atomic(struct weir__runtime *) signal_runtime;
static _Atomic unsigned inside; /* handlers */

enum { SIGNALS = 3 };
static const int numbers[SIGNALS] = { SIGINT, SIGTERM, SIGQUIT };
static struct sigaction old_actions[SIGNALS];
static bool is_caught[SIGNALS];

/* First: drain. Second: cancel. A third finds the default action: the process ends. */
static void stop(struct weir__runtime *runtime, int number)
{
	if (atomic_load_explicit(&runtime->stop_requests, memory_order_relaxed) >= 1)
		(void)signal(number, SIG_DFL);
	weir__runtime_stop(runtime);
}

static void on_signal(int number)
{
	int saved = errno;

	/* seq_cst, both: pairs with the exchange and the load in weir__signals_release() */
	atomic_fetch_add(&inside, 1);
	struct weir__runtime *runtime = atomic_load(&signal_runtime);
	if (runtime && number == SIGQUIT)
		weir__watcher_order(runtime, WEIR__WATCH_DUMP);
	else if (runtime)
		stop(runtime, number);
	atomic_fetch_sub_explicit(&inside, 1, memory_order_release);
	errno = saved;
}

/* A program that catches SIGQUIT keeps it. */
static bool is_wanted(const struct weir__runtime *runtime, int number)
{
	struct sigaction now;

	if (number != SIGQUIT)
		return true;
	return runtime->config.dump_signal && sigaction(number, NULL, &now) == 0 &&
	       !(now.sa_flags & SA_SIGINFO) &&
	       (now.sa_handler == SIG_DFL || now.sa_handler == SIG_IGN);
}

bool weir__signals_catch(struct weir__runtime *runtime)
{
	struct sigaction action = { .sa_handler = on_signal, .sa_flags = SA_ONSTACK | SA_RESTART };
	struct weir__runtime *none = NULL;

	if (!atomic_compare_exchange_strong(&signal_runtime, &none, runtime))
		return false;
	sigemptyset(&action.sa_mask);
	for (int i = 0; i < SIGNALS; i++) {
		is_caught[i] = is_wanted(runtime, numbers[i]);
		if (is_caught[i])
			(void)sigaction(numbers[i], &action, &old_actions[i]);
	}
	return true;
}

static void put_back(void)
{
	for (int i = 0; i < SIGNALS; i++)
		if (is_caught[i])
			(void)sigaction(numbers[i], &old_actions[i], NULL);
}

void weir__signals_forget(void)
{
	if (atomic_load(&signal_runtime))
		put_back();
	atomic_store(&signal_runtime, NULL);
	atomic_store(&inside, 0); /* handlers on threads the child has not got */
}

void weir__signals_release(void)
{
	put_back();
	(void)atomic_exchange(&signal_runtime, NULL);
	while (atomic_load(&inside) > 0)
		(void)sched_yield();
}

void weir_stop(void)
{
	struct weir__worker *self = weir__worker_self();

	if (self)
		weir__runtime_stop(self->runtime);
}
