/* SPDX-License-Identifier: MIT */
/*
 * usdt.h: probes that bpftrace, perf and gdb can attach to, named in docs/observing.md.
 *
 * Nobody attached: one nop each, its arguments described in an ELF note and left where they are.
 * They are there when <sys/sdt.h> (Debian: systemtap-sdt-dev) was at compile time; of all layers
 * this is the lowest, so the header is here.
 */
#ifndef ALLOC_USDT_H
#define ALLOC_USDT_H

#if defined(__has_include)
#if __has_include(<sys/sdt.h>)
#ifdef __clang__ /* which would store what may lie in memory, to have it there */
#define STAP_SDT_ARG_CONSTRAINT nr
#endif
#include <sys/sdt.h>
#define WEIR__USDT(name, a, b) STAP_PROBE2(weir, name, a, b)
#endif
#endif

#ifndef WEIR__USDT
#define WEIR__USDT(name, a, b) ((void)(a), (void)(b))
#endif

#endif
