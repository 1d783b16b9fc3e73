#include "file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

int read_all(struct arena *arena, int fd, const char *name, struct text *content, struct error *err)
{
    char *data = NULL;
    size_t size = 0, room = 0;

    for (;;) {
        ssize_t got;

        data = arena_grow(arena, data, size, 1, &room);
        got = read(fd, data + size, room - size - 1);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return fail(err, EXIT_LAUNCH, "read '%s': %s", name, strerror(errno));
        if (got == 0)
            break;
        size += (size_t)got;
        if (size > INPUT_MAX)
            return fail(err, EXIT_LAUNCH, "read '%s': more than %lu bytes. Make it smaller.", name,
                        (unsigned long)INPUT_MAX);
    }
    data[size] = '\0';
    *content = (struct text){data, size};
    return 0;
}

int file_read(struct arena *arena, const char *path, struct text *content, struct error *err)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    int result;

    if (fd < 0)
        return fail(err, EXIT_LAUNCH, "open '%s': %s. The image's user must be able to read it.", path,
                    strerror(errno));
    result = read_all(arena, fd, path, content, err);
    close(fd);
    return result;
}

static int by_name(const void *left, const void *right)
{
    return strcmp(((const struct entry *)left)->name, ((const struct entry *)right)->name);
}

static void add_entry(struct arena *arena, DIR *stream, const struct dirent *found,
                      struct directory *directory, size_t *room)
{
    struct entry *entry;
    struct stat status;

    if (strcmp(found->d_name, ".") == 0 || strcmp(found->d_name, "..") == 0)
        return;
    directory->entries = arena_grow(arena, directory->entries, directory->count, sizeof *entry, room);
    entry = &directory->entries[directory->count++];
    entry->name = text_copy(arena, found->d_name, strlen(found->d_name)).data;
    entry->is_directory = found->d_type == DT_DIR;
    entry->is_link = found->d_type == DT_LNK;
    /* Some file systems do not tell the type. What vanished meanwhile stays in the list as a file. */
    if (found->d_type == DT_UNKNOWN &&
        fstatat(dirfd(stream), found->d_name, &status, AT_SYMLINK_NOFOLLOW) == 0) {
        entry->is_directory = S_ISDIR(status.st_mode);
        entry->is_link = S_ISLNK(status.st_mode);
    }
}

int directory_read(struct arena *arena, const char *path, struct directory *directory, struct error *err)
{
    const struct dirent *found;
    size_t room = 0;
    DIR *stream = opendir(path);

    *directory = (struct directory){0};
    if (stream == NULL && errno == ENOENT)
        return 0;
    if (stream == NULL)
        return fail(err, EXIT_LAUNCH, "list directory '%s': %s. The image's user must be able to read it.",
                    path, strerror(errno));
    errno = 0;
    while ((found = readdir(stream)) != NULL) {
        add_entry(arena, stream, found, directory, &room);
        errno = 0;
    }
    if (errno != 0) {
        int reason = errno;

        closedir(stream);
        return fail(err, EXIT_LAUNCH, "list directory '%s': %s. The image's user must be able to read it.",
                    path, strerror(reason));
    }
    closedir(stream);
    if (directory->count > 1)
        qsort(directory->entries, directory->count, sizeof *directory->entries, by_name);
    return 0;
}
