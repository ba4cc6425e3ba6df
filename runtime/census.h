/* SPDX-License-Identifier: MIT */
/*
 * census.h: how deep the stacks of tasks get, by the place they were spawned at.
 */
#ifndef WEIR_CENSUS_H
#define WEIR_CENSUS_H

#include <pthread.h>
#include <stdint.h>
#include <stdio.h>

#include <weir/runtime.h>

struct weir__runtime;
struct weir__task;
struct weir__worker;
struct weir__measured;

enum { WEIR__CENSUS_SITE_BYTES = 80 };

/* One of a runtime; its workers, and who asks, under the lock. */
struct weir__census {
	pthread_mutex_t lock;
	struct weir__measured *running; /* tasks that are being measured; each lies on its stack */
	uint32_t sites_count;
	uint64_t unplaced; /* tasks measured when there was no room for their site */
	struct weir__census_site {
		char text[WEIR__CENSUS_SITE_BYTES]; /* its end, if that is all that fits */
		uint64_t measured;
		uint32_t deepest_bytes;
		uint8_t stack_shift;
	} sites[WEIR_STACK_USES_MAX];
};

/* Sets up the runtime's census, and which of the worker's tasks is the first to be measured. */
void weir__census_init(struct weir__worker *worker);

/* Has a task measured that has not run yet, and sets the number of the next one. */
void weir__census_choose(struct weir__worker *self, struct weir__task *task);

/* What such a task runs instead of its function, which is in task->measured_fn until then. */
int weir__census_main(void *arg);

/* The table as lines of text. Any thread of the runtime's. Returns 0 or -errno. */
int weir__census_write(struct weir__runtime *runtime, FILE *out);

#endif
