/* SPDX-License-Identifier: MIT */
/*
 * compact.c: what is done about memory being short, stage by stage.
 *
 *   LOW       caches stop growing, free memory goes back after a second (heap.c)
 *   MEDIUM    caches are flushed down to their reserve, free runs and idle stacks are purged
 *   HIGH      caches are emptied, objects of movable pools leave sparse spans, reclaimers run,
 *             pages between objects in use go back (sparse.c)
 *   CRITICAL  caches are taken down with their arrays; reclaimers again
 *
 * Each worker does this to its own heap, in its turn, on its scheduler's stack. Reclaimers are
 * other people's code and are treated so: one runs at a time, what it frees is measured and not
 * believed, an allocation inside it fails, a call of weir_mem_compact() inside it does nothing, one
 * that frees nothing is asked less and less, and one that takes too long is counted. A move() of a
 * pool is contained in the same way, except that it may allocate, and put objects of its pool.
 */
#include <errno.h>
#include <stdatomic.h>
#include <string.h>

#include "alloc/heap.h"
#include "alloc/opts.h"

enum {
	RECLAIMERS_MAX = 64,
	FRUITLESS_MAX = 3, /* then it is skipped 2, 4, 8, ... times */
	BUDGET_US = 50,
};

#define ASK_AGAIN_NS (900 * WEIR__MS) /* workers see the same shortage within a second */

struct weir_reclaimer {
	struct weir_reclaimer_opts opts;
	bool live;
	uint32_t fruitless;
	uint32_t skip;
	int64_t asked_ns;
};

/* What is to be done, and whether a program has called for it. */
struct order {
	uint32_t level;
	size_t want; /* bytes, of reclaimers */
	bool by_hand;
};

static pthread_mutex_t reclaim_lock = PTHREAD_MUTEX_INITIALIZER;
static struct weir_reclaimer reclaimers[RECLAIMERS_MAX];
static __thread bool reclaiming, moving;

_Atomic uint64_t weir__compact_event;
static _Atomic uint32_t compact_level; /* what the event asks for, like the next */
static _Atomic size_t compact_want;

struct weir__compact_counts weir__compact_counts;

static void count(_Atomic uint64_t *counter, uint64_t n)
{
	atomic_fetch_add_explicit(counter, n, memory_order_relaxed);
}

/* A reclaimer may fork: then this thread has the lock already, and so has the child's. */
void weir__reclaim_lock(void)
{
	if (!reclaiming)
		pthread_mutex_lock(&reclaim_lock);
}

void weir__reclaim_unlock(void)
{
	if (!reclaiming)
		pthread_mutex_unlock(&reclaim_lock);
}

/* ---- Reclaimers ----------------------------------------------------------------------------- */

int weir_reclaimer_add_with(weir_reclaimer **ret, const struct weir_reclaimer_opts *opts)
{
	struct weir_reclaimer_opts known = { 0 };
	if (ret == NULL || opts == NULL)
		return -EINVAL;
	int err = weir__opts_copy(&known, sizeof(known), opts, opts->size);
	if (err < 0)
		return err;
	if (known.fn == NULL)
		return -EINVAL;
	if (reclaiming)
		return -EBUSY;
	err = -ENOSPC;
	pthread_mutex_lock(&reclaim_lock);
	for (unsigned i = 0; i < RECLAIMERS_MAX && err != 0; i++) {
		if (reclaimers[i].live)
			continue;
		reclaimers[i] = (struct weir_reclaimer){ .opts = known,
							 .live = true,
							 .asked_ns = INT64_MIN / 2 };
		*ret = &reclaimers[i];
		err = 0;
	}
	pthread_mutex_unlock(&reclaim_lock);
	return err;
}

void weir_reclaimer_del(weir_reclaimer *reclaimer)
{
	if (reclaimer == NULL)
		return;
	if (reclaiming) { /* from inside one: this thread has the lock */
		reclaimer->live = false;
		return;
	}
	pthread_mutex_lock(&reclaim_lock);
	reclaimer->live = false;
	pthread_mutex_unlock(&reclaim_lock);
}

/* Bytes of this heap that are in the hands of the application. */
static uint64_t used_bytes(const struct weir__home *home)
{
	uint64_t sum = 0;
	for (uint32_t i = 1; i < home->bins_end; i++) {
		const struct weir__bin *bin = &home->bins[i];
		sum += (bin->out - bin->internal - weir__cache_count(&home->heap.cache[i])) *
		       weir__pools[i].object_bytes;
	}
	return sum;
}

static void count_result(struct weir_reclaimer *r, uint64_t freed, int64_t took_ns)
{
	struct weir__compact_counts *counts = &weir__compact_counts;
	count(&counts->reclaims, 1);
	count(&counts->reclaimed_bytes, freed);
	if (took_ns > BUDGET_US * WEIR__MS / 1000)
		count(&counts->reclaim_overruns, 1);
	if (freed > 0)
		r->fruitless = 0;
	else if (++r->fruitless >= FRUITLESS_MAX)
		r->skip =
			1u << (r->fruitless - FRUITLESS_MAX < 10 ? r->fruitless - FRUITLESS_MAX + 1
								 : 10);
}

static uint64_t ask(struct weir__home *home, struct weir_reclaimer *r,
		    const struct weir_reclaim_request *request)
{
	uint64_t before = used_bytes(home);
	int64_t start = weir__os_now_exact();
	weir__home_close(home, true);
	(void)r->opts.fn(request, r->opts.arg);
	weir__home_close(home, false);
	uint64_t after = used_bytes(home);
	uint64_t freed = before > after ? before - after : 0;
	count_result(r, freed, weir__os_now_exact() - start);
	return freed;
}

/*
 * The next in order of priority that has not been asked in this round, nor, unless a program has
 * called for it, a moment ago; NULL: none is left.
 */
static struct weir_reclaimer *next_reclaimer(const struct weir__home *home,
					     const struct order *order, uint64_t asked)
{
	struct weir_reclaimer *best = NULL;
	for (unsigned i = 0; i < RECLAIMERS_MAX; i++) {
		struct weir_reclaimer *r = &reclaimers[i];
		if (!r->live || (asked >> i & 1) != 0 || r->opts.min_level > order->level)
			continue;
		if (!r->opts.every_worker && !order->by_hand &&
		    home->now_ns - r->asked_ns < ASK_AGAIN_NS)
			continue;
		if (best == NULL || r->opts.priority < best->opts.priority)
			best = r;
	}
	return best;
}

static void run_reclaimers(struct weir__home *home, const struct order *order)
{
	struct weir_reclaim_request request = { .level = (enum weir_mem_level)order->level };
	uint64_t asked = 0, freed = 0;
	if (pthread_mutex_trylock(&reclaim_lock) != 0)
		return; /* another worker is at it */
	reclaiming = true;
	struct weir_reclaimer *r;
	while (freed < order->want && (r = next_reclaimer(home, order, asked)) != NULL) {
		asked |= 1ull << (r - reclaimers);
		if (r->skip > 0) {
			r->skip--;
			continue;
		}
		r->asked_ns = home->now_ns;
		if (request.contiguous == 0) /* the others of the round hear the same */
			request.contiguous = atomic_exchange_explicit(&weir__refused_bytes, 0,
								      memory_order_relaxed);
		request.want = order->want - freed;
		request.deadline_ns = weir__os_now_exact() + BUDGET_US * WEIR__MS / 1000;
		freed += ask(home, r, &request);
	}
	reclaiming = false;
	pthread_mutex_unlock(&reclaim_lock);
}

/* ---- Movable objects ------------------------------------------------------------------------ */

/* What move() has put meanwhile is in its span again, and no longer taken for an object in use. */
static void move_one(struct weir__home *home, uint32_t index, void *from, void *to)
{
	const struct weir__pool *pool = &weir__pools[index];
	weir__watch_alloc(to, pool->object_bytes, pool->object_bytes);
	memcpy(to, from, pool->object_bytes);
	moving = true;
	bool moved = pool->move(from, to, pool->move_arg);
	moving = false;
	if (weir__cache_count(&home->heap.cache[index]) > 0)
		weir__cache_flush(home, index, UINT32_MAX);
	if (weir__config.debug > 0)
		weir__check_move(home, from, to, moved);
	void *gone = moved ? from : to;
	weir__watch_free(gone, pool->object_bytes);
	if (weir__span_pool(home, gone) != index || !weir__span_give(home, gone))
		weir__report("freed twice", gone);
	count(&weir__compact_counts.moved, moved);
}

/* Moves what may be moved to fuller spans. Returns false when those have no room left. */
static bool move_out(struct weir__home *home, uint32_t index, struct weir__span *span)
{
	for (uint32_t object = 0; weir__span_is_of(home, span, index); object++) {
		if (object == span->objects)
			break;
		void *from = weir__span_used(home, span, object);
		if (from == NULL || weir__remote_is_returning(from) ||
		    (weir__config.debug > 0 && weir__check_size(home, from) == 0))
			continue; /* on its way, or in quarantine */
		void *to = weir__span_take_elsewhere(home, index, span);
		if (to == NULL)
			return false;
		move_one(home, index, from, to);
	}
	return true;
}

/*
 * Sparse spans of a movable pool, each once and the emptiest first, while fuller ones can take
 * their objects.
 */
static void compact_pool(struct weir__home *home, uint32_t index)
{
	struct weir__sparsest last = { UINT32_MAX, 0 };
	bool room = weir__pools[index].move != NULL;
	while (room && home->bins[index].spans > 1) {
		struct weir__span *span = weir__span_sparsest(home, index, &last);
		room = span != NULL && move_out(home, index, span);
	}
}

/* ---- Stages --------------------------------------------------------------------------------- */

static void shrink_cache(struct weir__home *home, uint32_t index, uint32_t level)
{
	struct weir__cache *cache = &home->heap.cache[index];
	uint32_t kept = weir__adapt_kept(index);
	uint32_t keep = level >= WEIR_MEM_HIGH ? 0 : kept > 0 ? kept : weir__config.reserve;
	if (level >= WEIR_MEM_CRITICAL)
		weir__cache_close(home, index);
	else if (weir__cache_count(cache) > keep)
		weir__cache_flush(home, index, weir__cache_count(cache) - keep);
}

static void run_stage(struct weir__home *home, const struct order *order)
{
	/* other people's code runs on its own worker only, and never under the heaps lock */
	bool ask_others = order->level >= WEIR_MEM_HIGH && home == weir__home_self() && !home->amid;
	if (ask_others)
		run_reclaimers(home, order);
	weir__compact_home(home, order->level);
	for (uint32_t i = 1; ask_others && i < home->bins_end; i++)
		compact_pool(home, i);
	if (ask_others)
		weir__runs_purge_all(home);
	while (ask_others && weir__sparse_purge(home))
		;
}

void weir__compact_home(struct weir__home *home, uint32_t level)
{
	while (weir__remote_waiting(home))
		weir__remote_drain(home);
	for (uint32_t i = 1; i < home->bins_end; i++)
		if (home->bins[i].open)
			shrink_cache(home, i, level);
	weir__stacks_purge(home);
	weir__runs_purge_all(home);
}

/* The bytes are the process's: what other heaps give back meanwhile is in them too. */
static void stage(struct weir__home *home, const struct order *order)
{
	uint64_t before = atomic_load(&weir__os_counts.purged_bytes);
	int64_t start = weir__os_now_exact();
	run_stage(home, order);
	count(&weir__compact_counts.stages[order->level].runs, 1);
	count(&weir__compact_counts.stages[order->level].ns,
	      (uint64_t)(weir__os_now_exact() - start));
	count(&weir__compact_counts.stages[order->level].returned_bytes,
	      atomic_load(&weir__os_counts.purged_bytes) - before);
}

void weir__compact_turn(struct weir__home *home)
{
	uint64_t event = atomic_load_explicit(&weir__compact_event, memory_order_acquire);
	if (event != home->compact_seen) {
		home->compact_seen = event;
		struct order order = {
			.level = atomic_load_explicit(&compact_level, memory_order_relaxed),
			.want = atomic_load_explicit(&compact_want, memory_order_relaxed),
		};
		if (order.level >= WEIR_MEM_MEDIUM)
			stage(home, &order);
	}
	uint32_t level = atomic_load_explicit(&weir__level, memory_order_relaxed);
	bool again = home->now_ns >= home->stage_ns;
	if (level >= WEIR_MEM_MEDIUM && (level > home->level || again)) {
		stage(home, &(struct order){ .level = level, .want = SIZE_MAX });
		home->stage_ns = home->now_ns + 1000 * WEIR__MS;
	}
	home->level = level;
}

static bool stage_of_lent(struct weir__home *home, void *level)
{
	stage(home, &(struct order){ .level = *(const uint32_t *)level });
	return true;
}

/*
 * The caller's heap first: reclaimers that it has asked are not asked once more when the others do
 * what they are told to.
 */
size_t weir_mem_compact(size_t want, enum weir_mem_level level)
{
	struct order order = { .level = level, .want = want, .by_hand = true };
	if (reclaiming || moving || level < WEIR_MEM_MEDIUM || level > WEIR_MEM_CRITICAL)
		return 0;
	uint64_t before = atomic_load(&weir__os_counts.purged_bytes);
	struct weir__home *home = weir__home_self();
	if (home != NULL)
		stage(home, &order);
	atomic_store_explicit(&compact_level, level, memory_order_relaxed);
	atomic_store_explicit(&compact_want, want, memory_order_relaxed);
	/* release: who sees the event sees its level */
	uint64_t event =
		atomic_fetch_add_explicit(&weir__compact_event, 1, memory_order_release) + 1;
	if (home != NULL)
		home->compact_seen = event;
	weir__lent_each(stage_of_lent, &order.level);
	weir__remote_wake_all();
	pthread_mutex_lock(&weir__heaps_lock);
	uint32_t count = atomic_load_explicit(&weir__home_count, memory_order_relaxed);
	for (uint32_t i = 0; i < count; i++)
		if (!atomic_load_explicit(&weir__homes[i]->owned, memory_order_relaxed))
			stage(weir__homes[i], &order);
	pthread_mutex_unlock(&weir__heaps_lock);
	return atomic_load(&weir__os_counts.purged_bytes) - before;
}
