# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The walk over the elements of a data set as it arrives.

Covers PS3.5 §7: data elements, sequences, items, encapsulated Pixel Data. Knows nothing of what an element means. A plain-Python reference
is in ``tests/support``; the tests compare the two.

Every byte is read below an end that was compared first, every length from the wire meets a limit before anything is allocated, and nothing
is kept of the caller's buffer once a call has returned.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from router.errors import DatasetError
from router.model import Status

include "_sequence_tags.pxi"

cdef extern from "Python.h":
    int PyUnicode_1BYTE_KIND
    int PyUnicode_KIND(object text)
    void* PyUnicode_DATA(object text)
    Py_ssize_t PyUnicode_GET_LENGTH(object text)

cdef enum:
    ITEM_TAG = 0xFFFEE000
    ITEM_DELIMITER = 0xFFFEE00D
    SEQUENCE_DELIMITER = 0xFFFEE0DD
    FLOAT_PIXEL_DATA = 0x7FE00008
    DOUBLE_PIXEL_DATA = 0x7FE00009
    PIXEL_DATA = 0x7FE00010

    UNDEFINED_LENGTH = 0xFFFFFFFF
    # A longer value is not collected: no rule compares 64 KiB of text.
    VALUE_LIMIT = 65536

    VR_UNKNOWN = 0
    VR_SHORT = 1
    VR_LONG = 2

    VR_OB = 0x4F42
    VR_OW = 0x4F57
    VR_SQ = 0x5351
    VR_UN = 0x554E

cdef uint64_t NO_END = <uint64_t>-1

# How an explicit VR writes its length (PS3.5 §7.1.2), by its two letters.
cdef uint8_t[676] VR_KINDS
# The two letters as text; the last is for an element whose encoding does not say its VR.
cdef tuple VR_NAMES = (*(chr(65 + i // 26) + chr(65 + i % 26) for i in range(676)), "")


cdef inline int vr_index(uint8_t first, uint8_t second) noexcept nogil:
    """Below 0 unless both are upper case letters."""
    if 65 <= first <= 90 and 65 <= second <= 90:
        return (first - 65) * 26 + (second - 65)
    return -1


cdef int _fill_vr_kinds() except -1:
    cdef str vr
    for vr in "AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US".split():
        VR_KINDS[vr_index(ord(vr[0]), ord(vr[1]))] = VR_SHORT
    for vr in "OB OD OF OL OV OW SQ SV UC UN UR UT UV".split():
        VR_KINDS[vr_index(ord(vr[0]), ord(vr[1]))] = VR_LONG
    return 0


_fill_vr_kinds()


cdef inline uint32_t read16(const uint8_t* p, bint little) noexcept nogil:
    return (<uint32_t>p[1] << 8) | p[0] if little else (<uint32_t>p[0] << 8) | p[1]


cdef inline uint32_t read32(const uint8_t* p, bint little) noexcept nogil:
    if little:
        return (<uint32_t>p[3] << 24) | (<uint32_t>p[2] << 16) | (<uint32_t>p[1] << 8) | p[0]
    return (<uint32_t>p[0] << 24) | (<uint32_t>p[1] << 16) | (<uint32_t>p[2] << 8) | p[3]


cdef inline uint32_t read_tag(const uint8_t* p, bint little) noexcept nogil:
    return (read16(p, little) << 16) | read16(p + 2, little)


cdef bint is_sequence_tag(uint32_t tag) noexcept nogil:
    cdef int low = 0, high = SEQUENCE_TAG_COUNT, middle
    while low < high:
        middle = (low + high) >> 1
        if SEQUENCE_TAGS[middle] < tag:
            low = middle + 1
        else:
            high = middle
    return low < SEQUENCE_TAG_COUNT and SEQUENCE_TAGS[low] == tag


cdef class Plan:
    """The wanted paths as arrays that the walk can search without touching a Python object. Level 0 is the data set."""

    def __cinit__(self, paths):
        cdef int number, wanted = 0, items = 0
        # Each level is {tag: [path number or -1, {item number: level}]}.
        cdef list levels = [{}]
        cdef dict level
        self.paths = sorted(paths)
        for number, path in enumerate(self.paths):
            if len(path) % 2 == 0:
                raise ValueError("a path is tags with item numbers between them")
            level = levels[0]
            steps = list(path)
            last = steps.pop()
            for tag, item in zip(steps[::2], steps[1::2]):
                entry = level.setdefault(tag, [-1, {}])
                if item not in entry[1]:
                    entry[1][item] = len(levels)
                    levels.append({})
                    items += 1
                level = levels[entry[1][item]]
            level.setdefault(last, [-1, {}])[0] = number
        for level in levels:
            wanted += len(level)
        self.wanted = <Wanted*>PyMem_Malloc(max(wanted, 1) * sizeof(Wanted))
        self.items = <WantedItem*>PyMem_Malloc(max(items, 1) * sizeof(WantedItem))
        self.levels = <Level*>PyMem_Malloc(len(levels) * sizeof(Level))
        if not self.wanted or not self.items or not self.levels:
            raise MemoryError
        wanted = items = 0
        for number, level in enumerate(levels):
            self.levels[number] = Level(wanted, len(level))
            for tag, entry in sorted(level.items()):
                self.wanted[wanted] = Wanted(tag, entry[0], items, len(entry[1]))
                wanted += 1
                for item, below in entry[1].items():
                    self.items[items] = WantedItem(item, below)
                    items += 1

    def __dealloc__(self):
        PyMem_Free(self.wanted)
        PyMem_Free(self.items)
        PyMem_Free(self.levels)

    cdef int find(self, int level, uint32_t tag) noexcept nogil:
        """The number of the Wanted with this tag in a level, or -1."""
        cdef int low, high, middle
        if level < 0:
            return -1
        low = self.levels[level].first
        high = low + self.levels[level].count
        while low < high:
            middle = (low + high) >> 1
            if self.wanted[middle].tag < tag:
                low = middle + 1
            else:
                high = middle
        if low < self.levels[level].first + self.levels[level].count and self.wanted[low].tag == tag:
            return low
        return -1

    cdef int below(self, int wanted, uint32_t item) noexcept nogil:
        """The level of one item of a wanted sequence, or -1."""
        cdef int i
        if wanted < 0:
            return -1
        for i in range(self.wanted[wanted].first_item, self.wanted[wanted].first_item + self.wanted[wanted].items):
            if self.items[i].number == item:
                return self.items[i].level
        return -1


# Every object of a rule set wants the same paths, so the plan is made once per rule set.
_plans: dict = {}


cdef Plan plan_for(wanted):
    cdef Plan plan = _plans.get(wanted)
    if plan is None:
        plan = Plan(wanted)
        if len(_plans) >= 16:
            _plans.clear()
        _plans[wanted] = plan
    return plan


cdef class ElementWalker:
    """Checks the element framing of a data set as it streams past, to the last byte, and collects some values.

    Values are skipped by their length, so bulk data costs nothing. Nothing is decoded, nothing recurses, and what is held is bounded: 12
    header bytes, one value of up to 64 KiB, a frame per level of nesting.

    What is legal: undefined length for SQ, items, UN (implicit VR little endian inside, CP-246) and OB or OW (fragments);
    elements in any order; group lengths; private blocks; odd lengths; one NUL after an odd total. A data set whose first
    element shows the other VR encoding than negotiated is walked as what it is, and so is a single element without a VR in an explicit
    data set. In implicit VR the standard's sequences are entered; a private one of defined length is skipped as a value.
    A data set that begins with group 0002 is walked too: explicit VR little endian first, its own encoding after.

    Args:
        explicit: The transfer syntax has explicit VR.
        little_endian: And is little endian.
        wanted: Paths to collect: ``(tag,)`` or ``(sequence, item number, tag, ...)``; a tag is group << 16 | element.
        max_depth: Sequences within one another.
        max_elements: Elements before Pixel Data, nested ones counted.
        max_header_bytes: Bytes before Pixel Data (values over 64 KiB not counted) after which nothing is collected any more.

    Standard: PS3.5 §7, Annex A.4.
    """

    def __cinit__(self):
        self._stack = NULL

    def __init__(
        self,
        bint explicit,
        bint little_endian,
        frozenset wanted not None,
        int max_depth=64,
        uint64_t max_elements=200_000,
        uint64_t max_header_bytes=8 << 20,
    ):
        if max_depth < 0 or max_depth > 1 << 16:
            raise ValueError("max_depth")
        self._plan = plan_for(wanted)
        # A sequence and an item for each level, the data set, and the fragments of Pixel Data.
        PyMem_Free(self._stack)
        self._stack = <Frame*>PyMem_Malloc((2 * max_depth + 2) * sizeof(Frame))
        if not self._stack:
            raise MemoryError
        self._stack[0] = Frame(DATA_SET, explicit, little_endian, 0, 0, NO_END, NO_END)
        self._top = self._nesting = 0
        self._max_depth = max_depth
        self._max_elements = max_elements
        self._max_header_bytes = max_header_bytes
        self._elements = self._header_bytes = self._position = self._skip = 0
        self._have = 0
        self._begun = self._in_meta = self._past_header = False
        self._seen = bytearray(len(self._plan.paths))
        self._target = -1
        self._value = None
        self._error = None
        self._explicit = explicit
        self._little = little_endian
        self.truncated = self.has_meta = False
        self.values = {}
        self.unavailable = []

    def __dealloc__(self):
        PyMem_Free(self._stack)

    @property
    def position(self):
        """Bytes walked so far."""
        return self._position + self._have

    @property
    def past_header(self):
        """Whether Pixel Data has been reached: nothing that describes the image comes after it."""
        return self._past_header

    @property
    def explicit(self):
        """Whether the data set is in explicit VR, as its first element shows."""
        return self._stack[0].explicit

    def feed(self, data):
        """The next bytes of the data set.

        Raises:
            DatasetError: FRAMING_ERROR, TOO_MANY_ELEMENTS or NESTED_TOO_DEEP; again with every later call.
        """
        cdef Py_buffer view
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            self.look(<const uint8_t*>view.buf, view.len)
        finally:
            PyBuffer_Release(&view)

    cdef int look(self, const uint8_t* data, Py_ssize_t n) except -1:
        """``feed``, for other native code."""
        if self._error is not None:
            raise self._error
        return self._walk(data, n)

    def finish(self):
        """The data set ends here.

        Raises:
            DatasetError: FRAMING_ERROR, if it ends within an element, an item or a sequence.
        """
        if self._error is not None:
            raise self._error
        if self._top or self._skip:
            self._fail("data set is cut short")
        if self._have:
            # PS3.5 forbids odd lengths; who has one anyway may have padded the whole with one NUL.
            if not (self._have == 1 and self._held[0] == 0 and self._position & 1):
                self._fail("data set is cut short")

    cdef int _fail(self, str text, status=Status.FRAMING_ERROR) except -1:
        self._error = DatasetError(status, text)
        self._value = None
        raise self._error

    cdef int _walk(self, const uint8_t* data, Py_ssize_t n) except -1:
        cdef Py_ssize_t p = 0, take
        cdef int used
        while p < n:
            if self._skip:
                take = n - p
                if <uint64_t>take > self._skip:
                    take = <Py_ssize_t>self._skip
                if self._target >= 0:
                    self._gather(data + p, take)
                p += take
                self._position += <uint64_t>take
                self._skip -= <uint64_t>take
                if self._skip:
                    return 0
            elif self._have:
                # A header that the end of an earlier buffer cut.
                take = n - p
                if take > LONGEST_HEADER - self._have:
                    take = LONGEST_HEADER - self._have
                memcpy(self._held + self._have, data + p, take)
                used = self._header(self._held, self._have + take)
                if used == 0:
                    self._have += <int>take
                    return 0
                p += used - self._have
                self._have = 0
            else:
                used = self._header(data + p, n - p)
                if used == 0:
                    take = n - p
                    memcpy(self._held, data + p, take)
                    self._have = <int>take
                    return 0
                p += used
            if self._skip == 0:
                while self._stack[self._top].end == self._position:
                    self._pop()
        return 0

    cdef void _pop(self) noexcept:
        if self._stack[self._top].kind == SEQUENCE:
            self._nesting -= 1
        self._top -= 1

    cdef int _gather(self, const uint8_t* data, Py_ssize_t n) except -1:
        """More of the value that is collected; the whole of it makes one bytes object."""
        cdef bytes part = PyBytes_FromStringAndSize(<const char*>data, n)
        if self._value is None:
            if <uint64_t>n == self._skip:
                return self._collect(part)
            self._value = bytearray()
        self._value += part
        if <uint64_t>n == self._skip:
            self._collect(bytes(self._value))
            self._value = None
        return 0

    cdef int _collect(self, bytes value) except -1:
        cdef int name = 676
        if self._target_vr:
            name = vr_index(self._target_vr >> 8, self._target_vr & 0xFF)
        self.values[self._plan.paths[self._target]] = (VR_NAMES[name], value)
        self._target = -1
        return 0

    cdef int _want(self, int wanted, uint32_t vr, uint64_t length) except -1:
        """Decide whether the value of ``length`` bytes that follows is collected."""
        cdef int path
        if wanted < 0:
            return 0
        path = self._plan.wanted[wanted].path
        # The first of several elements with one tag counts, so what is collected has a bound.
        if path < 0 or self._seen[path] or self.truncated:
            return 0
        self._seen[path] = 1
        if length > VALUE_LIMIT:
            self.unavailable.append(self._plan.paths[path])
            return 0
        self._target = path
        self._target_vr = vr
        if length == 0:
            self._collect(b"")
        return 0

    cdef int _push(self, FrameKind kind, bint explicit, bint little, int wanted, uint32_t length) except -1:
        cdef Frame* around = &self._stack[self._top]
        cdef uint64_t end = NO_END, limit = around.limit
        if kind == SEQUENCE:
            if self._nesting == self._max_depth:
                self._fail("sequences are nested too deep", Status.NESTED_TOO_DEEP)
            self._nesting += 1
        if length != UNDEFINED_LENGTH:
            end = limit = self._position + length
        self._top += 1
        self._stack[self._top] = Frame(kind, explicit, little, wanted, 0, end, limit)
        return 0

    cdef int _header(self, const uint8_t* h, Py_ssize_t available) except -1:
        """Read the header at ``h``; returns its bytes, or 0 if more than ``available`` are needed."""
        cdef Frame* top = &self._stack[self._top]
        cdef uint32_t tag, length, vr = 0
        cdef int used = 8, index = -1, wanted
        if available < 8:
            return 0
        if top.kind == SEQUENCE or top.kind == FRAGMENTS:
            return self._item(h)
        if not self._begun or (self._in_meta and self._top == 0):
            self._begin(h)
        tag = read_tag(h, top.little)

        # Data element: tag; then VR and a 16-bit length, or VR, 2 reserved bytes and a 32-bit length, or a 32-bit length only.
        if tag >> 16 == 0xFFFE:
            if tag != ITEM_DELIMITER or top.kind != ITEM or top.end != NO_END:
                return self._fail("delimiter where none may be")
            self._position += 8
            if self._position > top.limit:
                return self._fail("element beyond what encloses it")
            self._pop()
            return 8
        if top.explicit:
            index = vr_index(h[4], h[5])
        if index < 0:
            length = read32(h + 4, top.little)
        else:
            vr = (<uint32_t>h[4] << 8) | h[5]
            # A VR of the future has the long form (PS3.5 §6.2); where its reserved bytes are not 0, it was not meant so.
            if VR_KINDS[index] == VR_LONG or (VR_KINDS[index] == VR_UNKNOWN and h[6] == 0 and h[7] == 0):
                if available < 12:
                    return 0
                used = 12
                length = read32(h + 8, top.little)
            else:
                length = read16(h + 6, top.little)

        self._begun = True
        self._position += <uint64_t>used
        if self._position > top.limit:
            return self._fail("element beyond what encloses it")
        wanted = self._plan.find(top.wanted, tag)
        if not self._past_header:
            if self._top == 0 and (tag == PIXEL_DATA or tag == FLOAT_PIXEL_DATA or tag == DOUBLE_PIXEL_DATA):
                self._past_header = True
            else:
                self._elements += 1
                if self._elements > self._max_elements:
                    return self._fail("too many elements", Status.TOO_MANY_ELEMENTS)
                self._header_bytes += <uint64_t>used + (length if length <= VALUE_LIMIT else 0)
                if self._header_bytes > self._max_header_bytes:
                    self.truncated = True

        if length == UNDEFINED_LENGTH:
            self._want(wanted, vr, 0)
            if vr == VR_OB or vr == VR_OW or (tag == PIXEL_DATA and (vr == VR_UN or vr == 0)):
                self._push(FRAGMENTS, top.explicit, top.little, -1, length)
            elif vr == VR_SQ or vr == 0:
                self._push(SEQUENCE, top.explicit, top.little, wanted, length)
            elif vr == VR_UN:
                self._push(SEQUENCE, False, True, wanted, length)
            else:
                return self._fail("undefined length where none may be")
            return used
        if length > top.limit - self._position:
            return self._fail("element beyond what encloses it")
        if vr == VR_SQ or (vr == 0 and is_sequence_tag(tag)):
            self._want(wanted, vr if vr else VR_SQ, 0)
            self._push(SEQUENCE, top.explicit, top.little, wanted, length)
            return used
        self._want(wanted, vr, length)
        self._skip = length
        return used

    cdef int _begin(self, const uint8_t* h) except -1:
        """See from the first bytes how the data set is encoded (protocol: some senders do not keep to what they negotiated)."""
        cdef Frame* root = &self._stack[0]
        cdef int index = vr_index(h[4], h[5])
        if h[0] == 2 and h[1] == 0:
            self.has_meta = self._in_meta = True
            root.explicit = root.little = True
            return 0
        self._in_meta = False
        root.little = self._little
        if self._explicit:
            root.explicit = index >= 0
        else:
            root.explicit = index >= 0 and VR_KINDS[index] != VR_UNKNOWN
        return 0

    cdef int _item(self, const uint8_t* h) except -1:
        """An item, a fragment, or the delimiter after them: tag and a 32-bit length, no VR in any encoding (PS3.5 §7.5)."""
        cdef Frame* top = &self._stack[self._top]
        cdef uint32_t tag = read_tag(h, top.little)
        cdef uint32_t length = read32(h + 4, top.little)
        cdef int level
        self._position += 8
        if self._position > top.limit:
            return self._fail("item beyond its sequence")
        if tag == SEQUENCE_DELIMITER and top.end == NO_END:
            self._pop()
            return 8
        if tag != ITEM_TAG:
            return self._fail("no item where one must be")
        if length != UNDEFINED_LENGTH and length > top.limit - self._position:
            return self._fail("item beyond its sequence")
        if top.kind == FRAGMENTS:
            if length == UNDEFINED_LENGTH:
                return self._fail("fragment of undefined length")
            self._skip = length
            return 8
        level = self._plan.below(top.wanted, top.next_item)
        top.next_item += 1
        self._push(ITEM, top.explicit, top.little, level, length)
        return 8


def valid_uid(str text not None):
    """Whether this is 1 to 64 digits and dots with no component empty (PS3.5 §9.1).

    Leading zeros of a component are forbidden by the standard, harmless to us, and sent by modalities: accepted.
    """
    cdef Py_ssize_t n = PyUnicode_GET_LENGTH(text), index
    cdef const uint8_t* p = <const uint8_t*>PyUnicode_DATA(text)
    cdef uint8_t before = 0x2E
    if n == 0 or n > 64 or PyUnicode_KIND(text) != PyUnicode_1BYTE_KIND:
        return False
    for index in range(n):
        if not (0x30 <= p[index] <= 0x39 or (p[index] == 0x2E and before != 0x2E)):
            return False
        before = p[index]
    return before != 0x2E


cpdef plain_text(bytes value):
    """One value of ASCII text without the NULs and spaces around it; None for anything that needs a closer look: a backslash, an
    ESC, characters beyond ASCII (PS3.5 §6.1, §6.4)."""
    cdef const uint8_t* p = <const uint8_t*>PyBytes_AS_STRING(value)
    cdef Py_ssize_t n = len(value), index
    cdef uint8_t close = 0
    # Without a way out, so that many are looked at in one step.
    for index in range(n):
        close |= (p[index] >= 0x80) | (p[index] == 0x5C) | (p[index] == 0x1B)
    if close:
        return None
    while n and (p[n - 1] == 0 or p[n - 1] == 0x20):
        n -= 1
    while n and (p[0] == 0 or p[0] == 0x20):
        p += 1
        n -= 1
    return p[:n].decode("ascii")


def alike(dict values not None, tuple paths not None, Py_ssize_t most):
    """The (VR, value) at each path, None for one that is missing: equal for data sets that cannot be told apart by them. None if they
    are more than ``most`` bytes together."""
    cdef list found = []
    cdef object path, entry
    cdef Py_ssize_t size = 0
    for path in paths:
        entry = values.get(path)
        if entry is not None:
            size += len(<bytes>(<tuple>entry)[1])
            if size > most:
                return None
        found.append(entry)
    return tuple(found)


def plain_texts(dict values not None, paths, frozenset plain not None):
    """``plain_text`` of the (VR, value) at each path, "" for one that is missing, None for one whose VR is not among ``plain``."""
    cdef list found = []
    cdef object path, entry
    cdef tuple pair
    for path in paths:
        entry = values.get(path)
        if entry is None:
            found.append("")
            continue
        pair = entry
        found.append(plain_text(pair[1]) if pair[0] in plain else None)
    return found
