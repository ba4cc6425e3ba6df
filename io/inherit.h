/* SPDX-License-Identifier: MIT */
/*
 * inherit.h: descriptors that this process was started with.
 */
#ifndef WEIR_INHERIT_H
#define WEIR_INHERIT_H

/*
 * Of "3" the descriptor 3; of a name that of LISTEN_FDNAMES. -EINVAL, or -ENOENT: there is none of
 * that name for this process.
 */
int weir__inherited_fd(const char *name);

#endif
