/* open(2) that takes a third of a second for paths whose end is $SLOW_FILE. For LD_PRELOAD. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef int opener(const char *path, int flags, ...);

static int is_slow(const char *path)
{
	const char *end = getenv("SLOW_FILE");
	size_t length = strlen(path), least = end ? strlen(end) : 0;
	return least && length >= least && !strcmp(path + length - least, end);
}

static int open_late(const char *name, const char *path, int flags, mode_t mode)
{
	opener *next = (opener *)dlsym(RTLD_NEXT, name);
	if (is_slow(path))
		usleep(300000);
	return next(path, flags, mode);
}

#define OPEN(name)                                                                                 \
	int name(const char *path, int flags, ...)                                                 \
	{                                                                                          \
		va_list given;                                                                     \
		va_start(given, flags);                                                            \
		mode_t mode = va_arg(given, mode_t);                                               \
		va_end(given);                                                                     \
		return open_late(#name, path, flags, mode);                                        \
	}

OPEN(open)
OPEN(open64)
