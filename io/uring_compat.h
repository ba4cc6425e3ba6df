/* SPDX-License-Identifier: MIT */
/*
 * uring_compat.h: io_uring constants newer than liburing 2.3, each with the liburing that supplies
 * it.
 */
#ifndef WEIR_URING_COMPAT_H
#define WEIR_URING_COMPAT_H

#include <liburing.h>

enum {
	WEIR__URING_OP_FIXED_FD_INSTALL = 54,  /* liburing 2.6, Linux 6.8 */
	WEIR__URING_OP_FTRUNCATE = 55,	       /* liburing 2.6, Linux 6.9 */
	WEIR__URING_ENTER_NO_IOWAIT = 1U << 7, /* liburing 2.10, Linux 6.15 */
	WEIR__URING_FEAT_RW_ATTR = 1U << 16,   /* liburing 2.9, Linux 6.14 */
	WEIR__URING_FEAT_NO_IOWAIT = 1U << 17, /* liburing 2.10, Linux 6.15 */
};

#endif
