/* The TOML reader takes any bytes: it accepts or refuses them, and reads nothing outside of them. */
#include "toml.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Touches every byte of the tree, so that a sanitizer sees one that should not be there. */
static size_t weigh(const struct toml *value)
{
    size_t sum = 0;

    for (size_t i = 0; i < value->key.size; i++)
        sum += (unsigned char)value->key.data[i];
    for (size_t i = 0; i < value->text.size; i++)
        sum += (unsigned char)value->text.data[i];
    for (const struct toml *child = value->first; child != NULL; child = child->next)
        sum += weigh(child);
    return sum;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct arena arena = {0};
    struct error err = {0};
    struct toml *root;
    char *document = malloc(size); /* no zero byte behind it: the reader must not need one */

    if (size > 0)
        memcpy(document, data, size);
    if (toml_read(&arena, (struct text){document, size}, &root, &err) == 0)
        weigh(root);
    else if (err.code != EXIT_LAUNCH || strncmp(err.text, "line ", 5) != 0)
        abort();
    arena_free(&arena);
    free(document);
    return 0;
}
