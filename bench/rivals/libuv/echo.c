/* SPDX-License-Identifier: MIT */
/*
 * echo.c: an echo server on libuv, as its guide writes it, one loop.
 *
 * Two things are better than in the guide, because every libuv server that cares has them: a reply
 * is tried at once with uv_try_write() and only what the socket does not take is queued, and the
 * receive buffer is the loop's (a callback has done with it when it returns), not a malloc each.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <uv.h>

#define BUFFER_BYTES 65536
#define BACKLOG	     4096

struct reply {
	uv_write_t request;
	char data[];
};

static char buffer[BUFFER_BYTES];

static void lend_buffer(uv_handle_t *handle, size_t wanted, uv_buf_t *ret)
{
	(void)handle;
	(void)wanted;
	*ret = uv_buf_init(buffer, sizeof(buffer));
}

static void free_client(uv_handle_t *client)
{
	free(client);
}

static void close_client(uv_stream_t *client)
{
	if (!uv_is_closing((uv_handle_t *)client))
		uv_close((uv_handle_t *)client, free_client);
}

static void on_written(uv_write_t *request, int status)
{
	uv_stream_t *client = request->handle;
	free(request);
	if (status < 0)
		close_client(client);
}

static void queue_rest(uv_stream_t *client, const char *data, size_t len)
{
	struct reply *reply = malloc(sizeof(*reply) + len);
	if (!reply) {
		close_client(client);
		return;
	}
	memcpy(reply->data, data, len);
	uv_buf_t rest = uv_buf_init(reply->data, (unsigned)len);
	if (uv_write(&reply->request, client, &rest, 1, on_written) < 0) {
		free(reply);
		close_client(client);
	}
}

static void on_read(uv_stream_t *client, ssize_t got, const uv_buf_t *buf)
{
	if (got == 0)
		return;
	if (got < 0) {
		close_client(client);
		return;
	}
	uv_buf_t whole = uv_buf_init(buf->base, (unsigned)got);
	int sent = uv_try_write(client, &whole, 1);
	if (sent < 0 && sent != UV_EAGAIN) {
		close_client(client);
		return;
	}
	size_t done = sent < 0 ? 0 : (size_t)sent;
	if (done < (size_t)got)
		queue_rest(client, buf->base + done, (size_t)got - done);
}

static void on_connection(uv_stream_t *server, int status)
{
	if (status < 0)
		return;
	uv_tcp_t *client = malloc(sizeof(*client));
	if (!client || uv_tcp_init(server->loop, client) < 0) {
		free(client);
		return;
	}
	if (uv_accept(server, (uv_stream_t *)client) < 0 || uv_tcp_nodelay(client, 1) < 0 ||
	    uv_read_start((uv_stream_t *)client, lend_buffer, on_read) < 0)
		close_client((uv_stream_t *)client);
}

int main(int argc, char **argv)
{
	struct sockaddr_in address;
	uv_tcp_t server;
	uv_loop_t *loop = uv_default_loop();
	if (argc != 2) {
		fputs("usage: libuv_echo PORT\n", stderr);
		return 1;
	}
	int err = uv_ip4_addr("127.0.0.1", atoi(argv[1]), &address);
	if (err == 0)
		err = uv_tcp_init(loop, &server);
	if (err == 0)
		err = uv_tcp_bind(&server, (const struct sockaddr *)&address, 0);
	if (err == 0)
		err = uv_listen((uv_stream_t *)&server, BACKLOG, on_connection);
	if (err < 0) {
		fprintf(stderr, "libuv_echo: %s\n", uv_strerror(err));
		return 1;
	}
	return uv_run(loop, UV_RUN_DEFAULT);
}
