# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Memory for data sets: blocks that begin on a page, so that the disk can be given them as they are, and are used again.

A data set is read from its socket into its blocks, or copied there once from the receive buffer; the record is written and the
messages to destinations are sent from there. What is read back from the disk comes in pieces, which are larger. Memory that is used again has its pages already:
what the kernel takes to clear and map those of a fresh megabyte is more than copying costs.
"""

import os

from cpython.buffer cimport PyBUF_READ, PyBUF_SIMPLE, PyBuffer_FillInfo, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytearray cimport PyByteArray_AS_STRING, PyByteArray_GET_SIZE
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.memoryview cimport PyMemoryView_FromMemory, PyMemoryView_FromObject
from libc.errno cimport EINTR, errno
from libc.stdint cimport uint8_t
from libc.stdlib cimport free
from libc.string cimport memcpy
from posix.types cimport off_t

from xxhash import xxh3_128, xxh3_128_digest

from router._walker cimport ElementWalker
from router.errors import DatasetError

cdef extern from "Python.h":
    Py_ssize_t PY_SSIZE_T_MAX

cdef extern from "<stdlib.h>" nogil:
    int posix_memalign(void** memory, size_t alignment, size_t size)

cdef extern from "<sys/mman.h>" nogil:
    int MADV_HUGEPAGE
    int madvise(void* memory, size_t size, int advice)

cdef extern from "<unistd.h>" nogil:
    Py_ssize_t pread(int descriptor, void* memory, size_t size, off_t offset)

cdef extern from "<sys/uio.h>" nogil:
    struct iovec:
        void* iov_base
        size_t iov_len
    Py_ssize_t readv(int descriptor, const iovec* pieces, int count)

cdef enum:
    PAGE = 4096
    LARGE_PAGE = 2 << 20
    SIZE = 64 << 10
    KEPT = 512
    # What is no larger and comes in one piece needs no block.
    SMALL = 32 << 10
    # Blocks that are read into at once.
    PIECES = 8
    PIECE = 1 << 20
    PIECES_KEPT = 8

BLOCK_SIZE = SIZE
"""Bytes of a block. What fits into one is given out as ``bytes``: at least half of what is held is in use."""

BLOCKS_KEPT = KEPT
"""Blocks that stay ours once they were used; further ones are given back to the system."""

# So many blocks lie in one piece of memory, in large pages where the system has them: copying to and from the kernel, and giving
# them to the disk, looks up a few of these instead of hundreds of small ones. The piece has real memory as far as it was ever used.
cdef uint8_t* arena = NULL
cdef int arena_used = 0
# Those of it that nobody uses. Touched with the interpreter lock only.
cdef uint8_t* spare[KEPT]
cdef int spares = 0


cdef uint8_t* take() except NULL:
    global spares, arena, arena_used
    cdef void* memory = NULL
    if spares:
        spares -= 1
        return spare[spares]
    if arena == NULL and posix_memalign(&memory, LARGE_PAGE, KEPT * SIZE) == 0:
        madvise(memory, KEPT * SIZE, MADV_HUGEPAGE)  # a wish
        arena = <uint8_t*>memory
    if arena != NULL and arena_used < KEPT:
        arena_used += 1
        return arena + (arena_used - 1) * <Py_ssize_t>SIZE
    if posix_memalign(&memory, PAGE, SIZE) != 0:
        raise MemoryError
    return <uint8_t*>memory


cdef void give_back(uint8_t* memory) noexcept:
    global spares
    if arena != NULL and arena <= memory < arena + KEPT * <Py_ssize_t>SIZE:
        spare[spares] = memory
        spares += 1
    else:
        free(memory)


cdef class Block:
    """Up to BLOCK_SIZE bytes, to be read as a buffer; its memory is used again when the last reader has let go."""

    cdef uint8_t* _memory
    cdef Py_ssize_t _used

    def __cinit__(self):
        self._used = 0
        self._memory = take()

    def __dealloc__(self):
        if self._memory != NULL:
            give_back(self._memory)

    def __getbuffer__(self, Py_buffer* view, int flags):
        PyBuffer_FillInfo(view, self, self._memory, self._used, 1, flags)


cdef uint8_t* spare_piece[PIECES_KEPT]
cdef int spare_pieces = 0


cdef class Piece:
    """Bytes read back, to be read as a buffer; memory of a full one is used again when the last reader has let go."""

    cdef uint8_t* _memory
    cdef Py_ssize_t _capacity
    cdef Py_ssize_t _start
    cdef Py_ssize_t _used

    def __cinit__(self, Py_ssize_t capacity):
        global spare_pieces
        cdef void* memory = NULL
        self._start = self._used = 0
        self._capacity = capacity
        if capacity == PIECE and spare_pieces:
            spare_pieces -= 1
            memory = spare_piece[spare_pieces]
        elif posix_memalign(&memory, PAGE, capacity) != 0:
            raise MemoryError
        self._memory = <uint8_t*>memory

    def __dealloc__(self):
        global spare_pieces
        if self._capacity == PIECE and self._memory != NULL and spare_pieces < PIECES_KEPT:
            spare_piece[spare_pieces] = self._memory
            spare_pieces += 1
        else:
            free(self._memory)

    def __getbuffer__(self, Py_buffer* view, int flags):
        PyBuffer_FillInfo(view, self, self._memory + self._start, self._used, 1, flags)


PIECE_SIZE = PIECE
"""Bytes that ``read_piece`` gives at most: so many from the beginning of a page, fewer by what lies before ``offset`` in its page."""


def read_piece(int descriptor, off_t offset, Py_ssize_t most):
    """Read from a file that may be open for O_DIRECT: up to ``most`` bytes at ``offset``, as many as lie in the pages of one piece.

    Gives them as a buffer that does not change; fewer only where the file ends. Lets go of the interpreter's lock. Raises OSError.
    """
    cdef Py_ssize_t before = offset % PAGE
    cdef Py_ssize_t wanted, got, done = 0
    cdef int problem = 0
    cdef uint8_t* memory
    cdef Piece piece
    if offset < 0 or most <= 0:
        raise ValueError("nothing lies there")
    most = min(most, PIECE - before)
    # Whole pages, which is all that O_DIRECT gives.
    wanted = (before + most + PAGE - 1) // PAGE * PAGE
    piece = Piece.__new__(Piece, wanted)
    memory = piece._memory
    with nogil:
        while done < wanted:
            got = pread(descriptor, memory + done, wanted - done, offset - before + done)
            if got < 0:
                if errno == EINTR:
                    continue
                problem = errno
                break
            done += got
            if got == 0 or got % PAGE:
                break
    if problem:
        raise OSError(problem, os.strerror(problem))
    piece._start = before
    piece._used = max(0, min(most, done - before))
    return PyMemoryView_FromObject(piece)


cdef class Gatherer:
    """The bytes of one data set as they arrive: looked at, hashed and kept, whole or until others take the blocks that are full.

    Args:
        look: Looks at every fragment first: an ElementWalker, or what is to be called with it. A DatasetError that it raises ends the
            gathering. None: nobody looks.
        beyond: Called behind every fragment once there are more than ``most`` bytes, or after ``pass_on``. It may ask for what is
            ``full``.
        most: Bytes.

    What ``look`` or ``beyond`` raise otherwise, a fault of theirs, ends the gathering too. ``write`` raises it; after a ``read``, whose
    bytes are taken from the socket by then, the next call of ``write``, ``read`` or ``take`` does.
    """

    cdef list _full
    cdef Block _block
    cdef bytes _alone
    cdef ElementWalker _walker
    cdef object _look
    cdef object _first
    cdef object _hasher
    cdef object _beyond
    cdef Py_ssize_t _most
    cdef bint _over
    cdef object _fault
    cdef readonly Py_ssize_t size
    cdef readonly Py_ssize_t held
    cdef readonly object error

    def __cinit__(self, look=None, beyond=None, Py_ssize_t most=PY_SSIZE_T_MAX):
        self._full = []
        self._block = self._alone = None
        if isinstance(look, ElementWalker):
            self._walker = look
        else:
            self._look = look
        self._beyond = beyond
        self._most = most
        self._over = False
        self.size = self.held = 0

    def write(self, data):
        """The next bytes, of any contiguous buffer; they are copied."""
        cdef Py_buffer view
        if self._over:
            self._tell()
            return
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            self.size += view.len
            if self._looked(<const uint8_t*>view.buf, view.len):
                if self.size == view.len <= SMALL:
                    # Perhaps all there is: copied once only.
                    self._alone = PyBytes_FromStringAndSize(<const char*>view.buf, view.len)
                    self.held = view.len
                else:
                    self._into_block()
                    self._append(<const uint8_t*>view.buf, view.len)
        finally:
            PyBuffer_Release(&view)
        if self.size > self._most and not self._over:
            self._beyond()

    def read(self, int descriptor, Py_ssize_t left, bytearray ahead):
        """Read the next bytes of the data set, of which the sender has announced ``left`` more, from a non-blocking socket straight to
        where they are kept.

        Gives how many bytes were read; 0: there are none now, or the socket has ended; -1: all that comes has to go by ``write``. What
        comes behind the ``left`` ones, as far as it fits, is in ``ahead`` then, and counted with them. None: nothing is read ahead.
        """
        cdef iovec pieces[PIECES + 1]
        cdef Block block
        cdef list fresh = []
        cdef Py_ssize_t room, got, rest, planned = 0
        cdef int count = 0
        if self._over:
            self._tell()
            return -1
        self._into_block()
        block = self._block
        while planned < left and count < PIECES:
            if block is None:
                block = Block.__new__(Block)
                fresh.append(block)
            room = min(SIZE - block._used, left - planned)
            pieces[count].iov_base = block._memory + block._used
            pieces[count].iov_len = room
            planned += room
            count += 1
            block = None
        if ahead is not None and planned == left:
            pieces[count].iov_base = PyByteArray_AS_STRING(ahead)
            pieces[count].iov_len = PyByteArray_GET_SIZE(ahead)
            count += 1
        # With the interpreter's lock: it never waits, and to let go of the lock and get it back takes longer.
        got = readv(descriptor, pieces, count)
        if got <= 0:
            return 0
        rest = min(got, planned)
        self.size += rest
        try:
            for block in ([self._block] if self._block is not None else []) + fresh:
                if not rest:
                    break
                room = min(SIZE - block._used, rest)
                if not self._looked(block._memory + block._used, room):
                    break
                self._keep(block, room)
                rest -= room
            if self.size > self._most and not self._over:
                self._beyond()
        except Exception as fault:
            self._fault = fault
            self.drop()
        return got

    cdef int _tell(self) except -1:
        cdef object fault = self._fault
        if fault is not None:
            self._fault = None
            raise fault
        return 0

    cdef bint _looked(self, const uint8_t* at, Py_ssize_t count) except -1:
        """False: there is a mistake in it, and everything has been let go."""
        try:
            if self._walker is not None:
                self._walker.look(at, count)
            elif self._look is not None:
                self._look(PyMemoryView_FromMemory(<char*>at, count, PyBUF_READ))
        except DatasetError as error:
            self.error = error
            self.drop()
            return False
        return True

    cdef int _hash(self, piece) except -1:
        """The first piece waits: it is all of most data sets, and one call does for them."""
        if self._hasher is None:
            if self._first is None:
                self._first = piece
                return 0
            self._hasher, self._first = xxh3_128(self._first), None
        self._hasher.update(piece)
        return 0

    cdef int _keep(self, Block block, Py_ssize_t count) except -1:
        """So many bytes more are in the block that is filled."""
        cdef object piece
        block._used += count
        self.held += count
        if block._used == SIZE:
            piece = PyMemoryView_FromObject(block)
            self._hash(piece)
            self._full.append(piece)
            block = None
        self._block = block
        return 0

    cdef int _into_block(self) except -1:
        """It was not alone."""
        cdef bytes alone = self._alone
        if alone is not None:
            self._alone = None
            self.held = 0
            self._append(<const uint8_t*>PyBytes_AS_STRING(alone), PyBytes_GET_SIZE(alone))
        return 0

    cdef int _append(self, const uint8_t* at, Py_ssize_t left) except -1:
        cdef Py_ssize_t count
        cdef Block block
        while left:
            block = self._block
            if block is None:
                block = Block.__new__(Block)
            count = min(SIZE - block._used, left)
            memcpy(block._memory + block._used, at, count)
            self._keep(block, count)
            at += count
            left -= count
        return 0

    def pass_on(self):
        """From here on, ``beyond`` is called, however few there are."""
        self._most = -1

    def full(self):
        """The blocks that are full, in order, as a list of buffers that do not change any more; they are not held after it."""
        cdef list out = self._full
        self._full = []
        self.held -= len(out) * <Py_ssize_t>SIZE
        return out

    def drop(self):
        """Let go of everything; what still comes is neither looked at nor kept."""
        self._over = True
        self._full = []
        self._block = self._alone = None
        self.held = 0
        self._forget()

    cdef int _forget(self) except -1:
        """Who made us is not needed any more, and holds us: neither would be gone before Python looks for garbage, nor would bytes that
        nobody counts."""
        self._first = self._hasher = self._walker = self._look = self._beyond = None
        return 0

    def take(self):
        """All that is held, in order, as a list of buffers that do not change any more; nothing is held after it."""
        cdef list out = self._full
        cdef Block block = self._block
        cdef object piece = self._alone
        self._tell()
        self._full = []
        self._block = self._alone = None
        self.held = 0
        if block is not None:
            if out:
                piece = PyMemoryView_FromObject(block)
            else:
                piece = PyBytes_FromStringAndSize(<const char*>block._memory, block._used)
        if piece:
            self._hash(piece)
            out.append(piece)
        return out

    def end(self):
        """Nothing more comes: XXH3-128 of all that has been taken, also as ``full``."""
        cdef bytes digest = self._hasher.digest() if self._hasher is not None else xxh3_128_digest(self._first or b"")
        self._over = True
        self._forget()
        return digest
