/* SPDX-License-Identifier: MIT */
/*
 * remote.pml: the word `remote` and the message `in` of a task that runs on another worker than the one
 * it was spawned on (runtime/task.h, runtime/task.c: post_remote(), handle_remote(), end_task()).
 *
 * The home worker starts and cancels it and frees its record when it comes home; a third worker may take
 * it out of the queue it waits in and wake it; its own worker runs it. Shown for every interleaving: the
 * record is in at most one inbox, nobody touches it once it is freed, it is freed once, a task is woken
 * only while parked, and no START, CANCEL or WAKE is lost (no invalid end state).
 *
 * -DNO_QUEUED, -DNO_ENDED, -DEND_ALWAYS leave out one part; each must fail.
 */
mtype = { NEW, READY, WAITING, GONE, HANDLE, HOME };

mtype task = NEW;
mtype fn;
bit queued, start, cancel, wake, ended; /* the bits of `remote` */
bit in_inbox;    /* of the task's worker */
bit in_home;     /* inbox of the home worker */
bit freed;
bit enlisted;    /* in a queue of a channel: whoever clears it wakes the task */

#define touch assert(!freed)

inline push(inbox, what)
{
	touch;
	fn = what;
	atomic { touch; assert(!in_inbox && !in_home); inbox = 1 }
}

/* one fetch_or, then perhaps the push */
inline post(bit_)
{
	atomic { touch; was_queued = queued; was_ended = ended; bit_ = 1; queued = 1 }
	if
#ifndef NO_QUEUED
	:: was_queued
#endif
#ifndef NO_ENDED
	:: was_ended
#endif
#if defined(NO_QUEUED) && !defined(NO_ENDED)
	:: !was_ended -> push(in_inbox, HANDLE)
#elif !defined(NO_QUEUED) && defined(NO_ENDED)
	:: !was_queued -> push(in_inbox, HANDLE)
#else
	:: !was_queued && !was_ended -> push(in_inbox, HANDLE)
#endif
	fi
}

active proctype home()
{
	bit was_queued, was_ended, cancelled;

	post(start);
	do
	:: atomic { in_home -> in_home = 0; assert(fn == HOME); touch; freed = 1 } break
	:: !cancelled -> cancelled = 1; post(cancel)
	od
}

active proctype runner()
{
	bit was_queued, had_start, had_cancel, had_wake, had_ended, has_waited, told;

	do
	:: atomic { in_inbox -> in_inbox = 0; assert(fn == HANDLE) }
		atomic {
			touch;
			had_start = start; had_cancel = cancel; had_wake = wake; had_ended = ended;
			start = 0; cancel = 0; wake = 0; queued = 0
		}
		if
		:: had_ended -> push(in_home, HOME); break
		:: else ->
			if
			:: had_start -> assert(task == NEW); task = READY
			:: else
			fi;
			if
			:: had_wake -> assert(task == WAITING); task = READY
			:: else
			fi;
			/* the abort function of a channel: ours only if nobody has taken us out */
			if
			:: had_cancel && task == WAITING ->
				told = 1;
				atomic {
					if
					:: enlisted -> enlisted = 0; task = READY
					:: else
					fi
				}
			:: had_cancel && task != WAITING -> told = 1
			:: else
			fi
		fi
	/* it waits at most once, and not when it has been told to stop */
	:: task == READY && !has_waited && !told ->
		has_waited = 1;
		atomic { touch; task = WAITING; enlisted = 1 }
	:: task == READY ->
		atomic { touch; task = GONE; was_queued = queued; ended = 1 }
		if
#ifndef END_ALWAYS
		:: was_queued
#endif
#ifdef END_ALWAYS
		:: push(in_home, HOME); break
#else
		:: !was_queued -> push(in_home, HOME); break
#endif
		fi
	od
}

/* Wakes the task if it finds it, or never comes: then only the cancellation can end the wait. */
active proctype waker()
{
	bit was_queued, was_ended;

	if
	:: atomic { enlisted -> enlisted = 0 } post(wake)
	:: skip
	fi
}
