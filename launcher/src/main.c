/* The launcher: the entry point of every application image, /cnb/lifecycle/launcher.
 *
 * It chooses the process to start, builds its environment from the buildpacks' layers, and replaces itself by the
 * process, in the order of platform.md, "launcher". It runs as the image's user, often as process 1, needs no
 * file but the metadata, and forks for exec.d programs only. */
#include "api.h"
#include "arena.h"
#include "direct.h"
#include "error.h"
#include "execd.h"
#include "launch.h"
#include "layer_env.h"
#include "metadata.h"
#include "path.h"
#include "process.h"
#include "shell.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

extern char **environ;

static const char *env_or(const char *name, const char *otherwise)
{
    const char *value = getenv(name);

    return value == NULL || *value == '\0' ? otherwise : value;
}

/* Platform APIs before 0.4 chose the process by this variable, and some users still set it. */
static void warn_of_process_type(struct arena *arena, const char *platform_api)
{
    const char *type = env_or("CNB_PROCESS_TYPE", "");

    if (*type == '\0')
        return;
    report("Warning: CNB_PROCESS_TYPE is not supported in Platform API ", platform_api);
    report("Warning: ", string_join(arena, "Run with ENTRYPOINT '", type, "' to invoke the '", type,
                                    "' process type", (char *)NULL));
}

static int choose_process(struct launch *launch, struct choice *choice, struct error *err)
{
    const char *platform_api = getenv("CNB_PLATFORM_API");

    if (platform_api_read(platform_api, &choice->platform_api, err) < 0 ||
        metadata_read(launch->arena, launch->layers_dir, &launch->metadata, err) < 0)
        return -1;
    warn_of_process_type(launch->arena, platform_api);
    if (process_choose(launch->arena, &launch->metadata, choice, &launch->process, err) < 0)
        return fail_within(err, "launch");
    return 0;
}

static int start_process(struct launch *launch, struct error *err)
{
    if (chdir(launch->app_dir) < 0)
        fail(err, EXIT_LAUNCH,
             "change to app directory '%s': %s. Set CNB_APP_DIR to where the application is.",
             launch->app_dir, strerror(errno));
    else if (layer_env_apply(launch, err) == 0 && execd_run(launch, err) == 0) {
        if (launch->process.direct)
            direct_exec(launch, err);
        else
            shell_exec(launch, err);
    }
    return fail_within(err, "launch");
}

int main(int argc, char **argv)
{
    struct arena arena = {0};
    struct error err;
    struct launch launch = {
        .arena = &arena,
        .self = argc > 0 ? argv[0] : "",
        .layers_dir = env_or("CNB_LAYERS_DIR", "/layers"),
        .app_dir = env_or("CNB_APP_DIR", "/workspace"),
    };
    struct choice choice = {
        .type = path_base(launch.self),
        .args = {(const char **)argv + 1, argc > 0 ? (size_t)argc - 1 : 0, 0},
        .exec_env = env_or("CNB_EXEC_ENV", "production"),
    };

    env_start(&arena, environ, &launch.env);
    if (choose_process(&launch, &choice, &err) == 0)
        start_process(&launch, &err);
    report("ERROR: failed to ", err.text);
    return (int)err.code;
}
