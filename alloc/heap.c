/* SPDX-License-Identifier: MIT */
/*
 * heap.c: making heaps, handing them from thread to thread, and their share of each turn of the
 * loop.
 *
 * A heap is never unmapped: others may be freeing to it and reading its counters at any moment.
 * When its thread leaves it is emptied of what it cached, and the next thread that attaches takes
 * it over with all the blocks still in use.
 *
 * Owner by address: windows are aligned to 256 MiB, and a table with an entry for each 256 MiB of
 * the address space holds the heap's number. Untouched parts of the table cost nothing.
 */
#include <errno.h>
#include <stdatomic.h>

#include "alloc/heap.h"

#define REGION_SHIFT 28
#define REGIONS	     (1u << (48 - REGION_SHIFT))

#if WEIR__TSAN
#define WINDOW_BYTES_MAX ((size_t)4 << 30) /* shadow memory is several times that */
#else
#define WINDOW_BYTES_MAX ((size_t)64 << 30)
#endif
#define WINDOW_BYTES_MIN ((size_t)1 << REGION_SHIFT)
_Static_assert(WINDOW_BYTES_MAX <= (size_t)WEIR__MAP_UNITS << WEIR__UNIT_SHIFT,
	       "no two units of a window share an entry of the map");

#define PURGE_STEP_NS (1000 * WEIR__MS)

/* home->epoch_ns, with room for what is added to it */
#define CLOCK_STOPPED (WEIR__NEVER / 2)

/* An epoch's step: 4 MiB are a millisecond of system time; of a large heap a 64th. */
enum { PURGE_UNITS = 64, PURGE_SHARE = 64 };

struct weir__heap weir__heap_none;
__thread struct weir__heap *weir__heap_self __attribute__((tls_model("initial-exec"))) =
	&weir__heap_none;

pthread_mutex_t weir__heaps_lock = PTHREAD_MUTEX_INITIALIZER;
struct weir__home *weir__homes[WEIR__HEAPS_MAX];
_Atomic uint32_t weir__home_count;

static uint16_t regions[REGIONS]; /* heap id + 1 */
static struct weir__home *guest;
static uint32_t guest_visits;

struct weir__home *weir__home_of(const void *address)
{
	uintptr_t region = (uintptr_t)address >> REGION_SHIFT;
	if (region >= REGIONS)
		return NULL;
	uint16_t id = WEIR__GET(regions[region]);
	return id == 0 ? NULL : weir__homes[id - 1];
}

/* ---- Making one ----------------------------------------------------------------------------- */

enum { BITMAP_BYTES = WEIR__BITMAP_WORDS * sizeof(uint64_t) };

static size_t description_bytes(size_t units)
{
	return units * (BITMAP_BYTES + sizeof(struct weir__span)) + 2 * (units / 8);
}

size_t weir__heap_bytes_min(void)
{
	return sizeof(struct weir__home) + WINDOW_BYTES_MIN +
	       description_bytes(WINDOW_BYTES_MIN >> WEIR__UNIT_SHIFT);
}

/* What describes a window beside the heap's map: a span and a bitmap for each unit. */
static bool describe_window(struct weir__home *home, size_t window_bytes)
{
	size_t units = window_bytes >> WEIR__UNIT_SHIFT;
	size_t bits = units / 8;
	size_t bytes = description_bytes(units);
	char *meta = weir__os_map(bytes, 4096);
	if (meta == NULL)
		return false;
	weir__os_small_pages(meta, bytes);
	if (weir__config.debug > 0) {
		home->notes = weir__os_map(weir__notes_bytes(units), 4096);
		if (home->notes == NULL) {
			weir__os_unmap(meta, bytes);
			return false;
		}
	}
	home->bitmaps = (uint64_t *)meta;
	home->spans = (struct weir__span *)(meta + units * BITMAP_BYTES);
	home->dirty = (uint64_t *)(meta + bytes - 2 * bits);
	home->kept = (uint64_t *)(meta + bytes - bits);
	home->unit_count = (uint32_t)units;
	return true;
}

/*
 * The largest window that is not refused: RLIMIT_AS and vm.overcommit_memory = 2 refuse large ones.
 */
static bool open_window(struct weir__home *home)
{
	size_t most = weir__watched() ? WINDOW_BYTES_MIN : WINDOW_BYTES_MAX;
	for (size_t bytes = most; bytes >= WINDOW_BYTES_MIN; bytes /= 2) {
		char *window = weir__os_map(bytes, WINDOW_BYTES_MIN);
		if (window == NULL)
			continue;
		if (describe_window(home, bytes)) {
			if (weir__config.huge_pages == WEIR__HUGE_ALWAYS)
				weir__os_huge_pages(window, bytes);
			else
				weir__os_small_pages(window, bytes);
			weir__os_dump(window, bytes, false);
			home->heap.window = (uintptr_t)window;
			home->heap.window_bytes = bytes;
			return true;
		}
		weir__os_unmap(window, bytes);
	}
	return false;
}

static void fill_places(struct weir__heap *heap)
{
	for (size_t i = 0; i <= WEIR__TABLE_BYTES_MAX / 16; i++)
		heap->places[i] = (uint16_t)WEIR__PLACE(weir__class_pool(i * 16));
}

static struct weir__home *home_new(void)
{
	uint32_t id = atomic_load_explicit(&weir__home_count, memory_order_relaxed);
	if (id == WEIR__HEAPS_MAX)
		return NULL;
	weir__pools_init();
	if (weir__blocks_watched())
		atomic_fetch_or_explicit(&weir__mode, WEIR__MODE_WATCH, memory_order_relaxed);
	struct weir__home *home = weir__os_map(sizeof(*home), 4096);
	if (home == NULL)
		return NULL;
	weir__os_small_pages(home, sizeof(*home)); /* most of the map is never touched */
	if (!open_window(home)) {
		weir__os_unmap(home, sizeof(*home));
		return NULL;
	}
	fill_places(&home->heap);
	home->id = id;
	home->worker = -1;
	home->bins_end = 1;
	weir__homes[id] = home;
	/* release: who reads the count, or a block of this window, sees the heap made */
	atomic_store_explicit(&weir__home_count, id + 1, memory_order_release);
	uintptr_t first = home->heap.window >> REGION_SHIFT;
	for (size_t i = 0; i < home->heap.window_bytes >> REGION_SHIFT; i++)
		WEIR__SET(regions[first + i], (uint16_t)(id + 1));
	return home;
}

struct weir__home *weir__home_guest(void)
{
	if (guest == NULL)
		guest = home_new();
	if (guest != NULL && ++guest_visits % 1024 == 0)
		weir__home_turn(guest, weir__os_now());
	return guest;
}

/* ---- Fork ----------------------------------------------------------------------------------- */

/*
 * The child has the forking thread and its heap. Other threads' heaps may have been caught in the
 * middle of an operation, so they stay owned by nobody's thread: what they hold is the price of the
 * fork.
 */
static void before_fork(void)
{
	weir__reclaim_lock();
	pthread_mutex_lock(&weir__heaps_lock);
	weir__large_lock();
	weir__remote_lock();
}

static void after_fork(void)
{
	weir__remote_unlock();
	weir__large_unlock();
	pthread_mutex_unlock(&weir__heaps_lock);
	weir__reclaim_unlock();
}

/* What wakes the other threads is a descriptor of the parent's; here it may be any file by then. */
static void after_fork_there(void)
{
	uint32_t count = atomic_load_explicit(&weir__home_count, memory_order_relaxed);
	for (uint32_t i = 0; i < count; i++)
		weir__homes[i]->wake = NULL;
	weir__look_forget();
	after_fork();
}

__attribute__((constructor)) static void guard_fork(void)
{
	(void)pthread_atfork(before_fork, after_fork, after_fork_there);
}

/* ---- Attach and detach ---------------------------------------------------------------------- */

static struct weir__home *adopt(void)
{
	uint32_t count = atomic_load_explicit(&weir__home_count, memory_order_relaxed);
	for (uint32_t i = 0; i < count; i++)
		if (weir__homes[i] != guest && !weir__homes[i]->owned)
			return weir__homes[i];
	return home_new();
}

static void wake_by(struct weir__home *home, void (*wake)(void *arg), void *arg)
{
	weir__remote_lock();
	home->wake = wake;
	home->wake_arg = arg;
	weir__remote_unlock();
}

void weir__heap_on_news(void (*wake)(void *arg), void *arg)
{
	struct weir__home *home = weir__home_self();
	if (home != NULL)
		wake_by(home, wake, arg);
}

void weir__heap_set_worker(int worker)
{
	struct weir__home *home = weir__home_self();
	if (home == NULL)
		return;
	WEIR__SET(home->worker, worker);
	home->was_attached = home->turns_itself; /* from here on a loop turns it, between tasks */
	home->turns_itself = false;
}

bool weir__heap_has_news(void)
{
	struct weir__home *home = weir__home_self();
	return home != NULL && (weir__remote_waiting(home) || weir__compact_is_due(home));
}

int weir__heap_attach(void)
{
	if (weir__home_self() != NULL)
		return 0;
	if (weir__fault())
		return -ENOMEM;
	pthread_mutex_lock(&weir__heaps_lock);
	struct weir__home *home = adopt();
	if (home != NULL)
		atomic_store_explicit(&home->owned, 1, memory_order_relaxed);
	pthread_mutex_unlock(&weir__heaps_lock);
	if (home == NULL) {
		(void)weir__refused(sizeof(*home));
		return -ENOMEM;
	}
	home->now_ns = weir__os_now();
	weir__heap_self = &home->heap;
	if (weir__config.numa != WEIR__NUMA_NONE)
		weir__os_place((void *)home->heap.window, home->heap.window_bytes,
			       weir__config.numa);
	weir__remote_drain(home);
	return 0;
}

/* What its owner was, beside being its owner. */
static void end_service(struct weir__home *home)
{
	wake_by(home, NULL, NULL);
	if (home->epoch_ns == CLOCK_STOPPED)
		home->epoch_ns = 0;
	home->rests = false;
	home->turns_itself = home->was_attached;
	home->was_attached = false;
	WEIR__SET(home->worker, -1);
	weir__stacks_drop(home);
}

void weir__heap_detach(void)
{
	struct weir__home *home = weir__home_self();
	if (home == NULL)
		return;
	bool stays = home->was_attached;
	if (!stays)
		weir__heap_self = &weir__heap_none;
	weir__remote_post(home);
	while (weir__remote_waiting(home))
		weir__remote_drain(home);
	end_service(home);
	if (stays) /* its thread's, as before it was a worker's */
		return;
	for (uint32_t i = 1; i < home->bins_end; i++)
		weir__cache_close(home, i);
	weir__runs_purge_all(home);
	pthread_mutex_lock(&weir__heaps_lock);
	weir__remote_leave(home);
	pthread_mutex_unlock(&weir__heaps_lock);
}

void weir__heap_stop_clock(void)
{
	struct weir__home *home = weir__home_self();
	if (home != NULL)
		home->epoch_ns = CLOCK_STOPPED;
}

uint64_t weir__heap_in_use(void)
{
	struct weir__home *home = weir__home_self();
	uint64_t objects = 0;
	if (home == NULL)
		return 0;
	weir__remote_post(home);
	while (weir__remote_waiting(home))
		weir__remote_drain(home);
	for (uint32_t i = 1; i < home->bins_end; i++)
		objects += home->bins[i].out - home->bins[i].internal -
			   weir__cache_count(&home->heap.cache[i]);
	return objects - weir__check_quarantined(home);
}

bool weir__home_may_grow(const struct weir__home *home)
{
	return home->level == WEIR_MEM_NONE;
}

/* ---- Threads that are no workers ------------------------------------------------------------ */

static pthread_key_t exit_key;
static pthread_once_t exit_key_once = PTHREAD_ONCE_INIT;
static int exit_key_err;

static void thread_exits(void *arg)
{
	(void)arg;
	weir__heap_detach();
}

static void make_exit_key(void)
{
	exit_key_err = pthread_key_create(&exit_key, thread_exits);
}

int weir_thread_attach(void)
{
	if (weir__home_self() != NULL)
		return 0;
	pthread_once(&exit_key_once, make_exit_key);
	if (exit_key_err != 0)
		return -ENOMEM;
	int err = weir__heap_attach();
	if (err < 0)
		return err;
	if (pthread_setspecific(exit_key, weir__heap_self) != 0) {
		weir__heap_detach();
		return -ENOMEM;
	}
	weir__home_self()->turns_itself = true;
	return 0;
}

void weir_thread_detach(void)
{
	struct weir__home *home = weir__home_self();
	if (home == NULL || !home->turns_itself)
		return; /* a worker's is the runtime's business */
	(void)pthread_setspecific(exit_key, NULL);
	weir__heap_detach();
}

/* ---- The turn ------------------------------------------------------------------------------- */

/* A freed pool's objects are all in its caches: what this heap has of them goes back. */
static void close_dead_pools(struct weir__home *home)
{
	if (atomic_load_explicit(&weir__pools_dead, memory_order_relaxed) == 0)
		return;
	for (uint32_t i = WEIR__POOL_TYPED; i < home->bins_end; i++)
		if (atomic_load_explicit(&weir__pools[i].state, memory_order_relaxed) ==
		    WEIR__POOL_DEAD)
			weir__cache_close(home, i);
}

static bool close_dead_lent(struct weir__home *home, void *unused)
{
	(void)unused;
	close_dead_pools(home);
	return true;
}

void weir__homes_close_dead(void)
{
	uint32_t count = atomic_load_explicit(&weir__home_count, memory_order_relaxed);
	for (uint32_t i = 0; i < count; i++)
		if (!atomic_load_explicit(&weir__homes[i]->owned, memory_order_relaxed))
			close_dead_pools(weir__homes[i]);
	weir__lent_each(close_dead_lent, NULL);
}

/* How old a free run gets before the OS has it back. */
static int64_t purge_age(const struct weir__home *home)
{
	int64_t age = weir__config.decay_ns;
	if (home->rested_ns >= age)
		return 0; /* what was in a cache until now has not been used for as long */
	return home->level >= WEIR_MEM_LOW && age > PURGE_STEP_NS ? PURGE_STEP_NS : age;
}

static void purge(struct weir__home *home)
{
	if (home->dirty_units == 0 && home->dirty_spans == 0)
		return;
	if (home->now_ns < home->purge_ns && home->rested_ns == 0)
		return;
	uint64_t most = home->dirty_units / PURGE_SHARE;
	if (most < PURGE_UNITS)
		most = PURGE_UNITS;
	int64_t age = purge_age(home);
	bool more = home->dirty_units > 0 && weir__runs_purge(home, age, most) >= most;
	if (home->now_ns >= weir__sparse_due(home, age))
		more |= weir__sparse_purge(home);
	home->purge_ns = more ? home->now_ns : home->now_ns + PURGE_STEP_NS;
}

static int64_t later(int64_t a, int64_t b)
{
	return a > b ? a : b;
}

static int64_t sooner(int64_t a, int64_t b)
{
	return a < b ? a : b;
}

/*
 * When a heap at rest wants its first look: at the end of the decay time, and then for all that has
 * become old by then, rather than for each thing in its turn. Where memory is limited it comes
 * after a second, because a heap that rests can be used by others.
 */
static int64_t first_look(const struct weir__home *home)
{
	bool is_scarce = home->level >= WEIR_MEM_LOW || weir__limit() != 0;
	return home->epoch_ns + (is_scarce ? PURGE_STEP_NS : later(purge_age(home), PURGE_STEP_NS));
}

static void epoch(struct weir__home *home)
{
	if (home->epoch_ns != CLOCK_STOPPED)
		home->epoch_ns = home->now_ns + weir__config.epoch_ns;
	close_dead_pools(home);
	for (uint32_t i = 1; i < home->bins_end; i++)
		if (home->bins[i].open)
			weir__adapt_pool(home, i, home->now_ns);
	weir__adapt_budget(home, home->now_ns);
	weir__compact_turn(home);
	purge(home);
	home->stacks_ns = weir__stacks_turn(home, home->now_ns);
	home->look_ns = first_look(home);
}

void weir__home_turn(struct weir__home *home, int64_t now_ns)
{
	weir__home_sync_mode(home);
	if (home->has_outgoing)
		weir__remote_post(home);
	if (weir__remote_waiting(home))
		weir__remote_drain(home);
	home->now_ns = now_ns;
	if (now_ns >= home->epoch_ns || weir__compact_is_due(home))
		epoch(home);
}

/* Heaps nobody owns have nobody's turn: a worker's epoch is theirs too, when the lock is free. */
static void turn_ownerless(int64_t now_ns)
{
	if (pthread_mutex_trylock(&weir__heaps_lock) != 0)
		return;
	uint32_t count = atomic_load_explicit(&weir__home_count, memory_order_relaxed);
	for (uint32_t i = 0; i < count; i++)
		if (!atomic_load_explicit(&weir__homes[i]->owned, memory_order_relaxed))
			weir__home_turn(weir__homes[i], now_ns);
	pthread_mutex_unlock(&weir__heaps_lock);
}

void weir__heap_turn(int64_t now_ns)
{
	struct weir__home *home = weir__home_self();
	if (home == NULL)
		return;
	bool due = now_ns >= home->epoch_ns;
	if (due)
		weir__pressure_turn(now_ns);
	weir__home_turn(home, now_ns);
	if (due)
		turn_ownerless(now_ns);
}

/* The last epoch stopped for its bounds. */
static bool has_more(const struct weir__home *home)
{
	bool is_dirty = home->dirty_units > 0 || home->dirty_spans > 0;
	return (is_dirty && home->purge_ns == home->now_ns) || home->stacks_ns == home->now_ns;
}

/*
 * Right after an epoch: when time alone gives something back next. Each of the wake-ups this asks
 * for ends with less in caches, dirty runs or warm stacks, so they end too.
 */
static int64_t next_decay(const struct weir__home *home)
{
	if (has_more(home))
		return home->epoch_ns;
	int64_t age = purge_age(home);
	int64_t runs = sooner(weir__runs_due(home, age), weir__sparse_due(home, age));
	int64_t next = sooner(weir__adapt_due(home), sooner(runs, home->stacks_ns));
	return next == WEIR__NEVER ? next : later(next, home->look_ns);
}

bool weir__heap_rested(int64_t now_ns, int64_t rested_ns)
{
	struct weir__home *home = weir__home_self();
	if (home == NULL || home->epoch_ns == CLOCK_STOPPED)
		return false;
	home->rested_ns = rested_ns;
	home->epoch_ns = now_ns;
	weir__heap_turn(now_ns);
	home->rested_ns = 0;
	return has_more(home);
}

/*
 * Between epochs nothing is known of what was freed since the last: the first look, which a busy
 * worker never comes to, does for all that happens until then.
 */
int64_t weir__heap_idle(int64_t now_ns)
{
	struct weir__home *home = weir__home_self();
	if (home == NULL)
		return WEIR__NEVER;
	do
		weir__heap_turn(now_ns);
	while (weir__remote_waiting(home));
	if (home->epoch_ns == CLOCK_STOPPED)
		return WEIR__NEVER;
	bool is_fresh = home->epoch_ns - weir__config.epoch_ns == now_ns;
	home->rests = is_fresh || home->level >= WEIR_MEM_LOW;
	return is_fresh ? next_decay(home) : home->look_ns;
}
