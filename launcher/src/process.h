/* Which process is started, with which arguments. */
#ifndef PROCESS_H
#define PROCESS_H

#include "metadata.h"

/* What decides on the process. */
struct choice {
    const char *type;    /* base name of the launcher's own name */
    struct strings args; /* the container's arguments */
    struct api platform_api;
    const char *exec_env;
};

/* Chooses among the processes of the metadata and completes the arguments (P-133 to P-139). */
int process_choose(struct arena *arena, const struct metadata *metadata, const struct choice *choice,
                   struct process *process, struct error *err);

#endif
