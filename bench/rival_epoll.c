/* SPDX-License-Identifier: MIT */
/*
 * rival_epoll.c: an echo server on level-triggered epoll, the plainest fast one.
 *
 * One thread, one epoll_wait for up to 1024 events, then for each a read and a write through one
 * shared buffer. Two system calls and a fraction per request and nothing else: what readiness costs
 * without a runtime on top. Bytes that the socket does not take are kept for that connection alone,
 * which then waits for writability and reads nothing more until they are gone. Datagrams are one
 * socket and no epoll to speak of: it is asked when there is nothing to receive. With --fixed it
 * gives every request the same answer instead, see fixed.h.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <getopt.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "fixed.h"

#define EVENTS	     1024
#define BUFFER_BYTES 65536

/* What a connection could not send, by descriptor. Only such connections own memory. */
struct rest {
	char *data;
	size_t offset, len;
};

static struct rest *rests;
static char buffer[BUFFER_BYTES];
static struct fixed fixed;

static void die(const char *what)
{
	fprintf(stderr, "rival_epoll: %s: %s\n", what, strerror(errno));
	exit(1);
}

static void watch(int epoll, int op, int fd, unsigned events)
{
	struct epoll_event event = { .events = events, .data.fd = fd };
	if (epoll_ctl(epoll, op, fd, &event) < 0)
		die("epoll_ctl");
}

static void drop(int fd)
{
	free(rests[fd].data);
	rests[fd] = (struct rest){ 0 };
	close(fd);
}

/* EMFILE and its like leave the client in the backlog; level triggering asks again. */
static void accept_all(int epoll, int listener)
{
	int fd;
	while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0)
		watch(epoll, EPOLL_CTL_ADD, fd, EPOLLIN);
}

static void keep_rest(int epoll, int fd, const char *unsent, size_t len)
{
	struct rest *rest = &rests[fd];
	rest->data = malloc(len);
	if (!rest->data) {
		drop(fd);
		return;
	}
	memcpy(rest->data, unsent, len);
	rest->offset = 0;
	rest->len = len;
	watch(epoll, EPOLL_CTL_MOD, fd, EPOLLOUT);
}

static void on_readable(int epoll, int fd)
{
	ssize_t got = recv(fd, buffer, sizeof(buffer), 0);
	if (got < 0 && errno == EAGAIN)
		return;
	if (got <= 0) {
		drop(fd);
		return;
	}
	const char *answer = fixed.answers ? fixed.answers : buffer;
	size_t len = fixed.answers ? fixed_answer(&fixed, buffer, (size_t)got) : (size_t)got;
	ssize_t sent = send(fd, answer, len, MSG_NOSIGNAL);
	if (sent < 0 && errno != EAGAIN) {
		drop(fd);
		return;
	}
	size_t done = sent < 0 ? 0 : (size_t)sent;
	if (done < len)
		keep_rest(epoll, fd, answer + done, len - done);
}

static void on_writable(int epoll, int fd)
{
	struct rest *rest = &rests[fd];
	ssize_t sent = send(fd, rest->data + rest->offset, rest->len, MSG_NOSIGNAL);
	if (sent < 0 && errno == EAGAIN)
		return;
	if (sent < 0) {
		drop(fd);
		return;
	}
	rest->offset += (size_t)sent;
	rest->len -= (size_t)sent;
	if (rest->len > 0)
		return;
	free(rest->data);
	rest->data = NULL;
	watch(epoll, EPOLL_CTL_MOD, fd, EPOLLIN);
}

/* What the socket does not take is lost, as datagrams are. */
static void echo_datagrams(int fd)
{
	struct sockaddr_in from;
	socklen_t from_len = sizeof(from);
	ssize_t got;
	while ((got = recvfrom(fd, buffer, sizeof(buffer), 0, (struct sockaddr *)&from,
			       &from_len)) >= 0) {
		sendto(fd, buffer, (size_t)got, MSG_NOSIGNAL, (struct sockaddr *)&from, from_len);
		from_len = sizeof(from);
	}
}

static void serve_datagrams(int epoll, int fd)
{
	struct epoll_event event;
	for (;;) {
		echo_datagrams(fd);
		if (epoll_wait(epoll, &event, 1, -1) < 0 && errno != EINTR)
			die("epoll_wait");
	}
}

static void serve(int epoll, int listener)
{
	static struct epoll_event events[EVENTS];
	for (;;) {
		int n = epoll_wait(epoll, events, EVENTS, -1);
		if (n < 0 && errno != EINTR)
			die("epoll_wait");
		for (int i = 0; i < n; i++) {
			int fd = events[i].data.fd;
			if (fd == listener)
				accept_all(epoll, listener);
			else if (rests[fd].data)
				on_writable(epoll, fd);
			else
				on_readable(epoll, fd);
		}
	}
}

static struct sockaddr_in loopback(unsigned port)
{
	return (struct sockaddr_in){ .sin_family = AF_INET,
				     .sin_port = htons((uint16_t)port),
				     .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
}

static int open_udp(unsigned port)
{
	struct sockaddr_in addr = loopback(port);
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0 || bind(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0)
		die("udp");
	return fd;
}

/* Accepted sockets inherit TCP_NODELAY. */
static int listen_tcp(unsigned port)
{
	struct sockaddr_in addr = loopback(port);
	int one = 1;
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0)
		die("socket");
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	if (bind(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0 || listen(fd, 4096) < 0)
		die("listen");
	return fd;
}

static int listen_unix(const char *path)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0 || strlen(path) >= sizeof(addr.sun_path))
		die("socket");
	strcpy(addr.sun_path, path);
	if (bind(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0 || listen(fd, 4096) < 0)
		die("listen");
	return fd;
}

/* PORT or unix:PATH */
static int listen_on(const char *place)
{
	if (strncmp(place, "unix:", 5) == 0)
		return listen_unix(place + 5);
	return listen_tcp((unsigned)atoi(place));
}

static void pin(int cpu)
{
	cpu_set_t set;
	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	if (sched_setaffinity(0, sizeof(set), &set) < 0)
		die("--cpu");
}

static const char *parse_options(int argc, char **argv)
{
	static const char usage[] =
		"usage: rival_epoll PORT|udp:PORT|unix:PATH [--cpu N] [--fixed BYTES:ANSWER]\n"
		"Echoes on 127.0.0.1:PORT with one epoll thread.\n"
		"  --fixed    sends ANSWER for every BYTES of a stream instead\n";
	static const struct option options[] = { { "cpu", required_argument, NULL, 'c' },
						 { "fixed", required_argument, NULL, 'f' },
						 { "help", no_argument, NULL, 'h' },
						 { NULL, 0, NULL, 0 } };
	int letter;
	while ((letter = getopt_long(argc, argv, "h", options, NULL)) != -1) {
		if (letter == 'c') {
			pin(atoi(optarg));
			continue;
		}
		if (letter == 'f' && fixed_init(&fixed, optarg, BUFFER_BYTES) == 0)
			continue;
		fputs(usage, letter == 'h' ? stdout : stderr);
		exit(letter == 'h' ? 0 : 1);
	}
	if (optind != argc - 1) {
		fputs(usage, stderr);
		exit(1);
	}
	return argv[optind];
}

int main(int argc, char **argv)
{
	const char *place = parse_options(argc, argv);
	struct rlimit limit;
	if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
		die("getrlimit");
	limit.rlim_cur = limit.rlim_max;
	setrlimit(RLIMIT_NOFILE, &limit);
	rests = calloc(limit.rlim_max, sizeof(*rests));
	int epoll = epoll_create1(EPOLL_CLOEXEC);
	if (!rests || epoll < 0)
		die("start");
	if (strncmp(place, "udp:", 4) == 0) {
		int fd = open_udp((unsigned)atoi(place + 4));
		watch(epoll, EPOLL_CTL_ADD, fd, EPOLLIN);
		serve_datagrams(epoll, fd);
	}
	int listener = listen_on(place);
	watch(epoll, EPOLL_CTL_ADD, listener, EPOLLIN);
	serve(epoll, listener);
}
