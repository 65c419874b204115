cdef class DataFragment:
    cdef readonly int context_id
    cdef readonly bint is_command
    cdef readonly bint is_last
    cdef readonly object data
    cdef readonly bint complete


cdef class DataTaken:
    cdef readonly Py_ssize_t size
    cdef readonly bint last
    cdef readonly object fault
