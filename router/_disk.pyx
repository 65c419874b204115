# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Gather, write, sync: the groups of the spool, without the interpreter.

Steps made from Python would give the interpreter lock away and wait for it again at each; on a busy process that waiting
takes longer than the disk. A plain-Python reference of ``Committer`` is in ``tests/support``; the tests compare the two,
and put it in its place where they need to know what was synced when.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.errno cimport EINTR, EIO, errno
from libc.stdint cimport uint8_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memcpy, memset
from posix.types cimport off_t

import os

cdef extern from "<unistd.h>" nogil:
    ssize_t read(int fd, void* data, size_t size)
    ssize_t write(int fd, const void* data, size_t size)
    int fdatasync(int fd)
    int close(int fd)

cdef extern from "<sys/uio.h>" nogil:
    cdef struct iovec:
        void* iov_base
        size_t iov_len
    ssize_t pwritev(int fd, const iovec* pieces, int count, off_t offset)

cdef extern from "<stdlib.h>" nogil:
    int posix_memalign(void** memory, size_t alignment, size_t size)

cdef extern from "<errno.h>" nogil:
    int ECANCELED

cdef extern from "<sys/eventfd.h>" nogil:
    int eventfd(unsigned int value, int flags)
    int EFD_NONBLOCK
    int EFD_CLOEXEC

cdef extern from "<pthread.h>" nogil:
    ctypedef struct pthread_t:
        pass
    ctypedef struct pthread_mutex_t:
        pass
    ctypedef struct pthread_cond_t:
        pass
    int pthread_create(pthread_t* thread, const void* attributes, void* (*run)(void*) noexcept nogil, void* argument)
    int pthread_join(pthread_t thread, void** result)
    int pthread_setname_np(pthread_t thread, const char* name)
    int pthread_mutex_init(pthread_mutex_t* lock, const void* attributes)
    int pthread_mutex_lock(pthread_mutex_t* lock)
    int pthread_mutex_unlock(pthread_mutex_t* lock)
    int pthread_cond_init(pthread_cond_t* some, const void* attributes)
    int pthread_cond_wait(pthread_cond_t* some, pthread_mutex_t* lock)
    int pthread_cond_signal(pthread_cond_t* some)

cdef enum:
    BLOCK = 4096
    PIECES = 1024  # of one write: IOV_MAX
    IN_PLACE = 16 << 10  # less is copied: a piece costs more than so many bytes

cdef struct Area:
    # One write: pieces, each either memory of who submitted it or a part of the staging memory. Pieces begin and end on blocks,
    # but for the end of the last one.
    uint8_t* memory
    size_t capacity
    size_t filled
    iovec[PIECES] pieces
    int count


cdef int _flush(int descriptor, Area* area, off_t offset, size_t most) noexcept nogil:
    """All pieces, however often the kernel writes less; gives 0 or an errno. ``most``: bytes asked of it at once."""
    cdef iovec* piece = area.pieces
    cdef iovec* end = area.pieces + area.count
    cdef iovec part
    cdef size_t ask
    cdef ssize_t written
    cdef int count
    while piece < end:
        ask, count = piece.iov_len, 1
        while piece + count < end and ask + piece[count].iov_len <= most:
            ask += piece[count].iov_len
            count += 1
        if ask > most:
            part.iov_base, part.iov_len = piece.iov_base, most
            ask = most
            written = pwritev(descriptor, &part, 1, offset)
        else:
            written = pwritev(descriptor, piece, count, offset)
        if written < 0:
            if errno == EINTR:
                continue
            return errno
        if <size_t>written < ask or ask < piece.iov_len:
            written = written // BLOCK * BLOCK  # what is left must begin on a block again
        if written == 0:
            return EIO
        offset += written
        while piece < end and <size_t>written >= piece.iov_len:
            written -= <ssize_t>piece.iov_len
            piece += 1
        if written:
            piece.iov_base = <uint8_t*>piece.iov_base + written
            piece.iov_len -= <size_t>written
    return 0


cdef int _write_out(int descriptor, Area* area, off_t* end, size_t most) noexcept nogil:
    cdef size_t size = 0
    cdef int problem, index
    if area.count:
        for index in range(area.count):
            size += area.pieces[index].iov_len
        problem = _flush(descriptor, area, end[0], most)
        if problem:
            return problem
        end[0] += <off_t>size
        area.filled = 0
        area.count = 0
    return 0


cdef int _gather(
    int descriptor, Py_buffer* views, Py_ssize_t count, Area* area, off_t* end, size_t most
) noexcept nogil:
    """Add to the pieces, written out whenever there is no room for more; gives 0 or an errno.

    What lies on blocks in memory, and comes to lie on blocks in the file, is written from where it is.
    """
    cdef Py_ssize_t index
    cdef const uint8_t* data
    cdef size_t left, take
    cdef int problem
    for index in range(count):
        data = <const uint8_t*>views[index].buf
        left = <size_t>views[index].len
        if left >= IN_PLACE and <size_t>data % BLOCK == 0 and area.filled % BLOCK == 0:
            take = left // BLOCK * BLOCK
            if area.count == PIECES:
                problem = _write_out(descriptor, area, end, most)
                if problem:
                    return problem
            area.pieces[area.count].iov_base = <void*>data
            area.pieces[area.count].iov_len = take
            area.count += 1
            data += take
            left -= take
        while left:
            if area.filled == area.capacity or (area.count == PIECES and not _staged_last(area)):
                problem = _write_out(descriptor, area, end, most)
                if problem:
                    return problem
            take = area.capacity - area.filled
            if take > left:
                take = left
            _stage(area, data, take)
            data += take
            left -= take
    return 0


cdef inline bint _staged_last(Area* area) noexcept nogil:
    """What is staged next goes on behind the last piece."""
    cdef iovec* last
    if not area.count:
        return False
    last = &area.pieces[area.count - 1]
    return <uint8_t*>last.iov_base + last.iov_len == area.memory + area.filled


cdef inline void _stage(Area* area, const uint8_t* data, size_t size) noexcept nogil:
    """Copy; there is room. Without ``data``: zeros."""
    if not _staged_last(area):
        area.pieces[area.count].iov_base = area.memory + area.filled
        area.pieces[area.count].iov_len = 0
        area.count += 1
    if data != NULL:
        memcpy(area.memory + area.filled, data, size)
    else:
        memset(area.memory + area.filled, 0, size)
    area.pieces[area.count - 1].iov_len += size
    area.filled += size


cdef void _pad(Area* area) noexcept nogil:
    cdef size_t padding = (BLOCK - area.filled % BLOCK) % BLOCK
    if padding:
        _stage(area, NULL, padding)


cdef int _sync(int descriptor) noexcept nogil:
    while fdatasync(descriptor) != 0:
        if errno != EINTR:
            return errno
    return 0


cdef Py_ssize_t _take_views(buffers, Py_buffer** out) except -1:
    """The buffers' memory, held until ``_give_views``."""
    cdef Py_ssize_t count = len(buffers), taken = 0
    cdef Py_buffer* views = <Py_buffer*>PyMem_Malloc((count or 1) * sizeof(Py_buffer))
    if views == NULL:
        raise MemoryError
    try:
        while taken < count:
            PyObject_GetBuffer(buffers[taken], &views[taken], PyBUF_SIMPLE)
            taken += 1
    except BaseException:
        _give_views(views, taken)
        raise
    out[0] = views
    return count


cdef void _give_views(Py_buffer* views, Py_ssize_t count) noexcept:
    cdef Py_ssize_t index
    for index in range(count):
        PyBuffer_Release(&views[index])
    PyMem_Free(views)


def write_blocks(int descriptor, buffers, off_t offset, staging, *, size_t most=1 << 30):
    """Write the buffers one behind the other at ``offset``, zeros up to the end of the last block.

    Args:
        descriptor: May be open for O_DIRECT.
        offset: A multiple of the block size.
        staging: Writable memory that begins on a block; its size a multiple of the block size.
        most: Bytes asked of the kernel at once.

    Returns the offset behind the last block. Raises OSError.
    """
    cdef Py_buffer* views
    cdef Py_buffer memory
    cdef Area area
    cdef off_t end = offset
    cdef int problem = 0
    cdef Py_ssize_t count = _take_views(buffers, &views)
    try:
        PyObject_GetBuffer(staging, &memory, PyBUF_SIMPLE | 1)  # writable
        try:
            if memory.len < BLOCK or memory.len % BLOCK:
                raise ValueError("staging memory is not made of blocks")
            area.memory = <uint8_t*>memory.buf
            area.capacity = <size_t>memory.len
            area.filled = 0
            area.count = 0
            with nogil:
                problem = _gather(descriptor, views, count, &area, &end, most)
                if problem == 0:
                    _pad(&area)
                    problem = _write_out(descriptor, &area, &end, most)
        finally:
            PyBuffer_Release(&memory)
    finally:
        _give_views(views, count)
    if problem:
        raise OSError(problem, os.strerror(problem))
    return end


# Group commit ----------------------------------------------------------------------------------------------

cdef struct Job:
    int descriptor
    off_t offset
    Py_buffer* views
    Py_ssize_t count
    size_t size
    void* token
    int write_problem
    int sync_problem
    Job* next


cdef struct Line:
    Job* first
    Job* last


cdef struct Shared:
    pthread_mutex_t lock
    pthread_cond_t some
    Line waiting
    Line done
    bint closing
    bint broken
    int event
    size_t group_bytes
    Area area


cdef void _append(Line* line, Job* first, Job* last) noexcept nogil:
    last.next = NULL
    if line.last == NULL:
        line.first = first
    else:
        line.last.next = first
    line.last = last


cdef void _commit(Job* first, Area* area) noexcept nogil:
    """Write and sync neighbours in one file, and note in each what came of it."""
    cdef Job* job = first
    cdef off_t end = first.offset
    cdef int write_problem = 0, sync_problem = 0
    area.filled = 0
    area.count = 0
    while job != NULL and write_problem == 0:
        write_problem = _gather(first.descriptor, job.views, job.count, area, &end, 1 << 30)
        _pad(area)
        job = job.next
    if write_problem == 0:
        write_problem = _write_out(first.descriptor, area, &end, 1 << 30)
    if write_problem == 0:
        sync_problem = _sync(first.descriptor)
    job = first
    while job != NULL:
        job.write_problem = write_problem
        job.sync_problem = sync_problem
        job = job.next


cdef void* _run(void* argument) noexcept nogil:
    cdef Shared* shared = <Shared*>argument
    cdef Job* first
    cdef Job* last
    cdef Job* job
    cdef size_t size
    cdef uint64_t one = 1
    cdef bint broken
    pthread_mutex_lock(&shared.lock)
    while True:
        while shared.waiting.first == NULL and not shared.closing:
            pthread_cond_wait(&shared.some, &shared.lock)
        if shared.waiting.first == NULL:
            break
        first = last = shared.waiting.first
        size = first.size
        while (
            last.next != NULL
            and last.next.descriptor == first.descriptor
            and last.next.offset == first.offset + <off_t>size
            and size < shared.group_bytes
        ):
            last = last.next
            size += last.size
        shared.waiting.first = last.next
        if last.next == NULL:
            shared.waiting.last = NULL
        last.next = NULL
        broken = shared.broken
        pthread_mutex_unlock(&shared.lock)
        if broken:
            job = first
            while job != NULL:
                job.write_problem = ECANCELED
                job = job.next
        else:
            _commit(first, &shared.area)
        pthread_mutex_lock(&shared.lock)
        if first.write_problem or first.sync_problem:
            shared.broken = True
        _append(&shared.done, first, last)
        # The lock is not kept while others are woken: they would only wait for it again.
        pthread_mutex_unlock(&shared.lock)
        write(shared.event, &one, 8)
        pthread_mutex_lock(&shared.lock)
    pthread_mutex_unlock(&shared.lock)
    return NULL


cdef class Committer:
    """A thread of the system that writes, syncs and never asks for the interpreter.

    What is submitted while it syncs is its next group, as far as it lies in one file, each piece behind the other. After
    the first problem it writes nothing more, and gives everything back with ECANCELED, until ``reset``.

    One thread of the interpreter at a time.
    """

    cdef Shared* _shared
    cdef pthread_t _thread
    cdef bint _running

    def __cinit__(self, size_t staging, size_t group_bytes):
        """Args: staging: Bytes for one write of the kernel, a multiple of the block size. group_bytes: A group of so many
        is not made larger."""
        cdef void* memory = NULL
        if staging < BLOCK or staging % BLOCK:
            raise ValueError("staging memory is not made of blocks")
        self._shared = <Shared*>PyMem_Malloc(sizeof(Shared))
        if self._shared == NULL:
            raise MemoryError
        memset(self._shared, 0, sizeof(Shared))
        self._shared.event = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)
        if posix_memalign(&memory, BLOCK, staging) != 0:
            raise MemoryError
        self._shared.area.memory = <uint8_t*>memory
        self._shared.area.capacity = staging
        self._shared.group_bytes = group_bytes
        if self._shared.event < 0:
            raise OSError(errno, os.strerror(errno))
        pthread_mutex_init(&self._shared.lock, NULL)
        pthread_cond_init(&self._shared.some, NULL)
        if pthread_create(&self._thread, NULL, _run, self._shared) != 0:
            raise OSError("no thread can be started")
        pthread_setname_np(self._thread, b"disk")
        self._running = True

    def fileno(self):
        """Readable when ``done`` has something to give."""
        return self._shared.event

    def submit(self, int descriptor, buffers, off_t offset, token):
        """Have the buffers written at ``offset``, a multiple of the block size, padded with zeros to the next one, and
        synced. They are held until ``done`` gives the token back."""
        if not self._running:
            raise ValueError("closed")
        if offset % BLOCK:
            raise ValueError("not the beginning of a block")
        cdef Job* job = <Job*>PyMem_Malloc(sizeof(Job))
        cdef Py_ssize_t index
        if job == NULL:
            raise MemoryError
        memset(job, 0, sizeof(Job))
        try:
            job.count = _take_views(buffers, &job.views)
        except BaseException:
            PyMem_Free(job)
            raise
        for index in range(job.count):
            job.size += <size_t>job.views[index].len
        job.size += (BLOCK - job.size % BLOCK) % BLOCK
        job.descriptor = descriptor
        job.offset = offset
        Py_INCREF(token)
        job.token = <void*>token
        pthread_mutex_lock(&self._shared.lock)
        _append(&self._shared.waiting, job, job)
        pthread_mutex_unlock(&self._shared.lock)
        pthread_cond_signal(&self._shared.some)

    def done(self):
        """What has ended, in order: (token, errno of the write or 0, errno of the sync or 0)."""
        cdef uint64_t count
        cdef Job* job
        cdef Job* following
        read(self._shared.event, &count, 8)
        pthread_mutex_lock(&self._shared.lock)
        job = self._shared.done.first
        self._shared.done.first = self._shared.done.last = NULL
        pthread_mutex_unlock(&self._shared.lock)
        found = []
        while job != NULL:
            following = job.next
            token = <object>job.token
            Py_DECREF(token)
            found.append((token, job.write_problem, job.sync_problem))
            _give_views(job.views, job.count)
            PyMem_Free(job)
            job = following
        return found

    def reset(self):
        """Write again. Only while nothing is under way."""
        pthread_mutex_lock(&self._shared.lock)
        self._shared.broken = False
        pthread_mutex_unlock(&self._shared.lock)

    def close(self):
        """Finish what was submitted and end the thread; ``done`` still gives what it was. Blocking."""
        if not self._running:
            return
        self._running = False
        pthread_mutex_lock(&self._shared.lock)
        self._shared.closing = True
        pthread_cond_signal(&self._shared.some)
        pthread_mutex_unlock(&self._shared.lock)
        with nogil:
            pthread_join(self._thread, NULL)

    def __dealloc__(self):
        if self._shared == NULL:
            return
        self.close()
        self.done()
        if self._shared.event >= 0:
            close(self._shared.event)
        free(self._shared.area.memory)
        PyMem_Free(self._shared)
