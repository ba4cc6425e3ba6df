/* SPDX-License-Identifier: MIT */
/*
 * signal.c: signals: SIGINT and SIGTERM stop a runtime, SIGQUIT lists its tasks, and tasks wait for
 * those the program wants.
 *
 * One runtime of a process has them, the first that asked. A handler may run on any thread, of the
 * program's too. It notes the number in a word and posts one message to worker 0, which hands the
 * signal to the tasks that wait. It may run while the runtime goes away: whoever takes the signals
 * back waits for the handlers that are still inside.
 *
 * A waiter lies on its task's stack and is in the list until the message or its interruption takes
 * it out, under the lock.
 */
#include "io/signal.h"

#include <sched.h>
#include <signal.h>

#include <weir/io.h>

#include "runtime/wait_kind.h"
#include "runtime/watch.h"

enum { SIGNALS_MAX = 64 }; /* numbers are 1 to 64: a bit each */

struct waiter {
	struct waiter *next;
	struct waiter **pprev;
	struct weir__task *task;
	uint64_t set;
	int number; /* that came; 0: none, and it is in the list. Under the lock */
};

static _Atomic(struct weir__runtime *) owner;
static _Atomic unsigned inside; /* handlers */
static _Atomic uint64_t wanted; /* by tasks, from some time on */
static _Atomic uint64_t come;	/* and not handed out yet */
static _Atomic bool is_posted;	/* `news` is on its way */
static struct weir__msg news;	/* to worker 0 of the owner */
static atomic_flag lock_word = ATOMIC_FLAG_INIT;
static struct waiter *waiters; /* under the lock; oldest first */
static uint64_t caught;	       /* handlers of ours are in place; under the lock */
static struct sigaction old_actions[SIGNALS_MAX];

/* Held for a walk over the waiters; never across a park, never in a handler. */
static void lock(void)
{
	while (atomic_flag_test_and_set_explicit(&lock_word, memory_order_acquire))
		sched_yield();
}

static void unlock(void)
{
	atomic_flag_clear_explicit(&lock_word, memory_order_release);
}

static uint64_t bit_of(int number)
{
	return (uint64_t)1 << (number - 1);
}

/* ---- Handing out: on worker 0 ------------------------------------------- */

static void take_out(struct waiter *waiter)
{
	*waiter->pprev = waiter->next;
	if (waiter->next)
		waiter->next->pprev = waiter->pprev;
}

/* Simulated tasks of another thread are in the list, too: to them no signal comes. */
static bool is_meant(const struct waiter *waiter, const struct weir__worker *self, uint64_t bits)
{
	return waiter->set & bits && waiter->task->worker->runtime == self->runtime;
}

/* Takes all who wait for any of `bits` out and tells them; a list, not ours after their wake-up. */
static struct waiter *grant_all(const struct weir__worker *self, uint64_t bits, uint64_t *told)
{
	struct waiter *granted = NULL, **tail = &granted, *next;

	lock();
	for (struct waiter *waiter = waiters; waiter; waiter = next) {
		next = waiter->next;
		if (!is_meant(waiter, self, bits))
			continue;
		waiter->number = __builtin_ctzll(waiter->set & bits) + 1;
		*told |= bit_of(waiter->number);
		take_out(waiter);
		waiter->next = NULL;
		*tail = waiter;
		tail = &waiter->next;
	}
	unlock();
	return granted;
}

static bool is_waited_for(const struct weir__worker *self, uint64_t bits)
{
	lock();
	const struct waiter *waiter = waiters;
	while (waiter && !is_meant(waiter, self, bits))
		waiter = waiter->next;
	unlock();
	return waiter != NULL;
}

/* What nobody waits for stays for the next who does. */
static void hand_out(struct weir__worker *self, struct weir__msg *msg)
{
	uint64_t told, left;

	(void)msg;
	atomic_store(&is_posted, false);
	do {
		uint64_t bits = atomic_exchange(&come, 0);
		struct waiter *waiter, *next;

		told = 0;
		for (waiter = grant_all(self, bits, &told); waiter; waiter = next) {
			next = waiter->next;
			weir__wake(waiter->task);
		}
		left = bits & ~told;
		atomic_fetch_or(&come, left);
		/* one who came in between has not seen it, and did not post */
	} while (left && is_waited_for(self, left));
}

/* Any thread, handlers too. */
static void post_news(struct weir__runtime *runtime)
{
	if (!atomic_exchange(&is_posted, true))
		weir__worker_post(runtime->workers[0], &news);
}

/* ---- Handlers ----------------------------------------------------------- */

/* First: drain. Second: cancel. A third has its default action: the process ends. */
static void stop(struct weir__runtime *runtime, int number)
{
	unsigned before = atomic_load_explicit(&runtime->stop_requests, memory_order_relaxed);

	if (before >= 1)
		(void)signal(number, SIG_DFL);
	if (before >= 2)
		(void)raise(number); /* comes when this handler has returned */
	else
		weir__runtime_stop(runtime);
}

static void on_signal(int number)
{
	int saved = errno;

	/* seq_cst, both: pairs with the exchange and the load in weir__signals_release() */
	atomic_fetch_add(&inside, 1);
	struct weir__runtime *runtime = atomic_load(&owner);
	if (runtime && (atomic_load(&wanted) & bit_of(number))) {
		atomic_fetch_or(&come, bit_of(number));
		post_news(runtime);
	} else if (runtime && number == SIGQUIT) {
		weir__watcher_order(runtime, WEIR__WATCH_DUMP);
	} else if (runtime && (number == SIGINT || number == SIGTERM)) {
		stop(runtime, number);
	}
	atomic_fetch_sub_explicit(&inside, 1, memory_order_release);
	errno = saved;
}

/* Under the lock. Returns 0 or -EINVAL for a number nobody may catch. */
static int hook(int number)
{
	struct sigaction action = { .sa_handler = on_signal, .sa_flags = SA_ONSTACK | SA_RESTART };

	if (caught & bit_of(number))
		return 0;
	sigemptyset(&action.sa_mask);
	if (sigaction(number, &action, &old_actions[number - 1]) < 0)
		return -errno;
	caught |= bit_of(number);
	return 0;
}

/* A program that catches SIGQUIT keeps it. */
static bool may_take_quit(const struct weir__runtime *runtime)
{
	struct sigaction now;

	return runtime->config.dump_signal && sigaction(SIGQUIT, NULL, &now) == 0 &&
	       !(now.sa_flags & SA_SIGINFO) &&
	       (now.sa_handler == SIG_DFL || now.sa_handler == SIG_IGN);
}

/*
 * True when the signals are `runtime`'s now or were before: then all is set for them, whichever of
 * its workers has come first.
 */
static bool claim(struct weir__runtime *runtime)
{
	lock();
	struct weir__runtime *before = atomic_load(&owner);
	if (!before) {
		news.fn = hand_out;
		atomic_store(&is_posted, false);
		atomic_store(&come, 0);
		atomic_store(&owner, runtime);
	}
	unlock();
	return !before || before == runtime;
}

void weir__signals_catch(struct weir__runtime *runtime)
{
	if (!claim(runtime))
		return;
	lock();
	(void)hook(SIGINT);
	(void)hook(SIGTERM);
	if (may_take_quit(runtime))
		(void)hook(SIGQUIT);
	unlock();
}

static void put_back(void)
{
	for (int number = 1; number <= SIGNALS_MAX; number++)
		if (caught & bit_of(number))
			(void)sigaction(number, &old_actions[number - 1], NULL);
	caught = 0;
	atomic_store(&wanted, 0);
	(void)atomic_exchange(&owner, NULL);
}

void weir__signals_forget(void)
{
	unlock(); /* who held it is not here */
	if (atomic_load(&owner))
		put_back();
	waiters = NULL;
	atomic_store(&inside, 0); /* handlers on threads the child has not got */
}

void weir__signals_release(struct weir__runtime *runtime)
{
	if (atomic_load(&owner) != runtime)
		return;
	lock();
	put_back();
	unlock();
	while (atomic_load(&inside) > 0)
		(void)sched_yield();
}

/* ---- Waiting ------------------------------------------------------------ */

static void abort_wait(struct weir__task *task, int why)
{
	struct waiter *waiter = task->wait;

	lock();
	bool is_mine = waiter->number == 0;
	if (is_mine)
		take_out(waiter);
	unlock();
	if (is_mine)
		weir__ready(task->worker, task, why);
}

static void describe_wait(const struct weir__task *task, char *ret, size_t cap)
{
	const struct waiter *waiter = task->wait;
	size_t len = 0;

	for (int number = 1; number <= SIGNALS_MAX && len < cap; number++)
		if (waiter->set & bit_of(number))
			len += (size_t)snprintf(ret + len, cap - len, "%s%d", len ? ", " : "",
						number);
}
WEIR__WAIT_KIND(abort_wait, "signal", describe_wait);

/* 0: there is none, or one that is not to be waited for. */
static uint64_t bits_of(const int *numbers, size_t count)
{
	/* a handler of SIGFPE that returns is called again at once, for ever */
	static const int refused[] = { SIGKILL, SIGSTOP, SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGURG };
	uint64_t bits = 0;

	for (size_t i = 0; i < count; i++) {
		if (numbers[i] < 1 || numbers[i] > SIGNALS_MAX)
			return 0;
		bits |= bit_of(numbers[i]);
	}
	for (unsigned i = 0; i < sizeof refused / sizeof *refused; i++)
		if (bits & bit_of(refused[i]))
			return 0;
	return bits;
}

static int hook_all(uint64_t bits)
{
	int err = 0;

	lock();
	for (int number = 1; number <= SIGNALS_MAX && err == 0; number++)
		if (bits & bit_of(number))
			err = hook(number);
	if (err == 0)
		atomic_fetch_or(&wanted, bits);
	unlock();
	return err;
}

/*
 * Parks behind the others. A signal that came before is handed out by the same message as any: the
 * waiter is in the list when it is sent.
 */
static int wait_for(struct weir__worker *self, uint64_t bits)
{
	struct waiter waiter = { .task = self->current, .set = bits };
	struct waiter **link = &waiters;

	lock();
	while (*link)
		link = &(*link)->next;
	waiter.pprev = link;
	*link = &waiter;
	unlock();
	if (!weir__virtual && atomic_load(&come) & bits)
		post_news(self->runtime);
	int err = weir__park(self, abort_wait, &waiter);
	return err < 0 ? err : waiter.number;
}

int weir_signal_wait_any(const int *numbers, size_t count)
{
	struct weir__worker *self = weir__worker_self();
	uint64_t bits = bits_of(numbers, count);

	if (!self || !self->current || bits == 0)
		return -EINVAL;
	int err = weir__interrupted(self, self->current);
	if (err < 0)
		return err;
	if (!weir__virtual) { /* to whose programs no signal comes: its handler could do nothing */
		if (!claim(self->runtime))
			return -EBUSY;
		err = hook_all(bits);
	}
	return err < 0 ? err : wait_for(self, bits);
}

void weir_stop(void)
{
	struct weir__worker *self = weir__worker_self();

	if (self)
		weir__runtime_stop(self->runtime);
}
