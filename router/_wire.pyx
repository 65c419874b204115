# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Bytes to and from a socket that never waits."""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.list cimport PyList_GET_ITEM, PyList_GET_SIZE
from cpython.mem cimport PyMem_Free, PyMem_Malloc

cdef extern from "<sys/uio.h>" nogil:
    struct iovec:
        void* iov_base
        size_t iov_len
    Py_ssize_t writev(int descriptor, const iovec* pieces, int count)

cdef extern from "<sys/socket.h>" nogil:
    Py_ssize_t recv(int descriptor, void* place, size_t size, int flags)

cdef enum:
    MOST = 1024  # IOV_MAX
    FEW = 64


def write(int descriptor, list buffers):
    """As much of the buffers, at most the first 1,024, as a non-blocking socket takes now; gives what is left of all, in order. Never
    raises for what the socket says: who waits for it to take more finds out."""
    cdef Py_buffer few[FEW]
    cdef iovec pieces[MOST]
    cdef Py_buffer* views = few
    cdef Py_ssize_t total = 0, sent, size, index, count = min(PyList_GET_SIZE(buffers), <Py_ssize_t>MOST), taken = 0
    if count > FEW:
        views = <Py_buffer*>PyMem_Malloc(count * sizeof(Py_buffer))
        if views == NULL:
            raise MemoryError
    try:
        while taken < count:
            PyObject_GetBuffer(<object>PyList_GET_ITEM(buffers, taken), &views[taken], PyBUF_SIMPLE)
            pieces[taken].iov_base = views[taken].buf
            pieces[taken].iov_len = views[taken].len
            total += views[taken].len
            taken += 1
        # Without the interpreter's lock, also where there is little to write: whoever waits for it gets it without asking.
        with nogil:
            sent = writev(descriptor, pieces, <int>count)
    finally:
        for index in range(taken):
            PyBuffer_Release(&views[index])
        if views != few:
            PyMem_Free(views)
    if sent <= 0:
        return buffers
    if sent == total and count == PyList_GET_SIZE(buffers):
        return []
    for index in range(count):
        size = <Py_ssize_t>pieces[index].iov_len
        if sent < size:
            return [memoryview(buffers[index])[sent:], *buffers[index + 1:]]
        sent -= size
    return buffers[count:]


def read(int descriptor, unsigned char[::1] place not None):
    """What a non-blocking socket has now, as much as there is place for; gives its size in bytes. 0: nothing, and if that is because
    the socket has ended or is broken, who waits for it finds out."""
    cdef Py_ssize_t size
    if not place.shape[0]:
        return 0
    with nogil:
        size = recv(descriptor, &place[0], place.shape[0], 0)
    return max(size, 0)
