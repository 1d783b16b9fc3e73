/* Direct processes: the command itself replaces the launcher. */
#ifndef DIRECT_H
#define DIRECT_H

#include "launch.h"

/* Does not return, unless it fails. */
int direct_exec(const struct launch *launch, struct error *err);

#endif
