/* SPDX-License-Identifier: MIT */
/*
 * alloc_internal.h: what the layers above may use of the allocator besides <weir/alloc.h>.
 */
#ifndef WEIR_ALLOC_INTERNAL_H
#define WEIR_ALLOC_INTERNAL_H

#include <weir/alloc.h>

/* ---- Heaps: one per worker ------------------------------------------------------------------ */

/* Makes (or adopts) a heap for the calling thread. Returns 0 or -ENOMEM. */
WEIR_MUST int weir__heap_attach(void);

/* The addresses that one needs at the least, most of them never backed by memory. */
size_t weir__heap_bytes_min(void);

/* The calling thread's heap is this worker's, for the statistics; until it is detached. */
void weir__heap_set_worker(int worker);

/* Hands the calling thread's heap over for the next attach; blocks in use stay valid. */
void weir__heap_detach(void);

/*
 * Has wake(arg) called, by whatever thread, when there is something for this heap to do that should
 * not wait until its thread turns by itself: 256 KiB that others freed, memory that has become
 * short. The thread may be asleep. Until the heap is detached or it is called with NULL; when that
 * returns no call is under way.
 */
void weir__heap_on_news(void (*wake)(void *arg), void *arg);

/*
 * Whether a turn now would find what wake() is called for, or anything that others freed. A seq_cst
 * fence before it, and one in wake() before it looks whether the thread sleeps, lose nothing.
 */
bool weir__heap_has_news(void);

/*
 * Once per turn of the worker's loop: takes home what others freed, and whatever adapting or
 * purging is due. A few loads when nothing is.
 */
void weir__heap_turn(int64_t now_ns);

/*
 * Before the worker parks: what weir__heap_turn() does, without its rate limits. Returns when it
 * next wants to be called (absolute ns), INT64_MAX when it can sleep for good.
 */
int64_t weir__heap_idle(int64_t now_ns);

/*
 * After a sleep that the time of weir__heap_idle() has ended, when nothing has happened on this
 * heap for so long: gives back a millisecond's worth of what has lain idle meanwhile. True while
 * there is more: who has nothing else to do calls again, rather than sleep and wake up for it.
 */
bool weir__heap_rested(int64_t now_ns, int64_t rested_ns);

/* ---- For the simulator: several heaps on one thread ------------------------------------------ */

/* Makes `heap` the calling thread's and returns the one it had. */
static inline struct weir__heap *weir__heap_switch(struct weir__heap *heap)
{
	struct weir__heap *old = weir__heap_self;
	weir__heap_self = heap;
	return old;
}

/* The heap of a thread that has none. */
extern struct weir__heap weir__heap_none;

/*
 * Until it is detached the calling thread's heap has no epochs but those that a shortage of memory
 * asks for, and is not lent: its turns are on another clock, its thread has several.
 */
void weir__heap_stop_clock(void);

/*
 * Sends what the calling thread's heap holds of others, takes home what they freed, and returns how
 * many of its objects are in use.
 */
uint64_t weir__heap_in_use(void);

/* Whether we run under memcheck, which wants to see every block, and every write to one. */
bool weir__blocks_watched(void);

/* While set, fails() decides which allocations of this process fail; NULL ends it. */
void weir__fault_ask(bool (*fails)(void));

/*
 * True when this allocation is to fail: inside a reclaimer, or by fault injection, which counts it.
 */
bool weir__fault(void);

/*
 * Around the sleep that follows weir__heap_idle(): in between this thread has no heap, and others
 * may use what it does not need. Lending does nothing for a worker that sleeps only for moments.
 */
void weir__heap_lend(void);
void weir__heap_resume(void);

/* ---- Stalls for want of memory -------------------------------------------------------------- */

/*
 * A descriptor that is ready for POLLPRI once the kernel has seen tasks stall for want of memory,
 * at most every 2 s; `path` NULL: of this process's cgroup, or of the machine. Or -errno.
 */
WEIR_MUST int weir__stalls_open(const char *path);

/*
 * Which group's memory a process is charged to, by its /proc/self/cgroup: the controller's version
 * and the group's path in that hierarchy, for which `text` is cut (cgroups(7)). 0: none.
 */
int weir__cgroup_find(char *text, const char **ret_path);

/* Whether somebody waits on it. If not, each look at the pressure reads the figures. */
void weir__stalls_told(bool is);

/* It was ready. */
void weir__stalls_happen(int64_t now_ns);

/* ---- Configuration -------------------------------------------------------------------------- */

enum weir__adapt {
	WEIR__ADAPT_DEMAND,
	WEIR__ADAPT_THRESHOLD, /* by hit rate and idle time alone, for comparison */
	WEIR__ADAPT_OFF,
};

enum weir__purge {
	WEIR__PURGE_DONTNEED,
	WEIR__PURGE_FREE, /* cheaper, and shown as resident until the kernel wants it */
};

enum weir__oom {
	WEIR__OOM_ERROR, /* the caller sees it, nobody else */
	WEIR__OOM_DUMP,	 /* the first refusal is written to stderr, with what memory is used for */
	WEIR__OOM_ABORT, /* and ends the process */
};

enum weir__huge_pages {
	WEIR__HUGE_NEVER,
	WEIR__HUGE_LARGE, /* for blocks above WEIR_CLASS_BYTES_MAX */
	WEIR__HUGE_ALWAYS,
};

enum weir__numa {
	WEIR__NUMA_NONE,
	WEIR__NUMA_LOCAL, /* the node of the thread that attaches */
	WEIR__NUMA_INTERLEAVE,
};

/* The size of each class's blocks; 0: weir_class_size(). */
struct weir__classes {
	uint32_t object_bytes[WEIR_CLASS_COUNT];
};

/* Blocks of a class that its caches keep once they had them; 0: by the general rule. */
struct weir__reserves {
	uint32_t objects[WEIR_CLASS_COUNT];
};
enum { WEIR__RESERVE_MAX = 65536 };

/*
 * "geom4", "pow2", "zokio", "grpc", "graded", or ascending sizes: "8k,16k,1m". Returns 0, or
 * -EINVAL and *ret untouched.
 */
WEIR_MUST int weir__classes_parse(const char *text, struct weir__classes *ret);

/* "none", "zokio", or blocks by size: "64:6000,4k:200". Returns 0, or -EINVAL and *ret untouched.
 */
WEIR_MUST int weir__reserves_parse(const char *text, struct weir__reserves *ret);

/* What can be set; alloc/adapt.c has the defaults and docs/tuning.md the reasons to change them. */
struct weir__alloc_config {
	uint32_t unpooled;		/* 1: no caches: blocks go to and from their spans */
	uint32_t adapt;			/* enum weir__adapt */
	uint32_t grow_percent;		/* 150: a growing cache gets half as much again */
	uint32_t shrink_percent;	/* 70 */
	uint32_t band_percent;		/* 200: twice the need is not too much */
	uint32_t grow_hit_percent;	/* 90 */
	uint32_t grow_pressure_percent; /* 80: of the capacity, in use within one epoch */
	uint32_t shrink_hit_percent;	/* 30 */
	uint32_t purge;			/* enum weir__purge: what the decay does */
	uint32_t huge_pages;		/* enum weir__huge_pages; heaps made from then on */
	uint32_t numa;			/* enum weir__numa; heaps attached from then on */
	uint32_t debug;			/* 0 to 3, see alloc/check.c; before the first heap */
	uint32_t oom;			/* enum weir__oom */
	uint32_t reserve;		/* 4: objects no cache shrinks below, within 16 KiB */
	uint64_t worker_bytes;		/* 16 MiB: all caches of a heap together, when full */
	uint64_t guard_bytes;		/* 0: none; about one block in so many bytes is guarded */
	uint64_t mem_limit;		/* 0: none; bytes of all heaps, stacks not counted */
	int64_t epoch_ns;		/* 100 ms */
	int64_t halflife_ns;		/* 10 s: of remembered demand */
	int64_t dwell_ns;		/* 5 s: between a cache's shrinks */
	int64_t shrink_idle_ns;		/* 60 s */
	int64_t regret_ns;		/* 60 s: half-life of what is held because it came back */
	int64_t decay_ns;		/* 10 s: until free memory goes back to the OS */
	struct weir__classes classes;	/* before the first heap */
	struct weir__reserves reserves;
};

void weir__alloc_config_get(struct weir__alloc_config *ret);

/*
 * Sets it, for every heap. Before the first heap is made, or with the caches as they are then.
 * Returns 0, -EINVAL when a value is out of range or the band is too narrow for the steps, or
 * -EBUSY when the debug level or the classes are to change and there are heaps.
 */
WEIR_MUST int weir__alloc_configure(const struct weir__alloc_config *config);

/* ---- Sampled blocks between guard pages ------------------------------------------------------ */

struct weir__guarded {
	const void *block;
	size_t size;
	bool is_freed;
	void *allocated_by; /* places in the program */
	void *freed_by;
};

/*
 * Whose memory a fault at `address` has run into; false: none of these. May be called from a signal
 * handler.
 */
bool weir__guard_find(const void *address, struct weir__guarded *ret);

/* ---- Frames in reports ------------------------------------------------------------------------
 */

/*
 * Writes a line for each return address to `fd`; set by who knows more of symbols than dladdr(3).
 * It may allocate with malloc(), and is called with locks of the allocator held.
 */
typedef void (*weir__frames_fn)(int fd, const uintptr_t *pcs, unsigned count);
extern _Atomic weir__frames_fn weir__frames_writer;

/* ---- Task stacks ---------------------------------------------------------------------------- */

/*
 * A stack's descriptor lives out of line: page 0 of the stack is only touched when the task runs.
 * `top` is at a cache line and coloured (offset by (i * 7 % 26) lines) so that tops do not collide
 * in cache. Above it lies the ledge: so many bytes of a page that the task touches anyway.
 */
enum { WEIR__LEDGE_BYTES = 384 };

struct weir__stack {
	char *top;		  /* where the task starts, growing down */
	char *base;		  /* lowest usable byte; below it the guard */
	struct weir__stack *next; /* free list; owner only */
	void *tsan_fiber;	  /* runtime/sanitizer.h keeps its state here */
	void *asan_fake;
	uint32_t valgrind_id;
	uint32_t bytes_class; /* index of the size class of stacks */
	uint32_t guard_bytes;
	uint32_t index; /* in its slab */
	struct weir__slab *slab;
};
_Static_assert(sizeof(struct weir__stack) == 64, "one cache line");

/*
 * Gives a stack of the class that `bytes` rounds up to: 32 K (30 KiB usable), 64 K (46), 256 K
 * (238) or 1 M (1006), the one put last. NULL: memory or the kernel's mappings are exhausted,
 * `bytes` is above 1 M, or the calling thread has no heap.
 */
WEIR_MUST struct weir__stack *weir__stack_get(size_t bytes);

/*
 * Takes it, on the worker that got it. May be called while running on it, as long as the caller
 * leaves it without another get: its memory is not touched before the next turn.
 */
void weir__stack_put(struct weir__stack *stack);

/*
 * The ledge as memory for one object of the task's, which starts at a cache line. It must be put
 * back before the stack is.
 */
void *weir__ledge_get(struct weir__stack *stack);
void weir__ledge_put(void *ledge);

/*
 * The stack of the calling thread's heap that `address` is in, guard included; NULL: none. May be
 * called from a signal handler.
 */
struct weir__stack *weir__stack_find(const void *address);

/* From its top down to the lowest page that lies in memory, whoever has touched it. Any thread. */
size_t weir__stack_touched(const struct weir__stack *stack);

/*
 * Fills with zeros what the running task's stack holds below its frames, so that it can be told how
 * deep it gets from here on. A walk over what lies in memory of it.
 */
void weir__stack_clear(const struct weir__stack *stack);

/*
 * From its top down to the lowest word that is not zero. Pages that were swapped out count as not
 * used. Any thread, as long as the stack is not put back.
 */
size_t weir__stack_depth(const struct weir__stack *stack);

/* ---- Blocks behind leases ------------------------------------------------------------------- */

/*
 * The root of a lease. refs is owned by the worker that holds the leases. When it reaches 0,
 * release() is called once, on that worker.
 */
struct weir__block {
	char *base;
	size_t cap;
	uint32_t refs;
	uint32_t id; /* the releaser's: provided-buffer id */
	void (*release)(struct weir__block *block);
	void *owner;		  /* the releaser's */
	struct weir__block *next; /* the holder's queue */
	size_t len;		  /* the holder's: bytes received */
	void *unused_;
};
_Static_assert(sizeof(struct weir__block) == 64, "one cache line");

/* Drops one reference. */
static inline void weir__block_drop(struct weir__block *block)
{
	if (--block->refs == 0)
		block->release(block);
}

#endif
