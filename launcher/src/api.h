/* Versions of the Platform API and the Buildpack API. */
#ifndef API_H
#define API_H

#include "error.h"

#include <stdbool.h>

struct api {
    unsigned long major;
    unsigned long minor;
};

/* What this launcher knows; both ranges have no gaps. Every version difference has a name here. */
extern const struct api
    PLATFORM_API_COMMAND_LIST;                 /* 0.10: commands of several elements, arguments replaced */
extern const struct api PLATFORM_API_EXEC_ENV; /* 0.15: processes for some execution environments */
extern const struct api BUILDPACK_API_DEFAULT_ARGS; /* 0.9: the user's arguments replace the process's */

bool api_has(struct api api, struct api feature);

/* Fails with exit code 11; `text` may be null when CNB_PLATFORM_API is not set. */
int platform_api_read(const char *text, struct api *api, struct error *err);

/* Fails with exit code 12. */
int buildpack_api_read(const char *text, const char *buildpack_id, struct api *api, struct error *err);

#endif
