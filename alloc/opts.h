/* SPDX-License-Identifier: MIT */
/*
 * opts.h: option structs across versions. An old program passes a shorter struct than the library
 * knows: what it lacks is zero, the default. A newer program passes a longer one: what we do not
 * know must be zero.
 */
#ifndef WEIR_OPTS_H
#define WEIR_OPTS_H

#include <errno.h>
#include <stddef.h>
#include <string.h>

/*
 * `known` is zeroed and `known_bytes` long, `given` is `given_bytes` long: as sizeof has it, whole
 * pointers, one and the size at least. Returns 0, -EINVAL or -E2BIG.
 */
static inline int weir__opts_copy(void *known, size_t known_bytes, const void *given,
				  size_t given_bytes)
{
	const char *bytes = given;

	if (given_bytes % sizeof(void *) || given_bytes < 2 * sizeof(void *))
		return -EINVAL;
	for (size_t i = known_bytes; i < given_bytes; i++)
		if (bytes[i])
			return -E2BIG;
	memcpy(known, given, given_bytes < known_bytes ? given_bytes : known_bytes);
	return 0;
}

#endif
