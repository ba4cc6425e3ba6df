/* SPDX-License-Identifier: MIT */
/*
 * buffer.c: leases on pool blocks.
 *
 * The descriptor is one cache line of a typed pool; the payload is a plain block of its own, so
 * that a 4096 byte payload is exactly a block of that class and can be handed to the kernel whole.
 * A lease may also stand on a block made elsewhere (a provided buffer): release() is the block's,
 * not the lease's.
 */
#include <errno.h>

#include "alloc/heap.h"

static weir_pool descriptors = { WEIR__POOL_BUFFER, WEIR__PLACE(WEIR__POOL_BUFFER) };

static void release(struct weir__block *block)
{
	weir_free(block->base);
	weir_pool_put(&descriptors, block);
}

int weir_buf_get(weir_buf *ret, size_t cap)
{
	size_t room = cap <= WEIR_CLASS_BYTES_MAX ? weir_class_size(weir_size_class(cap)) : cap;
	struct weir__block *block = weir_pool_get(&descriptors);
	if (block == NULL)
		return -ENOMEM;
	char *base = weir_alloc(room);
	if (base == NULL) {
		weir_pool_put(&descriptors, block);
		return -ENOMEM;
	}
	*block = (struct weir__block){ .base = base, .cap = room, .refs = 1, .release = release };
	*ret = (weir_buf){ .data = base, .len = 0, .cap = room, .block = block };
	return 0;
}

void weir_buf_release(weir_buf *buf)
{
	struct weir__block *block = buf->block;
	*buf = (weir_buf)WEIR_BUF_INIT;
	if (block != NULL)
		weir__block_drop(block);
}

void weir_buf_share_view(const weir_buf *buf, weir_buf *ret)
{
	*ret = *buf;
	if (ret->block != NULL)
		ret->block->refs++;
}
