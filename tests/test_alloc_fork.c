/* SPDX-License-Identifier: MIT */
/* A child of a process with several threads: what it has inherited, and what is none of its. */
#include <check.h>
#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "alloc/heap.h"

static void attach(void)
{
	ck_assert_int_eq(weir__heap_attach(), 0);
}

/* A child that hangs ends by a signal. */
static void expect_end(pid_t child)
{
	int status;
	ck_assert_int_eq(waitpid(child, &status, 0), child);
	ck_assert_msg(WIFEXITED(status) && WEXITSTATUS(status) == 0, "status %x", (unsigned)status);
}

static void wait_for(sem_t *sem)
{
	while (sem_wait(sem) != 0)
		;
}

/* ---- Inside a reclaimer --------------------------------------------------------------------- */

static size_t fork_in_a_reclaimer(const struct weir_reclaim_request *request, void *child)
{
	(void)request;
	*(pid_t *)child = fork();
	if (*(pid_t *)child == 0)
		alarm(10);
	return 0;
}

START_TEST(a_reclaimer_may_fork)
{
	weir_reclaimer *reclaimer, *other;
	pid_t child = -1;
	attach();
	ck_assert_int_eq(weir_reclaimer_add(&reclaimer, .fn = fork_in_a_reclaimer, .arg = &child),
			 0);
	(void)weir_mem_compact(SIZE_MAX, WEIR_MEM_HIGH);
	if (child == 0) { /* its copy of the reclaimer has returned as well */
		weir_reclaimer_del(reclaimer);
		if (weir_reclaimer_add(&other, .fn = fork_in_a_reclaimer) != 0)
			_exit(1);
		weir_reclaimer_del(other);
		weir_free(weir_alloc(100));
		(void)weir_mem_compact(SIZE_MAX, WEIR_MEM_CRITICAL);
		_exit(0);
	}
	ck_assert_int_gt(child, 0);
	expect_end(child);
	weir_reclaimer_del(reclaimer);
}
END_TEST

/* ---- While another thread looks at the pressure --------------------------------------------- */

static void *look_once(void *unused)
{
	(void)unused;
	attach();
	weir__heap_turn(weir__os_now());
	weir__heap_detach();
	return NULL;
}

/* The thread that was looking is not there: somebody else has to. */
static int look_in_the_child(void)
{
	struct weir__alloc_config config;
	snprintf(weir__stall_path, sizeof(weir__stall_path), "/dev/null");
	weir_mem_level_force(WEIR_MEM_HIGH);
	if (weir_mem_level_get() != WEIR_MEM_HIGH)
		return 1;
	weir_mem_level_force(-1);
	weir__alloc_config_get(&config);
	config.mem_limit = weir__committed();
	if (weir__alloc_configure(&config) != 0)
		return 2;
	weir__heap_turn(weir__os_now() + 5000 * WEIR__MS);
	return weir_mem_level_get() == WEIR_MEM_CRITICAL ? 0 : 3;
}

START_TEST(a_look_that_was_under_way_does_not_go_on_for_ever_in_a_child)
{
	char directory[] = "/tmp/weir_fork_XXXXXX";
	pthread_t looker;
	ck_assert_ptr_nonnull(mkdtemp(directory));
	snprintf(weir__stall_path, sizeof(weir__stall_path), "%s/stalls", directory);
	ck_assert_int_eq(mkfifo(weir__stall_path, 0600), 0);
	attach();
	void *keeps_a_span = weir_alloc(100);
	ck_assert_int_eq(pthread_create(&looker, NULL, look_once, NULL), 0);
	int fd = open(weir__stall_path, O_WRONLY | O_CLOEXEC); /* when it has opened it, too */
	ck_assert_int_ge(fd, 0);
	pid_t child = fork();
	if (child == 0) {
		alarm(10);
		_exit(look_in_the_child());
	}
	expect_end(child);
	close(fd);
	pthread_join(looker, NULL);
	weir_free(keeps_a_span);
	unlink(weir__stall_path);
	rmdir(directory);
}
END_TEST

/* ---- Heaps of the other threads ------------------------------------------------------------- */

static _Atomic unsigned wakes;
static sem_t is_there, may_go;
static void *of_another[8];

static void count_wake(void *unused)
{
	(void)unused;
	wakes++;
}

static void *wait_for_news(void *unused)
{
	(void)unused;
	attach();
	weir__heap_on_news(count_wake, NULL);
	for (int i = 0; i < 8; i++)
		of_another[i] = weir_alloc(64 << 10);
	sem_post(&is_there);
	wait_for(&may_go);
	weir__heap_detach();
	return NULL;
}

/* What wakes them is a descriptor of the parent's, or by then a file of the child's. */
START_TEST(a_child_wakes_no_thread_of_its_parent)
{
	pthread_t thread;
	sem_init(&is_there, 0, 0);
	sem_init(&may_go, 0, 0);
	attach();
	ck_assert_int_eq(pthread_create(&thread, NULL, wait_for_news, NULL), 0);
	wait_for(&is_there);
	pid_t child = fork();
	if (child == 0) {
		alarm(10);
		for (int i = 0; i < 8; i++)
			weir_free(of_another[i]);
		(void)weir_mem_compact(SIZE_MAX, WEIR_MEM_HIGH);
		weir_mem_level_force(WEIR_MEM_CRITICAL);
		_exit(wakes == 0 ? 0 : 1);
	}
	expect_end(child);
	ck_assert_uint_eq(wakes, 0);
	(void)weir_mem_compact(SIZE_MAX, WEIR_MEM_HIGH);
	ck_assert_uint_eq(wakes, 1); /* while the parent does */
	sem_post(&may_go);
	pthread_join(thread, NULL);
	for (int i = 0; i < 8; i++)
		weir_free(of_another[i]);
}
END_TEST

Suite *alloc_fork_suite(void)
{
	Suite *s = suite_create("alloc_fork");
	TCase *children = tcase_create("children");
	tcase_set_timeout(children, 20);
	tcase_add_test(children, a_reclaimer_may_fork);
	if (!WEIR__TSAN) /* which does not like threads in such a child */
		tcase_add_test(children,
			       a_look_that_was_under_way_does_not_go_on_for_ever_in_a_child);
	tcase_add_test(children, a_child_wakes_no_thread_of_its_parent);
	suite_add_tcase(s, children);
	return s;
}
