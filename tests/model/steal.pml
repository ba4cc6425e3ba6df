/* SPDX-License-Identifier: MIT */
/*
 * steal.pml: tasks any worker may start, and workers that park beside them (runtime/fresh.c:
 * weir__fresh_push(), weir__fresh_take(), steal_from(), wake_one(); runtime/worker.c: settle(), turn()).
 *
 * One worker spawns and computes: it runs nothing of it. Two others take half of a queue, run the first and
 * queue the rest for each other; a task may take as long as nobody else runs one, so whatever lies in a queue
 * beside a parked worker stays there. The lock makes taking one step; that a queue was added to is seen by
 * others only when its count has left the store buffer. Shown for every interleaving: every task is run, once
 * (no invalid end state), and a cancellation of the first finds it queued or on the worker that has it.
 *
 * -DNO_FENCE_WORKER, -DNO_FENCE_SPAWNER, -DNO_CHAIN, -DNO_FRESH leave out one part; each must fail.
 */
#define TASKS  3
#define SPAWNER 2 /* its queue; the others are 0 and 1 */

#define AWAKE  0
#define PARKED 1

byte queue[3];	 /* tasks in it, as under its lock */
byte seen[3];	 /* its `count`, as all see it */
bit counting[3]; /* a new count is in its owner's store buffer */
bit state[2];	 /* as all see it */
bit parking[2];	 /* PARKED is in the worker's store buffer */
byte signals[2]; /* driver wakes not consumed */
bit running[2];
byte ran;

/* The first task: bits of `remote`, and who knows of its cancellation. */
bit fresh = 1;
bit cancel;
bit told;

inline publish(q)
{
	if
	:: counting[q] -> seen[q] = queue[q]; counting[q] = 0
	:: else
	fi
}

inline publish_parking(i)
{
	if
	:: parking[i] -> state[i] = PARKED; parking[i] = 0
	:: else
	fi
}

/* Any buffered store may become visible at any time. */
active proctype cache()
{
end:
	do
	:: atomic { counting[0] -> publish(0) }
	:: atomic { counting[1] -> publish(1) }
	:: atomic { counting[2] -> publish(2) }
	:: atomic { parking[0] -> publish_parking(0) }
	:: atomic { parking[1] -> publish_parking(1) }
	od
}

/* Looks, and then claims by compare-and-swap; true in `woken` when this one was parked. */
inline wake(i)
{
	woken = 0;
	if
	:: state[i] == PARKED ->
		atomic {
			if
			:: state[i] == PARKED -> state[i] = AWAKE; signals[i]++; woken = 1
			:: else
			fi
		}
	:: else
	fi
}

active proctype spawner()
{
	byte i = 0;
	bit woken, was_fresh;

	do
	:: i == TASKS -> break
	:: else ->
		atomic { queue[SPAWNER]++; counting[SPAWNER] = 1 }
#ifndef NO_FENCE_SPAWNER
		atomic { publish(SPAWNER) }
#endif
		wake(0);
		if
		:: !woken -> wake(1)
		:: else
		fi;
		i++
	od;
	/* cancels the first task by one fetch_or */
	atomic { was_fresh = fresh; cancel = 1 }
	if
#ifdef NO_FRESH
	:: assert(!fresh); told = 1 /* `worker` is read: it must be there */
#else
	:: was_fresh /* left for the taker to find */
	:: !was_fresh -> assert(!fresh); told = 1
#endif
	fi;
	ran == TASKS;
	assert(told)
}

/* Half of queue q, the first to run and the rest to keep. */
inline steal(q)
{
	atomic { /* whoever takes the lock sees what was queued under it */
		counting[q] = 0;
		got = (queue[q] + 1) / 2;
		left = queue[q] - got;
		queue[q] = left;
		seen[q] = left
	}
	if
	:: got > 0 && q == SPAWNER ->
		atomic { /* claim(): one exchange */
			if
			:: fresh && cancel -> told = 1
			:: else
			fi;
			fresh = 0
		}
	:: else
	fi;
	if
	:: got > 1 -> atomic { queue[me] = queue[me] + got - 1; counting[me] = 1 }
	:: else
	fi;
	if
	:: got > 1 || left > 0 ->
#ifndef NO_CHAIN
		atomic { publish(me) }
		wake(1 - me)
#else
		skip
#endif
	:: else
	fi
}

proctype thief(byte me)
{
	byte got, left;
	bit woken;

	do
	:: ran == TASKS -> break
	:: else ->
		got = 0;
		if
		:: queue[me] > 0 -> /* its own: it sees its own stores */
			atomic {
				if
				:: queue[me] > 0 ->
					queue[me]--; seen[me] = queue[me]; counting[me] = 0; got = 1
				:: else
				fi
			}
		:: queue[me] == 0 && seen[1 - me] > 0 -> steal(1 - me)
		:: queue[me] == 0 && seen[SPAWNER] > 0 -> steal(SPAWNER)
		:: queue[me] == 0 && seen[1 - me] == 0 && seen[SPAWNER] == 0 ->
			atomic { parking[me] = 1 }
#ifndef NO_FENCE_WORKER
			atomic { publish_parking(me) }
#endif
			if
			:: seen[1 - me] > 0 || seen[SPAWNER] > 0
			:: seen[1 - me] == 0 && seen[SPAWNER] == 0 ->
				if
				:: atomic { signals[me] > 0 -> signals[me]-- }
				:: ran == TASKS /* told to stop */
				fi
			fi;
			atomic { publish_parking(me); state[me] = AWAKE }
		fi;
		if
		:: got > 0 ->
			atomic { running[me] = 1; ran++ }
			/* ends when another runs too, or there are no more */
			atomic { running[1 - me] || ran == TASKS -> running[me] = 0 }
		:: else
		fi
	od;
	running[me] = 1 /* ended: holds up nobody */
}

init
{
	atomic {
		run thief(0);
		run thief(1)
	}
}
