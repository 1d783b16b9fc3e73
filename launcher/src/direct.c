#include "direct.h"

#include "path.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* 0, or the reason why the file cannot be executed. */
static int reason_against(const char *path)
{
    struct stat status;

    if (stat(path, &status) < 0)
        return errno;
    if (S_ISDIR(status.st_mode))
        return EISDIR;
    return access(path, X_OK) < 0 ? errno : 0;
}

/* The elements of a PATH; none if it is empty. */
static struct strings split(struct arena *arena, const char *path)
{
    struct strings elements = {0};

    while (*path != '\0' || elements.count > 0) {
        size_t size = strcspn(path, ":");

        strings_add(arena, &elements, text_copy(arena, path, size).data);
        path += size;
        if (*path++ == '\0')
            break;
    }
    return elements;
}

/* Finds the program of a command without a slash in the PATH of the new environment. As in the reference, an
 * element that is not absolute (the empty one is the working directory) ends the search if it has the
 * program: what is started would otherwise depend on where. */
static int search(const struct launch *launch, const char *command, const char **program, struct error *err)
{
    const char *path = env_get(&launch->env, text_of("PATH")).data;
    struct strings elements = split(launch->arena, path);

    for (size_t i = 0; i < elements.count; i++) {
        *program = path_join(launch->arena, elements.items[i], command);
        if (reason_against(*program) != 0)
            continue;
        if (**program == '/')
            return 0;
        return fail(
            err, EXIT_LAUNCH,
            "path lookup: '%s': cannot run executable found relative to current directory. Use './%s', or an "
            "absolute directory in PATH.",
            command, command);
    }
    return fail(err, EXIT_LAUNCH,
                "path lookup: '%s': executable file not found in $PATH (%s). Correct the command, or use one "
                "that the image has.",
                command, path);
}

static int find_program(const struct launch *launch, const char *command, const char **program,
                        struct error *err)
{
    int reason;

    if (strchr(command, '/') == NULL)
        return search(launch, command, program, err);
    *program = command;
    reason = reason_against(command);
    if (reason == 0)
        return 0;
    return fail(err, EXIT_LAUNCH,
                "path lookup: '%s': %s (in '%s'). Correct the command, or make the file executable.", command,
                strerror(reason), launch->app_dir);
}

int direct_exec(const struct launch *launch, struct error *err)
{
    const struct process *process = &launch->process;
    const char *directory = *process->working_dir == '\0' ? launch->app_dir : process->working_dir;
    const char *program;
    struct strings argv = {0};

    /* A relative command is looked for in the application directory but run in the working directory, as the
     * reference does; where they differ, both need to have it. */
    if (find_program(launch, process->command.items[0], &program, err) < 0)
        return -1;
    if (chdir(directory) < 0)
        return fail(err, EXIT_LAUNCH,
                    "change to working directory '%s': %s. Correct working-dir of the process.", directory,
                    strerror(errno));
    strings_add_all(launch->arena, &argv, &process->command);
    strings_add_all(launch->arena, &argv, &process->args);
    execve(program, (char *const *)argv.items, env_list(&launch->env));
    if (errno == E2BIG)
        return fail(err, EXIT_LAUNCH,
                    "direct exec: '%s': arguments and environment are too long. Shorten them.", program);
    return fail(err, EXIT_LAUNCH,
                "direct exec: '%s': %s. Is it a program for this machine, and its interpreter there?",
                program, strerror(errno));
}
