cdef class DataFragment:
    cdef readonly int context_id
    cdef readonly bint is_command
    cdef readonly bint is_last
    cdef readonly object data
    cdef readonly bint complete
