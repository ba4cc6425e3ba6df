/* SPDX-License-Identifier: MIT */
/*
 * weir/alloc.h: memory for tasks, buffers and applications.
 *
 * Every worker owns a heap. A heap is a window of address space cut into spans of 64 KiB; a span
 * holds objects of one pool; a pool is a size class (16 bytes to 16 MiB, four per doubling) or a
 * typed pool that an application made with weir_pool_new(). Above the spans each heap keeps, per
 * pool, a cache: a small stack of free objects that alloc and free push and pop without locks or
 * atomics. The caches grow and shrink from their own statistics.
 *
 * Any thread may allocate and free. A block freed by a thread that does not own it goes home to its
 * heap.
 *
 * Vocabulary (docs/architecture.md): a *hit* is served from the cache, a *miss* went to the spans
 * or further, an *overflow* is a free that found the cache full. Ownership in comments is one of
 * four words: borrows (until return), lends (until released), takes (callee frees), gives (caller
 * frees).
 */
#ifndef WEIR_ALLOC_H
#define WEIR_ALLOC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define WEIR_API       __attribute__((visibility("default")))
#define WEIR_MUST      __attribute__((warn_unused_result))
#define WEIR_NONNULL   __attribute__((nonnull))
#define WEIR_LIKELY(x) __builtin_expect(!!(x), 1)
#else
#error "weir needs gcc or clang"
#endif
#define WEIR_MALLOC(...) __attribute__((malloc, alloc_size(__VA_ARGS__)))
#define WEIR_CLEANUP(fn) __attribute__((cleanup(fn)))

/* ---- Size classes --------------------------------------------------------------------------- */

enum {
	WEIR_CLASS_COUNT = 76,		 /* 16, 32, 48, 64, then 4 per doubling to 16 MiB */
	WEIR_CLASS_BYTES_MAX = 16 << 20, /* larger requests are mapped one by one */
};

/* The size class of a request of `size` bytes, at most WEIR_CLASS_BYTES_MAX. */
inline unsigned weir_size_class(size_t size)
{
	if (size <= 64)
		return size == 0 ? 0 : (unsigned)((size + 15) >> 4) - 1u;
	size_t x = size - 1;
	unsigned bit = 63u - (unsigned)__builtin_clzll((unsigned long long)x);
	return 4u + ((bit - 6u) << 2) + (unsigned)((x >> (bit - 2)) & 3u);
}

/* The bytes a block of class `size_class` holds. */
inline size_t weir_class_size(unsigned size_class)
{
	if (size_class < 4)
		return (size_t)16 * (size_class + 1);
	unsigned bit = 6u + ((size_class - 4u) >> 2);
	unsigned step = (size_class - 4u) & 3u;
	return ((size_t)1 << bit) + ((size_t)(step + 1) << (bit - 2));
}

/* ---- Inside: what the inlined paths below need ---------------------------------------------- */

/*
 * Everything named weir__ is private: it is here so that a pair of alloc and free can be inlined,
 * and it changes with the library's minor version.
 */
enum {
	WEIR__POOLS_MAX = 512,		 /* size classes and typed pools of a process */
	WEIR__UNIT_SHIFT = 16,		 /* spans are runs of 64 KiB */
	WEIR__TABLE_BYTES_MAX = 8 << 10, /* sizes that heap.places knows */
	WEIR__MAP_UNITS = 1 << 20,	 /* 64 GiB of them */
};

/* Has one writer, its heap's owner; others may read it. A plain store: one instruction on x86. */
#if defined(WEIR__COUNT) /* bench/alloc_uncounted.c leaves it out, to weigh it */
#elif defined(__SANITIZE_THREAD__)
#define WEIR__COUNT(counter)                                                                       \
	__atomic_store_n(&(counter), __atomic_load_n(&(counter), __ATOMIC_RELAXED) + 1,            \
			 __ATOMIC_RELAXED)
#else
#define WEIR__COUNT(counter) ((counter)++)
#endif

/*
 * A worker's stack of free objects of one pool. The marks are the lowest and highest place that
 * `head` was at lately, rounded outwards, and at the same time the bounds of the fast path: one
 * compare does both. With low = UINTPTR_MAX and high = NULL every call takes the slow path
 * (debugging, fault injection).
 *
 *   slots <= low <= head <= high <= slots + cap         head[-1] is the newest
 *
 * An offset in a span is that of an object iff offset * reciprocal, in 64 bits, is below `valid`;
 * see weir__pool_describe().
 */
struct weir__cache {
	void **head;
	void **low;
	void **high;
	uint64_t allocs; /* written by the owner, read by anyone */
	uint64_t reciprocal;
	uint64_t valid; /* 0: never */
	void **slots;	/* after a word that is always NULL */
	uint32_t cap;
	uint32_t object_bytes;
};

/* What the map knows of 64 KiB. */
struct weir__unit {
	uintptr_t span; /* the address of the span that holds them */
	uintptr_t key;	/* their own address plus the place of the span's cache; 0: in no span */
};

/*
 * A thread's heap. Those without one point at an empty heap: nothing here checks for NULL. A
 * cache's *place* is its offset from the heap in bytes, less than 64 KiB.
 *
 * The map has an entry for each 64 KiB of the window, and one for every other address too, as only
 * some bits of it are looked at: its span or key is then of another address, and that is how a
 * block of another heap, or no block at all, is told. Place 0 reads the zeroes below as `valid` and
 * as `high`.
 * The map is part of the heap and its size a constant, so that one instruction finds an entry.
 */
struct weir__heap {
	uintptr_t window; /* [window, window + window_bytes): this heap's objects, nobody else's */
	size_t window_bytes;
	uint64_t zero_[4];
	void *newest;	     /* the block weir_alloc() gave last; its span has not ended since */
	size_t newest_place; /* of its cache; 0 with NULL: of none */
	uint16_t places[WEIR__TABLE_BYTES_MAX / 16 + 32]; /* by size in 16 bytes, rounded up */
	/* [0] belongs to no pool and is always empty */
	struct weir__cache cache[WEIR__POOLS_MAX + 1];
	struct weir__unit map[WEIR__MAP_UNITS]; /* what is not in use is not in memory either */
};

extern WEIR_API __thread struct weir__heap *weir__heap_self
	__attribute__((tls_model("initial-exec")));

WEIR_API void *weir__alloc_slow(size_t size);
WEIR_API void weir__free_slow(void *block);
WEIR_API void weir__free_sized_slow(void *block, size_t size);
WEIR_API void *weir__pool_get_slow(uint32_t index);
WEIR_API void weir__pool_put_slow(uint32_t index, void *object);

/* The place of a pool's cache. */
#define WEIR__PLACE(index)                                                                         \
	(offsetof(struct weir__heap, cache) + (size_t)(index) * sizeof(struct weir__cache))

inline struct weir__cache *weir__cache_at(struct weir__heap *heap, size_t place)
{
	return (struct weir__cache *)((char *)heap + place);
}

/* The place of the cache for a request of `size` <= WEIR__TABLE_BYTES_MAX: a constant for one. */
inline size_t weir__place_for(const struct weir__heap *heap, size_t size)
{
	if (__builtin_constant_p(size))
		return WEIR__PLACE(weir_size_class(size) + 1);
	return heap->places[(size + 15) >> 4];
}

/*
 * Each use of a place that is looked up finds its cache for itself, in the addressing of the
 * instruction. Without this gcc adds the place to the heap's address once: an instruction more, and
 * all that follows waits for it. `got` is what the use before has given.
 */
#define WEIR__APART(place, got)                                                                    \
	do {                                                                                       \
		if (!__builtin_constant_p(place))                                                  \
			__asm__("" : "+r"(place) : "r"(got));                                      \
	} while (0)

/*
 * The newest free object of the cache at *place, or NULL when the slow path has to look. The place
 * stays what it was; for who wants it afterwards, or the compiler would keep two of it.
 */
inline void *weir__cache_pop(struct weir__heap *heap, size_t *place)
{
	void **head = weir__cache_at(heap, *place)->head;
	WEIR__APART(*place, head);
	if (WEIR_LIKELY(head > weir__cache_at(heap, *place)->low)) {
		WEIR__APART(*place, head);
		__atomic_store_n(&weir__cache_at(heap, *place)->head, head - 1, __ATOMIC_RELAXED);
		WEIR__APART(*place, head);
		WEIR__COUNT(weir__cache_at(heap, *place)->allocs);
		void *block = head[-1];
		if (block == NULL)
			__builtin_unreachable();
		return block;
	}
	return NULL;
}

/* Takes `block` unless the cache is full or this is the one freed last. */
inline bool weir__cache_push(struct weir__heap *heap, size_t place, void *block)
{
	void **head = weir__cache_at(heap, place)->head;
	WEIR__APART(place, head);
	if (WEIR_LIKELY(head < weir__cache_at(heap, place)->high && head[-1] != block)) {
		*head = block;
		WEIR__APART(place, head);
		__atomic_store_n(&weir__cache_at(heap, place)->head, head + 1, __ATOMIC_RELAXED);
		return true;
	}
	return false;
}

/* The map's entry for an address, which may be of another address: where it is in the map. */
inline size_t weir__unit_offset(const void *block)
{
	return (uintptr_t)block >> (WEIR__UNIT_SHIFT - 4) & (WEIR__MAP_UNITS - 1) << 4;
}

inline const struct weir__unit *weir__unit_in(const struct weir__heap *heap, size_t offset)
{
	return (const struct weir__unit *)((const char *)heap->map + offset);
}

inline const struct weir__unit *weir__unit_of(const struct weir__heap *heap, const void *block)
{
	return weir__unit_in(heap, weir__unit_offset(block));
}

/*
 * Whether `block`, wherever it is, is the start of an object in a span of the cache's pool that
 * begins at `span`.
 */
inline bool weir__is_object(const struct weir__cache *cache, const void *block, uintptr_t span)
{
	return ((uintptr_t)block - span) * cache->reciprocal < cache->valid;
}

/*
 * Takes `block` when it is an object of this heap, at the start of a slot and not the one freed
 * last. False: the slow path has to look.
 */
inline bool weir__heap_push(struct weir__heap *heap, void *block)
{
	size_t offset = weir__unit_offset(block);
	size_t place = weir__unit_in(heap, offset)->key & 0xffff;
	WEIR__APART(offset, place);
	uint64_t product = (uintptr_t)block - weir__unit_in(heap, offset)->span;
	product *= weir__cache_at(heap, place)->reciprocal; /* as in weir__is_object() */
	WEIR__APART(place, product);
	if (!WEIR_LIKELY(product < weir__cache_at(heap, place)->valid))
		return false;
	WEIR__APART(place, product);
	return weir__cache_push(heap, place, block);
}

/* A block for a request of `size` <= WEIR__TABLE_BYTES_MAX, or NULL when the slow path has to look.
 */
inline void *weir__heap_pop(struct weir__heap *heap, size_t size)
{
	size_t place = weir__place_for(heap, size);
	void *block = weir__cache_pop(heap, &place);
	if (WEIR_LIKELY(block != NULL)) {
		heap->newest = block;
		heap->newest_place = place;
	}
	return block;
}

/*
 * Takes `block` when it can. Of the one that was handed out last it is known where it came from:
 * nobody has to ask. The map's answer comes after four loads, each of which waits for the one
 * before, and as long as a store's address is not known, later loads wait with it.
 */
inline bool weir__heap_take(struct weir__heap *heap, void *block)
{
	if (heap->newest != block)
		return weir__heap_push(heap, block);
	size_t place = heap->newest_place;
	WEIR__APART(place, heap);
	return weir__cache_push(heap, place, block);
}

/*
 * The same where the caller knows the place: the map is asked whether that is true, but nothing
 * waits for its answer. Without `check`, that the block is the start of an object is the caller's
 * word.
 */
inline bool weir__heap_push_at(struct weir__heap *heap, size_t place, void *block, bool check)
{
	const struct weir__unit *unit = weir__unit_of(heap, block);
	bool same = (((uintptr_t)block & ~(uintptr_t)0xffff) | place) == unit->key;
	WEIR__APART(place, heap); /* or the compiler takes the one it has to wait for */
	return WEIR_LIKELY(same && (!check || weir__is_object(weir__cache_at(heap, place), block,
							      unit->span))) &&
	       weir__cache_push(heap, place, block);
}

/* ---- Blocks --------------------------------------------------------------------------------- */

/*
 * The inlined functions exist in the library too, for other languages.
 *
 * Gives a block of at least `size` bytes, aligned to 16; its content is undefined. NULL when memory
 * is exhausted, never an abort. Size 0 gives a block too. Never parks.
 */
WEIR_API WEIR_MUST WEIR_MALLOC(1) inline void *weir_alloc(size_t size)
{
	if (WEIR_LIKELY(size <= WEIR__TABLE_BYTES_MAX)) {
		void *block = weir__heap_pop(weir__heap_self, size);
		if (WEIR_LIKELY(block != NULL))
			return block;
	}
	return weir__alloc_slow(size);
}

/*
 * Takes a block. Accepts NULL. Any thread. What is not a block is reported on stderr and left
 * alone.
 */
WEIR_API inline void weir_free(void *block)
{
	if (!WEIR_LIKELY(weir__heap_take(weir__heap_self, block)))
		weir__free_slow(block);
}

/* Like weir_alloc(), filled with zero bytes. */
WEIR_API WEIR_MUST WEIR_MALLOC(1) void *weir_zalloc(size_t size);

/*
 * Takes `block` (NULL: like weir_alloc) and gives a block of `size` bytes with its content up to
 * the smaller size. On NULL the old block is untouched and still the caller's; to get smaller does
 * not fail, but at a debug level.
 */
WEIR_API WEIR_MUST void *weir_realloc(void *block, size_t size);

/*
 * Gives a block aligned to `align`, a power of two up to 2 MiB. NULL when memory is exhausted or
 * `align` is not such a power. weir_free() takes it.
 */
WEIR_API WEIR_MUST WEIR_MALLOC(2) void *weir_alloc_aligned(size_t align, size_t size);

/*
 * Takes a block whose requested size the caller knows, which is faster than having it looked up,
 * unless it is the one that was allocated last. Accepts NULL. Any thread. A size of another class
 * costs time and does no harm; at debug level 1 any other size than the one asked for is reported.
 * Unlike weir_free() it believes that the block begins where it says.
 */
WEIR_API inline void weir_free_sized(void *block, size_t size)
{
	struct weir__heap *heap = weir__heap_self;
	if (!WEIR_LIKELY(size <= WEIR__TABLE_BYTES_MAX &&
			 weir__heap_push_at(heap, weir__place_for(heap, size), block, false)))
		weir__free_sized_slow(block, size);
}

/* The bytes that may be used in `block`; 0 for NULL. */
WEIR_API size_t weir_usable_size(const void *block);

/* ---- Threads that are no workers ------------------------------------------------------------ */

/*
 * Gives the calling thread a heap of its own, for threads that the runtime did not start and that
 * allocate a lot: without one they share a heap behind a lock. It is handed on when the thread
 * exits, or by weir_thread_detach(). Returns 0, also when it has one, or -ENOMEM. Blocks are
 * unaffected by either. A worker's heap is the runtime's: neither does anything there.
 */
WEIR_API WEIR_MUST int weir_thread_attach(void);
WEIR_API void weir_thread_detach(void);

/* ---- Typed pools ---------------------------------------------------------------------------- */

/* Opaque but for what weir_pool_get() and weir_pool_put() inline. */
typedef struct weir_pool {
	uint32_t index;
	uint32_t place; /* of its cache in every heap */
} weir_pool;

/*
 * Called by the compactor when it has copied an object to a place in a fuller span: makes every
 * reference point to `to` and returns true, or returns false when the object must stay. It runs
 * where reclaimers do (see weir_reclaimer_add_with()), may allocate, and may put other objects.
 */
typedef bool (*weir_move_fn)(void *from, void *to, void *arg);

struct weir_pool_opts {
	size_t size;	     /* filled by the macro: sizeof(struct weir_pool_opts) */
	size_t object_bytes; /* required; at most 512 KiB */
	size_t align;	     /* power of two up to 4096; 0: 16 */
	const char *name;    /* borrowed for the pool's life; shown in statistics; NULL: "pool" */
	weir_move_fn move; /* the objects may be moved; they are put on the worker that got them */
	void *move_arg;
};

/*
 * Makes a pool of equal objects for use by every worker. Gives it in *ret. Returns 0, -EINVAL,
 * -E2BIG (see runtime.h of options), -ENOMEM or -ENOSPC (too many pools in this process).
 */
WEIR_API WEIR_MUST int weir_pool_new_with(weir_pool **ret, const struct weir_pool_opts *opts);
#define weir_pool_new(ret, ...)                                                                    \
	weir_pool_new_with((ret), &(struct weir_pool_opts){ .size = sizeof(struct weir_pool_opts), \
							    __VA_ARGS__ })

/* Takes the pool; every object must have been put back. Accepts NULL. */
WEIR_API void weir_pool_free(weir_pool *pool);

/* Gives an object with undefined content, or NULL when memory is exhausted. Any thread. */
WEIR_API WEIR_MUST WEIR_NONNULL inline void *weir_pool_get(weir_pool *pool)
{
	size_t place = pool->place;
	void *object = weir__cache_pop(weir__heap_self, &place);
	if (WEIR_LIKELY(object != NULL))
		return object;
	return weir__pool_get_slow(pool->index);
}

/* Takes an object of this pool. Accepts NULL. Any thread. */
WEIR_API inline void weir_pool_put(weir_pool *pool, void *object)
{
	if (!WEIR_LIKELY(weir__heap_push_at(weir__heap_self, pool->place, object, true)))
		weir__pool_put_slow(pool->index, object);
}

/* ---- Buffers -------------------------------------------------------------------------------- */

struct weir__block;

/*
 * A lease on a pool block: a view [data, data + len) with `cap` bytes of room from `data` on. Plain
 * fields, free to read and to narrow (raise data and lower len and cap by the same amount, or lower
 * len). The block goes back to its pool when the last lease on it is released.
 */
typedef struct weir_buf {
	char *data;
	size_t len;
	size_t cap;
	struct weir__block *block;
} weir_buf;

#ifdef __cplusplus
#define WEIR_BUF_INIT                                                                              \
	weir_buf                                                                                   \
	{                                                                                          \
	}
#else
#define WEIR_BUF_INIT                                                                              \
	{                                                                                          \
		NULL, 0, 0, NULL                                                                   \
	}
#endif

/*
 * Lends an empty buffer with room for at least `cap` bytes. Returns 0, or -ENOMEM and *ret
 * untouched.
 */
WEIR_API WEIR_MUST WEIR_NONNULL int weir_buf_get(weir_buf *ret, size_t cap);

/* Ends the lease and empties *buf; on an empty lease it does nothing. */
WEIR_API WEIR_NONNULL void weir_buf_release(weir_buf *buf);

/* Lends the same block once more, to *ret, which is empty: both views see the same bytes until each
 * is released. */
WEIR_API WEIR_NONNULL void weir_buf_share_view(const weir_buf *buf, weir_buf *ret);

/* The end of a weir_auto_buf: most have handed their lease on by then. */
static inline void weir__buf_cleanup(weir_buf *buf)
{
	if (buf->block)
		weir_buf_release(buf);
}

#define weir_auto_buf WEIR_CLEANUP(weir__buf_cleanup) weir_buf

/* ---- Pressure ------------------------------------------------------------------------------- */

/* How short memory is: by the process's own limit, its cgroup's and the kernel's stall figures. */
enum weir_mem_level {
	WEIR_MEM_NONE,
	WEIR_MEM_LOW,	   /* caches stop growing */
	WEIR_MEM_MEDIUM,   /* caches and idle stacks are given back */
	WEIR_MEM_HIGH,	   /* reclaimers run, movable objects are moved together */
	WEIR_MEM_CRITICAL, /* a service sheds load */
};

WEIR_API enum weir_mem_level weir_mem_level_get(void);

/*
 * For tests: the level is this one from now on, whatever the sources say; -1: they are heard again.
 * Workers act on it in their next epoch, as on one that was measured. Any thread.
 */
WEIR_API void weir_mem_level_force(int level);

struct weir_reclaim_request {
	size_t want;	   /* bytes; SIZE_MAX, all that can be spared, when pressure asks */
	size_t contiguous; /* the largest block refused since reclaimers were last asked; 0: none
			      was */
	enum weir_mem_level level;
	int64_t deadline_ns; /* on the clock of weir_now() */
};

/* Frees what can be done without. What it returns is for its own statistics: the effect is
 * measured. */
typedef size_t (*weir_reclaim_fn)(const struct weir_reclaim_request *request, void *arg);

typedef struct weir_reclaimer weir_reclaimer;

struct weir_reclaimer_opts {
	size_t size;	  /* filled by the macro */
	const char *name; /* borrowed while it is registered */
	weir_reclaim_fn fn;
	void *arg;
	int priority;		       /* lower ones are asked first: the cheapest to lose */
	enum weir_mem_level min_level; /* at least WEIR_MEM_HIGH, whatever is said here */
	bool every_worker;	       /* ask on each worker, not on whichever comes first */
};

/*
 * Registers a reclaimer and gives its handle in *ret. It is called on a worker, between tasks, once
 * a second while the level is as high as that, or by weir_mem_compact(), for who fills the limit
 * faster: it must not park, and what it allocates it does not get. Returns 0,
 * -EINVAL, -E2BIG, -ENOSPC (64 are there), or -EBUSY inside a reclaimer.
 */
WEIR_API WEIR_MUST int weir_reclaimer_add_with(weir_reclaimer **ret,
					       const struct weir_reclaimer_opts *opts);
#define weir_reclaimer_add(ret, ...)                                                               \
	weir_reclaimer_add_with(                                                                   \
		(ret), &(struct weir_reclaimer_opts){ .size = sizeof(struct weir_reclaimer_opts),  \
						      __VA_ARGS__ })

/* Takes the handle; when it returns the function is not running and will not be called. Accepts
 * NULL. */
WEIR_API void weir_reclaimer_del(weir_reclaimer *reclaimer);

/*
 * Does now what `level` (MEDIUM or above) asks for: on the calling worker's heap at once, on the
 * others, which are woken, in their next turns. Reclaimers are asked for `want` bytes, by each
 * call. A thread that is no worker does the same for the heap it has of its own
 * (weir_thread_attach()); without one it trims what it shares with others, but moves nothing and
 * asks nobody. Returns the bytes given back to the OS before it returned; 0 below MEDIUM, and from
 * inside a reclaimer or a move().
 */
WEIR_API size_t weir_mem_compact(size_t want, enum weir_mem_level level);

/* ---- Statistics ----------------------------------------------------------------------------- */

/*
 * One pool: of one heap, or summed over all. Counters run from the start of the process, or of the
 * typed pool.
 */
struct weir_pool_stats {
	const char *name; /* "16 B" ... "16 MiB", or the typed pool's name */
	size_t object_bytes;
	uint64_t allocs; /* objects handed out */
	uint64_t misses; /* of those, the ones the cache could not serve: hits = allocs - misses */
	uint64_t overflows; /* frees that found the cache full */
	uint64_t in_use;    /* objects out now */
	uint64_t peak;	    /* most objects out at once; summed over heaps, each at its own time */
	uint64_t cached;    /* objects free in caches now */
	uint64_t capacity;  /* sum of the caches' capacities */
	uint64_t demand;    /* what the caches would need by what is remembered of demand */
	uint64_t remote_frees; /* objects freed by a thread that did not own them */
	uint64_t resizes;      /* times a cache's capacity has changed */
	/*
	 * Waste by rounding up to a class, from a sample: the calls that took the slow path. Its
	 * share is 1 - sampled_bytes / (sampled * object_bytes).
	 */
	uint64_t sampled;
	uint64_t sampled_bytes; /* that these have asked for */
};

/* What was done at one level of pressure, by all heaps. */
struct weir_mem_stage_stats {
	uint64_t runs;
	uint64_t ns;		 /* spent in them, reclaimers included */
	uint64_t returned_bytes; /* of memory that was there, given back to the OS by them */
};

struct weir_mem_stats {
	uint64_t allocs;
	uint64_t misses;
	uint64_t allocated_bytes; /* in blocks handed out since the start */
	uint64_t resident_bytes;  /* of the whole process, by the kernel; 0: /proc is not there */
	uint64_t span_bytes;	 /* in spans that hold or held objects: what the process pays for */
	uint64_t free_bytes;	 /* of those, in no span now: any pool may have them next */
	uint64_t kept_bytes;	 /* beside those: the decay has left them to the kernel to take */
	uint64_t large_bytes;	 /* of those, in blocks above WEIR_CLASS_BYTES_MAX */
	uint64_t cached_bytes;	 /* free in caches */
	uint64_t capacity_bytes; /* free in caches if all were full: what the budget limits */
	uint64_t stack_bytes;	 /* task stacks handed out, times their size (virtual) */
	uint64_t stacks;	 /* task stacks in use */
	uint64_t stacks_cached;	 /* task stacks free, warm */
	uint64_t guarded;	 /* blocks that were allocated between guard pages */
	uint64_t os_maps;	 /* mmap calls so far */
	uint64_t os_purged_bytes;  /* of memory that was there, given back so far */
	uint64_t level;		   /* enum weir_mem_level */
	uint64_t level_raises;	   /* times it went up */
	uint64_t compactions;	   /* times a heap did what a level asks for */
	uint64_t moved;		   /* objects of movable pools that changed place */
	uint64_t reclaims;	   /* times a reclaimer was asked */
	uint64_t reclaimed_bytes;  /* what they have freed, measured */
	uint64_t reclaim_overruns; /* times one took longer than 50 us */
	uint64_t stalls;	   /* times the kernel has told that tasks had to wait for memory */
	uint64_t refusals;	   /* allocations that ended with NULL for want of memory */
	size_t pools;		   /* entries a call of weir_pool_stats_get can fill */
	size_t heaps;		   /* numbers a call of weir_heap_stats_get can have */
	struct weir_mem_stage_stats stages[WEIR_MEM_CRITICAL + 1]; /* by enum weir_mem_level */
};

/* One heap: a worker's, an attached thread's, or that of the threads that have none. */
struct weir_heap_stats {
	int worker;    /* whose it is; -1: no worker's */
	bool attached; /* a thread owns it */
	uint64_t allocs;
	uint64_t misses;
	uint64_t span_bytes; /* in spans and free runs that own memory */
	uint64_t free_bytes; /* of those, in no span */
	uint64_t kept_bytes; /* beside those, left to the kernel to take */
	uint64_t cached_bytes;
	uint64_t capacity_bytes;
	uint64_t remote_sent;	/* blocks of others that its thread has freed */
	uint64_t waiting_bytes; /* freed by others, not yet taken home */
	uint64_t stacks;
	uint64_t stacks_cached;
};

/*
 * Fills *ret with totals over all heaps. Counters of running workers may be a moment old. Takes a
 * lock of the allocator, which nobody keeps for long: not for signal handlers.
 */
WEIR_API WEIR_NONNULL void weir_mem_stats_get(struct weir_mem_stats *ret);

/* Fills up to `n` entries, one per pool that was ever used. Returns how many were filled. */
WEIR_API size_t weir_pool_stats_get(struct weir_pool_stats *ret, size_t n);

/*
 * The same for one heap, by its number from 0 on; heaps never go away. Return 0 or the entries
 * filled, or -EINVAL when there is no such heap.
 */
WEIR_API WEIR_MUST WEIR_NONNULL int weir_heap_stats_get(size_t heap, struct weir_heap_stats *ret);
WEIR_API WEIR_MUST int weir_heap_pool_stats_get(size_t heap, struct weir_pool_stats *ret, size_t n);

/*
 * Writes all of it to `out`, per pool and heap: as one JSON object, or as the metric families of
 * OpenMetrics text, without its closing "# EOF" so that more may follow. Return 0, or -EIO when the
 * stream has an error. They may write to a file or a pipe that blocks, and allocate with malloc().
 */
WEIR_API WEIR_MUST WEIR_NONNULL int weir_mem_write_json(FILE *out);
WEIR_API WEIR_MUST WEIR_NONNULL int weir_mem_write_openmetrics(FILE *out);

/*
 * Writes to `fd` what memory is in use for: the totals, each heap, and the 16 pools that hold most,
 * with how full their spans are. A dozen lines or two. It allocates nothing and takes no lock: from
 * any thread, also where memory is exhausted or in a signal handler. Blocks when the descriptor
 * does. WEIR_OOM=dump calls it on stderr at the first allocation that is refused.
 */
WEIR_API void weir_mem_dump(int fd);

/*
 * For tests: the `nth` slow-path request from now on (1: the next) and every one after it fails as
 * if memory were exhausted; 0 ends it. While it is on, caches are bypassed so that every allocation
 * counts. Returns how many allocations were counted since it was last switched on.
 */
WEIR_API uint64_t weir_mem_fail_after(uint64_t nth);

/*
 * Writes to `fd` (-1: nowhere) which blocks are out, the library's own while it runs among them: at
 * debug level 3 by the calls that led to their allocation, at most 40 of these, the most bytes
 * first. Blocks above WEIR_CLASS_BYTES_MAX are left out. Returns how many blocks; 0 below debug
 * level 1. Other threads should be quiet. At level 3 the end of the process does the same on
 * stderr.
 */
WEIR_API uint64_t weir_mem_leaks(int fd);

#ifdef __cplusplus
}
#endif
#endif
