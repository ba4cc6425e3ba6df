/* SPDX-License-Identifier: MIT */
/*
 * http: an HTTP/1.1 server.
 *
 *   ./http :8080                                  or ./http :8080 5, to wait 5 s for slow clients
 *   curl -i localhost:8080/                       "Hello, World!"
 *   curl -d 'some text' localhost:8080/echo       the body comes back
 *   curl localhost:8080/stats                     what the runtime and its pools have done
 *   curl localhost:8080/metrics                   the same for Prometheus and the like
 *   wrk -c 64 -d 5 http://127.0.0.1:8080/
 *
 * llhttp does the parsing. The idea: while a client is silent it owns nothing but its task. Bytes
 * arrive in a lease; a request gets its state from a typed pool when its first byte is there; the
 * answers to all the requests of one read are built in one leased buffer and sent with one call.
 * Nothing that answers these calls malloc, but for the text of /metrics.
 */
#include <llhttp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>
#include <weir/io.h>

enum {
	URL_BYTES_MAX = 8000,	   /* RFC 9112 section 3 asks for at least that */
	HEAD_BYTES_MAX = 16 << 10, /* request line, headers and trailers */
	BODY_BYTES_MAX = 1 << 20,  /* kept whole, so that the answer can state its length */
	OUT_BYTES_FIRST = 4 << 10,
	OUT_BYTES_MAX = 64 << 10,   /* then what is there is sent first */
	ANSWER_HEAD_BYTES = 512,    /* more than any status line and headers below */
	COPY_BYTES_MAX = 16 << 10,  /* longer bodies are sent from where they are */
	LINGER_BYTES_MAX = 1 << 20, /* dropped after a refusal, see linger() */
	PATH_BYTES = 16,	    /* enough to tell the routes apart */
	FIELD_BYTES = 16,	    /* enough for the header names looked at */
};

/*
 * How long a client may be silent between requests, take for one request, or for taking one batch
 * of answers. Set before the runtime starts.
 */
static int64_t patience_ns = 60 * WEIR_SEC;
static const int64_t LINGER_NS = 2 * WEIR_SEC;

struct request {
	llhttp_t parser; /* first: callbacks get this pointer */
	const struct route *route;
	weir_buf body;
	int64_t deadline_ns; /* 0 until a read has ended inside the request */
	size_t url_bytes;
	size_t head_bytes;
	size_t body_bytes;
	int refusal; /* the status that a callback has decided on */
	unsigned hosts;
	uint8_t path_len;
	uint8_t field_len;
	bool begun;
	bool head_done;
	bool complete;
	bool last; /* the client wants the connection closed */
	bool expects;
	char path[PATH_BYTES];
	char field[FIELD_BYTES];
};

struct client {
	weir_conn *conn;
	struct request *request; /* NULL between requests */
	weir_buf out;
	unsigned answers; /* in `out`, not counted yet */
	bool closing;	  /* the answers in `out` are the last ones */
};

struct route {
	const char *path;
	const char *allow;
	bool keeps_body;
	int (*answer)(struct client *c);
};

static weir_pool *requests;

/* ---- Output -------------------------------------------------------------------------------- */

/* Requests answered, by worker: each counter has a cache line of its own. */
static struct {
	_Alignas(64) _Atomic uint64_t n; /* any worker; normally one */
} answered[64];

static void count_answers(struct client *c)
{
	atomic_fetch_add_explicit(&answered[weir_worker_index() & 63].n, c->answers,
				  memory_order_relaxed);
	c->answers = 0;
}

/* Sends what has been built. Returns 0 or the reason why not all of it could go. */
static int flush(struct client *c)
{
	size_t len = c->out.len;

	count_answers(c);
	if (len == 0)
		return 0;
	WEIR_SCOPE(sending, patience_ns);
	ssize_t n = weir_send(c->conn, &c->out);
	return n < 0 ? (int)n : (size_t)n < len ? -ETIME : 0;
}

static int grow(weir_buf *buf, size_t cap)
{
	weir_buf bigger;
	int err = weir_buf_get(&bigger, cap);

	if (err < 0)
		return err;
	if (buf->len)
		memcpy(bigger.data, buf->data, buf->len);
	bigger.len = buf->len;
	weir_buf_release(buf);
	*buf = bigger;
	return 0;
}

/* Makes room for `bytes` more in c->out, by a larger buffer or by sending what is in it. */
static int reserve(struct client *c, size_t bytes)
{
	int err = 0;

	if (c->out.cap - c->out.len >= bytes)
		return 0;
	if (c->out.len + bytes > OUT_BYTES_MAX)
		err = flush(c);
	if (err < 0)
		return err;
	size_t cap = c->out.cap * 2 > OUT_BYTES_FIRST ? c->out.cap * 2 : OUT_BYTES_FIRST;
	return grow(&c->out, cap > c->out.len + bytes ? cap : c->out.len + bytes);
}

static inline char *put(char *at, const char *text, size_t len)
{
	memcpy(at, text, len);
	return at + len;
}

static inline char *put_text(char *at, const char *text)
{
	return put(at, text, strlen(text));
}

static char *put_number(char *at, size_t n)
{
	char digits[20];
	char *first = digits + sizeof digits;

	do
		*--first = (char)('0' + n % 10);
	while ((n /= 10));
	return put(at, first, (size_t)(digits + sizeof digits - first));
}

/* "Date: ...\r\n", made once a second per worker. Not to be kept across a call that parks. */
__attribute__((noinline)) static const char *date_line(void)
{
	static _Thread_local time_t made;
	static _Thread_local char line[48];
	time_t now = time(NULL);

	if (now != made) {
		struct tm tm;
		made = now;
		gmtime_r(&now, &tm);
		strftime(line, sizeof line, "Date: %a, %d %b %Y %H:%M:%S GMT\r\n", &tm);
	}
	return line;
}

static const char *status_text(int status)
{
	switch (status) {
	case 200:
		return "HTTP/1.1 200 OK\r\n";
	case 400:
		return "HTTP/1.1 400 Bad Request\r\n";
	case 404:
		return "HTTP/1.1 404 Not Found\r\n";
	case 405:
		return "HTTP/1.1 405 Method Not Allowed\r\n";
	case 408:
		return "HTTP/1.1 408 Request Timeout\r\n";
	case 413:
		return "HTTP/1.1 413 Content Too Large\r\n";
	case 414:
		return "HTTP/1.1 414 URI Too Long\r\n";
	case 431:
		return "HTTP/1.1 431 Request Header Fields Too Large\r\n";
	case 501:
		return "HTTP/1.1 501 Not Implemented\r\n";
	case 503:
		return "HTTP/1.1 503 Service Unavailable\r\n";
	default:
		return "HTTP/1.1 505 HTTP Version Not Supported\r\n";
	}
}

/* Writes status line and headers at `at`, where ANSWER_HEAD_BYTES are free. `more` is whole lines.
 */
static char *put_head(const struct client *c, char *at, int status, const char *more, size_t len)
{
	const struct request *r = c->request;

	at = put_text(at, status_text(status));
	at = put_text(at, "Server: weir\r\n");
	at = put_text(at, date_line());
	at = put_text(at, more);
	at = put_text(at, "Content-Type: text/plain\r\nContent-Length: ");
	at = put_number(at, len);
	if (c->closing)
		at = put_text(at, "\r\nConnection: close");
	else if (r->parser.http_minor == 0)
		at = put_text(at, "\r\nConnection: keep-alive");
	return put_text(at, "\r\n\r\n");
}

/* Answers with a body that is copied; a HEAD request gets its length only. */
static int respond(struct client *c, int status, const char *more, const char *body, size_t len)
{
	size_t sent = c->request->parser.method == HTTP_HEAD ? 0 : len;
	int err = reserve(c, ANSWER_HEAD_BYTES + sent);

	if (err < 0)
		return err;
	char *at = put_head(c, c->out.data + c->out.len, status, more, len);
	at = put(at, body, sent);
	c->out.len = (size_t)(at - c->out.data);
	c->answers++;
	return 0;
}

/* Answers 200 with the bytes in *body and takes the lease: long bodies are sent as they are. */
static int respond_lease(struct client *c, weir_buf *body)
{
	if (body->len <= COPY_BYTES_MAX || c->request->parser.method == HTTP_HEAD)
		return respond(c, 200, "", body->len ? body->data : "", body->len);

	int err = reserve(c, ANSWER_HEAD_BYTES);
	if (err < 0)
		return err;
	char *at = put_head(c, c->out.data + c->out.len, 200, "", body->len);
	c->out.len = (size_t)(at - c->out.data);
	c->answers++;
	err = flush(c);
	if (err < 0)
		return err;
	c->out = *body; /* the lease moves */
	*body = (weir_buf)WEIR_BUF_INIT;
	return flush(c);
}

static int respond_error(struct client *c, int status, const char *more)
{
	const char *reason = status_text(status) + strlen("HTTP/1.1 400 ");
	return respond(c, status, more, reason, strlen(reason));
}

/* ---- Routes -------------------------------------------------------------------------------- */

static int answer_hello(struct client *c)
{
	static const char hello[] = "Hello, World!\n";
	return respond(c, 200, "", hello, sizeof hello - 1);
}

static int answer_echo(struct client *c)
{
	return respond_lease(c, &c->request->body);
}

__attribute__((format(printf, 2, 3))) static void add(weir_buf *text, const char *format, ...)
{
	va_list args;
	va_start(args, format);
	size_t room = text->cap - text->len;
	int n = vsnprintf(text->data + text->len, room, format, args);
	if (n > 0 && (size_t)n < room)
		text->len += (size_t)n;
	va_end(args);
}

static uint64_t answered_total(void)
{
	uint64_t sum = 0;
	for (size_t i = 0; i < sizeof answered / sizeof answered[0]; i++)
		sum += atomic_load_explicit(&answered[i].n, memory_order_relaxed);
	return sum;
}

static void stats_runtime(weir_buf *text)
{
	struct weir_worker_stats w = { 0 };
	struct weir_serve_stats s = { 0 };
	uint64_t n = answered_total();
	double per = n ? 1.0 / (double)n : 0;

	weir_serve_stats_get(&s);
	(void)!weir_worker_stats_get(WEIR_ALL_WORKERS, &w); /* zeros outside a runtime: not here */
	add(text, "requests %ju\naccepted %ju\nopen %ju\nfailed %ju\naccept_pauses %ju\n", n,
	    s.accepted, s.open, s.failed, s.accept_pauses);
	add(text, "turns %ju\nparks %ju\nswitches %ju\nspawns %ju\ntasks %ju\n", w.turns, w.parks,
	    w.switches, w.spawns, w.tasks);
	add(text, "enters %ju\nsubmissions %ju\ncompletions %ju\nwakes %ju\ntimers_fired %ju\n",
	    w.enters, w.submissions, w.completions, w.wakes, w.timers_fired);
	add(text, "recv_empty %ju\ncq_overflows %ju\nstale_completions %ju\n", w.recv_empty,
	    w.cq_overflows, w.stale_completions);
	add(text, "turns_per_request %.3f\nenters_per_request %.3f\nswitches_per_request %.3f\n",
	    (double)w.turns * per, (double)w.enters * per, (double)w.switches * per);
}

static void stats_memory(weir_buf *text)
{
	struct weir_mem_stats m = { 0 };

	weir_mem_stats_get(&m);
	add(text, "mem_allocs %ju\nmem_hits %ju\nmem_misses %ju\n", m.allocs, m.allocs - m.misses,
	    m.misses);
	add(text, "mem_span_bytes %ju\nmem_cached_bytes %ju\n", m.span_bytes, m.cached_bytes);
	add(text, "stacks %ju\nstacks_cached %ju\nos_maps %ju\nos_purged_bytes %ju\n", m.stacks,
	    m.stacks_cached, m.os_maps, m.os_purged_bytes);
}

/* The name comes last: it may hold a blank. */
static void stats_pools(weir_buf *text, struct weir_pool_stats *pools, size_t n)
{
	add(text, "# pool bytes allocs hits misses overflows in_use cached capacity remote name\n");
	for (const struct weir_pool_stats *p = pools; p < pools + n; p++)
		add(text, "pool %zu %ju %ju %ju %ju %ju %ju %ju %ju %s\n", p->object_bytes,
		    p->allocs, p->allocs - p->misses, p->misses, p->overflows, p->in_use, p->cached,
		    p->capacity, p->remote_frees, p->name);
}

static int answer_stats(struct client *c)
{
	struct weir_mem_stats m;
	weir_mem_stats_get(&m);

	weir_auto_buf text = WEIR_BUF_INIT;
	int err = weir_buf_get(&text, 2048 + m.pools * 256);
	if (err < 0)
		return err;
	struct weir_pool_stats *pools = weir_alloc(m.pools * sizeof *pools);
	if (!pools)
		return -ENOMEM;

	stats_runtime(&text);
	stats_memory(&text);
	stats_pools(&text, pools, weir_pool_stats_get(pools, m.pools));
	weir_free(pools);
	return respond_lease(c, &text);
}

/* What a collector of metrics asks for, all workers together. */
static int answer_metrics(struct client *c)
{
	weir_auto_buf body = WEIR_BUF_INIT;
	char *text = NULL;
	size_t len = 0;
	FILE *out = open_memstream(&text, &len);
	if (!out)
		return -ENOMEM;
	int err = weir_metrics_write(out);
	if (fclose(out) != 0 && err == 0)
		err = -ENOMEM;
	if (err == 0)
		err = weir_buf_get(&body, len);
	if (err == 0) {
		memcpy(body.data, text, len);
		body.len = len;
	}
	free(text);
	return err < 0 ? err : respond_lease(c, &body);
}

static const struct route routes[] = {
	{ "/", "Allow: GET, HEAD\r\n", false, answer_hello },
	{ "/echo", "Allow: POST\r\n", true, answer_echo },
	{ "/stats", "Allow: GET, HEAD\r\n", false, answer_stats },
	{ "/metrics", "Allow: GET, HEAD\r\n", false, answer_metrics },
};

/* The path without its query; NULL for any other. */
static const struct route *find_route(const struct request *r)
{
	const char *query = memchr(r->path, '?', r->path_len);
	size_t len = query ? (size_t)(query - r->path) : r->path_len;

	for (size_t i = 0; i < sizeof routes / sizeof routes[0]; i++)
		if (len == strlen(routes[i].path) && !memcmp(r->path, routes[i].path, len))
			return &routes[i];
	return NULL;
}

static int answer(struct client *c)
{
	const struct request *r = c->request;
	bool reads = r->parser.method == HTTP_GET || r->parser.method == HTTP_HEAD;

	c->closing = r->last;
	if (!reads && r->parser.method != HTTP_POST)
		return respond_error(c, 501, "");
	if (!r->route)
		return respond_error(c, 404, "");
	if (reads == r->route->keeps_body)
		return respond_error(c, 405, r->route->allow);
	return r->route->answer(c);
}

/* ---- Parser callbacks: they note and count, and refuse by an error ------------------------- */

static int refuse_with(struct request *r, int status)
{
	r->refusal = status;
	return HPE_USER;
}

static size_t append(char *kept, size_t have, size_t cap, const char *at, size_t len)
{
	size_t n = len < cap - have ? len : cap - have;
	memcpy(kept + have, at, n);
	return have + n;
}

static int count_head(struct request *r, size_t len)
{
	r->head_bytes += len;
	return r->head_bytes > HEAD_BYTES_MAX ? refuse_with(r, 431) : 0;
}

static int on_begin(llhttp_t *parser)
{
	((struct request *)parser)->begun = true;
	return 0;
}

static int on_url(llhttp_t *parser, const char *at, size_t len)
{
	struct request *r = (struct request *)parser;

	r->path_len = (uint8_t)append(r->path, r->path_len, PATH_BYTES, at, len);
	r->url_bytes += len;
	return r->url_bytes > URL_BYTES_MAX ? refuse_with(r, 414) : count_head(r, len);
}

static int on_field(llhttp_t *parser, const char *at, size_t len)
{
	struct request *r = (struct request *)parser;

	r->field_len = (uint8_t)append(r->field, r->field_len, FIELD_BYTES, at, len);
	return count_head(r, len);
}

static int on_field_done(llhttp_t *parser)
{
	struct request *r = (struct request *)parser;

	if (!r->head_done && r->field_len == 4 && !strncasecmp(r->field, "host", 4))
		r->hosts++;
	if (!r->head_done && r->field_len == 6 && !strncasecmp(r->field, "expect", 6))
		r->expects = true;
	r->field_len = 0;
	return count_head(r, 4); /* ": " and CR LF, so that empty headers count as well */
}

static int on_value(llhttp_t *parser, const char *at, size_t len)
{
	(void)at;
	return count_head((struct request *)parser, len);
}

/* HPE_PAUSED hands a request that waits for "100 Continue" to parse(). */
static int on_head_done(llhttp_t *parser)
{
	struct request *r = (struct request *)parser;

	r->head_done = true;
	parser->upgrade = 0; /* none is offered; the request is served as it stands */
	if (parser->method == HTTP_CONNECT)
		return refuse_with(r, 501);
	if (parser->http_major != 1)
		return refuse_with(r, 505);
	if (r->hosts > 1 || (r->hosts == 0 && parser->http_minor > 0))
		return refuse_with(r, 400);
	if (!(parser->flags & F_CHUNKED) && parser->content_length > BODY_BYTES_MAX)
		return refuse_with(r, 413);
	r->route = find_route(r);
	return r->expects && parser->http_minor > 0 ? HPE_PAUSED : 0;
}

static int on_body(llhttp_t *parser, const char *at, size_t len)
{
	struct request *r = (struct request *)parser;

	r->body_bytes += len;
	if (r->body_bytes > BODY_BYTES_MAX)
		return refuse_with(r, 413);
	if (!r->route || !r->route->keeps_body)
		return 0;
	if (r->body.cap - r->body.len < len) {
		size_t twice = r->body.cap * 2;
		if (grow(&r->body, twice > r->body_bytes ? twice : r->body_bytes) < 0)
			return refuse_with(r, 503);
	}
	memcpy(r->body.data + r->body.len, at, len);
	r->body.len += len;
	return 0;
}

static int on_complete(llhttp_t *parser)
{
	struct request *r = (struct request *)parser;

	r->complete = true;
	r->last = !llhttp_should_keep_alive(parser);
	return HPE_PAUSED;
}

static const llhttp_settings_t callbacks = {
	.on_message_begin = on_begin,
	.on_url = on_url,
	.on_header_field = on_field,
	.on_header_field_complete = on_field_done,
	.on_header_value = on_value,
	.on_chunk_extension_name = on_value,
	.on_chunk_extension_value = on_value,
	.on_headers_complete = on_head_done,
	.on_body = on_body,
	.on_message_complete = on_complete,
};

/* ---- Requests ------------------------------------------------------------------------------ */

/* Everything but the parser, which goes on where it stopped. */
static void request_reset(struct request *r)
{
	weir_buf_release(&r->body);
	memset((char *)r + sizeof r->parser, 0, sizeof *r - sizeof r->parser);
}

static int request_begin(struct client *c)
{
	struct request *r = weir_pool_get(requests);

	if (!r)
		return -ENOMEM;
	r->body = (weir_buf)WEIR_BUF_INIT;
	request_reset(r);
	llhttp_init(&r->parser, HTTP_REQUEST, &callbacks);
	c->request = r;
	return 0;
}

static void request_end(struct client *c)
{
	if (c->request) {
		weir_buf_release(&c->request->body);
		weir_pool_put(requests, c->request);
		c->request = NULL;
	}
}

/* What a request cannot be served for ends the connection: the parser has lost the thread. */
static int refuse(struct client *c, int status)
{
	c->closing = true;
	return respond_error(c, status, "");
}

static int refusal_of(const struct request *r, llhttp_errno_t reason)
{
	if (r->refusal)
		return r->refusal;
	if (reason == HPE_INVALID_VERSION || reason == HPE_PAUSED_H2_UPGRADE)
		return 505;
	return 400;
}

static int put_continue(struct client *c)
{
	int err = reserve(c, ANSWER_HEAD_BYTES);
	if (err < 0)
		return err;
	char *at = put_text(c->out.data + c->out.len, "HTTP/1.1 100 Continue\r\n\r\n");
	c->out.len = (size_t)(at - c->out.data);
	return 0;
}

/* Answers each request that `at` completes, in order, into c->out. Returns 0 or an error. */
static int parse(struct client *c, const char *at, size_t len)
{
	const char *end = at + len;
	struct request *r = c->request;

	while (at < end && !c->closing) {
		llhttp_errno_t reason = llhttp_execute(&r->parser, at, (size_t)(end - at));
		if (reason == HPE_OK)
			return 0;
		if (reason != HPE_PAUSED)
			return refuse(c, refusal_of(r, reason));
		at = llhttp_get_error_pos(&r->parser);
		llhttp_resume(&r->parser);
		int err;
		if (r->complete) {
			err = answer(c);
			request_reset(r);
		} else {
			err = put_continue(c);
		}
		if (err < 0)
			return err;
	}
	return 0;
}

/* ---- Clients ------------------------------------------------------------------------------- */

static ssize_t receive(struct client *c, weir_buf *ret)
{
	int64_t patience = c->request ? c->request->deadline_ns - weir_now() : patience_ns;
	WEIR_SCOPE(waiting, patience > 0 ? patience : 1);
	return weir_recv(c->conn, ret);
}

/* A request that is under way keeps its state and gets a deadline; else the state goes back. */
static void settle(struct client *c)
{
	struct request *r = c->request;

	if (!r->begun)
		request_end(c);
	else if (r->deadline_ns == 0)
		r->deadline_ns = weir_now() + patience_ns;
}

/*
 * Closing with unread bytes in the socket makes the kernel reset the connection, and the client
 * would never read the refusal: end our half, then read and drop for a while.
 */
static void linger(struct client *c)
{
	size_t dropped = 0;
	WEIR_SCOPE(goodbye, LINGER_NS);

	if (weir_shutdown(c->conn) < 0)
		return;
	while (dropped < LINGER_BYTES_MAX) {
		weir_auto_buf rest = WEIR_BUF_INIT;
		ssize_t n = weir_recv(c->conn, &rest);
		if (n <= 0)
			return;
		dropped += (size_t)n;
	}
}

/* One read and the answers to it. Returns 1 to go on, 0 when done, or an error. */
static int turn(struct client *c)
{
	weir_auto_buf in = WEIR_BUF_INIT;
	ssize_t n = receive(c, &in);
	int err = 0;

	if (n == -ETIME && c->request)
		err = refuse(c, 408);
	else if (n <= 0)
		return (int)n;
	else if (!c->request)
		err = request_begin(c);
	if (err == 0 && n > 0)
		err = parse(c, in.data, (size_t)n);
	weir_buf_release(&in); /* not to be kept while a slow reader takes its answers */
	if (err < 0)
		return err;
	settle(c);
	err = flush(c);
	if (err < 0)
		return err;
	if (c->closing)
		linger(c);
	return !c->closing;
}

static int serve_client(weir_conn *conn)
{
	struct client c = { .conn = conn, .out = WEIR_BUF_INIT };
	int more;

	do
		more = turn(&c);
	while (more > 0);
	request_end(&c);
	weir_buf_release(&c.out);
	return more;
}

static int serve(void *arg)
{
	weir_auto_listener ln = NULL;
	int err = weir_listen(&ln, (const char *)arg);

	if (err < 0)
		return err;
	printf("http: listening on %s\n", weir_listener_address(ln));
	fflush(stdout);
	return weir_serve(ln, serve_client, .name = "http");
}

static int start(void *address)
{
	int err = weir_pool_new(&requests, .object_bytes = sizeof(struct request),
				.name = "http request");

	if (err < 0)
		return err;
	err = serve(address);
	weir_pool_free(requests);
	return err;
}

int main(int argc, char **argv)
{
	if (argc > 2)
		patience_ns = atoi(argv[2]) * WEIR_SEC;
	if (argc > 3 || patience_ns <= 0) {
		fprintf(stderr, "usage: %s [ADDRESS [SECONDS]]\n", argv[0]);
		return 2;
	}
	int err = weir_run(start, argc > 1 ? argv[1] : "127.0.0.1:8080");

	if (err < 0 && err != -ECANCELED)
		fprintf(stderr, "http: %s\n", weir_strerror(err));
	return err < 0 && err != -ECANCELED;
}
