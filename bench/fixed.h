/* SPDX-License-Identifier: MIT */
/*
 * fixed.h: answers of a server that reads no request: what is left of a key-value server when
 * parsing and the store take no time.
 *
 * A read of whole requests is a division; one that holds something else (a client that introduces
 * itself, half a request) is counted by the asterisks RESP begins each command with.
 */
#ifndef FIXED_H
#define FIXED_H

#include <stddef.h>

struct fixed {
	char *answers; /* one after the other, for the most requests a read can hold; NULL: echo */
	size_t answer_bytes;
	size_t request_bytes;
};

/* `text` is "REQUEST_BYTES:ANSWER", a read has at most `read_bytes`. Returns 0 or -1. */
int fixed_init(struct fixed *fixed, const char *text, size_t read_bytes);

/* How many bytes of `answers` are the answer to what has been read. */
size_t fixed_answer(const struct fixed *fixed, const char *data, size_t len);

#endif
