/* SPDX-License-Identifier: MIT */
/*
 * histogram.c: the log-linear arithmetic of histogram.h.
 *
 * A value v of 128 or more with its top bit at position b is shifted right by b-6, which
 * leaves 64..127; the shift picks the group of 64 buckets and the low six bits the bucket in it.
 */
#include "histogram.h"

#include <string.h>

static unsigned bucket_of(uint64_t value)
{
	if (value < 2 * HISTOGRAM_HALF)
		return (unsigned)value;
	if (value >> HISTOGRAM_VALUE_BITS)
		return HISTOGRAM_BUCKETS - 1;
	unsigned top_bit = 63 - (unsigned)__builtin_clzll(value);
	unsigned shift = top_bit - (HISTOGRAM_SUB_BITS - 1);
	return shift * HISTOGRAM_HALF + (unsigned)(value >> shift);
}

uint64_t histogram_bound(unsigned bucket)
{
	if (bucket < 2 * HISTOGRAM_HALF)
		return bucket;
	unsigned shift = bucket / HISTOGRAM_HALF - 1;
	uint64_t lead = bucket - shift * HISTOGRAM_HALF;
	return ((lead + 1) << shift) - 1;
}

void histogram_reset(struct histogram *h)
{
	memset(h, 0, sizeof(*h));
}

void histogram_record(struct histogram *h, uint64_t value)
{
	h->counts[bucket_of(value)]++;
	h->total++;
	h->sum += value;
	if (value > h->max)
		h->max = value;
}

void histogram_merge(struct histogram *h, const struct histogram *from)
{
	for (unsigned i = 0; i < HISTOGRAM_BUCKETS; i++)
		h->counts[i] += from->counts[i];
	h->total += from->total;
	h->sum += from->sum;
	if (from->max > h->max)
		h->max = from->max;
}

uint64_t histogram_percentile(const struct histogram *h, double percent)
{
	if (h->total == 0)
		return 0;
	/* the rank is rounded up, so that p100 is the last value and p50 of one value is that value
	 */
	double exact = percent / 100.0 * (double)h->total;
	uint64_t rank = (uint64_t)exact;
	if ((double)rank < exact || rank == 0)
		rank++;
	if (rank > h->total)
		rank = h->total;
	uint64_t seen = 0;
	for (unsigned i = 0; i < HISTOGRAM_BUCKETS; i++) {
		seen += h->counts[i];
		if (seen >= rank) {
			uint64_t bound = histogram_bound(i);
			return bound < h->max && i != HISTOGRAM_BUCKETS - 1 ? bound : h->max;
		}
	}
	return h->max;
}

double histogram_mean(const struct histogram *h)
{
	return h->total ? (double)h->sum / (double)h->total : 0.0;
}
