/* SPDX-License-Identifier: MIT */
/*
 * os_memory.c: where memory comes from and goes back to. The only mmap, madvise and mprotect of the
 * layer.
 *
 * Mappings are reserved, not committed (MAP_NORESERVE): touching a page is what costs memory.
 * Guards are made with MADV_GUARD_INSTALL, which takes no mapping of its own; whether the kernel
 * has it is found out by trying. With mprotect each guard splits a mapping in two, and
 * vm.max_map_count ends that at some 32,000: there the budget is four fifths of it, so that the
 * rest of the process is not the one to fail.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "alloc/heap.h"

#ifndef MADV_FREE
#define MADV_FREE 8
#endif
#ifndef MADV_DONTNEED_LOCKED
#define MADV_DONTNEED_LOCKED 24 /* Linux 5.18 */
#endif
#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102 /* Linux 6.13 */
#endif

enum { PAGE_BYTES = 4096, NODES_MAX = 1024 };

struct weir__os_counts weir__os_counts;

static _Atomic int guards_by_madvise = 1; /* until the kernel refuses */
static _Atomic uint32_t guards_by_mprotect;

static void *map_at(void *hint, size_t bytes, int flags)
{
	void *p = mmap(hint, bytes, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | flags, -1, 0);
	return p == MAP_FAILED ? NULL : p;
}

/* Mappings grow downwards, so the aligned address just below a misaligned one is usually free. */
static void *map_below(void *p, size_t bytes, size_t align)
{
	uintptr_t hint = (uintptr_t)p & ~(align - 1);
	for (int tries = 0; tries < 4 && hint > align; tries++, hint -= align) {
		void *q = map_at((void *)hint, bytes, MAP_FIXED_NOREPLACE);
		if (q == (void *)hint)
			return q;
		if (q != NULL)
			munmap(q, bytes); /* a kernel that does not know the flag */
	}
	return NULL;
}

static void *map_trimmed(size_t bytes, size_t align)
{
	char *p = map_at(NULL, bytes + align, 0);
	if (p == NULL)
		return NULL;
	size_t head = -(uintptr_t)p & (align - 1);
	if (head > 0)
		munmap(p, head);
	munmap(p + head + bytes, align - head);
	return p + head;
}

void *weir__os_map(size_t bytes, size_t align)
{
	void *p = map_at(NULL, bytes, 0);
	if (p == NULL) {
		weir__refusal_note(WEIR__REFUSED_SYSTEM);
		return NULL;
	}
	if (((uintptr_t)p & (align - 1)) != 0) {
		munmap(p, bytes);
		void *q = map_below(p, bytes, align);
		p = q != NULL ? q : map_trimmed(bytes, align);
	}
	if (p != NULL) {
		atomic_fetch_add_explicit(&weir__os_counts.maps, 1, memory_order_relaxed);
		atomic_fetch_add_explicit(&weir__os_counts.mapped_bytes, bytes,
					  memory_order_relaxed);
	}
	return p;
}

void weir__os_unmap(void *address, size_t bytes)
{
	if (munmap(address, bytes) != 0) /* it would take one more mapping to make the hole */
		(void)madvise(address, bytes, MADV_DONTNEED);
	atomic_fetch_sub_explicit(&weir__os_counts.mapped_bytes, bytes, memory_order_relaxed);
}

void *weir__os_remap(void *address, size_t bytes, size_t new_bytes)
{
	void *p = mremap(address, bytes, new_bytes, MREMAP_MAYMOVE);
	if (p == MAP_FAILED) {
		weir__refusal_note(WEIR__REFUSED_SYSTEM);
		return NULL;
	}
	atomic_fetch_add_explicit(&weir__os_counts.mapped_bytes, new_bytes - bytes,
				  memory_order_relaxed);
	return p;
}

/*
 * Free runs were touched once, by whoever had them, but seldom everywhere. Walking the page table
 * costs a hundredth of what giving the pages back does.
 */
static size_t resident_bytes(char *address, size_t bytes)
{
	unsigned char page[1024];
	size_t resident = 0;
	for (size_t at = 0; at < bytes; at += sizeof(page) * PAGE_BYTES) {
		size_t step = bytes - at < sizeof(page) * PAGE_BYTES ? bytes - at
								     : sizeof(page) * PAGE_BYTES;
		if (mincore(address + at, step, page) != 0)
			return bytes; /* cannot be told: all of it */
		for (size_t i = 0; i < step / PAGE_BYTES; i++)
			resident += page[i] & 1u;
	}
	return resident * PAGE_BYTES;
}

size_t weir__os_purge(void *address, size_t bytes)
{
	size_t resident = resident_bytes(address, bytes);
	if (madvise(address, bytes, MADV_DONTNEED) != 0 &&
	    madvise(address, bytes, MADV_DONTNEED_LOCKED) != 0) /* after mlockall() */
		return 0;
	atomic_fetch_add_explicit(&weir__os_counts.purged_bytes, resident, memory_order_relaxed);
	return resident;
}

size_t weir__os_first_resident(const void *address, size_t bytes)
{
	unsigned char page[256];
	for (size_t at = 0; at < bytes; at += sizeof(page) * PAGE_BYTES) {
		size_t step = bytes - at < sizeof(page) * PAGE_BYTES ? bytes - at
								     : sizeof(page) * PAGE_BYTES;
		if (mincore((char *)(uintptr_t)address + at, step, page) != 0)
			return bytes;
		for (size_t i = 0; i < (step + PAGE_BYTES - 1) / PAGE_BYTES; i++)
			if (page[i] & 1u)
				return at + i * PAGE_BYTES;
	}
	return bytes;
}

void weir__os_release(void *address, size_t bytes)
{
	if (madvise(address, bytes, MADV_FREE) == 0)
		atomic_fetch_add_explicit(&weir__os_counts.released_bytes,
					  resident_bytes(address, bytes), memory_order_relaxed);
	else
		weir__os_purge(address, bytes); /* older than Linux 4.5 */
}

void weir__os_huge_pages(void *address, size_t bytes)
{
	(void)madvise(address, bytes, MADV_HUGEPAGE);
}

/* Fails where there is one node and no policy: then there is nothing to choose. */
void weir__os_place(void *address, size_t bytes, uint32_t numa)
{
	enum { PREFERRED = 1, INTERLEAVE = 3, ALLOWED = 1 << 2 }; /* of set_mempolicy(2) */
	unsigned long nodes[NODES_MAX / (8 * sizeof(unsigned long))] = { 0 };
	const unsigned word_bits = 8 * sizeof(*nodes);
	unsigned node = 0;
	int mode = INTERLEAVE;
	if (numa == WEIR__NUMA_LOCAL) {
		if (syscall(SYS_getcpu, NULL, &node, NULL) != 0 || node >= NODES_MAX)
			return;
		nodes[node / word_bits] = 1ul << (node % word_bits);
		mode = PREFERRED;
	} else if (syscall(SYS_get_mempolicy, NULL, nodes, (unsigned long)NODES_MAX, NULL,
			   ALLOWED) != 0) {
		return;
	}
	(void)syscall(SYS_mbind, address, bytes, mode, nodes, (unsigned long)NODES_MAX, 0);
}

void weir__os_small_pages(void *address, size_t bytes)
{
	(void)madvise(address, bytes, MADV_NOHUGEPAGE);
}

void weir__os_dump(void *address, size_t bytes, bool wanted)
{
	(void)madvise(address, bytes, wanted ? MADV_DODUMP : MADV_DONTDUMP);
}

/* Four fifths of the mappings, two for each guard. */
static uint32_t mprotect_budget(void)
{
	static _Atomic uint32_t budget;
	uint32_t n = atomic_load_explicit(&budget, memory_order_relaxed);
	if (n != 0)
		return n;
	unsigned long maps = 65530;
	FILE *file = fopen("/proc/sys/vm/max_map_count", "re");
	if (file != NULL) {
		if (fscanf(file, "%lu", &maps) != 1)
			maps = 65530;
		fclose(file);
	}
	n = maps > UINT32_MAX ? UINT32_MAX : (uint32_t)(maps / 5 * 4 / 2);
	atomic_store_explicit(&budget, n, memory_order_relaxed);
	return n;
}

static int guard_by_mprotect(void *address, size_t bytes)
{
	uint32_t before = atomic_fetch_add_explicit(&guards_by_mprotect, 1, memory_order_relaxed);
	if (before < mprotect_budget() && mprotect(address, bytes, PROT_NONE) == 0)
		return 1;
	weir__os_guards_gone(1);
	return -ENOMEM;
}

int weir__os_guard(void *address, size_t bytes)
{
	if (atomic_load_explicit(&guards_by_madvise, memory_order_relaxed)) {
		if (madvise(address, bytes, MADV_GUARD_INSTALL) == 0)
			return 0;
		if (errno != EINVAL)
			return -ENOMEM;
		atomic_store_explicit(&guards_by_madvise, 0, memory_order_relaxed);
	}
	return guard_by_mprotect(address, bytes);
}

bool weir__os_forbid(void *address, size_t bytes)
{
	return mprotect(address, bytes, PROT_NONE) == 0;
}

bool weir__os_allow(void *address, size_t bytes)
{
	return mprotect(address, bytes, PROT_READ | PROT_WRITE) == 0;
}

void weir__os_refuse_guards_for_test(void)
{
	atomic_store_explicit(&guards_by_madvise, 0, memory_order_relaxed);
}

void weir__os_guards_gone(uint32_t count)
{
	atomic_fetch_sub_explicit(&guards_by_mprotect, count, memory_order_relaxed);
}

int64_t weir__os_now_exact(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

int64_t weir__os_now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC_COARSE, &t);
	return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}
