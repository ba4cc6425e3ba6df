/* SPDX-License-Identifier: MIT */
/*
 * error.c: error codes to names and sentences.
 *
 * Both functions are switches made from the one table in error.h, so they allocate nothing, return
 * constants and may be called anywhere, signal handlers included.
 */
#include "runtime/error.h"

#include <weir/runtime.h>

const char *weir_strerror(int err)
{
#define XX(name, sentence)                                                                         \
	case -name:                                                                                \
		return sentence;
	switch (err) {
		WEIR_ERRNO_MAP(XX)
	case 0:
		return "no error";
	default:
		return "unknown error";
	}
#undef XX
}

const char *weir_errname(int err)
{
#define XX(name, sentence)                                                                         \
	case -name:                                                                                \
		return #name;
	switch (err) {
		WEIR_ERRNO_MAP(XX)
	case 0:
		return "0";
	default:
		return "unknown";
	}
#undef XX
}
