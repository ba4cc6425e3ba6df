/* SPDX-License-Identifier: MIT */
/*
 * affinity.h: the CPUs a thread may run on, on machines of any size: the kernel refuses a set that
 * is smaller than its own, and that may pass the 1,024 CPUs of a cpu_set_t.
 */
#ifndef WEIR_AFFINITY_H
#define WEIR_AFFINITY_H

#include <sched.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

/* All zero: none, and nothing to free. */
struct weir__affinity {
	cpu_set_t *set;
	size_t bytes;
};

/* Of the thread `tid`, 0: the calling one. Gives the set. Returns 0 or -errno. */
int weir__affinity_get(pid_t tid, struct weir__affinity *ret);
void weir__affinity_free(struct weir__affinity *affinity);

/* Return 0 or -errno. */
int weir__affinity_set(pid_t tid, const struct weir__affinity *affinity);
int weir__affinity_set_one(pid_t tid, unsigned cpu);

unsigned weir__affinity_count(const struct weir__affinity *affinity);
bool weir__affinity_has(const struct weir__affinity *affinity, unsigned cpu);

/* How many CPUs the calling thread may run on; 0: not known. */
unsigned weir__affinity_count_own(void);

#endif
