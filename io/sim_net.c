/* SPDX-License-Identifier: MIT */
/*
 * sim_net.c: the simulator's sockets: listeners with a backlog, streams with a bounded buffer.
 *
 * A stream is two sockets; what one sends lies in the other's ring, first what has arrived, then
 * what is on the way, and a list of segments says when the next part arrives, or the end, or a
 * reset. Nothing overtakes anything. What Linux does at the edges is kept: a reset lets arrived
 * bytes be read; closing with unread bytes resets; sending to a closed peer succeeds once over TCP.
 */
#include "io/sim.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>

#include "io/stream.h"

enum { CONNECT_TRIES_MAX = 6, PORT_FIRST = 65536 - WEIR__SIM_PORTS };
#define CONNECT_RETRY_NS WEIR_SEC

/* ---- Descriptors -------------------------------------------------------- */

struct weir__sim_socket *weir__sim_socket_of(struct weir__sim *sim, int fd)
{
	size_t at = (size_t)(fd - WEIR__SIM_FD_FIRST);

	return fd >= WEIR__SIM_FD_FIRST && at < sim->fds_room ? sim->fds[at] : NULL;
}

static bool grow_fds(struct weir__sim *sim)
{
	size_t room = sim->fds_room ? sim->fds_room * 2 : 64;
	struct weir__sim_socket **fds = realloc(sim->fds, room * sizeof(*fds));

	if (!fds)
		return false;
	memset(fds + sim->fds_room, 0, (room - sim->fds_room) * sizeof(*fds));
	sim->fds = fds;
	sim->fds_room = room;
	return true;
}

/* The lowest free one, as the kernel does it: what is used after its close hits another. */
static int new_fd(struct weir__sim *sim, struct weir__sim_socket *socket)
{
	size_t at = 0;

	if (weir__sim_chance(sim, sim->plan.faults.no_descriptors)) {
		sim->result.faults++;
		return -EMFILE;
	}
	while (at < sim->fds_room && sim->fds[at])
		at++;
	if (at == sim->fds_room && !grow_fds(sim))
		return -ENOMEM;
	sim->fds[at] = socket;
	socket->fds++;
	return WEIR__SIM_FD_FIRST + (int)at;
}

struct weir__sim_socket *weir__sim_socket_new(struct weir__sim *sim, enum weir__sim_kind kind)
{
	struct weir__sim_socket *socket = calloc(1, sizeof(*socket));

	if (!socket)
		return NULL;
	socket->kind = (uint8_t)kind;
	socket->number = ++sim->socket_numbers;
	socket->segments_tail = &socket->segments;
	socket->backlog_tail = &socket->backlog;
	socket->datagrams_tail = &socket->datagrams;
	socket->next = sim->sockets;
	socket->pprev = &sim->sockets;
	if (socket->next)
		socket->next->pprev = &socket->next;
	sim->sockets = socket;
	return socket;
}

static void free_socket(struct weir__sim_socket *socket)
{
	struct weir__sim_segment *segment;

	*socket->pprev = socket->next;
	if (socket->next)
		socket->next->pprev = socket->pprev;
	while ((segment = socket->segments)) {
		socket->segments = segment->next;
		free(segment);
	}
	weir__sim_datagram_free(socket);
	free(socket->bytes);
	if (socket->node)
		weir__sim_node_release(socket->node);
	free(socket);
}

void weir__sim_socket_unpin(struct weir__sim *sim, struct weir__sim_socket *socket)
{
	(void)sim;
	if (--socket->pins == 0 && socket->fds == 0)
		free_socket(socket);
}

void weir__sim_net_free(struct weir__sim *sim)
{
	while (sim->sockets)
		free_socket(sim->sockets);
	free(sim->fds);
}

/* ---- Looking again ------------------------------------------------------ */

void weir__sim_stir(struct weir__sim *sim, struct weir__sim_socket *socket, unsigned code)
{
	for (struct weir__sim_op *record = socket->ops; record; record = record->next)
		if (record->code == code)
			weir__sim_op_later(sim, record, weir__sim_delay(sim, sim->plan.delay_ns));
}

/* For connections, and for pipes. */
static void stir_readers(struct weir__sim *sim, struct weir__sim_socket *socket)
{
	weir__sim_stir(sim, socket, WEIR__OP_RECV);
	weir__sim_stir(sim, socket, WEIR__OP_POLL);
}

static void stir_all(struct weir__sim *sim, struct weir__sim_socket *socket)
{
	for (struct weir__sim_op *record = socket->ops; record; record = record->next)
		weir__sim_op_later(sim, record, weir__sim_delay(sim, sim->plan.delay_ns));
}

/* ---- Segments ----------------------------------------------------------- */

static void arrive(struct weir__sim *sim, void *what)
{
	struct weir__sim_socket *socket = what;
	struct weir__sim_segment *segment = socket->segments;

	if (segment) {
		socket->segments = segment->next;
		if (!segment->next)
			socket->segments_tail = &socket->segments;
		if (segment->kind == WEIR__SIM_DATA)
			socket->arrived += segment->len;
		else if (segment->kind == WEIR__SIM_FIN)
			socket->has_fin = true;
		else
			socket->error = -ECONNRESET;
		weir__sim_trace(sim, "arrive", socket->number, segment->kind, segment->len);
		if (segment->kind == WEIR__SIM_RESET)
			stir_all(sim, socket);
		else
			stir_readers(sim, socket);
		free(segment);
	}
	weir__sim_socket_unpin(sim, socket);
}

static bool push_segment(struct weir__sim *sim, struct weir__sim_socket *to, unsigned kind,
			 size_t len)
{
	struct weir__sim_segment *segment = malloc(sizeof(*segment));
	int64_t at = sim->now_ns + weir__sim_delay(sim, sim->plan.latency_ns);

	if (!segment)
		return false;
	if (at < to->last_ns)
		at = to->last_ns;
	if (!weir__sim_at(sim, at - sim->now_ns, arrive, to)) {
		free(segment);
		return false;
	}
	*segment = (struct weir__sim_segment){ .kind = (uint8_t)kind, .len = len };
	*to->segments_tail = segment;
	to->segments_tail = &segment->next;
	to->last_ns = at;
	to->pins++;
	return true;
}

/* ---- Streams ------------------------------------------------------------ */

static size_t copy_in(struct weir__sim *sim, struct weir__sim_socket *to, const char *data,
		      size_t len)
{
	size_t cap = sim->plan.pipe_bytes, room = cap - to->count;

	if (!to->bytes)
		to->bytes = malloc(cap);
	if (!to->bytes)
		return 0;
	if (len > room)
		len = room;
	for (size_t done = 0; done < len;) {
		size_t at = (to->first + to->count + done) % cap;
		size_t n = len - done < cap - at ? len - done : cap - at;
		memcpy(to->bytes + at, data + done, n);
		done += n;
	}
	to->count += len;
	return len;
}

static void copy_out(struct weir__sim *sim, struct weir__sim_socket *from, char *ret, size_t len)
{
	size_t cap = sim->plan.pipe_bytes;

	for (size_t done = 0; done < len;) {
		size_t at = (from->first + done) % cap;
		size_t n = len - done < cap - at ? len - done : cap - at;
		memcpy(ret + done, from->bytes + at, n);
		done += n;
	}
	from->first = (from->first + len) % cap;
	from->count -= len;
	from->arrived -= len;
}

/* Both ends hear of it: a fault of the path between them. */
static void break_stream(struct weir__sim *sim, struct weir__sim_socket *socket)
{
	sim->result.faults++;
	socket->error = -ECONNRESET;
	if (socket->peer)
		(void)push_segment(sim, socket->peer, WEIR__SIM_RESET, 0);
	stir_all(sim, socket);
}

size_t weir__sim_shorten(struct weir__sim *sim, const struct weir__sim_op *record, size_t len)
{
	if (record->bytes_max && len > record->bytes_max)
		len = record->bytes_max;
	if (len > 1 && weir__sim_chance(sim, sim->plan.faults.short_io)) {
		sim->result.faults++;
		len = 1 + weir__sim_below(sim, len - 1);
	}
	return len;
}

static void give_bytes(struct weir__sim *sim, struct weir__sim_op *record)
{
	const struct weir__config *config = &sim->runtime->config;
	struct weir__sim_socket *socket = record->socket;
	size_t cap = record->op->group ? config->recv_bulk_bytes : config->recv_bytes;
	struct weir__heap *heap = weir__heap_switch(record->worker->heap);
	weir_buf buf = WEIR_BUF_INIT;
	int err = weir_buf_get(&buf, cap);

	(void)weir__heap_switch(heap);
	if (err < 0) {
		weir__sim_op_done(sim, record, err, NULL, false);
		return;
	}
	/* the buffer's class may be larger: a kernel is told the size that was asked for */
	buf.block->cap = cap;
	size_t len = weir__sim_shorten(sim, record, socket->arrived < cap ? socket->arrived : cap);
	copy_out(sim, socket, buf.data, len);
	bool more = record->op->multi && sim->plan.is_multi &&
		    !weir__sim_chance(sim, sim->plan.ends_multi);
	if (socket->peer)
		weir__sim_stir(sim, socket->peer, WEIR__OP_SEND);
	weir__sim_op_done(sim, record, (int)len, buf.block, more);
	weir__sim_op_later(sim, record, weir__sim_delay(sim, sim->plan.delay_ns));
}

static void step_recv(struct weir__sim *sim, struct weir__sim_op *record)
{
	struct weir__sim_socket *socket = record->socket;

	if (socket->kind != WEIR__SIM_STREAM) {
		weir__sim_op_done(sim, record, -ENOTCONN, NULL, false);
	} else if (socket->arrived > 0 && weir__sim_chance(sim, sim->plan.faults.no_buffers)) {
		sim->result.faults++;
		weir__count(&record->worker->io.driver.recv_empty, 1);
		weir__sim_op_later(sim, record, weir__sim_delay(sim, WEIR_MS));
	} else if (weir__sim_chance(sim, sim->plan.faults.reset) && !socket->error) {
		break_stream(sim, socket);
	} else if (socket->arrived > 0) {
		give_bytes(sim, record);
	} else if (socket->error) {
		weir__sim_op_done(sim, record, socket->error, NULL, false);
	} else if (socket->has_fin) {
		weir__sim_op_done(sim, record, 0, NULL, false);
	}
}

static void end_send(struct weir__sim *sim, struct weir__sim_op *record, int err)
{
	weir__sim_op_done(sim, record, record->moved ? (int)record->moved : err, NULL, false);
}

/* The peer is gone: TCP learns so from the answer to what it sends. */
static void send_to_nobody(struct weir__sim *sim, struct weir__sim_op *record)
{
	struct weir__sim_socket *socket = record->socket;

	if (socket->peer_name.any.sa_family == AF_UNIX) {
		end_send(sim, record, -EPIPE);
		return;
	}
	record->moved = record->op->len;
	(void)push_segment(sim, socket, WEIR__SIM_RESET, 0);
	end_send(sim, record, 0);
}

/* Kernels before 5.19 do not know MSG_WAITALL for sends: conn_send.c goes on by itself. */
static bool ends_short(struct weir__sim *sim, const struct weir__sim_op *record)
{
	return record->moved > 0 && weir__sim_chance(sim, sim->plan.faults.short_io / 4);
}

static void step_send(struct weir__sim *sim, struct weir__sim_op *record)
{
	struct weir__sim_socket *socket = record->socket;
	const struct weir__op *op = record->op;

	if (socket->kind != WEIR__SIM_STREAM || socket->is_shut) {
		end_send(sim, record, -EPIPE);
		return;
	}
	if (!socket->error && weir__sim_chance(sim, sim->plan.faults.reset))
		break_stream(sim, socket);
	if (socket->error) {
		end_send(sim, record, socket->error);
		return;
	}
	if (!socket->peer) {
		send_to_nobody(sim, record);
		return;
	}
	size_t want = weir__sim_shorten(sim, record, op->len - record->moved);
	size_t n = copy_in(sim, socket->peer, (const char *)op->data + record->moved, want);
	record->moved += n;
	if (n > 0 && !push_segment(sim, socket->peer, WEIR__SIM_DATA, n))
		end_send(sim, record, -ENOMEM);
	else if (record->moved == op->len || ends_short(sim, record))
		end_send(sim, record, 0);
	else if (n == want && n > 0)
		weir__sim_op_later(sim, record, weir__sim_delay(sim, sim->plan.delay_ns));
}

static void step_shutdown(struct weir__sim *sim, struct weir__sim_op *record)
{
	struct weir__sim_socket *socket = record->socket;
	bool is_broken = socket->kind != WEIR__SIM_STREAM || socket->error;

	if (!is_broken && !socket->is_shut && socket->peer)
		(void)push_segment(sim, socket->peer, WEIR__SIM_FIN, 0);
	socket->is_shut = true;
	weir__sim_op_done(sim, record, is_broken ? -ENOTCONN : 0, NULL, false);
}

/* ---- Addresses ---------------------------------------------------------- */

uint16_t *weir__sim_port_of(struct weir__address *address)
{
	if (address->any.sa_family == AF_INET)
		return &address->v4.sin_port;
	return address->any.sa_family == AF_INET6 ? &address->v6.sin6_port : NULL;
}

bool weir__sim_is_any(const struct weir__address *address)
{
	if (address->any.sa_family == AF_INET)
		return address->v4.sin_addr.s_addr == htonl(INADDR_ANY);
	return address->any.sa_family == AF_INET6 &&
	       memcmp(&address->v6.sin6_addr, &in6addr_any, sizeof in6addr_any) == 0;
}

bool weir__sim_reaches(struct weir__address *to, struct weir__address *at)
{
	uint16_t *port = weir__sim_port_of(to), *at_port = weir__sim_port_of(at);

	if (!port || !at_port)
		return !port && !at_port && to->len == at->len &&
		       memcmp(&to->any, &at->any, to->len) == 0;
	if (*port != *at_port)
		return false;
	if (weir__sim_is_any(at))
		return at->any.sa_family == AF_INET6 || to->any.sa_family == AF_INET;
	if (weir__sim_is_any(to)) /* which means this host */
		return true;
	if (to->any.sa_family != at->any.sa_family)
		return false;
	if (to->any.sa_family == AF_INET)
		return to->v4.sin_addr.s_addr == at->v4.sin_addr.s_addr;
	return memcmp(&to->v6.sin6_addr, &at->v6.sin6_addr, sizeof to->v6.sin6_addr) == 0;
}

uint16_t weir__sim_next_port(struct weir__sim *sim)
{
	if (sim->port_next < PORT_FIRST)
		sim->port_next = PORT_FIRST;
	return htons(sim->port_next++);
}

/* A client's own name: the address it reached, another port; Unix sockets have none. */
static void name_client(struct weir__sim *sim, struct weir__sim_socket *socket,
			const struct weir__address *to)
{
	socket->name = *to;
	uint16_t *port = weir__sim_port_of(&socket->name);
	if (port)
		*port = weir__sim_next_port(sim);
	else
		socket->name.len = sizeof socket->name.any.sa_family;
}

/* ---- Listening and connecting ------------------------------------------- */

static int find_listeners(struct weir__sim *sim, struct weir__address *to,
			  struct weir__sim_socket **ret_with_room)
{
	struct weir__sim_socket *found = NULL;
	unsigned all = 0, open = 0;

	for (struct weir__sim_socket *at = sim->sockets; at; at = at->next) {
		if (at->kind != WEIR__SIM_LISTENING || !at->fds ||
		    !weir__sim_reaches(to, &at->name))
			continue;
		all++;
		if (at->backlog_count <= at->backlog_max && weir__sim_below(sim, ++open) == 0)
			found = at;
	}
	*ret_with_room = found;
	if (all)
		return 0;
	/* a file that weir_listen() made goes with its listener */
	return to->any.sa_family == AF_UNIX && to->un.sun_path[0] ? -ENOENT : -ECONNREFUSED;
}

static int meet(struct weir__sim *sim, struct weir__sim_socket *client,
		struct weir__sim_socket *listener, const struct weir__address *to)
{
	struct weir__sim_socket *server = weir__sim_socket_new(sim, WEIR__SIM_STREAM);

	if (!server)
		return -ENOMEM;
	name_client(sim, client, to);
	client->kind = WEIR__SIM_STREAM;
	client->peer_name = *to;
	client->peer = server;
	server->name = *to;
	server->peer_name = client->name;
	server->peer = client;
	server->pins = 1; /* the backlog's */
	*listener->backlog_tail = server;
	listener->backlog_tail = &server->backlog_next;
	listener->backlog_count++;
	weir__sim_stir(sim, listener, WEIR__OP_ACCEPT);
	return 0;
}

static void step_connect(struct weir__sim *sim, struct weir__sim_op *record)
{
	struct weir__address to = { .len = (socklen_t)record->op->len };
	struct weir__sim_socket *listener;

	memcpy(&to.un, record->op->data, to.len);
	int err = find_listeners(sim, &to, &listener);
	if (weir__sim_chance(sim, sim->plan.faults.refuse)) {
		sim->result.faults++;
		err = weir__sim_below(sim, 2) ? -ECONNREFUSED : -ETIMEDOUT;
	}
	if (err == 0 && !listener) { /* the backlog is full: TCP tries again, and gives up */
		if (to.any.sa_family == AF_UNIX)
			return;
		if (record->tries++ < CONNECT_TRIES_MAX) {
			weir__sim_op_later(sim, record, CONNECT_RETRY_NS << record->tries);
			return;
		}
		err = -ETIMEDOUT;
	}
	if (err == 0)
		err = meet(sim, record->socket, listener, &to);
	weir__sim_op_done(sim, record, err, NULL, false);
}

/* A Unix backlog has room again, or is gone. */
static void stir_connects(struct weir__sim *sim, const struct weir__sim_socket *listener)
{
	if (listener->name.any.sa_family != AF_UNIX)
		return;
	for (struct weir__sim_socket *at = sim->sockets; at; at = at->next)
		if (at->kind == WEIR__SIM_FRESH)
			weir__sim_stir(sim, at, WEIR__OP_CONNECT);
}

static void step_accept(struct weir__sim *sim, struct weir__sim_op *record)
{
	struct weir__sim_socket *listener = record->socket, *client = listener->backlog;

	if (listener->kind != WEIR__SIM_LISTENING) {
		weir__sim_op_done(sim, record, -EINVAL, NULL, false);
		return;
	}
	if (!client)
		return;
	int fd = new_fd(sim, client);
	if (fd < 0) {
		weir__sim_op_done(sim, record, fd, NULL, false);
		return;
	}
	listener->backlog = client->backlog_next;
	if (!listener->backlog)
		listener->backlog_tail = &listener->backlog;
	listener->backlog_count--;
	stir_connects(sim, listener);
	weir__sim_socket_unpin(sim, client);
	bool more = record->op->multi && sim->plan.is_multi &&
		    !weir__sim_chance(sim, sim->plan.ends_multi);
	weir__sim_op_done(sim, record, fd, NULL, more);
	weir__sim_op_later(sim, record, weir__sim_delay(sim, sim->plan.delay_ns));
}

static void step_poll(struct weir__sim *sim, struct weir__sim_op *record)
{
	const struct weir__sim_socket *socket = record->socket, *peer = socket->peer;
	unsigned ready = 0;

	if (socket->arrived > 0 || socket->has_fin || socket->error)
		ready |= POLLIN;
	if (!peer || peer->count < sim->plan.pipe_bytes)
		ready |= POLLOUT;
	ready &= (unsigned)record->op->len;
	if (ready)
		weir__sim_op_done(sim, record, (int)ready, NULL, false);
}

void weir__sim_net_step(struct weir__sim *sim, struct weir__sim_op *record)
{
	switch (record->code) {
	case WEIR__OP_ACCEPT:
		step_accept(sim, record);
		break;
	case WEIR__OP_CONNECT:
		step_connect(sim, record);
		break;
	case WEIR__OP_RECV:
		step_recv(sim, record);
		break;
	case WEIR__OP_SEND:
		step_send(sim, record);
		break;
	case WEIR__OP_SHUTDOWN:
		step_shutdown(sim, record);
		break;
	case WEIR__OP_RECV_FROM:
		weir__sim_datagram_recv(sim, record);
		break;
	case WEIR__OP_SEND_TO:
		weir__sim_datagram_send(sim, record);
		break;
	case WEIR__OP_INSTALL:
		weir__sim_op_done(sim, record, new_fd(sim, record->socket), NULL, false);
		break;
	case WEIR__OP_POLL:
		step_poll(sim, record);
		break;
	default:
		weir__sim_disk_step(sim, record);
	}
}

/* ---- Closing ------------------------------------------------------------ */

static void hang_up(struct weir__sim *sim, struct weir__sim_socket *socket)
{
	struct weir__sim_socket *peer = socket->peer;

	if (!peer)
		return;
	socket->peer = NULL;
	peer->peer = NULL;
	if (socket->count > 0)
		(void)push_segment(sim, peer, WEIR__SIM_RESET, 0);
	else if (!socket->is_shut)
		(void)push_segment(sim, peer, WEIR__SIM_FIN, 0);
	weir__sim_stir(sim, peer, WEIR__OP_SEND);
	weir__sim_stir(sim, peer, WEIR__OP_POLL);
}

static void close_listener(struct weir__sim *sim, struct weir__sim_socket *listener)
{
	struct weir__sim_socket *client;

	while ((client = listener->backlog)) {
		listener->backlog = client->backlog_next;
		if (client->peer)
			(void)push_segment(sim, client->peer, WEIR__SIM_RESET, 0);
		hang_up(sim, client);
		weir__sim_socket_unpin(sim, client);
	}
	listener->backlog_tail = &listener->backlog;
	listener->backlog_count = 0;
	stir_connects(sim, listener);
}

/* A bug of the library's. */
static void complain(struct weir__sim *sim, int fd, const char *what)
{
	sim->error = sim->error ? sim->error : -EBADF;
	fprintf(sim->out, "weir: descriptor %d %s\n", fd, what);
}

void weir__sim_net_close(struct weir__sim *sim, int fd)
{
	struct weir__sim_socket *socket = weir__sim_socket_of(sim, fd);

	if (!socket) {
		complain(sim, fd, "was closed, and is not open");
		return;
	}
	sim->fds[fd - WEIR__SIM_FD_FIRST] = NULL;
	weir__sim_trace(sim, "close", (uint64_t)fd, socket->number, 0);
	if (--socket->fds > 0)
		return;
	if (socket->ops)
		complain(sim, fd, "was closed with operations in flight");
	socket->pins++;
	if (socket->kind == WEIR__SIM_LISTENING)
		close_listener(sim, socket);
	else if (socket->kind == WEIR__SIM_STREAM)
		hang_up(sim, socket);
	else if (socket->kind == WEIR__SIM_DGRAM)
		weir__sim_datagram_hang_up(sim, socket);
	weir__sim_socket_unpin(sim, socket);
}

/* ---- What never waits --------------------------------------------------- */

static struct weir__sim *sim_of(struct weir__io *io)
{
	return ((struct weir__sim_worker *)(void *)io)->sim;
}

int weir__sim_socket_open(struct weir__sim *sim, struct weir__sim_socket *socket)
{
	int fd = socket ? new_fd(sim, socket) : -ENOMEM;

	if (socket && fd < 0)
		free_socket(socket);
	return fd;
}

static bool is_taken(struct weir__sim *sim, struct weir__address *address)
{
	for (struct weir__sim_socket *at = sim->sockets; at; at = at->next)
		if (at->kind == WEIR__SIM_LISTENING && at->fds &&
		    weir__sim_reaches(address, &at->name))
			return true;
	return false;
}

static int add_listener(struct weir__sim *sim, const struct weir__address *address, int backlog)
{
	struct weir__sim_socket *socket = weir__sim_socket_new(sim, WEIR__SIM_LISTENING);

	if (socket) {
		socket->name = *address;
		socket->backlog_max = (unsigned)backlog;
	}
	return weir__sim_socket_open(sim, socket);
}

static int sim_listen(struct weir__io *io, struct weir__address *address, int backlog, bool nagle)
{
	struct weir__sim *sim = sim_of(io);
	uint16_t *port = weir__sim_port_of(address);
	int tries = WEIR__SIM_PORTS;

	(void)nagle;
	bool chooses = port && *port == 0;
	do {
		if (chooses)
			*port = weir__sim_next_port(sim);
	} while (is_taken(sim, address) && chooses && --tries > 0);
	if (is_taken(sim, address))
		return -EADDRINUSE;
	return add_listener(sim, address, backlog);
}

static int sim_listen_along(struct weir__io *io, const struct weir__address *address, int backlog,
			    bool nagle)
{
	(void)nagle;
	return add_listener(sim_of(io), address, backlog);
}

static int sim_share(struct weir__io *io, int fd)
{
	struct weir__sim *sim = sim_of(io);
	struct weir__sim_socket *socket = weir__sim_socket_of(sim, fd);

	return socket ? new_fd(sim, socket) : -EBADF;
}

/* Nothing comes from outside. */
static int sim_adopt(struct weir__io *io, int fd, struct weir__address *ret, bool nagle)
{
	(void)io, (void)fd, (void)ret, (void)nagle;
	return -EOPNOTSUPP;
}

/* A name in memory goes with its last listener. */
static void sim_unlisten(struct weir__io *io, const struct weir__address *address)
{
	(void)io;
	(void)address;
}

static int sim_open(struct weir__io *io, const struct weir__address *address)
{
	struct weir__sim *sim = sim_of(io);

	(void)address;
	return weir__sim_socket_open(sim, weir__sim_socket_new(sim, WEIR__SIM_FRESH));
}

static int sim_peer(struct weir__io *io, int fd, struct weir__address *ret)
{
	struct weir__sim_socket *socket = weir__sim_socket_of(sim_of(io), fd);

	if (!socket || socket->kind != WEIR__SIM_STREAM)
		return socket ? -ENOTCONN : -EBADF;
	*ret = socket->peer_name;
	return 0;
}

const struct weir__socket_ops weir__sim_sockets = {
	.listen = sim_listen,
	.adopt = sim_adopt,
	.share = sim_share,
	.listen_along = sim_listen_along,
	.unlisten = sim_unlisten,
	.open = sim_open,
	.peer = sim_peer,
	.open_datagram = weir__sim_datagram_open,
	.connect_datagram = weir__sim_datagram_connect,
};

/* ---- Pipes: streams of which one direction is used ---------------------- */

static int sim_pipe(struct weir__io *io, int ret[2])
{
	struct weir__sim *sim = sim_of(io);
	struct weir__sim_socket *reader = weir__sim_socket_new(sim, WEIR__SIM_STREAM);
	int reader_fd = weir__sim_socket_open(sim, reader);

	if (reader_fd < 0)
		return reader_fd;
	struct weir__sim_socket *writer = weir__sim_socket_new(sim, WEIR__SIM_STREAM);
	int writer_fd = weir__sim_socket_open(sim, writer);
	if (writer_fd < 0) {
		weir__sim_net_close(sim, reader_fd);
		return writer_fd;
	}
	reader->peer = writer;
	writer->peer = reader;
	ret[0] = reader_fd;
	ret[1] = writer_fd;
	return 0;
}

static size_t shorten_any(struct weir__sim *sim, size_t len)
{
	return weir__sim_shorten(sim, &(struct weir__sim_op){ .bytes_max = 0 }, len);
}

static ssize_t sim_pipe_read(struct weir__io *io, int fd, void *ret, size_t cap)
{
	struct weir__sim *sim = sim_of(io);
	struct weir__sim_socket *socket = weir__sim_socket_of(sim, fd);

	if (socket->arrived == 0)
		return socket->has_fin ? 0 : -EAGAIN;
	size_t len = shorten_any(sim, socket->arrived < cap ? socket->arrived : cap);
	copy_out(sim, socket, ret, len);
	if (socket->peer)
		weir__sim_stir(sim, socket->peer, WEIR__OP_POLL);
	return (ssize_t)len;
}

static ssize_t sim_pipe_write(struct weir__io *io, int fd, const void *data, size_t len)
{
	struct weir__sim *sim = sim_of(io);
	struct weir__sim_socket *socket = weir__sim_socket_of(sim, fd);

	if (!socket->peer)
		return -EPIPE;
	size_t n = copy_in(sim, socket->peer, data, shorten_any(sim, len));
	if (n == 0)
		return -EAGAIN;
	return push_segment(sim, socket->peer, WEIR__SIM_DATA, n) ? (ssize_t)n : -ENOMEM;
}

const struct weir__pipe_ops weir__sim_pipes = { .open = sim_pipe,
						.read = sim_pipe_read,
						.write = sim_pipe_write };
