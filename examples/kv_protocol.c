/* SPDX-License-Identifier: MIT */
/*
 * kv_protocol.c: RESP2, RESP3 and inline commands.
 *
 * A command is parsed where it lies, in one pass: its arguments point into the input. When it is
 * cut off by the end of a read, what has been parsed of it stays parsed. Answers are assembled in
 * the buffer they are sent from.
 */
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <strings.h>

#include "kv.h"

enum {
	BULK_BYTES_MAX = 512 << 20,
	ARGS_MAX = 1 << 20,
	INLINE_BYTES_MAX = 64 << 10,
	COUNT_LINE_BYTES_MAX = 32, /* "*1048576\r\n" */
	DIGITS_FEW = 9,		   /* which cannot overflow */
	OUT_BYTES_FIRST = 4 << 10,
};

/* ---- Words and numbers --------------------------------------------------------------------- */

bool equals(struct bytes a, const char *word)
{
	return a.len == strlen(word) && !strncasecmp(a.at, word, a.len);
}

/* All of `text` is a decimal integer. */
bool to_integer(struct bytes text, int64_t *ret)
{
	bool minus = text.len > 1 && text.at[0] == '-';
	uint64_t n = 0, limit = (uint64_t)INT64_MAX + minus;

	if (text.len == minus || text.len > 20)
		return false;
	for (size_t i = minus; i < text.len; i++) {
		unsigned digit = (unsigned)(text.at[i] - '0');
		if (digit > 9 || n > (limit - digit) / 10)
			return false;
		n = n * 10 + digit;
	}
	*ret = (int64_t)(minus ? 0 - n : n);
	return true;
}

/* All of `text` is a number, but not NaN. */
bool to_double(struct bytes text, double *ret)
{
	char copy[128], *end;

	if (text.len == 0 || text.len >= sizeof copy || strchr(" \t\n\v\f\r", text.at[0]))
		return false;
	memcpy(copy, text.at, text.len);
	copy[text.len] = 0;
	double n = strtod(copy, &end);
	if (end != copy + text.len || isnan(n))
		return false;
	*ret = n;
	return true;
}

size_t from_integer(char *ret, int64_t n)
{
	uint64_t rest = n < 0 ? 0 - (uint64_t)n : (uint64_t)n;
	size_t len = 1 + (n < 0);

	for (uint64_t tens = rest / 10; tens; tens /= 10)
		len++;
	for (char *at = ret + len; at > ret + (n < 0); rest /= 10)
		*--at = (char)('0' + rest % 10);
	if (n < 0)
		*ret = '-';
	return len;
}

/* The shortest of 15 and 17 digits that reads back as the same number; `ret` has room for 40
 * bytes. */
static size_t from_double(char *ret, double n)
{
	snprintf(ret, 40, "%.15g", n);
	if (strtod(ret, NULL) != n)
		snprintf(ret, 40, "%.17g", n);
	return strlen(ret);
}

/* ---- Answers ------------------------------------------------------------------------------- */

char *more_room(struct client *c, size_t len)
{
	weir_buf bigger;
	size_t cap = c->out.cap * 2 > OUT_BYTES_FIRST ? c->out.cap * 2 : OUT_BYTES_FIRST;

	if (!c->err)
		c->err = weir_buf_get(&bigger, cap > c->out.len + len ? cap : c->out.len + len);
	if (c->err)
		return NULL;
	if (c->out.len)
		memcpy(bigger.data, c->out.data, c->out.len);
	bigger.len = c->out.len;
	weir_buf_release(&c->out);
	c->out = bigger;
	return c->out.data + c->out.len;
}

/* These write behind `to`, where there is room, and return the place behind that. */

static inline char *put_number(char *to, int64_t n)
{
	if (n < 0 || n > 9)
		return to + from_integer(to, n);
	*to = (char)('0' + n);
	return to + 1;
}

static inline char *put_bytes(char *to, const void *from, size_t len)
{
	memcpy(to, from, len);
	return to + len;
}

void reply_count(struct client *c, char kind, int64_t n)
{
	char *to = room(c, 24);

	if (!to)
		return;
	*to = kind;
	to = put_number(to + 1, n);
	to = put_bytes(to, "\r\n", 2);
	c->out.len = (size_t)(to - c->out.data);
}

void reply_bulk(struct client *c, const char *at, size_t len)
{
	char *to = room(c, len + 26);

	if (!to)
		return;
	*to = '$';
	to = put_number(to + 1, (int64_t)len);
	to = put_bytes(to, "\r\n", 2);
	to = put_bytes(to, at, len);
	to = put_bytes(to, "\r\n", 2);
	c->out.len = (size_t)(to - c->out.data);
}

void reply_text(struct client *c, const struct text *text)
{
	if (text)
		reply_bulk(c, text->at, text->len);
	else
		reply(c, c->protocol == 3 ? "_\r\n" : "$-1\r\n");
}

/* A set ('~') or a map ('%', of n pairs), which RESP2 sees as arrays. */
void reply_frame(struct client *c, char kind, size_t n)
{
	if (c->protocol == 3)
		reply_count(c, kind, (int64_t)n);
	else
		reply_count(c, '*', (int64_t)(kind == '%' ? 2 * n : n));
}

void reply_double(struct client *c, double n)
{
	char digits[40];
	size_t len = from_double(digits, n);

	if (c->protocol == 2) {
		reply_bulk(c, digits, len);
		return;
	}
	reply(c, ",");
	reply_bytes(c, digits, len);
	reply(c, "\r\n");
}

/* One line, so what a client sent may be quoted: control characters become blanks. */
void reply_error(struct client *c, const char *format, ...)
{
	char text[256];
	va_list args;

	va_start(args, format);
	vsnprintf(text, sizeof text, format, args);
	va_end(args);
	for (char *at = text; *at; at++)
		if ((unsigned char)*at < ' ')
			*at = ' ';
	reply(c, "-");
	reply(c, text);
	reply(c, "\r\n");
}

/* ---- Commands ------------------------------------------------------------------------------ */

RARE static int protocol_error(struct client *c, const char *what)
{
	reply_error(c, "ERR Protocol error: %s", what);
	c->closing = true;
	return -EPROTO;
}

RARE static int more_args(struct client *c)
{
	struct bytes *more = weir_alloc(2 * c->args_cap * sizeof *more);

	if (!more)
		return c->err = -ENOMEM;
	memcpy(more, c->argv, c->argc * sizeof *more);
	if (c->argv != c->args_inline)
		weir_free(c->argv);
	c->argv = more;
	c->args_cap *= 2;
	return 0;
}

/* Returns 0 or -ENOMEM. */
static inline int push_arg(struct client *c, char *at, size_t len)
{
	if (c->argc == c->args_cap && more_args(c) < 0)
		return c->err;
	c->argv[c->argc++] = (struct bytes){ at, len };
	return 0;
}

void free_args(struct client *c)
{
	weir_free(c->argv);
	c->argv = c->args_inline;
	c->args_cap = ARGS_INLINE;
}

/*
 * One word of an inline command, unquoted in place: inside quotes, a backslash stands for what
 * follows it. Returns behind the word; NULL: a quote is not closed.
 */
static char *inline_word(char *at, const char *end, struct bytes *ret)
{
	char *to = at, quote = 0;

	ret->at = at;
	for (; at < end && (quote || (*at != ' ' && *at != '\t')); at++) {
		if (quote && *at == quote) {
			quote = 0;
			if (at + 1 < end && at[1] != ' ' && at[1] != '\t')
				return NULL;
		} else if (!quote && (*at == '"' || *at == '\'')) {
			quote = *at;
		} else {
			at += quote && *at == '\\' && at + 1 < end;
			*to++ = *at;
		}
	}
	ret->len = (size_t)(to - ret->at);
	return quote ? NULL : at;
}

RARE static int parse_inline(struct client *c)
{
	char *at = c->at, *end = memchr(at, '\n', (size_t)(c->end - at));
	struct bytes word;

	if ((end ? end : c->end) - at > INLINE_BYTES_MAX)
		return protocol_error(c, "too big inline request");
	if (!end)
		return 0;
	c->at = end + 1;
	if (end > at && end[-1] == '\r')
		end--;
	for (;;) {
		while (at < end && (*at == ' ' || *at == '\t'))
			at++;
		if (at == end)
			return 1;
		at = inline_word(at, end, &word);
		if (!at)
			return protocol_error(c, "unbalanced quotes in request");
		if (push_arg(c, word.at, word.len) < 0)
			return c->err;
	}
}

/* A number on a line of its own, behind its first character. */
struct count {
	int64_t n;
	char *behind; /* that line; NULL: there is none, and n is what parse_command() returns */
};

/* Negative, too large, no number at all, or not a whole line yet. */
RARE static struct count parse_odd_count(struct client *c, const char *too_long,
					 const char *invalid)
{
	size_t left = (size_t)(c->end - c->at);
	bool is_long = left >= COUNT_LINE_BYTES_MAX;
	char *end = memchr(c->at, '\n', is_long ? COUNT_LINE_BYTES_MAX : left);
	struct count count = { 0, end ? end + 1 : NULL };

	if (!end && is_long)
		count.n = protocol_error(c, too_long);
	if (!end)
		return count;
	struct bytes digits = { c->at + 1, (size_t)(end - c->at) - 2 };
	if (end[-1] != '\r' || !to_integer(digits, &count.n))
		return (struct count){ protocol_error(c, invalid), NULL };
	return count;
}

/* At c->at. Digits are read where they are; what is not some digits, CR and LF is for the above. */
static inline struct count parse_count(struct client *c, const char *too_long, const char *invalid)
{
	char *first = c->at + 1, *at = first;
	char *last = c->end - 2; /* where the CR is at the latest */
	uint64_t n = 0;
	unsigned digit;

	for (; at < last && (digit = (unsigned char)*at - '0') < 10; at++)
		n = n * 10 + digit;
	if ((size_t)(at - first) - 1 >= DIGITS_FEW || memcmp(at, "\r\n", 2) != 0)
		return parse_odd_count(c, too_long, invalid);
	return (struct count){ (int64_t)n, at + 2 };
}

RARE static int not_a_bulk(struct client *c)
{
	char message[40];

	snprintf(message, sizeof message, "expected '$', got '%c'", *c->at);
	return protocol_error(c, message);
}

/*
 * The arguments that are left, "$3\r\nGET\r\n" each. The first line of one that has not come whole
 * is read again when there is more of it.
 */
static inline int parse_args(struct client *c)
{
	for (; c->args_left > 0; c->args_left--) {
		if (c->at == c->end)
			return 0;
		if (*c->at != '$')
			return not_a_bulk(c);
		struct count len =
			parse_count(c, "too big bulk count string", "invalid bulk length");
		if (!len.behind)
			return (int)len.n;
		if (len.n < 0 || len.n > BULK_BYTES_MAX)
			return protocol_error(c, "invalid bulk length");
		if (c->end - len.behind < len.n + 2)
			return 0;
		if (push_arg(c, len.behind, (size_t)len.n) < 0)
			return c->err;
		c->at = len.behind + len.n + 2; /* CR LF is not looked at, as in Redis */
	}
	return 1;
}

/* "*2\r\n", or all of an inline command. */
static inline int parse_head(struct client *c)
{
	if (c->at == c->end)
		return 0;
	if (*c->at != '*')
		return parse_inline(c);
	struct count args =
		parse_count(c, "too big mbulk count string", "invalid multibulk length");
	if (!args.behind)
		return (int)args.n;
	if (args.n > ARGS_MAX)
		return protocol_error(c, "invalid multibulk length");
	c->args_left = args.n > 0 ? args.n : 0;
	c->at = args.behind;
	return 1;
}

int parse_command(struct client *c)
{
	int got = c->args_left ? 1 : parse_head(c);

	return got > 0 ? parse_args(c) : got;
}
