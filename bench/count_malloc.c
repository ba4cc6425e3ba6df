/* SPDX-License-Identifier: MIT */
/*
 * count_malloc.c: counts a process's calls of libc's allocator. For LD_PRELOAD; the file that
 * COUNT_MALLOC_FILE names is mapped and its first 8 bytes are the count, so that anybody can read
 * it while the process runs, before and after a load.
 *
 * The calls go on to libc through its own aliases (__libc_malloc and so on): looking the next
 * malloc up with dlsym() would itself call calloc.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))

void *__libc_malloc(size_t size);
void *__libc_calloc(size_t n, size_t size);
void *__libc_realloc(void *block, size_t size);
void *__libc_memalign(size_t align, size_t size);

/* Declared by nothing that is included here, or only under feature macros. */
void *memalign(size_t align, size_t size);
void *valloc(size_t size);
void *pvalloc(size_t size);
void *reallocarray(void *block, size_t n, size_t size);
int posix_memalign(void **ret, size_t align, size_t size);

static _Atomic uint64_t
	unseen; /* counts what comes before the file is mapped, or when there is none */
static _Atomic uint64_t *count = &unseen;

static void tick(void)
{
	atomic_fetch_add_explicit(count, 1, memory_order_relaxed);
}

__attribute__((constructor)) static void map_the_file(void)
{
	const char *path = getenv("COUNT_MALLOC_FILE");
	int fd = path ? open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600) : -1;
	if (fd < 0)
		return;
	void *page = MAP_FAILED;
	if (ftruncate(fd, sizeof(uint64_t)) == 0)
		page = mmap(NULL, sizeof(uint64_t), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	if (page == MAP_FAILED)
		return;
	count = page;
	atomic_store(count, atomic_load(&unseen));
}

EXPORT void *malloc(size_t size)
{
	tick();
	return __libc_malloc(size);
}

EXPORT void *calloc(size_t n, size_t size)
{
	tick();
	return __libc_calloc(n, size);
}

EXPORT void *realloc(void *block, size_t size)
{
	tick();
	return __libc_realloc(block, size);
}

EXPORT void *reallocarray(void *block, size_t n, size_t size)
{
	size_t bytes;
	tick();
	if (!__builtin_mul_overflow(n, size, &bytes))
		return __libc_realloc(block, bytes);
	errno = ENOMEM;
	return NULL;
}

EXPORT void *memalign(size_t align, size_t size)
{
	tick();
	return __libc_memalign(align, size);
}

EXPORT void *aligned_alloc(size_t align, size_t size)
{
	return memalign(align, size);
}

EXPORT int posix_memalign(void **ret, size_t align, size_t size)
{
	void *block = memalign(align, size);
	if (!block)
		return ENOMEM; /* and errno is left alone */
	*ret = block;
	return 0;
}

EXPORT void *valloc(size_t size)
{
	return memalign((size_t)sysconf(_SC_PAGESIZE), size);
}

EXPORT void *pvalloc(size_t size)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE);
	return memalign(page, (size + page - 1) & ~(page - 1));
}
