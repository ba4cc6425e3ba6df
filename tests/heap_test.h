/* SPDX-License-Identifier: MIT */
/*
 * heap_test.h: what the suites of blocks share.
 */
#ifndef TESTS_HEAP_TEST_H
#define TESTS_HEAP_TEST_H

#include <check.h>

#include "alloc/heap.h"

static inline void attach(void)
{
	ck_assert_int_eq(weir__heap_attach(), 0);
}

/* Blocks out over all pools, so that a test can see whether all came home. */
static inline uint64_t blocks_in_use(void)
{
	static struct weir_pool_stats stats[WEIR__POOLS_MAX];
	uint64_t sum = 0;
	size_t n = weir_pool_stats_get(stats, WEIR__POOLS_MAX);
	for (size_t i = 0; i < n; i++)
		sum += stats[i].in_use;
	return sum;
}

static inline size_t expected_room(size_t size)
{
	if (size > WEIR_CLASS_BYTES_MAX)
		return (size + 4095) & ~(size_t)4095;
	return weir_class_size(weir_size_class(size));
}

#endif
