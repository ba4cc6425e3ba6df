/* SPDX-License-Identifier: MIT */
/*
 * The epoll driver: receiving, sending, and what they cost in system calls.
 */
#include "tests/poll_test.h"

/* ---- Receiving ------------------------------------------------------------------------------- */

START_TEST(what_has_arrived_is_received_at_once)
{
	struct weir__handle ours;
	struct watch recv = { 0 };
	int theirs;
	pair(_i, &ours, &theirs);
	put(theirs, "hello");
	ck_assert(begin(&recv, &ours, WEIR__OP_RECV));
	ck_assert_int_eq(recv.res, 5);
	ck_assert_mem_eq(recv.data, "hello", 5);
	ck_assert_uint_eq(io->driver.submissions, 1);
	ck_assert_uint_eq(io->driver.completions, 1);
	ck_assert_uint_eq(io->driver.enters, 1);
	close_handle(&ours);
	close(theirs);
}
END_TEST

START_TEST(what_arrives_later_is_received_when_it_does)
{
	struct weir__handle ours;
	struct watch recv = { 0 };
	int theirs;
	pair(_i, &ours, &theirs);
	ck_assert(!begin(&recv, &ours, WEIR__OP_RECV));
	settle();
	ck_assert_int_eq(recv.calls, 0);
	put(theirs, "later");
	turns_until(&recv.calls, 1);
	ck_assert_int_eq(recv.res, 5);
	ck_assert_ptr_null(ours.ops);
	settle();
	ck_assert_int_eq(recv.calls, 1);
	ck_assert_uint_eq(io->driver.completions, 1);
	close_handle(&ours);
	close(theirs);
}
END_TEST

static uint64_t objects_in_use(void)
{
	struct weir_pool_stats stats[WEIR_CLASS_COUNT + 16];
	size_t n = weir_pool_stats_get(stats, sizeof(stats) / sizeof(*stats));
	uint64_t sum = 0;
	for (size_t i = 0; i < n; i++)
		sum += stats[i].in_use;
	return sum;
}

START_TEST(a_connection_that_waits_owns_no_buffer)
{
	enum { CONNS = 50 };
	static struct weir__handle ours[CONNS];
	static struct watch recv[CONNS];
	int theirs[CONNS];
	uint64_t before = objects_in_use();
	for (int i = 0; i < CONNS; i++) {
		unix_pair(&ours[i], &theirs[i]);
		ck_assert(!begin(&recv[i], &ours[i], WEIR__OP_RECV));
	}
	ck_assert_uint_eq(objects_in_use(), before);
	for (int i = 0; i < CONNS; i++) {
		close_handle(&ours[i]);
		close(theirs[i]);
	}
}
END_TEST

START_TEST(the_end_of_the_stream_is_seen_behind_the_data_and_ever_after)
{
	struct weir__handle ours;
	struct watch recv = { 0 };
	int theirs;
	pair(_i & 1, &ours, &theirs);
	if (_i & 2) { /* in one event, at a descriptor that is watched already */
		ck_assert(!begin(&recv, &ours, WEIR__OP_RECV));
		settle();
		put(theirs, "last");
		close(theirs);
		turns_until(&recv.calls, 1);
	} else {
		put(theirs, "last");
		close(theirs);
		ck_assert(begin(&recv, &ours, WEIR__OP_RECV));
	}
	ck_assert_int_eq(recv.res, 4);
	for (int calls = 2; calls < 5; calls++) {
		begin(&recv, &ours, WEIR__OP_RECV);
		turns_until(&recv.calls, calls);
		ck_assert_int_eq(recv.res, 0);
	}
	close_handle(&ours);
}
END_TEST

START_TEST(a_half_closed_peer_can_still_be_sent_to)
{
	struct weir__handle ours;
	struct watch recv = { 0 }, send = { 0 };
	char got[8];
	int theirs;
	pair(_i, &ours, &theirs);
	ck_assert(!begin(&recv, &ours, WEIR__OP_RECV));
	shutdown(theirs, SHUT_WR);
	turns_until(&recv.calls, 1);
	ck_assert_int_eq(recv.res, 0);
	ck_assert(begin_send(&send, &ours, "answer", 6));
	ck_assert_int_eq(send.res, 6);
	ck_assert_int_eq(read(theirs, got, sizeof(got)), 6);
	close_handle(&ours);
	close(theirs);
}
END_TEST

START_TEST(a_reset_is_econnreset_waiting_or_not)
{
	struct weir__handle ours;
	struct watch recv = { 0 };
	int theirs;
	tcp_pair(&ours, &theirs);
	if (_i == 0)
		ck_assert(!begin(&recv, &ours, WEIR__OP_RECV));
	reset(theirs);
	if (_i == 1)
		begin(&recv, &ours, WEIR__OP_RECV);
	turns_until(&recv.calls, 1);
	ck_assert_int_eq(recv.res, -ECONNRESET);
	close_handle(&ours);
}
END_TEST

START_TEST(urgent_data_does_not_hide_what_follows)
{
	struct weir__handle ours;
	struct watch recv = { 0 };
	int theirs;
	tcp_pair(&ours, &theirs);
	ck_assert(!begin(&recv, &ours, WEIR__OP_RECV));
	settle();
	put(theirs, "ab");
	ck_assert_int_eq(send(theirs, "!", 1, MSG_OOB), 1);
	put(theirs, "cd");
	turns_until(&recv.calls, 1);
	for (int calls = 2; recv.bytes < 4; calls++) {
		begin(&recv, &ours, WEIR__OP_RECV);
		turns_until(&recv.calls, calls);
	}
	ck_assert_mem_eq(recv.data, "abcd", 4);
	close_handle(&ours);
	close(theirs);
}
END_TEST

static void put_with_descriptor(int fd, const char *text, int carried)
{
	union {
		char room[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} control = { { 0 } };
	struct iovec part = { (void *)text, strlen(text) };
	struct msghdr message = { .msg_iov = &part,
				  .msg_iovlen = 1,
				  .msg_control = control.room,
				  .msg_controllen = sizeof(control.room) };
	struct cmsghdr *header = CMSG_FIRSTHDR(&message);
	header->cmsg_level = SOL_SOCKET;
	header->cmsg_type = SCM_RIGHTS;
	header->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(header), &carried, sizeof(carried));
	ck_assert_int_eq(sendmsg(fd, &message, 0), (ssize_t)strlen(text));
}

START_TEST(descriptors_in_a_unix_stream_do_not_hide_what_follows)
{
	struct weir__handle ours;
	struct watch recv = { 0 };
	int theirs;
	unix_pair(&ours, &theirs);
	ck_assert(!begin(&recv, &ours, WEIR__OP_RECV));
	settle();
	put_with_descriptor(theirs, "ab", STDERR_FILENO);
	put(theirs, "cd");
	turns_until(&recv.calls, 1);
	ck_assert_int_eq(recv.res, 2); /* the kernel stops there: else this tests nothing */
	begin(&recv, &ours, WEIR__OP_RECV);
	turns_until(&recv.calls, 2);
	ck_assert_mem_eq(recv.data, "abcd", 4);
	close_handle(&ours);
	close(theirs);
}
END_TEST

START_TEST(a_full_buffer_means_there_may_be_more)
{
	struct weir__handle ours;
	struct watch recv = { 0 };
	char *data = calloc(1, 2 * 4096);
	int theirs;
	pair(_i, &ours, &theirs);
	ck_assert(!begin(&recv, &ours, WEIR__OP_RECV));
	ck_assert_int_eq(send(theirs, data, 2 * 4096, 0), 2 * 4096);
	turns_until(&recv.calls, 1);
	while (recv.bytes < 2 * 4096)
		ck_assert(begin(&recv, &ours, WEIR__OP_RECV));
	ck_assert(!begin(&recv, &ours, WEIR__OP_RECV));
	close_handle(&ours);
	close(theirs);
	free(data);
}
END_TEST

START_TEST(the_second_group_has_bulk_buffers)
{
	struct weir__handle ours;
	struct watch recv = { .op.group = 1 };
	char *data = calloc(1, 65536);
	int theirs;
	unix_pair(&ours, &theirs);
	ck_assert_int_eq(send(theirs, data, 65536, 0), 65536);
	ck_assert(begin(&recv, &ours, WEIR__OP_RECV));
	ck_assert_int_eq(recv.res, 65536);
	close_handle(&ours);
	close(theirs);
	free(data);
}
END_TEST

START_TEST(no_memory_is_enomem_and_loses_no_data)
{
	struct weir__handle ours;
	struct watch recv = { 0 };
	int theirs;
	unix_pair(&ours, &theirs);
	if (_i == 0)
		put(theirs, "here");
	weir_mem_fail_after(1);
	begin(&recv, &ours, WEIR__OP_RECV);
	turn(0);
	ck_assert_int_eq(recv.res, -ENOMEM);
	weir_mem_fail_after(0);
	if (_i == 1) {
		ck_assert(!begin(&recv, &ours, WEIR__OP_RECV));
		weir_mem_fail_after(1);
		put(theirs, "here");
		turns_until(&recv.calls, 2);
		ck_assert_int_eq(recv.res, -ENOMEM);
		weir_mem_fail_after(0);
	}
	ck_assert(begin(&recv, &ours, WEIR__OP_RECV));
	ck_assert_mem_eq(recv.data, "here", 4);
	ck_assert_uint_ge(io->driver.recv_empty, 1);
	close_handle(&ours);
	close(theirs);
}
END_TEST

/* ---- Cost ------------------------------------------------------------------------------------ */

START_TEST(a_request_costs_a_recv_a_send_and_its_share_of_a_wait)
{
	enum { CONNS = 32, ROUNDS = 5 };
	static struct weir__handle ours[CONNS];
	static struct watch recv[CONNS], send[CONNS];
	char got[8];
	int theirs[CONNS];
	for (int i = 0; i < CONNS; i++) {
		tcp_pair(&ours[i], &theirs[i]);
		ck_assert(!begin(&recv[i], &ours[i], WEIR__OP_RECV));
	}
	settle();
	for (int round = 1; round <= ROUNDS; round++) {
		for (int i = 0; i < CONNS; i++)
			put(theirs[i], "request");
		uint64_t before = io->driver.enters;
		turn(WEIR_FOREVER); /* loopback: all have arrived */
		for (int i = 0; i < CONNS; i++) {
			ck_assert_int_eq(recv[i].calls, round);
			ck_assert(begin_send(&send[i], &ours[i], "answer", 6));
			ck_assert(!begin(&recv[i], &ours[i], WEIR__OP_RECV));
		}
		ck_assert_uint_eq(io->driver.enters - before, 2 * CONNS + 1);
		for (int i = 0; i < CONNS; i++)
			ck_assert_int_eq(read(theirs[i], got, sizeof(got)), 6);
	}
	for (int i = 0; i < CONNS; i++) {
		close_handle(&ours[i]);
		close(theirs[i]);
	}
}
END_TEST

START_TEST(a_look_without_waiting_is_not_taken_on_every_turn)
{
	uint64_t before = io->driver.enters;
	worker.now_ns = weir__clock_ns();
	io->driver.ops->submit_and_wait(&io->driver, 0);
	ck_assert_uint_eq(io->driver.enters, before + 1);
	for (int i = 0; i < 10; i++)
		io->driver.ops->submit_and_wait(&io->driver, 0);
	ck_assert_uint_eq(io->driver.enters, before + 1);
	worker.now_ns += WEIR_MS;
	io->driver.ops->submit_and_wait(&io->driver, 0);
	ck_assert_uint_eq(io->driver.enters, before + 2);
}
END_TEST

/* ---- Sending --------------------------------------------------------------------------------- */

START_TEST(a_big_send_outlasts_a_slow_reader_and_is_one_completion)
{
	struct weir__handle ours;
	struct watch send = { 0 };
	char *data = pattern(BIG_BYTES), *got = malloc(BIG_BYTES);
	size_t len = 0;
	int theirs;
	pair(_i, &ours, &theirs);
	ck_assert(!begin_send(&send, &ours, data, BIG_BYTES));
	while (len < BIG_BYTES) {
		ssize_t n = recv(theirs, got + len,
				 BIG_BYTES - len < 60000 ? BIG_BYTES - len : 60000, MSG_DONTWAIT);
		if (n > 0)
			len += (size_t)n;
		turn(n > 0 ? 0 : WEIR_MS);
	}
	turns_until(&send.calls, 1);
	ck_assert_int_eq(send.res, BIG_BYTES);
	ck_assert_mem_eq(got, data, BIG_BYTES);
	close_handle(&ours);
	close(theirs);
	free(data);
	free(got);
}
END_TEST

START_TEST(a_send_cancelled_midway_tells_what_has_gone)
{
	struct weir__handle ours;
	struct watch send = { 0 };
	char *data = pattern(BIG_BYTES), *got = malloc(BIG_BYTES);
	int theirs;
	pair(_i, &ours, &theirs);
	ck_assert(!begin_send(&send, &ours, data, BIG_BYTES));
	cancel(&send);
	ck_assert_int_eq(send.calls, 1);
	ck_assert_int_gt(send.res, 0);
	ck_assert_int_lt(send.res, BIG_BYTES);
	ck_assert_ptr_null(ours.ops);
	int gone = send.res;
	uint64_t before = io->driver.enters;
	ck_assert(
		!begin_send(&send, &ours, "more", 4)); /* no room for a byte of it: that is known */
	ck_assert_uint_eq(io->driver.enters, before);
	cancel(&send);
	ck_assert_int_eq(send.res, -ECANCELED);
	close_handle(&ours);
	ck_assert_int_eq(recv(theirs, got, BIG_BYTES, MSG_WAITALL), gone);
	ck_assert_mem_eq(got, data, (size_t)gone);
	close(theirs);
	free(data);
	free(got);
}
END_TEST

START_TEST(a_send_to_nobody_is_epipe_and_no_signal)
{
	struct weir__handle ours;
	struct watch send = { 0 };
	int theirs;
	unix_pair(&ours, &theirs);
	close(theirs);
	ck_assert(begin_send(&send, &ours, "x", 1));
	ck_assert_int_eq(send.res, -EPIPE);
	close_handle(&ours);
}
END_TEST

START_TEST(a_send_broken_midway_reports_the_bytes_then_the_error)
{
	struct weir__handle ours;
	struct watch send = { 0 };
	char *data = pattern(BIG_BYTES);
	int theirs;
	pair(_i, &ours, &theirs);
	ck_assert(!begin_send(&send, &ours, data, BIG_BYTES));
	settle();
	if (_i == 0)
		close(theirs);
	else
		reset(theirs);
	turns_until(&send.calls, 1);
	ck_assert_int_gt(send.res, 0);
	ck_assert_int_lt(send.res, BIG_BYTES);
	ck_assert(begin_send(&send, &ours, data, 1));
	ck_assert_int_lt(send.res, 0);
	close_handle(&ours);
	free(data);
}
END_TEST

START_TEST(both_directions_wait_independently)
{
	struct weir__handle ours;
	struct watch recv = { 0 }, send = { 0 };
	char *data = pattern(BIG_BYTES), *got = malloc(BIG_BYTES);
	int theirs;
	pair(_i, &ours, &theirs);
	ck_assert(!begin(&recv, &ours, WEIR__OP_RECV));
	ck_assert(!begin_send(&send, &ours, data, BIG_BYTES));
	put(theirs, "in");
	turns_until(&recv.calls, 1);
	ck_assert_int_eq(send.calls, 0);
	ck_assert(!begin(&recv, &ours, WEIR__OP_RECV));
	for (size_t len = 0; len < BIG_BYTES; turn(0)) {
		ssize_t n = read(theirs, got, BIG_BYTES);
		ck_assert_int_gt(n, 0);
		len += (size_t)n;
	}
	turns_until(&send.calls, 1);
	ck_assert_int_eq(send.res, BIG_BYTES);
	ck_assert_int_eq(recv.calls, 1);
	close_handle(&ours);
	ck_assert_int_eq(recv.res, -ECANCELED);
	close(theirs);
	free(data);
	free(got);
}
END_TEST

START_TEST(shutdown_ends_the_sending_half_only)
{
	struct weir__handle ours;
	struct watch stop = { 0 }, recv = { 0 };
	char got[4];
	int theirs;
	pair(_i, &ours, &theirs);
	ck_assert(begin(&stop, &ours, WEIR__OP_SHUTDOWN));
	ck_assert_int_eq(stop.res, 0);
	ck_assert_int_eq(read(theirs, got, sizeof(got)), 0);
	put(theirs, "still");
	begin(&recv, &ours, WEIR__OP_RECV);
	turns_until(&recv.calls, 1);
	ck_assert_int_eq(recv.res, 5);
	close_handle(&ours);
	close(theirs);
	ours = (struct weir__handle){ .fd = new_socket(AF_INET) };
	ck_assert(begin(&stop, &ours, WEIR__OP_SHUTDOWN));
	ck_assert_int_eq(stop.res, -ENOTCONN);
	close_handle(&ours);
}
END_TEST

/* ---- The suite ------------------------------------------------------------------------------- */

Suite *io_poll_suite(void)
{
	Suite *suite = suite_create("io_poll");
	TCase *receiving = add_case(suite, "receiving", "fast");
	tcase_add_loop_test(receiving, what_has_arrived_is_received_at_once, 0, 2);
	tcase_add_loop_test(receiving, what_arrives_later_is_received_when_it_does, 0, 2);
	tcase_add_test(receiving, a_connection_that_waits_owns_no_buffer);
	tcase_add_loop_test(receiving, the_end_of_the_stream_is_seen_behind_the_data_and_ever_after,
			    0, 4);
	tcase_add_loop_test(receiving, a_half_closed_peer_can_still_be_sent_to, 0, 2);
	tcase_add_loop_test(receiving, a_reset_is_econnreset_waiting_or_not, 0, 2);
	tcase_add_test(receiving, urgent_data_does_not_hide_what_follows);
	tcase_add_test(receiving, descriptors_in_a_unix_stream_do_not_hide_what_follows);
	tcase_add_loop_test(receiving, a_full_buffer_means_there_may_be_more, 0, 2);
	tcase_add_test(receiving, the_second_group_has_bulk_buffers);
	tcase_add_loop_test(receiving, no_memory_is_enomem_and_loses_no_data, 0, 2);
	TCase *cost = add_case(suite, "cost", "fast");
	tcase_add_test(cost, a_request_costs_a_recv_a_send_and_its_share_of_a_wait);
	tcase_add_test(cost, a_look_without_waiting_is_not_taken_on_every_turn);
	TCase *sending = add_case(suite, "sending", "fast");
	tcase_add_loop_test(sending, a_big_send_outlasts_a_slow_reader_and_is_one_completion, 0, 2);
	tcase_add_loop_test(sending, a_send_cancelled_midway_tells_what_has_gone, 0, 2);
	tcase_add_test(sending, a_send_to_nobody_is_epipe_and_no_signal);
	tcase_add_loop_test(sending, a_send_broken_midway_reports_the_bytes_then_the_error, 0, 2);
	tcase_add_loop_test(sending, both_directions_wait_independently, 0, 2);
	tcase_add_loop_test(sending, shutdown_ends_the_sending_half_only, 0, 2);
	return suite;
}
