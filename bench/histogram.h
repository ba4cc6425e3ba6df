/* SPDX-License-Identifier: MIT */
/*
 * histogram.h: counts of durations in fixed memory, precise to 1.6 % at every magnitude.
 *
 * Buckets are log-linear, as in HdrHistogram: values below 128 have a bucket each, every doubling
 * above has 64. So a percentile is never more than 1/64 above the true value and never below it,
 * from one nanosecond to 73 minutes; longer values land in the last bucket. Recording is an index
 * and an increment. Not thread-safe.
 */
#ifndef BENCH_HISTOGRAM_H
#define BENCH_HISTOGRAM_H

#include <stdint.h>

#define HISTOGRAM_SUB_BITS   7
#define HISTOGRAM_VALUE_BITS 42
#define HISTOGRAM_HALF	     (1 << (HISTOGRAM_SUB_BITS - 1))
#define HISTOGRAM_BUCKETS    (HISTOGRAM_HALF * (HISTOGRAM_VALUE_BITS - HISTOGRAM_SUB_BITS + 2))

struct histogram {
	uint64_t total;
	uint64_t max; /* exact */
	uint64_t sum;
	uint64_t counts[HISTOGRAM_BUCKETS];
};

/* Empties it. Also how one is initialised. */
void histogram_reset(struct histogram *h);

void histogram_record(struct histogram *h, uint64_t value);

/* Adds the counts of `from` to `h`. */
void histogram_merge(struct histogram *h, const struct histogram *from);

/*
 * The smallest bucket bound that at least `percent` of the values do not exceed, never above the
 * exact maximum; 0 when it is empty.
 */
uint64_t histogram_percentile(const struct histogram *h, double percent);

/* The largest value that is counted in counts[bucket]; of the last one there is none. */
uint64_t histogram_bound(unsigned bucket);

double histogram_mean(const struct histogram *h);

#endif
