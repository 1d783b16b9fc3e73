/* exec.d: programs in layers that add to the environment of the process. */
#ifndef EXECD_H
#define EXECD_H

#include "launch.h"

/* Runs the exec.d programs of all layers (P-141). What one gives is in the environment of the next. */
int execd_run(struct launch *launch, struct error *err);

/* Sets what a program wrote to descriptor 3: a TOML document of strings. */
int execd_apply(struct env *env, struct text output, struct error *err);

#endif
