/* The exec.d program of the Node.js buildpack: adds to NODE_OPTIONS what depends on where an image runs.
 *
 *     node-options [ROOT]
 *
 * The launcher runs it before the application and sets the variables that it writes to descriptor 3, as TOML
 * (buildpack.md, "Exec.d"). ROOT is put before the paths of the kernel's files, for tests.
 *
 *     BPL_NODE_OPTIMIZE_MEMORY  the heap's limit from the container's memory limit, unless it is false
 *     BPL_NODE_SOURCE_MAPS      --enable-source-maps, if true
 *     BPL_DEBUG_ENABLED         --inspect, if true: at BPL_DEBUG_HOST, or 127.0.0.1, and BPL_DEBUG_PORT, or 9229
 *
 * The options that the user has in NODE_OPTIONS stay and take precedence. MEMORY_AVAILABLE has the limit in MiB. */
#include "cgroup.h"
#include "memory.h"
#include "options.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

enum { OUTPUT = 3, LAST_PORT = 65535 };

static _Noreturn void refuse(const char *name, const char *said, const char *advice)
{
    struct iovec parts[] = {
        {.iov_base = (void *)"error: ", .iov_len = 7},
        {.iov_base = (void *)name, .iov_len = strlen(name)},
        {.iov_base = (void *)said, .iov_len = strlen(said)},
        {.iov_base = (void *)advice, .iov_len = strlen(advice)},
        {.iov_base = (void *)"\n", .iov_len = 1},
    };

    if (writev(STDERR_FILENO, parts, 5) < 0)
        _exit(2);
    _exit(1);
}

static const char *variable(const char *name)
{
    const char *value = getenv(name);

    return value == NULL ? "" : value;
}

/* The value of a switch; `otherwise` if it is not set or empty. */
static bool is_on(const char *name, bool otherwise)
{
    const char *value = variable(name);

    if (*value == '\0')
        return otherwise;
    if (strcmp(value, "true") == 0 || strcmp(value, "1") == 0)
        return true;
    if (strcmp(value, "false") != 0 && strcmp(value, "0") != 0)
        refuse(name, " is neither true nor false", ". Set it to one of the two.");
    return false;
}

static void add_inspector(struct line *options)
{
    struct line option = {.size = 0};
    const char *host = variable("BPL_DEBUG_HOST"), *port = variable("BPL_DEBUG_PORT");
    unsigned long number = 0;

    for (const char *at = port; *at != '\0'; at++) {
        if (!isdigit((unsigned char)*at) || number > LAST_PORT)
            refuse("BPL_DEBUG_PORT", " is not a port", ". Set it to a number from 1 to 65535.");
        number = number * 10 + (unsigned long)(*at - '0');
    }
    if (*port != '\0' && (number == 0 || number > LAST_PORT))
        refuse("BPL_DEBUG_PORT", " is not a port", ". Set it to a number from 1 to 65535.");
    for (const char *at = host; *at != '\0'; at++)
        if (!isalnum((unsigned char)*at) && strchr(".:[]-_", *at) == NULL)
            refuse("BPL_DEBUG_HOST", " is not an address", ". Set it to one, as 0.0.0.0.");
    line_add(&option, "--inspect=");
    line_add(&option, *host == '\0' ? "127.0.0.1" : host);
    line_add(&option, ":");
    line_add(&option, *port == '\0' ? "9229" : port);
    options_add(options, option.text);
}

static void add_heap(struct line *options, uint64_t limit)
{
    struct line option = {.size = 0};

    line_add(&option, "--max-old-space-size=");
    line_add_number(&option, heap_size(limit));
    options_add(options, option.text);
}

static void write_out(const struct line *line)
{
    size_t done = 0;

    while (done < line->size) {
        ssize_t written = write(OUTPUT, line->text + done, line->size - done);

        if (written < 0 && errno != EINTR)
            refuse("descriptor 3", " cannot be written to", ": this program is for the launcher, as exec.d.");
        done += written < 0 ? 0 : (size_t)written;
    }
}

int main(int argc, char **argv)
{
    static struct line options, output;
    const char *own = variable("NODE_OPTIONS");
    uint64_t limit = memory_limit(argc > 1 ? argv[1] : "");

    line_add(&options, own);
    if (is_on("BPL_NODE_OPTIMIZE_MEMORY", true) && limit != UNLIMITED && !options_limit_heap(own))
        add_heap(&options, limit);
    if (is_on("BPL_NODE_SOURCE_MAPS", false))
        options_add(&options, "--enable-source-maps");
    if (is_on("BPL_DEBUG_ENABLED", false) && !options_inspect(own))
        add_inspector(&options);

    if (limit != UNLIMITED && *variable("MEMORY_AVAILABLE") == '\0') {
        struct line available = {.size = 0};

        line_add_number(&available, limit >> 20);
        toml_write(&output, "MEMORY_AVAILABLE", available.text);
    }
    if (strcmp(options.text, own) != 0)
        toml_write(&output, "NODE_OPTIONS", options.text);
    if (options.overflow || output.overflow)
        refuse("NODE_OPTIONS", " is too long", ". Make it shorter.");
    write_out(&output);
    return 0;
}
