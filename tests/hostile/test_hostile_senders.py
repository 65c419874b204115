"""What hostile and broken senders do to a router, one attack each, and what it answers."""

from __future__ import annotations

import random
import socket
import struct
import time
import zlib
from contextlib import ExitStack

import pytest

from router.model import Status
from tests.hostile.support import Victim, forget_peak, fresh_uid, resident
from tests.support.objects import encode, sha256, synthetic
from tests.support.peers import wait_for
from tests.support.plain_dataset import EXPLICIT as WRITE_EXPLICIT
from tests.support.plain_dataset import IMPLICIT as WRITE_IMPLICIT
from tests.support.plain_dataset import UNDEFINED, Encoding
from tests.support.plain_pdu import p_data
from tests.support.script import CT, EXPLICIT, IMPLICIT, request, store
from tests.support.seen import Seen
from tests.torture.figures import Figure, report

DEFLATED = "1.2.840.10008.1.2.1.99"
MIB = 1 << 20
INVALID_PARAMETER = (2, 6)
"""A-ABORT of the service provider, reason invalid PDU parameter value (PS3.8 §9.3.8)."""
CLAIM = 0xFFFFFFFF
"""4 GiB less one byte."""


def named(encoding: Encoding, uid: str) -> bytes:
    """The beginning of a data set: what it is."""
    padded = uid.encode() + b"\0" * (len(uid) % 2)
    return encoding.element(0x00080016, "UI", CT.encode() + b"\0") + encoding.element(0x00080018, "UI", padded)


# Claims -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [1, 4], ids=["A-ASSOCIATE-RQ", "P-DATA-TF"])
def test_a_pdu_that_claims_4_gib_is_refused_before_its_body(victim: Victim, kind: int) -> None:
    before = resident(victim.pid)
    forget_peak(victim.pid)
    with victim.attack(associate=None if kind == 1 else ((CT, EXPLICIT),)) as attacker:
        attacker.send(struct.pack(">BBI", kind, 0, CLAIM))
        assert attacker.abort_reason() == INVALID_PARAMETER
        attacker.press(bytes(MIB), 400)
    assert resident(victim.pid, "VmHWM") - before <= 2 * MIB


def test_pixel_data_that_claims_4_gib_in_a_short_stream_is_bad_framing(victim: Victim) -> None:
    before = resident(victim.pid)
    uid = fresh_uid()
    data = named(WRITE_EXPLICIT, uid) + WRITE_EXPLICIT.header(0x7FE00010, "OW", 0xFFFFFFFE) + bytes(64_000)
    with victim.attack() as attacker:
        assert attacker.store(uid, data) == Status.FRAMING_ERROR
        assert attacker.store(uid, encode(synthetic(sop_instance=uid))) == 0  # the association goes on
    assert resident(victim.pid) - before <= 2 * MIB


def test_an_element_that_claims_4_gib_is_never_allocated(victim: Victim) -> None:
    """Of a value that rules could name."""
    before = resident(victim.pid)
    uid = fresh_uid()
    data = named(WRITE_IMPLICIT, uid) + WRITE_IMPLICIT.header(0x00100020, "LO", 0xFFFFFFF0) + b"P" * 1000
    with victim.attack(associate=((CT, IMPLICIT),)) as attacker:
        assert attacker.store(uid, data) == Status.FRAMING_ERROR
    assert resident(victim.pid) - before <= 2 * MIB


# Silence ----------------------------------------------------------------------------------------------------


def test_silent_sockets_keep_nobody_waiting_and_are_closed_in_time(victim: Victim) -> None:
    with ExitStack() as stack:
        silent = [stack.enter_context(victim.attack(associate=None)) for _ in range(50)]
        began = time.monotonic()
        victim.still_serves()
        assert time.monotonic() - began < 2.5, "somebody waited for the silent"
        assert all(attacker.closed() for attacker in silent)


def test_a_request_of_one_byte_at_a_time_has_no_more_time_than_any(victim: Victim) -> None:
    """``handshake_timeout`` counts from accept: bytes do not extend it."""
    opening = request()
    began = time.monotonic()
    with victim.attack(associate=None) as attacker:
        attacker.connection.settimeout(0.2)
        for byte in opening:
            try:
                attacker.send(bytes((byte,)))
                assert attacker.connection.recv(100)[:1] in (b"", b"\x07")
                break
            except TimeoutError:
                continue
            except ConnectionError:
                break
        else:
            pytest.fail("the whole request was waited for")
    assert time.monotonic() - began < 3.0 + 2.0


def test_an_object_of_one_byte_at_a_time_is_aborted_and_not_kept(victim: Victim) -> None:
    """``minimum_rate`` over ``rate_window``."""
    uid = fresh_uid()
    began = time.monotonic()
    with victim.attack() as attacker:
        attacker.connection.settimeout(0.2)
        answer = b""
        for byte in store(uid, encode(synthetic(sop_instance=uid))):
            try:
                attacker.send(bytes((byte,)))
                answer = attacker.connection.recv(10)
                break
            except TimeoutError:
                continue
        assert answer[:1] == b"\x07"
    assert time.monotonic() - began < 2 * 3.0 + 2.0
    assert victim.arrived(uid) == []


# Nesting ----------------------------------------------------------------------------------------------------


def nested(
    encoding: Encoding, uid: str, depth: int, *, undefined: bool, vr: str = "SQ", tag: int = 0x00081140
) -> bytes:
    """Sequences in one another, ``depth`` of them."""
    data = b""
    if undefined and depth > 1000:  # as long as the whole, but not quadratic to write
        opening = encoding.header(tag, "SQ", UNDEFINED) + encoding.bare(0xFFFEE000, UNDEFINED)
        return named(encoding, uid) + opening * depth
    if depth > 1000:  # from the outside in: each length is what is left
        size = len(encoding.header(tag, "SQ", 0)) + 8
        return named(encoding, uid) + b"".join(
            encoding.header(tag, "SQ", left + 8) + encoding.bare(0xFFFEE000, left)
            for left in range((depth - 1) * size, -1, -size)
        )
    for _ in range(depth):
        data = encoding.sequence(tag, encoding.item(data, undefined=undefined), undefined=undefined)
    return named(encoding, uid) + data


WAYS = {
    "undefined lengths": (WRITE_EXPLICIT, EXPLICIT, {"undefined": True}),
    "defined lengths": (WRITE_EXPLICIT, EXPLICIT, {"undefined": False}),
    "defined lengths in implicit VR": (WRITE_IMPLICIT, IMPLICIT, {"undefined": False}),
    "implicit VR": (WRITE_IMPLICIT, IMPLICIT, {"undefined": True}),
    "private": (WRITE_EXPLICIT, EXPLICIT, {"undefined": True, "tag": 0x00191001}),
    "private in implicit VR": (WRITE_IMPLICIT, IMPLICIT, {"undefined": True, "tag": 0x00191001}),
}


@pytest.mark.parametrize("way", WAYS)
def test_64_sequences_in_one_another_are_taken_and_65_are_not(victim: Victim, way: str) -> None:
    encoding, syntax, options = WAYS[way]
    with victim.attack(associate=((CT, syntax),)) as attacker:
        for depth, status in ((64, 0), (65, Status.NESTED_TOO_DEEP), (64, 0)):
            uid = fresh_uid()
            assert attacker.store(uid, nested(encoding, uid, depth, **options)) == status, depth


DEPTHS = (20_000, 1_000_000)
NESTED, BOMBS = Seen(), Seen()


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("way", WAYS)
def test_any_depth_costs_no_memory_and_no_process(victim: Victim, way: str, depth: int) -> None:
    encoding, syntax, options = WAYS[way]
    before = resident(victim.pid)
    uid = fresh_uid()
    with victim.attack(associate=((CT, syntax),)) as attacker:
        assert attacker.store(uid, nested(encoding, uid, depth, **options)) == Status.NESTED_TOO_DEEP
    assert resident(victim.pid) - before <= 2 * MIB
    NESTED.add(f"{way} {depth}")


def test_depths_have_their_figure(campaign: bool) -> None:
    report(
        Figure(
            test="T23",
            promise="20,000 and 1,000,000 sequences in one another, of known and of undefined length",
            goal="refused; memory ≤ 2 MiB more",
            found="all refused within that",
            n=NESTED.all_of({f"{way} {depth}" for way in WAYS for depth in DEPTHS}),
            command="make torture (tests/hostile/test_hostile_senders.py)",
        ),
        keep=campaign,
    )


def test_un_of_undefined_length_nests_no_deeper(victim: Victim) -> None:
    """Its content is Implicit VR Little Endian (PS3.5 §6.2.2): a way around a limit that looks at SQ only."""
    uid = fresh_uid()
    opening = WRITE_EXPLICIT.header(0x00191001, "UN", UNDEFINED) + WRITE_IMPLICIT.bare(0xFFFEE000, UNDEFINED)
    inside = WRITE_IMPLICIT.header(0x00081140, "SQ", UNDEFINED) + WRITE_IMPLICIT.bare(0xFFFEE000, UNDEFINED)
    with victim.attack() as attacker:
        data = named(WRITE_EXPLICIT, uid) + opening + inside * 20_000
        assert attacker.store(uid, data) == Status.NESTED_TOO_DEEP


# Elements ---------------------------------------------------------------------------------------------------

ELEMENTS = 200_000
"""``limits.elements``."""


@pytest.mark.parametrize("inside", [False, True], ids=["at the root", "in one item"])
def test_200000_elements_before_the_pixels_are_taken_and_one_more_is_not(victim: Victim, inside: bool) -> None:
    before = resident(victim.pid)
    forget_peak(victim.pid)
    size = 0
    with victim.attack() as attacker:
        for over, status in ((0, 0), (1, Status.TOO_MANY_ELEMENTS), (800_000, Status.TOO_MANY_ELEMENTS), (0, 0)):
            uid = fresh_uid()
            more = ELEMENTS - 2 + over
            if inside:  # the sequence is an element, its item is none
                content = WRITE_EXPLICIT.element(0x00191010, "LO", b"") * (more - 1)
                data = WRITE_EXPLICIT.sequence(0x00400275, WRITE_EXPLICIT.item(content))
            else:
                data = WRITE_EXPLICIT.element(0x00191010, "LO", b"") * more
            data = named(WRITE_EXPLICIT, uid) + data
            size += len(data)
            assert attacker.store(uid, data) == status, over
    assert resident(victim.pid, "VmHWM") - before <= 2 * size


def test_the_ways_of_nesting_are_whole_data_sets() -> None:
    """What is deep is refused for its depth and nothing else: both ways to write it give the same bytes."""
    for encoding in (WRITE_EXPLICIT, WRITE_IMPLICIT):
        deep, content = nested(encoding, "2.25.1", 1001, undefined=False), b""
        for _ in range(1001):
            content = encoding.sequence(0x00081140, encoding.item(content))
        assert deep == named(encoding, "2.25.1") + content


# Bombs ------------------------------------------------------------------------------------------------------


def deflated(uid: str, size: int, run: int) -> bytes:
    """Pixels of zeros; with ``run`` a byte that cannot be foretold among each of so many, twice."""
    compressor = zlib.compressobj(6, zlib.DEFLATED, -15)
    head = named(WRITE_EXPLICIT, uid) + WRITE_EXPLICIT.element(0x00080060, "CS", b"CT")
    out = compressor.compress(head + WRITE_EXPLICIT.header(0x7FE00010, "OW", size))
    noise = random.Random(run)
    block = b"".join(bytes((noise.randrange(256),)) + bytes(run * 2 - 1) for _ in range(2000)) if run else bytes(MIB)
    left = size
    while left:
        out += compressor.compress(block[:left])
        left -= min(left, len(block))
    return out + compressor.flush()


@pytest.mark.parametrize(("run", "least"), [(100, 50), (0, 900)], ids=["about 100:1", "about 1,000:1"])
def test_a_deflate_bomb_is_carried_and_not_inflated(victim: Victim, run: int, least: int) -> None:
    """A deflated data set passes as it is; to see its attributes no more than 8 MiB of it is inflated."""
    uid, size = fresh_uid(), 48 * MIB
    data = deflated(uid, size, run)
    assert size / len(data) > least
    before = resident(victim.pid)
    forget_peak(victim.pid)
    with victim.attack(associate=((CT, DEFLATED),)) as attacker:
        assert attacker.store(uid, data) == 0
    wait_for(lambda: victim.arrived(uid) == [sha256(data)], 30, "delivery of the deflated object")
    assert resident(victim.pid, "VmHWM") - before <= 8 * MIB + 4 * len(data)
    BOMBS.add(f"{run}")


def test_a_bomb_before_the_pixels_is_not_inflated_either(victim: Victim) -> None:
    """64 MiB in one value of the head; what lies behind it cannot be seen, and the object is still carried."""
    uid = fresh_uid()
    head = named(WRITE_EXPLICIT, uid)
    compressor = zlib.compressobj(9, zlib.DEFLATED, -15)
    data = compressor.compress(head + WRITE_EXPLICIT.header(0x00091001, "OB", 64 * MIB))
    for _ in range(64):
        data += compressor.compress(bytes(MIB))
    data += compressor.flush()
    before = resident(victim.pid)
    forget_peak(victim.pid)
    with victim.attack(associate=((CT, DEFLATED),)) as attacker:
        assert attacker.store(uid, data) == 0
    assert resident(victim.pid, "VmHWM") - before <= 8 * MIB + 4 * len(data)
    BOMBS.add("before the pixels")


def test_bombs_have_their_figure(campaign: bool) -> None:
    report(
        Figure(
            test="T24",
            promise="deflated data sets of 48 to 64 MiB, 50:1 and over 900:1, in the pixels and before them",
            goal="carried as they are; memory ≤ 8 MiB and 4 × what was sent more",
            found="all carried within that",
            n=BOMBS.all_of({"100", "0", "before the pixels"}),
            command="make torture (tests/hostile/test_hostile_senders.py)",
        ),
        keep=campaign,
    )


# Lies about the object --------------------------------------------------------------------------------------


def test_half_a_data_set_with_the_last_flag_is_bad_framing(victim: Victim) -> None:
    uid = fresh_uid()
    data = encode(synthetic(sop_instance=uid))
    with victim.attack() as attacker:
        assert attacker.store(uid, data[: len(data) // 2]) == Status.FRAMING_ERROR
    assert victim.arrived(uid) == []


@pytest.mark.parametrize("which", ["instance", "class"])
def test_a_command_that_names_another_object_is_refused(victim: Victim, which: str) -> None:
    uid, other = fresh_uid(), fresh_uid()
    data = encode(synthetic(sop_instance=uid))
    mr = "1.2.840.10008.5.1.4.1.1.4"
    with victim.attack(associate=((CT, EXPLICIT), (mr, EXPLICIT))) as attacker:
        status = (
            attacker.store(other, data)
            if which == "instance"
            else attacker.store(uid, data, context_id=3, sop_class=mr)
        )
    assert status == Status.DATA_SET_MISMATCH
    assert victim.arrived(uid) == victim.arrived(other) == []


def test_other_pixels_under_one_uid_are_both_kept_and_delivered_in_order(victim: Victim) -> None:
    uid = fresh_uid()
    versions = [encode(synthetic(sop_instance=uid, seed=seed, study="2.25.1")) for seed in (1, 2)]
    with victim.attack() as attacker:
        for data in versions:
            assert attacker.store(uid, data) == 0
    wait_for(lambda: len(victim.arrived(uid)) == 2, 30, "delivery of both versions")
    assert victim.arrived(uid) == [sha256(data) for data in versions]  # files are named in the order of arrival


@pytest.mark.parametrize("ending", ["RST", "FIN"])
def test_a_peer_that_vanishes_within_a_data_set_leaves_nothing(victim: Victim, ending: str) -> None:
    uid = fresh_uid()
    data = encode(synthetic(size=3_000_000, sop_instance=uid))  # large enough for a segment of its own
    files = victim.open_files()
    attacker = victim.attack()
    attacker.send(store(uid, data)[: len(data) * 2 // 3])
    if ending == "RST":
        attacker.reset()
    else:
        attacker.connection.shutdown(socket.SHUT_WR)
        assert attacker.closed()
        attacker.connection.close()
    victim.settled(files)
    assert victim.arrived(uid) == []


@pytest.mark.parametrize(
    "uid", ["../../tmp/x", "..", "/etc/passwd", "1.2\0.3", "1.2.3\n", "1" * 65, "%s%n{0}", "$(id)"]
)
def test_a_uid_that_is_none_is_an_invalid_instance(victim: Victim, uid: str) -> None:
    with victim.attack() as attacker:
        assert attacker.store(uid, encode(synthetic(sop_instance="1.2.3"))) == Status.INVALID_OBJECT_INSTANCE
        good = fresh_uid()
        assert attacker.store(good, encode(synthetic(sop_instance=good))) == 0


@pytest.mark.parametrize("fragment", [b"", b"x"], ids=["empty", "one byte"])
def test_a_flood_of_tiny_fragments_is_no_amplifier(victim: Victim, fragment: bytes) -> None:
    """200,000 PDVs of one object, none its last: memory is that of the bytes, not of the pieces."""
    before = resident(victim.pid)
    forget_peak(victim.pid)
    uid = fresh_uid()
    with victim.attack() as attacker:
        attacker.send(store(uid, b"")[: -len(p_data(1, 2, b""))])
        head = named(WRITE_EXPLICIT, uid) + WRITE_EXPLICIT.header(0x7FE00010, "OW", 1 << 20)
        attacker.send(p_data(1, 0, head))
        flood = p_data(1, 0, fragment) * 10_000
        for _ in range(20):
            attacker.send(flood)
        attacker.send(p_data(1, 2, b""))
        assert attacker.status() == Status.FRAMING_ERROR
    assert resident(victim.pid, "VmHWM") - before <= 8 * MIB
