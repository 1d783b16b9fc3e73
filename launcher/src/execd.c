#include "execd.h"

#include "file.h"
#include "layers.h"
#include "toml.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { OUTPUT_FD = 3 };

/* The specification wants bare keys that are names of variables; the reference takes any, and so does this.
 */
int execd_apply(struct env *env, struct text output, struct error *err)
{
    struct toml *root;

    if (toml_read(env->arena, output, &root, err) < 0)
        return -1;
    for (const struct toml *value = root->first; value != NULL; value = value->next) {
        if (value->type != TOML_STRING)
            return fail(err, EXIT_LAUNCH, "'%s' is of type %s, not string. Correct the program.",
                        value->key.data, toml_type_name(value->type));
        if (env_set(env, value->key, value->text, err) < 0)
            return -1;
    }
    return 0;
}

/* Starts the program with the writing end of the pipe as descriptor 3; its input is empty, as under the
 * reference. */
static int start(const char *path, const struct env *env, int output, pid_t *child, struct error *err)
{
    posix_spawn_file_actions_t actions;
    char *const argv[] = {(char *)path, NULL};
    int reason = posix_spawn_file_actions_init(&actions);

    if (reason == 0)
        reason = posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
    if (reason == 0)
        reason = posix_spawn_file_actions_adddup2(&actions, output, OUTPUT_FD);
    if (reason == 0)
        reason = posix_spawn(child, path, &actions, NULL, argv, env_list(env));
    posix_spawn_file_actions_destroy(&actions);
    return reason == 0 ? 0
                       : fail(err, EXIT_LAUNCH, "start it: %s. Is it an executable file?", strerror(reason));
}

static int await(pid_t child, struct error *err)
{
    int status;

    while (waitpid(child, &status, 0) < 0)
        if (errno != EINTR)
            return fail(err, EXIT_LAUNCH, "wait for it: %s", strerror(errno));
    if (WIFSIGNALED(status))
        return fail(err, EXIT_LAUNCH, "it was ended by signal %lu. See its output above.",
                    (unsigned long)WTERMSIG(status));
    if (WEXITSTATUS(status) != 0)
        return fail(err, EXIT_LAUNCH, "it ended with exit status %lu. See its output above.",
                    (unsigned long)WEXITSTATUS(status));
    return 0;
}

/* Runs the program and reads its output until nobody holds the pipe any more. That it failed says more than
 * that its output cannot be read. */
static int run(struct launch *launch, const char *path, struct text *output, struct error *err)
{
    int ends[2], read_result;
    pid_t child;
    struct error read_error;

    if (pipe2(ends, O_CLOEXEC) < 0)
        return fail(err, EXIT_LAUNCH, "make a pipe: %s", strerror(errno));
    if (start(path, &launch->env, ends[1], &child, err) < 0) {
        close(ends[0]);
        close(ends[1]);
        return -1;
    }
    close(ends[1]);
    read_result = read_all(launch->arena, ends[0], "its output", output, &read_error);
    close(ends[0]); /* one that writes too much is ended by SIGPIPE */
    if (await(child, err) < 0)
        return -1;
    if (read_result < 0)
        *err = read_error;
    return read_result;
}

static int run_and_apply(struct launch *launch, const char *path, struct error *err)
{
    struct text output;

    if (run(launch, path, &output, err) < 0 || execd_apply(&launch->env, output, err) < 0) {
        fail_within(err, path);
        return fail_within(err, "exec.d");
    }
    return 0;
}

static int run_layer(struct launch *launch, const char *layer, struct error *err)
{
    return layers_files(launch, layer, "exec.d", run_and_apply, err);
}

int execd_run(struct launch *launch, struct error *err)
{
    /* Where SIGCHLD is ignored, waitpid cannot tell how a program ended. */
    signal(SIGCHLD, SIG_DFL);
    return layers_each(launch, run_layer, err);
}
