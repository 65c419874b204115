# What other native code needs of the walk: it feeds a walker without a Python call for every fragment.

cimport cython
from libc.stdint cimport uint8_t, uint32_t, uint64_t

cdef enum:
    # Longest element header: explicit VR with a 32-bit length.
    LONGEST_HEADER = 12


cdef struct Wanted:
    # One element that is collected, or a sequence that holds some.
    uint32_t tag
    int path
    int first_item
    int items


cdef struct WantedItem:
    uint32_t number
    int level


cdef struct Level:
    # The wanted elements of the data set itself or of one item: a range of Wanted, tags ascending.
    int first
    int count


@cython.final
cdef class Plan:
    cdef list paths
    cdef Wanted* wanted
    cdef WantedItem* items
    cdef Level* levels

    cdef int find(self, int level, uint32_t tag) noexcept nogil
    cdef int below(self, int wanted, uint32_t item) noexcept nogil


cdef enum FrameKind:
    DATA_SET
    ITEM
    SEQUENCE
    FRAGMENTS


cdef struct Frame:
    FrameKind kind
    bint explicit
    bint little
    # DATA_SET and ITEM: the level of wanted elements; SEQUENCE: the Wanted; -1 for neither.
    int wanted
    # SEQUENCE: number of the next item.
    uint32_t next_item
    # Where it ends; NO_END for undefined length.
    uint64_t end
    # The nearest end of something around it that has one.
    uint64_t limit


@cython.final
cdef class ElementWalker:
    cdef Plan _plan
    cdef Frame* _stack
    cdef int _top
    cdef int _nesting
    cdef int _max_depth
    cdef uint64_t _max_elements
    cdef uint64_t _max_header_bytes
    cdef uint64_t _elements
    cdef uint64_t _header_bytes
    cdef uint64_t _position
    cdef uint64_t _skip
    cdef uint8_t[LONGEST_HEADER] _held
    cdef int _have
    cdef bint _begun
    cdef bint _in_meta
    cdef bint _past_header
    cdef bytearray _seen
    cdef int _target
    cdef uint32_t _target_vr
    cdef bytearray _value
    cdef object _error
    cdef bint _explicit
    cdef bint _little
    cdef readonly bint truncated
    cdef readonly bint has_meta
    cdef readonly dict values
    cdef readonly list unavailable

    cdef int look(self, const uint8_t* data, Py_ssize_t n) except -1
    cdef int _fail(self, str text, status=*) except -1
    cdef int _walk(self, const uint8_t* data, Py_ssize_t n) except -1
    cdef void _pop(self) noexcept
    cdef int _gather(self, const uint8_t* data, Py_ssize_t n) except -1
    cdef int _collect(self, bytes value) except -1
    cdef int _want(self, int wanted, uint32_t vr, uint64_t length) except -1
    cdef int _push(self, FrameKind kind, bint explicit, bint little, int wanted, uint32_t length) except -1
    cdef int _header(self, const uint8_t* h, Py_ssize_t available) except -1
    cdef int _begin(self, const uint8_t* h) except -1
    cdef int _item(self, const uint8_t* h) except -1
