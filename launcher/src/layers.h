/* Walks over the layers of an image, and over the files in them. Order: buildpacks as in the group, layers
 * and files by the bytes of their names. */
#ifndef LAYERS_H
#define LAYERS_H

#include "launch.h"

/* What is done with a layer's directory, or with a file. */
typedef int action(struct launch *launch, const char *path, struct error *err);

/* Each layer of one buildpack: the directories, not links to one. A buildpack without a directory has no
 * layers. */
int layers_of_buildpack(struct launch *launch, const struct buildpack *buildpack, action *act,
                        struct error *err);

int layers_each(struct launch *launch, action *act, struct error *err);

/* The files in <layer>/<kind>/, then those in <layer>/<kind>/<process type>/. What is not a directory counts
 * as file. */
int layers_files(struct launch *launch, const char *layer, const char *kind, action *act, struct error *err);

#endif
