/* SPDX-License-Identifier: MIT */
/*
 * capture.c: what a worker that does not answer is doing, asked by a signal to its thread.
 *
 * SIGURG: nobody uses it, it does nothing where it is not caught, and it is what Go uses for the
 * same. The handler runs on the worker's signal stack, copies name and place of the running task
 * and walks the interrupted frames. It takes no lock and no memory, and can hold the worker where
 * it is while its tasks are looked at.
 */
#include "runtime/capture.h"

#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#include "runtime/count.h"
#include "runtime/join.h"

/* ASKED by the asker; TAKING, then HELD or DONE by the handler; IDLE by the asker. */
enum { IDLE, ASKED, ASKED_TO_HOLD, TAKING, HELD, DONE };

static const int64_t ANSWER_NS = 100 * WEIR_MS;

static struct sigaction previous; /* written before the handler is in place */

static const void *interrupted_sp(const void *context)
{
#if defined(__x86_64__)
	return (const void *)((const ucontext_t *)context)->uc_mcontext.gregs[REG_RSP];
#elif defined(__aarch64__)
	return (const void *)((const ucontext_t *)context)->uc_mcontext.sp;
#else
	(void)context;
	return NULL;
#endif
}

int64_t weir__ran_ns(clockid_t thread)
{
	struct timespec ran = { 0, 0 };

	(void)clock_gettime(thread, &ran);
	return ran.tv_sec * WEIR_SEC + ran.tv_nsec;
}

__attribute__((noinline)) static void take(const struct weir__worker *self,
					   struct weir__capture *capture, const void *context)
{
	const struct weir__task *task = self->current;
	const char *sp = interrupted_sp(context);
	struct rusage usage;

	/* never one whose record may be gone: see end_task() */
	capture->has_task = task && task->stack && task->state == WEIR__TASK_RUNNING;
	capture->is_orderly = capture->has_task && sp >= task->stack->base && sp < task->stack->top;
	capture->sp = sp;
	capture->at_ns = weir__clock_ns();
	capture->ran_ns = weir__ran_ns(CLOCK_THREAD_CPUTIME_ID);
	capture->blocked = getrusage(RUSAGE_THREAD, &usage) == 0 ? usage.ru_nvcsw : 0;
	capture->switches = self->counts.switches;
	if (capture->has_task) {
		capture->task = task;
		capture->id = weir__task_id(task);
		capture->site = task->site;
		capture->fn = weir__task_fn(task);
		if (task->name)
			strncpy(capture->name, task->name, sizeof capture->name - 1);
	}
	/* without this, the handler and what the kernel put above the interrupted function */
	capture->frames = weir__backtrace(capture->pcs, WEIR__FRAMES_MAX, 3);
}

static void wait_while_held(struct weir__capture *capture)
{
	while (atomic_load_explicit(&capture->state, memory_order_acquire) == HELD)
		(void)syscall(SYS_futex, &capture->state, FUTEX_WAIT_PRIVATE, HELD, NULL, NULL, 0);
}

static void pass_on(int number, siginfo_t *info, void *context)
{
	if (previous.sa_flags & SA_SIGINFO)
		previous.sa_sigaction(number, info, context);
	else if (previous.sa_handler != SIG_DFL && previous.sa_handler != SIG_IGN)
		previous.sa_handler(number);
}

static bool accept_asked(struct weir__capture *capture, uint32_t asked)
{
	/* acquire: pairs with the release of the one who asked */
	return atomic_compare_exchange_strong_explicit(&capture->state, &asked, TAKING,
						       memory_order_acquire, memory_order_relaxed);
}

static void on_signal(int number, siginfo_t *info, void *context)
{
	struct weir__worker *self = weir__worker_self();
	/* acquire: pairs with the release in weir__watcher_start() */
	struct weir__capture *capture =
		self ? __atomic_load_n(&self->capture, __ATOMIC_ACQUIRE) : NULL;
	int saved = errno;
	bool hold = capture && accept_asked(capture, ASKED_TO_HOLD);

	if (!hold && !(capture && accept_asked(capture, ASKED))) {
		pass_on(number, info, context);
	} else {
		take(self, capture, context);
		/* release: pairs with the acquire in weir__capture_take() */
		atomic_store_explicit(&capture->state, hold ? HELD : DONE, memory_order_release);
		(void)sem_post(&capture->answered);
		wait_while_held(capture);
	}
	errno = saved;
}

static void init_once(void)
{
	struct sigaction action = { .sa_sigaction = on_signal,
				    .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART };
	sigemptyset(&action.sa_mask);
	(void)sigaction(SIGURG, NULL, &previous);
	(void)sigaction(SIGURG, &action, NULL);
}

void weir__capture_init_process(void)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;

	pthread_once(&once, init_once);
}

/* Of this thread. Touched in attach and detach only, which never park. */
static _Thread_local bool was_blocked;

void weir__capture_attach_thread(void)
{
	sigset_t urgent, before;

	sigemptyset(&urgent);
	sigaddset(&urgent, SIGURG);
	was_blocked = pthread_sigmask(SIG_UNBLOCK, &urgent, &before) == 0 &&
		      sigismember(&before, SIGURG) == 1;
}

void weir__capture_detach_thread(void)
{
	sigset_t urgent;

	sigemptyset(&urgent);
	sigaddset(&urgent, SIGURG);
	if (was_blocked)
		(void)pthread_sigmask(SIG_BLOCK, &urgent, NULL);
	was_blocked = false;
}

void weir__capture_init(struct weir__capture *capture)
{
	memset(capture, 0, sizeof *capture);
	(void)sem_init(&capture->answered, 0, 0);
}

void weir__capture_done(struct weir__capture *capture)
{
	(void)sem_destroy(&capture->answered);
}

/* Takes the question back; false when the handler is at it. */
static bool withdraw(struct weir__capture *capture, uint32_t asked)
{
	return atomic_compare_exchange_strong_explicit(&capture->state, &asked, IDLE,
						       memory_order_relaxed, memory_order_relaxed);
}

bool weir__capture_take(struct weir__worker *worker, struct weir__capture *capture, bool hold)
{
	int64_t end = weir__clock_ns() + ANSWER_NS;
	const struct timespec until = { .tv_sec = end / WEIR_SEC, .tv_nsec = end % WEIR_SEC };
	uint32_t asked = hold ? ASKED_TO_HOLD : ASKED, state;

	while (sem_trywait(&capture->answered) == 0)
		; /* of an answer that was not waited for */
	memset(capture->name, 0, sizeof capture->name);
	atomic_store_explicit(&capture->state, asked, memory_order_release);
	if (pthread_kill(worker->thread, SIGURG) != 0)
		return false;
	while (sem_clockwait(&capture->answered, CLOCK_MONOTONIC, &until) < 0 && errno == EINTR)
		;
	if (WEIR_COUNT(withdraw(capture, asked), "a worker did not answer a signal"))
		return false;
	do { /* the handler takes microseconds */
		state = atomic_load_explicit(&capture->state, memory_order_acquire);
	} while (state == TAKING);
	return true;
}

const char *weir__capture_name(const struct weir__capture *capture, struct weir__symbols *symbols)
{
	return capture->name[0] ? capture->name : weir__function_name(symbols, capture->fn);
}

void weir__capture_release(struct weir__capture *capture)
{
	/* release: what was read of the worker is read */
	atomic_store_explicit(&capture->state, IDLE, memory_order_release);
	(void)syscall(SYS_futex, &capture->state, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}
