#include "layer_env.h"

#include "file.h"
#include "layers.h"
#include "path.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* The directories of a layer that are put in front of a variable (B-105). */
static const struct {
    const char *directory;
    const char *variable;
} ROOTS[] = {{"bin", "PATH"}, {"lib", "LD_LIBRARY_PATH"}};

/* front + delimiter + back; where the variable had no value there is nothing to delimit. */
static struct text concatenate(struct arena *arena, struct text front, struct text delimiter,
                               struct text back, bool had_value)
{
    struct text pieces[] = {front, had_value ? delimiter : text_of(""), back};

    return text_join(arena, pieces, 3);
}

/* Relative directories (CNB_LAYERS_DIR may be) are below the application directory, where the launcher now
 * is. */
static int make_absolute(struct arena *arena, const char *path, const char **absolute, struct error *err)
{
    char here[4096];

    *absolute = path;
    if (*path == '/')
        return 0;
    if (getcwd(here, sizeof here) == NULL)
        return fail(err, EXIT_LAUNCH, "find the working directory: %s", strerror(errno));
    *absolute = path_join(arena, here, path);
    return 0;
}

/* Layer by layer in front of what there is, so that a later layer comes first. The specification wants the
 * layers of one buildpack in ascending order; the reference does this. */
static int add_roots(struct launch *launch, const char *layer, struct error *err)
{
    if (make_absolute(launch->arena, layer, &layer, err) < 0)
        return -1;
    for (size_t i = 0; i < sizeof ROOTS / sizeof *ROOTS; i++) {
        const char *directory = path_join(launch->arena, layer, ROOTS[i].directory);
        struct text name = text_of(ROOTS[i].variable), old = env_get(&launch->env, name);
        struct stat status;

        if (stat(directory, &status) < 0) {
            if (errno == ENOENT)
                continue;
            return fail(err, EXIT_LAUNCH, "examine '%s': %s. The image's user must be able to reach it.",
                        directory, strerror(errno));
        }
        if (env_set(&launch->env, name,
                    concatenate(launch->arena, text_of(directory), text_of(":"), old, old.size > 0), err) < 0)
            return -1;
    }
    return 0;
}

/* <name>.delim of the same directory. The specification has it rule the whole layer, the reference the
 * directory. One that cannot be read is none. */
static struct text delimiter(struct launch *launch, const char *directory, struct text name)
{
    const char *file = string_join(launch->arena, name.data, ".delim", (char *)NULL);
    struct text content;
    struct error ignored;

    if (file_read(launch->arena, path_join(launch->arena, directory, file), &content, &ignored) < 0)
        return text_of("");
    return content;
}

/* Does what one file in an env directory says (B-118 to B-126). Contents are taken byte for byte. */
static int apply_file(struct launch *launch, const char *directory, const char *file, struct text content,
                      struct error *err)
{
    size_t length = strcspn(file, ".");
    struct text name = text_copy(launch->arena, file, length), old = env_get(&launch->env, name);
    const char *suffix = file[length] == '.' ? file + length + 1 : "override";

    if (strcmp(suffix, "prepend") == 0)
        content = concatenate(launch->arena, content, delimiter(launch, directory, name), old, old.size > 0);
    else if (strcmp(suffix, "append") == 0)
        content = concatenate(launch->arena, old, delimiter(launch, directory, name), content, old.size > 0);
    else if (strcmp(suffix, "override") != 0 && (strcmp(suffix, "default") != 0 || old.size > 0))
        return 0; /* .delim, a suffix that means nothing, or a default that is not needed */
    return env_set(&launch->env, name, content, err);
}

/* Whether an entry is a directory or a link that leads to one. A link that leads nowhere is a failure. */
static int examine(const char *path, const struct entry *entry, bool *is_directory, struct error *err)
{
    struct stat status;

    *is_directory = entry->is_directory;
    if (!entry->is_link)
        return 0;
    if (stat(path, &status) < 0)
        return fail(err, EXIT_LAUNCH, "examine '%s': %s. The image's user must be able to reach it.", path,
                    strerror(errno));
    *is_directory = S_ISDIR(status.st_mode);
    return 0;
}

static int apply_directory(struct launch *launch, const char *path, struct error *err)
{
    struct directory directory;

    if (directory_read(launch->arena, path, &directory, err) < 0)
        return -1;
    for (size_t i = 0; i < directory.count; i++) {
        const struct entry *entry = &directory.entries[i];
        const char *file = path_join(launch->arena, path, entry->name);
        struct text content;
        bool is_directory;

        if (examine(file, entry, &is_directory, err) < 0)
            return -1;
        if (is_directory)
            continue;
        if (file_read(launch->arena, file, &content, err) < 0 ||
            apply_file(launch, path, entry->name, content, err) < 0)
            return -1;
    }
    return 0;
}

static int add_variables(struct launch *launch, const char *layer, struct error *err)
{
    const char *launch_only = path_join(launch->arena, layer, "env.launch");

    if (apply_directory(launch, path_join(launch->arena, layer, "env"), err) < 0 ||
        apply_directory(launch, launch_only, err) < 0)
        return -1;
    if (*launch->process.type == '\0')
        return 0;
    return apply_directory(launch, path_join(launch->arena, launch_only, launch->process.type), err);
}

int layer_env_apply(struct launch *launch, struct error *err)
{
    for (size_t i = 0; i < launch->metadata.buildpack_count; i++) {
        const struct buildpack *buildpack = &launch->metadata.buildpacks[i];

        if (layers_of_buildpack(launch, buildpack, add_roots, err) < 0 ||
            layers_of_buildpack(launch, buildpack, add_variables, err) < 0)
            return fail_within(err, "modify env");
    }
    return 0;
}
