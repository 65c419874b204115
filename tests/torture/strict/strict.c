/* A file system that tells what happened in it, and fails when it is told to.
 *
 *     strict -f -s -o ... MOUNT          STRICT_BACKING=folder STRICT_JOURNAL=file
 *
 * Every change goes through to a folder and, in the order in which it happened, into a journal, with every sync. From the journal
 * `disk.py` makes what a disk may hold after a power cut at any moment; nothing of that is decided here. One thread: the journal's
 * order is the order.
 *
 * setxattr(MOUNT, "user.fault", "KIND GLOB N ERRNO TIMES") arms one fault and takes the place of the one before: the N-th operation of
 * that kind (from 1) on a path that the pattern fits fails, and TIMES in all from there on (0: all). KIND: write, sync, syncdir, read,
 * create, open, allocate, truncate, unlink; "change": any of them that changes something; "sector": every read of the byte at offset N.
 * An empty text disarms. A write or sync that fails stands in the journal as failed.
 */
#define FUSE_USE_VERSION 31
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <fuse.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

enum { CREATE = 1, MKDIR, UNLINK, RMDIR, RENAME, WRITE, TRUNCATE, ALLOCATE, SYNC, SYNCDIR, FAILED, KNOWN };

struct entry { /* then the path, a second path (rename), the data */
    uint32_t what, file;
    uint64_t offset, length, nanoseconds;
    uint32_t path, data;
};

static int backing, journal;
static struct { ino_t inode; uint32_t file; } *files;
static uint32_t file_count, file_room, last_file;

static struct {
    char kind[16], glob[128];
    long nth, number, times, seen, fired;
} fault;

/* What an open file or folder is; the path is the one that it was opened by, since an unlinked file has none. */
struct handle {
    int descriptor;
    char path[];
};

static struct handle *handle_of(const struct fuse_file_info *info)
{
    return (struct handle *)(uintptr_t)info->fh;
}

static int keep(struct fuse_file_info *info, const char *path, int descriptor)
{
    struct handle *handle = malloc(sizeof *handle + strlen(path) + 1);
    if (!handle)
        abort();
    handle->descriptor = descriptor;
    strcpy(handle->path, path);
    info->fh = (uint64_t)(uintptr_t)handle;
    return 0;
}

/* libfuse renames what is removed while it is open, and removes it when it is closed: to the journal it is gone at once. */
static int is_hidden(const char *path)
{
    return !strncmp(strrchr(path, '/') + 1, ".fuse_hidden", 12);
}

static const char *under(const char *path)
{
    return path[1] ? path + 1 : ".";
}

static uint32_t place_of(ino_t inode)
{
    uint32_t at;
    for (at = 0; at < file_count && files[at].inode != inode; at++)
        ;
    return at;
}

/* The journal's number of a file: inodes are used again, these are not. */
static uint32_t number_of(ino_t inode, int fresh)
{
    uint32_t at = place_of(inode);
    if (at == file_count) {
        if (file_count == file_room) {
            file_room = file_room ? 2 * file_room : 256;
            files = realloc(files, file_room * sizeof *files);
            if (!files)
                abort();
        }
        files[file_count].inode = inode;
        files[file_count++].file = ++last_file;
    } else if (fresh) {
        files[at].file = ++last_file;
    }
    return files[at].file;
}

static uint32_t number_at(int descriptor)
{
    struct stat state;
    return fstat(descriptor, &state) ? 0 : number_of(state.st_ino, 0);
}

static void tell(uint32_t what, uint32_t file, const char *path, const char *other, uint64_t offset, uint64_t length,
                 const void *data, size_t size)
{
    struct timespec now;
    struct entry entry = { .what = what, .file = file, .offset = offset, .length = length };
    struct iovec pieces[4] = { { &entry, sizeof entry }, { (void *)path, strlen(path) }, { (void *)other, strlen(other) },
                               { (void *)data, size } };
    size_t whole = sizeof entry;
    int piece;
    clock_gettime(CLOCK_MONOTONIC, &now);
    entry.nanoseconds = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
    entry.path = (uint32_t)pieces[1].iov_len;
    entry.data = (uint32_t)(pieces[2].iov_len + size);
    for (piece = 1; piece < 4; piece++)
        whole += pieces[piece].iov_len;
    if (writev(journal, pieces, 4) != (ssize_t)whole)
        abort(); /* a journal with a hole would acquit the guilty */
}

/* 0, or the error that this operation has to give. */
static int failing(const char *kind, const char *path)
{
    if (!fault.kind[0])
        return 0;
    if (strcmp(fault.kind, kind) && (strcmp(fault.kind, "change") || !strcmp(kind, "read") || !strcmp(kind, "open")))
        return 0;
    if (fnmatch(fault.glob, path + 1, 0))
        return 0;
    fault.seen++;
    if (fault.seen < fault.nth || (fault.times && fault.fired >= fault.times))
        return 0;
    fault.fired++;
    return (int)fault.number;
}

static int failed(int number, uint32_t file, const char *path)
{
    tell(FAILED, file, path, "", 0, (uint64_t)number, fault.kind, strlen(fault.kind));
    return -number;
}

#define MAY_FAIL(kind, file, path)                      \
    do {                                                \
        int number_ = failing(kind, path);              \
        if (number_)                                    \
            return failed(number_, file, path);         \
    } while (0)

static int get_attributes(const char *path, struct stat *state, struct fuse_file_info *info)
{
    int done = info ? fstat(handle_of(info)->descriptor, state) : fstatat(backing, under(path), state, AT_SYMLINK_NOFOLLOW);
    return done ? -errno : 0;
}

static int list(const char *path, void *out, fuse_fill_dir_t fill, off_t offset, struct fuse_file_info *info,
                enum fuse_readdir_flags flags)
{
    char real[4096];
    struct dirent **names;
    int count;
    (void)path, (void)offset, (void)flags;
    snprintf(real, sizeof real, "/proc/self/fd/%d/%s", backing, under(handle_of(info)->path));
    count = scandir(real, &names, NULL, NULL);
    if (count < 0)
        return -errno;
    while (count--) {
        if (strncmp(names[count]->d_name, ".fuse_hidden", 12))
            fill(out, names[count]->d_name, NULL, 0, 0);
        free(names[count]);
    }
    free(names);
    return 0;
}

static int make_folder(const char *path, mode_t mode)
{
    MAY_FAIL("create", 0, path);
    if (mkdirat(backing, under(path), mode))
        return -errno;
    tell(MKDIR, 0, path, "", 0, 0, NULL, 0);
    return 0;
}

static int remove_file(const char *path)
{
    if (!is_hidden(path))
        MAY_FAIL("unlink", 0, path);
    if (unlinkat(backing, under(path), 0))
        return -errno;
    if (!is_hidden(path))
        tell(UNLINK, 0, path, "", 0, 0, NULL, 0);
    return 0;
}

static int remove_folder(const char *path)
{
    if (unlinkat(backing, under(path), AT_REMOVEDIR))
        return -errno;
    tell(RMDIR, 0, path, "", 0, 0, NULL, 0);
    return 0;
}

static int rename_file(const char *from, const char *to, unsigned flags)
{
    MAY_FAIL(is_hidden(to) ? "unlink" : "create", 0, is_hidden(to) ? from : to);
    if (flags)
        return -EINVAL;
    if (renameat(backing, under(from), backing, under(to)))
        return -errno;
    if (is_hidden(to))
        tell(UNLINK, 0, from, "", 0, 0, NULL, 0);
    else
        tell(RENAME, 0, from, to, 0, 0, NULL, 0);
    return 0;
}

static int change_mode(const char *path, mode_t mode, struct fuse_file_info *info)
{
    (void)info;
    return fchmodat(backing, under(path), mode, 0) ? -errno : 0;
}

static int change_owner(const char *path, uid_t user, gid_t group, struct fuse_file_info *info)
{
    (void)info;
    return fchownat(backing, under(path), user, group, AT_SYMLINK_NOFOLLOW) ? -errno : 0;
}

static int change_times(const char *path, const struct timespec times[2], struct fuse_file_info *info)
{
    (void)info;
    return utimensat(backing, under(path), times, AT_SYMLINK_NOFOLLOW) ? -errno : 0;
}

static int open_with(const char *path, mode_t mode, int create, struct fuse_file_info *info)
{
    /* The kernel has taken care of O_APPEND and O_DIRECT. */
    int flags = (info->flags & ~(O_APPEND | O_DIRECT | O_ACCMODE)) | O_RDWR, descriptor;
    struct stat state;
    descriptor = openat(backing, under(path), flags | (create ? O_CREAT : 0), mode);
    if (descriptor < 0)
        return -errno;
    keep(info, path, descriptor);
    if (fstat(descriptor, &state))
        abort();
    if (!create && place_of(state.st_ino) == file_count) /* it was there before */
        tell(KNOWN, number_of(state.st_ino, 0), path, "", 0, 0, NULL, 0);
    if (create) {
        tell(CREATE, number_of(state.st_ino, 1), path, "", 0, 0, NULL, 0);
    } else if (info->flags & O_TRUNC) {
        tell(TRUNCATE, number_at(descriptor), path, "", 0, 0, NULL, 0);
    }
    return 0;
}

static int open_file(const char *path, struct fuse_file_info *info)
{
    MAY_FAIL("open", 0, path);
    return open_with(path, 0, 0, info);
}

static int create_file(const char *path, mode_t mode, struct fuse_file_info *info)
{
    MAY_FAIL("create", 0, path);
    return open_with(path, mode, 1, info);
}

static int read_file(const char *path, char *out, size_t size, off_t offset, struct fuse_file_info *info)
{
    struct handle *handle = handle_of(info);
    ssize_t got;
    (void)path;
    MAY_FAIL("read", number_at(handle->descriptor), handle->path);
    if (!strcmp(fault.kind, "sector") && offset <= fault.nth && fault.nth < offset + (off_t)size &&
        !fnmatch(fault.glob, handle->path + 1, 0))
        return failed((int)fault.number, number_at(handle->descriptor), handle->path);
    got = pread(handle->descriptor, out, size, offset);
    return got < 0 ? -errno : (int)got;
}

static int write_file(const char *path, const char *data, size_t size, off_t offset, struct fuse_file_info *info)
{
    struct handle *handle = handle_of(info);
    uint32_t file = number_at(handle->descriptor);
    ssize_t put;
    (void)path;
    MAY_FAIL("write", file, handle->path);
    put = pwrite(handle->descriptor, data, size, offset);
    if (put < 0)
        return -errno;
    tell(WRITE, file, handle->path, "", (uint64_t)offset, (uint64_t)put, data, (size_t)put);
    return (int)put;
}

static int truncate_file(const char *path, off_t size, struct fuse_file_info *info)
{
    int descriptor = info ? handle_of(info)->descriptor : openat(backing, under(path), O_RDWR), number;
    uint32_t file;
    if (info)
        path = handle_of(info)->path;
    if (descriptor < 0)
        return -errno;
    file = number_at(descriptor);
    number = failing("truncate", path);
    if (number)
        failed(number, file, path);
    else if (ftruncate(descriptor, size))
        number = errno;
    else
        tell(TRUNCATE, file, path, "", 0, (uint64_t)size, NULL, 0);
    if (!info)
        close(descriptor);
    return -number;
}

static int allocate(const char *path, int mode, off_t offset, off_t length, struct fuse_file_info *info)
{
    struct handle *handle = handle_of(info);
    uint32_t file = number_at(handle->descriptor);
    (void)path;
    MAY_FAIL("allocate", file, handle->path);
    if (mode)
        return -EOPNOTSUPP;
    if (fallocate(handle->descriptor, 0, offset, length))
        return -errno;
    tell(ALLOCATE, file, handle->path, "", (uint64_t)offset, (uint64_t)length, NULL, 0);
    return 0;
}

static int sync_file(const char *path, int only_data, struct fuse_file_info *info)
{
    struct handle *handle = handle_of(info);
    uint32_t file = number_at(handle->descriptor);
    (void)path, (void)only_data;
    MAY_FAIL("sync", file, handle->path);
    tell(SYNC, file, handle->path, "", 0, 0, NULL, 0);
    return 0;
}

static int sync_folder(const char *path, int only_data, struct fuse_file_info *info)
{
    (void)only_data;
    path = handle_of(info)->path;
    MAY_FAIL("syncdir", 0, path);
    tell(SYNCDIR, 0, path, "", 0, 0, NULL, 0);
    return 0;
}

static int release(const char *path, struct fuse_file_info *info)
{
    (void)path;
    if (handle_of(info)->descriptor >= 0)
        close(handle_of(info)->descriptor);
    free(handle_of(info));
    return 0;
}

static int open_folder(const char *path, struct fuse_file_info *info)
{
    return keep(info, path, -1);
}

static int room(const char *path, struct statvfs *state)
{
    (void)path;
    return fstatvfs(backing, state) ? -errno : 0;
}

static int set_attribute(const char *path, const char *name, const char *text, size_t size, int flags)
{
    char copy[256] = "";
    (void)flags;
    if (strcmp(path, "/") || strcmp(name, "user.fault") || size >= sizeof copy)
        return -ENOTSUP;
    memcpy(copy, text, size);
    memset(&fault, 0, sizeof fault);
    if (size && sscanf(copy, "%15s %127s %ld %ld %ld", fault.kind, fault.glob, &fault.nth, &fault.number, &fault.times) != 5)
        return -EINVAL;
    return 0;
}

/* "user.fault": how many operations the pattern fitted, and how many of them failed. */
static int get_attribute(const char *path, const char *name, char *out, size_t size)
{
    char text[64];
    int length;
    if (strcmp(path, "/") || strcmp(name, "user.fault"))
        return -ENODATA;
    length = snprintf(text, sizeof text, "%ld %ld", fault.seen, fault.fired);
    if (!size)
        return length;
    if (size < (size_t)length)
        return -ERANGE;
    memcpy(out, text, (size_t)length);
    return length;
}

static void *begin(struct fuse_conn_info *connection, struct fuse_config *config)
{
    (void)connection;
    config->nullpath_ok = 1;
    config->use_ino = 1;
    config->entry_timeout = config->attr_timeout = 1;
    return NULL;
}

static const struct fuse_operations operations = {
    .init = begin,
    .getattr = get_attributes,
    .opendir = open_folder,
    .releasedir = release,
    .readdir = list,
    .mkdir = make_folder,
    .unlink = remove_file,
    .rmdir = remove_folder,
    .rename = rename_file,
    .chmod = change_mode,
    .chown = change_owner,
    .utimens = change_times,
    .open = open_file,
    .create = create_file,
    .read = read_file,
    .write = write_file,
    .truncate = truncate_file,
    .fallocate = allocate,
    .fsync = sync_file,
    .fsyncdir = sync_folder,
    .release = release,
    .statfs = room,
    .setxattr = set_attribute,
    .getxattr = get_attribute,
};

int main(int count, char **arguments)
{
    const char *folder = getenv("STRICT_BACKING"), *log = getenv("STRICT_JOURNAL");
    if (!folder || !log)
        return 2;
    backing = open(folder, O_RDONLY | O_DIRECTORY);
    journal = open(log, O_WRONLY | O_CREAT | O_APPEND, 0600);
    if (backing < 0 || journal < 0)
        return 2;
    umask(0);
    return fuse_main(count, arguments, &operations, NULL);
}
