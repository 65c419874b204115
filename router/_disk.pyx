# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Gather, write, sync: one group of the spool in one call, without the interpreter.

Three steps made from Python would give the interpreter lock away and wait for it again at each; on a busy process that
waiting takes longer than the disk.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from libc.errno cimport EINTR, EIO, errno
from libc.stdint cimport uint8_t
from libc.string cimport memcpy, memset
from posix.types cimport off_t

import os

cdef extern from "<unistd.h>" nogil:
    ssize_t pwrite(int fd, const void* data, size_t size, off_t offset)
    int fdatasync(int fd)

cdef enum:
    BLOCK = 4096


cdef int _flush(int descriptor, const uint8_t* data, size_t size, off_t offset, size_t most) noexcept nogil:
    """All of it, however often the kernel writes less; gives 0 or an errno."""
    cdef size_t done = 0, ask
    cdef ssize_t written
    while done < size:
        ask = size - done
        if ask > most:
            ask = most
        written = pwrite(descriptor, data + done, ask, offset + <off_t>done)
        if written < 0:
            if errno == EINTR:
                continue
            return errno
        if written == 0:
            return EIO
        done += <size_t>written
        if done < size:
            done = done // BLOCK * BLOCK  # what is left must begin on a block again
            if written < BLOCK:
                return EIO
    return 0


cdef int _write(
    int descriptor, Py_buffer* views, Py_ssize_t count, uint8_t* staging, size_t capacity, off_t* end, size_t most
) noexcept nogil:
    cdef Py_ssize_t index
    cdef const uint8_t* data
    cdef size_t left, take, filled = 0, padding
    cdef int problem
    for index in range(count):
        data = <const uint8_t*>views[index].buf
        left = <size_t>views[index].len
        while left:
            take = capacity - filled
            if take > left:
                take = left
            memcpy(staging + filled, data, take)
            data += take
            left -= take
            filled += take
            if filled == capacity:
                problem = _flush(descriptor, staging, filled, end[0], most)
                if problem:
                    return problem
                end[0] += <off_t>filled
                filled = 0
    if filled:
        padding = (BLOCK - filled % BLOCK) % BLOCK
        memset(staging + filled, 0, padding)
        filled += padding
        problem = _flush(descriptor, staging, filled, end[0], most)
        if problem:
            return problem
        end[0] += <off_t>filled
    return 0


def write_blocks(int descriptor, buffers, off_t offset, staging, *, bint sync=False, size_t most=1 << 30):
    """Write the buffers one behind the other at ``offset``, zeros up to the end of the last block.

    Args:
        descriptor: May be open for O_DIRECT.
        offset: A multiple of the block size.
        staging: Writable memory that begins on a block; its size a multiple of the block size.
        sync: fdatasync when all is written.
        most: Bytes asked of the kernel at once.

    Returns (the offset behind the last block, errno of the sync or 0). Raises OSError when the write fails: nothing was
    synced then.
    """
    cdef Py_buffer* views
    cdef Py_buffer area
    cdef Py_ssize_t count = len(buffers), taken = 0, index
    cdef off_t end = offset
    cdef int problem = 0, sync_problem = 0
    views = <Py_buffer*>PyMem_Malloc((count or 1) * sizeof(Py_buffer))
    if views == NULL:
        raise MemoryError
    PyObject_GetBuffer(staging, &area, PyBUF_SIMPLE | 1)  # writable
    try:
        if area.len < BLOCK or area.len % BLOCK:
            raise ValueError("staging memory is not made of blocks")
        for index in range(count):
            PyObject_GetBuffer(buffers[index], &views[index], PyBUF_SIMPLE)
            taken += 1
        with nogil:
            problem = _write(descriptor, views, count, <uint8_t*>area.buf, <size_t>area.len, &end, most)
            if problem == 0 and sync:
                while fdatasync(descriptor) != 0:
                    sync_problem = errno
                    if sync_problem != EINTR:
                        break
                    sync_problem = 0
    finally:
        for index in range(taken):
            PyBuffer_Release(&views[index])
        PyBuffer_Release(&area)
        PyMem_Free(views)
    if problem:
        raise OSError(problem, os.strerror(problem))
    return end, sync_problem
