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

from router.errors import DatasetError

cdef extern from "Python.h":
    Py_ssize_t PY_SSIZE_T_MAX

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
    """The bytes of one data set as they arrive: looked at, hashed and kept, as long as there is no more than ``most``.

    Args:
        look: Called with every fragment first; a DatasetError that it raises ends the gathering. None: nobody looks.
        update: Called with every fragment: the hash.
        beyond: Called with every fragment instead, once there are more than ``most`` bytes or ``stop`` was called.
        most: Bytes.
    """

    cdef list _full
    cdef Block _block
    cdef object _look
    cdef object _update
    cdef object _beyond
    cdef Py_ssize_t _most
    cdef bint _stopped
    cdef readonly Py_ssize_t size
    cdef readonly Py_ssize_t held
    cdef readonly object error

    def __cinit__(self, look=None, update=None, beyond=None, Py_ssize_t most=PY_SSIZE_T_MAX):
        self._full = []
        self._block = None
        self._look = look
        self._update = update
        self._beyond = beyond
        self._most = most
        self._stopped = False
        self.size = self.held = 0
        self.error = None

    def write(self, data):
        """The next bytes, of any contiguous buffer; they are copied. Raises what ``beyond`` raises."""
        cdef Py_buffer view
        if self.error is not None:
            return
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            self.size += view.len
            if self.size > self._most:
                self._stopped = True
            if self._stopped:
                self._beyond(data)
                return
            if self._look is not None:
                try:
                    self._look(data)
                except DatasetError as error:
                    self.error = error
                    self._full = []
                    self._block = None
                    self.held = 0
                    return
            if self._update is not None:
                self._update(data)
            self._append(<const uint8_t*>view.buf, view.len)
        finally:
            PyBuffer_Release(&view)

    cdef int _append(self, const uint8_t* at, Py_ssize_t left) except -1:
        cdef Py_ssize_t count
        self.held += left
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
        return 0

    def stop(self):
        """From here on, ``beyond`` gets what comes."""
        self._stopped = True

    def take(self):
        """Everything gathered, in order, as a list of buffers that do not change any more; nothing is held after it."""
        cdef list out = self._full
        cdef Block block = self._block
        self._full = []
        self._block = None
        self.held = 0
        if block is not None:
            if out:
                out.append(PyMemoryView_FromObject(block))
            else:
                out.append(PyBytes_FromStringAndSize(<const char*>block._memory, block._used))
        return out
