# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Memory for data sets: blocks that begin on a page, so that the disk can be given them as they are, and are used again.

A data set is copied once, from the receive buffer into its blocks; the record is written and the messages to destinations are sent
from there. Memory that is used again has its pages already: what the kernel takes to clear and map those of a fresh megabyte is
more than copying costs.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_FillInfo, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.memoryview cimport PyMemoryView_FromObject
from libc.stdint cimport uint8_t
from libc.stdlib cimport free
from libc.string cimport memcpy

cdef extern from "<stdlib.h>" nogil:
    int posix_memalign(void** memory, size_t alignment, size_t size)

cdef enum:
    PAGE = 4096
    SIZE = 64 << 10
    KEPT = 512

BLOCK_SIZE = SIZE
"""Bytes of a block. What fits into one is given out as ``bytes``: at least half of what is held is in use."""

# Blocks that nobody uses. Touched with the interpreter lock only.
cdef uint8_t* spare[KEPT]
cdef int spares = 0


cdef uint8_t* take() except NULL:
    global spares
    cdef void* memory = NULL
    if spares:
        spares -= 1
        return spare[spares]
    if posix_memalign(&memory, PAGE, SIZE) != 0:
        raise MemoryError
    return <uint8_t*>memory


cdef class Block:
    """Up to BLOCK_SIZE bytes, to be read as a buffer; its memory is used again when the last reader has let go."""

    cdef uint8_t* _memory
    cdef Py_ssize_t _used

    def __cinit__(self):
        self._used = 0
        self._memory = take()

    def __dealloc__(self):
        global spares
        if self._memory == NULL:
            return
        if spares < KEPT:
            spare[spares] = self._memory
            spares += 1
        else:
            free(self._memory)

    def __getbuffer__(self, Py_buffer* view, int flags):
        PyBuffer_FillInfo(view, self, self._memory, self._used, 1, flags)


cdef class Gatherer:
    """The bytes of one data set as they arrive."""

    cdef list _full
    cdef Block _block

    def __cinit__(self):
        self._full = []
        self._block = None

    def append(self, data):
        """Copy the next bytes, of any contiguous buffer."""
        cdef Py_buffer view
        cdef const uint8_t* at
        cdef Py_ssize_t left, count
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            at = <const uint8_t*>view.buf
            left = view.len
            while left:
                if self._block is None:
                    self._block = Block.__new__(Block)
                count = SIZE - self._block._used
                if count > left:
                    count = left
                memcpy(self._block._memory + self._block._used, at, count)
                self._block._used += count
                at += count
                left -= count
                if self._block._used == SIZE:
                    self._full.append(PyMemoryView_FromObject(self._block))
                    self._block = None
        finally:
            PyBuffer_Release(&view)

    def take(self):
        """Everything gathered, in order, as a list of buffers that do not change any more; begins anew."""
        cdef list out = self._full
        cdef Block block = self._block
        self._full = []
        self._block = None
        if block is not None:
            if out:
                out.append(PyMemoryView_FromObject(block))
            else:
                out.append(PyBytes_FromStringAndSize(<const char*>block._memory, block._used))
        return out
