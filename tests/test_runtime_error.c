/* SPDX-License-Identifier: MIT */
/* Names and sentences of errors. */
#include <check.h>
#include <ctype.h>
#include <string.h>

#include <weir/runtime.h>

#include "runtime/error.h"

enum { ERRNO_MAX = 4095 };

START_TEST(agrees_with_libc_on_every_name)
{
	int known = 0;
	for (int code = 1; code <= ERRNO_MAX; code++) {
		const char *name = strerrorname_np(code);
		ck_assert_str_eq(weir_errname(-code), name != NULL ? name : "unknown");
		known += name != NULL;
	}
	ck_assert_int_gt(known, 100);
}
END_TEST

START_TEST(every_code_has_a_sentence_of_its_own)
{
	static const int code[] = {
#define XX(name, sentence) name,
		WEIR_ERRNO_MAP(XX)
#undef XX
	};
	size_t count = sizeof(code) / sizeof(*code);
	for (size_t i = 0; i < count; i++) {
		const char *text = weir_strerror(-code[i]);
		ck_assert_str_ne(text, "unknown error");
		ck_assert_uint_gt(strlen(text), 3);
		ck_assert_msg(!ispunct((unsigned char)text[strlen(text) - 1]), "%s", text);
		for (size_t j = 0; j < i; j++)
			ck_assert_str_ne(text, weir_strerror(-code[j]));
	}
}
END_TEST

START_TEST(the_three_endings_are_told_apart)
{
	ck_assert_str_eq(weir_strerror(-ECANCELED), "cancelled");
	ck_assert_str_eq(weir_strerror(-ETIME), "deadline of the scope has passed");
	ck_assert_str_eq(weir_strerror(-ETIMEDOUT), "connection timed out");
}
END_TEST

START_TEST(other_numbers_are_answered_too)
{
	static const int other[] = { 1, 104, -4096, -ERRNO_MAX, INT32_MIN, INT32_MAX };
	for (size_t i = 0; i < sizeof(other) / sizeof(*other); i++) {
		ck_assert_str_eq(weir_strerror(other[i]), "unknown error");
		ck_assert_str_eq(weir_errname(other[i]), "unknown");
	}
	ck_assert_str_eq(weir_strerror(0), "no error");
	ck_assert_str_eq(weir_errname(0), "0");
}
END_TEST

Suite *runtime_error_suite(void)
{
	Suite *suite = suite_create("runtime_error");
	TCase *texts = tcase_create("texts");
	tcase_set_tags(texts, "fast");
	tcase_add_test(texts, agrees_with_libc_on_every_name);
	tcase_add_test(texts, every_code_has_a_sentence_of_its_own);
	tcase_add_test(texts, the_three_endings_are_told_apart);
	tcase_add_test(texts, other_numbers_are_answered_too);
	suite_add_tcase(suite, texts);
	return suite;
}
