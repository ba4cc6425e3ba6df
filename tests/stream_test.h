/* SPDX-License-Identifier: MIT */
/*
 * stream_test.h: what the suites of pipes and streams share.
 */
#ifndef TESTS_STREAM_TEST_H
#define TESTS_STREAM_TEST_H

#include "tests/runtime_test.h"

static inline unsigned here(void)
{
	return WEIR_ON_WORKER((unsigned)weir_worker_index());
}

/*
 * Writes more than there is room for, until its time is over; more of that where it was over before
 * the first byte.
 */
static inline ssize_t fill_up(weir_stream *out)
{
	static char big[1 << 20];
	ssize_t n = -ETIME;

	for (int64_t ns = 100 * WEIR_MS; n == -ETIME; ns *= 2) {
		WEIR_SCOPE(patience, ns);
		n = weir_stream_write(out, big, sizeof big); /* bytes beat the deadline */
		if (n > 0)
			expect(weir_stream_write(out, big, 1) == -ETIME);
	}
	expect(n > 0 && n < (ssize_t)sizeof big);
	return n;
}

struct call {
	weir_stream *stream;
	ssize_t result;
};

static inline int read_one(void *arg)
{
	struct call *call = arg;
	char byte;

	call->result = weir_stream_read(call->stream, &byte, 1);
	return 0;
}

static inline int write_much(void *arg)
{
	struct call *call = arg;
	static char big[1 << 20];

	call->result = weir_stream_write(call->stream, big, sizeof big);
	return 0;
}

#endif
