/* SPDX-License-Identifier: MIT */
/*
 * malloc.c: the malloc family on weir's heaps, for LD_PRELOAD (libweir-malloc.so).
 *
 * It is there so that other people's programs and allocator suites can judge the allocator;
 * programs that use weir do not need it. Every thread gets a heap of its own when it first misses,
 * and hands it over when it exits. What a thread does after that, and what happens while it is
 * being set up, goes to the heap that threads without one share. Nobody turns a loop here, so a
 * heap turns itself, at every 64th miss.
 *
 * This stands above the option table, unlike the rest of the allocator: the first request reads the
 * WEIR_POOL_... and WEIR_MEM_... variables. One that does not parse is named, and the program gets
 * the defaults: it is not ours to refuse its start.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <malloc.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "alloc/heap.h"
#include "runtime/config.h"

#define EXPORT __attribute__((visibility("default")))

/* Not in this C library's headers, or not any more. */
EXPORT void free_sized(void *block, size_t size);
EXPORT void free_aligned_sized(void *block, size_t align, size_t size);
EXPORT void cfree(void *block);

enum { ALIGN_MAX = 2 << 20 };

enum thread_state { THREAD_NEW, THREAD_BUSY, THREAD_ATTACHED, THREAD_GONE };

static __thread enum thread_state state;
static pthread_key_t exit_key;
static bool exit_key_made;

static void thread_exit(void *arg)
{
	(void)arg;
	state = THREAD_GONE;
	weir__heap_detach();
}

__attribute__((constructor)) static void set_up(void)
{
	exit_key_made = pthread_key_create(&exit_key, thread_exit) == 0;
}

/* Before there is a heap: then nothing can be changed any more that changes what blocks are. */
static void configure(void)
{
	static atomic_flag done = ATOMIC_FLAG_INIT;
	struct weir__config config;

	if (environ == NULL || atomic_flag_test_and_set(&done) || !weir__config_is_asked())
		return;
	if (weir__config_load(&config, stderr) < 0 ||
	    weir__config_apply_memory(&config, stderr) < 0)
		fputs("weir: none of the WEIR_ variables counts in this process\n", stderr);
	else if (config.verbose)
		weir__config_dump(&config, stderr);
}

/* pthread_setspecific() may allocate: that finds the thread busy and uses the shared heap. */
static void thread_begin(void)
{
	state = THREAD_BUSY;
	configure();
	if (!exit_key_made) {
		state = THREAD_NEW;
		return;
	}
	bool attached = weir__heap_attach() == 0;
	if (attached && pthread_setspecific(exit_key, &exit_key) != 0) {
		weir__heap_detach();
		attached = false;
	}
	if (attached)
		weir__home_self()->turns_itself = true;
	state = attached ? THREAD_ATTACHED : THREAD_GONE;
}

static __attribute__((noinline)) void *malloc_slow(size_t size)
{
	if (state == THREAD_NEW)
		thread_begin();
	void *block = weir__alloc_slow(size);
	if (block == NULL)
		errno = ENOMEM;
	return block;
}

EXPORT void *malloc(size_t size)
{
	if (WEIR_LIKELY(size <= WEIR__TABLE_BYTES_MAX)) {
		void *block = weir__heap_pop(weir__heap_self, size);
		if (WEIR_LIKELY(block != NULL))
			return block;
	}
	return malloc_slow(size);
}

EXPORT void free(void *block)
{
	if (WEIR_LIKELY(weir__heap_take(weir__heap_self, block)))
		return;
	int saved = errno; /* POSIX: free() leaves it alone */
	weir__free_slow(block);
	errno = saved;
}

EXPORT void free_sized(void *block, size_t size)
{
	(void)size;
	free(block);
}

EXPORT void free_aligned_sized(void *block, size_t align, size_t size)
{
	(void)align, (void)size;
	free(block);
}

EXPORT void cfree(void *block)
{
	free(block);
}

EXPORT void *calloc(size_t count, size_t size)
{
	size_t bytes;
	if (__builtin_mul_overflow(count, size, &bytes)) {
		errno = ENOMEM;
		return NULL;
	}
	void *block = malloc(bytes);
	__asm__("" : "+r"(block)); /* or the compiler turns the two into a call of calloc */
	if (block != NULL && bytes <= WEIR_CLASS_BYTES_MAX) /* larger ones come zeroed */
		memset(block, 0, bytes);
	return block;
}

EXPORT void *realloc(void *block, size_t size)
{
	if (block == NULL)
		return malloc(size);
	if (size == 0) {
		free(block);
		return NULL;
	}
	void *moved = weir_realloc(block, size);
	if (moved == NULL)
		errno = ENOMEM;
	return moved;
}

EXPORT void *reallocarray(void *block, size_t count, size_t size)
{
	size_t bytes;
	if (__builtin_mul_overflow(count, size, &bytes)) {
		errno = ENOMEM;
		return NULL;
	}
	return realloc(block, bytes);
}

static void *aligned(size_t align, size_t size)
{
	if (state == THREAD_NEW)
		thread_begin();
	if (align > ALIGN_MAX)
		return weir__large_alloc(size, align);
	return weir_alloc_aligned(align, size);
}

EXPORT int posix_memalign(void **ret, size_t align, size_t size)
{
	if (align % sizeof(void *) != 0 || (align & (align - 1)) != 0 || align == 0)
		return EINVAL;
	int saved = errno; /* the error is what it returns, and nothing else */
	void *block = aligned(align, size);
	errno = saved;
	if (block == NULL)
		return ENOMEM;
	*ret = block;
	return 0;
}

static void *refuse(void)
{
	errno = EINVAL;
	return NULL;
}

/* Rounds up to a power of two, as the GNU C library's does. */
EXPORT void *memalign(size_t align, size_t size)
{
	size_t power = 1;

	if (align > SIZE_MAX / 2 + 1)
		return refuse();
	while (power < align)
		power *= 2;
	void *block = aligned(power, size);
	if (block == NULL)
		errno = ENOMEM;
	return block;
}

EXPORT void *aligned_alloc(size_t align, size_t size)
{
	return align == 0 || (align & (align - 1)) != 0 ? refuse() : memalign(align, size);
}

EXPORT void *valloc(size_t size)
{
	return memalign(4096, size);
}

EXPORT void *pvalloc(size_t size)
{
	size_t bytes = (size + 4095) & ~(size_t)4095;
	return memalign(4096, bytes < size ? size : bytes); /* too much stays too much */
}

EXPORT size_t malloc_usable_size(void *block)
{
	return weir_usable_size(block);
}

EXPORT int malloc_trim(size_t pad)
{
	(void)pad;
	return weir_mem_compact(SIZE_MAX, WEIR_MEM_HIGH) > 0;
}
