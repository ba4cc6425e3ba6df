/* SPDX-License-Identifier: MIT */
/*
 * sanitizer.h: tells ASan, TSan and valgrind about stacks and switches, and TSan of order that only
 * the kernel knows. Empty in normal builds.
 *
 * Switches: leave() on the old stack just before, enter() on the new one just after. TSan's fiber
 * lives from a stack's first frame to the next first frame: one that was left for good still has
 * the calls on its record that led to the leaving, and would run full if it was used again.
 */
#ifndef WEIR_SANITIZER_H
#define WEIR_SANITIZER_H

#include <pthread.h>
#include <stdbool.h>

#include "alloc/alloc_internal.h"

#if defined(__SANITIZE_ADDRESS__)
#define WEIR__ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define WEIR__ASAN 1
#endif
#endif
#if defined(__SANITIZE_THREAD__)
#define WEIR__TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define WEIR__TSAN 1
#endif
#endif

#ifdef WEIR__ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#ifdef WEIR__TSAN
#include <sanitizer/tsan_interface.h>
#endif
#if __has_include(<valgrind/valgrind.h>) && !defined(WEIR__ASAN) && !defined(WEIR__TSAN)
#include <valgrind/valgrind.h>
#define WEIR__VALGRIND 1
#endif

/* The calling thread's own stack, described like a task's. */
static inline void weir__san_thread(struct weir__stack *stack)
{
#ifdef WEIR__ASAN
	pthread_attr_t attr;
	void *base;
	size_t size;

	pthread_getattr_np(pthread_self(), &attr);
	pthread_attr_getstack(&attr, &base, &size);
	pthread_attr_destroy(&attr);
	stack->base = base;
	stack->top = (char *)base + size;
#endif
#ifdef WEIR__TSAN
	stack->tsan_fiber = __tsan_get_current_fiber();
#endif
	(void)stack;
}

/* A stack is about to carry its first frame (again). */
static inline void weir__san_start(struct weir__stack *stack)
{
#ifdef WEIR__ASAN
	stack->asan_fake = NULL;
#endif
#ifdef WEIR__TSAN
	if (stack->tsan_fiber)
		__tsan_destroy_fiber(stack->tsan_fiber);
	stack->tsan_fiber = __tsan_create_fiber(0);
#endif
#ifdef WEIR__VALGRIND
	if (!stack->valgrind_id && RUNNING_ON_VALGRIND)
		stack->valgrind_id = VALGRIND_STACK_REGISTER(stack->base, stack->top) + 1;
#endif
	(void)stack;
}

/* Inlined without fail: a call's own exit must not be recorded on the fiber switched to. */
__attribute__((always_inline)) static inline void
weir__san_leave(struct weir__stack *from, struct weir__stack *to, bool for_good)
{
#ifdef WEIR__ASAN
	/* frames that are never returned from stay poisoned, even for who maps that address next */
	if (for_good)
		__asan_unpoison_memory_region(from->base, (size_t)(from->top - from->base));
	__sanitizer_start_switch_fiber(for_good ? NULL : &from->asan_fake, to->base,
				       (size_t)(to->top - to->base));
#endif
#ifdef WEIR__TSAN
	__tsan_switch_to_fiber(to->tsan_fiber, 0);
#endif
	(void)from;
	(void)to;
	(void)for_good;
}

__attribute__((always_inline)) static inline void weir__san_enter(struct weir__stack *self)
{
#ifdef WEIR__ASAN
	__sanitizer_finish_switch_fiber(self->asan_fake, NULL, NULL);
#endif
	(void)self;
}

/* What came before a release() happened before what follows an acquire(): the kernel saw to it. */
static inline void weir__san_release(const void *order)
{
#ifdef WEIR__TSAN
	__tsan_release((void *)order);
#endif
	(void)order;
}

static inline void weir__san_acquire(const void *order)
{
#ifdef WEIR__TSAN
	__tsan_acquire((void *)order);
#endif
	(void)order;
}

#endif
