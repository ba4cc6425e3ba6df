/* SPDX-License-Identifier: MIT */
/*
 * hostile: a client that behaves badly, for tests/examples.sh. Plain sockets, nothing of weir.
 *
 *   hostile 127.0.0.1:8080 corpus http
 *           malformed requests and what must come back
 *   hostile 127.0.0.1:8080 fuzz http 7 1000
 *           the same, mutated (seed, rounds): each connection must end
 *   hostile 127.0.0.1:8080 slow http
 *           a byte at a time both ways, through small socket buffers
 *   hostile 127.0.0.1:8080 reset http 500
 *           half a request or an unread answer, then a reset
 *   hostile 127.0.0.1:8080 flood http 20000
 *           that many clients at once, each wants one answer
 *   hostile 127.0.0.1:8080 hold kv 100
 *           opens clients that stop inside a request, until stdin ends
 *
 * Exit code 0: everything was as it must be. What was not is printed. The only waits are for the
 * peer, 30 s at most.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <linux/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum {
	PATIENCE_MS = 30000,
	ANSWER_MAX = 1 << 20,
	FLOOD_SECONDS = 40, /* SYNs that found the queue full come again after 1, 3, 7, 15, 31 s */
	FLOOD_PROCESSES = 4,
};

enum then { STAYS, CLOSES, HALF }; /* what follows the answer; HALF: after we end our side */

struct sample {
	const char *name;
	const char *head;
	char filler; /* `count` of them between head and tail */
	size_t count;
	const char *tail;
	const char *answer; /* its beginning */
	enum then then;
};

#define GET	  "GET / HTTP/1.1\r\nHost: a\r\n\r\n"
#define POST	  "POST /echo HTTP/1.1\r\nHost: a\r\n"
#define H(status) "HTTP/1.1 " #status " "

static const struct sample http_samples[] = {
	{ "TLS hello", "\x16\x03\x01\x02\x01\x01\xfc\x03\x03", 'x', 64, "", H(400), CLOSES },
	{ "binary", "\xff\xfe\x80\x81\x01\x02", '\x90', 600, "\r\n\r\n", H(400), CLOSES },
	{ "no such method", "FROB / HTTP/1.1\r\nHost: a\r\n\r\n", 0, 0, "", H(400), CLOSES },
	{ "no version", "GET /\r\n\r\n", 0, 0, "", H(505), CLOSES },
	{ "HTTP/2 preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 0, 0, "", H(505), CLOSES },
	{ "version 3.7", "GET / HTTP/3.7\r\nHost: a\r\n\r\n", 0, 0, "", H(505), CLOSES },
	{ "no Host", "GET / HTTP/1.1\r\n\r\n", 0, 0, "", H(400), CLOSES },
	{ "two Hosts", "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 0, 0, "", H(400), CLOSES },
	{ "blank before colon", "GET / HTTP/1.1\r\nHost : a\r\n\r\n", 0, 0, "", H(400), CLOSES },
	{ "control in header", "GET / HTTP/1.1\r\nHost: a\r\nX: \x01\r\n\r\n", 0, 0, "", H(400),
	  CLOSES },
	{ "long URL", "GET /", 'a', 9000, " HTTP/1.1\r\nHost: a\r\n\r\n", H(414), CLOSES },
	{ "endless URL", "GET /", 'a', 300000, "", H(414), CLOSES },
	{ "long header", "GET / HTTP/1.1\r\nHost: a\r\nX: ", 'b', 20000, "\r\n\r\n", H(431),
	  CLOSES },
	{ "long name", "GET / HTTP/1.1\r\nHost: a\r\n", 'n', 20000, ": x\r\n\r\n", H(431), CLOSES },
	{ "CONNECT", "CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n", 0, 0, "", H(501), CLOSES },
	{ "PUT", "PUT / HTTP/1.1\r\nHost: a\r\n\r\n", 0, 0, "", H(501), STAYS },
	{ "POST where only GET is", "POST / HTTP/1.1\r\nHost: a\r\n\r\n", 0, 0, "", H(405), STAYS },
	{ "an upgrade that is not offered",
	  "GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n", 0, 0,
	  "", H(200), STAYS },
	{ "both lengths", POST "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
	  0, 0, "", H(400), CLOSES },
	{ "two lengths", POST "Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", 0, 0, "",
	  H(400), CLOSES },
	{ "negative length", POST "Content-Length: -3\r\n\r\nabc", 0, 0, "", H(400), CLOSES },
	{ "length beyond 64 bits", POST "Content-Length: ", '9', 40, "\r\n\r\n", H(400), CLOSES },
	{ "length beyond the limit", POST "Content-Length: 1048577\r\n\r\n", 0, 0, "", H(413),
	  CLOSES },
	{ "unknown coding", POST "Transfer-Encoding: gzip\r\n\r\nabc", 0, 0, "", H(400), CLOSES },
	{ "chunk size in letters", POST "Transfer-Encoding: chunked\r\n\r\nzz\r\n", 0, 0, "",
	  H(400), CLOSES },
	{ "chunk size beyond 64 bits", POST "Transfer-Encoding: chunked\r\n\r\n", 'f', 20, "\r\n",
	  H(400), CLOSES },
	{ "chunk longer than its size", POST "Transfer-Encoding: chunked\r\n\r\n1\r\n", 'x', 9,
	  "\r\n", H(400), CLOSES },
	{ "a chunk beyond the limit", POST "Transfer-Encoding: chunked\r\n\r\n200000\r\n", 'x',
	  2000000, "", H(413), CLOSES },
	{ "endless chunk extension", POST "Transfer-Encoding: chunked\r\n\r\n1;", 'e', 200000, "",
	  H(431), CLOSES },
	{ "endless trailer", POST "Transfer-Encoding: chunked\r\n\r\n0\r\nX: ", 't', 200000, "",
	  H(431), CLOSES },
	{ "good, then bad", GET "\x01\x02\x03\r\n\r\n", 0, 0, "", H(200), CLOSES },
	{ "last request, then more", "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n" GET,
	  0, 0, "", H(200), CLOSES },
	{ "blank lines first", "\r\n\r\n\r\n" GET, 0, 0, "", H(200), STAYS },
	{ "HTTP/1.0", "GET / HTTP/1.0\r\n\r\n", 0, 0, "", H(200), CLOSES },
	{ "cut in the request line", "GET / HT", 0, 0, "", "", HALF },
	{ "cut in the headers", "GET / HTTP/1.1\r\nHost: ", 0, 0, "", "", HALF },
	{ "cut in the body", POST "Content-Length: 100\r\n\r\nabc", 0, 0, "", "", HALF },
	{ "cut in a chunk", POST "Transfer-Encoding: chunked\r\n\r\n10\r\nabc", 0, 0, "", "",
	  HALF },
	{ "nothing at all", "", 0, 0, "", "", HALF },
	{ "end of our side behind a request", GET, 0, 0, "", H(200), HALF },
};

#define ERR "-ERR Protocol error: "

static const struct sample kv_samples[] = {
	{ "negative bulk", "*1\r\n$-1\r\n", 0, 0, "", ERR "invalid bulk length", CLOSES },
	{ "bulk beyond the limit", "*1\r\n$536870913\r\n", 0, 0, "", ERR "invalid bulk length",
	  CLOSES },
	{ "bulk beyond 64 bits", "*1\r\n$", '9', 25, "\r\n", ERR "invalid bulk length", CLOSES },
	{ "bulk in letters", "*1\r\n$abc\r\n", 0, 0, "", ERR "invalid bulk length", CLOSES },
	{ "no bulk at all", "*1\r\n:5\r\n", 0, 0, "", ERR "expected '$', got ':'", CLOSES },
	{ "too many arguments", "*1048577\r\n", 0, 0, "", ERR "invalid multibulk length", CLOSES },
	{ "count in letters", "*xyz\r\n", 0, 0, "", ERR "invalid multibulk length", CLOSES },
	{ "count without end", "*", '1', 70, "", ERR "too big mbulk count string", CLOSES },
	{ "bulk length without end", "*1\r\n$", '1', 70, "", ERR "too big bulk count string",
	  CLOSES },
	{ "long inline", "PING ", 'a', 70000, "\r\n", ERR "too big inline request", CLOSES },
	{ "endless inline", "", 'a', 300000, "", ERR "too big inline request", CLOSES },
	{ "open quote", "SET \"a b\r\n", 0, 0, "", ERR "unbalanced quotes in request", CLOSES },
	{ "letters behind a quote", "SET \"a\"b c\r\n", 0, 0, "", ERR "unbalanced quotes", CLOSES },
	{ "binary", "\x16\x03\x01\x02\xff\xfe", '\x90', 600, "\n", "-ERR unknown command", STAYS },
	{ "unknown command", "*1\r\n$4\r\nFROB\r\n", 0, 0, "", "-ERR unknown command 'FROB'",
	  STAYS },
	{ "empty command name", "*1\r\n$0\r\n\r\n", 0, 0, "", "-ERR unknown command ''", STAYS },
	{ "newlines in a name", "*1\r\n$4\r\nA\r\nB\r\n", 0, 0, "",
	  "-ERR unknown command 'A  B'\r\n", STAYS },
	{ "long command name", "*1\r\n$2000\r\n", 'c', 2000, "\r\n", "-ERR unknown command 'ccc",
	  STAYS },
	{ "too few arguments", "GET\r\n", 0, 0, "", "-ERR wrong number of arguments for 'get'",
	  STAYS },
	{ "no number", "SET n x\r\nINCR n\r\n", 0, 0, "", "+OK\r\n-ERR value is not an integer",
	  STAYS },
	{ "overflow", "SET n 9223372036854775807\r\nINCR n\r\n", 0, 0, "",
	  "+OK\r\n-ERR increment or decrement would overflow", STAYS },
	{ "wrong type", "SET n 1\r\nDEL n\r\nLPUSH n 1\r\nGET n\r\nDEL n\r\n", 0, 0, "",
	  "+OK\r\n:1\r\n:1\r\n-WRONGTYPE", STAYS },
	{ "negative count is empty", "*-1\r\nPING\r\n", 0, 0, "", "+PONG\r\n", STAYS },
	{ "count 0 is empty", "*0\r\n*1\r\n$4\r\nPING\r\n", 0, 0, "", "+PONG\r\n", STAYS },
	{ "blank lines", "\r\n\r\n  \r\nPING\r\n", 0, 0, "", "+PONG\r\n", STAYS },
	{ "quoted inline", "PING \"a \\\"b\"\r\n", 0, 0, "", "$4\r\na \"b\r\n", STAYS },
	{ "a browser", "POST / HTTP/1.1\r\nHost: a\r\n\r\nSET a b\r\n", 0, 0, "", "", CLOSES },
	{ "good, then bad", "PING\r\n*1\r\n$-9\r\n", 0, 0, "", "+PONG\r\n" ERR, CLOSES },
	{ "quit, then more", "QUIT\r\nPING\r\n", 0, 0, "", "+OK\r\n", CLOSES },
	{ "512 MB announced", "*3\r\n$3\r\nSET\r\n$1\r\na\r\n$536870912\r\n", 'v', 100, "", "",
	  HALF },
	{ "a million arguments announced", "*1048576\r\n$1\r\na\r\n", 0, 0, "", "", HALF },
	{ "cut in a count", "*12", 0, 0, "", "", HALF },
	{ "cut in a bulk", "*2\r\n$3\r\nGET\r\n$10\r\nab", 0, 0, "", "", HALF },
	{ "cut before the last newline", "*1\r\n$4\r\nPING\r", 0, 0, "", "", HALF },
	{ "nothing at all", "", 0, 0, "", "", HALF },
	{ "end of our side behind a command", "PING\r\n", 0, 0, "", "+PONG\r\n", HALF },
};

struct dialect {
	const char *name;
	const struct sample *samples;
	size_t count;
	const char *good, *good_answer;
	const char *half;		/* a request that stops in the middle */
	const char *large, *large_tail; /* a request with a long answer, and how that ends */
};

static const struct dialect dialects[] = {
	{ "http", http_samples, sizeof http_samples / sizeof *http_samples, GET, H(200),
	  POST "Content-Length: 500000\r\n\r\nabc", "GET /stats HTTP/1.1\r\nHost: a\r\n\r\n" GET,
	  "Hello, World!\n" },
	{ "kv", kv_samples, sizeof kv_samples / sizeof *kv_samples, "PING\r\n", "+PONG\r\n",
	  "*3\r\n$3\r\nSET\r\n$1\r\na\r\n$536870912\r\nabc", "COMMAND\r\nPING\r\n", "+PONG\r\n" },
};

static struct sockaddr_in server;
static const struct dialect *dialect;
static char answer[ANSWER_MAX + 1];

/* ---- Sockets -------------------------------------------------------------------------------- */

static void fatal(const char *what)
{
	fprintf(stderr, "hostile: %s: %s\n", what, strerror(errno));
	exit(2);
}

static int dial(int flags)
{
	int one = 1, fd = socket(AF_INET, SOCK_STREAM | flags, 0);

	if (fd < 0)
		fatal("socket");
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
	if (connect(fd, (struct sockaddr *)&server, sizeof server) < 0 && errno != EINPROGRESS)
		fatal("connect");
	return fd;
}

static bool await(int fd, short events)
{
	struct pollfd p = { fd, events, 0 };
	return poll(&p, 1, PATIENCE_MS) == 1;
}

/* False when the peer has closed before it had everything: it may, after a refusal. */
static bool send_all(int fd, const char *at, size_t len, size_t piece)
{
	while (len > 0) {
		size_t want = len < piece ? len : piece;
		ssize_t n = send(fd, at, want, MSG_NOSIGNAL | MSG_DONTWAIT);
		if (n < 0 && errno == EAGAIN) {
			if (!await(fd, POLLOUT))
				return false;
			continue;
		}
		if (n < 0)
			return false;
		at += n;
		len -= (size_t)n;
	}
	return true;
}

/* Reads up to `cap` bytes, in pieces, until the end or until `tail` has come. Returns the length or
 * -1. */
static ssize_t read_until(int fd, const char *tail, size_t cap, size_t piece, bool *ret_ended)
{
	size_t len = 0, tail_len = tail ? strlen(tail) : 0;

	*ret_ended = false;
	while (len < cap) {
		if (!await(fd, POLLIN))
			return -1;
		ssize_t n = recv(fd, answer + len, cap - len < piece ? cap - len : piece, 0);
		if (n < 0 && errno != ECONNRESET)
			return -1;
		if (n <= 0) {
			*ret_ended = true;
			break;
		}
		len += (size_t)n;
		if (tail && len >= tail_len && !memcmp(answer + len - tail_len, tail, tail_len))
			break;
	}
	answer[len] = 0;
	return (ssize_t)len;
}

static bool is_good(void)
{
	bool ended;
	int fd = dial(0);
	size_t want = strlen(dialect->good_answer);
	bool ok = send_all(fd, dialect->good, strlen(dialect->good), 4096) &&
		  read_until(fd, NULL, want, want, &ended) == (ssize_t)want &&
		  !memcmp(answer, dialect->good_answer, want);

	close(fd);
	if (!ok)
		printf("a good request got: %.100s\n", answer);
	return ok;
}

/* ---- Corpus --------------------------------------------------------------------------------- */

static char *sample_bytes(const struct sample *s, size_t *ret_len)
{
	size_t head = strlen(s->head), tail = strlen(s->tail);
	char *bytes = malloc(head + s->count + tail + 1);

	memcpy(bytes, s->head, head);
	memset(bytes + head, s->filler, s->count);
	memcpy(bytes + head + s->count, s->tail, tail);
	*ret_len = head + s->count + tail;
	return bytes;
}

static bool try_sample(const struct sample *s, size_t piece)
{
	size_t len, want = strlen(s->answer);
	char *bytes = sample_bytes(s, &len);
	int fd = dial(0);
	bool ended = false;

	send_all(fd, bytes, len, piece);
	if (s->then == HALF)
		shutdown(fd, SHUT_WR);
	ssize_t n = read_until(fd, NULL, s->then == STAYS ? want : ANSWER_MAX, ANSWER_MAX, &ended);
	bool ok = n >= (ssize_t)want && !memcmp(answer, s->answer, want) &&
		  (s->then == STAYS || (ended && (want > 0 || n == 0)));
	if (!ok)
		printf("%s, %s, by %zu: got %zd bytes%s: %.60s\n", dialect->name, s->name, piece, n,
		       ended ? " and the end" : "", n > 0 ? answer : "");
	close(fd);
	free(bytes);
	return ok;
}

static bool corpus(void)
{
	bool ok = true;

	for (size_t i = 0; i < dialect->count; i++) {
		const struct sample *s = &dialect->samples[i];
		ok = try_sample(s, SIZE_MAX) && ok;
		ok = try_sample(s, 1460) && ok;
		ok = (s->count > 2000 || try_sample(s, 1)) && ok;
	}
	return is_good() && ok;
}

/* ---- Fuzz ----------------------------------------------------------------------------------- */

static uint64_t random_state;

static uint32_t pick(uint32_t below)
{
	random_state = random_state * 6364136223846793005u + 1442695040888963407u;
	return (uint32_t)(((random_state >> 32) * below) >> 32);
}

/* Some bytes changed, a piece repeated or left out; never longer than twice the sample. */
static size_t mutate(char *bytes, size_t len)
{
	for (uint32_t n = pick(4); n > 0 && len > 0; n--)
		bytes[pick((uint32_t)len)] = (char)pick(256);
	size_t from = len ? pick((uint32_t)len) : 0,
	       span = len - from ? pick((uint32_t)(len - from)) : 0;
	switch (pick(4)) {
	case 0:
		return from;
	case 1:
		memmove(bytes + from, bytes + from + span, len - from - span);
		return len - span;
	case 2:
		memcpy(bytes + len, bytes + from, span);
		return len + span;
	default:
		return len;
	}
}

static bool fuzz_one(void)
{
	const struct sample *s;
	size_t len;
	bool ended;

	do
		s = &dialect->samples[pick((uint32_t)dialect->count)];
	while (s->count > 10000);
	char *bytes = sample_bytes(s, &len);
	bytes = realloc(bytes, 2 * len + 1);
	len = mutate(bytes, len);
	int fd = dial(0);
	send_all(fd, bytes, len, 1 + pick(3000));
	shutdown(fd, SHUT_WR);
	bool ok = read_until(fd, NULL, ANSWER_MAX, ANSWER_MAX, &ended) >= 0 && ended;
	close(fd);
	free(bytes);
	return ok;
}

static bool fuzz(uint64_t seed, int rounds)
{
	random_state = seed;
	for (int i = 0; i < rounds; i++)
		if (!fuzz_one()) {
			printf("%s: seed %ju, round %d: the connection does not end\n",
			       dialect->name, (uintmax_t)seed, i);
			return false;
		}
	return is_good();
}

/* ---- Slow, reset, hold ---------------------------------------------------------------------- */

static bool slow(void)
{
	int small = 1, fd = socket(AF_INET, SOCK_STREAM, 0);
	bool ended, ok = true;

	setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
	setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &small, sizeof small);
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){ 1 }, sizeof(int));
	if (connect(fd, (struct sockaddr *)&server, sizeof server) < 0)
		fatal("connect");
	for (int i = 0; i < 5 && ok; i++) {
		ok = send_all(fd, dialect->large, strlen(dialect->large), 1);
		ok = ok && read_until(fd, dialect->large_tail, ANSWER_MAX, 1, &ended) > 0 && !ended;
	}
	if (!ok)
		printf("%s: slow client got: %.60s\n", dialect->name, answer);
	close(fd);
	return ok;
}

static void reset_close(int fd)
{
	struct linger hard = { 1, 0 };

	setsockopt(fd, SOL_SOCKET, SO_LINGER, &hard, sizeof hard);
	close(fd);
}

/* Some microseconds, more or fewer: to meet the server at every moment of taking us in. */
static void dawdle(int i)
{
	for (volatile int spins = i * 7919 % 20000; spins > 0; spins--)
		;
}

static bool reset(int n)
{
	for (int i = 0; i < n; i++) {
		const char *text = i % 3 == 0 ? dialect->half : i % 3 == 1 ? dialect->large : "";
		int fd = dial(0);
		if (i % 6 == 0)
			dawdle(i);
		send_all(fd, text, strlen(text), SIZE_MAX);
		if (i % 2)
			await(fd, i % 3 == 1 ? POLLIN : POLLOUT);
		reset_close(fd);
	}
	return is_good();
}

static bool hold(int n)
{
	char end;

	for (int i = 0; i < n; i++) {
		const char *text = i % 2 ? dialect->half : "";
		send_all(dial(0), text, strlen(text), SIZE_MAX);
	}
	printf("holding\n");
	fflush(stdout);
	while (read(0, &end, 1) > 0)
		;
	return true;
}

/* ---- Flood ---------------------------------------------------------------------------------- */

struct flood {
	struct pollfd *polls; /* fd -1: done */
	bool *asked;
	int n, answered, refused, forgotten;
};

static void flood_done(struct flood *f, int i, int *count)
{
	close(f->polls[i].fd);
	f->polls[i].fd = -1;
	(*count)++;
}

/*
 * With the accept queue full the kernel says yes to a client and forgets it again: a SYN cookie
 * gets stale, or a handshake that could not be finished is given up. What such a client sends is
 * never acknowledged, but met by a reset, and no server has ever seen it. <linux/tcp.h> counts the
 * SYN in.
 */
static bool was_forgotten(int fd)
{
	struct tcp_info info = { 0 };
	socklen_t len = sizeof info;

	return getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &len) == 0 &&
	       info.tcpi_bytes_acked <= 1;
}

static void flood_step(struct flood *f, int i)
{
	struct pollfd *p = &f->polls[i];
	char bytes[4096];
	int err = 0;
	socklen_t len = sizeof err;

	if (!f->asked[i]) {
		getsockopt(p->fd, SOL_SOCKET, SO_ERROR, &err, &len);
		if (err || send(p->fd, dialect->good, strlen(dialect->good), MSG_NOSIGNAL) < 0) {
			flood_done(f, i, was_forgotten(p->fd) ? &f->forgotten : &f->refused);
			return;
		}
		f->asked[i] = true;
		p->events = POLLIN;
		return;
	}
	ssize_t n = recv(p->fd, bytes, sizeof bytes, 0);
	if (n > 0)
		flood_done(f, i, &f->answered);
	else if (n < 0 && errno == ECONNRESET && was_forgotten(p->fd))
		flood_done(f, i, &f->forgotten);
	else if (n == 0 || errno != EAGAIN)
		flood_done(f, i, &f->refused);
}

/*
 * Nobody reads an answer before all have tried to connect: so all of them want a descriptor at
 * once. The time counts from there, and anew from each answer until there are enough: on a busy
 * machine 5,000 calls of connect() to a full queue can take half a minute.
 */
static int flood_process(int n)
{
	struct flood f = {
		calloc((size_t)n, sizeof *f.polls), calloc((size_t)n, sizeof *f.asked), n, 0, 0, 0
	};
	int enough = n / 5, answered = 0;

	for (int i = 0; i < n; i++)
		f.polls[i] = (struct pollfd){ dial(SOCK_NONBLOCK), POLLOUT, 0 };
	time_t until = time(NULL) + FLOOD_SECONDS;
	sleep(1);
	while (f.answered + f.refused + f.forgotten < n && time(NULL) < until) {
		if (f.answered > answered && f.answered < enough)
			until = time(NULL) + FLOOD_SECONDS;
		answered = f.answered;
		if (poll(f.polls, (nfds_t)n, 1000) <= 0)
			continue;
		for (int i = 0; i < n; i++)
			if (f.polls[i].fd >= 0 && f.polls[i].revents)
				flood_step(&f, i);
	}
	printf("%d of %d answered, %d refused, %d forgotten by the kernel\n", f.answered, n,
	       f.refused, f.forgotten);
	fflush(stdout);
	/* the other SYNs wait their turn */
	return f.refused == 0 && f.answered >= enough ? 0 : 1;
}

/* The queue may still be full of those who have left: then the kernel forgets this client as well.
 */
static bool is_good_in_the_end(void)
{
	for (int tries = 0; tries < 10; tries++) {
		if (is_good())
			return true;
		sleep(1);
	}
	return false;
}

static bool flood(int n)
{
	struct rlimit limit;
	bool ok = true;
	int status;

	getrlimit(RLIMIT_NOFILE, &limit);
	limit.rlim_cur = limit.rlim_max;
	setrlimit(RLIMIT_NOFILE, &limit);
	for (int i = 0; i < FLOOD_PROCESSES; i++)
		if (fork() == 0)
			_exit(flood_process(n / FLOOD_PROCESSES));
	while (wait(&status) > 0)
		ok = ok && status == 0;
	return is_good_in_the_end() && ok;
}

/* ---- Main ----------------------------------------------------------------------------------- */

static void parse_address(const char *text)
{
	char host[64];
	int port;

	if (sscanf(text, "%63[^:]:%d", host, &port) != 2 ||
	    inet_pton(AF_INET, host, &server.sin_addr) != 1) {
		fprintf(stderr, "hostile: no address: %s\n", text);
		exit(2);
	}
	server.sin_family = AF_INET;
	server.sin_port = htons((uint16_t)port);
}

int main(int argc, char **argv)
{
	signal(SIGPIPE, SIG_IGN);
	if (argc < 4) {
		fprintf(stderr, "usage: hostile host:port corpus|fuzz|slow|reset|flood|hold "
				"http|kv [n...]\n");
		return 2;
	}
	parse_address(argv[1]);
	dialect = &dialects[strcmp(argv[3], "kv") == 0];
	int n = argc > 4 ? atoi(argv[4]) : 100, rounds = argc > 5 ? atoi(argv[5]) : 500;
	bool ok = !strcmp(argv[2], "corpus")  ? corpus()
		  : !strcmp(argv[2], "fuzz")  ? fuzz((uint64_t)n, rounds)
		  : !strcmp(argv[2], "slow")  ? slow()
		  : !strcmp(argv[2], "reset") ? reset(n)
		  : !strcmp(argv[2], "flood") ? flood(n)
		  : !strcmp(argv[2], "hold")  ? hold(n)
					      : false;
	return ok ? 0 : 1;
}
