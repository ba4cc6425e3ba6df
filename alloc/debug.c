/* SPDX-License-Identifier: MIT */
/*
 * debug.c: what is switched on to find bugs: failing allocations, and tools that watch every block.
 *
 * Any of it closes the inlined paths: a cache whose marks are low = UINT32_MAX, high = 0 sends
 * every call to cache.c, and programs compiled without a sanitizer need not know. Nothing here
 * costs the fast path an instruction.
 */
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "alloc/heap.h"

#if WEIR__ASAN
#include <sanitizer/asan_interface.h>
#endif
#if defined(__has_include)
#if __has_include(<valgrind/memcheck.h>)
#include <valgrind/memcheck.h>
#define HAVE_VALGRIND 1
#endif
#endif

_Atomic uint32_t weir__mode = WEIR__ASAN ? WEIR__MODE_WATCH : 0;
_Atomic uint64_t weir__reports;

static _Atomic uint64_t fail_nth;
static _Atomic uint64_t fail_count;
static bool (*_Atomic fails)(void); /* decides instead of fail_nth, when it is set */

/* ---- Faults --------------------------------------------------------------------------------- */

bool weir__fault(void)
{
	struct weir__home *home = weir__home_self();
	if (home != NULL && home->reclaiming)
		return true;
	if ((atomic_load_explicit(&weir__mode, memory_order_relaxed) & WEIR__MODE_FAULTS) == 0)
		return false;
	weir__refusal_note(WEIR__REFUSED_TEST);
	bool (*asked)(void) = atomic_load_explicit(&fails, memory_order_relaxed);
	if (asked != NULL)
		return asked();
	uint64_t n = atomic_fetch_add_explicit(&fail_count, 1, memory_order_relaxed) + 1;
	return n >= atomic_load_explicit(&fail_nth, memory_order_relaxed);
}

uint64_t weir_mem_fail_after(uint64_t nth)
{
	uint64_t counted = atomic_load_explicit(&fail_count, memory_order_relaxed);
	if (nth == 0) {
		atomic_fetch_and_explicit(&weir__mode, ~(uint32_t)WEIR__MODE_FAULTS,
					  memory_order_relaxed);
	} else {
		atomic_store_explicit(&fail_count, 0, memory_order_relaxed);
		atomic_store_explicit(&fail_nth, nth, memory_order_relaxed);
		atomic_fetch_or_explicit(&weir__mode, WEIR__MODE_FAULTS, memory_order_relaxed);
	}
	struct weir__home *home = weir__home_self();
	if (home != NULL)
		weir__home_sync_mode(home);
	return counted;
}

void weir__fault_ask(bool (*asked)(void))
{
	atomic_store_explicit(&fails, asked, memory_order_relaxed);
	(void)weir_mem_fail_after(asked != NULL ? UINT64_MAX : 0);
}

static void set_mode(struct weir__home *home, uint32_t mode)
{
	for (uint32_t i = 1; i < home->bins_end; i++)
		if (home->heap.cache[i].cap > 0)
			weir__cache_fold(home, i);
	home->mode = mode;
	for (uint32_t i = 1; i < home->bins_end; i++)
		if (home->heap.cache[i].cap > 0)
			weir__cache_mark(home, i);
}

void weir__home_sync_mode(struct weir__home *home)
{
	uint32_t mode = atomic_load_explicit(&weir__mode, memory_order_relaxed);
	if (home->reclaiming)
		mode |= WEIR__MODE_RECLAIM;
	if (home->mode != mode)
		set_mode(home, mode);
}

void weir__home_close(struct weir__home *home, bool closed)
{
	home->reclaiming = closed;
	weir__home_sync_mode(home);
}

/* ---- Reports -------------------------------------------------------------------------------- */

__attribute__((noinline)) void weir__report(const char *what, const void *pointer)
{
	char line[120];
	uint64_t earlier = atomic_fetch_add_explicit(&weir__reports, 1, memory_order_relaxed);
	int n = snprintf(line, sizeof(line), "weir: %p: %s; ignored\n", pointer, what);
	if (n > 0 && write(STDERR_FILENO, line, (size_t)n) < 0)
		return; /* nobody to tell */
	if (earlier >= WEIR__REPORTS_WITH_FRAMES)
		return;
	weir__trace_write_from(STDERR_FILENO, __builtin_return_address(0));
	weir__check_tell(pointer);
}

/* ---- Tools that watch ----------------------------------------------------------------------- */

bool weir__watched(void)
{
#ifdef HAVE_VALGRIND
	return RUNNING_ON_VALGRIND != 0;
#else
	return false;
#endif
}

/*
 * Memcheck alone keeps state for a block. Under callgrind the paths stay those of a normal run, or
 * its counts would be of something else. A request that only memcheck knows tells them apart.
 */
bool weir__blocks_watched(void)
{
#ifdef HAVE_VALGRIND
	char probe = 0;
	return VALGRIND_MAKE_MEM_DEFINED(&probe, sizeof(probe)) != 0;
#else
	return false;
#endif
}

/*
 * ASan sees the bytes that were asked for and catches an overrun into the rest; valgrind sees the
 * room.
 */
void weir__watch_alloc(void *block, size_t bytes, size_t room)
{
	(void)bytes, (void)room;
	if (block == NULL)
		return;
#if WEIR__ASAN
	ASAN_UNPOISON_MEMORY_REGION(block, bytes);
#endif
#ifdef HAVE_VALGRIND
	VALGRIND_MALLOCLIKE_BLOCK(block, room, 0, 0);
#endif
}

void weir__watch_room(void *block, size_t room)
{
	(void)block, (void)room;
#if WEIR__ASAN
	ASAN_UNPOISON_MEMORY_REGION(block, room);
#endif
}

void weir__watch_link(void *block)
{
	(void)block;
#if WEIR__ASAN
	ASAN_UNPOISON_MEMORY_REGION(block, sizeof(struct weir__returned));
#endif
#ifdef HAVE_VALGRIND
	(void)VALGRIND_MAKE_MEM_DEFINED(block, sizeof(struct weir__returned));
#endif
}

void weir__watch_internal(void *block, size_t room)
{
	(void)block, (void)room;
#if WEIR__ASAN
	ASAN_UNPOISON_MEMORY_REGION(block, room);
#endif
#ifdef HAVE_VALGRIND
	(void)VALGRIND_MAKE_MEM_UNDEFINED(block, room);
#endif
}

void weir__watch_free(void *block, size_t room)
{
	(void)block, (void)room;
#ifdef HAVE_VALGRIND
	VALGRIND_FREELIKE_BLOCK(block, 0);
#endif
#if WEIR__ASAN
	ASAN_POISON_MEMORY_REGION(block, room);
#endif
}

void weir__watch_pause(bool is_paused)
{
	(void)is_paused;
#ifdef HAVE_VALGRIND
	if (is_paused)
		VALGRIND_DISABLE_ERROR_REPORTING;
	else
		VALGRIND_ENABLE_ERROR_REPORTING;
#endif
}
