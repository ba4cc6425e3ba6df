/* SPDX-License-Identifier: MIT */
/*
 * capture.h: what a worker that does not answer is doing, asked by a signal to its thread.
 */
#ifndef WEIR_CAPTURE_H
#define WEIR_CAPTURE_H

#include <semaphore.h>
#include <time.h>

#include "runtime/backtrace.h"
#include "runtime/task.h"

struct weir__capture {
	_Atomic uint32_t
		state; /* CAS by both sides; the rest is the handler's until it has answered */
	sem_t answered;
	/*
	 * All tasks of the worker but the running one are parked or queued with their registers
	 * saved: the signal did not come in the middle of a switch.
	 */
	bool is_orderly;
	bool has_task;
	const struct weir__task *task;
	const void *sp; /* when it was interrupted */
	int64_t at_ns;	/* when that was */
	int64_t ran_ns; /* of the CPU, by then, ever */
	long blocked;	/* how often it has left the CPU of its own accord, ever */
	uint64_t id;
	uint64_t switches; /* the worker's count: tells one stay of a task from the next */
	const char *site;
	char name[48]; /* empty: it has none */
	weir_fn fn;    /* the program's */
	unsigned frames;
	uintptr_t pcs[WEIR__FRAMES_MAX];
};

/*
 * Catches SIGURG, once per process and for good; what was not sent by us goes to whoever was there
 * before.
 */
void weir__capture_init_process(void);

/* Lets the signal through to the calling thread, until detach. */
void weir__capture_attach_thread(void);
void weir__capture_detach_thread(void);

void weir__capture_init(struct weir__capture *capture);
void weir__capture_done(struct weir__capture *capture);

/*
 * Interrupts the worker's thread (a blocking system call in it may end with EINTR) and waits up to
 * 100 ms for its answer. One caller at a time per worker. With `hold` the thread stays in its
 * signal handler until weir__capture_release(). False: no answer came, nothing is held.
 */
bool weir__capture_take(struct weir__worker *worker, struct weir__capture *capture, bool hold);
void weir__capture_release(struct weir__capture *capture);

/* What the task is called that was caught: by its function where it has no name. */
const char *weir__capture_name(const struct weir__capture *capture, struct weir__symbols *symbols);

/* What a thread has had of the CPU: its own count, where the one in schedstat lags by a tick. */
int64_t weir__ran_ns(clockid_t thread);

#endif
