/* Shell processes: one bash sources the profile scripts and then runs the command in another. */
#ifndef SHELL_H
#define SHELL_H

#include "launch.h"

/* Does not return, unless it fails. */
int shell_exec(struct launch *launch, struct error *err);

#endif
