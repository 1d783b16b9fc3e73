#include "env.h"

#include <string.h>

struct variable {
    struct text name;
    struct text value;
};

/* The specification strips the first three; the reference the other two as well. CNB_EXEC_ENV stays. */
static const char *const STRIPPED[] = {
    "CNB_LAYERS_DIR", "CNB_APP_DIR", "CNB_PROCESS_TYPE", "CNB_PLATFORM_API", "CNB_DEPRECATION_MODE",
};

static struct variable *find(const struct env *env, struct text name)
{
    for (size_t i = 0; i < env->count; i++)
        if (text_equal(env->variables[i].name, name))
            return &env->variables[i];
    return NULL;
}

static void set(struct env *env, struct text name, struct text value)
{
    struct variable *variable = find(env, name);

    if (variable == NULL) {
        env->variables = arena_grow(env->arena, env->variables, env->count, sizeof *variable, &env->room);
        variable = &env->variables[env->count++];
        variable->name = name;
    }
    variable->value = value;
}

static bool is_stripped(struct text name)
{
    for (size_t i = 0; i < sizeof STRIPPED / sizeof *STRIPPED; i++)
        if (text_equal(name, text_of(STRIPPED[i])))
            return true;
    return false;
}

/* The specification removes /cnb/process from the front of PATH; the reference every element that is
 * /cnb/process or /cnb/lifecycle, which it adds both. */
static struct text without_launcher_dirs(struct arena *arena, const char *path)
{
    char *kept = arena_take(arena, strlen(path) + 1, 1), *end = kept;
    bool is_first = true;

    for (;;) {
        struct text element = {path, strcspn(path, ":")};

        if (!text_equal(element, text_of("/cnb/process")) &&
            !text_equal(element, text_of("/cnb/lifecycle"))) {
            if (!is_first)
                *end++ = ':';
            is_first = false;
            end = (char *)memcpy(end, path, element.size) + element.size;
        }
        path += element.size;
        if (*path++ == '\0')
            return (struct text){kept, (size_t)(end - kept)};
    }
}

void env_start(struct arena *arena, char *const *environ, struct env *env)
{
    *env = (struct env){.arena = arena};
    for (; *environ != NULL; environ++) {
        const char *equals = strchr(*environ, '=');
        struct text name;

        if (equals == NULL)
            continue;
        name = text_copy(arena, *environ, (size_t)(equals - *environ));
        /* Of two entries with one name getenv answers the first, and so does the reference. */
        if (is_stripped(name) || find(env, name) != NULL)
            continue;
        if (text_equal(name, text_of("PATH")))
            set(env, name, without_launcher_dirs(arena, equals + 1));
        else
            set(env, name, text_of(equals + 1));
    }
}

struct text env_get(const struct env *env, struct text name)
{
    const struct variable *variable = find(env, name);

    return variable == NULL ? text_of("") : variable->value;
}

int env_set(struct env *env, struct text name, struct text value, struct error *err)
{
    if (!text_is_string(name) || !text_is_string(value))
        return fail(err, EXIT_LAUNCH,
                    "the environment variable '%s' would hold a zero byte, which none can. Correct what "
                    "the buildpack writes.",
                    name.data);
    set(env, name, value);
    return 0;
}

char *const *env_list(const struct env *env)
{
    char **list = arena_take(env->arena, env->count + 1, sizeof *list);

    for (size_t i = 0; i < env->count; i++) {
        struct text pieces[] = {env->variables[i].name, {"=", 1}, env->variables[i].value};

        list[i] = (char *)text_join(env->arena, pieces, 3).data;
    }
    return list;
}
