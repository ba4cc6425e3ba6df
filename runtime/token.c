/* SPDX-License-Identifier: MIT */
/*
 * token.c: cancellation from outside: many scopes, one word, any thread.
 *
 * A token lists the scopes that are bound to it; cancelling it has each of them cancelled by its
 * own worker. The hard idea is who may outlive whom. Neither list nor message needs memory: both
 * lie in the scope. So a scope leaves the list under the token's lock before it is closed, and when
 * by then its message has been posted, it waits until that has been handled (scope.c). The
 * canceller's last access to the token is the store that unlocks it.
 */
#include "runtime/task.h"

/* Lies in struct weir_token; all zero is a new one. */
struct weir__token {
	_Atomic uint8_t locked;
	_Atomic uint8_t cancelled; /* set once, under the lock */
	struct weir__scope *scopes;
};
_Static_assert(sizeof(struct weir__token) <= sizeof(struct weir_token), "fits the public struct");

static struct weir__token *token_of(struct weir_token *token)
{
	return (struct weir__token *)(void *)token;
}

/* Never held across a park: for a few instructions, or while the scopes are told. */
static void lock(struct weir__token *token)
{
	for (unsigned spins = 0; atomic_exchange_explicit(&token->locked, 1, memory_order_acquire);)
		if (++spins % 64 == 0)
			weir__relax();
}

static void unlock(struct weir__token *token)
{
	atomic_store_explicit(&token->locked, 0, memory_order_release);
}

static void insert(struct weir__token *token, struct weir__scope *scope)
{
	scope->token = token;
	scope->bound_next = token->scopes;
	scope->bound_pprev = &token->scopes;
	if (scope->bound_next)
		scope->bound_next->bound_pprev = &scope->bound_next;
	token->scopes = scope;
}

void weir__token_unbind(struct weir__scope *scope)
{
	struct weir__token *token = scope->token;

	lock(token);
	*scope->bound_pprev = scope->bound_next;
	if (scope->bound_next)
		scope->bound_next->bound_pprev = scope->bound_pprev;
	unlock(token);
	scope->is_bound = 0;
}

void weir_token_init(struct weir_token *token)
{
	*token = (struct weir_token)WEIR_TOKEN_INIT;
}

bool weir_token_is_cancelled(const struct weir_token *token)
{
	const struct weir__token *known = (const void *)token;

	/* pairs with the release in weir_token_cancel() */
	return atomic_load_explicit(&known->cancelled, memory_order_acquire) != 0;
}

void weir_token_cancel(struct weir_token *public_token)
{
	struct weir__token *token = token_of(public_token);
	struct weir__worker *self = weir__worker_self();

	lock(token);
	if (!atomic_load_explicit(&token->cancelled, memory_order_relaxed)) {
		atomic_store_explicit(&token->cancelled, 1, memory_order_release);
		for (struct weir__scope *scope = token->scopes; scope; scope = scope->bound_next) {
			if (scope->task->worker == self)
				weir__scope_cancel(self, scope);
			else
				weir__scope_ask(scope);
		}
	}
	unlock(token);
}

int weir_scope_bind(struct weir_scope *public_scope, struct weir_token *public_token)
{
	struct weir__scope *scope = weir__scope_of(public_scope);
	struct weir__token *token = token_of(public_token);
	struct weir__worker *self = weir__worker_self();

	if (!self || !scope->task || scope->task != self->current)
		return -EINVAL;
	if (scope->is_bound)
		return -EBUSY;
	lock(token);
	bool is_cancelled = atomic_load_explicit(&token->cancelled, memory_order_relaxed);
	if (!is_cancelled)
		insert(token, scope);
	unlock(token);
	if (is_cancelled) {
		weir__scope_cancel(self, scope);
		return -ECANCELED;
	}
	scope->is_bound = 1;
	return 0;
}
