# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Command sets, the assembling of messages, and requests with their responses, natively: some of each for every object
that passes.

Covers PS3.7 §6.3 and Annex E (command sets: always Implicit VR Little Endian), §9.1 (which response belongs to which
request) and PS3.8 Annex E (fragments to messages). Knows nothing of what a command asks for. ``dimse.command``,
``dimse.assembler`` and ``dimse.requestor`` say what each thing is for; of command sets and fragments a plain-Python
reference is in ``tests/support``; the tests compare the two.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.string cimport memcpy

from router._fastpdu cimport DataFragment
from router.errors import AbortReason, LocalProtocolError, PeerProtocolError

cdef extern from "Python.h":
    int PyUnicode_1BYTE_KIND
    int PyUnicode_KIND(object text)
    void* PyUnicode_DATA(object text)
    Py_ssize_t PyUnicode_GET_LENGTH(object text)

cdef enum:
    NO_DATA_SET = 0x0101
    RESPONSE_BIT = 0x8000
    C_STORE_RQ = 0x0001
    C_ECHO_RQ = 0x0030
    COMMENT_LENGTH = 64
    # 1 to 65535; 0 is legal, but nobody needs it.
    MESSAGE_IDS = 65535
    AE_LENGTH = 16

# What is looked at; a bit each tells whether it was seen.
cdef uint16_t[13] ELEMENTS = [
    0x0002, 0x0003, 0x0100, 0x0110, 0x0120, 0x0700, 0x0800, 0x0900, 0x0902, 0x1000, 0x1001, 0x1030, 0x1031
]


cdef inline uint32_t le16(const uint8_t* p) noexcept nogil:
    return p[0] | <uint32_t>p[1] << 8


cdef inline uint32_t le32(const uint8_t* p) noexcept nogil:
    return p[0] | <uint32_t>p[1] << 8 | <uint32_t>p[2] << 16 | <uint32_t>p[3] << 24


cdef str trimmed(const uint8_t* p, Py_ssize_t n):
    """Without the NULs and spaces around it."""
    while n and (p[n - 1] == 0 or p[n - 1] == 0x20):
        n -= 1
    while n and (p[0] == 0 or p[0] == 0x20):
        p += 1
        n -= 1
    return p[:n].decode("latin-1")


cdef class Command:
    """One command set as received; values that were absent are None or empty."""

    cdef readonly int field
    cdef readonly object message_id
    cdef readonly object responded_id
    # Affected, or for a normalized service Requested, UIDs, without padding.
    cdef readonly str sop_class
    cdef readonly str sop_instance
    # With the padding that the sender used: some compare a response to the byte.
    cdef readonly bytes sop_class_bytes
    cdef readonly bytes sop_instance_bytes
    cdef readonly object priority
    cdef readonly int data_set_type
    cdef readonly object status
    cdef readonly str error_comment
    cdef readonly str move_originator
    cdef readonly object move_originator_id

    def __cinit__(self):
        self.field = 0
        self.data_set_type = NO_DATA_SET
        self.sop_class = self.sop_instance = self.error_comment = self.move_originator = ""
        self.sop_class_bytes = self.sop_instance_bytes = b""

    @property
    def has_data_set(self):
        return self.data_set_type != NO_DATA_SET

    @property
    def is_response(self):
        return self.field & RESPONSE_BIT != 0

    def __repr__(self):
        return f"Command(0x{self.field:04X}, message_id={self.message_id}, responded_id={self.responded_id})"


cdef inline object number(const uint8_t* p, Py_ssize_t n):
    """The first value of a US element; None if it holds none."""
    return le16(p) if n >= 2 else None


cdef Command parse(const uint8_t* data, Py_ssize_t n):
    cdef Command command = Command.__new__(Command)
    cdef const uint8_t* end = data + n
    cdef const uint8_t* value
    cdef Py_ssize_t length
    cdef uint32_t element, seen = 0
    cdef int index
    cdef object field = None, kind = NO_DATA_SET
    while data < end:
        if end - data < 8:
            raise PeerProtocolError("command set is cut short", AbortReason.INVALID_PDU_PARAMETER_VALUE)
        element = le16(data + 2)
        length = <Py_ssize_t>le32(data + 4)
        value = data + 8
        if length > end - value:
            raise PeerProtocolError("command element beyond its command set", AbortReason.INVALID_PDU_PARAMETER_VALUE)
        if le16(data) != 0:
            data = value + length
            continue  # extras are ignored, ...
        data = value + length
        for index in range(13):
            if ELEMENTS[index] == element:
                break
        else:
            continue
        if seen & (1 << index):
            continue  # ... of doubles the first counts
        seen |= 1 << index
        if element == 0x0002 or (element == 0x0003 and not command.sop_class_bytes):
            command.sop_class_bytes = value[:length]
            command.sop_class = trimmed(value, length)
        elif element == 0x1000 or (element == 0x1001 and not command.sop_instance_bytes):
            command.sop_instance_bytes = value[:length]
            command.sop_instance = trimmed(value, length)
        elif element == 0x0100:
            field = number(value, length)
        elif element == 0x0110:
            command.message_id = number(value, length)
        elif element == 0x0120:
            command.responded_id = number(value, length)
        elif element == 0x0800:
            kind = number(value, length)
        elif element == 0x0900:
            command.status = number(value, length)
        elif element == 0x0700:
            command.priority = number(value, length)
        elif element == 0x0902:
            command.error_comment = trimmed(value, length)[:COMMENT_LENGTH]
        elif element == 0x1030:
            command.move_originator = trimmed(value, length)[:AE_LENGTH]
        elif element == 0x1031:
            command.move_originator_id = number(value, length)
    if field is None:
        raise PeerProtocolError("command set without Command Field", AbortReason.INVALID_PDU_PARAMETER_VALUE)
    if kind is None:
        raise PeerProtocolError("Command Data Set Type without a value", AbortReason.INVALID_PDU_PARAMETER_VALUE)
    command.field = field
    command.data_set_type = kind
    return command


def parse_command(bytes data not None):
    """Read a whole command set.

    Raises:
        PeerProtocolError: Elements do not fill the bytes exactly, there is no Command Field, or a Command Data Set Type
            says neither yes nor no.
    """
    return parse(<const uint8_t*>PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))


# Writing ---------------------------------------------------------------------------------------------------


cdef inline uint8_t* put_head(uint8_t* p, uint32_t element, Py_ssize_t length) noexcept nogil:
    p[0] = p[1] = 0
    p[2] = <uint8_t>element
    p[3] = <uint8_t>(element >> 8)
    p[4] = <uint8_t>length
    p[5] = <uint8_t>(length >> 8)
    p[6] = <uint8_t>(length >> 16)
    p[7] = <uint8_t>(length >> 24)
    return p + 8


cdef inline uint8_t* put_us(uint8_t* p, uint32_t element, uint32_t value) noexcept nogil:
    p = put_head(p, element, 2)
    p[0] = <uint8_t>value
    p[1] = <uint8_t>(value >> 8)
    return p + 2


cdef inline uint8_t* put_padded(uint8_t* p, uint32_t element, bytes value, uint8_t padding):
    """Even, as all values are."""
    cdef Py_ssize_t n = PyBytes_GET_SIZE(value)
    p = put_head(p, element, n + (n & 1))
    memcpy(p, PyBytes_AS_STRING(value), n)
    if n & 1:
        p[n] = padding
    return p + n + (n & 1)


cdef inline uint8_t* put_text(uint8_t* p, uint32_t element, str value):
    """A UID: even, as all values are."""
    cdef Py_ssize_t n = PyUnicode_GET_LENGTH(value)
    p = put_head(p, element, n + (n & 1))
    memcpy(p, PyUnicode_DATA(value), n)
    if n & 1:
        p[n] = 0
    return p + n + (n & 1)


cdef inline Py_ssize_t text_size(str value) except -1:
    """Bytes of its element. UnicodeEncodeError if it is none that a UID can be: not of Latin-1."""
    cdef Py_ssize_t n = PyUnicode_GET_LENGTH(value)
    if PyUnicode_KIND(value) != PyUnicode_1BYTE_KIND:
        value.encode("latin-1")
    return padded_size(n)


cdef inline Py_ssize_t padded_size(Py_ssize_t n) noexcept nogil:
    return 8 + n + (n & 1)


cdef enum:
    # Bytes of a group length, and of any other number.
    LENGTH_SIZE = 12
    US_SIZE = 10


cdef inline uint8_t* put_length(bytes out):
    """The group length, of a command set that fills ``out``; where the rest of it begins."""
    cdef uint8_t* p = <uint8_t*>PyBytes_AS_STRING(out)
    cdef Py_ssize_t n = PyBytes_GET_SIZE(out) - LENGTH_SIZE
    p = put_head(p, 0x0000, 4)
    p[0] = <uint8_t>n
    p[1] = <uint8_t>(n >> 8)
    p[2] = <uint8_t>(n >> 16)
    p[3] = <uint8_t>(n >> 24)
    return p + 4


def encode_c_store_rq(int message_id, str sop_class not None, str sop_instance not None, move_originator=None):
    """C-STORE-RQ (PS3.7 Table 9.3-1); Priority is always there, medium."""
    cdef Py_ssize_t size = LENGTH_SIZE + 4 * US_SIZE + text_size(sop_class) + text_size(sop_instance)
    cdef bytes mover = None, out
    cdef uint8_t* p
    if move_originator is not None:
        mover = move_originator[0].encode("latin-1", "replace")
        size += padded_size(len(mover)) + US_SIZE
    out = PyBytes_FromStringAndSize(NULL, size)
    p = put_length(out)
    p = put_text(p, 0x0002, sop_class)
    p = put_us(p, 0x0100, C_STORE_RQ)
    p = put_us(p, 0x0110, message_id)
    p = put_us(p, 0x0700, 0)
    p = put_us(p, 0x0800, 0x0001)
    p = put_text(p, 0x1000, sop_instance)
    if mover is not None:
        p = put_padded(p, 0x1030, mover, 0x20)
        put_us(p, 0x1031, <uint32_t>move_originator[1])
    return out


def encode_c_echo_rq(int message_id):
    """C-ECHO-RQ (PS3.7 Table 9.3-12)."""
    cdef str uid = "1.2.840.10008.1.1"
    cdef bytes out = PyBytes_FromStringAndSize(NULL, LENGTH_SIZE + 3 * US_SIZE + text_size(uid))
    cdef uint8_t* p = put_length(out)
    p = put_text(p, 0x0002, uid)
    p = put_us(p, 0x0100, C_ECHO_RQ)
    p = put_us(p, 0x0110, message_id)
    put_us(p, 0x0800, NO_DATA_SET)
    return out


def encode_response(Command request not None, int status, str comment not None=""):
    """The response to ``request``: its message id, its UIDs with the padding they came with, the status, and unless it
    is success a comment: fixed text of ours, cut at 64 characters."""
    cdef bytes text = comment[:COMMENT_LENGTH].encode("latin-1", "replace") if status else b""
    cdef bytes class_uid = request.sop_class_bytes, instance_uid = request.sop_instance_bytes, out
    cdef Py_ssize_t size = LENGTH_SIZE + 4 * US_SIZE
    cdef uint32_t message_id = request.message_id or 0
    cdef uint8_t* p
    for value in (class_uid, text, instance_uid):
        if value:
            size += padded_size(len(<bytes>value))
    out = PyBytes_FromStringAndSize(NULL, size)
    p = put_length(out)
    if class_uid:
        p = put_padded(p, 0x0002, class_uid, 0)
    p = put_us(p, 0x0100, request.field | RESPONSE_BIT)
    p = put_us(p, 0x0120, message_id)
    p = put_us(p, 0x0800, NO_DATA_SET)
    p = put_us(p, 0x0900, status)
    if text:
        p = put_padded(p, 0x0902, text, 0x20)
    if instance_uid:
        put_padded(p, 0x1000, instance_uid, 0)
    return out


# Fragments to messages -------------------------------------------------------------------------------------


cdef class CommandReceived:
    """A whole command set. Unless it announces a data set, the message ends here."""

    cdef readonly int context_id
    cdef readonly Command command


cdef class DataReceived:
    """Bytes of the data set of the last command; ``last`` ends the message. ``data`` lives as long as its fragment."""

    cdef readonly object data
    cdef readonly bint last


cdef class MessageAssembler:
    """One per association.

    Args:
        contexts: Ids of the accepted presentation contexts.
        command_limit: Bytes of a command set.
    """

    cdef object _contexts
    cdef Py_ssize_t _limit
    cdef bytearray _command
    cdef int _context_id
    cdef bint _data_expected

    def __init__(self, contexts, Py_ssize_t command_limit=16384):
        self._contexts = contexts
        self._limit = command_limit
        self._command = None
        self._context_id = -1
        self._data_expected = False

    @property
    def in_message(self):
        """A message has begun and not ended."""
        return self._context_id >= 0

    def feed(self, DataFragment fragment not None):
        """The next fragment; gives what it completes.

        Raises:
            PeerProtocolError: The context was not accepted, or changes within a message; command and data are out of
                order; the command set is over its limit or unreadable.
        """
        cdef DataReceived received
        cdef CommandReceived complete
        cdef int context_id = fragment.context_id
        cdef bint is_last = fragment.is_last and fragment.complete
        if self._context_id < 0:
            if context_id not in self._contexts:
                raise PeerProtocolError(
                    "message on a presentation context that was not accepted", AbortReason.UNEXPECTED_PDU_PARAMETER
                )
            self._context_id = context_id
        elif context_id != self._context_id:
            raise PeerProtocolError(
                "presentation context changes within a message", AbortReason.UNEXPECTED_PDU_PARAMETER
            )
        if fragment.is_command == self._data_expected:
            raise PeerProtocolError("command and data set fragments out of order", AbortReason.UNEXPECTED_PDU_PARAMETER)
        if self._data_expected:
            if is_last:
                self._context_id = -1
                self._data_expected = False
            received = DataReceived.__new__(DataReceived)
            received.data = fragment.data
            received.last = is_last
            return received
        complete = CommandReceived.__new__(CommandReceived)
        complete.command = self._gather(fragment.data, is_last)
        if complete.command is None:
            return None
        complete.context_id = context_id
        if complete.command.data_set_type != NO_DATA_SET:
            self._data_expected = True
        else:
            self._context_id = -1
        return complete

    def data_ended(self):
        """The data set of the last command is in, by another way than ``feed``."""
        self._context_id = -1
        self._data_expected = False

    cdef Command _gather(self, data, bint is_last):
        """The command set, once it is whole; nearly always it comes in one piece."""
        cdef Py_buffer view
        cdef Py_ssize_t have = len(self._command) if self._command is not None else 0
        cdef bytearray whole
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            if have + view.len > self._limit:
                raise PeerProtocolError("command set over its limit", AbortReason.INVALID_PDU_PARAMETER_VALUE)
            if is_last and not have:
                return parse(<const uint8_t*>view.buf, view.len)
            if self._command is None:
                self._command = bytearray()
            self._command += (<const uint8_t*>view.buf)[:view.len]
        finally:
            PyBuffer_Release(&view)
        if not is_last:
            return None
        whole, self._command = self._command, None
        return parse_command(bytes(whole))


# Requests and their responses ------------------------------------------------------------------------------


cdef class Outstanding:
    """Messages sent and not answered, at most ``window`` at once; the value is whatever the caller wants back.

    Args:
        last_id: The message id before the first one given.
    """

    cdef readonly int window
    # Nothing more may begin, or not now.
    cdef public bint stopped
    cdef int _last_id
    # Message id to (context id, command field, value), in the order sent.
    cdef dict _waiting

    def __init__(self, Py_ssize_t window, int last_id=0):
        self.window = <int>min(max(1, window), MESSAGE_IDS)
        self._last_id = last_id
        self._waiting = {}
        self.stopped = False

    def __class_getitem__(cls, item):
        return cls

    def __len__(self):
        return len(self._waiting)

    @property
    def room(self):
        return 0 if self.stopped else self.window - len(self._waiting)

    def begin(self, int context_id, int field, value):
        """A message id that no outstanding request has: 1 to 65535, wrapping.

        Raises:
            LocalProtocolError: There is no ``room``.
        """
        cdef int number = self._last_id
        if len(self._waiting) >= self.window:
            raise LocalProtocolError("the operations window is full")
        while True:
            number = number % MESSAGE_IDS + 1
            if number not in self._waiting:
                break
        self._last_id = number
        self._waiting[number] = (context_id, field, value)
        return number

    def match(self, int context_id, Command response not None):
        """The value of the request that this answers.

        Raises:
            PeerProtocolError: Unknown message id, another context, another operation, or no status.
        """
        cdef tuple found = self._waiting.get(response.responded_id)
        if found is None:
            raise PeerProtocolError("response to a message that is not outstanding")
        if context_id != <int>found[0]:
            raise PeerProtocolError("response on another presentation context")
        if response.field != <int>found[1] | RESPONSE_BIT:
            raise PeerProtocolError("response of another operation")
        if response.status is None:
            raise PeerProtocolError("response without Status")
        del self._waiting[response.responded_id]
        return found[2]

    def drain(self):
        """Everything outstanding, in the order sent; nothing is outstanding afterwards."""
        cdef list values = [found[2] for found in self._waiting.values()]
        self._waiting.clear()
        return values


cdef class Reply:
    """What will be answered to one message: a future whose callback comes at once, not in another turn of the loop."""

    cdef object _loop
    cdef object _response
    cdef object _error
    cdef object _callback

    def __init__(self, loop):
        self._loop = loop

    def add_done_callback(self, callback):
        """There is one. A fault of it is the loop's to tell, as with any callback."""
        self._callback = callback
        if self._response is not None or self._error is not None:
            self._loop.call_soon(self._tell_later)

    def done(self):
        return self._response is not None or self._error is not None

    def cancelled(self):
        return False

    def exception(self):
        return self._error

    def result(self):
        if self._response is None:
            raise self._error or LocalProtocolError("not answered yet")
        return self._response

    def set_result(self, response):
        self._response = response
        self._tell()

    def set_exception(self, error):
        self._error = error
        self._tell()

    def _tell_later(self):
        self._tell()

    cdef int _tell(self) except -1:
        cdef object callback = self._callback
        if callback is None:
            return 0
        self._callback = None
        try:
            callback(self)
        except Exception as error:
            self._loop.call_exception_handler({"message": "fault after an answer", "exception": error})
        return 0
