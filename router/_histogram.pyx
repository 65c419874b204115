# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Counts per bucket, natively: several values of every object are counted. ``observe.histogram`` says what it is for."""

from libc.stdlib cimport calloc, free


cdef class Histogram:
    """Values by upper bound, as Prometheus counts them.

    Args:
        bounds: Upper bounds, rising, without infinity. A value equal to a bound belongs to it.
    """

    # Sum of all values.
    cdef readonly double total
    cdef Py_ssize_t _size
    cdef double* _bounds
    # One more than there are bounds.
    cdef unsigned long long* _counts

    def __cinit__(self, bounds):
        cdef Py_ssize_t index
        self._size = len(bounds)
        self._bounds = <double*>calloc(self._size + 1, sizeof(double))
        self._counts = <unsigned long long*>calloc(self._size + 1, sizeof(unsigned long long))
        if self._bounds == NULL or self._counts == NULL:
            raise MemoryError
        for index in range(self._size):
            self._bounds[index] = bounds[index]

    def __dealloc__(self):
        free(self._bounds)
        free(self._counts)

    def observe(self, double value):
        # One after the other: most values are small, and there are few bounds.
        cdef Py_ssize_t index = 0
        while index < self._size and self._bounds[index] < value:
            index += 1
        self._counts[index] += 1
        self.total += value

    def buckets(self):
        """(upper bound as text, values up to it), cumulative, ending with ``+Inf``."""
        cdef Py_ssize_t index
        cdef unsigned long long running = 0
        cdef list found = []
        for index in range(self._size + 1):
            running += self._counts[index]
            found.append((str(self._bounds[index]) if index < self._size else "+Inf", running))
        return found
