/* SPDX-License-Identifier: MIT */
/*
 * backtrace.h: who called whom, as return addresses, innermost first; and addresses as names.
 */
#ifndef WEIR_BACKTRACE_H
#define WEIR_BACKTRACE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

enum { WEIR__FRAMES_MAX = 32 };

/*
 * Of the caller, without it and without the `skip` frames outside it. Async-signal-safe: in a
 * handler it goes on through the interrupted function. Returns how many.
 */
unsigned weir__backtrace(uintptr_t *ret, unsigned max, unsigned skip);

struct weir__task;

/*
 * Of a task that does not run and will not while this looks: the same from any thread. None before
 * its first run.
 */
unsigned weir__backtrace_task(const struct weir__task *task, uintptr_t *ret, unsigned max);

/* The symbol tables of this process's modules, opened as they are asked for. */
struct weir__symbols;

/* NULL: no memory; the others take that for a table without any. */
struct weir__symbols *weir__symbols_open(void);
void weir__symbols_close(struct weir__symbols *symbols);

/* The name of the function that `pc` is in, NULL when its module does not tell. */
const char *weir__symbol_name(struct weir__symbols *symbols, uintptr_t pc, uintptr_t *ret_offset);

/* What a task without a name is called. */
const char *weir__function_name(struct weir__symbols *symbols, int (*fn)(void *arg));

/* One line for each: "serve+0x5c (/usr/bin/service+0x12f0)", what addr2line wants in brackets. */
void weir__frames_write(struct weir__symbols *symbols, const uintptr_t *pcs, unsigned count,
			const char *indent, FILE *out);

/* The same with a descriptor, for reports of the allocator: see weir__frames_writer. */
void weir__frames_write_to(int fd, const uintptr_t *pcs, unsigned count);

/* Standard error with a buffer of its own, to be closed; NULL when there is none. */
FILE *weir__stderr_open(void);

#endif
