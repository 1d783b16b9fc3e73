/* File paths as strings. Nothing here touches the file system. */
#ifndef PATH_H
#define PATH_H

#include "arena.h"

/* The shortest equal path by text alone: no empty, "." or inner ".." elements; "." for the empty path.
 * The reference cleans every path it makes, and layer paths are seen by the application in PATH. */
const char *path_clean(struct arena *arena, const char *path);

/* directory/name, cleaned. */
const char *path_join(struct arena *arena, const char *directory, const char *name);

/* The part behind the last slash; points into path. */
const char *path_base(const char *path);

#endif
