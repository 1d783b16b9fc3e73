/* How much memory this process may use. */
#ifndef MEMORY_H
#define MEMORY_H

#include <stdint.h>

/* The least limit of this process's control group and of those above it, in bytes, and no more than the machine
 * has; UNLIMITED without one, or where the files cannot be read. They are looked for below `root`, which is empty but in tests. */
uint64_t memory_limit(const char *root);

#endif
