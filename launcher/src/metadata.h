/* <layers>/config/metadata.toml: what the builder left for the launcher (buildpacks and processes; the rest
 * is not read). */
#ifndef METADATA_H
#define METADATA_H

#include "api.h"
#include "arena.h"
#include "error.h"

#include <stdbool.h>

struct buildpack {
    const char *id;
    struct api api;
};

struct process {
    const char *type;       /* "" for a process that the user gave */
    struct strings command; /* elements behind the first are arguments that are always passed */
    struct strings args;
    bool direct;              /* false: through the shell */
    const char *buildpack_id; /* "" when no buildpack contributed it */
    const char *working_dir;  /* "": the application directory */
    struct strings exec_env;  /* empty: every execution environment */
};

struct metadata {
    struct buildpack *buildpacks; /* in the order of the group */
    size_t buildpack_count;
    struct process *processes;
    size_t process_count;
};

/* Reads and checks the file. Unknown buildpack APIs fail with exit code 12; all else with 82. */
int metadata_read(struct arena *arena, const char *layers_dir, struct metadata *metadata, struct error *err);

/* The API of a buildpack by its id; null when the metadata has no such buildpack. */
const struct buildpack *metadata_buildpack(const struct metadata *metadata, const char *id);

#endif
