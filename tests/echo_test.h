/* SPDX-License-Identifier: MIT */
/*
 * echo_test.h: the handler that sends back what comes.
 */
#ifndef WEIR_ECHO_TEST_H
#define WEIR_ECHO_TEST_H

#include <weir/weir.h>

static inline int echo(weir_conn *conn)
{
	weir_auto_buf buf = WEIR_BUF_INIT;
	ssize_t n;

	while ((n = weir_recv(conn, &buf)) > 0)
		if ((n = weir_send(conn, &buf)) < 0)
			break;
	return (int)n;
}

#endif
