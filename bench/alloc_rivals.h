/* SPDX-License-Identifier: MIT */
/*
 * alloc_rivals.h: the allocators that the bench_alloc programs compare, each in processes of its
 * own.
 *
 * A program starts itself again with "--one KIND" and a library in LD_PRELOAD; what that process
 * prints is the measurement. weir is called through its inlined interface, everybody through
 * malloc().
 */
#ifndef BENCH_ALLOC_RIVALS_H
#define BENCH_ALLOC_RIVALS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

enum alloc_kind {
	ALLOC_LIBC,  /* malloc and free, whoever's they are */
	ALLOC_WEIR,  /* weir_alloc and weir_free */
	ALLOC_SIZED, /* weir_alloc and weir_free_sized */
};

enum { ALLOC_RIVALS = 7, ALLOC_ROUNDS_MAX = 31 };

struct alloc_rival {
	const char *name;
	const char *library; /* NULL: what the process has anyway */
	enum alloc_kind kind;
	bool ours;
};

extern const struct alloc_rival alloc_rivals[ALLOC_RIVALS];

struct alloc_options {
	unsigned rounds;
	bool csv;
	bool quick;
	const char
		*one; /* the kind this process is to measure; NULL: it is the one that compares */
	const char *mode;
};

/* Reads --rounds N, --csv, --quick, --allocator NAME, --one KIND and one word more; -1 after
 * printing the usage. */
int alloc_options_read(struct alloc_options *ret, int argc, char **argv, const char *modes);

enum alloc_kind alloc_kind_of(const char *name);

/* Whether its library is on this machine, and --allocator did not name another. */
bool alloc_rival_is_here(size_t rival);

/* What `rival` prints when this program is run under it; NULL: it could not be started. For pclose.
 */
FILE *alloc_rival_run(size_t rival, const struct alloc_options *options);

void alloc_run_on(long cpu);
double alloc_clock_ns(int clock);
int alloc_by_value(const void *a, const void *b);
void alloc_print_machine(const char *mark);

#endif
