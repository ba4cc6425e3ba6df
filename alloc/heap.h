/* SPDX-License-Identifier: MIT */
/*
 * heap.h: the structures of the allocator and their invariants. Seen by alloc/ only.
 *
 * A heap is a window of address space cut into units of 64 KiB. A span is a run of units that holds
 * objects of one pool; a free run is a run of units that holds none. Everything that describes a
 * window lies outside it, so a free object's memory is never read or written:
 *
 *   heap.map[]      for each unit the place of its pool's cache and where its span begins; the
 *                   entry of a window's first unit is somewhere in the middle, see weir__unit_at()
 *   spans[unit]     the descriptor of the span or free run that begins (free runs: or ends) there
 *   bitmaps[unit]   512 bytes: a bit for each object of the span, set while the object is in it
 *   dirty[], kept[] a bit for each unit of free runs: what they have of the OS's memory
 *
 *   units = spans + free runs + [frontier, unit_count)      every unit is in exactly one of them
 *   bin.out = objects in the cache + in use + on their way home
 *   span.free = bits set in its bitmap
 *
 * Only the owner touches a heap, its caches, bins and spans. Others push on `inbox`, read `map`
 * through a block they were given, and read counters. A heap without an owner belongs to who holds
 * the heaps lock.
 */
#ifndef WEIR_ALLOC_HEAP_H
#define WEIR_ALLOC_HEAP_H

#include <pthread.h>
#include <stdatomic.h>

#include "alloc/alloc_internal.h"

enum {
	WEIR__UNIT_BYTES = 1 << WEIR__UNIT_SHIFT,
	WEIR__POOL_BUFFER = WEIR_CLASS_COUNT + 1, /* struct weir__block; the first typed pool */
	WEIR__POOL_TYPED,			  /* the first an application can get */
	WEIR__HEAPS_MAX = 1024,
	WEIR__RUN_BINS = 96,
	WEIR__BITMAP_WORDS = 64, /* per unit: 4096 objects of 16 bytes */
	WEIR__PARTIAL_LISTS = 4,
};

#define WEIR__NEVER INT64_MAX
#define WEIR__MS    ((int64_t)1000000)

/* Counters that others read while the owner writes. */
#define WEIR__GET(field)	__atomic_load_n(&(field), __ATOMIC_RELAXED)
#define WEIR__SET(field, value) __atomic_store_n(&(field), (value), __ATOMIC_RELAXED)
#define WEIR__ADD(field, value) WEIR__SET(field, (field) + (value))

/* ---- Pools: what a cache index means, the same in every heap -------------------------------- */

enum weir__pool_state { WEIR__POOL_FREE, WEIR__POOL_LIVE, WEIR__POOL_DEAD };

struct weir__pool {
	weir_pool handle;
	uint32_t object_bytes; /* the distance of objects; a multiple of 16 and of the alignment */
	uint32_t span_units;
	uint32_t span_objects;
	uint32_t asked_bytes; /* of an object, by who made the pool */
	uint64_t reciprocal;  /* see weir__pool_describe() */
	uint64_t valid;
	const char *name;
	char label[24];	   /* the same, cut off; stays when the owner takes his back */
	weir_move_fn move; /* NULL: its objects stay where they are */
	void *move_arg;
	struct weir_pool_stats before; /* what the index's earlier pools have counted */
	_Atomic uint32_t state;	       /* changes under the heaps lock */
	_Atomic uint32_t heaps; /* that have an open cache or a span of it; a dead pool ends at 0 */
};

extern struct weir__pool weir__pools[WEIR__POOLS_MAX + 1];
extern _Atomic uint32_t
	weir__pools_dead; /* pools in state DEAD: heaps look for them at their epoch */

/* Describes the size classes, once. Under the heaps lock. */
void weir__pools_init(void);
/* The counters of the index start anew, before another pool has it. Under the heaps lock. */
void weir__pool_stats_restart(uint32_t index);
void weir__pool_describe(struct weir__pool *pool, uint32_t object_bytes);

/* ---- Spans ---------------------------------------------------------------------------------- */

struct weir__span {
	struct weir__span *next; /* partial spans of a bin, or free runs of one length */
	struct weir__span *prev;
	uint64_t bits;	  /* the bitmap when there are at most 64 objects */
	int64_t freed_ns; /* free run: when it became one */
	uint32_t units;
	uint32_t dirty_units; /* free run: at most so many have memory of the OS, */
	uint32_t kept_units;  /* and so many more, which only shortage takes from it */
	uint16_t objects;
	uint16_t free;
	uint16_t first_word; /* no bit is set below it */
	uint8_t list;	     /* which partial list, WEIR__PARTIAL_LISTS: none */
	bool is_dirty;	     /* its free objects may have memory of the OS; see sparse.c */
};
_Static_assert(sizeof(struct weir__span) <= 64, "a window of 64 GiB has a million");

/* What an epoch showed of one pool. */
struct weir__epoch {
	uint64_t swing; /* most objects out at once, less the fewest */
	uint64_t allocs;
	uint64_t fetched; /* from the spans, by refills */
	uint32_t refills;
	uint32_t flushes;
};

/* What the law remembers; see adapt.c. */
struct weir__law {
	double swing;	    /* decaying maximum */
	double hit_rate;    /* moving average over epochs that allocated */
	int64_t decayed_ns; /* when swing last decayed */
	int64_t resized_ns;
	int64_t flushed_ns; /* the last epoch that overflowed */
	int64_t used_ns;    /* the last epoch that allocated */
};

/* The running epoch of one pool of one heap. */
struct weir__demand {
	struct weir__law law;
	struct weir__epoch epoch;
	int64_t use_max; /* objects outside cache and spans */
	int64_t use_min;
	uint64_t epoch_allocs; /* cache.allocs when it began */
	uint64_t epoch_fetched;
	double fetched; /* moving average of an epoch's */
	bool refused;	/* the budget has stopped a growth */
};

/* One pool of one heap: what stands behind its cache. */
struct weir__bin {
	struct weir__span *partial[WEIR__PARTIAL_LISTS]; /* by fullness; [3] is the fullest */
	uint32_t partial_count[WEIR__PARTIAL_LISTS];	 /* spans on each; for readers */
	uint64_t out;	   /* objects taken from the spans and not given back */
	uint64_t internal; /* of those, arrays of the caches themselves */
	uint64_t fetched;  /* objects that refills brought */
	uint64_t misses;   /* counted after cache.allocs, read before it: see weir__count_miss() */
	uint64_t overflows;
	uint64_t remote_frees;
	uint64_t resizes;
	uint64_t asked; /* requests that came by the slow path, and the bytes they wanted */
	uint64_t asked_bytes;
	uint64_t peak; /* of objects in use, as of the last epoch */
	uint64_t need; /* demand.law.swing, for readers */
	uint32_t spans;
	uint32_t batch; /* of the last refill in a row of misses */
	uint32_t room;	/* pointers that fit in cache.slots */
	bool open;	/* the cache has been set up; counted in pool.heaps */
	struct weir__demand demand;
};

/* ---- Heaps ---------------------------------------------------------------------------------- */

enum { WEIR__STACK_CLASSES = 4 };

struct weir__slab;

/* The stacks of one size; see stack.c. */
struct weir__stacks {
	struct weir__slab *slabs;  /* newest first */
	struct weir__stack **idle; /* the last is the next to go out */
	uint32_t idle_count;
	uint32_t idle_room;
	uint32_t clean; /* idle[0 .. clean) own no memory */
	uint32_t in_use;
	uint32_t in_use_max; /* since window_ns */
	uint32_t total;	     /* slots of all slabs */
	uint32_t peak;	     /* in_use_max of the window before */
	int64_t window_ns;
};

/* A block on its way home: what its first two words are then. */
struct weir__returned {
	struct weir__returned *next;
	uintptr_t mark;
};

/* A chain of blocks of one owner, not yet posted. */
struct weir__outbox {
	struct weir__home *owner;
	struct weir__returned *first;
	struct weir__returned *last;
	uint32_t count;
	uint32_t bytes;
};

enum { WEIR__OUTBOXES = 8 };

/* What is known of an object at a debug level; zero while it is not out. */
struct weir__note {
	uint32_t size;	    /* asked for, plus one; 0: it is not out */
	uint16_t allocated; /* how: numbers of traces, see trace.c; 0: not known */
	uint16_t freed;	    /* the last time; may be written by any thread that frees the block */
};

enum { WEIR__QUARANTINE = 256, WEIR__CANARY_BYTES = 16 };

struct weir__home {
	struct weir__heap heap; /* what alloc.h shows */
	uint32_t id;
	int worker;    /* -1: no worker's */
	uint32_t mode; /* of weir__mode that the caches were set to */
	struct weir__span *spans;
	uint64_t *bitmaps;
	uint64_t *dirty; /* a bit for each unit: see weir__span.dirty_units */
	uint64_t *kept;
	struct weir__note *notes; /* NULL at debug level 0 */
	void *quarantine[WEIR__QUARANTINE];
	uint64_t quarantine_next;
	uint32_t unit_count;
	uint32_t frontier;    /* units from here on were never used */
	uint32_t dumped;      /* units from here on are left out of core files; >= frontier */
	uint64_t run_bins[2]; /* bit: the list is not empty */
	struct weir__span *runs[WEIR__RUN_BINS];
	uint64_t dirty_units; /* in free runs */
	uint64_t kept_units;
	double purged_lately; /* units, fading: */
	double regretted;     /* of those, the ones that were wanted again; see span.c */
	int64_t regret_ns;    /* when both last faded */
	uint64_t span_units;  /* in spans */
	uint64_t cap_bytes;   /* sum over caches of cap * object_bytes */
	int64_t now_ns;	      /* of the last turn */
	int64_t epoch_ns;     /* when the next epoch begins */
	uint32_t level;	      /* of memory pressure, as of the last epoch */
	bool turns_itself;    /* no worker's loop does it: every so many misses do */
	bool was_attached;    /* before it became a worker's, and is again afterwards */
	uint32_t misses_seen; /* for that */
	int64_t guard_left;   /* bytes until the next guarded block; see guard.c */
	uint32_t guard_index; /* the pool whose next request is to be guarded; 0: none */
	uint32_t guard_random;
	bool rests;	       /* the worker has found nothing to do for an epoch */
	bool reclaiming;       /* a reclaimer runs: allocations fail */
	bool amid;	       /* a request's turn: its caller may hold locks */
	int64_t stage_ns;      /* when the stage of the level is due again */
	uint64_t compact_seen; /* calls of weir_mem_compact() it has answered */
	int64_t moved_ns;      /* when budget last changed hands */
	int64_t purge_ns;      /* when the next look at free runs is due */
	uint64_t dirty_spans;  /* whose is_dirty is set; no full one */
	int64_t soiled_ns;     /* when one of them was last set, or would have been */
	uint32_t bins_end;     /* bins[1 .. bins_end) may be open */
	struct weir__stacks stacks[WEIR__STACK_CLASSES];
	int64_t look_ns;   /* if it rests from the last epoch on: its first look */
	int64_t rested_ns; /* in weir__heap_rested(): for how long; else 0 */
	int64_t stacks_ns; /* when idle stacks want the next look, as of the last epoch */
	struct weir__outbox outbox[WEIR__OUTBOXES];
	bool has_outgoing;		 /* a chain of outbox may not be empty */
	struct weir__returned *returned; /* taken from the inbox, not yet put away */
	uint64_t remote_sent;
	void (*wake)(void *arg); /* set by the owner, called by any thread; under the remote lock */
	void *wake_arg;
	struct weir__bin bins[WEIR__POOLS_MAX + 1];

	/* The line others write. */
	_Atomic(struct weir__returned *) inbox __attribute__((aligned(64)));
	_Atomic uint64_t inbox_bytes;
	_Atomic uint32_t lent;	/* see lend.c */
	_Atomic uint32_t owned; /* 0: belongs to the holder of the heaps lock */
};

_Static_assert(offsetof(struct weir__heap, map) < 1 << 16, "places have 16 bits");
_Static_assert(sizeof(struct weir__unit) == 16, "weir__unit_of() shifts by 4");
_Static_assert(offsetof(struct weir__heap, cache) % 64 == 0, "a cache is a cache line");
_Static_assert(sizeof(struct weir__cache) == 64, "a cache is a cache line");
_Static_assert(offsetof(struct weir__heap, zero_) <= offsetof(struct weir__cache, high) &&
		       offsetof(struct weir__heap, newest) > offsetof(struct weir__cache, valid),
	       "place 0 is never valid, and takes nothing");

/* The map's entry for a unit of the window. */
static inline struct weir__unit *weir__unit_at(const struct weir__home *home, uint32_t unit)
{
	uintptr_t address = home->heap.window + ((size_t)unit << WEIR__UNIT_SHIFT);
	return (struct weir__unit *)weir__unit_of(&home->heap, (const void *)address);
}

/* The pool of the span that holds a unit, 0 for none. Any thread. */
static inline uint32_t weir__unit_pool(const struct weir__unit *unit)
{
	size_t place = WEIR__GET(unit->key) & 0xffff;
	return place == 0 ? 0 : (uint32_t)((place - WEIR__PLACE(0)) / sizeof(struct weir__cache));
}

/* Counts a miss whose allocation is counted already: no reader finds more of them than of those. */
static inline void weir__count_miss(struct weir__bin *bin)
{
	__atomic_store_n(&bin->misses, bin->misses + 1, __ATOMIC_RELEASE);
}

/* To be read before cache.allocs. Any thread. */
static inline uint64_t weir__misses(const struct weir__bin *bin)
{
	return __atomic_load_n(&bin->misses, __ATOMIC_ACQUIRE);
}

/* Free objects in a cache. Any thread: to those that do not own it at most `cap`. */
static inline uint32_t weir__cache_count(const struct weir__cache *cache)
{
	uintptr_t bytes = (uintptr_t)WEIR__GET(cache->head) - (uintptr_t)WEIR__GET(cache->slots);
	uint32_t cap = WEIR__GET(cache->cap);
	return bytes / sizeof(void *) < cap ? (uint32_t)(bytes / sizeof(void *)) : cap;
}

extern pthread_mutex_t weir__heaps_lock;
extern struct weir__home *weir__homes[WEIR__HEAPS_MAX];
extern _Atomic uint32_t weir__home_count;

/* The first unit of the span that `unit` is in. */
static inline uint32_t weir__span_first(const struct weir__home *home, uint32_t unit)
{
	uintptr_t address = weir__unit_at(home, unit)->span;
	return (uint32_t)((address - home->heap.window) >> WEIR__UNIT_SHIFT);
}

/* The calling thread's, or NULL. */
static inline struct weir__home *weir__home_self(void)
{
	struct weir__heap *heap = weir__heap_self;
	return heap == &weir__heap_none ? NULL : (struct weir__home *)heap;
}

/* Whose window `address` is in; NULL: nobody's. Any thread. */
struct weir__home *weir__home_of(const void *address);

/* Gives back what heaps whose threads are not at it have of freed pools. Under the heaps lock. */
void weir__homes_close_dead(void);

/* The heap of threads that have none; NULL when it cannot be made. Under the heaps lock. */
struct weir__home *weir__home_guest(void);

/* weir__heap_turn() for a heap the caller owns or has locked. */
void weir__home_turn(struct weir__home *home, int64_t now_ns);

/* ---- Modes: reasons to close the inlined paths ---------------------------------------------- */

enum {
	WEIR__MODE_FAULTS = 1,	  /* weir_mem_fail_after(): caches are bypassed too */
	WEIR__MODE_UNPOOLED = 16, /* WEIR_POOL=off */
	WEIR__MODES_UNCACHED = WEIR__MODE_FAULTS | WEIR__MODE_UNPOOLED,
	WEIR__MODE_RECLAIM = 4, /* of one heap: see compact.c */
	WEIR__MODE_CHECK = 8,	/* a debug level: see check.c */
	WEIR__MODE_WATCH = 2,	/* a sanitizer or valgrind wants to see every block */
};

extern _Atomic uint32_t weir__mode;

/* While closed every allocation from the heap fails. */
void weir__home_close(struct weir__home *home, bool closed);

/* Brings the caches' bounds in line with weir__mode. */
void weir__home_sync_mode(struct weir__home *home);

/* ---- span.c: objects and runs --------------------------------------------------------------- */

/*
 * Takes up to n objects, ascending from ret[0]. Returns how many; fewer than n without a new span.
 */
uint32_t weir__span_take(struct weir__home *home, uint32_t index, void **ret, uint32_t n);

/*
 * One object at a multiple of `align` bytes, more than 64 KiB; the pool has one object to a span.
 */
void *weir__span_take_aligned(struct weir__home *home, uint32_t index, size_t align);

/* Gives one object back. False, and nothing done, when it is in its span already. */
bool weir__span_give(struct weir__home *home, void *block);

/*
 * Gives free runs older than `age_ns` back to the OS, at most `units_max`, in the way that is
 * configured. Returns the units purged.
 */
uint64_t weir__runs_purge(struct weir__home *home, int64_t age_ns, uint64_t units_max);

/* Gives all free runs back, at once and whatever is configured. */
void weir__runs_purge_all(struct weir__home *home);

/* The pool of the live span that `block` is an object of; 0: it is not the start of an object. */
uint32_t weir__span_pool(const struct weir__home *home, const void *block);

/* The span that weir__span_sparsest() gave last: how many free objects it had, and its address. */
struct weir__sparsest {
	uint32_t free;
	uint32_t unit;
};

/*
 * Of the spans that are less than a quarter full, the emptiest of those that come after *last;
 * NULL: none. Begins with { UINT32_MAX, 0 }.
 */
struct weir__span *weir__span_sparsest(const struct weir__home *home, uint32_t index,
				       struct weir__sparsest *last);

/* Whether a span of the pool begins there, now that others may have ended. */
bool weir__span_is_of(const struct weir__home *home, const struct weir__span *span, uint32_t index);

/* The span's n-th object when it is not in the span; NULL when it is. */
void *weir__span_used(const struct weir__home *home, struct weir__span *span, uint32_t object);

/* An object from the fullest other span that has one; NULL: none has. */
void *weir__span_take_elsewhere(struct weir__home *home, uint32_t index,
				const struct weir__span *not_here);

/*
 * When a class has nothing and no span can be had: a free object of one of the next classes, if
 * there is one, with the alignment that this one promises; NULL: there is none.
 */
void *weir__span_take_larger(struct weir__home *home, uint32_t index);

/* A bit for each object of the span, set while it is in it. */
uint64_t *weir__span_bits(const struct weir__home *home, struct weir__span *span);

/* Its free objects have no memory of the OS to speak of. */
static inline void weir__span_clean(struct weir__home *home, struct weir__span *span)
{
	home->dirty_spans -= span->is_dirty;
	span->is_dirty = false;
}

/* When the oldest free run that owns memory will be `age_ns` old; WEIR__NEVER: there is none. */
int64_t weir__runs_due(const struct weir__home *home, int64_t age_ns);

/* ---- sparse.c ------------------------------------------------------------------------------- */

/*
 * Gives back the pages of spans in which nothing is in use, a bounded step of them. Whether there
 * are more.
 */
bool weir__sparse_purge(struct weir__home *home);

/*
 * When that is due: once no object has come back to any span for `age_ns`. WEIR__NEVER: there is
 * nothing, or it is to stay.
 */
int64_t weir__sparse_due(const struct weir__home *home, int64_t age_ns);

/* ---- cache.c -------------------------------------------------------------------------------- */

void *weir__home_get(struct weir__home *home, uint32_t index);
void weir__home_put(struct weir__home *home, uint32_t index, void *block);

/*
 * A block of the class of `room` bytes, of which `size` were asked for by the code at `site`. For
 * the slow path only: it does not look into the cache's marks first.
 */
void *weir__alloc_exact(size_t room, size_t size, void *site);

/* A block at a multiple of `align` bytes, 128 KiB or more; size at most WEIR_CLASS_BYTES_MAX. */
void *weir__alloc_run_aligned(size_t align, size_t size);

/* Sets the capacity, at least 1; gives what is above it back to the spans. */
void weir__cache_resize(struct weir__home *home, uint32_t index, uint32_t cap);

/* Gives `n` of the cached objects, the coldest, back to their spans. */
void weir__cache_flush(struct weir__home *home, uint32_t index, uint32_t n);

/* Empties and forgets the cache; next use sets it up again. */
void weir__cache_close(struct weir__home *home, uint32_t index);

/* Opens or closes the inlined paths of one cache, as the heap's mode says. */
void weir__cache_mark(struct weir__home *home, uint32_t index);

/* Adds the marks to the epoch's measurements and starts them anew. */
void weir__cache_fold(struct weir__home *home, uint32_t index);

/* ---- adapt.c -------------------------------------------------------------------------------- */

extern struct weir__alloc_config weir__config;

/*
 * The pool for a request of `size` bytes: that of its class, or of the larger class that a preset
 * gives it blocks of. The classes in between are never used.
 */
static inline uint32_t weir__class_pool(size_t size)
{
	unsigned class = weir_size_class(size);
	uint32_t bytes = weir__config.classes.object_bytes[class];
	return 1 + (bytes == 0 ? class : weir_size_class(bytes));
}

/* Brings the measurements of an epoch into the law's memory. */
void weir__law_measure(struct weir__law *law, const struct weir__epoch *epoch, int64_t now_ns);

/* The next capacity of a cache that has `cap`, without regard to budgets. */
uint32_t weir__law_next(struct weir__law *law, const struct weir__epoch *epoch, uint32_t cap,
			uint32_t reserve, int64_t now_ns);

/* Ends the epoch of one pool: measures and resizes. */
void weir__adapt_pool(struct weir__home *home, uint32_t index, int64_t now_ns);

/* Takes budget from the least useful pool when a more useful one was refused. */
void weir__adapt_budget(struct weir__home *home, int64_t now_ns);

/* When a cache will have been unused for so long that an epoch empties it. */
int64_t weir__adapt_due(const struct weir__home *home);

/* 2^-x for x >= 0. */
double weir__halved(double x);

/* The capacity a cache starts with. */
uint32_t weir__adapt_first_cap(const struct weir__home *home, uint32_t index);

/* How many free objects stay in an unused cache. */
uint32_t weir__adapt_kept(uint32_t index);

/* False while memory is short: caches keep the size they have. */
bool weir__home_may_grow(const struct weir__home *home);

/* ---- remote.c ------------------------------------------------------------------------------- */

void weir__remote_free(struct weir__home *owner, uint32_t index, void *block);

/* Sends what this heap's thread has freed of others. */
void weir__remote_post(struct weir__home *home);

/* Around changes of home.wake, and fork(). */
void weir__remote_lock(void);
void weir__remote_unlock(void);

/* Takes home what others freed, up to a bound. */
void weir__remote_drain(struct weir__home *home);
/* Whether somebody has freed it and it is on its way home. */
bool weir__remote_is_returning(const void *block);
static inline bool weir__remote_waiting(const struct weir__home *home)
{
	return home->returned != NULL ||
	       atomic_load_explicit(&home->inbox, memory_order_relaxed) != NULL;
}

/* The heap has no owner from here on, and nothing in its inbox. Under the heaps lock. */
void weir__remote_leave(struct weir__home *home);

/* Has every heap's thread but the caller's look after it. */
void weir__remote_wake_all(void);

/* ---- guard.c -------------------------------------------------------------------------------- */

/* At the end of a pool's epoch, in which so much of it was allocated. */
void weir__guard_count(struct weir__home *home, uint32_t index, uint64_t bytes);

/* Whether this request, which has taken the slow path, is to be guarded. */
static inline bool weir__guard_is_due(uint32_t index)
{
	struct weir__home *home = weir__home_self();
	if (home == NULL || home->guard_index != index)
		return false;
	home->guard_index = 0;
	return true;
}

/* A block of the pool between guard pages; NULL: not possible. */
void *weir__guard_get(uint32_t index, size_t size, void *site);

/* Takes it; `index` 0: of any pool. False: not one of these. */
bool weir__guard_put(uint32_t index, void *block, void *site);
size_t weir__guard_size(const void *block); /* 0: not one of these */
uint64_t weir__guard_samples(void);

/* ---- lend.c --------------------------------------------------------------------------------- */

/* Calls visit() for every lent heap that nobody holds, as its owner, until it returns false. */
void weir__lent_each(bool (*visit)(struct weir__home *home, void *arg), void *arg);

/* A block of the pool from another worker's heap, when this one has none; NULL: they neither. */
void *weir__lent_get(uint32_t index);

/* ---- alloc_stats.c -------------------------------------------------------------------------- */

/* Fills *ret with one pool of one heap, not clearing what earlier pools of the index counted.
 * False: the heap has never had an object of it. */
bool weir__heap_pool_stats(size_t heap, uint32_t index, struct weir_pool_stats *ret);

/* ---- large.c: blocks above WEIR_CLASS_BYTES_MAX --------------------------------------------- */

void *weir__large_alloc(size_t size, size_t align);
bool weir__large_free(void *block);	    /* false: not one of these */
size_t weir__large_size(const void *block); /* 0: not one of these */
/* Of a block that has `had` bytes: both sizes are above WEIR_CLASS_BYTES_MAX. */
void *weir__large_realloc(void *block, size_t had, size_t size);
uint64_t weir__large_bytes(void);
void weir__large_lock(void); /* around fork() */
void weir__large_unlock(void);

/* ---- stack.c -------------------------------------------------------------------------------- */

/* Trims stacks idle beyond the recent peak. Returns when there is more to do. */
int64_t weir__stacks_turn(struct weir__home *home, int64_t now_ns);

/* Takes the memory of all idle stacks. */
void weir__stacks_purge(struct weir__home *home);

/* Unmaps every idle slab. */
void weir__stacks_drop(struct weir__home *home);

struct weir__stack_counts {
	uint64_t in_use, cached, bytes;
};
void weir__stacks_count(const struct weir__home *home, struct weir__stack_counts *sum);

/* ---- pressure.c, compact.c ------------------------------------------------------------------ */

extern _Atomic uint32_t weir__level; /* enum weir_mem_level */
extern _Atomic uint64_t weir__level_raises;
extern char weir__stall_path[600];    /* where the figures are; whoever looks finds it */
extern _Atomic uint64_t weir__stalls; /* times the kernel has told of some */

/* The level after one more look. A pure function. */
uint32_t weir__level_next(uint32_t level, unsigned permille, int64_t since_change_ns);

/* Looks at the sources when it is time; one thread of all does. */
void weir__pressure_turn(int64_t now_ns);
/* In the child of a fork: whoever was looking is not there. */
void weir__look_forget(void);

/* Of the whole process, as the kernel counts; 0: not known. */
uint64_t weir__resident_bytes(void);

/* Bytes of all heaps that the OS may have given memory to. */
uint64_t weir__committed(void);

/* The process's own or what the cgroup leaves the heaps, whichever is less; 0: neither. */
uint64_t weir__limit(void);

/* Whether `bytes` more are within the limit, after giving back what `home` does not need. */
bool weir__within_limit(struct weir__home *home, uint64_t bytes);

extern _Atomic uint64_t weir__compact_event; /* weir_mem_compact() calls: all workers answer */

/* Whether a level that has risen, or weir_mem_compact(), asks something new of this heap. */
static inline bool weir__compact_is_due(const struct weir__home *home)
{
	uint32_t level = atomic_load_explicit(&weir__level, memory_order_relaxed);
	return (level > home->level && level >= WEIR_MEM_MEDIUM) ||
	       atomic_load_explicit(&weir__compact_event, memory_order_relaxed) !=
		       home->compact_seen;
}

/* Gives back what a heap caches and has free, as `level` asks; no foreign code is run. */
void weir__compact_home(struct weir__home *home, uint32_t level);

/* Does what the level, or a call of weir_mem_compact(), asks of this heap. */
void weir__compact_turn(struct weir__home *home);

struct weir__compact_counts {
	struct {
		_Atomic uint64_t runs, ns, returned_bytes; /* by any heap */
	} stages[WEIR_MEM_CRITICAL + 1];
	_Atomic uint64_t moved;
	_Atomic uint64_t reclaims;
	_Atomic uint64_t reclaimed_bytes;
	_Atomic uint64_t reclaim_overruns;
};
void weir__reclaim_lock(void); /* around fork() */
void weir__reclaim_unlock(void);
extern struct weir__compact_counts weir__compact_counts;

/* ---- mem_dump.c ----------------------------------------------------------------------------- */

enum weir__refusal { /* why the last request that was refused was */
		     WEIR__REFUSED_SYSTEM,
		     WEIR__REFUSED_LIMIT,
		     WEIR__REFUSED_WINDOW,
		     WEIR__REFUSED_TEST,
};
extern _Atomic uint32_t weir__refusal_cause; /* of whichever thread was last: for people to read */
extern _Atomic uint64_t weir__refusals;
/* The largest that was refused, in bytes, until reclaimers have been told. */
extern _Atomic size_t weir__refused_bytes;

static inline void weir__refusal_note(enum weir__refusal cause)
{
	atomic_store_explicit(&weir__refusal_cause, cause, memory_order_relaxed);
}

/*
 * Every request that memory has run out for ends here: counted, and the first is told of as
 * WEIR_OOM says. No lock is held. Returns NULL.
 */
void *weir__refused(size_t bytes);

/* ---- os_memory.c: the only mmap, madvise and mprotect of the layer -------------------------- */

/*
 * Zeroed memory, readable and writable, not charged until touched; NULL: refused. align: power of
 * two.
 */
void *weir__os_map(size_t bytes, size_t align);
void weir__os_unmap(void *address, size_t bytes);

/* Grows or shrinks a mapping, moving it when needed; NULL: refused, unchanged. */
void *weir__os_remap(void *address, size_t bytes, size_t new_bytes);

/*
 * The pages read as zero afterwards and cost nothing until touched. Returns the bytes that had
 * memory behind them.
 */
size_t weir__os_purge(void *address, size_t bytes);

/* Where the first page of the whole pages at `address` is that lies in memory; `bytes`: none does.
 */
size_t weir__os_first_resident(const void *address, size_t bytes);

/* The kernel may take the pages whenever it wants; until then they are there as before. */
void weir__os_release(void *address, size_t bytes);

/* No huge pages here: sparse touching must cost small pages. */
void weir__os_small_pages(void *address, size_t bytes);

/* Whether core files have it. The kernel and gdb go through untouched pages one by one: 0.2 s a
 * GiB. */
void weir__os_dump(void *address, size_t bytes, bool wanted);

/* Huge pages here, where the system has not switched them off. */
void weir__os_huge_pages(void *address, size_t bytes);

enum { WEIR__HUGE_BYTES = 2 << 20 };

/* Where memory that is touched from now on comes from: the calling CPU's node, or all in turn. */
void weir__os_place(void *address, size_t bytes, uint32_t numa);

/*
 * Access faults from now on. Returns 0, 1 when it took a mapping (mprotect; see
 * weir__os_guards_gone), or -ENOMEM when the process is running out of mappings.
 */
int weir__os_guard(void *address, size_t bytes);

/* Access faults from now on, or does no longer. False: refused. */
bool weir__os_forbid(void *address, size_t bytes);
bool weir__os_allow(void *address, size_t bytes);

/* `count` guards that took a mapping have been unmapped. */
void weir__os_guards_gone(uint32_t count);

/* From here on as on a kernel without MADV_GUARD_INSTALL. */
void weir__os_refuse_guards_for_test(void);

struct weir__os_counts {
	_Atomic uint64_t maps, purged_bytes, released_bytes, mapped_bytes;
};
extern struct weir__os_counts weir__os_counts;

/* Nanoseconds of the monotonic clock. */
int64_t weir__os_now_exact(void);

/* Nanoseconds of the coarse monotonic clock: for heaps that nobody turns. */
int64_t weir__os_now(void);

/* ---- Watching: ASan and valgrind are told of every block ------------------------------------ */

#if defined(__SANITIZE_ADDRESS__)
#define WEIR__ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define WEIR__ASAN 1
#endif
#endif
#ifndef WEIR__ASAN
#define WEIR__ASAN 0
#endif

#if defined(__SANITIZE_THREAD__)
#define WEIR__TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define WEIR__TSAN 1
#endif
#endif
#ifndef WEIR__TSAN
#define WEIR__TSAN 0
#endif

/* Whether we run under valgrind, whose address space is small. */
bool weir__watched(void);

/* `bytes` were asked for, `room` are there; the owner may ask for the rest (weir_usable_size). */
void weir__watch_alloc(void *block, size_t bytes, size_t room);
void weir__watch_room(void *block, size_t room);

/* The words of a block that carry its way home may be read and written, whatever they are. */
void weir__watch_link(void *block);

/* The allocator takes a block for itself. */
void weir__watch_internal(void *block, size_t room);
void weir__watch_free(void *block, size_t room);

/* While memory is read of which valgrind does not know better. */
void weir__watch_pause(bool is_paused);

/* ---- check.c -------------------------------------------------------------------------------- */

/* Bytes of notes for a window of so many units. */
size_t weir__notes_bytes(size_t units);

/* The size to ask a class or a pool for, so that there is room behind the block for the pattern. */
size_t weir__check_room(size_t size);

void weir__check_alloc(void *block, size_t size, void *site);

/* Whether it is out, at debug level 1 and above. */
bool weir__check_is_out(const struct weir__home *home, const void *block);

/* The size asked for; 0: not known, or not out. */
size_t weir__check_size(const struct weir__home *home, const void *block);

/* Puts back the pattern that the way home of a very small block has overwritten. */
void weir__check_received(const struct weir__home *home, void *block);

/*
 * True when *block may be used again: it may be another one by then, that has waited longer. The
 * heap is the block's and the caller's.
 */
bool weir__check_free(struct weir__home *home, uint32_t index, void **block);

/* How many blocks wait so, which count as out although the program has freed them. */
uint32_t weir__check_quarantined(const struct weir__home *home);

/* At level 3: that it is being freed, by a call that returns to `site`. Any thread. */
void weir__check_freeing(const struct weir__home *home, const void *block, void *site);

/* The note goes with an object that was moved. */
void weir__check_move(struct weir__home *home, void *from, void *to, bool moved);

/*
 * A line on stderr about a pointer that is not what the caller says, and where that is; at level 3
 * also where the block comes from. So many reports have frames; the rest are lines.
 */
void weir__report(const char *what, const void *pointer);
extern _Atomic uint64_t weir__reports;
enum { WEIR__REPORTS_WITH_FRAMES = 16 };

/* How the block was allocated and freed, as far as that is remembered, on stderr. */
void weir__check_tell(const void *block);

/* ---- trace.c -------------------------------------------------------------------------------- */

enum { WEIR__TRACES = 4096 };

/* The number of the caller's trace, from the call that returns to `site` on; 0: none. */
uint32_t weir__trace_take(void *site);

/* One line for each frame. The second shows the caller's own, as above. */
void weir__trace_write(int fd, uint32_t id);
void weir__trace_write_from(int fd, void *site);

#endif
