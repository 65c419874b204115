/* Ends its process at a chosen system call, exactly: preloaded into the router.
 *
 *     CRASH_FOLDER  what counts as the router's files
 *     CRASH_KIND    write, sync, name, size (of files there) or send (to a TCP socket)
 *     CRASH_AT      die by SIGKILL instead of making the n-th call of that kind; 0: never
 *     CRASH_COUNTS  write "kind count" lines here when the process ends in order
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum kind { WRITE, SYNC, NAME, SIZE, SEND, KINDS };
static const char *const names[KINDS] = {"write", "sync", "name", "size", "send"};
static atomic_long counts[KINDS];
static int chosen = -1;
static long at;
static const char *folder;
static size_t folder_length;

__attribute__((constructor)) static void begin(void) {
    const char *kind = getenv("CRASH_KIND"), *number = getenv("CRASH_AT");
    folder = getenv("CRASH_FOLDER");
    folder_length = folder ? strlen(folder) : 0;
    at = number ? atol(number) : 0;
    for (int index = 0; kind && index < KINDS; index++)
        if (!strcmp(kind, names[index])) chosen = index;
}

__attribute__((destructor)) static void end(void) {
    const char *path = getenv("CRASH_COUNTS");
    FILE *file = path ? fopen(path, "w") : NULL;
    if (!file) return;
    for (int index = 0; index < KINDS; index++) fprintf(file, "%s %ld\n", names[index], (long)counts[index]);
    fclose(file);
}

static int ours(const char *path) { return folder && !strncmp(path, folder, folder_length); }

static int in_folder(int fd) {
    char link[64], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return ours(path);
}

static int is_tcp(int fd) {
    struct sockaddr_storage address;
    socklen_t length = sizeof address;
    return !getsockname(fd, (struct sockaddr *)&address, &length) && address.ss_family == AF_INET;
}

static void point(enum kind kind) {
    if (atomic_fetch_add(&counts[kind], 1) + 1 == at && (int)kind == chosen) kill(getpid(), SIGKILL);
}

static void data(int fd) {
    if (in_folder(fd)) point(WRITE);
    else if (is_tcp(fd)) point(SEND);
}

#define REAL(name) static typeof(&name) real; if (!real) real = (typeof(&name))dlsym(RTLD_NEXT, #name)

ssize_t write(int fd, const void *b, size_t n) { REAL(write); data(fd); return real(fd, b, n); }
ssize_t writev(int fd, const struct iovec *v, int n) { REAL(writev); data(fd); return real(fd, v, n); }
ssize_t pwrite(int fd, const void *b, size_t n, off_t o) { REAL(pwrite); data(fd); return real(fd, b, n, o); }
ssize_t pwrite64(int fd, const void *b, size_t n, off64_t o) { REAL(pwrite64); data(fd); return real(fd, b, n, o); }
ssize_t pwritev(int fd, const struct iovec *v, int n, off_t o) { REAL(pwritev); data(fd); return real(fd, v, n, o); }
ssize_t pwritev64(int fd, const struct iovec *v, int n, off64_t o) { REAL(pwritev64); data(fd); return real(fd, v, n, o); }
ssize_t pwritev2(int fd, const struct iovec *v, int n, off_t o, int f) { REAL(pwritev2); data(fd); return real(fd, v, n, o, f); }
ssize_t pwritev64v2(int fd, const struct iovec *v, int n, off64_t o, int f) { REAL(pwritev64v2); data(fd); return real(fd, v, n, o, f); }
ssize_t send(int fd, const void *b, size_t n, int f) { REAL(send); data(fd); return real(fd, b, n, f); }
ssize_t sendmsg(int fd, const struct msghdr *m, int f) { REAL(sendmsg); data(fd); return real(fd, m, f); }
int fsync(int fd) { REAL(fsync); if (in_folder(fd)) point(SYNC); return real(fd); }
int fdatasync(int fd) { REAL(fdatasync); if (in_folder(fd)) point(SYNC); return real(fd); }
int ftruncate(int fd, off_t n) { REAL(ftruncate); if (in_folder(fd)) point(SIZE); return real(fd, n); }
int ftruncate64(int fd, off64_t n) { REAL(ftruncate64); if (in_folder(fd)) point(SIZE); return real(fd, n); }
int posix_fallocate(int fd, off_t o, off_t n) { REAL(posix_fallocate); if (in_folder(fd)) point(SIZE); return real(fd, o, n); }
int posix_fallocate64(int fd, off64_t o, off64_t n) { REAL(posix_fallocate64); if (in_folder(fd)) point(SIZE); return real(fd, o, n); }
int rename(const char *from, const char *to) { REAL(rename); if (ours(from)) point(NAME); return real(from, to); }
int unlink(const char *path) { REAL(unlink); if (ours(path)) point(NAME); return real(path); }
int open64(const char *path, int flags, ...) {
    REAL(open64);
    va_list more; va_start(more, flags); mode_t mode = flags & O_CREAT ? va_arg(more, mode_t) : 0; va_end(more);
    if (flags & O_CREAT && ours(path)) point(NAME);
    return real(path, flags, mode);
}
int open(const char *path, int flags, ...) {
    REAL(open);
    va_list more; va_start(more, flags); mode_t mode = flags & O_CREAT ? va_arg(more, mode_t) : 0; va_end(more);
    if (flags & O_CREAT && ours(path)) point(NAME);
    return real(path, flags, mode);
}
