/* SPDX-License-Identifier: MIT */
/* alloc_uncounted.c: the pairs without the one instruction that counts allocations. */
#define WEIR__COUNT(counter) ((void)0)

#include "alloc_pairs.h"

#include <weir/alloc.h>

ALLOC_PAIRS(uncounted)
