# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Records on their way to the disk, natively: one is written out for every object. ``spool.record`` says what one is.

A meta is put together from pieces that lie where they are; first their sizes are added up, then memory of just that
size is filled. A plain-Python reference is in ``tests/support``; the tests compare the two.
"""

import json
from dataclasses import replace
from json.encoder import encode_basestring_ascii

from cpython.buffer cimport PyBUF_READ
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.float cimport PyFloat_AS_DOUBLE, PyFloat_CheckExact
from cpython.memoryview cimport PyMemoryView_FromMemory
from cpython.unicode cimport PyUnicode_CheckExact
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memmove, memset, strlen

from xxhash import xxh3_64_intdigest

from router.errors import SpoolError

cdef extern from "Python.h":
    bint PyUnicode_IS_COMPACT_ASCII(object text)
    void* PyUnicode_DATA(object text)
    Py_ssize_t PyUnicode_GET_LENGTH(object text)

cdef enum:
    FIXED = 72  # of the header, without its checksum
    CHECK = 8
    HEADER = FIXED + CHECK
    FOOTER = 40
    MARK = 8
    CHECKSUM = 16
    META_MOST = 60 << 10
    BLOCK = 4096
    ON_BLOCKS = 64 << 10
    DIGITS = 20  # of 64 bits
    PLACES = 7  # behind the point, of the seconds of these decades
    TEXTS_KEPT = 256
    # Characters; what the standard allows for LO and UI (PS3.5 §6.2).
    FREE_TEXT_LIMIT = 64

cdef const char* BEGIN_MARK = b"DRrecord"
cdef const char* END_MARK = b"DRendrec"

MAGIC = BEGIN_MARK[:MARK]
HEADER_SIZE = HEADER
FOOTER_SIZE = FOOTER
META_LIMIT = META_MOST
"""Bytes of meta at most: the header of a streamed record has a place of fixed size."""
ALIGNMENT = BLOCK
"""Records begin on blocks: each is written past the page cache, whoever its neighbours are."""
ALIGNED_SIZE = ON_BLOCKS
"""Bytes from which on the data begins on a block too, so that it is written from where it was received."""

cdef tuple FREE_TEXTS = ("study", "series", "patient_id", "accession", "modality")

cdef struct Piece:
    const char* text
    Py_ssize_t size

# The values of a meta, in its order.
cdef enum:
    ID
    SOP_CLASS
    SOP_INSTANCE
    TRANSFER_SYNTAX
    ORIGIN
    RECEIVED
    SIZE
    STUDY
    SERIES
    PATIENT_ID
    ACCESSION
    MODALITY
    DECISION
    MOVED
    VALUES

# What stands before each of them.
cdef Piece[VALUES] NAMES
NAMES[ID].text = b'{"id":'
NAMES[SOP_CLASS].text = b',"sop_class":"'
NAMES[SOP_INSTANCE].text = b'","sop_instance":"'
NAMES[TRANSFER_SYNTAX].text = b'","transfer_syntax":"'
NAMES[ORIGIN].text = b'",'
NAMES[RECEIVED].text = b',"received":'
NAMES[SIZE].text = b',"size":'
NAMES[STUDY].text = b',"study":"'
NAMES[SERIES].text = b'","series":"'
NAMES[PATIENT_ID].text = b'","patient_id":"'
NAMES[ACCESSION].text = b'","accession":"'
NAMES[MODALITY].text = b'","modality":"'
NAMES[DECISION].text = b'","decision":'
NAMES[MOVED].text = b''

cdef int _each
for _each in range(VALUES):
    NAMES[_each].size = strlen(NAMES[_each].text)


# Texts -----------------------------------------------------------------------------------------------------

cdef class Texts:
    """What is written of values that come again and again as the same objects: found without a look at what they
    hold."""

    cdef object _write
    cdef dict _known

    def __cinit__(self, write):
        self._write = write
        self._known = {}

    cdef bytes of(self, value):
        cdef object key = <size_t><void*>value
        cdef tuple entry = self._known.get(key)
        cdef bytes text
        if entry is not None:  # it holds the value, so nobody else has its address
            return <bytes>entry[1]
        if len(self._known) >= TEXTS_KEPT:
            self._known.clear()
        text = self._write(value).encode("ascii")
        self._known[key] = (value, text)
        return text


def _write_origin(origin):
    return ",".join([
        f'"{name}":{encode_basestring_ascii(value)}'
        for name, value in (
            ("listener", origin.listener),
            ("peer", origin.peer),
            ("calling", origin.calling_ae),
            ("called", origin.called_ae),
            ("address", origin.address),
        )
    ])


def _write_decision(decision):
    return json.dumps(
        {
            "verdict": decision.verdict,
            "to": decision.destinations,
            "priority": int(decision.priority),
            "rules": decision.rules,
            "version": decision.version,
        },
        separators=(",", ":"),
    )


# The same for all objects of an association.
cdef Texts origins = Texts(_write_origin)
# The same for most objects of a modality.
cdef Texts decisions = Texts(_write_decision)


cdef inline bint is_plain(const uint8_t* text, Py_ssize_t size) noexcept nogil:
    """JSON has it as it is: printable ASCII, nothing to escape. No way out before the end, so that the compiler looks
    at many at once."""
    cdef uint8_t other = 0, c
    cdef Py_ssize_t index
    for index in range(size):
        c = text[index]
        other |= (c < 0x20) | (c > 0x7E) | (c == 0x22) | (c == 0x5C)
    return not other


cdef inline Piece whole(bytes text) noexcept:
    cdef Piece piece
    piece.text = PyBytes_AS_STRING(text)
    piece.size = len(text)
    return piece


cdef object quoted(object text, Piece* piece):
    """What JSON has between the quotes; gives the object that it lies in, to be kept as long."""
    cdef bytes escaped
    if PyUnicode_CheckExact(text) and PyUnicode_IS_COMPACT_ASCII(text):
        piece.text = <const char*>PyUnicode_DATA(text)
        piece.size = PyUnicode_GET_LENGTH(text)
        if is_plain(<const uint8_t*>piece.text, piece.size):
            return text
    escaped = encode_basestring_ascii(text).encode("ascii")
    piece.text = PyBytes_AS_STRING(escaped) + 1
    piece.size = len(escaped) - 2
    return escaped


cdef inline Piece digits(uint64_t number, char* room) noexcept nogil:
    """``room``: DIGITS bytes, filled from their end."""
    cdef Piece piece
    cdef char* at = room + DIGITS
    while True:
        at -= 1
        at[0] = 0x30 + <char>(number % 10)
        number //= 10
        if not number:
            break
    piece.text = at
    piece.size = room + DIGITS - at
    return piece


cdef Piece seconds(double value, char* room) noexcept nogil:
    """As ``repr`` writes it, if it is a time from 2004 to 2106, and no tie; otherwise of size 0.

    ``repr`` gives the fewest decimals that mean this number and no other, and of those the nearest. Numbers of this
    range are 2**-22 or 2**-21 apart, so PLACES are always enough, and 64 bits hold every step exactly.
    ``room``: DIGITS + 1 + PLACES bytes.
    """
    cdef Piece piece
    cdef uint64_t whole_part, fraction, scaled, nearest, error, power = 1
    cdef int shift, places, index
    piece.text = room
    piece.size = 0
    if not 1073741824.0 <= value < 4294967296.0:
        return piece
    shift = 22 if value < 2147483648.0 else 21
    whole_part = <uint64_t>value
    fraction = <uint64_t>((value - <double>whole_part) * <double>(1 << shift))
    for places in range(1, PLACES + 1):
        power *= 10
        scaled = fraction * power
        nearest = (scaled + (<uint64_t>1 << (shift - 1))) >> shift
        error = nearest << shift
        error = error - scaled if error > scaled else scaled - error
        if 2 * error >= power:  # nearer to another number
            continue
        if error == <uint64_t>1 << (shift - 1):
            return piece
        piece = digits(whole_part, room)
        room[DIGITS] = 0x2E
        for index in range(places, 0, -1):
            room[DIGITS + index] = 0x30 + <char>(nearest % 10)
            nearest //= 10
        piece.size += 1 + places
        break
    return piece


cdef object shown(object number, char* room, Piece* piece):
    """As ``repr`` writes it; gives the object that it lies in, if not in ``room``. The interpreter, which is ready for
    any number, takes a third of the time of a whole record for one."""
    cdef bytes text
    if PyFloat_CheckExact(number):
        piece[0] = seconds(PyFloat_AS_DOUBLE(number), room)
        if piece.size:
            return None
    text = repr(number).encode("ascii")
    piece[0] = whole(text)
    return text


# Meta ------------------------------------------------------------------------------------------------------

cdef bytes laid_out(info, decision, Py_ssize_t front, Py_ssize_t block, Py_ssize_t* size):
    """``front`` bytes to be filled, the meta of ``size``, zeros up to the end of the last block; None if the meta has
    too many bytes."""
    cdef Piece[VALUES] values
    cdef char[DIGITS] id_digits
    cdef char[DIGITS] size_digits
    cdef char[DIGITS + 1 + PLACES] received_digits
    cdef int index
    cdef Py_ssize_t total = 1, end  # the brace behind all
    cdef bytes out
    cdef char* at
    # All that the pieces lie in.
    sop_class = quoted(info.sop_class, &values[SOP_CLASS])
    sop_instance = quoted(info.sop_instance, &values[SOP_INSTANCE])
    transfer_syntax = quoted(info.transfer_syntax, &values[TRANSFER_SYNTAX])
    study = quoted(info.study, &values[STUDY])
    series = quoted(info.series, &values[SERIES])
    patient_id = quoted(info.patient_id, &values[PATIENT_ID])
    accession = quoted(info.accession, &values[ACCESSION])
    modality = quoted(info.modality, &values[MODALITY])
    received = shown(info.received, received_digits, &values[RECEIVED])
    cdef bytes origin = origins.of(info.origin)
    cdef bytes decided = decisions.of(decision)
    cdef bytes moved = b""
    move = info.move_originator
    if move is not None:
        moved = f',"move_originator":[{encode_basestring_ascii(move[0])},{move[1]}]'.encode("ascii")
    values[ID] = digits(info.id, id_digits)
    values[SIZE] = digits(info.size, size_digits)
    values[ORIGIN] = whole(origin)
    values[DECISION] = whole(decided)
    values[MOVED] = whole(moved)

    for index in range(VALUES):
        total += NAMES[index].size + values[index].size
    if total > META_MOST:
        return None
    size[0] = total
    end = (front + total + block - 1) // block * block
    out = PyBytes_FromStringAndSize(NULL, end)
    at = PyBytes_AS_STRING(out) + front
    for index in range(VALUES):
        memcpy(at, NAMES[index].text, NAMES[index].size)
        at += NAMES[index].size
        memcpy(at, values[index].text, values[index].size)
        at += values[index].size
    at[0] = 0x7D
    memset(at + 1, 0, end - front - total)
    return out


cdef bytes with_meta(info, decision, Py_ssize_t front, Py_ssize_t block, Py_ssize_t* size):
    """``laid_out``, with what fits. Raises SpoolError if the destinations alone are too much.

    A peer decides how long the texts of its data set are. Where they do not fit they are shortened here, since they
    only serve to find the instance; the data set keeps them whole.
    """
    cdef bytes out = laid_out(info, decision, front, block, size)
    if out is None:
        info = replace(info, **{name: getattr(info, name)[:FREE_TEXT_LIMIT] for name in FREE_TEXTS})
        out = laid_out(info, decision, front, block, size)
    if out is None:
        out = laid_out(info, replace(decision, rules=()), front, block, size)
    if out is None:
        raise SpoolError(f"the decision names more destinations than a record can hold ({len(decision.destinations)})")
    return out


def encode_meta(info, decision):
    """JSON of both, at most META_LIMIT bytes. Raises SpoolError if the destinations alone are more than that."""
    cdef Py_ssize_t size
    return with_meta(info, decision, 0, 1, &size)


# Header and footer -----------------------------------------------------------------------------------------

cdef inline void put32(uint8_t* at, uint32_t number) noexcept nogil:
    at[0], at[1], at[2], at[3] = number & 0xFF, number >> 8 & 0xFF, number >> 16 & 0xFF, number >> 24


cdef inline void put64(uint8_t* at, uint64_t number) noexcept nogil:
    put32(at, <uint32_t>number)
    put32(at + 4, <uint32_t>(number >> 32))


cdef int put_checksum(uint8_t* at, bytes checksum) except -1:
    """CHECKSUM bytes, whatever its size."""
    cdef Py_ssize_t size = min(len(checksum), CHECKSUM)
    memcpy(at, PyBytes_AS_STRING(checksum), size)
    memset(at + size, 0, CHECKSUM - size)
    return 0


cdef int put_header(
    uint8_t* at, info, Py_ssize_t meta_size, uint64_t epoch, uint64_t synced, uint32_t flags, uint64_t data_offset
) except -1:
    """HEADER bytes, before the meta that is there already."""
    # First next to the meta, so that what the checksum is of lies in one piece; its own place is between the two.
    cdef uint8_t* fixed = at + CHECK
    cdef uint64_t check
    memcpy(fixed, BEGIN_MARK, MARK)
    put32(fixed + 8, flags)
    put32(fixed + 12, <uint32_t>meta_size)
    put64(fixed + 16, epoch)
    put64(fixed + 24, info.id)
    put64(fixed + 32, data_offset)
    put64(fixed + 40, info.size)
    put64(fixed + 48, synced)
    put_checksum(fixed + 56, info.checksum)
    check = xxh3_64_intdigest(PyMemoryView_FromMemory(<char*>fixed, FIXED + meta_size, PyBUF_READ))
    memmove(at, fixed, FIXED)
    put64(at + FIXED, check)
    return 0


def encode_header(
    info, bytes meta not None, *, uint64_t epoch, uint64_t synced, uint32_t flags=0, uint64_t data_offset
):
    """Header and meta; the data begins at ``data_offset`` of the record."""
    cdef Py_ssize_t size = len(meta)
    cdef bytes out = PyBytes_FromStringAndSize(NULL, HEADER + size)
    cdef uint8_t* at = <uint8_t*>PyBytes_AS_STRING(out)
    memcpy(at + HEADER, PyBytes_AS_STRING(meta), size)
    put_header(at, info, size, epoch, synced, flags, data_offset)
    return out


cdef bytes footer(uint64_t epoch, uint64_t number, bytes checksum, Py_ssize_t padding):
    cdef bytes out = PyBytes_FromStringAndSize(NULL, FOOTER + padding)
    cdef uint8_t* at = <uint8_t*>PyBytes_AS_STRING(out)
    memcpy(at, END_MARK, MARK)
    put64(at + 8, epoch)
    put64(at + 16, number)
    put_checksum(at + 24, checksum)
    memset(at + FOOTER, 0, padding)
    return out


def encode_footer(uint64_t epoch, uint64_t number, bytes checksum not None):
    return footer(epoch, number, checksum, 0)


# Record ----------------------------------------------------------------------------------------------------

def encode_record(info, decision, chunks, *, uint64_t epoch, uint64_t synced):
    """The buffers of a record whose data is in memory, and its length without the padding that ends them.

    Raises:
        SpoolError: The chunks are not of the size that ``info`` says, or the decision does not fit.
    """
    cdef Py_ssize_t size = 0, meta_size, data_offset, length
    cdef bytes head
    for chunk in chunks:
        size += len(chunk)
    if size != info.size:
        raise SpoolError("an entry has another size than its info says")
    head = with_meta(info, decision, HEADER, BLOCK if size >= ON_BLOCKS else 1, &meta_size)
    data_offset = len(head)
    put_header(<uint8_t*>PyBytes_AS_STRING(head), info, meta_size, epoch, synced, 0, data_offset)
    length = data_offset + size + FOOTER
    return [head, *chunks, footer(epoch, info.id, info.checksum, (BLOCK - length % BLOCK) % BLOCK)], length
