/* The process of launch clauses: tells what it was started with, in images that have no other program.
 *
 * As a process it prints zero-terminated fields: `pid=`, `cwd=`, `arg=` for each argument from argv[0] on, and
 * `env=` for each variable; the status is that of the variable STATUS. Where descriptor 3 is open it is an exec.d
 * program: it sets what /execd/<its name> says there, adds its name to ORDER, and ends with EXECD_STATUS. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

extern char **environ;

static const char *variable(const char *name)
{
    const char *value = getenv(name);

    return value == NULL ? "" : value;
}

static int be_execd(const char *self)
{
    const char *slash = strrchr(self, '/');
    const char *name = slash == NULL ? self : slash + 1;
    char path[256], content[4096];
    size_t size = 0;
    FILE *file;

    snprintf(path, sizeof path, "/execd/%s", name);
    if ((file = fopen(path, "r")) != NULL)
        size = fread(content, 1, sizeof content, file);
    dprintf(3, "ORDER = \"%s%s,\"\n%.*s", variable("ORDER"), name, (int)size, content);
    return atoi(variable("EXECD_STATUS"));
}

int main(int argc, char **argv)
{
    char cwd[4096] = "";

    if (fcntl(3, F_GETFD) >= 0)
        return be_execd(argv[0]);
    printf("pid=%ld%c", (long)getpid(), 0);
    printf("cwd=%s%c", getcwd(cwd, sizeof cwd), 0);
    for (int i = 0; i < argc; i++)
        printf("arg=%s%c", argv[i], 0);
    for (char **entry = environ; *entry != NULL; entry++)
        printf("env=%s%c", *entry, 0);
    return atoi(variable("STATUS"));
}
