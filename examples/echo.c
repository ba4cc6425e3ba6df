/* SPDX-License-Identifier: MIT */
/* echo: sends every byte back. `./echo :7000`, then `nc localhost 7000`. */
#include <stdio.h>
#include <weir/io.h>

/* One task per client. weir_serve() owns conn and closes it when echo() returns. */
static int echo(weir_conn *conn)
{
	for (;;) {
		weir_auto_buf buf = WEIR_BUF_INIT; /* a lease on one pool buffer */
		WEIR_SCOPE(turn, 60 * WEIR_SEC);   /* bounds the two calls below */

		ssize_t n = weir_recv(conn, &buf);
		if (n > 0)
			n = weir_send(conn, &buf); /* goes out as it came in: no copy */
		if (n <= 0)
			return (int)n; /* 0: the peer closed; < 0: -errno, -ETIME when silent */
	}
}

static int serve(void *arg)
{
	const char *address = arg;
	weir_auto_listener ln = NULL;

	int err = weir_listen(&ln, address, .backlog = 1024);
	if (err < 0)
		return err;

	printf("echo: listening on %s\n", weir_listener_address(ln));
	fflush(stdout);
	return weir_serve(ln, echo, .name = "echo"); /* on every worker, until Ctrl-C */
}

int main(int argc, char **argv)
{
	int err = weir_run(serve, argc > 1 ? argv[1] : "127.0.0.1:7000");

	if (err < 0 && err != -ECANCELED)
		fprintf(stderr, "echo: %s\n", weir_strerror(err));
	return err < 0 && err != -ECANCELED;
}
