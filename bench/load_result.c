/* SPDX-License-Identifier: MIT */
/*
 * load_result.c: figures of the measured window, from what was read at its two ends.
 */
#include "load_state.h"

static double share(double amount, uint64_t of)
{
	return of ? amount / (double)of : -1;
}

static void compute_server(const struct load *l, struct load_result *r)
{
	const struct procstat *b = &l->begin.server, *e = &l->end.server;
	double cpu_ns = (double)(e->cpu_ns - b->cpu_ns);
	double switches = (double)(e->sleeps + e->preemptions - b->sleeps - b->preemptions);
	r->server_us = share(cpu_ns / 1000, l->requests);
	r->server_cpus = cpu_ns / 1e9 / r->seconds;
	r->server_switches = share(switches, l->requests);
	r->server_sleeps = share((double)(e->sleeps - b->sleeps), l->requests);
	r->server_rss_kb = (double)e->rss_bytes / 1024;
	if (l->opt.mode == MODE_IDLE) {
		double grown = (double)(e->rss_bytes - l->server_before.rss_bytes);
		r->bytes_per_conn = share(grown, l->opened);
		r->server_switches = switches / r->seconds;
	}
	if (l->syscalls_known)
		r->syscalls = share((double)(l->end.syscalls - l->begin.syscalls), l->requests);
	if (l->cqes_known)
		r->cqes = share((double)(l->end.cqes - l->begin.cqes), l->requests);
}

static void compute_behind(const struct load *l, struct load_result *r)
{
	int64_t oldest = l->end.time_ns;
	for (unsigned i = 0; i < l->opt.connections; i++) {
		const struct conn *c = &l->conns[i];
		if (c->due == c->done)
			continue;
		r->behind += c->due - c->done;
		int64_t at = load_due_ns(l, c, c->done);
		oldest = at < oldest ? at : oldest;
	}
	r->behind_ms = (double)(l->end.time_ns - oldest) / 1e6;
}

struct load_result load_compute(const struct load *l)
{
	struct load_result r = { .requests = l->requests,
				 .connections =
					 l->opt.mode == MODE_CHURN ? l->opt.connections : l->opened,
				 .errors = l->errors,
				 .lost = l->lost,
				 .reconnects = l->reconnects,
				 .mismatches = l->mismatches,
				 .last_error = l->last_error,
				 .server_known = l->server_known,
				 .latency = &l->latency,
				 .server_us = -1,
				 .server_cpus = -1,
				 .server_switches = -1,
				 .server_sleeps = -1,
				 .server_rss_kb = -1,
				 .bytes_per_conn = -1,
				 .syscalls = -1,
				 .cqes = -1 };
	const struct reading *b = &l->begin, *e = &l->end;
	r.seconds = (double)(e->time_ns - b->time_ns) / 1e9;
	r.rate = (double)l->requests / r.seconds;
	if (l->server_known)
		compute_server(l, &r);
	int64_t client_ns = e->self.cpu_ns - b->self.cpu_ns;
	int64_t server_ns = l->server_known ? e->server.cpu_ns - b->server.cpu_ns : 0;
	int64_t foreign_ns = e->machine.busy_ns - b->machine.busy_ns - client_ns - server_ns;
	r.client_us = share((double)client_ns / 1000, l->requests);
	r.foreign_percent = foreign_ns > 0 ? (double)foreign_ns / 1e7 / r.seconds : 0;
	if (!l->server_known)
		r.foreign_percent = -1; /* the server's share would be in it */
	r.steal_percent = (double)(e->machine.steal_ns - b->machine.steal_ns) / 1e7 / r.seconds;
	if (l->opt.rate > 0)
		compute_behind(l, &r);
	return r;
}
