/* SPDX-License-Identifier: MIT */
/*
 * load_report.c: the result of a run, as text or as a line of CSV.
 *
 * A figure that could not be had is left out of the text and is an empty cell in the CSV.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "load.h"

static double percentile_us(const struct load_result *r, double percent)
{
	return (double)histogram_percentile(r->latency, percent) / 1000;
}

static const char *mode_name(const struct load_options *opt)
{
	if (opt->mode == MODE_IDLE)
		return "idle";
	if (opt->mode == MODE_CHURN)
		return "churn";
	return opt->rate > 0 ? "open" : "closed";
}

/* A CSV cell: empty when the figure is not known. */
static void cell(double value, int decimals)
{
	if (value < 0)
		putchar(',');
	else
		printf(",%.*f", decimals, value);
}

/* Those of several samples can be added up, as percentiles cannot. */
static void cell_of_latencies(const struct histogram *h)
{
	const char *before = ",";

	for (unsigned i = 0; i < HISTOGRAM_BUCKETS; i++) {
		uint64_t bound = histogram_bound(i);
		if (h->counts[i] == 0)
			continue;
		printf("%s%" PRIu64 ":%" PRIu64, before, bound < h->max ? bound : h->max,
		       h->counts[i]);
		before = " ";
	}
}

void load_report_csv(const struct load_options *opt, const struct load_result *r)
{
	if (opt->csv_header)
		printf("mode,size,connections,depth,rate,seconds,requests,requests_per_s,p50_us,"
		       "p99_us,p99.9_us,p99.99_us,max_us,mean_us,errors,lost,reconnects,mismatches,"
		       "behind,server_cpu_us,server_cpus,server_switches,server_rss_kb,"
		       "bytes_per_conn,syscalls,client_cpu_us,foreign_percent,steal_percent,"
		       "server_sleeps,cqes%s\n",
		       opt->latencies ? ",latencies" : "");
	printf("%s,%u,%u,%u,%.0f,%.3f,%" PRIu64, mode_name(opt), opt->size, opt->connections,
	       opt->depth, opt->rate, r->seconds, r->requests);
	cell(r->rate, 1);
	static const double percents[] = { 50, 99, 99.9, 99.99 };
	for (unsigned i = 0; i < sizeof(percents) / sizeof(percents[0]); i++)
		cell(r->requests ? percentile_us(r, percents[i]) : -1, 1);
	cell(r->requests ? (double)r->latency->max / 1000 : -1, 1);
	cell(r->requests ? histogram_mean(r->latency) / 1000 : -1, 1);
	printf(",%" PRIu64 ",%" PRIu64 ",%" PRIu64 ",%" PRIu64 ",%" PRIu64, r->errors, r->lost,
	       r->reconnects, r->mismatches, r->behind);
	cell(r->server_us, 3);
	cell(r->server_cpus, 3);
	cell(r->server_switches, 4);
	cell(r->server_rss_kb, 0);
	cell(r->bytes_per_conn, 0);
	cell(r->syscalls, 4);
	cell(r->client_us, 3);
	cell(r->foreign_percent, 1);
	cell(r->steal_percent, 1);
	cell(r->server_sleeps, 4);
	cell(r->cqes, 4);
	if (opt->latencies)
		cell_of_latencies(r->latency);
	putchar('\n');
}

static void print_server(const struct load_options *opt, const struct load_result *r)
{
	printf("server     pid %d", (int)opt->server);
	if (r->server_us >= 0)
		printf(", %.3f us CPU/request", r->server_us);
	printf(", %.2f CPUs, RSS %.0f kB", r->server_cpus, r->server_rss_kb);
	if (r->bytes_per_conn >= 0)
		printf(" (%.0f bytes/connection)", r->bytes_per_conn);
	if (r->server_switches >= 0)
		printf(", %.4f switches/%s", r->server_switches,
		       opt->mode == MODE_IDLE ? "s" : "request");
	if (r->syscalls >= 0)
		printf(", %.4f syscalls/request", r->syscalls);
	if (r->cqes >= 0)
		printf(", %.4f CQEs/request", r->cqes);
	putchar('\n');
}

void load_report_text(const struct load_options *opt, const struct load_result *r)
{
	printf("%-10s %u bytes, %u of %u connections, depth %u, %.2f s\n", mode_name(opt),
	       opt->size, r->connections, opt->connections, opt->depth, r->seconds);
	if (opt->mode != MODE_IDLE) {
		printf("requests   %" PRIu64 ", %.0f/s\n", r->requests, r->rate);
		printf("latency us p50 %.1f  p99 %.1f  p99.9 %.1f  p99.99 %.1f  max %.1f  mean "
		       "%.1f\n",
		       percentile_us(r, 50), percentile_us(r, 99), percentile_us(r, 99.9),
		       percentile_us(r, 99.99), (double)r->latency->max / 1000,
		       histogram_mean(r->latency) / 1000);
	}
	if (opt->rate > 0 && r->behind > 0)
		printf("behind     %" PRIu64 " messages due and not answered, the oldest %.1f ms\n",
		       r->behind, r->behind_ms);
	if (r->errors > 0)
		printf("errors     %" PRIu64 " connections lost or refused (last: %s), %" PRIu64
		       " messages lost, %" PRIu64 " reconnects\n",
		       r->errors, strerror(-r->last_error), r->lost, r->reconnects);
	if (opt->verify)
		printf("verified   %s\n", r->mismatches ? "NO: the stream differs" : "every byte");
	if (r->server_known)
		print_server(opt, r);
	printf("machine    ");
	if (r->client_us >= 0)
		printf("client %.3f us CPU/request, ", r->client_us);
	if (r->foreign_percent >= 0)
		printf("others %.1f %% of a CPU, ", r->foreign_percent);
	printf("steal %.1f %%\n", r->steal_percent);
}
