/* SPDX-License-Identifier: MIT */
/*
 * turns.c: from how many connections on large messages are received one after the other.
 *
 * Comes from: ring.c, when it opens. The idea is in turns.h. Few connections do better with their
 * multishot receives, which need no poll and no turn of the loop for each buffer.
 */
#include "io/turns.h"

#include <unistd.h>

enum { CACHE_BYTES = 1 << 20 }; /* where the C library cannot tell */

unsigned weir__turns_crowd(size_t buffer_bytes)
{
	long bytes = sysconf(_SC_LEVEL2_CACHE_SIZE);
	size_t crowd = (bytes > 0 ? (size_t)bytes : CACHE_BYTES) / 2 / buffer_bytes;

	return crowd > 2 ? (unsigned)crowd : 2;
}
