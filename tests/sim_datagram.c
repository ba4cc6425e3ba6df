/* SPDX-License-Identifier: MIT */
/*
 * sim_datagram.c: scenarios of datagrams: each comes whole and from whom it says; over Unix sockets
 * once and in order, over UDP too as long as the network does; a receive that is given up loses
 * none; whoever waits at a socket that is closed is told.
 */
#include "sim.h"

static const char *some_address(bool *ret_is_unix)
{
	static const char *const addresses[] = {
		"127.0.0.1:0", "[::1]:0", ":0", "unix:@receiver", "unix:/run/receiver", "unix:"
	};
	uint64_t which = pick(6);

	*ret_is_unix = which >= 3;
	return addresses[which];
}

static const char *address_beside(const weir_dgram *dgram)
{
	const char *address = weir_dgram_address(dgram);

	return address[0] == 'u' ? "unix:" : address[0] == '[' ? "[::1]:0" : "127.0.0.1:0";
}

/* ":0" is told as "[::]:port", where nobody can be reached but by those who are beside it. */
static int parse_target(const weir_dgram *dgram, struct weir_address *ret)
{
	const char *address = weir_dgram_address(dgram);
	char text[64];

	if (strncmp(address, "[::]", 4) != 0)
		return weir_address_parse(ret, address);
	snprintf(text, sizeof text, "[::1]%s", address + 4);
	return weir_address_parse(ret, text);
}

/* ---- Numbered ----------------------------------------------------------- */

enum { NUMBERS = 40, LENGTH_MOST = 900 };

struct numbered {
	weir_dgram *from, *to;
	struct weir_address target;
	bool is_over; /* all are sent, or the sender has given up */
};

static size_t length_of(unsigned number)
{
	return sizeof number + (number * 37) % (LENGTH_MOST - sizeof number);
}

static int send_numbers(void *arg)
{
	struct numbered *numbered = arg;
	unsigned char bytes[LENGTH_MOST];
	ssize_t n = 0;

	for (unsigned number = 0; number < NUMBERS && n >= 0; number++) {
		memset(bytes, (int)number, sizeof bytes);
		memcpy(bytes, &number, sizeof number);
		n = weir_dgram_send(numbered->from, bytes, length_of(number), &numbered->target);
		claim(n < 0 || n == (ssize_t)length_of(number));
		if (n >= 0 && pick(4) == 0)
			n = weir_sleep(some_time());
	}
	numbered->is_over = true;
	return n < 0 ? (int)n : 0;
}

/* One receive, which may be given up; the number, or -errno. */
static int next_number(const struct numbered *numbered)
{
	weir_auto_buf buf = WEIR_BUF_INIT;
	struct weir_address from;
	unsigned number;
	WEIR_SCOPE(patience, pick(3) ? 1 + some_time() : 100 * WEIR_MS);
	ssize_t n = weir_dgram_recv(numbered->to, &buf, &from);

	if (n < 0)
		return (int)n;
	claim(buf.len == (size_t)n && buf.len >= sizeof number);
	memcpy(&number, buf.data, sizeof number);
	claim(number < NUMBERS && buf.len == length_of(number));
	for (size_t i = sizeof number; i < buf.len; i++)
		claim((unsigned char)buf.data[i] == number);
	return (int)number;
}

/* Until 100 ms without any are over: nothing is longer on its way. */
static int receive_numbers(const struct numbered *numbered, bool is_unix)
{
	unsigned seen[NUMBERS] = { 0 }, count = 0;
	int last = -1, number;
	int64_t silent_since = weir_now();

	while (count < NUMBERS &&
	       (!numbered->is_over || weir_now() - silent_since < 100 * WEIR_MS)) {
		number = next_number(numbered);
		if (number == -ETIME)
			continue;
		if (number < 0)
			return number;
		silent_since = weir_now();
		claim(!(is_unix || sim_is_plain) || number > last);
		claim(!(is_unix || sim_is_plain) || !seen[number]);
		last = number;
		count += !seen[number]++;
	}
	claim(!sim_is_plain || count == NUMBERS);
	return 0;
}

static int numbers(void *arg)
{
	weir_auto_dgram to = NULL;
	weir_auto_dgram from = NULL;
	struct numbered numbered = { 0 };
	bool is_unix;
	int err = weir_dgram_open(&to, some_address(&is_unix), .bytes_max = pick(2) ? 900 : 0);

	(void)arg;
	if (err == 0)
		err = weir_dgram_open(&from, address_beside(to));
	if (err == 0)
		err = parse_target(to, &numbered.target);
	if (err < 0)
		return err;
	numbered.from = from;
	numbered.to = to;
	WEIR_SCOPE(sending, WEIR_FOREVER);
	err = weir_spawn(&sending, send_numbers, &numbered);
	if (err == 0)
		err = receive_numbers(&numbered, is_unix);
	return err < 0 ? err : weir_scope_wait(&sending);
}

/* ---- Questions and answers ---------------------------------------------- */

enum { CLIENTS = 4, QUESTIONS = 5, TRIES = 200 };

static int answer(void *arg)
{
	weir_dgram *dgram = arg;
	weir_auto_buf buf = WEIR_BUF_INIT;
	struct weir_address from;
	ssize_t n;

	while ((n = weir_dgram_recv(dgram, &buf, &from)) >= 0 || n == -ENOMEM) {
		if (n < 0) {
			if ((n = weir_sleep(WEIR_MS)) < 0)
				break;
			continue;
		}
		n = weir_dgram_send(dgram, buf.data, buf.len, &from);
		/* a client that has gone meanwhile is nothing to us */
		if (n < 0 && n != -ENOENT && n != -ECONNREFUSED && n != -ENOMEM)
			break;
	}
	return depended_on((int)n);
}

/* Asks until the answer has come: 0, or -errno. Answers to earlier questions are late ones. */
static int ask(weir_dgram *dgram, const uint32_t *question)
{
	for (int tries = 0; tries < TRIES; tries++) {
		uint32_t got[2] = { 0 };
		ssize_t n = weir_dgram_send(dgram, question, 8, NULL);
		WEIR_SCOPE(patience, 50 * WEIR_MS);
		while (n >= 0 && (n = weir_dgram_read(dgram, got, sizeof got, NULL)) >= 0) {
			claim(n == 8 && got[0] == question[0] && got[1] <= question[1]);
			if (got[1] == question[1])
				return 0;
		}
		if (n != -ETIME)
			return (int)n;
	}
	claim(false);
	return 0;
}

static int client(void *arg)
{
	weir_auto_dgram dgram = NULL;
	const char *server = arg;
	uint32_t question[2] = { (uint32_t)weir_task_id(), 0 };
	bool is_unix = server[0] == 'u';
	int err = weir_dgram_open(&dgram, is_unix ? "unix:" : "127.0.0.1:0");

	if (err == 0)
		err = weir_dgram_connect(dgram, server);
	for (; err == 0 && question[1] < QUESTIONS; question[1]++)
		err = ask(dgram, question);
	return err;
}

static int answers(void *arg)
{
	weir_auto_dgram dgram = NULL;
	int err = weir_dgram_open(&dgram, pick(2) ? "127.0.0.1:0" : "unix:/run/answers");

	(void)arg;
	if (err < 0)
		return err;
	WEIR_SCOPE(answering, WEIR_FOREVER);
	err = weir_spawn(&answering, answer, dgram);
	WEIR_SCOPE(clients, WEIR_FOREVER);
	for (int i = 0; i < CLIENTS && err == 0; i++)
		err = weir_spawn(&clients, client, (void *)weir_dgram_address(dgram),
				 .worker = some_worker());
	return err == 0 ? weir_scope_wait(&clients) : err;
}

/* ---- Closing ------------------------------------------------------------ */

struct parked {
	weir_dgram *dgram;
	struct weir_address full;
};

static int wait_for_one(void *arg)
{
	const struct parked *parked = arg;
	weir_auto_buf buf = WEIR_BUF_INIT;
	ssize_t n = weir_dgram_recv(parked->dgram, &buf, NULL);

	claim(n < 0);
	return n == -ECANCELED ? 0 : (int)n;
}

/* Nobody reads there. */
static int fill_up(void *arg)
{
	const struct parked *parked = arg;
	ssize_t n;

	while ((n = weir_dgram_send(parked->dgram, "x", 1, &parked->full)) == 1)
		;
	return n == -ECANCELED ? 0 : (int)n;
}

static int close_under_tasks(void *arg)
{
	weir_auto_dgram full = NULL;
	struct parked parked;
	int err = weir_dgram_open(&full, "unix:@full");

	(void)arg;
	if (err == 0)
		err = weir_address_parse(&parked.full, weir_dgram_address(full));
	if (err == 0)
		err = weir_dgram_open(&parked.dgram, "unix:");
	if (err < 0)
		return err;
	WEIR_SCOPE(waiting, WEIR_FOREVER);
	err = weir_spawn(&waiting, wait_for_one, &parked);
	for (int i = 0; i < 3 && err == 0; i++)
		err = weir_spawn(&waiting, fill_up, &parked);
	/* they have begun, so none comes to the socket after it is gone */
	int slept = weir_sleep(200 * WEIR_MS);
	if (slept < 0)
		weir_scope_cancel(&waiting);
	if (err < 0 || slept < 0)
		weir_scope_close(&waiting);
	weir_dgram_close(parked.dgram);
	return err < 0 ? err : slept < 0 ? slept : weir_scope_wait(&waiting);
}

const struct sim_scenario sim_datagram_scenarios[] = {
	{ "datagram_numbers", numbers },
	{ "datagram_answers", answers },
	{ "datagram_close", close_under_tasks },
	{ NULL, NULL },
};
