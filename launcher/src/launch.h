/* The state of one launch, which its steps share. */
#ifndef LAUNCH_H
#define LAUNCH_H

#include "arena.h"
#include "env.h"
#include "metadata.h"

struct launch {
    struct arena *arena;
    const char *self; /* argv[0] of the launcher */
    const char *layers_dir;
    const char *app_dir;
    struct metadata metadata;
    struct process process;
    struct env env;
    struct strings profiles; /* scripts that a shell process sources first */
};

#endif
