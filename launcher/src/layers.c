#include "layers.h"

#include "file.h"
#include "path.h"

#include <string.h>

static int each_entry(struct launch *launch, const char *path, bool directories, action *act,
                      struct error *err)
{
    struct directory directory;

    if (directory_read(launch->arena, path, &directory, err) < 0)
        return -1;
    for (size_t i = 0; i < directory.count; i++) {
        const struct entry *entry = &directory.entries[i];

        if (entry->is_directory == directories &&
            act(launch, path_join(launch->arena, path, entry->name), err) < 0)
            return -1;
    }
    return 0;
}

int layers_of_buildpack(struct launch *launch, const struct buildpack *buildpack, action *act,
                        struct error *err)
{
    struct text name = text_copy(launch->arena, buildpack->id, strlen(buildpack->id));

    for (char *at = (char *)name.data; *at != '\0'; at++)
        if (*at == '/')
            *at = '_'; /* a buildpack's directory is named by its id, escaped */
    return each_entry(launch, path_join(launch->arena, launch->layers_dir, name.data), true, act, err);
}

int layers_each(struct launch *launch, action *act, struct error *err)
{
    for (size_t i = 0; i < launch->metadata.buildpack_count; i++)
        if (layers_of_buildpack(launch, &launch->metadata.buildpacks[i], act, err) < 0)
            return -1;
    return 0;
}

/* The specification has all <kind>/ of all layers before all <kind>/<type>/; the reference does layer by
 * layer, and so do buildpacks expect it. */
int layers_files(struct launch *launch, const char *layer, const char *kind, action *act, struct error *err)
{
    const char *directory = path_join(launch->arena, layer, kind);

    if (each_entry(launch, directory, false, act, err) < 0)
        return -1;
    if (*launch->process.type == '\0')
        return 0;
    return each_entry(launch, path_join(launch->arena, directory, launch->process.type), false, act, err);
}
