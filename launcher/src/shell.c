#include "shell.h"

#include "layers.h"
#include "number.h"
#include "path.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char BASH[] = "/bin/bash";

static int add_profile(struct launch *launch, const char *path, struct error *err)
{
    (void)err;
    strings_add(launch->arena, &launch->profiles, path);
    return 0;
}

static int add_layer_profiles(struct launch *launch, const char *layer, struct error *err)
{
    return layers_files(launch, layer, "profile.d", add_profile, err);
}

/* P-142. Buildpack API 0.9 dropped profile.d, but the reference still sources it whatever the buildpack's API
 * is. */
static int find_profiles(struct launch *launch, struct error *err)
{
    const char *app_profile = path_join(launch->arena, launch->app_dir, ".profile");
    struct stat status;

    if (layers_each(launch, add_layer_profiles, err) < 0)
        return -1;
    if (stat(app_profile, &status) < 0)
        return errno == ENOENT
                   ? 0
                   : fail(err, EXIT_LAUNCH, "examine '%s': %s. The image's user must be able to reach it.",
                          app_profile, strerror(errno));
    /* By its name alone, as the shell starts in the application directory. */
    return S_ISDIR(status.st_mode) ? 0 : add_profile(launch, ".profile", err);
}

/* The end of the script: a second bash takes the process's place. Without arguments the command is a script
 * of its own. With arguments each word is evaluated by the shell, so that "$PORT" is replaced, but not split.
 */
static void add_command(struct arena *arena, struct strings *script, size_t arg_count)
{
    if (arg_count == 0) {
        strings_add(arena, script, "exec bash -c \"$@\"");
        return;
    }
    strings_add(arena, script, "exec bash -c '\"$(eval echo \\\"$0\\\")\"");
    for (size_t i = 1; i <= arg_count; i++) {
        char digits[NUMBER_ROOM];

        strings_add(
            arena, script,
            string_join(arena, " \"$(eval echo \\\"${", number_text(i, digits), "}\\\")\"", (char *)NULL));
    }
    strings_add(arena, script, "' \"${@:1}\"");
}

/* Paths stand unescaped between the quotes, as in the reference: a working-dir may hold variables. */
static const char *write_script(struct launch *launch)
{
    const struct process *process = &launch->process;
    const char *directory = *process->working_dir == '\0' ? launch->app_dir : process->working_dir;
    struct strings script = {0};

    for (size_t i = 0; i < launch->profiles.count; i++)
        strings_add(launch->arena, &script,
                    string_join(launch->arena, "source \"", launch->profiles.items[i], "\"\n", (char *)NULL));
    strings_add(launch->arena, &script, string_join(launch->arena, "cd \"", directory, "\"\n", (char *)NULL));
    add_command(launch->arena, &script, process->args.count);
    return strings_join(launch->arena, &script, "");
}

/* The words of a process cannot be evaluated without its buildpack: the reference asks for its API, which
 * once decided. */
static int check_buildpack(const struct launch *launch, struct error *err)
{
    const struct process *process = &launch->process;

    if (process->args.count == 0 || *process->buildpack_id == '\0' ||
        metadata_buildpack(&launch->metadata, process->buildpack_id) != NULL)
        return 0;
    return fail(err, EXIT_LAUNCH,
                "process type '%s' provided by unknown buildpack '%s'. Build the image anew.", process->type,
                process->buildpack_id);
}

int shell_exec(struct launch *launch, struct error *err)
{
    struct strings argv = {0};

    if (find_profiles(launch, err) < 0)
        return fail_within(err, "find profiles");
    if (check_buildpack(launch, err) < 0)
        return -1;
    strings_add(launch->arena, &argv, "bash");
    strings_add(launch->arena, &argv, "-c");
    strings_add(launch->arena, &argv, write_script(launch));
    strings_add(launch->arena, &argv, launch->self); /* $0 of the profile scripts */
    strings_add(launch->arena, &argv, strings_join(launch->arena, &launch->process.command, " "));
    strings_add_all(launch->arena, &argv, &launch->process.args);
    execve(BASH, (char *const *)argv.items, env_list(&launch->env));
    if (errno == ENOENT)
        return fail(err, EXIT_LAUNCH,
                    "bash exec: this process needs a shell, and the image has no %s. Start a program without "
                    "one: put '--' in front of the command, or use a run image with bash.",
                    BASH);
    if (errno == E2BIG)
        return fail(err, EXIT_LAUNCH, "bash exec: arguments and environment are too long. Shorten them.");
    return fail(err, EXIT_LAUNCH, "bash exec: '%s': %s. The image needs one that can be executed.", BASH,
                strerror(errno));
}
