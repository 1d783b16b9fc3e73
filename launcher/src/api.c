#include "api.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static const struct api PLATFORM_API_FIRST = {0, 7}, PLATFORM_API_LAST = {0, 15};
static const struct api BUILDPACK_API_FIRST = {0, 7}, BUILDPACK_API_LAST = {0, 12};

const struct api PLATFORM_API_COMMAND_LIST = {0, 10};
const struct api PLATFORM_API_EXEC_ENV = {0, 15};
const struct api BUILDPACK_API_DEFAULT_ARGS = {0, 9};

bool api_has(struct api api, struct api feature)
{
    return api.major != feature.major ? api.major > feature.major : api.minor >= feature.minor;
}

/* Reads digits; moves *text behind them. No digits are zero. */
static bool read_number(const char **text, unsigned long *number)
{
    size_t length = strspn(*text, "0123456789");

    errno = 0;
    *number = length == 0 ? 0 : strtoul(*text, NULL, 10);
    *text += length;
    return errno == 0;
}

/* The reference takes v?<digits>.?<digits>?, so "v0.10", "0.10" and "1" are versions. */
static bool parse(const char *text, struct api *api)
{
    if (*text == 'v')
        text++;
    if (strspn(text, "0123456789") == 0 || !read_number(&text, &api->major))
        return false;
    if (*text == '.')
        text++;
    return read_number(&text, &api->minor) && *text == '\0';
}

static bool within(struct api api, struct api first, struct api last)
{
    return api_has(api, first) && api_has(last, api);
}

int platform_api_read(const char *text, struct api *api, struct error *err)
{
    if (text == NULL || text[strspn(text, " \t\r\n")] == '\0')
        return fail(
            err, EXIT_PLATFORM_API,
            "get platform API version; please set 'CNB_PLATFORM_API' to specify the desired platform API "
            "version. The image sets it; the container's settings must not clear it.");
    if (!parse(text, api))
        return fail(err, EXIT_PLATFORM_API,
                    "parse platform API '%s'. Set CNB_PLATFORM_API to a version as '0.%lu'.", text,
                    PLATFORM_API_LAST.minor);
    if (!within(*api, PLATFORM_API_FIRST, PLATFORM_API_LAST))
        return fail(
            err, EXIT_PLATFORM_API,
            "set platform API: platform API version '%lu.%lu' is incompatible with the launcher, which knows "
            "0.%lu to 0.%lu. Set CNB_PLATFORM_API to one of these or build the image anew.",
            api->major, api->minor, PLATFORM_API_FIRST.minor, PLATFORM_API_LAST.minor);
    return 0;
}

int buildpack_api_read(const char *text, const char *buildpack_id, struct api *api, struct error *err)
{
    if (!parse(text, api))
        return fail(err, EXIT_BUILDPACK_API,
                    "parse buildpack API '%s' for buildpack '%s'. Build the image anew.", text, buildpack_id);
    if (!within(*api, BUILDPACK_API_FIRST, BUILDPACK_API_LAST))
        return fail(
            err, EXIT_BUILDPACK_API,
            "set API for buildpack '%s': buildpack API version '%lu.%lu' is incompatible with the launcher, "
            "which knows 0.%lu to 0.%lu. Build the image with another version of the buildpack.",
            buildpack_id, api->major, api->minor, BUILDPACK_API_FIRST.minor, BUILDPACK_API_LAST.minor);
    return 0;
}
