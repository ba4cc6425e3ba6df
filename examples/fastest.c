/* SPDX-License-Identifier: MIT */
/*
 * fastest: asks several hosts at once and keeps the first answer; the others are cancelled.
 *
 *   (sleep 0.2; echo tortoise) | nc -l 127.0.0.1 7001 &
 *   echo hare | nc -l 127.0.0.1 7002 &
 *   ./fastest 127.0.0.1:7001 127.0.0.1:7002
 *
 * prints "127.0.0.1:7002: hare". Any server that speaks first will do: ssh, smtp, ftp.
 * The idea: a scope on the stack bounds the race in time, and leaving it ends every racer.
 */
#include <stdio.h>
#include <weir/io.h>

enum { HOSTS_MAX = 64 };

struct reply {
	const char *host;
	size_t len;
	char line[512];
};

struct query {
	const char *host;
	weir_chan *answers;
};

struct command_line {
	const char *const *hosts;
	int n;
};

static int ask(void *arg)
{
	const struct query *q = arg; /* in fastest()'s frame, which outlives us */
	struct reply r = { .host = q->host };
	weir_auto_conn conn = NULL;

	int err = weir_connect(&conn, q->host);
	if (err < 0)
		return 0; /* a dead host just loses the race */
	ssize_t n = weir_read_until(conn, '\n', r.line, sizeof r.line);
	if (n <= 0)
		return 0;
	r.len = (size_t)n;
	return weir_chan_send(q->answers, &r);
}

/* The first host to answer wins; the others are cancelled. -ETIME after 500 ms. */
static int fastest(const char *const hosts[], int n, struct reply *ret)
{
	struct query q[HOSTS_MAX];
	weir_auto_chan answers = weir_chan_new(sizeof *ret, 1);
	WEIR_SCOPE(race, 500 * WEIR_MS); /* leaving it cancels, then joins */

	int err = !answers ? -ENOMEM : n <= HOSTS_MAX ? 0 : -E2BIG;
	for (int i = 0; i < n && err == 0; i++) {
		q[i] = (struct query){ hosts[i], answers };
		err = weir_spawn(&race, ask, &q[i], .name = hosts[i]);
	}
	return err < 0 ? err : weir_chan_recv(answers, ret);
}

static int start(void *arg)
{
	const struct command_line *line = arg;
	struct reply winner;

	int err = fastest(line->hosts, line->n, &winner);
	if (err == 0)
		printf("%s: %.*s", winner.host, (int)winner.len, winner.line);
	return err;
}

int main(int argc, char **argv)
{
	struct command_line line = { (const char *const *)argv + 1, argc - 1 };

	if (line.n < 1) {
		fprintf(stderr, "usage: fastest host:port...\n");
		return 2;
	}
	int err = weir_run(start, &line, .workers = 1);
	if (err < 0)
		fprintf(stderr, "fastest: %s\n",
			err == -ETIME ? "nobody answered within 500 ms" : weir_strerror(err));
	return err < 0;
}
