/* SPDX-License-Identifier: MIT */
/*
 * inbox.pml: how blocks go home that another thread has freed (alloc/remote.c: push(), post(), the drain;
 * alloc/heap.c: adopt(), weir__heap_detach()).
 *
 * A worker posts two blocks as one chain and flushes a third at the end of its turn; a guest, a thread
 * without a heap, posts one by itself. Meanwhile the owner drains, hands its heap over and exits; another
 * thread may adopt the heap and leave it again. Shown for every interleaving: each block comes home, once,
 * also when its heap has no owner any more; the heap is touched by one thread at a time; nothing is left
 * in the inbox when everybody is done.
 *
 * Who leaves says so and looks once more; who posts pushes and then looks whether somebody is there. Each
 * needs its fence: without it the store sits in a buffer, or the load comes before the push.
 *
 * -DNO_RECHECK, -DNO_FENCE_OWNER, -DNO_FENCE_SENDER, -DNO_LOCK, -DLOAD_AND_CLEAR leave out one part; each
 * must fail.
 */
#define BLOCKS 4
#define NIL    255

byte next[BLOCKS];
byte inbox = NIL;
byte came[BLOCKS];   /* times a block came home */
bit owned = 1;       /* as all see it */
bit leaving;         /* owned = 0 is in a store buffer */
bit lock;            /* of the heaps */
byte inside;         /* threads that touch the heap now */
byte ended;

inline flush()
{
	if
	:: leaving -> owned = 0; leaving = 0
	:: else
	fi
}

inline acquire()
{
	atomic { !lock -> lock = 1 }
}

/* A release makes what was stored before visible. */
inline release()
{
	atomic { flush(); lock = 0 }
}

/* The buffered store may become visible at any time. */
active proctype cache()
{
end:
	do
	:: atomic { leaving -> flush() }
	od
}

inline drain()
{
	atomic { inside++; assert(inside == 1) }
	do
	:: inbox == NIL -> break
	:: else ->
#ifdef LOAD_AND_CLEAR
		taken = inbox;
		inbox = NIL;
#else
		atomic { taken = inbox; inbox = NIL }
#endif
		do
		:: taken == NIL -> break
		:: else ->
			came[taken]++;
			assert(came[taken] == 1);
			taken = next[taken]
		od
	od;
	atomic { inside-- }
}

inline push(first, last)
{
	do
	:: true ->
		seen = inbox;
		next[last] = seen;
		if
		:: atomic { inbox == seen -> inbox = first; break }
		:: atomic { inbox != seen -> skip }
		fi
	od
}

inline post(first, last)
{
#ifdef NO_FENCE_SENDER
	there = owned;
	push(first, last);
#else
	push(first, last);
	there = owned;
#endif
	if
	:: there
	:: else ->
#ifndef NO_LOCK
		acquire();
#endif
		if
		:: !owned -> drain()
		:: else
		fi;
#ifndef NO_LOCK
		release()
#endif
	fi
}

inline leave()
{
	drain();
	acquire();
#ifdef NO_FENCE_OWNER
	leaving = 1;
#else
	owned = 0;
#endif
#ifndef NO_RECHECK
	drain();
#endif
	release()
}

active proctype owner()
{
	byte taken = NIL;

	if
	:: drain()
	:: skip
	fi;
	leave();
	ended++
}

active proctype adopter()
{
	byte taken = NIL;
	bit mine;

	acquire();
	if
	:: !owned -> owned = 1; mine = 1
	:: else
	fi;
	release();
	if
	:: mine -> leave()
	:: else
	fi;
	ended++
}

active proctype worker()
{
	byte taken = NIL, seen;
	bit there;

	next[1] = 0; /* the chain: block 1 first, block 0 last */
	post(1, 0);
	post(2, 2);
	ended++
}

active proctype guest()
{
	byte taken = NIL, seen;
	bit there;

	post(3, 3);
	ended++
}

init
{
	ended == 4 ->
	assert(inbox == NIL);
	assert(came[0] == 1 && came[1] == 1 && came[2] == 1 && came[3] == 1)
}
