#include "process.h"

#include <string.h>

/* P-135. Platform APIs below 0.15 know no execution environments. */
static bool is_eligible(const struct process *process, const struct choice *choice)
{
    if (process->exec_env.count == 0 || !api_has(choice->platform_api, PLATFORM_API_EXEC_ENV))
        return true;
    for (size_t i = 0; i < process->exec_env.count; i++) {
        const char *exec_env = process->exec_env.items[i];

        if (strcmp(exec_env, "*") == 0 || strcmp(exec_env, choice->exec_env) == 0)
            return true;
    }
    return false;
}

/* The first eligible process of the type. *known tells whether there is any of it, eligible or not (P-133: a
 * name that is no process type at all starts what the user gave). */
static const struct process *find(const struct metadata *metadata, const struct choice *choice, bool *known)
{
    *known = false;
    for (size_t i = 0; i < metadata->process_count; i++) {
        const struct process *process = &metadata->processes[i];

        /* An empty type is none: the reference takes it for "no default process". */
        if (*choice->type == '\0' || strcmp(process->type, choice->type) != 0)
            continue;
        *known = true;
        if (is_eligible(process, choice))
            return process;
    }
    return NULL;
}

static struct strings rest(const struct strings *list, size_t from)
{
    return (struct strings){list->items + from, list->count - from, 0};
}

/* P-139 */
static int user_process(struct arena *arena, const struct strings *args, struct process *process,
                        struct error *err)
{
    size_t command = 0;

    if (args->count == 0)
        return fail(
            err, EXIT_LAUNCH,
            "determine start command: when there is no default process a command is required. Give the "
            "container a command, or a process type of the image as its entry point.");
    *process = (struct process){.type = "", .buildpack_id = "", .working_dir = ""};
    if (args->count > 1 && strcmp(args->items[0], "--") == 0) {
        process->direct = true;
        command = 1;
    }
    strings_add(arena, &process->command, args->items[command]);
    process->args = rest(args, command + 1);
    return 0;
}

/* P-137, P-138: the user's arguments and those of the process. */
static int complete_args(struct arena *arena, const struct metadata *metadata, const struct choice *choice,
                         struct process *process, struct error *err)
{
    const struct buildpack *buildpack;
    struct strings args = {0};

    if (!api_has(choice->platform_api, PLATFORM_API_COMMAND_LIST)) {
        strings_add_all(arena, &args, &process->args);
        strings_add_all(arena, &args, &choice->args);
    } else if (process->command.count > 1) {
        /* Only buildpacks that know default arguments have such commands. */
        const struct strings always = rest(&process->command, 1);

        strings_add_all(arena, &args, &always);
        strings_add_all(arena, &args, choice->args.count > 0 ? &choice->args : &process->args);
        process->command.count = 1;
    } else if (choice->args.count == 0) {
        return 0;
    } else {
        buildpack = metadata_buildpack(metadata, process->buildpack_id);
        if (buildpack == NULL)
            return fail(err, EXIT_LAUNCH,
                        "determine start command: failed to find buildpack for process %s with "
                        "buildpack ID %s. Build the image anew.",
                        process->type, process->buildpack_id);
        if (!api_has(buildpack->api, BUILDPACK_API_DEFAULT_ARGS))
            strings_add_all(arena, &args, &process->args);
        strings_add_all(arena, &args, &choice->args);
    }
    process->args = args;
    return 0;
}

int process_choose(struct arena *arena, const struct metadata *metadata, const struct choice *choice,
                   struct process *process, struct error *err)
{
    bool known;
    const struct process *found = find(metadata, choice, &known);

    if (!known)
        return user_process(arena, &choice->args, process, err);
    if (found == NULL)
        return fail(
            err, EXIT_LAUNCH,
            "determine start command: process type %s was not found for the execution environment '%s'. Set "
            "CNB_EXEC_ENV to one that it is for, or start another process.",
            choice->type, choice->exec_env);
    *process = *found;
    if (process->command.count == 0)
        return fail(
            err, EXIT_LAUNCH,
            "determine start command: process type %s has no command. Build the image with a buildpack that "
            "gives it one.",
            process->type);
    return complete_args(arena, metadata, choice, process, err);
}
