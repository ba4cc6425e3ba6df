/* SPDX-License-Identifier: MIT */
/* Leases: what weir_buf_get() lends and when the block goes back. */
#include <check.h>
#include <errno.h>
#include <string.h>

#include "alloc/heap.h"

static void attach(void)
{
	ck_assert_int_eq(weir__heap_attach(), 0);
}

static uint64_t in_use(void)
{
	static struct weir_pool_stats stats[WEIR__POOLS_MAX];
	uint64_t sum = 0;
	for (size_t i = weir_pool_stats_get(stats, WEIR__POOLS_MAX); i-- > 0;)
		sum += stats[i].in_use;
	return sum;
}

START_TEST(a_lease_has_the_room_of_its_class)
{
	attach();
	for (size_t cap = 0; cap < 20u << 20; cap = cap * 3 + 1) {
		weir_buf buf = WEIR_BUF_INIT;
		ck_assert_int_eq(weir_buf_get(&buf, cap), 0);
		ck_assert_uint_ge(buf.cap, cap);
		ck_assert_uint_eq(buf.len, 0);
		if (cap <= WEIR_CLASS_BYTES_MAX)
			ck_assert_uint_eq(buf.cap, weir_class_size(weir_size_class(cap)));
		buf.data[0] = buf.data[buf.cap - 1] = 1;
		weir_buf_release(&buf);
		ck_assert(buf.data == NULL && buf.len == 0 && buf.cap == 0 && buf.block == NULL);
		weir_buf_release(&buf); /* an empty lease */
	}
	ck_assert_uint_eq(in_use(), 0);
}
END_TEST

START_TEST(the_block_goes_back_with_the_last_lease)
{
	attach();
	weir_buf a, b, c;
	ck_assert_int_eq(weir_buf_get(&a, 1000), 0);
	memcpy(a.data, "0123456789", 10);
	a.len = 10;
	weir_buf_share_view(&a, &b);
	b.data += 5;
	b.len -= 5;
	b.cap -= 5;
	weir_buf_share_view(&b, &c);
	weir_buf_release(&a);
	ck_assert_uint_eq(in_use(), 2);
	ck_assert_mem_eq(c.data, "56789", 5);
	weir_buf_release(&c);
	ck_assert_mem_eq(b.data, "56789", 5);
	ck_assert_uint_eq(in_use(), 2);
	weir_buf_release(&b);
	ck_assert_uint_eq(in_use(), 0);
}
END_TEST

START_TEST(an_empty_lease_can_be_shared)
{
	weir_buf empty = WEIR_BUF_INIT, copy;
	weir_buf_share_view(&empty, &copy);
	ck_assert_ptr_null(copy.block);
}
END_TEST

START_TEST(leaving_the_scope_releases)
{
	attach();
	{
		weir_auto_buf buf = WEIR_BUF_INIT;
		ck_assert_int_eq(weir_buf_get(&buf, 100), 0);
		ck_assert_uint_eq(in_use(), 2);
	}
	ck_assert_uint_eq(in_use(), 0);
}
END_TEST

START_TEST(a_failed_get_has_no_effect)
{
	attach();
	for (uint64_t nth = 1; nth <= 2; nth++) {
		weir_buf buf = { (char *)&buf, 1, 2, NULL };
		weir_mem_fail_after(nth);
		ck_assert_int_eq(weir_buf_get(&buf, 100), -ENOMEM);
		ck_assert_uint_eq(weir_mem_fail_after(0), nth);
		ck_assert(buf.data == (char *)&buf && buf.len == 1 && buf.cap == 2);
		ck_assert_uint_eq(in_use(), 0);
	}
}
END_TEST

static unsigned released;

static void count_release(struct weir__block *block)
{
	released += block->id;
}

START_TEST(a_block_made_elsewhere_is_released_once_by_its_maker)
{
	char payload[10];
	struct weir__block block = { .base = payload,
				     .cap = sizeof(payload),
				     .refs = 1,
				     .id = 7,
				     .release = count_release };
	weir_buf a = { payload, 10, 10, &block }, b;
	weir_buf_share_view(&a, &b);
	weir_buf_release(&b);
	ck_assert_uint_eq(released, 0);
	weir_buf_release(&a);
	ck_assert_uint_eq(released, 7);
}
END_TEST

Suite *alloc_buffer_suite(void)
{
	Suite *s = suite_create("alloc_buffer");
	TCase *t = tcase_create("lease");
	tcase_set_tags(t, "fast");
	tcase_add_test(t, a_lease_has_the_room_of_its_class);
	tcase_add_test(t, the_block_goes_back_with_the_last_lease);
	tcase_add_test(t, an_empty_lease_can_be_shared);
	tcase_add_test(t, leaving_the_scope_releases);
	tcase_add_test(t, a_failed_get_has_no_effect);
	tcase_add_test(t, a_block_made_elsewhere_is_released_once_by_its_maker);
	suite_add_tcase(s, t);
	return s;
}
