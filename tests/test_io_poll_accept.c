/* SPDX-License-Identifier: MIT */
/*
 * The epoll driver: accepting, connecting, cancelling.
 */
#include "tests/poll_test.h"

/* ---- Accepting ------------------------------------------------------------------------------- */

START_TEST(a_burst_is_accepted_in_bounded_turns_by_one_operation)
{
	struct sockaddr_in address;
	struct weir__handle listener = { .fd = listen_tcp(&address, BURST) };
	struct watch accept = { .op.multi = true };
	int clients[BURST], turns = 0;
	for (int i = 0; i < BURST; i++)
		clients[i] = connect_tcp(&address);
	ck_assert(!begin(&accept, &listener, WEIR__OP_ACCEPT));
	for (int before = 0; accept.calls < BURST; turns++) {
		turn(WEIR_FOREVER);
		ck_assert(accept.op.more);
		ck_assert_int_le(accept.calls - before, 64);
		before = accept.calls;
	}
	ck_assert_int_ge(turns, BURST / 64);
	cancel(&accept);
	ck_assert_int_eq(accept.res, -ECANCELED);
	ck_assert(!accept.op.more);
	ck_assert_int_eq(fcntl(accept.given[0], F_GETFD), FD_CLOEXEC);
	close_given(&accept);
	close_all(clients, BURST);
	close_handle(&listener);
}
END_TEST

START_TEST(a_single_accept_takes_one_client_now_or_later)
{
	struct sockaddr_in address;
	struct weir__handle listener = { .fd = listen_tcp(&address, 8) };
	struct watch accept = { 0 };
	int clients[3];
	ck_assert(!begin(&accept, &listener, WEIR__OP_ACCEPT));
	for (int i = 0; i < 3; i++)
		clients[i] = connect_tcp(&address);
	turns_until(&accept.calls, 1);
	ck_assert(!accept.op.more);
	settle();
	ck_assert_int_eq(accept.calls, 1);
	ck_assert(begin(&accept, &listener, WEIR__OP_ACCEPT));
	ck_assert(begin(&accept, &listener, WEIR__OP_ACCEPT));
	ck_assert(!begin(&accept, &listener, WEIR__OP_ACCEPT));
	cancel(&accept);
	uint64_t before = io->driver.enters;
	ck_assert(!begin(&accept, &listener, WEIR__OP_ACCEPT));
	ck_assert_uint_eq(io->driver.enters, before); /* none waits: that is known */
	close_handle(&listener);
	close_given(&accept);
	close_all(clients, 3);
}
END_TEST

START_TEST(accepts_are_served_in_the_order_they_came)
{
	struct sockaddr_in address;
	struct weir__handle listener = { .fd = listen_tcp(&address, 8) };
	struct watch accepts[3] = { 0 };
	for (int i = 0; i < 3; i++)
		ck_assert(!begin(&accepts[i], &listener, WEIR__OP_ACCEPT));
	for (int i = 0; i < 3; i++) {
		int client = connect_tcp(&address);
		turns_until(&accepts[i].calls, 1);
		close(client);
		for (int j = i + 1; j < 3; j++)
			ck_assert_int_eq(accepts[j].calls, 0);
		close_given(&accepts[i]);
	}
	close_handle(&listener);
}
END_TEST

START_TEST(without_descriptors_accepting_ends_and_no_client_is_lost)
{
	struct sockaddr_in address;
	struct weir__handle listener = { .fd = listen_tcp(&address, 8) };
	struct watch accept = { .op.multi = _i == 0 };
	struct rlimit old, tight;
	int client;
	if (_i == 0)
		begin(&accept, &listener, WEIR__OP_ACCEPT);
	client = connect_tcp(&address);
	getrlimit(RLIMIT_NOFILE, &old);
	tight = old;
	tight.rlim_cur = (rlim_t)client + 1;
	for (int fd = 0; fd < client; fd++) /* no gaps */
		if (fcntl(fd, F_GETFD) < 0)
			tight.rlim_cur = (rlim_t)fd;
	setrlimit(RLIMIT_NOFILE, &tight);
	if (_i == 1)
		begin(&accept, &listener, WEIR__OP_ACCEPT);
	turns_until(&accept.calls, 1);
	ck_assert_int_eq(accept.res, -EMFILE);
	ck_assert(!accept.op.more);
	ck_assert_ptr_null(listener.ops);
	setrlimit(RLIMIT_NOFILE, &old);
	begin(&accept, &listener, WEIR__OP_ACCEPT); /* by no new event: there is none */
	turns_until(&accept.calls, 2);
	ck_assert_int_ge(accept.res, 0);
	close(accept.res);
	close(client);
	close_handle(&listener);
}
END_TEST

static void cancel_at_three(struct watch *watch)
{
	if (watch->calls == 3)
		cancel(watch);
}

START_TEST(a_listener_with_enough_clients_stops_in_the_middle_of_a_burst)
{
	struct sockaddr_in address;
	struct weir__handle listener = { .fd = listen_tcp(&address, 16) };
	struct watch accept = { .op.multi = true, .then = cancel_at_three };
	int clients[10];
	for (int i = 0; i < 10; i++)
		clients[i] = connect_tcp(&address);
	begin(&accept, &listener, WEIR__OP_ACCEPT);
	settle();
	ck_assert_int_eq(accept.calls, 4);
	ck_assert_int_eq(accept.res, -ECANCELED);
	begin(&accept, &listener, WEIR__OP_ACCEPT);
	turns_until(&accept.calls, 11);
	close_given(&accept);
	close_all(clients, 10);
	close_handle(&listener);
}
END_TEST

START_TEST(a_listener_two_drivers_share_starves_neither)
{
	struct sockaddr_in address;
	struct weir__handle handles[2];
	struct watch accepts[2] = { { .op.multi = true }, { .op.multi = true } };
	struct weir__io *ios[2] = { io, NULL };
	int clients[3];
	handles[0] = (struct weir__handle){ .fd = listen_tcp(&address, 8) };
	handles[1] = (struct weir__handle){ .fd = dup(handles[0].fd) };
	ck_assert_int_eq(weir__poll_open(&worker, &ios[1]), 0);
	for (int i = 0; i < 2; i++) {
		io = ios[i];
		begin(&accepts[i], &handles[i], WEIR__OP_ACCEPT);
	}
	clients[0] = connect_tcp(&address);
	io = ios[0];
	turn(WEIR_FOREVER); /* takes it */
	io = ios[1];
	turn(0); /* was told too, finds nothing, waits on */
	ck_assert_int_eq(accepts[0].calls, 1);
	ck_assert_int_eq(accepts[1].calls, 0);
	close_handle(&handles[1]);
	clients[1] = connect_tcp(&address);
	io = ios[0];
	turns_until(&accepts[0].calls, 2);
	close_handle(&handles[0]);
	ios[1]->driver.ops->close(&ios[1]->driver);
	free(ios[1]);
	close_all(accepts[0].given, 2);
	close_all(clients, 2);
}
END_TEST

/* ---- Connecting ------------------------------------------------------------------------------ */

START_TEST(a_connect_ends_when_it_is_through_and_leaves_its_handle)
{
	struct sockaddr_in address;
	int listener = listen_tcp(&address, 8);
	struct weir__handle connecting = { .fd = new_socket(AF_INET) }, ours;
	struct watch connect = { 0 }, recv = { 0 };
	begin_connect(&connect, &connecting, &address, sizeof(address));
	turns_until(&connect.calls, 1);
	ck_assert_int_eq(connect.res, 0);
	ours = connecting; /* as if made for the connection, or new and the old one gone */
	if (_i == 1)
		ours = (struct weir__handle){ .fd = connecting.fd };
	memset(&connecting, 0xee, sizeof(connecting));
	int theirs = accept(listener, NULL, NULL);
	ck_assert(!begin(&recv, &ours, WEIR__OP_RECV));
	put(theirs, "hello");
	turns_until(&recv.calls, 1);
	ck_assert_int_eq(recv.res, 5);
	close_handle(&ours);
	close(theirs);
	close(listener);
}
END_TEST

START_TEST(a_refused_connect_is_econnrefused)
{
	struct sockaddr_in address;
	struct sockaddr_un nobody;
	struct weir__handle tcp = { .fd = new_socket(AF_INET) };
	struct weir__handle local = { .fd = new_socket(AF_UNIX) };
	struct watch connect = { 0 };
	close(listen_tcp(&address, 1));
	begin_connect(&connect, &tcp, &address, sizeof(address));
	turns_until(&connect.calls, 1);
	ck_assert_int_eq(connect.res, -ECONNREFUSED);
	close_handle(&tcp);
	ck_assert(begin_connect(&connect, &local, &nobody, unix_address(&nobody, "nobody")));
	ck_assert_int_eq(connect.res, -ECONNREFUSED);
	close_handle(&local);
}
END_TEST

/* The backlog is full, so the handshake does not end. */
START_TEST(a_connect_without_an_answer_can_be_cancelled)
{
	struct sockaddr_in address;
	int listener = listen_tcp(&address, 0), first = connect_tcp(&address);
	struct weir__handle handle = { .fd = new_socket(AF_INET) };
	struct watch connect = { 0 };
	ck_assert(!begin_connect(&connect, &handle, &address, sizeof(address)));
	settle();
	ck_assert_int_eq(connect.calls, 0);
	cancel(&connect);
	ck_assert_int_eq(connect.res, -ECANCELED);
	close_handle(&handle);
	close(first);
	close(listener);
}
END_TEST

START_TEST(a_connect_waits_for_room_in_a_unix_backlog)
{
	enum { CONNS = 6 };
	struct sockaddr_un address;
	socklen_t len = unix_address(&address, "full");
	int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), over = 0;
	struct weir__handle handles[CONNS];
	struct watch connects[CONNS] = { 0 };
	ck_assert_int_eq(bind(listener, (struct sockaddr *)&address, len), 0);
	ck_assert_int_eq(listen(listener, 0), 0);
	for (int i = 0; i < CONNS; i++) {
		handles[i] = (struct weir__handle){ .fd = new_socket(AF_UNIX) };
		over += begin_connect(&connects[i], &handles[i], &address, len);
	}
	ck_assert_int_eq(over, 1);
	settle();
	cancel(&connects[2]);
	cancel(&connects[CONNS - 1]);
	ck_assert_int_eq(connects[2].res, -ECANCELED);
	for (int through = 1; through < CONNS - 2; through++) {
		close(accept(listener, NULL, NULL)); /* room for one more, which nobody announces */
		while (io->driver.completions < (uint64_t)through + 3)
			turn(WEIR_FOREVER);
	}
	for (int i = 0; i < CONNS; i++) {
		ck_assert_int_eq(connects[i].calls, 1);
		ck_assert_int_eq(connects[i].res, i == 2 || i == CONNS - 1 ? -ECANCELED : 0);
		close_handle(&handles[i]);
	}
	close(listener);
}
END_TEST

/* ---- Cancelling ------------------------------------------------------------------------------ */

START_TEST(a_cancelled_receive_is_over_and_what_comes_later_waits_for_the_next)
{
	struct weir__handle ours;
	struct watch recv = { 0 };
	int theirs;
	pair(_i, &ours, &theirs);
	ck_assert(!begin(&recv, &ours, WEIR__OP_RECV));
	cancel(&recv);
	ck_assert_int_eq(recv.calls, 1);
	ck_assert_int_eq(recv.res, -ECANCELED);
	ck_assert_int_eq(recv.op.state, WEIR__OP_FREE);
	cancel(&recv); /* too late: nothing */
	ck_assert_int_eq(recv.calls, 1);
	put(theirs, "hello");
	settle();
	ck_assert_int_eq(recv.calls, 1);
	ck_assert(begin(&recv, &ours, WEIR__OP_RECV));
	ck_assert_int_eq(recv.res, 5);
	close_handle(&ours);
	close(theirs);
}
END_TEST

/* ---- The suite ------------------------------------------------------------------------------- */

Suite *io_poll_accept_suite(void)
{
	Suite *suite = suite_create("io_poll_accept");
	TCase *accepting = add_case(suite, "accepting", "fast");
	tcase_add_test(accepting, a_burst_is_accepted_in_bounded_turns_by_one_operation);
	tcase_add_test(accepting, a_single_accept_takes_one_client_now_or_later);
	tcase_add_test(accepting, accepts_are_served_in_the_order_they_came);
	tcase_add_test(accepting, a_listener_with_enough_clients_stops_in_the_middle_of_a_burst);
	tcase_add_test(accepting, a_listener_two_drivers_share_starves_neither);
	/* not under memcheck: valgrind plays RLIMIT_NOFILE by closing what the kernel has accepted
	 */
	TCase *without = add_case(suite, "without_descriptors", "kernel_limits");
	tcase_add_loop_test(without, without_descriptors_accepting_ends_and_no_client_is_lost, 0,
			    2);
	TCase *connecting = add_case(suite, "connecting", "fast");
	tcase_add_loop_test(connecting, a_connect_ends_when_it_is_through_and_leaves_its_handle, 0,
			    2);
	tcase_add_test(connecting, a_refused_connect_is_econnrefused);
	tcase_add_test(connecting, a_connect_without_an_answer_can_be_cancelled);
	tcase_add_test(connecting, a_connect_waits_for_room_in_a_unix_backlog);
	TCase *cancelling = add_case(suite, "cancelling", "fast");
	tcase_add_loop_test(cancelling,
			    a_cancelled_receive_is_over_and_what_comes_later_waits_for_the_next, 0,
			    2);
	return suite;
}
