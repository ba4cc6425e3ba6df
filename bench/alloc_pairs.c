/* SPDX-License-Identifier: MIT */
/* alloc_pairs.c: the pairs as every program has them. */
#include "alloc_pairs.h"

#include <weir/alloc.h>

ALLOC_PAIRS(counted)
