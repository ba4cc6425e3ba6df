/* SPDX-License-Identifier: MIT */
/*
 * classes.c: size classes other than the default, and how many blocks of a class to keep.
 *
 * The 76 classes are compiled into programs (weir_size_class() is inlined), so a preset does not
 * change which class a request has: it has requests of some classes served from the pool of a
 * larger one, the next of the preset, by the table that the inlined path looks sizes up in. Where a
 * program asks for a constant size there is no look-up, but a cache that is always empty then: such
 * a request takes the slow path, which knows. What a preset wastes, and what is in its pools, is
 * measured by the same code; that is what presets are for. Classes of a preset are classes of the
 * default, larger or fewer: sizes between two of them are rounded up.
 */
#include <errno.h>
#include <string.h>

#include "alloc/heap.h"

/* Ascending; above the last one the default goes on. */
static const struct preset {
	const char *name;
	const char *sizes;
} class_presets[] = {
	{ "pow2", "16,32,64,128,256,512,1k,2k,4k,8k,16k,32k,64k,128k,256k,512k,1m,2m,4m,8m,16m" },
	{ "zokio", "16,32,64,128,256,512,1k,2k,4k,8k,16k,32k,64k" },
	{ "grpc", "256,4k,16k,32k,1m" },
	{ "graded", "8k,16k,32k,64k,128k,256k,512k,1m,2m,10m" },
};

/* The pools of the Zokio analysis: what each of them kept. */
static const struct preset reserve_presets[] = {
	{ "zokio",
	  "16:10000,32:8000,64:6000,128:4000,256:2000,512:1000,1k:800,2k:400,4k:200,8k:100,"
	  "16k:50,32k:25,64k:10" },
};

#define COUNT(array) (sizeof(array) / sizeof(*(array)))

static const char *preset_of(const struct preset *presets, size_t n, const char *text)
{
	for (size_t i = 0; i < n; i++)
		if (strcmp(presets[i].name, text) == 0)
			return presets[i].sizes;
	return text;
}

/* Digits, then k or m or nothing. Leaves *at behind them. False: not a number, or above a GiB. */
static bool parse_number(const char **at, uint64_t *ret)
{
	uint64_t n = 0;
	const char *text = *at;
	for (; *text >= '0' && *text <= '9' && n < 1u << 30; text++)
		n = n * 10 + (uint64_t)(*text - '0');
	if (text == *at)
		return false;
	unsigned shift = *text == 'k' || *text == 'K' ? 10 : *text == 'm' || *text == 'M' ? 20 : 0;
	*at = text + (shift > 0);
	*ret = n << shift;
	return n < 1u << 30;
}

static bool parse_class(const char **at, unsigned *ret)
{
	uint64_t bytes;
	if (!parse_number(at, &bytes) || bytes == 0 || bytes > WEIR_CLASS_BYTES_MAX)
		return false;
	*ret = weir_size_class(bytes);
	return true;
}

int weir__classes_parse(const char *text, struct weir__classes *ret)
{
	struct weir__classes parsed = { .object_bytes = { 0 } };
	unsigned next = 0, class = 0;
	if (strcmp(text, "geom4") == 0) {
		*ret = parsed;
		return 0;
	}
	for (text = preset_of(class_presets, COUNT(class_presets), text);; text++) {
		if (!parse_class(&text, &class) || class < next)
			return -EINVAL; /* not a size, or not larger than the one before */
		for (; next <= class; next++)
			parsed.object_bytes[next] = (uint32_t)weir_class_size(class);
		if (*text != ',')
			break;
	}
	if (*text != '\0')
		return -EINVAL;
	*ret = parsed;
	return 0;
}

int weir__reserves_parse(const char *text, struct weir__reserves *ret)
{
	struct weir__reserves parsed = { .objects = { 0 } };
	uint64_t objects;
	unsigned class;
	if (strcmp(text, "none") == 0) {
		*ret = parsed;
		return 0;
	}
	for (text = preset_of(reserve_presets, COUNT(reserve_presets), text);; text++) {
		if (!parse_class(&text, &class) || *text++ != ':' || !parse_number(&text, &objects))
			return -EINVAL;
		if (objects == 0 || objects > WEIR__RESERVE_MAX || parsed.objects[class] != 0)
			return -EINVAL;
		parsed.objects[class] = (uint32_t)objects;
		if (*text != ',')
			break;
	}
	if (*text != '\0')
		return -EINVAL;
	*ret = parsed;
	return 0;
}
