/* SPDX-License-Identifier: MIT */
/*
 * fatal.h: asserts, the crash report, and the report of a task that has run off its stack.
 *
 * Asserts are for our own bugs. What the outside does (input, peers, the kernel, memory running
 * out) is an error code, never an assert.
 */
#ifndef WEIR_FATAL_H
#define WEIR_FATAL_H

#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <weir/runtime.h>

/* Cheap, in every build. One condition each. */
#define WEIR_ASSERT(condition)                                                                     \
	(WEIR_LIKELY(condition)                                                                    \
		 ? (void)0                                                                         \
		 : weir__fatal("assertion failed: " #condition, __FILE__ ":" WEIR__STR(__LINE__)))

/*
 * Not evaluated unless asked for: WEIR_DEBUG=1 for checks on hot paths, 2 for walks over
 * structures.
 */
#define WEIR__NO_ASSERT(condition) ((void)sizeof(!(condition)))
#if defined(WEIR_DEBUG) && WEIR_DEBUG >= 1
#define WEIR_DASSERT(condition) WEIR_ASSERT(condition)
#else
#define WEIR_DASSERT(condition) WEIR__NO_ASSERT(condition)
#endif
#if defined(WEIR_DEBUG) && WEIR_DEBUG >= 2
#define WEIR_XASSERT(condition) WEIR_ASSERT(condition)
#else
#define WEIR_XASSERT(condition) WEIR__NO_ASSERT(condition)
#endif

/*
 * Writes the crash report to standard error and aborts. `what` says what is wrong, `where` is
 * "file.c:12"; both are constants. Async-signal-safe.
 */
_Noreturn void weir__fatal(const char *what, const char *where) __attribute__((cold));

struct weir__task_info {
	uint64_t id;
	const char *name;
	const char *site;
	const char *stack_base; /* lowest usable byte */
	const char *stack_top;
	size_t guard_bytes; /* below the base */
	int worker;
};

/* The calling thread's running task, false: none. Implemented by task.c; async-signal-safe. */
bool weir__fatal_task_info(struct weir__task_info *ret);

/*
 * Catches SIGSEGV and SIGBUS, once per process and for good: a fault that is no stack overflow goes
 * to whoever caught it before.
 */
void weir__fatal_init_process(void);

/*
 * The signals that threads of ours leave to the application's: all but those that a thread brings
 * about itself. Were they blocked, the kernel would end the process without a handler's having run.
 */
void weir__fatal_mask(sigset_t *ret);

/*
 * Gives the calling thread a stack for signal handlers, without which an overflow cannot be
 * reported. Returns 0 or -ENOMEM.
 */
WEIR_MUST int weir__fatal_attach_thread(void);

/* Takes it back and restores what the thread had before. Without an attach it does nothing. */
void weir__fatal_detach_thread(void);

#endif
