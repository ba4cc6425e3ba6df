/* SPDX-License-Identifier: MIT */
/*
 * listener.c: listening sockets, and weir_accept().
 *
 * Comes from: user code, with an address. Goes to: socket.c, or in the simulator sim_net.c, which
 * make them. weir_serve() is in serve.c.
 */
#include "io/listener.h"

#include <errno.h>
#include <string.h>

#include "alloc/opts.h"
#include "io/conn.h"
#include "io/inherit.h"

/* "fd:3": takes what this process was started with. Else opens a socket. 0 or -errno. */
static int open_listener(weir_listener *listener, const char *address)
{
	struct weir__io *io = listener->io;
	int fd;

	if (strncmp(address, "fd:", 3) == 0) {
		fd = weir__inherited_fd(address + 3);
		int err = fd < 0 ? fd
				 : io->sockets->adopt(io, fd, &listener->address, listener->nagle);
		if (err < 0)
			return err;
		listener->is_inherited = true;
	} else {
		int err = weir__address_parse(address, &listener->address);
		fd = err < 0 ? err
			     : io->sockets->listen(io, &listener->address, listener->backlog,
						   listener->nagle);
	}
	listener->handle.fd = fd;
	return fd < 0 ? fd : 0;
}

int weir_listen_with(weir_listener **ret, const struct weir_listen_opts *opts)
{
	struct weir__worker *self = weir__worker_self();
	struct weir_listen_opts known = { 0 };

	if (!self)
		return -EINVAL;
	int err = weir__opts_copy(&known, sizeof known, opts, opts->size);
	if (err < 0 || !known.address)
		return err < 0 ? err : -EINVAL;
	weir_listener *listener = weir_zalloc(sizeof *listener);
	if (!listener)
		return -ENOMEM;
	listener->io = weir__io_of(self);
	listener->backlog = known.backlog > 0 ? known.backlog : (int)self->runtime->config.backlog;
	listener->nagle = known.nagle;
	err = open_listener(listener, known.address);
	if (err < 0) {
		weir_free(listener);
		return err;
	}
	err = weir__address_format(&listener->address.any, listener->address.len, listener->text,
				   sizeof listener->text);
	if (err < 0) {
		if (listener->is_inherited) /* not taken */
			weir_free(listener);
		else
			weir_listener_close(listener);
		return err;
	}
	*ret = listener;
	return 0;
}

const char *weir_listener_address(const weir_listener *listener)
{
	return listener->text;
}

int weir_listener_fd(weir_listener *listener)
{
	if (weir__virtual)
		return -EOPNOTSUPP;
	listener->is_lent = true;
	return listener->handle.fd;
}

void weir_listener_close(weir_listener *listener)
{
	if (!listener)
		return;
	if (!listener->is_inherited && !listener->is_lent)
		listener->io->sockets->unlisten(listener->io, &listener->address);
	weir__handle_close(listener->io, &listener->handle);
	weir_free(listener);
}

int weir_accept(weir_listener *listener, weir_conn **ret)
{
	struct weir__worker *self = weir__worker_self();
	struct weir__op op = { .code = WEIR__OP_ACCEPT, .handle = &listener->handle };

	if (listener->io->worker != self)
		return -EXDEV;
	if (!self->current)
		return -EINVAL;
	int err = weir__interrupted(self, self->current);
	if (err < 0)
		return err;
	int fd = weir__op_run(listener->io, &op);
	if (fd < 0)
		return fd;
	struct weir__handle handle = { .fd = fd, .is_direct = op.accepted_direct };
	struct weir__io *io = weir__io_of(self);
	err = weir__conn_new(io, fd, op.accepted_direct, ret);
	if (err < 0)
		io->ops->close(io, &handle);
	return err;
}
