/* SPDX-License-Identifier: MIT */
/*
 * multishot.h: whether multishot receive can be trusted on this kernel.
 */
#ifndef WEIR_MULTISHOT_H
#define WEIR_MULTISHOT_H

#include <liburing.h>
#include <stdbool.h>

/*
 * Tries, on a fresh ring with nothing queued: does a multishot receive hear of an end of stream
 * that comes right behind data? About ten system calls; leaves the ring as it was.
 */
bool weir__multishot_hears_the_end(struct io_uring *uring);

#endif
