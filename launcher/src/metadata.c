#include "metadata.h"

#include "file.h"
#include "path.h"
#include "toml.h"

#include <string.h>

static int wrong_type(const char *key, const struct toml *value, const char *wanted, struct error *err)
{
    return fail(err, EXIT_LAUNCH, "'%s' is of type %s, not %s. Build the image anew.", key,
                toml_type_name(value->type), wanted);
}

static int as_string(const struct toml *value, const char *key, const char **string, struct error *err)
{
    if (value->type != TOML_STRING)
        return wrong_type(key, value, "string", err);
    if (!text_is_string(value->text))
        return fail(err, EXIT_LAUNCH, "'%s' holds a zero byte. Build the image anew.", key);
    *string = value->text.data;
    return 0;
}

static int read_string(const struct toml *table, const char *key, const char **string, struct error *err)
{
    const struct toml *value = toml_get(table, text_of(key));

    *string = "";
    return value == NULL ? 0 : as_string(value, key, string, err);
}

static int read_strings(struct arena *arena, const struct toml *table, const char *key, struct strings *list,
                        struct error *err)
{
    const struct toml *value = toml_get(table, text_of(key));

    if (value == NULL)
        return 0;
    if (value->type != TOML_ARRAY)
        return wrong_type(key, value, "array", err);
    for (const struct toml *element = value->first; element != NULL; element = element->next) {
        const char *string;

        if (as_string(element, key, &string, err) < 0)
            return -1;
        strings_add(arena, list, string);
    }
    return 0;
}

/* Below Platform API 0.10 the builder writes the command as one string, from 0.10 as an array; both are read
 * always. */
static int read_command(struct arena *arena, const struct toml *table, struct strings *command,
                        struct error *err)
{
    const struct toml *value = toml_get(table, text_of("command"));
    const char *string;

    if (value == NULL || value->type != TOML_STRING)
        return read_strings(arena, table, "command", command, err);
    if (as_string(value, "command", &string, err) < 0)
        return -1;
    strings_add(arena, command, string);
    return 0;
}

static int read_boolean(const struct toml *table, const char *key, bool *boolean, struct error *err)
{
    const struct toml *value = toml_get(table, text_of(key));

    if (value == NULL)
        return 0;
    if (value->type != TOML_BOOLEAN)
        return wrong_type(key, value, "boolean", err);
    *boolean = text_equal(value->text, text_of("true"));
    return 0;
}

static int read_process(struct arena *arena, const struct toml *table, struct process *process,
                        struct error *err)
{
    if (read_string(table, "type", &process->type, err) < 0 ||
        read_command(arena, table, &process->command, err) < 0 ||
        read_strings(arena, table, "args", &process->args, err) < 0 ||
        read_boolean(table, "direct", &process->direct, err) < 0 ||
        read_string(table, "buildpack-id", &process->buildpack_id, err) < 0 ||
        read_string(table, "working-dir", &process->working_dir, err) < 0 ||
        read_strings(arena, table, "exec-env", &process->exec_env, err) < 0)
        return -1;
    return 0;
}

/* The array of tables that `key` names, and how many there are; *tables is null if there is none. */
static int find_tables(const struct toml *root, const char *key, const struct toml **tables, size_t *count,
                       struct error *err)
{
    const struct toml *array = toml_get(root, text_of(key));

    *tables = NULL;
    *count = 0;
    if (array == NULL)
        return 0;
    if (array->type != TOML_ARRAY)
        return wrong_type(key, array, "array", err);
    *tables = array->first;
    for (const struct toml *table = array->first; table != NULL; table = table->next, ++*count)
        if (table->type != TOML_TABLE)
            return wrong_type(key, table, "table", err);
    return 0;
}

static int read_processes(struct arena *arena, const struct toml *root, struct metadata *metadata,
                          struct error *err)
{
    const struct toml *table;
    struct process *process;

    if (find_tables(root, "processes", &table, &metadata->process_count, err) < 0)
        return -1;
    process = metadata->processes = arena_take(arena, metadata->process_count, sizeof *process);
    for (; table != NULL; table = table->next, process++)
        if (read_process(arena, table, process, err) < 0)
            return -1;
    return 0;
}

static int read_buildpacks(struct arena *arena, const struct toml *root, struct metadata *metadata,
                           struct error *err)
{
    const struct toml *table;
    struct buildpack *buildpack;

    if (find_tables(root, "buildpacks", &table, &metadata->buildpack_count, err) < 0)
        return -1;
    buildpack = metadata->buildpacks = arena_take(arena, metadata->buildpack_count, sizeof *buildpack);
    for (; table != NULL; table = table->next, buildpack++) {
        const char *api;

        if (read_string(table, "id", &buildpack->id, err) < 0 || read_string(table, "api", &api, err) < 0)
            return -1;
        if (buildpack_api_read(api, buildpack->id, &buildpack->api, err) < 0)
            return -1;
    }
    return 0;
}

/* The reference ends with 1 when it cannot read the file; the specification has 80 to 89 for all that stops a
 * launch (P-146), and that is what a platform can tell from the exit code of an application. */
static int read_file(struct arena *arena, const char *path, struct metadata *metadata, struct error *err)
{
    struct text document;
    struct toml *root;

    if (file_read(arena, path, &document, err) < 0)
        return fail_advise(err, "CNB_LAYERS_DIR says where it is.");
    if (toml_read(arena, document, &root, err) < 0 || read_processes(arena, root, metadata, err) < 0 ||
        read_buildpacks(arena, root, metadata, err) < 0)
        return err->code == EXIT_BUILDPACK_API ? -1 : fail_within(err, path);
    return 0;
}

int metadata_read(struct arena *arena, const char *layers_dir, struct metadata *metadata, struct error *err)
{
    const char *path = path_join(arena, layers_dir, "config/metadata.toml");

    *metadata = (struct metadata){0};
    if (read_file(arena, path, metadata, err) == 0)
        return 0;
    return err->code == EXIT_BUILDPACK_API ? -1 : fail_within(err, "read metadata");
}

const struct buildpack *metadata_buildpack(const struct metadata *metadata, const char *id)
{
    for (size_t i = 0; i < metadata->buildpack_count; i++)
        if (strcmp(metadata->buildpacks[i].id, id) == 0)
            return &metadata->buildpacks[i];
    return NULL;
}
