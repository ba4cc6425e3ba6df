/* SPDX-License-Identifier: MIT */
/*
 * sim_report.c: who waits on what, and what was left over.
 *
 * Read while nobody runs: the tree of scopes and their tasks, the table of descriptors and the
 * operations in flight are whole.
 */
#include "io/sim.h"

#include "runtime/backtrace.h"
#include "runtime/join.h"
#include "runtime/wait_kind.h"

WEIR__SECTION_BOUNDS(const struct weir__wait_kind, weir_wait_kinds);

/* ---- Tasks -------------------------------------------------------------- */

static const struct weir__wait_kind *kind_of(const struct weir__task *task)
{
	const struct weir__wait_kind *kind = __start_weir_wait_kinds;
	weir__abort_fn abort = task->abort ? task->abort : task->aborted;

	while (kind < __stop_weir_wait_kinds && kind->abort != abort)
		kind++;
	return kind < __stop_weir_wait_kinds ? kind : NULL;
}

static void print_wait(struct weir__sim *sim, const struct weir__task *task)
{
	char details[128] = "";
	const struct weir__wait_kind *kind = kind_of(task);
	bool is_text = !task->abort && !task->aborted; /* see weir__task.wait */

	if (kind && kind->describe)
		kind->describe(task, details, sizeof details);
	if (kind)
		fprintf(sim->out, "in %s%s%s", kind->label_of ? kind->label_of(task) : kind->label,
			*details ? ": " : "", details);
	else
		fputs(is_text && task->wait ? (const char *)task->wait : "parked", sim->out);
	if (!task->abort)
		fputs(is_text ? ", not to be interrupted," : ", interrupted,", sim->out);
	fprintf(sim->out, " for %.6f ms", (double)(sim->now_ns - task->parked_ns) / 1e6);
}

static void print_state(struct weir__sim *sim, const struct weir__task *task)
{
	if (task->state == WEIR__TASK_PARKED)
		print_wait(sim, task);
	else if (task->state == WEIR__TASK_NEW)
		fputs("not started", sim->out);
	else
		fputs(task->state == WEIR__TASK_RUNNING ? "running" : "ready", sim->out);
	if (task->cancelled)
		fputs(" (cancelled)", sim->out);
}

/* A task without a name is called after its function, as in the list of tasks. */
static const char *name_of(struct weir__symbols *symbols, const struct weir__task *task)
{
	uintptr_t offset;
	const char *name = task->name;

	if (!name)
		name = weir__symbol_name(symbols, (uintptr_t)weir__task_fn(task), &offset);
	return name ? name : "task";
}

static void print_task(struct weir__sim *sim, struct weir__symbols *symbols,
		       const struct weir__task *task, int depth)
{
	const char *name = name_of(symbols, task);

	fprintf(sim->out, "weir: %*sworker %u: \"%s\" (%s): ", 2 * depth, "", task->worker->index,
		name, task->site ? task->site : "?");
	print_state(sim, task);
	fputc('\n', sim->out);
	for (const struct weir__scope *scope = task->scope; scope; scope = scope->parent)
		for (const struct weir__task *child = scope->children; child;
		     child = child->sibling_next)
			if (child->state != WEIR__TASK_ENDED)
				print_task(sim, symbols, child, depth + 1);
}

void weir__sim_report_tasks(struct weir__sim *sim)
{
	const char *what = sim->error == -ELOOP ? "the run does not end" : "every task waits";

	fprintf(sim->out, "weir: seed %llu, after %.6f ms and %llu steps: %s%s\n",
		(unsigned long long)sim->seed, (double)(sim->now_ns - WEIR__SIM_START_NS) / 1e6,
		(unsigned long long)sim->result.steps, what,
		sim->is_ending ? ", although all were cancelled" : "");
	struct weir__symbols *symbols = weir__symbols_open();
	print_task(sim, symbols, &sim->runtime->root, 0);
	weir__symbols_close(symbols);
}

/* ---- What was left over ------------------------------------------------- */

static uint64_t left_descriptors(struct weir__sim *sim)
{
	uint64_t count = 0;

	for (size_t i = 0; i < sim->fds_room; i++) {
		const struct weir__sim_socket *socket = sim->fds[i];
		char name[WEIR__ADDRESS_TEXT_MAX] = "?";
		if (!socket)
			continue;
		count++;
		bool is_file = socket->kind == WEIR__SIM_FILE;
		if (is_file || (socket->kind == WEIR__SIM_STREAM && !socket->peer_name.len)) {
			fprintf(sim->out, "weir: descriptor %d was left open: a %s\n",
				WEIR__SIM_FD_FIRST + (int)i, is_file ? "file" : "pipe");
			continue;
		}
		const struct weir__address *address =
			socket->kind == WEIR__SIM_STREAM ? &socket->peer_name : &socket->name;
		(void)weir__address_format(&address->any, address->len, name, sizeof name);
		fprintf(sim->out, "weir: descriptor %d was left open: %s %s\n",
			WEIR__SIM_FD_FIRST + (int)i,
			socket->kind == WEIR__SIM_LISTENING ? "a listener at" : "a connection with",
			name);
	}
	return count;
}

static uint64_t left_operations(struct weir__sim *sim)
{
	uint64_t count = 0;

	for (uint32_t i = 0; i < sim->records_count; i++) {
		const struct weir__sim_op *record = sim->records[i];
		if (!record || !record->op)
			continue;
		count++;
		fprintf(sim->out, "weir: a %s is still in flight\n",
			weir__sim_op_name(record->code));
	}
	return count;
}

/* First everybody sends home what is another's, then each counts. */
static uint64_t left_memory(struct weir__sim *sim)
{
	uint64_t count = 0;
	struct weir__heap *heap = weir__heap_switch(&weir__heap_none);

	for (unsigned i = 0; i < 2 * sim->workers_count; i++) {
		struct weir__sim_worker *worker = sim->workers[i % sim->workers_count];
		(void)weir__heap_switch(worker->heap);
		uint64_t in_use = weir__heap_in_use();
		if (i >= sim->workers_count && in_use > worker->in_use_before)
			count += in_use - worker->in_use_before;
	}
	(void)weir__heap_switch(heap);
	if (count > 0)
		fprintf(sim->out, "weir: %llu blocks, leases or tasks were left over\n",
			(unsigned long long)count);
	return count;
}

uint64_t weir__sim_report_left(struct weir__sim *sim)
{
	uint64_t count = left_descriptors(sim) + left_operations(sim);

	if (!sim->opts->leaks_allowed)
		count += left_memory(sim);
	return count;
}
