/* SPDX-License-Identifier: MIT */
/*
 * The context switches, the assembly, called and inlined, and the portable one, as the runtime uses
 * them. That every callee-saved register survives is switch_alone's to show.
 */
#include <check.h>
#include <stdint.h>
#include <stdlib.h>

#include "runtime/switch.h"
#include "tests/runtime_test.h"

enum { STACK_BYTES = 64 << 10, CONTEXTS = 5 };

static unsigned inlined;

static __attribute__((noinline)) void count_inlined(void)
{
	inlined++;
}

/* Calls something, as whoever inlines it must. */
static __attribute__((noinline)) void switch_inlined(void **save_sp, void *load_sp)
{
	count_inlined();
	weir__switch_inline(save_sp, load_sp);
}

static const struct {
	void (*go)(void **save_sp, void *load_sp);
	void *(*prepare)(void *stack_top, void (*entry)(void *), void *arg);
} kinds[] = {
	{ weir__switch, weir__switch_prepare },
	{ switch_inlined, weir__switch_prepare },
	{ weir__switch_ucontext, weir__switch_prepare_ucontext },
};

struct context {
	void *sp;
	unsigned kind;
	unsigned number;
	unsigned rounds;
	double sum;
	uintptr_t alignment;
	char *stack;
};

static void *main_sp;
static struct context contexts[CONTEXTS];
static unsigned trail[64], trail_len;

static void start(unsigned i, unsigned kind, void (*entry)(void *))
{
	struct context *context = &contexts[i];

	*context = (struct context){ .kind = kind,
				     .number = i,
				     .stack = aligned_alloc(64, STACK_BYTES) };
	context->sp = kinds[kind].prepare(context->stack + STACK_BYTES, entry, context);
	ck_assert_ptr_nonnull(context->sp);
}

static void back(struct context *self)
{
	kinds[self->kind].go(&self->sp, main_sp);
}

static void enter(struct context *context)
{
	kinds[context->kind].go(&main_sp, context->sp);
}

static void count_rounds(void *arg)
{
	struct context *self = arg;
	_Alignas(16) volatile char probe[16];

	self->alignment = (uintptr_t)probe % 16;
	for (;;) {
		self->rounds++;
		if (trail_len < 64)
			trail[trail_len++] = self->number;
		back(self);
	}
}

START_TEST(control_goes_where_it_is_sent_and_comes_back)
{
	trail_len = 0;
	for (unsigned i = 0; i < CONTEXTS; i++)
		start(i, (unsigned)_i, count_rounds);
	for (unsigned round = 0; round < 3; round++)
		for (unsigned i = 0; i < CONTEXTS; i++)
			enter(&contexts[i * 2 % CONTEXTS]);
	ck_assert_uint_eq(trail_len, 3 * CONTEXTS);
	for (unsigned i = 0; i < trail_len; i++)
		ck_assert_uint_eq(trail[i], i % CONTEXTS * 2 % CONTEXTS);
	for (unsigned i = 0; i < CONTEXTS; i++) {
		ck_assert_uint_eq(contexts[i].rounds, 3);
		ck_assert_uint_eq(contexts[i].alignment, 0);
		free(contexts[i].stack);
	}
}
END_TEST

/* A sum whose terms are live in floating-point registers over the switch. */
static void add_up(void *arg)
{
	struct context *self = arg;
	double a = self->number + 0.5, b = 1, c = 2, d = 3, e = 5, f = 7, g = 11, h = 13;

	for (;;) {
		a += 1.25;
		b *= 1.5;
		c += a;
		d -= 0.5;
		e += b;
		f += 0.125;
		g += d;
		h += f;
		self->rounds++;
		self->sum = a + b + c + d + e + f + g + h;
		back(self);
	}
}

static double expected_sum(unsigned number, unsigned rounds)
{
	double a = number + 0.5, b = 1, c = 2, d = 3, e = 5, f = 7, g = 11, h = 13;

	while (rounds-- > 0) {
		a += 1.25;
		b *= 1.5;
		c += a;
		d -= 0.5;
		e += b;
		f += 0.125;
		g += d;
		h += f;
	}
	return a + b + c + d + e + f + g + h;
}

START_TEST(floating_point_values_survive)
{
	double mine = 0.1;

	for (unsigned i = 0; i < CONTEXTS; i++)
		start(i, (unsigned)_i, add_up);
	for (unsigned round = 1; round < 40; round++) {
		for (unsigned i = 0; i < CONTEXTS; i++) {
			enter(&contexts[i]);
			mine += 0.1;
			ck_assert_double_eq(contexts[i].sum, expected_sum(i, round));
		}
	}
	ck_assert_double_eq_tol(mine, 0.1 * (39 * CONTEXTS + 1), 1e-9);
	for (unsigned i = 0; i < CONTEXTS; i++)
		free(contexts[i].stack);
}
END_TEST

/* The same through tasks, which is also how TSan sees it. */
static int sum_in_task(void *arg)
{
	double *ret = arg, sum = *ret;

	for (int i = 0; i < 1000; i++) {
		sum = sum * 0.5 + i;
		int err = weir_yield();
		if (err < 0)
			return err;
	}
	*ret = sum;
	return 0;
}

static int sum_in_tasks(void *arg)
{
	double *sums = arg;
	WEIR_SCOPE(scope, WEIR_FOREVER);

	for (int i = 0; i < 8; i++) {
		int err = weir_spawn(&scope, sum_in_task, &sums[i]);
		if (err < 0)
			return err;
	}
	return weir_scope_wait(&scope);
}

START_TEST(tasks_keep_their_floating_point_values)
{
	double sums[8], expected[8];

	ck_assert_int_eq(setenv("WEIR_SWITCH", _i ? "ucontext" : "asm", 1), 0);
	for (int i = 0; i < 8; i++) {
		sums[i] = expected[i] = i * 1000.25;
		for (int k = 0; k < 1000; k++)
			expected[i] = expected[i] * 0.5 + k;
	}
	run_on(1, sum_in_tasks, sums);
	for (int i = 0; i < 8; i++)
		ck_assert_double_eq(sums[i], expected[i]);
}
END_TEST

Suite *runtime_switch_suite(void)
{
	Suite *suite = suite_create("runtime_switch");
	TCase *bare = tcase_create("bare");
	TCase *tasks = tcase_create("tasks");

	if (!TESTS_SLOW) { /* a sanitizer must be told of every switch: the tasks are */
		tcase_add_loop_test(bare, control_goes_where_it_is_sent_and_comes_back, 0, 3);
		tcase_add_loop_test(bare, floating_point_values_survive, 0, 3);
	}
	suite_add_tcase(suite, bare);
	tcase_set_tags(tasks, "fast");
	tcase_add_loop_test(tasks, tasks_keep_their_floating_point_values, 0, 2);
	suite_add_tcase(suite, tasks);
	return suite;
}
