/* SPDX-License-Identifier: MIT */
/*
 * The epoll driver: events that come too late, waking and waiting, and what the kernel refuses.
 */
#include "tests/poll_test.h"

/* ---- Events that outlive their handle -------------------------------------------------------- */

static void poison(struct weir__handle *handle)
{
	memset(handle, 0xee, sizeof(*handle)); /* as free() would: ops is a wild pointer now */
}

static struct watch *other;

static void close_other(struct watch *watch)
{
	(void)watch;
	other->then = NULL;
	close_handle(other->handle);
	poison(other->handle);
}

static void close_own(struct watch *watch)
{
	close_handle(watch->handle);
	poison(watch->handle);
}

START_TEST(an_event_of_a_handle_closed_in_its_batch_is_dropped)
{
	struct weir__handle a, b;
	struct watch recv_a = { .then = close_other }, recv_b = { .then = close_other };
	int their_a, their_b;
	pair(_i & 1, &a, &their_a);
	pair(_i & 1, &b, &their_b);
	begin(&recv_a, &a, WEIR__OP_RECV);
	begin(&recv_b, &b, WEIR__OP_RECV);
	settle();
	/* whichever comes first closes the second */
	put(_i & 2 ? their_b : their_a, "x");
	put(_i & 2 ? their_a : their_b, "x");
	other = _i & 2 ? &recv_a : &recv_b;
	turn(WEIR_FOREVER);
	ck_assert_int_eq(recv_a.calls, 1);
	ck_assert_int_eq(recv_b.calls, 1);
	ck_assert_int_eq(other->res, -ECANCELED);
	settle();
	close_handle(_i & 2 ? &b : &a);
	close(their_a);
	close(their_b);
}
END_TEST

START_TEST(a_handle_may_be_closed_by_its_own_completion)
{
	struct weir__handle ours;
	struct watch recv = { .then = close_own };
	int theirs;
	pair(_i & 1, &ours, &theirs);
	begin(&recv, &ours, WEIR__OP_RECV);
	settle();
	put(theirs, "x");
	if (_i & 2) /* readable, writable and at its end in one event */
		close(theirs);
	turns_until(&recv.calls, 1);
	ck_assert_int_eq(recv.res, 1);
	settle();
	if (!(_i & 2))
		close(theirs);
}
END_TEST

static void close_own_at_five(struct watch *watch)
{
	if (watch->calls == 5)
		close_own(watch);
}

START_TEST(a_listener_may_be_closed_in_the_middle_of_a_burst)
{
	struct sockaddr_in address;
	struct weir__handle listener = { .fd = listen_tcp(&address, 16) };
	struct watch accept = { .op.multi = true, .then = close_own_at_five };
	int clients[10];
	for (int i = 0; i < 10; i++)
		clients[i] = connect_tcp(&address);
	begin(&accept, &listener, WEIR__OP_ACCEPT);
	turns_until(&accept.calls, 6);
	ck_assert_int_eq(accept.res, -ECANCELED);
	close_given(&accept);
	close_all(clients, 10);
}
END_TEST

static struct weir__handle next_handle;
static struct watch next_recv;
static int next_theirs;

/* The descriptor's number comes back in the same batch, with another handle and nothing to read. */
static void reuse_other(struct watch *watch)
{
	int number = other->handle->fd;
	close_other(watch);
	unix_pair(&next_handle, &next_theirs);
	ck_assert_int_eq(next_handle.fd, number);
	ck_assert(!begin(&next_recv, &next_handle, WEIR__OP_RECV));
}

START_TEST(a_number_used_again_in_the_batch_gets_none_of_the_old_events)
{
	struct weir__handle a, b;
	struct watch recv_a = { .then = reuse_other }, recv_b = { 0 };
	int their_a, their_b;
	unix_pair(&a, &their_a);
	unix_pair(&b, &their_b);
	begin(&recv_a, &a, WEIR__OP_RECV);
	begin(&recv_b, &b, WEIR__OP_RECV);
	settle();
	other = &recv_b;
	put(their_a, "x");
	put(their_b, "x");
	turn(WEIR_FOREVER);
	settle();
	ck_assert_int_eq(next_recv.calls, 0);
	put(next_theirs, "mine");
	turns_until(&next_recv.calls, 1);
	ck_assert_int_eq(next_recv.res, 4);
	close_handle(&a);
	close_handle(&next_handle);
	close(their_a);
	close(their_b);
	close(next_theirs);
}
END_TEST

START_TEST(an_open_file_that_outlives_its_handle_sends_no_more_events)
{
	struct weir__handle ours;
	struct watch recv = { 0 };
	int theirs;
	unix_pair(&ours, &theirs);
	begin(&recv, &ours, WEIR__OP_RECV);
	int copy = dup(ours.fd); /* as a forked child has it */
	close_handle(&ours);
	poison(&ours);
	put(theirs, "x");
	settle();
	ck_assert_int_eq(recv.calls, 1);
	ck_assert_int_eq(recv.res, -ECANCELED);
	close(copy);
	close(theirs);
}
END_TEST

START_TEST(a_batch_not_reaped_yet_is_not_lost)
{
	struct weir__handle ours;
	struct watch recv = { 0 };
	int theirs;
	unix_pair(&ours, &theirs);
	begin(&recv, &ours, WEIR__OP_RECV);
	settle();
	put(theirs, "x");
	io->driver.ops->submit_and_wait(&io->driver, INT64_MAX);
	io->driver.ops->submit_and_wait(&io->driver, INT64_MAX);
	io->driver.ops->reap(&io->driver);
	ck_assert_int_eq(recv.calls, 1);
	close_handle(&ours);
	close(theirs);
}
END_TEST

/* ---- Waking and waiting ---------------------------------------------------------------------- */

enum { WAKES = 2000 };
static _Atomic int sent, woken;

static void *wake_in_turn(void *arg)
{
	(void)arg;
	for (int i = 0; i < WAKES; i++) {
		while (woken < i)
			sched_yield();
		sent = i + 1;
		io->driver.ops->wake(&io->driver, NULL);
	}
	return NULL;
}

START_TEST(each_wake_ends_one_wait)
{
	pthread_t thread;
	ck_assert_int_eq(pthread_create(&thread, NULL, wake_in_turn, NULL), 0);
	for (int i = 0; i < WAKES; i++) {
		turn(WEIR_FOREVER);
		ck_assert_int_eq(sent, i + 1);
		woken = i + 1;
	}
	pthread_join(thread, NULL);
	/* more where a signal ended a call */
	ck_assert_uint_ge(io->driver.enters, WAKES);
	ck_assert_uint_le(io->driver.enters, WAKES + WAKES / 20);
}
END_TEST

static void wake_from_signal(int number)
{
	(void)number;
	io->driver.ops->wake(&io->driver, NULL);
}

START_TEST(a_signal_handler_before_the_wait_ends_it)
{
	ck_assert(signal(SIGUSR1, wake_from_signal) != SIG_ERR);
	for (int i = 0; i < 10; i++) {
		raise(SIGUSR1);
		turn(WEIR_FOREVER); /* no signal comes in here: only the wake can end it */
	}
}
END_TEST

START_TEST(another_worker_counts_the_call_that_wakes)
{
	struct weir__io *from;
	ck_assert_int_eq(weir__poll_open(&worker, &from), 0);
	io->driver.ops->wake(&io->driver, &from->driver);
	ck_assert_uint_eq(from->driver.enters, 1);
	ck_assert_uint_eq(io->driver.enters, 0);
	turn(WEIR_FOREVER);
	from->driver.ops->close(&from->driver);
	free(from);
}
END_TEST

static const int refusals[] = { 0, ENOSYS, EPERM };

START_TEST(a_wait_never_ends_before_its_time)
{
	static const int64_t times[] = { 1, 10 * WEIR_US, 999999, WEIR_MS + 1, 30 * WEIR_MS };
	if (refusals[_i])
		ck_assert_int_eq(
			refuse_syscall(SYS_epoll_pwait2, REFUSE_ANY, (uint32_t)refusals[_i]), 0);
	/* one call a wait, and one to find out about epoll_pwait2; more where a signal ended one */
	uint64_t calls = UINT64_MAX, expected = sizeof(times) / sizeof(*times) + (_i > 0);
	for (int tries = 0; calls > expected && tries < 20; tries++) {
		uint64_t before = io->driver.enters;
		for (size_t i = 0; i < sizeof(times) / sizeof(*times); i++) {
			int64_t until = weir__clock_ns() + times[i];
			io->driver.ops->submit_and_wait(&io->driver, until);
			ck_assert_int_ge(weir__clock_ns(), until);
		}
		calls = io->driver.enters - before;
	}
	ck_assert_uint_le(calls, expected);
}
END_TEST

START_TEST(a_time_that_has_passed_is_no_wait)
{
	io->driver.ops->submit_and_wait(&io->driver, 1);
	io->driver.ops->submit_and_wait(&io->driver, weir__clock_ns() - WEIR_SEC);
	ck_assert_uint_eq(io->driver.enters, 2);
}
END_TEST

/* ---- What the kernel refuses ----------------------------------------------------------------- */

START_TEST(a_full_epoll_set_is_an_error_of_the_operation)
{
	struct weir__handle ours, listener;
	struct watch watch = { 0 }, accept = { .op.multi = true };
	struct sockaddr_in address;
	char *data = pattern(BIG_BYTES);
	int theirs;
	unix_pair(&ours, &theirs);
	listener.fd = listen_tcp(&address, 0);
	listener = (struct weir__handle){ .fd = listener.fd };
	ck_assert_int_eq(refuse_syscall(SYS_epoll_ctl, REFUSE_ANY, ENOSPC), 0);
	ck_assert(begin(&watch, &ours, WEIR__OP_RECV));
	ck_assert_int_eq(watch.res, -ENOSPC);
	ck_assert(begin_send(&watch, &ours, data, BIG_BYTES));
	ck_assert_int_gt(watch.res, 0); /* bytes beat errors */
	ck_assert(begin_send(&watch, &ours, data, BIG_BYTES));
	ck_assert_int_eq(watch.res, -ENOSPC);
	ck_assert(begin(&accept, &listener, WEIR__OP_ACCEPT));
	ck_assert_int_eq(accept.res, -ENOSPC);
	close_handle(&ours);
	close_handle(&listener);
	close(theirs);
	free(data);
}
END_TEST

START_TEST(opening_fails_cleanly)
{
	struct weir__io *none = NULL;
	struct rlimit limit;
	int before = count_descriptors();
	weir_mem_fail_after(1);
	ck_assert_int_eq(weir__poll_open(&worker, &none), -ENOMEM);
	weir_mem_fail_after(0);
	getrlimit(RLIMIT_NOFILE, &limit);
	int first_free = dup(0);
	close(first_free);
	for (int room = 0; room < 2; room++) {
		limit.rlim_cur = (rlim_t)(first_free + room);
		setrlimit(RLIMIT_NOFILE, &limit);
		ck_assert_int_eq(weir__poll_open(&worker, &none), -EMFILE);
	}
	ck_assert_ptr_null(none);
	ck_assert_int_eq(count_descriptors(), before);
}
END_TEST

/* ---- The suite ------------------------------------------------------------------------------- */

Suite *io_poll_events_suite(void)
{
	Suite *suite = suite_create("io_poll_events");
	TCase *stale = add_case(suite, "stale_events", "fast");
	tcase_add_loop_test(stale, an_event_of_a_handle_closed_in_its_batch_is_dropped, 0, 4);
	tcase_add_loop_test(stale, a_handle_may_be_closed_by_its_own_completion, 0, 4);
	tcase_add_test(stale, a_listener_may_be_closed_in_the_middle_of_a_burst);
	tcase_add_test(stale, a_number_used_again_in_the_batch_gets_none_of_the_old_events);
	tcase_add_test(stale, an_open_file_that_outlives_its_handle_sends_no_more_events);
	tcase_add_test(stale, a_batch_not_reaped_yet_is_not_lost);
	TCase *waiting = add_case(suite, "waiting", "fast");
	tcase_add_test(waiting, each_wake_ends_one_wait);
	tcase_add_test(waiting, a_signal_handler_before_the_wait_ends_it);
	tcase_add_test(waiting, another_worker_counts_the_call_that_wakes);
	tcase_add_test(waiting, a_time_that_has_passed_is_no_wait);
	TCase *refused = add_case(suite, "refused", "seccomp");
	tcase_add_loop_test(refused, a_wait_never_ends_before_its_time, 0, 3);
	tcase_add_test(refused, a_full_epoll_set_is_an_error_of_the_operation);
	tcase_add_test(refused, opening_fails_cleanly);
	return suite;
}
