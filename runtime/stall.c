/* SPDX-License-Identifier: MIT */
/*
 * stall.c: tasks that hold their worker, so that everybody else on it waits.
 *
 * A worker that is awake and switches tasks gets on. One whose counters stand still from look to
 * look, for WEIR_STALL_MS in all, is interrupted and says which task it is in and where. Time in
 * which its thread was ready and had no CPU does not count: that is the machine's fault, and the
 * kernel counts it for us. It also tells how long the thread has computed: the rest it has slept in
 * some call that blocks, and a report says which of the two it is. A stay is reported once; reports
 * come at most once a second, the others are counted.
 *
 * The workers do nothing for this. Looking costs a few loads, twice per WEIR_STALL_MS.
 */
#include "runtime/stall.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "alloc/usdt.h"

static const int64_t REPORT_NS = WEIR_SEC; /* between two */

/* Of a thread, ever; zeroes where the kernel does not count. */
struct times {
	int64_t ran_ns;
	int64_t delayed_ns; /* ready, without a CPU; a wait that goes on is not in it yet */
	long blocked;	    /* how often it has left the CPU of its own accord */
};

/* A worker as it was when its counters last moved. */
struct stay {
	uint64_t switches, turns;
	int64_t since_ns;
	int64_t looked_ns;
	int64_t held_ns;  /* in steps of at most one tick: we may have been stopped ourselves */
	int64_t asked_ns; /* when the thread's times were these; 0: not asked yet */
	struct times times;
	const struct weir__msg *beside; /* lay in the inbox while it slept */
	bool was_blocked;		/* then */
	bool is_told;
};

struct weir__stalls {
	const struct weir__runtime *runtime;
	struct weir__capture *captures;
	int64_t limit_ns;
	int64_t reported_ns;
	uint64_t untold; /* since then */
	struct stay stays[];
};

struct weir__stalls *weir__stalls_new(const struct weir__runtime *runtime,
				      struct weir__capture *captures)
{
	struct weir__stalls *stalls =
		calloc(1, sizeof *stalls + runtime->workers_count * sizeof *stalls->stays);

	if (!stalls)
		return NULL;
	stalls->runtime = runtime;
	stalls->captures = captures;
	stalls->limit_ns = (int64_t)runtime->config.stall_ms * WEIR_MS;
	stalls->reported_ns = weir__clock_ns() - REPORT_NS;
	return stalls;
}

void weir__stalls_free(struct weir__stalls *stalls)
{
	free(stalls);
}

int64_t weir__stalls_tick_ns(const struct weir__runtime *runtime)
{
	int64_t limit = (int64_t)runtime->config.stall_ms * WEIR_MS;

	return limit ? limit / 2 : INT64_MAX;
}

static bool read_of(const struct weir__worker *worker, const char *what, char *ret, size_t size)
{
	char path[64];

	snprintf(path, sizeof path, "/proc/self/task/%d/%s", (int)worker->tid, what);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return false;
	ssize_t n = read(fd, ret, size - 1);
	(void)close(fd);
	ret[n > 0 ? n : 0] = '\0';
	return n > 0;
}

static int64_t delayed_ns_of(const struct weir__worker *worker)
{
	char text[96];
	long long delayed;

	return read_of(worker, "schedstat", text, sizeof text) &&
			       sscanf(text, "%*d %lld", &delayed) == 1
		       ? delayed
		       : 0;
}

static const char *field_of(const char *status, const char *name)
{
	const char *at = strstr(status, name);

	return at ? at + strlen(name) : "";
}

static void ask(struct stay *stay, const struct weir__worker *worker)
{
	char status[4096] = "";
	clockid_t clock;

	(void)read_of(worker, "status", status, sizeof status);
	stay->was_blocked = field_of(status, "\nState:\t")[0] != 'R';
	stay->times.blocked = strtol(field_of(status, "\nvoluntary_ctxt_switches:\t"), NULL, 10);
	stay->times.delayed_ns = delayed_ns_of(worker);
	if (pthread_getcpuclockid(worker->thread, &clock) == 0)
		stay->times.ran_ns = weir__ran_ns(clock);
	stay->asked_ns = weir__clock_ns();
}

static void begin(struct stay *stay, uint64_t switches, uint64_t turns, int64_t now)
{
	*stay = (struct stay){
		.switches = switches, .turns = turns, .since_ns = now, .looked_ns = now
	};
}

void weir__stalls_forget(struct weir__stalls *stalls)
{
	int64_t now = weir__clock_ns();

	for (unsigned i = 0; i < stalls->runtime->workers_count; i++)
		begin(&stalls->stays[i], stalls->stays[i].switches, stalls->stays[i].turns, now);
}

/* ---- Reports ------------------------------------------------------------ */

static void write_report(struct weir__stalls *stalls, unsigned i, int64_t held_ns, const char *how,
			 FILE *out)
{
	const struct weir__capture *capture = &stalls->captures[i];
	struct weir__symbols *symbols = weir__symbols_open();

	if (capture->has_task)
		fprintf(out,
			"weir: task %llu \"%s\", spawned at %s, has held worker %u for %lld ms",
			(unsigned long long)capture->id, weir__capture_name(capture, symbols),
			capture->site ? capture->site : "unknown", i,
			(long long)(held_ns / WEIR_MS));
	else
		fprintf(out, "weir: worker %u has not run any task for %lld ms and is awake", i,
			(long long)(held_ns / WEIR_MS));
	fputs(how, out);
	if (stalls->untold > 0)
		fprintf(out, " (and %llu more since the last report)",
			(unsigned long long)stalls->untold);
	fputc('\n', out);
	weir__frames_write(symbols, capture->pcs, capture->frames, "    ", out);
	weir__symbols_close(symbols);
}

static void report(struct weir__stalls *stalls, unsigned i, int64_t held_ns, const char *how,
		   int64_t now)
{
	WEIR__USDT(stall, i, held_ns);
	if (stalls->runtime->config.quiet)
		return;
	if (now - stalls->reported_ns < REPORT_NS) {
		stalls->untold++;
		return;
	}
	FILE *out = weir__stderr_open();
	if (!out)
		return;
	write_report(stalls, i, held_ns, how, out);
	(void)fclose(out);
	stalls->reported_ns = now;
	stalls->untold = 0;
}

/*
 * What the thread did in the time that it could have computed. We may be stopped ourselves between
 * a look at the clock and one at its times, so the order of the two makes that time shorter. The
 * whole machine may have stood still, which counts as nothing: who has not left its CPU computes.
 */
static const char *verdict(const struct weir__stalls *stalls, const struct stay *stay,
			   const struct times *times, int64_t now)
{
	int64_t ran = times->ran_ns - stay->times.ran_ns;
	int64_t delayed = times->delayed_ns - stay->times.delayed_ns;
	int64_t could = now - stay->asked_ns - delayed;
	int64_t least = stalls->limit_ns / 4; /* a wait under way when we asked is in `delayed` */
	bool never_left = !stay->was_blocked && times->blocked == stay->times.blocked;

	if (times->ran_ns == 0)
		return "";
	return never_left || 2 * ran >= (could > least ? could : least) ? ", computing"
									: ", in a call that blocks";
}

/* Long enough by the clock: is it the task, and still the same? */
static void check(struct weir__stalls *stalls, unsigned i, struct stay *stay)
{
	struct weir__worker *worker = stalls->runtime->workers[i];
	struct weir__capture *capture = &stalls->captures[i];
	/* awake in name only: who took the right to wake it did not, and no signal does */
	bool is_asleep = atomic_load_explicit(&worker->is_settled, memory_order_relaxed);

	if (!weir__capture_take(worker, capture, false) || capture->switches != stay->switches)
		return;
	/* as it was when it answered, so when it had a CPU: no wait for one is under way */
	int64_t now = capture->at_ns;
	struct times times = { capture->ran_ns, delayed_ns_of(worker), capture->blocked };
	int64_t held = now - stay->since_ns - (times.delayed_ns - stay->times.delayed_ns);
	if (held < stalls->limit_ns)
		return;
	stay->is_told = true;
	weir__count(is_asleep ? &worker->woken_late : &worker->stalls, 1);
	report(stalls, i, held, verdict(stalls, stay, &times, now), now);
	if (is_asleep)
		worker->driver->ops->wake(worker->driver, NULL);
}

/* ---- Looking ------------------------------------------------------------ */

/*
 * Asleep. Who has sent it a message may wake it later, when there is time for that
 * (weir__worker_post_soon()), and be held by a task until then; or may have been stopped itself.
 * What still lies there at the next look is not on its way.
 */
static bool look_beside(struct stay *stay, struct weir__worker *worker, int64_t now)
{
	const struct weir__msg *head = atomic_load_explicit(&worker->inbox, memory_order_relaxed);
	uint64_t turns = weir__peek(&worker->counts.turns);
	bool has_turned = turns != stay->turns;
	bool lies_there = head && head == stay->beside && !has_turned;

	begin(stay, weir__peek(&worker->counts.switches), turns, now);
	stay->beside = head;
	if (lies_there)
		weir__worker_wake(worker);
	return has_turned || head;
}

static bool look_at(struct weir__stalls *stalls, unsigned i, int64_t now)
{
	struct weir__worker *worker = stalls->runtime->workers[i];
	struct stay *stay = &stalls->stays[i];
	uint64_t switches = weir__peek(&worker->counts.switches);
	uint64_t turns = weir__peek(&worker->counts.turns);
	bool is_awake =
		atomic_load_explicit(&worker->park_state, memory_order_relaxed) == WEIR__AWAKE;

	bool has_begun = switches > 0 || turns > 0; /* we may be there before its first turn */

	if (!is_awake)
		return look_beside(stay, worker, now);
	if (!has_begun || switches != stay->switches || turns != stay->turns) {
		begin(stay, switches, turns, now);
		return true;
	}
	int64_t tick = stalls->limit_ns / 2, step = now - stay->looked_ns;
	stay->held_ns += step < tick ? step : tick;
	stay->looked_ns = now;
	if (stay->asked_ns == 0)
		ask(stay, worker);
	else if (!stay->is_told && stay->held_ns >= stalls->limit_ns)
		check(stalls, i, stay);
	return true;
}

bool weir__stalls_look(struct weir__stalls *stalls)
{
	int64_t now = weir__clock_ns();
	bool any_active = false;

	for (unsigned i = 0; i < stalls->runtime->workers_count; i++)
		any_active |= look_at(stalls, i, now);
	return any_active;
}
