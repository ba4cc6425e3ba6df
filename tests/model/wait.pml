/* SPDX-License-Identifier: MIT */
/*
 * wait.pml: the claim and the place of a waiter (runtime/wait.h, wait.c, select.c).
 *
 * Two objects that hold units. Task 0 selects a unit of either, task 1 waits for one of object 0; each
 * may be interrupted. A unit is given to each object, and object 0 is ended and its memory freed once
 * both tasks have entered. Shown for every interleaving: each unit is taken by exactly one task or is
 * left in its object, a task that was interrupted has taken none, a task is woken once and only while
 * it is parked, nobody touches object 0 once it is freed, and nobody waits for ever.
 *
 * -DNO_CLAIM, -DNO_PLACE, -DNO_LEAVING, -DNO_PARK leave out one part; each must fail.
 */
#define TASKS   2
#define ENTRIES 3 /* 0: task 0 in object 0, 1: task 0 in object 1, 2: task 1 in object 0 */

#define task_of(e)   ((e) == 2 -> 1 : 0)
#define object_of(e) ((e) == 1 -> 1 : 0)

#define OPEN  0
#define ENDED 1
#define CASE  2

mtype = { OUT, IN, LEAVING };

bit locked[2];
byte units[2];
bit freed;             /* object 0 */
byte claim[TASKS];
mtype place[ENTRIES] = OUT;
bit linked[ENTRIES];   /* in the ring of its object; under the lock */
byte result[ENTRIES];  /* 1: a unit, 2: the end */
bit parked[TASKS], woken[TASKS], entered[TASKS];
byte taken, given, left_over;
byte ended;            /* tasks */

#define touch(o) assert(!(freed && (o) == 0))

inline lock(o)
{
	atomic { !locked[o] -> touch(o); locked[o] = 1 }
}

inline unlock(o)
{
	atomic { touch(o); locked[o] = 0 }
}

/* compare-and-swap */
inline take_claim(t, to, won)
{
#ifndef NO_CLAIM
	atomic {
		won = (claim[t] == OPEN);
		if
		:: won -> claim[t] = to
		:: else
		fi
	}
#else
	won = (claim[t] == OPEN);
	claim[t] = to;
#endif
}

inline change_place(e, to, won)
{
	atomic {
		won = (place[e] == IN);
		if
		:: won -> place[e] = to
		:: else
		fi
	}
}

inline wake(t)
{
	atomic { assert(!woken[t]); woken[t] = 1 }
}

proctype task(byte me)
{
	byte e = (me == 0 -> 0 : 2), last = (me == 0 -> 1 : 2);
	bit won = 0, decided = 0, mine = 0, interrupted = 0;
	byte o;

	do
	:: e > last || decided -> break
	:: else ->
		o = object_of(e);
		lock(o);
		if
		:: units[o] > 0 ->
			decided = 1;
			take_claim(me, CASE + e, mine);
			if
			:: mine -> units[o]--; result[e] = 1
			:: else
			fi
		:: else -> place[e] = IN; linked[e] = 1
		fi;
		unlock(o);
		e++
	od;
	entered[me] = 1;
	if
	:: mine
#ifdef NO_PARK
	:: decided && !mine
#endif
	:: else ->
		parked[me] = 1;
		if
		:: woken[me]
		:: take_claim(me, ENDED, won);
			if
			:: won -> interrupted = 1
			:: else -> woken[me]
			fi
		fi;
		parked[me] = 0
	fi;
	e = (me == 0 -> 0 : 2);
	do
	:: e > last -> break
	:: else ->
		o = object_of(e);
#ifndef NO_PLACE
		change_place(e, LEAVING, won);
#else
		won = linked[e];
#endif
		if
		:: won -> lock(o); atomic { linked[e] = 0; place[e] = OUT }; unlock(o)
		:: else
		fi;
		e++
	od;
	atomic {
		won = 0;
		e = (me == 0 -> 0 : 2);
		do
		:: e > last -> break
		:: else ->
			taken = taken + (result[e] == 1 -> 1 : 0);
			won = won || result[e] > 0;
			assert(result[e] == 0 || claim[me] == CASE + e);
			e++
		od;
		assert(won != interrupted);
		ended++
	}
}

/* Under the lock of `o`: the first that can be had in ENTRIES order; ENTRIES: none. */
inline grant(o, what, who)
{
	who = ENTRIES;
	i = 0;
	do
	:: i == ENTRIES || who < ENTRIES -> break
	:: i < ENTRIES && who == ENTRIES && (object_of(i) != o || !linked[i]) -> i++
	:: i < ENTRIES && who == ENTRIES && object_of(i) == o && linked[i] ->
		take_claim(task_of(i), CASE + i, got);
		if
		:: got -> linked[i] = 0; place[i] = OUT; result[i] = what; who = i
		:: else ->
			change_place(i, OUT, got);
			if
			:: got -> linked[i] = 0
			:: else
			fi;
			i++
		fi
	od
}

proctype giver(byte o)
{
	byte i, who;
	bit got;

	lock(o);
	grant(o, 1, who);
	if
	:: who == ENTRIES -> units[o]++
	:: else
	fi;
	unlock(o);
	if
	:: who < ENTRIES -> wake(task_of(who))
	:: else
	fi;
	given++
}

/* After the unit was given, and nobody comes any more. */
proctype ender()
{
	byte i, who;
	bit got, is_empty = 0;

	entered[0] && entered[1] && given == 2;
	do
	:: is_empty -> break
	:: else ->
		lock(0);
		grant(0, 2, who);
#ifndef NO_LEAVING
		is_empty = !linked[0] && !linked[2];
#else
		is_empty = (who == ENTRIES);
#endif
		unlock(0);
		if
		:: who < ENTRIES -> wake(task_of(who))
		:: else
		fi
	od;
	atomic { left_over = units[0]; freed = 1 }
	ended == TASKS;
	assert(taken + left_over + units[1] == 2)
}

init
{
	atomic {
		run task(0);
		run task(1);
		run giver(0);
		run giver(1);
		run ender()
	}
}
