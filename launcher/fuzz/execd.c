/* The output of exec.d programs, applied to an environment: what comes out is a list that execve takes. */
#include "execd.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *const environ[] = {"PATH=/cnb/process:/bin", "A=1", NULL};
    struct arena arena = {0};
    struct error err = {0};
    struct env env;

    env_start(&arena, environ, &env);
    if (execd_apply(&env, text_copy(&arena, (const char *)data, size), &err) < 0 && strlen(err.text) == 0)
        abort();
    for (char *const *entry = env_list(&env); *entry != NULL; entry++)
        if (strchr(*entry, '=') == NULL)
            abort();
    arena_free(&arena);
    return 0;
}
