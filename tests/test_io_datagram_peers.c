/* SPDX-License-Identifier: MIT */
/*
 * Whom a datagram socket talks to: peers, addresses that are none, shared, stale or nameless, and
 * what of sockets is the system's own.
 */
#include "tests/datagram_test.h"

#include <sys/resource.h>
#include <sys/un.h>

/* ---- Peers ----------------------------------------------------------------------------------- */

static int connected(void *arg)
{
	int i = (int)(intptr_t)arg;
	weir_auto_dgram other = NULL;
	struct pair pair;
	open_pair(&pair, i);
	ck_assert_int_eq(weir_dgram_send(pair.near, "x", 1, NULL),
			 i < 2 ? -EDESTADDRREQ : -ENOTCONN);
	ck_assert_int_eq(weir_dgram_connect(pair.near, weir_dgram_address(pair.far)), 0);
	send_text(pair.near, "to the peer", NULL);
	expect_text(pair.far, "to the peer");
	ck_assert_int_eq(weir_dgram_open(&other, client_address(i)), 0);
	ssize_t n = weir_dgram_send(other, "stranger", 8, &pair.near_address);
	ck_assert_int_eq(n, i < 2 ? 8 : -EPERM);
	send_text(pair.far, "from the peer", &pair.near_address);
	expect_text(pair.near, "from the peer");
	close_pair(&pair);
	return 0;
}

START_TEST(a_socket_with_a_peer_hears_nobody_else)
{
	run_case(connected, _i);
}
END_TEST

static int refused(void *arg)
{
	int i = (int)(intptr_t)arg;
	struct pair pair;
	char address[64], got[8];
	open_pair(&pair, i);
	ck_assert_int_eq(weir_dgram_connect(pair.near, weir_dgram_address(pair.far)), 0);
	snprintf(address, sizeof(address), "%s", weir_dgram_address(pair.far));
	weir_dgram_close(pair.far);
	for (int round = 0; round < 2; round++) {
		send_text(pair.near, "anybody?", NULL);
		ck_assert_int_eq(weir_dgram_read(pair.near, got, sizeof(got), NULL), -ECONNREFUSED);
	}
	ck_assert_int_eq(weir_dgram_open(&pair.far, address), 0);
	send_text(pair.near, "again", NULL);
	expect_text(pair.far, "again");
	send_text(pair.far, "yes", &pair.near_address);
	expect_text(pair.near, "yes");
	close_pair(&pair);
	return 0;
}

START_TEST(a_refusal_by_the_network_is_told_once_and_the_socket_lives_on)
{
	run_case(refused, _i);
}
END_TEST

static int nobody(void *arg)
{
	static const char *const gone[] = { "unix:@weir-nobody", "unix:/tmp/weir-nobody" };
	weir_auto_dgram near = NULL;
	struct weir_address to;
	(void)arg;
	ck_assert_int_eq(weir_dgram_open(&near, "unix:"), 0);
	for (int i = 0; i < 2; i++) {
		int expected = i ? -ENOENT : -ECONNREFUSED;
		parse(&to, gone[i]);
		ck_assert_int_eq(weir_dgram_send(near, "x", 1, &to), expected);
		ck_assert_int_eq(weir_dgram_connect(near, gone[i]), expected);
	}
	return 0;
}

START_TEST(a_unix_socket_nobody_has_refuses_at_once)
{
	run(nobody);
}
END_TEST

/* ---- Addresses ------------------------------------------------------------------------------- */

static int bad_addresses(void *arg)
{
	static const char *const bad[] = {
		"",	 "127.0.0.1", "localhost:80",	"127.0.0.1:65536",
		"[::1]", "unix:@",    "udp:127.0.0.1:0"
	};
	weir_dgram *dgram = NULL, *second = NULL;
	struct weir_address address = { .len = 7 }, v6;
	char none[4];
	(void)arg;
	for (size_t i = 0; i < COUNT(bad); i++) {
		ck_assert_int_eq(weir_dgram_open(&dgram, bad[i]), -EINVAL);
		ck_assert_int_eq(weir_address_parse(&address, bad[i]), -EINVAL);
	}
	ck_assert_uint_eq(address.len, 7);
	ck_assert_int_eq(weir_dgram_open(&dgram, NULL), -EINVAL);
	ck_assert_int_eq(weir_dgram_open(&dgram, "127.0.0.1:0", .bytes_max = 65536), -EINVAL);
	ck_assert_int_eq(weir_dgram_open(&dgram, "unix:", .shared = true), -EOPNOTSUPP);
	ck_assert_ptr_null(dgram);
	ck_assert_int_eq(weir_dgram_open(&dgram, "127.0.0.1:0"), 0);
	ck_assert_int_eq(weir_dgram_open(&second, weir_dgram_address(dgram)), -EADDRINUSE);
	ck_assert_int_eq(weir_dgram_open(&second, weir_dgram_address(dgram), .shared = true),
			 -EADDRINUSE);
	parse(&v6, "[::1]:9");
	ck_assert_int_eq(weir_dgram_send(dgram, "x", 1, &v6), -EAFNOSUPPORT);
	ck_assert_int_eq(weir_dgram_connect(dgram, "[::1]:9"), -EAFNOSUPPORT);
	ck_assert_int_eq(weir_dgram_connect(dgram, "nonsense"), -EINVAL);
	address.len = 0;
	ck_assert_int_eq(weir_dgram_send(dgram, "x", 1, &address), -EINVAL);
	ck_assert_int_eq(weir_address_format(&address, none, sizeof(none)), -ENOTSUP);
	address.len = 200;
	ck_assert_int_eq(weir_dgram_send(dgram, "x", 1, &address), -EINVAL);
	ck_assert_int_eq(weir_address_format(&address, none, sizeof(none)), -ENOTSUP);
	ck_assert_int_eq(weir_address_format(&v6, none, sizeof(none)), -ENOSPC);
	weir_dgram_close(dgram);
	weir_dgram_close(NULL);
	return 0;
}

START_TEST(what_is_no_address_is_refused_before_anything_happens)
{
	run(bad_addresses);
}
END_TEST

static int shared(void *arg)
{
	weir_auto_dgram one = NULL;
	weir_auto_dgram two = NULL;
	weir_auto_dgram alone = NULL;
	(void)arg;
	ck_assert_int_eq(weir_dgram_open(&one, "127.0.0.1:0", .shared = true), 0);
	ck_assert_int_eq(weir_dgram_open(&two, weir_dgram_address(one), .shared = true), 0);
	ck_assert_str_eq(weir_dgram_address(one), weir_dgram_address(two));
	ck_assert_int_eq(weir_dgram_open(&alone, weir_dgram_address(one)), -EADDRINUSE);
	return 0;
}

START_TEST(an_address_is_shared_by_those_who_all_say_so)
{
	run(shared);
}
END_TEST

static int foreign(void *arg)
{
	struct weir_address to;
	char byte;
	parse(&to, "127.0.0.1:9");
	ck_assert_int_eq(weir_dgram_send(arg, "x", 1, &to), -EXDEV);
	ck_assert_int_eq(weir_dgram_read(arg, &byte, 1, NULL), -EXDEV);
	ck_assert_int_eq(weir_dgram_connect(arg, "127.0.0.1:9"), -EXDEV);
	return 0;
}

static int from_elsewhere(void *arg)
{
	weir_auto_dgram dgram = NULL;
	(void)arg;
	ck_assert_int_eq(weir_dgram_open(&dgram, "127.0.0.1:0"), 0);
	WEIR_SCOPE(other, WEIR_FOREVER);
	ck_assert_int_eq(weir_spawn(&other, foreign, dgram, .worker = WEIR_ON_WORKER(1)), 0);
	return weir_scope_wait(&other);
}

START_TEST(a_task_of_another_worker_is_refused)
{
	run_on(2, from_elsewhere, NULL);
}
END_TEST

/* ---- The system's own ------------------------------------------------------------------------ */

static int stale(void *arg)
{
	weir_dgram *dgram = NULL, *second = NULL;
	char text[100];
	(void)arg;
	snprintf(text, sizeof(text), "%s", address_of(3));
	for (int i = 0; i < 2; i++) {
		ck_assert_int_eq(weir_dgram_open(&dgram, text), 0);
		ck_assert_int_eq(weir_dgram_open(&second, text), -EADDRINUSE);
		struct sockaddr_un un = { .sun_family = AF_UNIX };
		snprintf(un.sun_path, sizeof(un.sun_path), "%s", text + strlen("unix:"));
		weir_dgram_close(dgram);
		/* as a process that was killed leaves it */
		int fd = socket(AF_UNIX, SOCK_DGRAM, 0);
		ck_assert_int_eq(bind(fd, (struct sockaddr *)&un, sizeof(un)), 0);
		close(fd);
	}
	ck_assert_int_eq(unlink(text + strlen("unix:")), 0);
	return 0;
}

START_TEST(a_stale_file_is_replaced_and_a_live_one_is_not)
{
	run(stale);
}
END_TEST

static int nameless(void *arg)
{
	weir_auto_dgram far = NULL;
	struct weir_address from;
	struct sockaddr_un un = { .sun_family = AF_UNIX };
	char text[128], got[8];
	(void)arg;
	ck_assert_int_eq(weir_dgram_open(&far, address_of(3)), 0);
	snprintf(un.sun_path, sizeof(un.sun_path), "%s", weir_dgram_address(far) + strlen("unix:"));
	int fd = socket(AF_UNIX, SOCK_DGRAM, 0);
	ck_assert_int_eq(sendto(fd, "who", 3, 0, (struct sockaddr *)&un, sizeof(un)), 3);
	ck_assert_int_eq(weir_dgram_read(far, got, sizeof(got), &from), 3);
	ck_assert_int_eq(weir_address_format(&from, text, sizeof(text)), 0);
	ck_assert_str_eq(text, "unix:");
	ck_assert_int_lt(weir_dgram_send(far, "you", 3, &from), 0);
	close(fd);
	return 0;
}

START_TEST(a_sender_without_a_name_has_none)
{
	run(nameless);
}
END_TEST

static int long_unix(void *arg)
{
	struct pair pair;
	weir_auto_buf buf = WEIR_BUF_INIT;
	char *data = pattern(100000);
	(void)arg;
	open_pair(&pair, 2);
	ck_assert_int_eq(weir_dgram_send(pair.near, data, 100000, &pair.far_address), 100000);
	ck_assert_int_eq(weir_dgram_recv(pair.far, &buf, NULL), -EMSGSIZE);
	ck_assert_uint_eq(buf.len, 65535);
	ck_assert(memcmp(buf.data, data, 65535) == 0);
	close_pair(&pair);
	free(data);
	return 0;
}

START_TEST(a_unix_datagram_longer_than_udp_s_is_cut)
{
	run(long_unix);
}
END_TEST

static int no_descriptors(void *arg)
{
	struct rlimit limit, none;
	weir_dgram *dgram = NULL;
	(void)arg;
	ck_assert_int_eq(getrlimit(RLIMIT_NOFILE, &limit), 0);
	none = limit;
	none.rlim_cur = 0;
	ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &none), 0);
	for (size_t i = 0; i < COUNT(addresses); i++)
		ck_assert_int_eq(weir_dgram_open(&dgram, address_of((int)i)), -EMFILE);
	ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &limit), 0);
	ck_assert_ptr_null(dgram);
	ck_assert_int_eq(weir_dgram_open(&dgram, addresses[0]), 0);
	weir_dgram_close(dgram);
	return 0;
}

START_TEST(without_descriptors_opening_fails_and_nothing_is_left)
{
	run(no_descriptors);
}
END_TEST

static int by_name(void *arg)
{
	struct pair pair;
	char text[64];
	(void)arg;
	open_pair(&pair, 0);
	snprintf(text, sizeof(text), "localhost%s", strrchr(weir_dgram_address(pair.far), ':'));
	ck_assert_int_eq(weir_dgram_connect(pair.near, text), 0);
	send_text(pair.near, "by name", NULL);
	expect_text(pair.far, "by name");
	ck_assert_int_lt(weir_dgram_connect(pair.near, "host.invalid:80"), 0);
	close_pair(&pair);
	return 0;
}

START_TEST(a_peer_may_be_named)
{
	run(by_name);
}
END_TEST

static int options(void *arg)
{
	struct pair pair;
	int bytes = 0;
	socklen_t len = sizeof(bytes);
	(void)arg;
	open_pair(&pair, 0);
	int fd = weir_dgram_fd(pair.far);
	ck_assert_int_eq(getsockopt(fd, SOL_SOCKET, SO_RCVBUF, &bytes, &len), 0);
	ck_assert_int_gt(bytes, 0);
	close_pair(&pair);
	return 0;
}

START_TEST(its_descriptor_takes_options)
{
	run(options);
}
END_TEST

Suite *io_datagram_peers_suite(void)
{
	int all = COUNT(addresses), inet = 2;
	Suite *suite = suite_create("io_datagram_peers");
	TCase *naming = add_other_case(suite, "naming");
	tcase_add_loop_test(naming, a_socket_with_a_peer_hears_nobody_else, 0, all);
	tcase_add_loop_test(naming, a_refusal_by_the_network_is_told_once_and_the_socket_lives_on,
			    0, inet);
	tcase_add_test(naming, a_unix_socket_nobody_has_refuses_at_once);
	tcase_add_test(naming, what_is_no_address_is_refused_before_anything_happens);
	tcase_add_test(naming, an_address_is_shared_by_those_who_all_say_so);
	tcase_add_test(naming, a_task_of_another_worker_is_refused);
	TCase *real = add_case(suite, "real");
	tcase_set_tags(real, "real"); /* files, limits, options and names of the system's */
	tcase_add_test(real, a_stale_file_is_replaced_and_a_live_one_is_not);
	tcase_add_test(real, a_sender_without_a_name_has_none);
	tcase_add_test(real, a_unix_datagram_longer_than_udp_s_is_cut);
	tcase_add_test(real, without_descriptors_opening_fails_and_nothing_is_left);
	tcase_add_test(real, a_peer_may_be_named);
	tcase_add_test(real, its_descriptor_takes_options);
	return suite;
}
