/* SPDX-License-Identifier: MIT */
/*
 * proxy: passes each connection on to another server, both ways, until both have ended.
 *
 *   ./proxy :7000 example.org:80      then curl -H 'Host: example.org' localhost:7000
 *   ./proxy 127.0.0.1:7000 unix:/run/app.sock
 *
 * What comes is sent on in the buffer it came in; a side that does not read stops the other one. A
 * client that has ended its half still gets its answer; a reset, or a minute of silence, ends both.
 */
#include <stdio.h>
#include <weir/io.h>

struct route {
	const char *from, *to;
};

static int pass_on(weir_conn *client)
{
	const struct route *route = weir_conn_user(client);
	weir_auto_conn server = NULL;
	int err;
	{
		WEIR_SCOPE(patience, 5 * WEIR_SEC);
		err = weir_connect(&server, route->to);
	}
	return err < 0 ? err
		       : weir_copy_both(weir_end_conn(client), weir_end_conn(server),
					.idle_ns = 60 * WEIR_SEC);
}

static int serve(void *arg)
{
	struct route *route = arg;
	weir_auto_listener ln = NULL;
	int err = weir_listen(&ln, route->from);

	if (err < 0)
		return err;
	printf("proxy: listening on %s\n", weir_listener_address(ln));
	fflush(stdout);
	return weir_serve(ln, pass_on, .name = "proxy", .user = route);
}

int main(int argc, char **argv)
{
	if (argc != 3) {
		fprintf(stderr, "usage: %s ADDRESS SERVER\n", argv[0]);
		return 2;
	}
	struct route route = { argv[1], argv[2] };
	int err = weir_run(serve, &route);
	if (err < 0 && err != -ECANCELED)
		fprintf(stderr, "proxy: %s\n", weir_strerror(err));
	return err < 0 && err != -ECANCELED;
}
