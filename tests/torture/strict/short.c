/* Loaded before a program (LD_PRELOAD): a write that is longer than a block takes only about half of its blocks.
 *
 * Legal at any time, and seen on disks that are nearly full. FUSE cannot do it: the kernel makes EIO of it. Files only.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

enum { BLOCK = 4096 };

static size_t some(int descriptor, size_t size)
{
    struct stat state;
    if (size <= BLOCK || fstat(descriptor, &state) || !S_ISREG(state.st_mode))
        return size;
    return size / 2 < BLOCK ? BLOCK : size / 2 / BLOCK * BLOCK;
}

ssize_t pwrite64(int descriptor, const void *data, size_t size, off64_t offset)
{
    static ssize_t (*real)(int, const void *, size_t, off64_t);
    if (!real)
        real = dlsym(RTLD_NEXT, "pwrite64");
    return real(descriptor, data, some(descriptor, size), offset);
}

ssize_t pwritev64(int descriptor, const struct iovec *pieces, int count, off64_t offset)
{
    static ssize_t (*real)(int, const struct iovec *, int, off64_t);
    struct iovec fewer[1024];
    size_t whole = 0, left;
    int index;
    if (!real)
        real = dlsym(RTLD_NEXT, "pwritev64");
    if (count < 0 || count > 1024)
        return real(descriptor, pieces, count, offset);
    for (index = 0; index < count; index++)
        whole += pieces[index].iov_len;
    left = some(descriptor, whole);
    for (index = 0; index < count && left; index++) {
        fewer[index] = pieces[index];
        if (fewer[index].iov_len > left)
            fewer[index].iov_len = left;
        left -= fewer[index].iov_len;
    }
    return real(descriptor, fewer, index, offset);
}

/* The same functions: off_t has 64 bits. */
ssize_t pwrite(int descriptor, const void *data, size_t size, off_t offset)
{
    return pwrite64(descriptor, data, size, offset);
}

ssize_t pwritev(int descriptor, const struct iovec *pieces, int count, off_t offset)
{
    return pwritev64(descriptor, pieces, count, offset);
}
