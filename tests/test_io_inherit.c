/* SPDX-License-Identifier: MIT */
/*
 * test_io_inherit.c: listening sockets that come from outside, by number or by the name a service
 * manager gave them; and a process that takes over from another while clients come. Runs on the
 * driver that WEIR_DRIVER names.
 */
#include "tests/net_test.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>

static int listening(void)
{
	struct sockaddr_in address = { .sin_family = AF_INET };
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	ck_assert_int_eq(bind(fd, (struct sockaddr *)&address, sizeof address), 0);
	ck_assert_int_eq(listen(fd, 100), 0);
	return fd;
}

static const char *name_of(int fd)
{
	static char name[16];

	snprintf(name, sizeof name, "fd:%d", fd);
	return name;
}

/* ---- Served ---------------------------------------------------------------------------------- */

static int talk(const char *address)
{
	weir_auto_conn conn = NULL;
	char got[4];
	int err = weir_connect(&conn, address);

	if (err < 0)
		return err;
	put(conn, "ping");
	return weir_read_full(conn, got, sizeof got);
}

/* By all workers: none has a socket of its own, which that address would not have room for. */
static int serve_inherited(void *arg)
{
	struct server server = { .handler = echo };
	char address[64];
	int fd = *(int *)arg;
	WEIR_SCOPE(scope, WEIR_FOREVER);

	start_server(&scope, &server, name_of(fd));
	ck_assert_int_eq(fcntl(fd, F_GETFD), FD_CLOEXEC);
	snprintf(address, sizeof address, "%s", weir_listener_address(server.listener));
	ck_assert_int_eq(strncmp(address, "127.0.0.1:", 10), 0);
	for (int i = 0; i < 50; i++)
		ck_assert_int_eq(talk(address), 0);
	weir_scope_cancel(&scope);
	(void)weir_scope_wait(&scope);
	weir_scope_close(&scope);
	weir_listener_close(server.listener);
	settle();
	ck_assert_int_eq(fcntl(fd, F_GETFD), -1); /* it was taken */
	ck_assert_int_eq(talk(address), -ECONNREFUSED);
	return 0;
}

START_TEST(an_inherited_socket_is_served_by_all_workers)
{
	int fd = listening();

	run_on(_i, serve_inherited, &fd);
}
END_TEST

/* ---- A backlog longer than we know ---- */

static struct {
	unsigned now, most;
} crowd;

static int count_crowd(weir_conn *conn)
{
	char byte;

	if (++crowd.now > crowd.most)
		crowd.most = crowd.now;
	int err = weir_read_full(conn, &byte, 1);
	crowd.now--;
	return err == 0 && weir_write(conn, &byte, 1) == 1 ? 0 : -EIO;
}

static int serve_few(void *listener)
{
	return weir_serve(listener, count_crowd, .conns_max = 3);
}

static int talk_later(void *arg)
{
	weir_auto_conn conn = NULL;
	char byte = 'l';

	ck_assert_int_eq(weir_connect(&conn, arg), 0);
	while (crowd.most < 3)
		ck_assert_int_eq(weir_sleep(WEIR_MS), 0);
	settle();
	ck_assert_int_eq(weir_write(conn, &byte, 1), 1);
	return weir_read_full(conn, &byte, 1);
}

static int crowd_in(void *arg)
{
	weir_auto_listener listener = NULL;

	ck_assert_int_eq(weir_listen(&listener, name_of(*(int *)arg), .backlog = 1), 0);
	WEIR_SCOPE(server, WEIR_FOREVER);
	WEIR_SCOPE(clients, WEIR_FOREVER);
	for (int i = 0; i < 20; i++)
		spawn(&clients, talk_later, (void *)(uintptr_t)weir_listener_address(listener));
	ck_assert_int_eq(weir_sleep(5 * WEIR_MS), 0);
	spawn(&server, serve_few, listener);
	return weir_scope_wait(&clients);
}

START_TEST(no_more_than_conns_max_however_many_were_accepted_at_once)
{
	int fd = listening();

	run_on(1, crowd_in, &fd);
	ck_assert_uint_eq(crowd.most, 3);
}
END_TEST

enum { FIRST_FREE = 40 }; /* a place that no descriptor of the test's has */

static int listen_by_name(void *arg)
{
	weir_auto_listener listener = NULL;

	return weir_listen(&listener, arg);
}

static int listen_on(const char *address)
{
	return weir_run(listen_by_name, (void *)address, .workers = 1, .signals_ignored = true);
}

static void set_number(const char *variable, int value)
{
	char text[16];

	snprintf(text, sizeof text, "%d", value);
	setenv(variable, text, 1);
}

START_TEST(a_service_manager_names_sockets)
{
	char names[512] = "";
	int fd = listening();

	ck_assert_int_eq(dup2(fd, FIRST_FREE), FIRST_FREE);
	close(fd);
	for (int i = 3; i < FIRST_FREE; i++)
		strcat(names, i % 2 ? "x:" : ":");
	strcat(names, "http:last");
	ck_assert_int_eq(listen_on("fd:http"), -ENOENT);
	setenv("LISTEN_FDNAMES", names, 1);
	set_number("LISTEN_FDS", FIRST_FREE - 2);
	set_number("LISTEN_PID", (int)getppid());
	ck_assert_int_eq(listen_on("fd:http"), -ENOENT); /* meant for another process */
	set_number("LISTEN_PID", (int)getpid());
	set_number("LISTEN_FDS", FIRST_FREE - 3);
	ck_assert_int_eq(listen_on("fd:http"), -ENOENT); /* so many there are not */
	set_number("LISTEN_FDS", FIRST_FREE - 2);
	ck_assert_int_eq(listen_on("fd:htt"), -ENOENT);
	ck_assert_int_eq(listen_on("fd:last"), -ENOENT);
	ck_assert_int_eq(listen_on("fd:http"), 0);
	ck_assert_int_eq(listen_on("fd:http"), -EBADF); /* taken before */
}
END_TEST

START_TEST(what_does_not_listen_is_not_taken)
{
	int fds[] = { open("/dev/null", O_RDONLY), socket(AF_INET, SOCK_STREAM, 0),
		      socket(AF_INET, SOCK_DGRAM, 0) };
	const int errors[] = { -ENOTSOCK, -EINVAL, -EINVAL };

	for (int i = 0; i < 3; i++) {
		ck_assert_int_eq(listen_on(name_of(fds[i])), errors[i]);
		ck_assert_int_eq(close(fds[i]), 0);
	}
	ck_assert_int_eq(listen_on("fd:"), -EINVAL);
	ck_assert_int_eq(listen_on("fd:9999"), -EBADF);
	ck_assert_int_eq(listen_on("fd:99999999999999999999"), -ENOENT);
}
END_TEST

/* ---- Handed on ------------------------------------------------------------------------------- */

static bool is_there(const char *address)
{
	struct stat st;

	return stat(address + 5, &st) == 0;
}

static int keep_the_file(void *arg)
{
	const char *address = address_of(3);
	weir_listener *first, *second, *third;

	(void)arg;
	ck_assert_int_eq(weir_listen(&first, address), 0);
	int fd = dup(weir_listener_fd(first));
	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(weir_listen(&second, name_of(fd)), 0);
	ck_assert_str_eq(weir_listener_address(second), address);
	weir_listener_close(first);
	ck_assert(is_there(address)); /* somebody else serves it */
	weir_listener_close(second);
	ck_assert(is_there(address)); /* and perhaps still does */
	ck_assert_int_eq(weir_listen(&third, address), 0);
	weir_listener_close(third);
	ck_assert(!is_there(address));
	return 0;
}

START_TEST(a_unix_sockets_file_stays_with_who_took_over)
{
	run(keep_the_file);
}
END_TEST

static char control_name[64]; /* the same in both processes */

/* The new process: it asks the old one for its socket, and serves until it is told to stop. */
static int take_over(void *arg)
{
	weir_auto_conn control = NULL;
	weir_auto_listener listener = NULL;
	char word[8];
	int fd = -1;
	WEIR_SCOPE(scope, WEIR_FOREVER);

	(void)arg;
	int err = weir_connect(&control, control_name);
	if (err == 0 && (weir_recv_fd(control, &fd, word, sizeof word) <= 0 || fd < 0))
		err = -EPROTO;
	if (err == 0)
		err = weir_listen(&listener, name_of(fd));
	struct server server = { .listener = listener, .handler = echo };
	if (err == 0)
		err = weir_spawn(&scope, serve, &server);
	if (err == 0)
		err = (int)weir_write(control, "ready", 5);
	if (err > 0)
		err = (int)weir_recv_fd(control, &fd, word, sizeof word);
	return err; /* 0: the other one has closed */
}

struct visits {
	const char *address;
	int count;
	bool is_over;
};

static int visit(void *arg)
{
	struct visits *visits = arg;

	for (; !visits->is_over; visits->count++) {
		ck_assert_int_eq(talk(visits->address), 0);
		ck_assert_int_eq(weir_yield(), 0);
	}
	return 0;
}

static int hand_over(void *arg)
{
	weir_listener *control;
	struct server server = { .handler = echo };
	struct visits visits = { 0 };
	weir_conn *next;
	char word[8];
	pid_t child = *(pid_t *)arg;
	ck_assert_int_eq(weir_listen(&control, control_name), 0);
	ck_assert_int_eq(kill(child, SIGCONT), 0);
	WEIR_SCOPE(serving, WEIR_FOREVER);
	start_server(&serving, &server, "127.0.0.1:0");
	visits.address = weir_listener_address(server.listener);
	WEIR_SHIELD(rest, WEIR_FOREVER); /* a stop concerns the server alone */
	WEIR_SCOPE(visiting, WEIR_FOREVER);
	spawn(&visiting, visit, &visits);
	spawn(&visiting, visit, &visits);
	ck_assert_int_eq(weir_accept(control, &next), 0);
	settle();
	int fd = weir_listener_fd(server.listener);
	ck_assert_int_eq(weir_send_fd(next, fd, "socket", 6), 6);
	ck_assert_int_eq(weir_read_full(next, word, 5), 0);
	settle();
	int before = visits.count; /* by either of the two */
	weir_stop(); /* drains the servers of this process: clients that come are the other's */
	settle();
	ck_assert_int_gt(before, 0);
	while (visits.count < before + 100)
		settle();
	visits.is_over = true;
	ck_assert_int_eq(weir_scope_wait(&visiting), 0);
	weir_scope_close(&visiting);
	weir_conn_close(next);
	weir_listener_close(control);
	weir_scope_close(&rest);
	(void)weir_scope_wait(&serving);
	weir_listener_close(server.listener);
	return 0;
}

START_TEST(a_process_takes_over_and_no_client_notices)
{
	snprintf(control_name, sizeof control_name, "%s", own_name("takeover"));
	pid_t child = fork();
	int status;

	if (child == 0) {
		raise(SIGSTOP); /* until the other one listens */
		_exit(weir_run(take_over, NULL, .workers = 1, .signals_ignored = true) < 0);
	}
	ck_assert_int_eq(waitpid(child, &status, WUNTRACED), child);
	ck_assert(WIFSTOPPED(status));
	run_on(1, hand_over, &child);
	ck_assert_int_eq(waitpid(child, &status, 0), child);
	ck_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}
END_TEST

/* ---- The suite ------------------------------------------------------------------------------- */

Suite *io_inherit_suite(void)
{
	Suite *suite = suite_create("io_inherit");
	TCase *real = tcase_create("inherit");
	tcase_set_tags(real, "net real"); /* descriptors and processes of the system's */
	tcase_set_timeout(real, 20);
	suite_add_tcase(suite, real);
	tcase_add_loop_test(real, an_inherited_socket_is_served_by_all_workers, 1, 3);
	tcase_add_test(real, no_more_than_conns_max_however_many_were_accepted_at_once);
	tcase_add_test(real, a_service_manager_names_sockets);
	tcase_add_test(real, what_does_not_listen_is_not_taken);
	tcase_add_test(real, a_unix_sockets_file_stays_with_who_took_over);
	tcase_add_test(real, a_process_takes_over_and_no_client_notices);
	return suite;
}
