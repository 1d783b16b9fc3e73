/* What layers change in the environment: bin and lib directories, env/ files. */
#ifndef LAYER_ENV_H
#define LAYER_ENV_H

#include "launch.h"

/* Applies the layers of all buildpacks to launch->env (P-140). */
int layer_env_apply(struct launch *launch, struct error *err);

#endif
