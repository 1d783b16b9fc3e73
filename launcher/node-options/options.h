/* The options that Node.js takes from NODE_OPTIONS, the user's own first. */
#ifndef OPTIONS_H
#define OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Text that grows to a fixed size; what does not fit is left out and remembered. */
struct line {
    char text[131072]; /* no variable can be longer */
    size_t size;
    bool overflow;
};

void line_add(struct line *line, const char *piece);
void line_add_number(struct line *line, uint64_t number);

/* Adds an option, with a space before it unless it is the first. */
void options_add(struct line *line, const char *option);

/* Whether the options set the size of the heap themselves, in any of the spellings that V8 accepts. */
bool options_limit_heap(const char *options);

/* Whether the options open the inspector themselves. */
bool options_inspect(const char *options);

/* The size that the heap may grow to, in MiB, where `limit` bytes are allowed in all: three quarters of it. */
uint64_t heap_size(uint64_t limit);

/* Writes `name = "value"` as TOML. */
void toml_write(struct line *line, const char *name, const char *value);

#endif
