/* SPDX-License-Identifier: MIT */
/*
 * sim_driver.c: the simulator behind the seam of the drivers.
 *
 * Comes from: conn.c and listener.c (operations), worker.c (waiting, waking). Goes to: sim_net.c,
 * through events, and back as completions.
 *
 * It does what ring.c and poll.c may do, as the run's plan says: complete inside start(), or after
 * the next submission; cancel at once, or by a request that comes too late, is refused for a while,
 * or finds that the operation has just succeeded. Completions of one operation keep their order;
 * those of different ones need not.
 */
#include "io/sim.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "io/file.h"
#include "io/stream.h"
#include "runtime/fatal.h"

enum { CANCEL_REFUSALS_MAX = 5 };
#define CANCEL_AGAIN_NS (100 * WEIR_US)

static struct weir__sim_worker *worker_of(struct weir__io *io)
{
	return (struct weir__sim_worker *)(void *)io;
}

static struct weir__sim_worker *worker_of_driver(struct weir__driver *driver)
{
	return (struct weir__sim_worker *)(void *)driver;
}

const char *weir__sim_op_name(unsigned code)
{
	static const char *const names[WEIR__OP_CODES] = {
		[WEIR__OP_ACCEPT] = "accept",	  [WEIR__OP_CONNECT] = "connect",
		[WEIR__OP_RECV] = "recv",	  [WEIR__OP_SEND] = "send",
		[WEIR__OP_SHUTDOWN] = "shutdown", [WEIR__OP_INSTALL] = "install",
		[WEIR__OP_POLL] = "poll",	  [WEIR__OP_RECV_FROM] = "recv_from",
		[WEIR__OP_SEND_TO] = "send_to",
	};

	if (code >= WEIR__OP_FILES && code < WEIR__OP_CODES)
		return weir__file_op_name(code);
	return code < WEIR__OP_CODES && names[code] ? names[code] : "operation";
}

/* ---- Records ------------------------------------------------------------ */

static bool grow_records(struct weir__sim *sim)
{
	uint32_t room = sim->records_room ? sim->records_room * 2 : 64;
	struct weir__sim_op **records = realloc(sim->records, room * sizeof(struct weir__sim_op *));
	uint32_t *free_list = realloc(sim->records_free, room * sizeof(uint32_t));

	if (records)
		sim->records = records;
	if (free_list)
		sim->records_free = free_list;
	if (!records || !free_list)
		return false;
	sim->records_room = room;
	return true;
}

/* With one pin, which goes when the operation has ended. */
static struct weir__sim_op *new_record(struct weir__sim *sim, struct weir__op *op)
{
	if (!sim->records_free_count && sim->records_count == sim->records_room &&
	    !grow_records(sim))
		return NULL;
	struct weir__sim_op *record = calloc(1, sizeof(*record));
	if (!record)
		return NULL;
	record->index = sim->records_free_count ? sim->records_free[--sim->records_free_count]
						: sim->records_count++;
	sim->records[record->index] = record;
	record->pins = 1;
	record->op = op;
	record->code = op->code;
	record->number = ++sim->op_numbers;
	int fd = op->handle->fd;
	record->socket = fd < 0 ? weir__sim_disk(sim) : weir__sim_socket_of(sim, fd);
	WEIR_ASSERT(record->socket);
	record->socket->pins++;
	record->next = record->socket->ops;
	record->pprev = &record->socket->ops;
	if (record->next)
		record->next->pprev = &record->next;
	record->socket->ops = record;
	return record;
}

static void unpin(struct weir__sim *sim, struct weir__sim_op *record)
{
	if (--record->pins > 0)
		return;
	sim->records[record->index] = NULL;
	sim->records_free[sim->records_free_count++] = record->index;
	weir__sim_socket_unpin(sim, record->socket);
	free(record);
}

/* No completion will be made any more. */
static void leave_socket(struct weir__sim_op *record)
{
	record->is_final = true;
	*record->pprev = record->next;
	if (record->next)
		record->next->pprev = record->pprev;
}

/* ---- Looking at an operation again -------------------------------------- */

static void look(struct weir__sim *sim, void *what)
{
	struct weir__sim_op *record = what;

	record->is_scheduled = false;
	if (!record->is_final) {
		if (record->error)
			weir__sim_op_done(sim, record, record->error, NULL, false);
		else
			weir__sim_net_step(sim, record);
	}
	unpin(sim, record);
}

void weir__sim_op_later(struct weir__sim *sim, struct weir__sim_op *record, int64_t delay_ns)
{
	if (record->is_final || record->is_scheduled || !record->is_submitted ||
	    record->is_starting)
		return;
	if (!weir__sim_at(sim, delay_ns, look, record))
		return;
	record->is_scheduled = true;
	record->pins++;
}

/* ---- Completions -------------------------------------------------------- */

/* A full queue ends multishot operations, as the kernel does. */
static bool has_overflown(struct weir__sim *sim, struct weir__sim_worker *worker)
{
	if (worker->done_count == 0 || !weir__sim_chance(sim, sim->plan.faults.overflow))
		return false;
	sim->result.faults++;
	weir__count(&worker->io.driver.cq_overflows, 1);
	return true;
}

void weir__sim_op_done(struct weir__sim *sim, struct weir__sim_op *record, int res,
		       struct weir__block *block, bool more)
{
	struct weir__sim_worker *worker = record->worker;
	struct weir__op *op = record->op;

	weir__sim_trace(sim, weir__sim_op_name(record->code), record->number,
			(uint64_t)(int64_t)res, record->socket->number);
	if (record->is_starting) {
		op->res = res;
		op->block = block;
		leave_socket(record);
		return;
	}
	struct weir__sim_done *done = malloc(sizeof(*done));
	WEIR_ASSERT(done); /* nothing smaller could be done about it */
	if (more && has_overflown(sim, worker))
		more = false;
	*done = (struct weir__sim_done){
		.record = record, .res = res, .block = block, .more = more
	};
	record->pins++;
	*worker->done_tail = done;
	worker->done_tail = &done->next;
	worker->done_count++;
	if (!more)
		leave_socket(record);
}

static struct weir__sim_done *take_done(struct weir__sim_worker *worker)
{
	struct weir__sim *sim = worker->sim;
	struct weir__sim_done **at = &worker->done, *done = worker->done;

	if (weir__sim_chance(sim, sim->plan.jumble)) {
		for (uint64_t skip = weir__sim_below(sim, worker->done_count); skip > 0; skip--)
			done = done->next;
		/* the oldest of its operation */
		for (at = &worker->done; (*at)->record != done->record;)
			at = &(*at)->next;
		done = *at;
	}
	*at = done->next;
	if (!*at)
		worker->done_tail = at;
	worker->done_count--;
	return done;
}

/* The last completion of an operation: what weir__ring_end() does. */
static void end(struct weir__sim *sim, struct weir__sim_op *record)
{
	struct weir__op *op = record->op;

	record->op = NULL;
	op->state = WEIR__OP_FREE;
	if (record->is_linked)
		weir__op_unlink(op);
	unpin(sim, record);
}

static void deliver(struct weir__sim_worker *worker, struct weir__sim_done *done)
{
	struct weir__sim_op *record = done->record;
	struct weir__op *op = record->op;

	weir__sim_trace(worker->sim, "reap", record->number, (uint64_t)(int64_t)done->res,
			worker->io.worker->index);
	op->res = done->res;
	op->block = done->block;
	op->more = done->more;
	if (!done->more)
		end(worker->sim, record);
	unpin(worker->sim, record);
	free(done);
	op->done(op);
}

static unsigned sim_reap(struct weir__driver *driver)
{
	struct weir__sim_worker *worker = worker_of_driver(driver);
	struct weir__sim *sim = worker->sim;
	unsigned count = worker->done_count;

	if (count > 1 && weir__sim_chance(sim, sim->plan.faults.overflow))
		count = 1 + (unsigned)weir__sim_below(sim, count);
	for (unsigned i = 0; i < count; i++)
		deliver(worker, take_done(worker));
	weir__count(&driver->completions, count);
	return count;
}

/* ---- Starting ----------------------------------------------------------- */

static void submit(struct weir__sim_worker *worker)
{
	struct weir__sim *sim = worker->sim;
	struct weir__sim_op *record;

	while ((record = worker->queue)) {
		worker->queue = record->queue_next;
		if (!worker->queue)
			worker->queue_tail = &worker->queue;
		record->is_submitted = true;
		weir__count(&worker->io.driver.submissions, 1);
		weir__sim_op_later(sim, record, weir__sim_delay(sim, sim->plan.delay_ns));
	}
}

/* The script may have a say, and a delay. */
static int64_t ask_script(struct weir__sim *sim, struct weir__sim_op *record)
{
	struct weir_sim_op asked = {
		.name = weir__sim_op_name(record->code),
		.nth = ++sim->started[record->code],
		.worker = record->worker->io.worker->index,
	};

	if (!sim->opts->script)
		return 0;
	sim->opts->script(&asked, sim->opts->script_arg);
	record->error = asked.error;
	record->bytes_max = asked.bytes_max;
	return asked.delay_ns > 0 ? asked.delay_ns : 0;
}

/* What epoll's driver completes inside start(): anything but a multishot accept. */
static bool completes_now(struct weir__sim *sim, struct weir__sim_op *record)
{
	if (record->code == WEIR__OP_CONNECT ||
	    (record->code == WEIR__OP_ACCEPT && record->op->multi))
		return false;
	if (!weir__sim_chance(sim, sim->plan.completes_at_once))
		return false;
	record->is_starting = true;
	weir__sim_net_step(sim, record);
	record->is_starting = false;
	return record->is_final;
}

static bool sim_start(struct weir__io *io, struct weir__op *op)
{
	struct weir__sim_worker *worker = worker_of(io);
	struct weir__sim *sim = worker->sim;
	struct weir__sim_op *record = new_record(sim, op);

	op->block = NULL;
	op->more = false;
	op->accepted_direct = io->accepts_direct && op->code == WEIR__OP_ACCEPT && !op->wants_fd;
	if (!record) {
		op->res = -ENOMEM;
		return true;
	}
	record->worker = worker;
	int64_t delay = ask_script(sim, record);
	if (!delay && !record->error && completes_now(sim, record)) {
		unpin(sim, record);
		return true;
	}
	op->tag = record->index;
	op->state = WEIR__OP_QUEUED;
	record->is_linked = !op->is_kept || sim->plan.lists_kept;
	if (record->is_linked)
		weir__op_link(op);
	if (delay) {
		record->is_submitted = true;
		weir__sim_op_later(sim, record, delay);
		return false;
	}
	*worker->queue_tail = record;
	worker->queue_tail = &record->queue_next;
	if (weir__sim_chance(sim, sim->plan.submits_at_once))
		submit(worker);
	return false;
}

/* ---- Cancelling --------------------------------------------------------- */

static void cancel_result(struct weir__sim *sim, struct weir__sim_op *record)
{
	weir__sim_op_done(sim, record, record->moved ? (int)record->moved : -ECANCELED, NULL,
			  false);
}

/* The request reaches the operation. */
static void cancel_arrives(struct weir__sim *sim, void *what)
{
	struct weir__sim_op *record = what;

	if (!record->is_final && record->refusals < CANCEL_REFUSALS_MAX &&
	    weir__sim_chance(sim, sim->plan.faults.cancel_refused)) {
		sim->result.faults++;
		record->refusals++;
		if (weir__sim_at(sim, weir__sim_delay(sim, CANCEL_AGAIN_NS), cancel_arrives,
				 record))
			return;
	}
	if (!record->is_final && record->is_submitted &&
	    weir__sim_chance(sim, sim->plan.faults.late_success)) {
		sim->result.faults++;
		weir__sim_net_step(sim, record);
	}
	if (!record->is_final)
		cancel_result(sim, record);
	unpin(sim, record);
}

static bool is_queued(const struct weir__sim_worker *worker, const struct weir__sim_op *record)
{
	for (const struct weir__sim_done *done = worker->done; done; done = done->next)
		if (done->record == record)
			return true;
	return false;
}

static void unqueue(struct weir__sim_worker *worker, struct weir__sim_op *record)
{
	struct weir__sim_op **at = &worker->queue;

	while (*at && *at != record)
		at = &(*at)->queue_next;
	if (!*at)
		return;
	*at = record->queue_next;
	if (!*at)
		worker->queue_tail = at;
}

/* As epoll's driver does it, and the ring's for what the kernel has not seen. */
static void cancel_at_once(struct weir__sim_worker *worker, struct weir__sim_op *record)
{
	struct weir__op *op = record->op;

	unqueue(worker, record);
	leave_socket(record);
	op->res = record->moved ? (int)record->moved : -ECANCELED;
	op->block = NULL;
	op->more = false;
	weir__sim_trace(worker->sim, "cancel", record->number, (uint64_t)(int64_t)op->res, 0);
	end(worker->sim, record);
	op->done(op);
}

static void sim_cancel(struct weir__io *io, struct weir__op *op)
{
	struct weir__sim_worker *worker = worker_of(io);
	struct weir__sim *sim = worker->sim;

	if (op->state != WEIR__OP_QUEUED)
		return;
	struct weir__sim_op *record = sim->records[op->tag];
	WEIR_ASSERT(record && record->op == op);
	if (!record->is_final && !is_queued(worker, record) &&
	    weir__sim_chance(sim, sim->plan.cancels_at_once)) {
		cancel_at_once(worker, record);
		return;
	}
	op->state = WEIR__OP_CANCELLING;
	if (record->is_final)
		return;
	submit(worker);
	/* out of memory: it ends by itself or not at all */
	if (weir__sim_at(sim, weir__sim_delay(sim, sim->plan.delay_ns), cancel_arrives, record))
		record->pins++;
}

static void sim_forget(struct weir__io *io, struct weir__op *op)
{
	(void)io;
	(void)op;
}

static void sim_close_handle(struct weir__io *io, struct weir__handle *handle)
{
	weir__sim_net_close(worker_of(io)->sim, handle->fd);
}

/* ---- The driver --------------------------------------------------------- */

static void wake_arrives(struct weir__sim *sim, void *what)
{
	struct weir__sim_worker *target = what;

	(void)sim;
	target->is_woken = true;
}

static void send_wake(struct weir__sim *sim, struct weir__sim_worker *target)
{
	int64_t delay = weir__sim_delay(sim, sim->plan.latency_ns);

	if (!weir__sim_at(sim, delay, wake_arrives, target))
		target->is_woken = true;
}

/*
 * From a worker's loop it goes out with the next submission; from a task or a stranger at once.
 * Another thread touches nothing but the flag.
 */
static void sim_wake(struct weir__driver *target, struct weir__driver *from)
{
	struct weir__sim_worker *worker = worker_of_driver(target);

	if (!weir__sim_is_here(worker->sim))
		atomic_store_explicit(&worker->is_called, true, memory_order_release);
	else if (from)
		worker_of_driver(from)->wakes |= 1u << worker->io.worker->index;
	else
		send_wake(worker->sim, worker);
}

static void sim_submit_and_wait(struct weir__driver *driver, int64_t wait_until_ns)
{
	struct weir__sim_worker *worker = worker_of_driver(driver);
	struct weir__sim *sim = worker->sim;

	weir__count(&driver->enters, 1);
	for (unsigned i = 0; worker->wakes; i++) {
		if (worker->wakes & 1u << i)
			send_wake(sim, sim->workers[i]);
		worker->wakes &= ~(1u << i);
	}
	submit(worker);
	weir__sim_pause(worker, worker->done ? 0 : wait_until_ns);
}

static void sim_close(struct weir__driver *driver)
{
	struct weir__sim_worker *worker = worker_of_driver(driver);
	struct weir__sim_done *done;

	while ((done = worker->done)) {
		worker->done = done->next;
		free(done);
	}
	free(worker);
}

static const struct weir__driver_ops driver_ops = {
	.name = "simulator",
	.submit_and_wait = sim_submit_and_wait,
	.reap = sim_reap,
	.wake = sim_wake,
	.close = sim_close,
};

static const struct weir__io_ops io_ops = {
	.start = sim_start,
	.send = weir__conn_send,
	.cancel = sim_cancel,
	.forget = sim_forget,
	.close = sim_close_handle,
};

struct weir__sim_worker *weir__sim_driver_new(struct weir__sim *sim, struct weir__worker *worker)
{
	struct weir__sim_worker *own = calloc(1, sizeof(*own));

	if (!own)
		return NULL;
	own->sim = sim;
	own->io.driver.ops = &driver_ops;
	own->io.ops = &io_ops;
	own->io.sockets = &weir__sim_sockets;
	own->io.pipes = &weir__sim_pipes;
	own->io.file_codes = UINT32_MAX;
	own->io.worker = worker;
	own->io.accepts_direct = sim->plan.is_direct;
	own->queue_tail = &own->queue;
	own->done_tail = &own->done;
	return own;
}
