# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The native seam to the peer: PDUs and PDVs in, P-DATA-TF headers out.

Covers the framing of PS3.8 §9.3 (PDU header, PDV item, message control header). Knows nothing about the content of a PDU other than
P-DATA-TF, about presentation contexts, associations, or data sets. A plain-Python reference of each class is in ``tests/support``; the
tests compare the two.

Three rules keep it safe. Every byte is read below an end that was compared first. Every length from the wire meets a limit before
anything is allocated. Nothing is kept of the caller's buffer once a call has returned.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytearray cimport PyByteArray_AS_STRING
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcpy

from router.errors import AbortReason, LocalProtocolError, PeerProtocolError


cdef inline uint32_t be32(const uint8_t* p) noexcept nogil:
    return (<uint32_t>p[0] << 24) | (<uint32_t>p[1] << 16) | (<uint32_t>p[2] << 8) | p[3]


cdef inline void put_be32(uint8_t* p, uint32_t value) noexcept nogil:
    p[0] = <uint8_t>(value >> 24)
    p[1] = <uint8_t>(value >> 16)
    p[2] = <uint8_t>(value >> 8)
    p[3] = <uint8_t>value


# Receiving PDUs --------------------------------------------------------------------------------------------

cdef enum:
    ASSOCIATE_AC = 2
    P_DATA_TF = 4
    # Bits of the message control header.
    COMMAND_FRAGMENT = 1
    LAST_FRAGMENT = 2
    # The fixed PDUs have a body of 4 bytes; peers that write more are tolerated up to here.
    FIXED_PDU_LIMIT = 64
    # What an unstrict reader takes in a P-DATA-TF, whatever was announced.
    TOLERATED_PDATA = 16 << 20

cdef enum ReaderState:
    AT_PDU_HEADER
    IN_BODY
    IN_DROPPED_BODY
    AT_PDV_HEADER
    IN_PDV
    FAILED


cdef class DataFragment:
    """Bytes of one PDV.

    Args:
        is_last: The last fragment of its kind in this message; means something only where ``complete``.
        data: Valid until the next bytes of the association are looked at.
        complete: The PDV ends here.
    """

    def __init__(self, int context_id, bint is_command, bint is_last, data, bint complete):
        self.context_id = context_id
        self.is_command = is_command
        self.is_last = is_last
        self.data = data
        self.complete = complete


cdef class DataTaken:
    """Bytes of a data set that went where ``PduReader.divert`` said.

    Args:
        last: The data set ends here, and with it the diversion.
        fault: What the function that takes them raised; the diversion has ended.
    """

    def __cinit__(self, Py_ssize_t size, bint last, fault):
        self.size = size
        self.last = last
        self.fault = fault


def drop(data):
    """Takes a diverted data set that nobody wants."""


cdef class PduReader:
    """Finds PDUs and PDVs in the bytes of one association, however the network cut them.

    A P-DATA-TF body is never copied or kept: its PDVs are given as positions into the buffer that was fed. Held back are at most
    6 header bytes, and the body of another PDU until it is whole: of an A-ASSOCIATE PDU while ``associating`` says so. Between ``begin`` and
    the None of ``next`` the buffer is referred to.

    Args:
        max_pdata: Longest P-DATA-TF variable field taken, bytes: what we announced (PS3.8 D.1). 0 stands for 16 MiB.
        max_associate: Longest A-ASSOCIATE-RQ or -AC variable field taken, bytes.
        strict: False takes P-DATA-TF up to 16 MiB although less was announced.

    Standard: PS3.8 §9.3.1 and Annex E.
    """

    cdef uint8_t _header[6]
    cdef int _have
    cdef ReaderState _state
    cdef uint8_t _type
    cdef uint8_t _context
    cdef uint8_t _control
    cdef uint32_t _left
    cdef uint32_t _pdv_left
    cdef uint32_t _max_pdata
    cdef uint32_t _max_associate
    cdef bytearray _body
    cdef object _data
    cdef Py_ssize_t _position
    cdef object _write
    cdef object _read
    cdef bytearray _ahead
    cdef int _write_context
    cdef Py_ssize_t _taken
    cdef object _after
    # An A-ASSOCIATE-RQ or -AC may be expected. Else it is given by its header alone, with an empty body, and its real one is dropped:
    # nobody looks at it, and an association that is established has no budget for it.
    cdef public bint associating

    def __init__(self, uint32_t max_pdata, uint32_t max_associate=1 << 20, bint strict=True):
        self._have = 0
        self._state = AT_PDU_HEADER
        self._left = self._pdv_left = 0
        self._body = None
        self._data = self._write = self._read = self._after = None
        self._position = self._taken = 0
        if max_pdata == 0 or (not strict and max_pdata < TOLERATED_PDATA):
            max_pdata = TOLERATED_PDATA
        self._max_pdata = max_pdata
        self._max_associate = max_associate
        self.associating = True

    @property
    def mid_pdu(self):
        """True while a PDU has begun and not ended."""
        return self._state != FAILED and (self._state != AT_PDU_HEADER or self._have > 0)

    @property
    def missing(self):
        """Bytes to the end of the PDU under way, or of its header; 0 between two and after a failure."""
        if self._state == FAILED:
            return 0
        if self._state == AT_PDU_HEADER:
            return 6 - self._have if self._have else 0
        return self._left - self._have

    @property
    def buffered(self):
        """Bytes held until more arrive."""
        return self._have + (len(self._body) if self._body is not None else 0)

    def feed(self, data):
        """All that ``next`` gives of these bytes, as a list."""
        cdef list items = []
        self.begin(data)
        while True:
            item = self.next()
            if item is None:
                return items
            items.append(item)

    def begin(self, data):
        """The next bytes from the peer: a contiguous buffer that does not change until ``next`` has given None. What is left of
        earlier ones, whose end nobody waited for, is read and dropped."""
        while self._data is not None:
            self.next()
        self._position = 0
        self._data = data

    def divert(self, int context_id, write, read=None):
        """From the next PDV on, give the data set fragments of this context, as far as they are there and up to the last one, to
        ``write``: memoryviews that are valid during the call. None ends it. Only for ``begin`` with a memoryview of bytes.

        Args:
            read: ``read(descriptor, left, ahead)``, what ``pull`` reads with; see ``Gatherer.read``.
        """
        self._write = write
        self._read = read if write is not None else None
        self._write_context = context_id

    @property
    def pulls(self):
        """Whether ``pull`` would read: what comes next belongs to a PDV that is diverted, and somebody reads it."""
        return (
            self._state == IN_PDV and self._read is not None and self._context == self._write_context
            and not self._control & COMMAND_FRAGMENT
        )

    def pull(self, int descriptor, Py_ssize_t most):
        """Have the rest of the PDV under way, and of those that follow it in the same manner, read from a non-blocking socket straight
        to where they are kept: no byte passes through a buffer of ours. Only between ``next``'s None and ``begin``.

        Gives how many bytes were read, and those of them with which something else begins: they are to be given to ``begin`` next, also
        when there are none. ``next`` tells then what was taken. Ends when nothing is there, at the end of the data set, or when ``most``
        bytes were read (and no more than a PDV beyond).
        """
        cdef Py_ssize_t got, body, total = 0
        cdef bint last, follows
        while self.pulls and total < most:
            last = self._control & LAST_FRAGMENT
            follows = not last and self._left == self._pdv_left
            if follows and self._ahead is None:
                self._ahead = bytearray(HEADERS)
            try:
                got = self._read(descriptor, self._pdv_left, self._ahead if follows else None)
            except Exception as fault:
                self._after = self._diverted(False, fault)
                break
            if got < 0:
                self._read = None
            if got <= 0:
                break
            total += got
            body = min(got, <Py_ssize_t>self._pdv_left)
            self._taken += body
            self._left -= <uint32_t>body
            self._pdv_left -= <uint32_t>body
            if self._pdv_left:
                continue
            self._state = AT_PDV_HEADER if self._left else AT_PDU_HEADER
            if last:
                self._after = self._diverted(True, None)
                break
            got -= body
            if got and not (got == HEADERS and self._same_again(<const uint8_t*>PyByteArray_AS_STRING(self._ahead))):
                return total, bytes(self._ahead[:got])
        return total, b""

    cdef bint _same_again(self, const uint8_t* p) noexcept:
        """Whether a P-DATA-TF begins here whose one PDV goes on with the data set; if so, it is the PDV under way."""
        cdef uint32_t length = be32(p + 2), pdv = be32(p + 6)
        if p[0] != P_DATA_TF or length > self._max_pdata or length < 6 or pdv != length - 4 or pdv == 2:
            return False
        if p[10] != self._context or p[11] & COMMAND_FRAGMENT:
            return False
        self._control = p[11]
        self._left = self._pdv_left = length - 6
        self._state = IN_PDV
        return True

    cpdef object next(self):
        """The next thing that the bytes hold, in order of arrival; None when they are used up.

        * ``(pdu_type, body)``: a whole PDU other than P-DATA-TF (types 1, 2, 3, 5, 6, 7); 1 and 2 as ``associating`` says;
        * ``(4, context_id, control, start, end, complete)``: ``data[start:end]`` belongs to a PDV. ``complete`` is False when the
          rest of this PDV comes with a later call. ``control`` is the message control header as received: only bits 0 (command) and
          1 (last fragment) mean anything (PS3.8 E.2);
        * ``DataTaken``: what was diverted, at its end or at that of the bytes, or before anything else that is given;
        * ``(0, PeerProtocolError)``: always the last; nothing is read after it.
        """
        cdef Py_buffer view
        cdef object item
        if self._data is None:
            return None
        if self._after is not None:
            item, self._after = self._after, None
            return item
        if self._state == FAILED:
            self._data = None
            return None
        PyObject_GetBuffer(self._data, &view, PyBUF_SIMPLE)
        try:
            item = self._scan(<const uint8_t*>view.buf, view.len)
        finally:
            PyBuffer_Release(&view)
        if self._taken:
            if item is None or type(item) is not DataTaken:
                self._after = item
                return self._diverted(False, None)
        if item is None:
            self._data = None
        return item

    cdef DataTaken _diverted(self, bint last, fault):
        cdef DataTaken taken = DataTaken.__new__(DataTaken, self._taken, last, fault)
        self._taken = 0
        if last or fault is not None:
            self._write = self._read = None
        return taken

    cdef tuple _fail(self, str text, reason):
        self._state = FAILED
        self._have = 0
        self._body = None
        return 0, PeerProtocolError(text, reason)

    cdef inline Py_ssize_t _gather(self, const uint8_t* p, Py_ssize_t available) noexcept:
        """Bring the 6 header bytes together; returns how many were taken."""
        cdef Py_ssize_t take = 6 - self._have
        if take > available:
            take = available
        memcpy(self._header + self._have, p, take)
        self._have += <int>take
        return take

    cdef object _pdv(self, Py_ssize_t start, Py_ssize_t end):
        """The item for bytes of the PDV under way; None if they were diverted and more may be."""
        cdef bint complete = self._pdv_left == 0
        if self._write is None or self._context != self._write_context or self._control & COMMAND_FRAGMENT:
            return P_DATA_TF, self._context, self._control, start, end, complete
        if end > start:
            self._taken += end - start
            try:
                self._write(self._data[start:end])
            except Exception as fault:
                return self._diverted(complete and self._control & LAST_FRAGMENT != 0, fault)
        if complete and self._control & LAST_FRAGMENT:
            return self._diverted(True, None)
        return None

    cdef object _scan(self, const uint8_t* data, Py_ssize_t n):
        cdef Py_ssize_t p = self._position
        cdef Py_ssize_t take, start
        cdef uint32_t length, cap
        cdef object item
        while p < n:
            if self._state == IN_PDV:
                take = n - p
                if take > self._pdv_left:
                    take = self._pdv_left
                self._pdv_left -= <uint32_t>take
                self._left -= <uint32_t>take
                start = p
                p += take
                self._position = p
                if self._pdv_left == 0:
                    self._state = AT_PDV_HEADER if self._left else AT_PDU_HEADER
                item = self._pdv(start, p)
                if item is not None:
                    return item

            elif self._state == AT_PDV_HEADER:
                # PDV item: length (4, counting what follows), presentation context id, message control header, fragment.
                if self._have == 0 and self._left < 6:
                    return self._fail("PDV beyond its PDU", AbortReason.INVALID_PDU_PARAMETER_VALUE)
                p += self._gather(data + p, n - p)
                self._position = p
                if self._have < 6:
                    return None
                self._have = 0
                length = be32(self._header)
                if length < 2:
                    return self._fail("PDV length below 2", AbortReason.INVALID_PDU_PARAMETER_VALUE)
                if length > self._left - 4:
                    return self._fail("PDV beyond its PDU", AbortReason.INVALID_PDU_PARAMETER_VALUE)
                self._context = self._header[4]
                self._control = self._header[5]
                self._left -= 6
                self._pdv_left = length - 2
                if self._pdv_left:
                    self._state = IN_PDV
                else:
                    self._state = AT_PDV_HEADER if self._left else AT_PDU_HEADER
                    item = self._pdv(p, p)
                    if item is not None:
                        return item

            elif self._state == AT_PDU_HEADER:
                # PDU: type (1), reserved (1, not tested), length of the variable field (4).
                if self._have == 0 and not 1 <= data[p] <= 7:
                    # At once: the "length" of an HTTP request or a TLS ClientHello would be waited for in vain.
                    return self._fail("unrecognized PDU type", AbortReason.UNRECOGNIZED_PDU)
                p += self._gather(data + p, n - p)
                self._position = p
                if self._have < 6:
                    return None
                self._have = 0
                self._type = self._header[0]
                length = be32(self._header + 2)
                if self._type == P_DATA_TF:
                    cap = self._max_pdata
                elif self._type <= ASSOCIATE_AC:
                    cap = self._max_associate
                else:
                    cap = FIXED_PDU_LIMIT
                if length > cap:
                    return self._fail("PDU length over its limit", AbortReason.INVALID_PDU_PARAMETER_VALUE)
                self._left = length
                if self._type == P_DATA_TF:
                    if length:
                        self._state = AT_PDV_HEADER
                elif length and (self.associating or self._type > ASSOCIATE_AC):
                    self._state = IN_BODY
                else:
                    if length:
                        self._state = IN_DROPPED_BODY
                    return self._type, b""

            elif self._state == IN_DROPPED_BODY:
                take = n - p
                if take > self._left:
                    take = self._left
                p += take
                self._position = p
                self._left -= <uint32_t>take
                if self._left == 0:
                    self._state = AT_PDU_HEADER

            else:  # IN_BODY
                take = n - p
                if take > self._left:
                    take = self._left
                start = p
                p += take
                self._position = p
                self._left -= <uint32_t>take
                if self._body is None and self._left == 0:
                    self._state = AT_PDU_HEADER
                    return self._type, PyBytes_FromStringAndSize(<const char*>data + start, take)
                if self._body is None:
                    self._body = bytearray()
                self._body += PyBytes_FromStringAndSize(<const char*>data + start, take)
                if self._left == 0:
                    self._state = AT_PDU_HEADER
                    item = self._type, bytes(self._body)
                    self._body = None
                    return item
        return None


cdef class EventReader:
    """What the bytes of one association mean, one event after the other. Fragments of messages and what is told of diverted ones pass as
    they are while ``plain`` says so: they are the bulk of all work. Everything else is judged first.

    Args:
        events: What comes of a judgement, and goes before the next item: first in, first out.
    """

    cdef PduReader _reader
    cdef object _judge
    cdef list _events
    cdef object _data
    cdef list _items
    # P-DATA-TF means a fragment of a message (Sta6 and Sta7).
    cdef public bint plain

    def __init__(self, PduReader reader not None, list events not None):
        self._reader = reader
        self._events = events
        self._judge = self._data = None
        self._items = []
        self.plain = False

    def begin(self, data, judge, items=None):
        """Read ``data`` next, or ``items``, which an earlier ``feed`` of the reader found in it. Gives this reader, to be iterated until
        it ends, or until ``skip``.

        Args:
            judge: ``judge(item, rest, data)`` is given what the reader found and does what it asks for; ``rest`` gives what comes behind it
                in the same bytes, then None, and ``data`` is what the positions of a P-DATA-TF refer to.
        """
        self._data = data
        self._judge = judge
        if items is None:
            self._items = []
            self._reader.begin(data)
        else:
            self._items = list(reversed(items))
        return self

    def skip(self):
        """Read over what is left."""
        while self.rest() is not None:
            pass

    cpdef object rest(self):
        """The next item, as ``PduReader.next``."""
        cdef object item = self._items.pop() if self._items else self._reader.next()
        if item is None:
            self._judge = self._data = None  # nothing is kept, nor in a circle with who judges
        return item

    def __iter__(self):
        return self

    def __next__(self):
        cdef object item
        cdef tuple found
        cdef DataFragment fragment
        cdef int control
        while True:
            if self._events:
                return self._events.pop(0)
            item = self.rest()
            if item is None:
                raise StopIteration
            if type(item) is DataTaken:
                return item
            found = item
            if self.plain and found[0] == P_DATA_TF:
                fragment = DataFragment.__new__(DataFragment)
                control = found[2]
                fragment.context_id = found[1]
                fragment.is_command = control & COMMAND_FRAGMENT != 0
                fragment.is_last = control & LAST_FRAGMENT != 0
                fragment.data = self._data[found[3]:found[4]]
                fragment.complete = found[5]
                return fragment
            self._judge(found, self.rest, self._data)


# Sending messages ------------------------------------------------------------------------------------------

cdef enum:
    # PDU header and PDV item header before each fragment.
    HEADERS = 12
    # P-DATA-TF we send to a peer that set no limit.
    DEFAULT_PDU = 131072
    # And the longest at all: a peer that announces gigabytes would otherwise be sent a PDU we could not abort within.
    LONGEST_PDU = 1 << 20
    # Fragments below this are copied together instead of being given as slices: one buffer for each would cost more than the copy.
    SMALL_FRAGMENT = 2048
    # A message up to this size becomes one bytes object.
    SMALL_MESSAGE = 4096

# More than any data set: what is left of one whose size nobody knows yet.
cdef unsigned long long OPEN_ENDED = <unsigned long long>1 << 62


cdef Py_ssize_t fragment_size(unsigned long long max_length) except -1:
    """Data bytes per fragment for a peer's maximum length: even, PDV header counted (PS3.8 D.1, E.1)."""
    if max_length == 0:
        max_length = DEFAULT_PDU
    elif max_length < 8:
        raise LocalProtocolError("the peer's maximum length leaves no room for data")
    elif max_length > LONGEST_PDU:
        max_length = LONGEST_PDU
    return <Py_ssize_t>((max_length - 6) & ~<unsigned long long>1)


cdef inline void put_headers(uint8_t* p, uint8_t context_id, uint8_t control, Py_ssize_t data) noexcept nogil:
    """The 12 bytes before a fragment of ``data`` bytes: P-DATA-TF header, then PDV item header."""
    p[0] = P_DATA_TF
    p[1] = 0
    put_be32(p + 2, <uint32_t>(data + 6))
    put_be32(p + 6, <uint32_t>(data + 2))
    p[10] = context_id
    p[11] = control


cdef bytes frame_copied(uint8_t context_id, uint8_t kind, const uint8_t* data, Py_ssize_t n, Py_ssize_t fragment):
    """A whole command or data set in P-DATA-TF PDUs of its own, in one bytes object."""
    cdef Py_ssize_t count = (n + fragment - 1) // fragment if n else 1
    cdef bytes out = PyBytes_FromStringAndSize(NULL, n + count * HEADERS)
    cdef uint8_t* to = <uint8_t*>PyBytes_AS_STRING(out)
    cdef Py_ssize_t take
    while True:
        take = n if n < fragment else fragment
        put_headers(to, context_id, kind | (LAST_FRAGMENT if take == n else 0), take)
        memcpy(to + HEADERS, data, take)
        to += HEADERS + take
        data += take
        n -= take
        if n == 0:
            return out


cdef class MessageFramer:
    """Puts P-DATA-TF headers around a data set that is given piece by piece.

    Fragments follow the total size and not the pieces: each is as long as the peer takes, and may begin in one piece and end
    in the next. So all but the last are even.

    Args:
        context_id: Presentation context id of the message.
        size: Bytes of the whole data set. 0 gives one empty last fragment. None: open-ended, not known before ``end``; then only
            whole PDUs are given out, and up to one fragment, never nothing once there was data, is held back for ``end`` to mark as the last.
        max_length: The peer's maximum length; 0 is no limit.

    Raises:
        LocalProtocolError: If ``max_length`` is 1 to 7, which leaves no room for data.

    Standard: PS3.8 §9.3.5, Annex D.1 and E.
    """

    cdef uint8_t _context_id
    cdef Py_ssize_t _fragment
    cdef Py_ssize_t _fragment_left
    cdef unsigned long long _left
    cdef bint _done
    cdef list _held
    cdef Py_ssize_t _held_size

    def __init__(self, uint8_t context_id, size, unsigned long long max_length):
        self._context_id = context_id
        self._fragment = fragment_size(max_length)
        self._fragment_left = 0
        self._left = OPEN_ENDED if size is None else <unsigned long long>size
        self._done = False
        self._held = [] if size is None else None
        self._held_size = 0

    cdef inline uint8_t _open(self, Py_ssize_t* length) noexcept:
        """Begin the next fragment: sets its length, returns its message control header."""
        if self._left <= <unsigned long long>self._fragment:
            self._fragment_left = <Py_ssize_t>self._left
            length[0] = self._fragment_left
            return LAST_FRAGMENT
        self._fragment_left = length[0] = self._fragment
        return 0

    cdef bytes _copied(self, const uint8_t* data, Py_ssize_t n):
        """``data`` with the headers that begin within it, in one bytes object."""
        cdef Py_ssize_t beginning = n - self._fragment_left
        cdef Py_ssize_t count = (beginning + self._fragment - 1) // self._fragment if beginning > 0 else 0
        cdef bytes out = PyBytes_FromStringAndSize(NULL, n + count * HEADERS)
        cdef uint8_t* to = <uint8_t*>PyBytes_AS_STRING(out)
        cdef Py_ssize_t take, length = 0
        cdef uint8_t control
        while n:
            if self._fragment_left == 0:
                control = self._open(&length)
                put_headers(to, self._context_id, control, length)
                to += HEADERS
            take = n if n < self._fragment_left else self._fragment_left
            memcpy(to, data, take)
            to += take
            data += take
            n -= take
            self._fragment_left -= take
            self._left -= <unsigned long long>take
        return out

    cdef int _slices(self, object chunk, Py_ssize_t n, list out) except -1:
        cdef Py_ssize_t p = 0, take, length = 0
        cdef uint8_t control
        cdef uint8_t header[HEADERS]
        cdef object whole = None
        while p < n:
            if self._fragment_left == 0:
                control = self._open(&length)
                put_headers(header, self._context_id, control, length)
                out.append(PyBytes_FromStringAndSize(<const char*>header, HEADERS))
            take = n - p
            if take > self._fragment_left:
                take = self._fragment_left
            if take == n:
                out.append(chunk)
            else:
                if whole is None:
                    whole = memoryview(chunk)
                    if whole.itemsize != 1:
                        whole = whole.cast("B")
                out.append(whole[p : p + take])
            p += take
            self._fragment_left -= take
            self._left -= <unsigned long long>take
        return 0

    cdef int _feed(self, object chunk, list out) except -1:
        cdef Py_buffer view
        cdef uint8_t header[HEADERS]
        PyObject_GetBuffer(chunk, &view, PyBUF_SIMPLE)
        try:
            if <unsigned long long>view.len > self._left:
                raise LocalProtocolError("more data than the size that was said")
            if self._done:
                return 0
            if self._left == 0:
                put_headers(header, self._context_id, LAST_FRAGMENT, 0)
                out.append(PyBytes_FromStringAndSize(<const char*>header, HEADERS))
            elif view.len == 0:
                return 0
            elif self._fragment < SMALL_FRAGMENT:
                out.append(self._copied(<const uint8_t*>view.buf, view.len))
            else:
                self._slices(chunk, view.len, out)
            self._done = self._left == 0
        finally:
            PyBuffer_Release(&view)
        return 0

    cdef int _feed_held(self, object chunk, list out) except -1:
        """Open-ended: as many whole fragments as leave something for the last one."""
        cdef object view = memoryview(chunk)
        cdef Py_ssize_t n, give
        if view.itemsize != 1:
            view = view.cast("B")
        n = len(view)
        if n == 0:
            return 0
        give = (self._held_size + n - 1) // self._fragment * self._fragment
        self._held_size += n - give
        if give:
            # What was held is one fragment at most, so all of it leaves.
            for piece in self._held:
                give -= len(piece)
                self._feed(piece, out)
            self._held = []
            self._feed(view[:give], out)
        self._held.append(view[give:] if give else chunk)
        return 0

    @property
    def left(self):
        """Bytes of the data set not fed yet; None: not known."""
        return None if self._held is not None else self._left

    def feed(self, chunk):
        """The next bytes of the data set; returns the buffers to write, in order. Slices refer to ``chunk``.

        Raises:
            LocalProtocolError: If this is more than ``size``.
        """
        cdef list out = []
        if self._held is not None:
            self._feed_held(chunk, out)
        else:
            self._feed(chunk, out)
        return out

    def end(self):
        """Open-ended: the data set is whole; returns the buffers of its last fragment.

        Raises:
            LocalProtocolError: If the size was known, or the end has been said before.
        """
        cdef list out = []
        cdef list held = self._held
        if held is None:
            raise LocalProtocolError("the end of a data set whose size was said")
        self._held = None
        self._left = <unsigned long long>self._held_size
        for piece in held or (b"",):
            self._feed(piece, out)
        return out


def frame_message(uint8_t context_id, bytes command not None, chunks, unsigned long long size, unsigned long long max_length):
    """A whole DIMSE message as buffers to write in order.

    Command set and data set never share a P-DATA-TF (PS3.8 E.2 would allow it, some acceptors do not). A message of up to 4 KiB is
    one bytes object; otherwise the command set and the first header are one, and the data is slices of ``chunks``.

    Args:
        context_id: Presentation context id.
        command: The encoded command set.
        chunks: The data set in pieces, ``size`` bytes together. No chunks: the message has no data set.
        size: Bytes of the data set.
        max_length: The peer's maximum length; 0 is no limit.

    Raises:
        LocalProtocolError: If ``max_length`` is 1 to 7, or ``size`` is not what the chunks hold.
    """
    cdef Py_ssize_t fragment = fragment_size(max_length)
    cdef const uint8_t* command_bytes = <const uint8_t*>PyBytes_AS_STRING(command)
    cdef bytes head = frame_copied(context_id, COMMAND_FRAGMENT, command_bytes, len(command), fragment)
    cdef list out
    cdef MessageFramer framer
    if not chunks:
        if size:
            raise LocalProtocolError("less data than the size that was said")
        return [head]
    framer = MessageFramer(context_id, size, max_length)
    out = []
    for chunk in chunks:
        framer._feed(chunk, out)
    if framer._left:
        raise LocalProtocolError("less data than the size that was said")
    if len(head) + size + HEADERS <= SMALL_MESSAGE:
        out.insert(0, head)
        return [b"".join(out)]
    if type(out[0]) is bytes and len(<bytes>out[0]) == HEADERS:
        out[0] = head + <bytes>out[0]
    else:
        out.insert(0, head)
    return out
