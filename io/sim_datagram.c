/* SPDX-License-Identifier: MIT */
/*
 * sim_datagram.c: the simulator's datagrams.
 *
 * Comes from: sim_net.c (operations on sockets of the kind). A datagram on its way is an event of
 * its own that names its receiver; it arrives in order but for the fault that lets others overtake
 * it. What Linux does at the edges is kept: over UDP a sender never waits, a full receiver loses,
 * and a peer that is not there is told of later and once; over Unix sockets a full receiver makes
 * senders wait and a missing one is an error at once.
 */
#include "io/sim.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "io/datagram.h"

enum {
	UDP4_BYTES_MAX = 65507,
	UDP6_BYTES_MAX = 65527,
	UNIX_BYTES_MAX = 212960, /* as with Linux's net.core.wmem_default */
	QUEUE_BYTES_MAX = 212992,
	COST_BYTES = 768, /* the kernel counts so much for a small one */
	UNIX_QUEUED_MAX = 10,
	OVERTAKEN_NS = 20 * 1000000,
};

struct weir__sim_datagram {
	struct weir__sim_datagram *next;
	struct weir__sim_datagram **pprev; /* on its way */
	struct weir__sim_socket *to;
	struct weir__address from;
	size_t len;
	char bytes[];
};

static struct weir__sim *sim_of(struct weir__io *io)
{
	return ((struct weir__sim_worker *)(void *)io)->sim;
}

static bool is_unix(const struct weir__address *address)
{
	return address->any.sa_family == AF_UNIX;
}

/* ---- Opening ------------------------------------------------------------ */

static bool is_taken(struct weir__sim *sim, struct weir__address *address, bool shared)
{
	for (struct weir__sim_socket *at = sim->sockets; at; at = at->next)
		if (at->kind == WEIR__SIM_DGRAM && at->fds && !(shared && at->is_shared) &&
		    weir__sim_reaches(address, &at->name))
			return true;
	return false;
}

/* A free abstract name, as Linux makes them. */
static void choose_name(struct weir__sim *sim, struct weir__address *address)
{
	char name[8];

	snprintf(name, sizeof name, "%05x", weir__sim_next_port(sim));
	memcpy(address->un.sun_path + 1, name, 5);
	address->len += 6;
}

int weir__sim_datagram_open(struct weir__io *io, struct weir__address *address, bool shared)
{
	struct weir__sim *sim = sim_of(io);
	uint16_t *port = weir__sim_port_of(address);

	if (shared && !port)
		return -EOPNOTSUPP;
	bool is_nameless = address->len == sizeof address->any.sa_family;
	bool chooses = port && *port == 0;
	int tries = WEIR__SIM_PORTS;
	if (is_nameless)
		choose_name(sim, address);
	do {
		if (chooses)
			*port = weir__sim_next_port(sim);
	} while (is_taken(sim, address, shared && !chooses) && chooses && --tries > 0);
	if (is_taken(sim, address, shared && !chooses))
		return -EADDRINUSE;
	struct weir__sim_socket *socket = weir__sim_socket_new(sim, WEIR__SIM_DGRAM);
	if (socket) {
		socket->name = *address;
		socket->is_shared = shared;
	}
	return weir__sim_socket_open(sim, socket);
}

/* ---- Finding the receiver ----------------------------------------------- */

/* A socket with a peer hears nobody else. */
static bool listens_to(struct weir__sim_socket *at, struct weir__address *from)
{
	return !at->has_peer || weir__sim_reaches(from, &at->peer_name);
}

/* One of those that share the address; or NULL, with the reason in *ret_err: 0 says the network is
 * silent. */
static struct weir__sim_socket *find(struct weir__sim *sim, struct weir__address *to,
				     struct weir__address *from, int *ret_err)
{
	struct weir__sim_socket *found = NULL;
	bool is_there = false;
	unsigned count = 0;

	for (struct weir__sim_socket *at = sim->sockets; at; at = at->next) {
		if (at->kind != WEIR__SIM_DGRAM || !at->fds || !weir__sim_reaches(to, &at->name))
			continue;
		is_there = true;
		if (listens_to(at, from) && weir__sim_below(sim, ++count) == 0)
			found = at;
	}
	*ret_err = 0;
	if (!found && is_unix(to))
		*ret_err = is_there ? -EPERM : to->un.sun_path[0] ? -ENOENT : -ECONNREFUSED;
	return found;
}

static bool has_same_family(const struct weir__sim_socket *socket, const struct weir__address *to)
{
	int own = socket->name.any.sa_family, other = to->any.sa_family;

	return own == other ||
	       (own == AF_INET6 && other == AF_INET && weir__sim_is_any(&socket->name));
}

/* Its own name as the receiver sees it: a socket at every address uses the one that it turns to. */
static struct weir__address name_towards(const struct weir__sim_socket *socket,
					 const struct weir__address *to)
{
	struct weir__address name = socket->name;

	if (!weir__sim_is_any(&name))
		return name;
	in_port_t port = *weir__sim_port_of(&name);
	name = *to;
	*weir__sim_port_of(&name) = port;
	return name;
}

int weir__sim_datagram_connect(struct weir__io *io, int fd, const struct weir__address *to)
{
	struct weir__sim *sim = sim_of(io);
	struct weir__sim_socket *socket = weir__sim_socket_of(sim, fd);
	struct weir__address peer = *to;
	int err;

	if (!has_same_family(socket, to))
		return is_unix(to) || is_unix(&socket->name) ? -EINVAL : -EAFNOSUPPORT;
	if (is_unix(to) && !find(sim, &peer, &socket->name, &err))
		return err;
	socket->peer_name = peer;
	socket->has_peer = true;
	return 0;
}

/* ---- On the way --------------------------------------------------------- */

static void drop(struct weir__sim_datagram **list)
{
	struct weir__sim_datagram *datagram;

	while ((datagram = *list)) {
		*list = datagram->next;
		free(datagram);
	}
}

void weir__sim_datagram_free(struct weir__sim_socket *socket)
{
	drop(&socket->datagrams);
	drop(&socket->datagrams_coming);
}

/* Somebody who waits for room at a Unix socket may have it now. */
static void stir_senders(struct weir__sim *sim, const struct weir__sim_socket *receiver)
{
	if (!is_unix(&receiver->name))
		return;
	for (struct weir__sim_socket *at = sim->sockets; at; at = at->next)
		if (at->kind == WEIR__SIM_DGRAM)
			weir__sim_stir(sim, at, WEIR__OP_SEND_TO);
}

void weir__sim_datagram_hang_up(struct weir__sim *sim, struct weir__sim_socket *socket)
{
	drop(&socket->datagrams);
	socket->datagrams_tail = &socket->datagrams;
	stir_senders(sim, socket);
}

static void arrive(struct weir__sim *sim, void *what)
{
	struct weir__sim_datagram *datagram = what;
	struct weir__sim_socket *to = datagram->to;
	size_t bytes = datagram->len + COST_BYTES;
	bool fits = is_unix(&to->name) || to->datagrams_bytes + bytes <= QUEUE_BYTES_MAX;

	*datagram->pprev = datagram->next;
	if (datagram->next)
		datagram->next->pprev = datagram->pprev;
	weir__sim_trace(sim, "arrive", to->number, datagram->len, fits);
	if (to->fds && fits) {
		datagram->next = NULL;
		*to->datagrams_tail = datagram;
		to->datagrams_tail = &datagram->next;
		to->datagrams_bytes += bytes;
		weir__sim_stir(sim, to, WEIR__OP_RECV_FROM);
	} else {
		to->datagrams_count--;
		free(datagram);
	}
	weir__sim_socket_unpin(sim, to);
}

/* Nobody was there: the sender learns so later, if it has a peer. */
static void refuse(struct weir__sim *sim, void *what)
{
	struct weir__sim_socket *socket = what;

	socket->error = -ECONNREFUSED;
	weir__sim_stir(sim, socket, WEIR__OP_RECV_FROM);
	weir__sim_socket_unpin(sim, socket);
}

static void send_refusal(struct weir__sim *sim, struct weir__sim_socket *socket)
{
	if (socket->has_peer &&
	    weir__sim_at(sim, weir__sim_delay(sim, sim->plan.latency_ns), refuse, socket))
		socket->pins++;
}

static int64_t arrival_delay(struct weir__sim *sim, struct weir__sim_socket *to)
{
	int64_t at = sim->now_ns + weir__sim_delay(sim, sim->plan.latency_ns);

	if (!is_unix(&to->name) && weir__sim_chance(sim, sim->plan.faults.overtaken)) {
		sim->result.faults++;
		return (int64_t)weir__sim_below(sim, OVERTAKEN_NS);
	}
	if (at < to->last_ns)
		at = to->last_ns;
	to->last_ns = at;
	return at - sim->now_ns;
}

static bool send_one(struct weir__sim *sim, struct weir__sim_socket *to,
		     const struct weir__address *from, const struct iovec *payload)
{
	struct weir__sim_datagram *datagram = malloc(sizeof(*datagram) + payload->iov_len);

	if (!datagram)
		return false;
	datagram->to = to;
	datagram->from = *from;
	datagram->len = payload->iov_len;
	if (payload->iov_len > 0)
		memcpy(datagram->bytes, payload->iov_base, payload->iov_len);
	if (!weir__sim_at(sim, arrival_delay(sim, to), arrive, datagram)) {
		free(datagram);
		return false;
	}
	datagram->next = to->datagrams_coming;
	datagram->pprev = &to->datagrams_coming;
	if (datagram->next)
		datagram->next->pprev = &datagram->next;
	to->datagrams_coming = datagram;
	to->datagrams_count++;
	to->pins++;
	return true;
}

/* What the network makes of it: none, one or two. */
static bool deliver(struct weir__sim *sim, struct weir__sim_socket *to,
		    const struct weir__address *from, const struct iovec *payload)
{
	unsigned copies = 1;

	if (!is_unix(&to->name) && weir__sim_chance(sim, sim->plan.faults.lost))
		copies = 0;
	else if (!is_unix(&to->name) && weir__sim_chance(sim, sim->plan.faults.doubled))
		copies = 2;
	sim->result.faults += copies != 1;
	for (unsigned i = 0; i < copies; i++)
		if (!send_one(sim, to, from, payload))
			return false;
	return true;
}

/* ---- Operations --------------------------------------------------------- */

/* Where it goes. 0 or -errno. */
static int aim(const struct weir__sim_socket *socket, const struct msghdr *message,
	       struct weir__address *ret)
{
	if (!message->msg_name && !socket->has_peer)
		return is_unix(&socket->name) ? -ENOTCONN : -EDESTADDRREQ;
	*ret = socket->peer_name;
	if (message->msg_name) {
		memset(ret, 0, sizeof *ret);
		memcpy(&ret->un, message->msg_name, message->msg_namelen);
		ret->len = message->msg_namelen;
	}
	if (!has_same_family(socket, ret))
		return is_unix(&socket->name) || is_unix(ret) ? -EINVAL : -EAFNOSUPPORT;
	return 0;
}

static size_t bytes_max(const struct weir__address *to)
{
	return is_unix(to)		       ? UNIX_BYTES_MAX
	       : to->any.sa_family == AF_INET6 ? UDP6_BYTES_MAX
					       : UDP4_BYTES_MAX;
}

static void done(struct weir__sim *sim, struct weir__sim_op *record, int res)
{
	weir__sim_op_done(sim, record, res, NULL, false);
}

void weir__sim_datagram_send(struct weir__sim *sim, struct weir__sim_op *record)
{
	struct weir__sim_socket *socket = record->socket;
	const struct msghdr *message = record->op->data;
	struct weir__address to;
	int err = aim(socket, message, &to);

	if (err == 0 && record->op->len > bytes_max(&to))
		err = -EMSGSIZE;
	if (err == 0 && socket->error) { /* an earlier one's */
		err = socket->error;
		socket->error = 0;
	}
	if (err < 0) {
		done(sim, record, err);
		return;
	}
	struct weir__address from = name_towards(socket, &to);
	struct weir__sim_socket *receiver = find(sim, &to, &from, &err);
	if (receiver && is_unix(&to) && receiver->datagrams_count >= UNIX_QUEUED_MAX)
		return;
	if (!receiver && err == 0)
		send_refusal(sim, socket);
	else if (receiver && !deliver(sim, receiver, &from, message->msg_iov))
		err = -ENOMEM;
	done(sim, record, err < 0 ? err : (int)record->op->len);
}

static void give(struct weir__sim *sim, struct weir__sim_op *record)
{
	struct weir__sim_socket *socket = record->socket;
	struct weir__sim_datagram *datagram = socket->datagrams;
	struct weir__heap *heap = weir__heap_switch(record->worker->heap);
	size_t room = record->op->len - sizeof(struct weir__datagram);
	weir_buf buf = WEIR_BUF_INIT;
	int err = weir_buf_get(&buf, record->op->len);

	(void)weir__heap_switch(heap);
	if (err < 0) {
		done(sim, record, err);
		return;
	}
	struct weir__datagram *head = (struct weir__datagram *)(void *)buf.data;
	size_t len = datagram->len < room ? datagram->len : room;
	memset(head, 0, sizeof *head);
	head->name_len = datagram->from.len;
	head->payload_len = (uint32_t)len;
	head->flags = datagram->len > room ? MSG_TRUNC : 0;
	memcpy(head->name, &datagram->from.any, datagram->from.len);
	memcpy(head->payload, datagram->bytes, len);
	socket->datagrams = datagram->next;
	if (!socket->datagrams)
		socket->datagrams_tail = &socket->datagrams;
	socket->datagrams_bytes -= datagram->len + COST_BYTES;
	socket->datagrams_count--;
	free(datagram);
	stir_senders(sim, socket);
	bool more = record->op->multi && sim->plan.is_multi &&
		    !weir__sim_chance(sim, sim->plan.ends_multi);
	weir__sim_op_done(sim, record, (int)(sizeof *head + len), buf.block, more);
	weir__sim_op_later(sim, record, weir__sim_delay(sim, sim->plan.delay_ns));
}

void weir__sim_datagram_recv(struct weir__sim *sim, struct weir__sim_op *record)
{
	struct weir__sim_socket *socket = record->socket;

	if (socket->error) {
		int err = socket->error;
		socket->error = 0;
		done(sim, record, err);
	} else if (socket->datagrams && weir__sim_chance(sim, sim->plan.faults.no_buffers)) {
		sim->result.faults++;
		weir__count(&record->worker->io.driver.recv_empty, 1);
		weir__sim_op_later(sim, record, weir__sim_delay(sim, WEIR_MS));
	} else if (socket->datagrams) {
		give(sim, record);
	}
}
