/* SPDX-License-Identifier: MIT */
/*
 * alloc.c: the public calls that are made of others, and the library's copies of the inlined ones.
 */
#include <string.h>

#include "alloc/heap.h"

extern inline unsigned weir_size_class(size_t size);
extern inline size_t weir_class_size(unsigned size_class);
extern inline struct weir__cache *weir__cache_at(struct weir__heap *heap, size_t place);
extern inline size_t weir__place_for(const struct weir__heap *heap, size_t size);
extern inline void *weir__cache_pop(struct weir__heap *heap, size_t *place);
extern inline bool weir__cache_push(struct weir__heap *heap, size_t place, void *block);
extern inline size_t weir__unit_offset(const void *block);
extern inline const struct weir__unit *weir__unit_in(const struct weir__heap *heap, size_t offset);
extern inline const struct weir__unit *weir__unit_of(const struct weir__heap *heap,
						     const void *block);
extern inline bool weir__is_object(const struct weir__cache *cache, const void *block,
				   uintptr_t span);
extern inline bool weir__heap_push(struct weir__heap *heap, void *block);
extern inline void *weir__heap_pop(struct weir__heap *heap, size_t size);
extern inline bool weir__heap_take(struct weir__heap *heap, void *block);
extern inline bool weir__heap_push_at(struct weir__heap *heap, size_t place, void *block,
				      bool check);
extern inline void *weir_alloc(size_t size);
extern inline void weir_free(void *block);
extern inline void weir_free_sized(void *block, size_t size);
extern inline void *weir_pool_get(weir_pool *pool);
extern inline void weir_pool_put(weir_pool *pool, void *object);

enum { ALIGN_MAX = 2 << 20 };

void *weir_zalloc(size_t size)
{
	void *block = weir_alloc(size);
	if (block != NULL && size <= WEIR_CLASS_BYTES_MAX) /* larger ones come zeroed */
		memset(block, 0, size);
	return block;
}

static size_t guarded_or_large(const void *block)
{
	size_t bytes = weir__guard_size(block);
	return bytes != 0 ? bytes : weir__large_size(block);
}

size_t weir_usable_size(const void *block)
{
	struct weir__home *owner = weir__home_of(block);
	if (owner == NULL)
		return block == NULL ? 0 : guarded_or_large(block);
	uint32_t index = weir__span_pool(owner, block);
	size_t bytes = index == 0 ? 0 : weir__pools[index].object_bytes;
	if (index != 0 && weir__config.debug >= 2)
		bytes = weir__check_size(owner, block); /* the rest is the pattern */
	weir__watch_room((void *)block, bytes);
	return bytes;
}

/* At level 2 and above no more may be used than was asked for: nothing, maybe. */
static bool is_empty_block(const void *block)
{
	const struct weir__home *owner = weir__config.debug < 2 ? NULL : weir__home_of(block);
	return owner != NULL && weir__span_pool(owner, block) != 0 &&
	       weir__check_is_out(owner, block);
}

/*
 * Whether `size` bytes are at home in a block of `usable`: not more, and not so few that half is
 * wasted.
 */
static bool fits(size_t size, size_t usable)
{
	return size <= usable && (size >= usable / 2 || usable <= 64);
}

void *weir_realloc(void *block, size_t size)
{
	if (block == NULL)
		return weir_alloc(size);
	size_t usable = weir_usable_size(block);
	if (usable == 0 && !is_empty_block(block)) {
		weir__report("not a block", block);
		return NULL;
	}
	if (fits(size, usable) && weir__config.debug == 0)
		return block;
	if (usable > WEIR_CLASS_BYTES_MAX && size > WEIR_CLASS_BYTES_MAX)
		return weir__fault() ? weir__refused(size)
				     : weir__large_realloc(block, usable, size);
	void *moved = weir_alloc(size);
	if (moved == NULL) /* what is to get smaller can as well stay */
		return size <= usable && weir__config.debug == 0 ? block : NULL;
	memcpy(moved, block, size < usable ? size : usable);
	weir_free(block);
	return moved;
}

/* Of the block that a request gets: the class's, which a preset may have made larger. */
static size_t class_bytes(size_t size)
{
	size_t bytes = weir__config.classes.object_bytes[weir_size_class(size)];
	return bytes != 0 ? bytes : weir_class_size(weir_size_class(size));
}

/* The least size of which every block is aligned: a class size that `align` divides. */
static size_t aligned_size(size_t align, size_t size)
{
	if (size < align)
		size = align;
	size_t bytes = class_bytes(size);
	while (bytes % align != 0)
		bytes = class_bytes(bytes + 1);
	return bytes;
}

void *weir_alloc_aligned(size_t align, size_t size)
{
	if (align == 0 || (align & (align - 1)) != 0 || align > ALIGN_MAX)
		return NULL;
	if (align <= 16)
		return weir_alloc(size);
	if (size > WEIR_CLASS_BYTES_MAX)
		return weir__fault() ? weir__refused(size)
				     : weir__large_alloc(size, align < 4096 ? 4096 : align);
	if (align <= WEIR__UNIT_BYTES && weir__config.debug == 0)
		return weir_alloc(aligned_size(align, size));
	if (align <= WEIR__UNIT_BYTES)
		return weir__alloc_exact(aligned_size(align, weir__check_room(size)), size,
					 __builtin_return_address(0));
	return weir__alloc_run_aligned(align, size);
}

void weir__free_sized_slow(void *block, size_t size)
{
	struct weir__home *owner = weir__config.debug == 0 ? NULL : weir__home_of(block);
	if (owner != NULL && weir__span_pool(owner, block) != 0 &&
	    weir__check_size(owner, block) != size) {
		weir__report("freed with another size than it was allocated with", block);
		return;
	}
	weir_free(block);
}
