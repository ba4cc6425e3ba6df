/* SPDX-License-Identifier: MIT */
/* The two functions between a request and its class, against an oracle that only adds and searches.
 */
#include <check.h>
#include <stdlib.h>

#include <weir/alloc.h>

static size_t table[WEIR_CLASS_COUNT];

/* 16 byte steps to 64, then four equal steps to each doubling. */
static void build_table(void)
{
	size_t n = 0;
	for (size_t bytes = 16; bytes <= 64; bytes += 16)
		table[n++] = bytes;
	for (size_t base = 64; base < WEIR_CLASS_BYTES_MAX; base *= 2)
		for (size_t step = 1; step <= 4; step++)
			table[n++] = base + step * base / 4;
	ck_assert_uint_eq(n, WEIR_CLASS_COUNT);
}

START_TEST(class_sizes_are_the_table)
{
	build_table();
	for (unsigned i = 0; i < WEIR_CLASS_COUNT; i++)
		ck_assert_uint_eq(weir_class_size(i), table[i]);
	ck_assert_uint_eq(table[WEIR_CLASS_COUNT - 1], WEIR_CLASS_BYTES_MAX);
}
END_TEST

START_TEST(every_size_to_10_mb_gets_the_smallest_class_that_holds_it)
{
	unsigned oracle = 0;
	build_table();
	for (size_t size = 0; size <= (10u << 20) + 1; size++) {
		while (table[oracle] < size)
			oracle++;
		if (weir_size_class(size) != oracle)
			ck_abort_msg("size %zu: class %u, not %u", size, weir_size_class(size),
				     oracle);
	}
	ck_assert_uint_eq(weir_class_size(weir_size_class(10u << 20)), 10u << 20);
	ck_assert_uint_eq(weir_size_class(WEIR_CLASS_BYTES_MAX), WEIR_CLASS_COUNT - 1);
}
END_TEST

START_TEST(above_64_bytes_a_fifth_of_a_class_is_the_most_that_is_wasted)
{
	double used = 0, given = 0;
	for (size_t size = 65; size <= 10u << 20; size++) {
		size_t bytes = weir_class_size(weir_size_class(size));
		if ((bytes - size) * 5 > bytes)
			ck_abort_msg("size %zu in a class of %zu", size, bytes);
		/* log-uniform: each size weighs what is between it and the next on a log scale */
		used += 1.0;
		given += (double)bytes / (double)size;
	}
	ck_assert_double_lt(1.0 - used / given, 0.125);
}
END_TEST

START_TEST(constant_sizes_fold)
{
	if (__builtin_constant_p(weir_size_class(64)))
		ck_assert_uint_eq(weir_size_class(64), 3);
	static const struct {
		size_t size;
		size_t bytes;
	} boundary[] = { { 63 << 10, 64 << 10 },     { 64 << 10, 64 << 10 }, { 65 << 10, 80 << 10 },
			 { 512 << 10, 512 << 10 },   { 1 << 20, 1 << 20 },   { 2 << 20, 2 << 20 },
			 { (2 << 20) + 1, 5 << 19 }, { 10 << 20, 10 << 20 } };
	for (size_t i = 0; i < sizeof(boundary) / sizeof(*boundary); i++)
		ck_assert_uint_eq(weir_class_size(weir_size_class(boundary[i].size)),
				  boundary[i].bytes);
}
END_TEST

Suite *alloc_size_class_suite(void)
{
	Suite *s = suite_create("alloc_size_class");
	TCase *t = tcase_create("mapping");
	tcase_set_timeout(t, 20);
	tcase_add_test(t, class_sizes_are_the_table);
	tcase_add_test(t, every_size_to_10_mb_gets_the_smallest_class_that_holds_it);
	tcase_add_test(t, above_64_bytes_a_fifth_of_a_class_is_the_most_that_is_wasted);
	tcase_add_test(t, constant_sizes_fold);
	suite_add_tcase(s, t);
	return s;
}
