/* SPDX-License-Identifier: MIT */
/*
 * alloc_pairs.h: pairs of alloc and free for bench_alloc_steps, which makes them as every program
 * has them, and alloc_uncounted.c, which makes them without the count of allocations.
 */
#ifndef BENCH_ALLOC_PAIRS_H
#define BENCH_ALLOC_PAIRS_H

#include <stddef.h>
#include <stdint.h>

typedef void (*alloc_pair_fn)(size_t n);

struct alloc_pairs {
	alloc_pair_fn fixed, fixed_sized, medium, medium_sized, random;
};

extern const struct alloc_pairs alloc_pairs_counted, alloc_pairs_uncounted;

/* Defines them all. */
#define ALLOC_PAIRS(name)                                                                          \
	static void name##_fixed(size_t n)                                                         \
	{                                                                                          \
		for (size_t i = 0; i < n; i++) {                                                   \
			void *volatile p = weir_alloc(64);                                         \
			weir_free(p);                                                              \
		}                                                                                  \
	}                                                                                          \
	static void name##_fixed_sized(size_t n)                                                   \
	{                                                                                          \
		for (size_t i = 0; i < n; i++) {                                                   \
			void *volatile p = weir_alloc(64);                                         \
			weir_free_sized(p, 64);                                                    \
		}                                                                                  \
	}                                                                                          \
	static void name##_medium(size_t n)                                                        \
	{                                                                                          \
		for (size_t i = 0; i < n; i++) {                                                   \
			void *volatile p = weir_alloc(1024 + (i & 4095));                          \
			weir_free(p);                                                              \
		}                                                                                  \
	}                                                                                          \
	static void name##_medium_sized(size_t n)                                                  \
	{                                                                                          \
		for (size_t i = 0; i < n; i++) {                                                   \
			void *volatile p = weir_alloc(1024 + (i & 4095));                          \
			weir_free_sized(p, 1024 + (i & 4095));                                     \
		}                                                                                  \
	}                                                                                          \
	static void name##_random(size_t n)                                                        \
	{                                                                                          \
		static void *live[1024];                                                           \
		static uint32_t state;                                                             \
		for (size_t i = 0; i < n; i++) {                                                   \
			state = state * 1664525 + 1013904223;                                      \
			weir_free(live[state >> 22]);                                              \
			live[state >> 22] = weir_alloc(1 + (state >> 8) % 1000);                   \
		}                                                                                  \
	}                                                                                          \
	const struct alloc_pairs alloc_pairs_##name = { name##_fixed, name##_fixed_sized,          \
							name##_medium, name##_medium_sized,        \
							name##_random };

#endif
