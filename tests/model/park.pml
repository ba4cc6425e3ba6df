/* SPDX-License-Identifier: MIT */
/*
 * park.pml: how a worker goes to sleep and is woken (runtime/worker.c: weir__worker_settle(),
 * weir__worker_post(), weir__worker_wake_parked(), leave_together(); runtime/linger.c).
 *
 * Stores sit in a buffer until a fence or the cache process lets the others see them; that is what the
 * fences are for. Shown for every interleaving: a message that was pushed is taken (the worker is never
 * left waiting: no invalid end state), one PARKED has at most one waker, and no driver is
 * woken after it was closed.
 *
 * A sender wakes by the eventfd, at once, or by a message from ring to ring (ring_wake() in io/ring.c): that
 * is queued, goes out with the sender's next system call, and may not arrive; then the eventfd is written.
 *
 * -DNO_FENCE_WORKER, -DNO_FENCE_SENDER, -DNO_CLAIM, -DNO_TOGETHER, -DNO_FLUSH, -DNO_LOST, -DNO_LAST_LOOK leave out one
 * part; each must fail.
 */
#define SENDERS  2
#define MESSAGES 2 /* of each sender */

#define AWAKE  0
#define PARKED 1

byte inbox;             /* messages all can see */
byte taken;
bit state = AWAKE;      /* as all see it */
bit parking;            /* PARKED is in the worker's store buffer */
bit pushing[SENDERS];   /* a push is in the sender's store buffer */
byte signals;           /* driver wakes not consumed: one ends the current or the next wait */
byte wakers;            /* that claimed the last PARKED; each wakes a while later */
byte timers = 1;        /* waits that end by themselves */
byte out_of_loop;
bit closed;

inline drain_worker()
{
	if
	:: parking -> state = PARKED; parking = 0
	:: else
	fi
}

inline drain_sender(i)
{
	if
	:: pushing[i] -> inbox++; pushing[i] = 0
	:: else
	fi
}

/* Any buffered store may become visible at any time. */
active proctype cache()
{
end:
	do
	:: atomic { parking -> drain_worker() }
	:: atomic { pushing[0] -> drain_sender(0) }
	:: atomic { pushing[1] -> drain_sender(1) }
	od
}

active proctype worker()
{
	do
	:: taken == SENDERS * MESSAGES -> break
	:: else ->
		if /* lingers, awake: who sends meanwhile wakes nobody. Not for long. */
		:: inbox > 0 -> goto awake
		:: skip
		fi;
		atomic { parking = 1; wakers = 0 }
#ifndef NO_FENCE_WORKER
		atomic { drain_worker() }
#endif
		if
#ifndef NO_LAST_LOOK
		:: inbox > 0
		:: inbox == 0 ->
#else
		:: true -> /* what came while it lingered was looked for then */
#endif
			if
			:: atomic { signals > 0 -> signals-- }
			:: atomic { timers > 0 -> timers-- }
			fi
		fi;
		atomic { drain_worker(); state = AWAKE } /* an exchange sees its own store */
awake:
		atomic { taken = taken + inbox; inbox = 0 }
	od;
	out_of_loop++;
#ifndef NO_TOGETHER
	out_of_loop == SENDERS + 1;
#endif
	closed = 1
}

proctype sender(byte me)
{
	byte i = 0;
	bit seen;
	bit claimed;
	bit queued; /* a message to the worker's ring, not handed to the kernel */

	do
	:: i == MESSAGES -> break
	:: else ->
		atomic { !pushing[me] -> pushing[me] = 1 }
#ifndef NO_FENCE_SENDER
		atomic { drain_sender(me) }
#endif
		seen = state;
		if
		:: seen == PARKED ->
#ifndef NO_CLAIM
			/* compare-and-swap: always on the latest value, with the own stores out */
			atomic {
				drain_sender(me);
				claimed = (state == PARKED);
				if
				:: claimed -> state = AWAKE; wakers++
				:: else
				fi
			}
#else
			claimed = 1;
			wakers++;
#endif
			assert(wakers <= 1);
			if
			:: claimed -> atomic { assert(!closed); signals++ }
			:: claimed -> queued = 1
			:: else
			fi
		:: else
		fi;
		i++;
		if /* the end of a turn: what is queued goes out before the sender may sleep */
#ifndef NO_FLUSH
		:: queued -> atomic { assert(!closed); signals++; queued = 0 }
#ifndef NO_LOST
		:: queued -> queued = 0; atomic { assert(!closed); signals++ } /* by its completion */
#else
		:: queued -> queued = 0
#endif
#endif
		:: else
		fi
	od;
	!pushing[me];
	out_of_loop++
}

init
{
	atomic {
		run sender(0);
		run sender(1)
	}
}
