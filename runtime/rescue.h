/* SPDX-License-Identifier: MIT */
/*
 * rescue.h: a worker makes room for another of its runtime that has work and no CPU.
 *
 * Workers whose clients, or whose other processes, want a CPU as well share what is left. The
 * kernel lets a thread that is woken beside another one wait until that one's slice is over, a tick
 * of 4 ms or more; and it moves it to a CPU that falls idle only where idleness lasts (0.5 ms). A
 * task stays on its worker, so all of a worker's clients wait with it.
 *
 * Each worker looks at one of the others now and then: whether it is still in the same turn of its
 * loop, has something to do, and its thread has had no CPU time for WEIR_RESCUE_US. Then it hands
 * over what it has queued and rests for some 50 us. If the other one's CPU is not its own it
 * fetches it first: the other thread is allowed on this CPU alone, and at once on all that it was.
 * So two workers that have one CPU left take turns at it, in a tenth of a millisecond.
 *
 * What no rest helps (a task that blocks its thread, a debugger, a third thread that takes the CPU)
 * is tried again after twice the time, 100 ms at most.
 */
#ifndef WEIR_RESCUE_H
#define WEIR_RESCUE_H

#include <stdatomic.h>
#include <stdint.h>

struct weir__worker;

/* All zero: has seen nothing. Its worker only. */
struct weir__rescue {
	struct weir__worker *suspect;
	unsigned next;	  /* whose turn it is to be looked at */
	uint64_t turns;	  /* the suspect's turn of its loop */
	int64_t cpu_ns;	  /* CPU time it had had, in this turn; -1: not read yet */
	int64_t look_ns;  /* when to look again */
	int64_t pause_ns; /* after rests that did not help */
};

/* What the others look at. Its worker writes but for `fetched`. */
struct weir__rescue_shown {
	_Atomic int cpu; /* where it began its last turn */
	_Atomic int64_t rests_until_ns;
	_Atomic uint64_t fetched; /* the number after the turn in which it was fetched last */
};

/* Between two turns, in a runtime with several workers. May sleep for some 50 us. */
void weir__rescue(struct weir__worker *self);

#endif
