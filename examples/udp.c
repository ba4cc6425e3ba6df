/* SPDX-License-Identifier: MIT */
/* udp: sends every datagram back to its sender. `./udp :7000`, then `nc -u localhost 7000`. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <weir/io.h>

static int echo(weir_dgram *dgram)
{
	for (;;) {
		weir_auto_buf buf = WEIR_BUF_INIT; /* a lease on one pool buffer */
		struct weir_address from;

		ssize_t n = weir_dgram_recv(dgram, &buf, &from); /* 0: an empty one, no end */
		if (n == -EMSGSIZE || (n == -ENOMEM && weir_sleep(10 * WEIR_MS) == 0))
			continue; /* cut: too long to come back whole */
		if (n < 0)
			return (int)n;
		n = weir_dgram_send(dgram, buf.data, buf.len, &from);
		if (n == -ECANCELED)
			return (int)n; /* any other: this sender cannot be reached, others can */
	}
}

/* A socket of its own on each worker; the kernel spreads the senders over them. */
static int echo_beside(void *address)
{
	weir_auto_dgram dgram = NULL;
	int err = weir_dgram_open(&dgram, address, .shared = true);

	return err < 0 ? err : echo(dgram);
}

static int serve(void *address)
{
	bool is_unix = strncmp(address, "unix:", 5) == 0;
	weir_auto_dgram dgram = NULL;
	WEIR_SCOPE(others, WEIR_FOREVER);

	int err = weir_dgram_open(&dgram, address, .shared = !is_unix);
	for (int i = 1; i < weir_worker_count() && !is_unix && err == 0; i++)
		err = weir_spawn(&others, echo_beside, (void *)weir_dgram_address(dgram),
				 .worker = WEIR_ON_WORKER(i));
	if (err < 0)
		return err;
	printf("udp: listening on %s\n", weir_dgram_address(dgram));
	fflush(stdout);
	return echo(dgram); /* until Ctrl-C */
}

int main(int argc, char **argv)
{
	int err = weir_run(serve, argc > 1 ? argv[1] : "127.0.0.1:7000");

	if (err < 0 && err != -ECANCELED)
		fprintf(stderr, "udp: %s\n", weir_strerror(err));
	return err < 0 && err != -ECANCELED;
}
