/* SPDX-License-Identifier: MIT */
/*
 * trace.c: who called whom, for blocks and for reports.
 *
 * At debug level 3 each block remembers by two small numbers how it was allocated and how it was
 * freed: call traces are kept once each in a table without locks. A place is claimed with the
 * trace's hash and shown when it is filled in; two threads that bring the same trace at once may
 * both be given no number, once. Frames are found by the compiler's unwinder, through the unwind
 * tables that every program has, and named by whatever the layer above knows of symbols; without
 * one, by what the modules export, with the offset that addr2line wants.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <unwind.h>

#include "alloc/heap.h"

enum { FRAMES_MAX = 12, TRIES = 16 };

static struct trace {
	_Atomic uint64_t hash;	/* 0: free */
	_Atomic uint32_t count; /* 0: not filled in yet */
	uintptr_t pcs[FRAMES_MAX];
} traces[WEIR__TRACES]; /* [0] stays empty: no trace */

_Atomic weir__frames_fn weir__frames_writer;

/* ---- Taking --------------------------------------------------------------------------------- */

struct walk {
	uintptr_t *pcs;
	unsigned count;
	uintptr_t first; /* frames before this one are ours; 0: it has come */
};

static _Unwind_Reason_Code step(struct _Unwind_Context *context, void *arg)
{
	struct walk *walk = arg;
	uintptr_t pc = _Unwind_GetIP(context);

	if (pc == 0 || walk->count == FRAMES_MAX)
		return _URC_END_OF_STACK;
	if (walk->first != 0 && pc != walk->first)
		return _URC_NO_REASON;
	walk->first = 0;
	walk->pcs[walk->count++] = pc;
	return _URC_NO_REASON;
}

/* From the call that returns to `site` outwards; that alone where the unwinder does not find it. */
static unsigned walk_from(void *site, uintptr_t *ret)
{
	struct walk walk = { .pcs = ret, .first = (uintptr_t)site };

	(void)_Unwind_Backtrace(step, &walk);
	if (walk.count == 0 && site != NULL)
		ret[walk.count++] = (uintptr_t)site;
	return walk.count;
}

static uint64_t hash_of(const uintptr_t *pcs, unsigned count)
{
	uint64_t hash = 0xcbf29ce484222325u;

	for (unsigned i = 0; i < count; i++) {
		hash = (hash ^ pcs[i]) * 0x9e3779b97f4a7c15u;
		hash ^= hash >> 29;
	}
	return hash | 1;
}

uint32_t weir__trace_take(void *site)
{
	uintptr_t pcs[FRAMES_MAX];
	unsigned count = walk_from(site, pcs);
	uint64_t hash = hash_of(pcs, count);

	for (uint32_t n = 0; n < TRIES && count > 0; n++) {
		uint32_t i = (uint32_t)((hash >> 32) + n) % WEIR__TRACES;
		struct trace *trace = &traces[i];
		uint64_t there = atomic_load_explicit(&trace->hash, memory_order_relaxed);
		if (i == 0)
			continue;
		if (there == hash)
			return i;
		if (there != 0 || !atomic_compare_exchange_strong(&trace->hash, &there, hash))
			continue;
		memcpy(trace->pcs, pcs, count * sizeof(*pcs));
		/* release: who sees the count sees the frames */
		atomic_store_explicit(&trace->count, count, memory_order_release);
		return i;
	}
	return 0;
}

/* ---- Showing -------------------------------------------------------------------------------- */

static void say(int fd, const char *text)
{
	if (write(fd, text, strlen(text)) < 0)
		return; /* nobody to tell */
}

/* "    #0 weir_zalloc+0x1c (/usr/lib/libweir.so.0+0x12f0)" */
static void say_frame(int fd, unsigned i, uintptr_t pc)
{
	char line[400];
	Dl_info info = { 0 };
	/* the call, not what it returns to, which may be another function */
	bool known = dladdr((void *)(pc - 1), &info) != 0 && info.dli_fname != NULL;

	if (known && info.dli_sname != NULL)
		snprintf(line, sizeof(line), "    #%u %s+0x%lx (%s+0x%lx)\n", i, info.dli_sname,
			 (unsigned long)(pc - (uintptr_t)info.dli_saddr), info.dli_fname,
			 (unsigned long)(pc - (uintptr_t)info.dli_fbase));
	else if (known)
		snprintf(line, sizeof(line), "    #%u %s+0x%lx\n", i, info.dli_fname,
			 (unsigned long)(pc - (uintptr_t)info.dli_fbase));
	else
		snprintf(line, sizeof(line), "    #%u 0x%lx\n", i, (unsigned long)pc);
	say(fd, line);
}

static void say_frames(int fd, const uintptr_t *pcs, unsigned count)
{
	weir__frames_fn writer = atomic_load_explicit(&weir__frames_writer, memory_order_relaxed);

	if (writer != NULL) {
		writer(fd, pcs, count);
		return;
	}
	for (unsigned i = 0; i < count; i++)
		say_frame(fd, i, pcs[i]);
}

void weir__trace_write(int fd, uint32_t id)
{
	/* acquire: pairs with the release in weir__trace_take() */
	say_frames(fd, traces[id].pcs,
		   atomic_load_explicit(&traces[id].count, memory_order_acquire));
}

void weir__trace_write_from(int fd, void *site)
{
	uintptr_t pcs[FRAMES_MAX];

	say_frames(fd, pcs, walk_from(site, pcs));
}
