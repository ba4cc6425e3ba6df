/* SPDX-License-Identifier: MIT */
/*
 * load_options.c: the command line of echoload.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <netinet/in.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>

#include "load.h"

void load_die(const char *format, ...)
{
	va_list args;
	va_start(args, format);
	fputs("echoload: ", stderr);
	vfprintf(stderr, format, args);
	fputc('\n', stderr);
	va_end(args);
	exit(1);
}

static const char usage[] =
	"usage: echoload [options] ADDRESS\n"
	"ADDRESS is 127.0.0.1:7000, [::1]:7000, :7000, udp:127.0.0.1:7000, unix:/path or "
	"unix:@name.\n"
	"  -c, --connections N   connections (64)\n"
	"  -s, --size BYTES      message size (64)\n"
	"  -p, --depth N         messages in flight on each connection (1)\n"
	"  -r, --rate R          open loop: R messages/s in total; latency counts from the due "
	"time\n"
	"  -k, --churn           connect, one echo, close, again\n"
	"  -i, --idle            open the connections, say 'held', and hold them\n"
	"  -1, --once            with --idle: one echo on each connection first\n"
	"  -t, --time SECONDS    measured time (5)\n"
	"  -w, --warmup SECONDS  before it (0.5)\n"
	"  -n, --requests N      exactly N requests instead, without warm-up\n"
	"  -V, --verify          compare every byte that comes back\n"
	"      --reset           close with a reset (no TIME_WAIT)\n"
	"  -P, --pid PID         the server: report its CPU time, switches and memory\n"
	"      --syscalls        and count its system calls and CQEs (needs tracefs; slows it a "
	"little)\n"
	"      --csv             one line of CSV\n"
	"      --csv-header      and the line of column names before it\n"
	"      --latencies       with it: one more column, LATENCY_NS:COUNT of each bucket\n"
	"  -h, --help\n"
	"Exit status: 0; 1 when nothing could be measured; 2 when --verify found a difference.\n";

enum { OPT_RESET = 256, OPT_SYSCALLS, OPT_CSV, OPT_CSV_HEADER, OPT_LATENCIES };

static const struct option long_options[] = {
	{ "connections", required_argument, NULL, 'c' },
	{ "size", required_argument, NULL, 's' },
	{ "depth", required_argument, NULL, 'p' },
	{ "rate", required_argument, NULL, 'r' },
	{ "churn", no_argument, NULL, 'k' },
	{ "idle", no_argument, NULL, 'i' },
	{ "once", no_argument, NULL, '1' },
	{ "time", required_argument, NULL, 't' },
	{ "warmup", required_argument, NULL, 'w' },
	{ "requests", required_argument, NULL, 'n' },
	{ "verify", no_argument, NULL, 'V' },
	{ "reset", no_argument, NULL, OPT_RESET },
	{ "pid", required_argument, NULL, 'P' },
	{ "syscalls", no_argument, NULL, OPT_SYSCALLS },
	{ "csv", no_argument, NULL, OPT_CSV },
	{ "csv-header", no_argument, NULL, OPT_CSV_HEADER },
	{ "latencies", no_argument, NULL, OPT_LATENCIES },
	{ "help", no_argument, NULL, 'h' },
	{ NULL, 0, NULL, 0 },
};

static double number(const char *text, double min, double max)
{
	char *end;
	errno = 0;
	double value = strtod(text, &end);
	if (errno || end == text || *end || !(value >= min && value <= max))
		load_die("'%s' is not a number from %.10g to %.10g", text, min, max);
	return value;
}

static void set_option(struct load_options *opt, int letter)
{
	switch (letter) {
	case 'c':
		opt->connections = (unsigned)number(optarg, 1, 1 << 20);
		break;
	case 's':
		opt->size = (unsigned)number(optarg, 1, LOAD_IN_FLIGHT_BYTES_MAX);
		break;
	case 'p':
		opt->depth = (unsigned)number(optarg, 1, 65536);
		break;
	case 'r':
		opt->rate = number(optarg, 1, 1e9);
		break;
	case 'k':
		opt->mode = MODE_CHURN;
		break;
	case 'i':
		opt->mode = MODE_IDLE;
		break;
	case '1':
		opt->once = true;
		break;
	case 't':
		opt->seconds = number(optarg, 0.01, 1e6);
		break;
	case 'w':
		opt->warmup_seconds = number(optarg, 0, 1e6);
		break;
	case 'n':
		opt->requests = (uint64_t)number(optarg, 1, 1e15);
		break;
	case 'V':
		opt->verify = true;
		break;
	case 'P':
		opt->server = (pid_t)number(optarg, 1, 1 << 22);
		break;
	case OPT_RESET:
		opt->reset = true;
		break;
	case OPT_SYSCALLS:
		opt->syscalls = true;
		break;
	case OPT_LATENCIES:
		opt->latencies = true;
		break;
	case OPT_CSV_HEADER:
		opt->csv_header = true;
		/* fall through */
	case OPT_CSV:
		opt->csv = true;
		break;
	case 'h':
		fputs(usage, stdout);
		exit(0);
	default:
		fputs(usage, stderr);
		exit(1);
	}
}

struct load_options load_options_parse(int argc, char **argv)
{
	struct load_options opt = {
		.connections = 64, .size = 64, .depth = 1, .seconds = 5, .warmup_seconds = 0.5
	};
	int letter;
	while ((letter = getopt_long(argc, argv, "c:s:p:r:ki1t:w:n:VP:h", long_options, NULL)) !=
	       -1)
		set_option(&opt, letter);
	if (optind != argc - 1) {
		fputs(usage, stderr);
		exit(1);
	}
	opt.address = argv[optind];
	if ((uint64_t)opt.size * opt.depth > LOAD_IN_FLIGHT_BYTES_MAX)
		load_die("size x depth is above %d bytes", LOAD_IN_FLIGHT_BYTES_MAX);
	if (opt.mode != MODE_ECHO && (opt.rate > 0 || opt.depth > 1))
		load_die("--rate and --depth go with neither --churn nor --idle");
	if (load_address_is_udp(opt.address) && (opt.mode != MODE_ECHO || opt.depth > 1))
		load_die("udp: goes with neither --churn nor --idle nor --depth");
	if (load_address_is_udp(opt.address) && opt.size > DATAGRAM_BYTES_MAX)
		load_die("a datagram has at most %d bytes", DATAGRAM_BYTES_MAX);
	if (opt.requests > 0) {
		opt.warmup_seconds = 0;
		opt.seconds = 1e6;
	}
	return opt;
}

/* Gives the address's length. */
static socklen_t parse_unix(const char *path, struct sockaddr_storage *ret)
{
	struct sockaddr_un *sun = (struct sockaddr_un *)ret;
	size_t len = strlen(path);
	if (len == 0 || len >= sizeof(sun->sun_path))
		load_die("unix:%s: bad path", path);
	sun->sun_family = AF_UNIX;
	memcpy(sun->sun_path, path, len);
	if (path[0] == '@') {
		sun->sun_path[0] = '\0';
		return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + len);
	}
	return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + len + 1);
}

bool load_address_is_udp(const char *text)
{
	return strncmp(text, "udp:", 4) == 0;
}

socklen_t load_address_parse(const char *text, struct sockaddr_storage *ret)
{
	if (load_address_is_udp(text))
		text += 4;
	struct sockaddr_in *sin = (struct sockaddr_in *)ret;
	struct sockaddr_in6 *sin6 = (struct sockaddr_in6 *)ret;
	const char *colon = strrchr(text, ':');
	char host[64] = "127.0.0.1";
	if (strncmp(text, "unix:", 5) == 0)
		return parse_unix(text + 5, ret);
	if (!colon || colon - text >= (ptrdiff_t)sizeof(host))
		load_die("%s: not an address", text);
	uint16_t port = htons((uint16_t)number(colon + 1, 1, 65535));
	if (text[0] == '[' && colon > text + 1 && colon[-1] == ']') {
		snprintf(host, sizeof(host), "%.*s", (int)(colon - text - 2), text + 1);
		sin6->sin6_family = AF_INET6;
		sin6->sin6_port = port;
		if (inet_pton(AF_INET6, host, &sin6->sin6_addr) != 1)
			load_die("%s: not an address", text);
		return sizeof(*sin6);
	}
	if (colon > text)
		snprintf(host, sizeof(host), "%.*s", (int)(colon - text), text);
	sin->sin_family = AF_INET;
	sin->sin_port = port;
	if (inet_pton(AF_INET, host, &sin->sin_addr) != 1)
		load_die("%s: not an address", text);
	return sizeof(*sin);
}
