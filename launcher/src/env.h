/* The environment of the process, as it grows from the container's. */
#ifndef ENV_H
#define ENV_H

#include "arena.h"
#include "error.h"

struct env {
    struct arena *arena;
    struct variable *variables; /* in the order in which they were first set */
    size_t count;
    size_t room;
};

/* Starts from `environ`, without what is meant for the launcher alone (P-169, P-170). */
void env_start(struct arena *arena, char *const *environ, struct env *env);

/* The value of a variable; empty if it is not set. */
struct text env_get(const struct env *env, struct text name);

/* Fails if the name or the value has a zero byte, which no environment can hold. */
int env_set(struct env *env, struct text name, struct text value, struct error *err);

/* NAME=value for execve, closed by a null pointer. */
char *const *env_list(const struct env *env);

#endif
