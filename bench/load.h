/* SPDX-License-Identifier: MIT */
/*
 * load.h: what the command line of echoload asks for and what its report says.
 *
 * echoload.c makes the one into the other; load_options.c and load_report.c are its two ends. What
 * it knows in between is in load_state.h.
 */
#ifndef BENCH_LOAD_H
#define BENCH_LOAD_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/types.h>

#include "histogram.h"

#define LOAD_IN_FLIGHT_BYTES_MAX (64 << 20) /* of one connection: size x depth */
#define DATAGRAM_BYTES_MAX	 65507

enum load_mode { MODE_ECHO, MODE_CHURN, MODE_IDLE };

struct load_options {
	enum load_mode mode;
	const char *address;
	unsigned connections;
	unsigned size;
	unsigned depth;
	double rate; /* messages/s over all connections; 0: closed loop */
	double seconds;
	double warmup_seconds;
	uint64_t requests; /* stop after so many; 0: by time */
	bool verify;
	bool once; /* idle: one echo on each connection first */
	bool reset;
	bool csv;
	bool csv_header;
	bool latencies; /* with csv: all of them, by bucket */
	bool syscalls;
	pid_t server;
};

/* Figures of the measured window; a negative one is not known and is left out. */
struct load_result {
	uint64_t requests;    /* answered in the window */
	unsigned connections; /* open at the end */
	uint64_t errors;      /* connections lost or refused since the start */
	uint64_t lost;	      /* messages that were on them */
	uint64_t reconnects;
	uint64_t mismatches;
	int last_error;
	bool server_known;
	const struct histogram *latency;
	double seconds;
	double rate;
	double server_us; /* CPU per request */
	double server_cpus;
	double server_switches; /* per request, or per second when idle */
	double server_sleeps;	/* those after which it had to be woken; per request */
	double server_rss_kb;
	double bytes_per_conn;
	double syscalls;
	double cqes; /* completions of its rings */
	double client_us;
	double foreign_percent; /* of one CPU, by neither the server nor us */
	double steal_percent;
	uint64_t behind; /* open loop: due and not answered at the end */
	double behind_ms;
};

/* Prints "echoload: ..." on stderr and exits with status 1. */
void load_die(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));

/* Exits after --help, and with a message when the command line does not parse. */
struct load_options load_options_parse(int argc, char **argv);

/* Writes the socket address of `text` to *ret and returns its length; exits when there is none. */
socklen_t load_address_parse(const char *text, struct sockaddr_storage *ret);

/* Whether it names a datagram server: each connection is a socket connected to it. */
bool load_address_is_udp(const char *text);

void load_report_text(const struct load_options *opt, const struct load_result *r);
void load_report_csv(const struct load_options *opt, const struct load_result *r);

#endif
