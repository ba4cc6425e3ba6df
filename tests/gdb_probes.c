/* SPDX-License-Identifier: MIT */
/*
 * gdb_probes.c: passes every USDT probe once or more, for tests/gdb.sh to see with what: a task
 * that ends with -7, a connection and its client's end, a level that is forced to 2, a task that
 * holds its worker.
 */
#include <stdio.h>
#include <weir/weir.h>

static int end_with(void *arg)
{
	(void)arg;
	return -7;
}

static int accept_one(void *arg)
{
	weir_auto_conn conn = NULL;
	weir_auto_buf buf = WEIR_BUF_INIT;
	int err = weir_accept(arg, &conn);

	return err < 0 ? err : (int)weir_recv(conn, &buf);
}

static int talk(void)
{
	weir_auto_listener listener = NULL;
	weir_auto_conn conn = NULL;
	WEIR_SCOPE(scope, WEIR_FOREVER);

	if (weir_listen(&listener, "127.0.0.1:0") < 0 ||
	    weir_spawn(&scope, accept_one, listener) < 0 ||
	    weir_connect(&conn, weir_listener_address(listener)) < 0 ||
	    weir_write(conn, "x", 1) != 1)
		return -1;
	printf("connected %p\n", (void *)conn);
	fflush(stdout);
	return weir_scope_wait(&scope);
}

static void hold(int64_t ns)
{
	int64_t end = weir_now() + ns;

	while (weir_now() < end)
		;
}

static int fail(void)
{
	WEIR_SCOPE(scope, WEIR_FOREVER);
	int err = weir_spawn(&scope, end_with, NULL);

	return err < 0 ? err : weir_scope_wait(&scope);
}

static int pass_all(void *arg)
{
	int failed = fail(), err = talk();

	(void)arg;
	weir_mem_level_force(WEIR_MEM_MEDIUM);
	hold(200 * WEIR_MS);
	(void)weir_sleep(WEIR_MS);
	return failed == -7 ? err : -1;
}

int main(void)
{
	return weir_run(pass_all, NULL, .workers = 1) != 0;
}
