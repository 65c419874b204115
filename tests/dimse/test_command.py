"""Command sets are read as peers write them, and written as PS3.7 §9.3 and Annex E say."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.dimse.command import (
    Command,
    CommandField,
    encode_c_echo_rq,
    encode_c_store_rq,
    encode_response,
    parse_command,
)
from router.errors import AbortReason, PeerProtocolError
from tests.dimse.commands import (
    INSTANCE,
    STORE_ELEMENTS,
    as_others_read,
    command_set,
    element,
    store_rq,
    store_rsp,
    ui,
    us,
)
from tests.support import plain_command
from tests.ul.bench import CT, MR, VERIFICATION

# One C-STORE-RQ byte by byte.
STORE = bytes.fromhex(
    "00000000 04000000 5e000000"  # group length 94
    "00000200 12000000 312e322e3834302e31303030382e352e3100"  # Affected SOP Class UID, 17 characters and NUL
    "00000001 02000000 0100"  # Command Field C-STORE-RQ
    "00001001 02000000 0500"  # Message ID 5
    "00000007 02000000 0000"  # Priority medium
    "00000008 02000000 0100"  # Command Data Set Type: a data set follows
    "00000010 04000000 312e3239"  # Affected SOP Instance UID "1.29"
)


def test_a_store_request_is_read_as_the_standard_writes_it():
    command = parse_command(STORE)
    assert command.field == CommandField.C_STORE_RQ
    assert (command.message_id, command.priority, command.has_data_set) == (5, 0, True)
    assert (command.sop_class, command.sop_class_bytes) == ("1.2.840.10008.5.1", b"1.2.840.10008.5.1\0")
    assert (command.sop_instance, command.sop_instance_bytes) == ("1.29", b"1.29")
    assert not command.is_response
    assert command.status is None


def test_a_store_request_is_written_as_it_was_read():
    written = encode_c_store_rq(5, "1.2.840.10008.5.1", "1.29")
    assert written[12:] == STORE[12:]


def test_the_command_fields_of_the_standard():
    """PS3.7 Table E.1-1."""
    assert {field.name: int(field) for field in CommandField} == {
        "C_STORE_RQ": 0x0001,
        "C_STORE_RSP": 0x8001,
        "C_GET_RQ": 0x0010,
        "C_FIND_RQ": 0x0020,
        "C_MOVE_RQ": 0x0021,
        "C_ECHO_RQ": 0x0030,
        "C_ECHO_RSP": 0x8030,
        "N_EVENT_REPORT_RQ": 0x0100,
        "N_GET_RQ": 0x0110,
        "N_SET_RQ": 0x0120,
        "N_ACTION_RQ": 0x0130,
        "N_CREATE_RQ": 0x0140,
        "N_DELETE_RQ": 0x0150,
        "C_CANCEL_RQ": 0x0FFF,
    }


# Tolerance --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "length", [b"", element(0, bytes(4)), element(0, b"\xff\xff\xff\xff"), element(0, b"\7\0")], ids=repr
)
def test_case_50_the_group_length_is_not_believed(length: bytes):
    command = parse_command(length + b"".join(STORE_ELEMENTS.values()))
    assert (command.message_id, command.sop_instance) == (7, INSTANCE)


@pytest.mark.parametrize("value", [0x0000, 0x0001, 0x0102, 0x0100, 0xFFFF])
def test_case_63_any_data_set_type_but_0101_says_that_data_follows(value: int):
    assert parse_command(store_rq(e0800=us(0x0800, value))).has_data_set


def test_case_63_0101_says_that_none_follows():
    assert not parse_command(store_rq(e0800=us(0x0800, 0x0101))).has_data_set


@pytest.mark.parametrize("priority", [None, element(0x0700, b"")])
def test_case_65_priority_may_be_missing_or_empty(priority: bytes | None):
    command = parse_command(store_rq(e0700=priority))
    assert command.priority is None
    assert command.sop_instance == INSTANCE


def test_case_65_we_always_send_priority():
    assert as_others_read(encode_c_store_rq(1, CT, INSTANCE))["Priority"] == 0


def test_case_66_extra_elements_are_ignored():
    strange = element(0x5010, b"x" * 300) + element(0x0010, b"PN", group=0x0010) + element(0x0901, b"\0\0\0\0")
    assert parse_command(store_rq() + strange).sop_instance == INSTANCE


def test_case_66_of_an_element_sent_twice_the_first_counts():
    command = parse_command(store_rq() + us(0x0110, 99) + ui(0x0002, MR))
    assert (command.message_id, command.sop_class) == (7, CT)


def test_case_66_of_several_values_the_first_counts():
    command = parse_command(store_rq(e0110=us(0x0110, 7, 8, 9), e0800=us(0x0800, 1, 0x0101)))
    assert (command.message_id, command.has_data_set) == (7, True)


def test_case_67_unknown_command_fields_are_kept_for_their_answer():
    command = parse_command(store_rq(e0100=us(0x0100, 0x0150)))
    assert not command.is_response
    answer = as_others_read(encode_response(command, 0x0211))
    assert (answer["CommandField"], answer["MessageIDBeingRespondedTo"], answer["Status"]) == (0x8150, 7, 0x0211)
    assert parse_command(store_rq(e0100=us(0x0100, 0x8999))).is_response


@pytest.mark.parametrize("number", [0, 1, 65535])
def test_case_69_message_ids_from_0_to_65535(number: int):
    command = parse_command(store_rq(e0110=us(0x0110, number)))
    assert command.message_id == number
    assert as_others_read(encode_response(command, 0))["MessageIDBeingRespondedTo"] == number


@pytest.mark.parametrize("uid", ["1.2." + "3" * 200, "1.2.a", "../../tmp/x", "1..2", ""])
def test_case_73_a_malformed_uid_is_no_reason_to_abort(uid: str):
    command = parse_command(store_rq(e1000=ui(0x1000, uid)))
    assert command.sop_instance == uid
    assert parse_command(encode_response(command, 0x0117)).sop_instance == uid


def test_a_normalized_service_names_what_it_requests():
    """(0000,0003) and (0000,1001) of an N-ACTION-RQ come back as the affected ones (PS3.7 §10.3.5)."""
    request = command_set(ui(0x0003, CT), us(0x0100, 0x0130), us(0x0110, 1), us(0x0800, 1), ui(0x1001, INSTANCE))
    answer = as_others_read(encode_response(parse_command(request), 0x0211))
    assert (answer["AffectedSOPClassUID"], answer["AffectedSOPInstanceUID"]) == (CT, INSTANCE)


def test_a_move_originator_is_read():
    command = parse_command(store_rq() + element(0x1030, b"MOVER ") + us(0x1031, 12))
    assert (command.move_originator, command.move_originator_id) == ("MOVER", 12)
    command = parse_command(store_rq() + element(0x1030, b"X" * 40))
    assert (command.move_originator, command.move_originator_id) == ("X" * 16, None)


# What cannot be read ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        b"",
        command_set(us(0x0110, 1)),
        store_rq(e0100=element(0x0100, b"")),
        store_rq(e0800=element(0x0800, b"\1")),
        store_rq() + b"\0\0",
        store_rq() + element(0x0900, b"\0\0")[:-1],
        b"\0\0\0\1\xff\xff\xff\xff\1\0",
    ],
    ids=["nothing", "no field", "empty field", "no type", "left over", "cut short", "4 GiB"],
)
def test_an_unreadable_command_set_is_the_peers_fault(data: bytes):
    with pytest.raises(PeerProtocolError) as raised:
        parse_command(data)
    assert raised.value.reason is AbortReason.INVALID_PDU_PARAMETER_VALUE


@pytest.mark.parametrize("number", STORE_ELEMENTS)
def test_a_command_set_with_an_element_missing_or_of_another_length_reads_or_is_refused(number: int):
    name = f"e{number:04X}"
    for value in (
        None,
        element(number, b""),
        element(number, b"\1"),
        element(number, b"\1\0\2"),
        element(number, b"x" * 90),
    ):
        try:
            command = parse_command(store_rq(**{name: value}))
        except PeerProtocolError:
            assert number in (0x0100, 0x0800)
        else:
            encode_response(command, 0)


@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_but_a_protocol_error(noise: bytes):
    for data in (noise, store_rq() + noise):
        with contextlib.suppress(PeerProtocolError):
            command = parse_command(data)
            parse_command(encode_response(command, 0xC000, "comment"))


def test_what_a_command_shows_of_itself_names_no_object():
    assert INSTANCE not in repr(parse_command(store_rq()))


# Writing ----------------------------------------------------------------------------------------------------

uids = st.from_regex(r"[1-9][0-9]{0,8}(\.[0-9]{1,6}){1,7}", fullmatch=True)


@given(
    number=st.integers(1, 65535),
    sop_class=uids,
    instance=uids,
    mover=st.none() | st.tuples(st.text("ABC_", min_size=1, max_size=16), st.integers(0, 65535)),
)
def test_cases_110_and_111_a_store_request_says_what_it_was_given(
    number: int, sop_class: str, instance: str, mover: tuple[str, int] | None
):
    data = encode_c_store_rq(number, sop_class, instance, mover)
    command = parse_command(data)
    assert (command.field, command.message_id) == (CommandField.C_STORE_RQ, number)
    assert (command.sop_class, command.sop_instance) == (sop_class, instance)
    assert command.has_data_set
    if mover is None:
        assert (command.move_originator, command.move_originator_id) == ("", None)
    else:
        assert (command.move_originator, command.move_originator_id) == mover
    assert len(data) % 2 == 0
    assert int.from_bytes(data[8:12], "little") == len(data) - 12
    others = as_others_read(data)
    assert (others["AffectedSOPClassUID"], others["AffectedSOPInstanceUID"]) == (sop_class, instance)


def test_elements_go_out_in_the_order_of_their_tags():
    store = parse_command(store_rq())
    for data in (
        encode_c_store_rq(1, CT, INSTANCE, ("MOVER", 3)),
        encode_c_echo_rq(1),
        encode_response(store, 0xC000, "comment"),
    ):
        at, numbers = 0, []
        while at < len(data):
            numbers.append(int.from_bytes(data[at + 2 : at + 4], "little"))
            at += 8 + int.from_bytes(data[at + 4 : at + 8], "little")
        assert numbers == sorted(set(numbers))
        assert numbers[0] == 0


@pytest.mark.parametrize("uids", [("1.2\u2003", "1.2"), ("1.2", "\u0141.2")])
def test_a_uid_that_has_no_bytes_is_a_fault_of_ours(uids: tuple[str, str]):
    with pytest.raises(UnicodeEncodeError):
        encode_c_store_rq(1, *uids)


def test_a_uid_of_odd_characters_goes_out_as_it_came():
    out = encode_c_store_rq(1, "1.2", "1.\xe9")
    assert parse_command(out).sop_instance == "1.\xe9"
    assert int.from_bytes(out[8:12], "little") == len(out) - 12


def test_an_echo_request():
    echo = as_others_read(encode_c_echo_rq(3))
    assert echo["AffectedSOPClassUID"] == VERIFICATION
    assert (echo["CommandField"], echo["MessageID"], echo["CommandDataSetType"]) == (0x0030, 3, 0x0101)


@pytest.mark.parametrize("padding", [b"\0", b" "])
def test_case_70_a_response_carries_the_uids_with_the_padding_they_came_with(padding: bytes):
    odd = "1.2.3"
    request = parse_command(store_rq(e0002=ui(0x0002, odd, padding), e1000=ui(0x1000, odd, padding)))
    assert request.sop_class == request.sop_instance == odd
    answer = encode_response(request, 0)
    assert element(0x0002, odd.encode() + padding) in answer
    assert element(0x1000, odd.encode() + padding) in answer


def test_case_70_a_uid_that_came_without_its_padding_gets_it():
    request = parse_command(store_rq(e1000=element(0x1000, b"1.2.3")))
    answer = encode_response(request, 0)
    assert element(0x1000, b"1.2.3\0") in answer
    assert len(answer) % 2 == 0


def test_case_70_a_response_always_carries_status_and_group_length():
    answer = encode_response(parse_command(store_rq()), 0xA700)
    assert int.from_bytes(answer[8:12], "little") == len(answer) - 12
    others = as_others_read(answer)
    assert (others["Status"], others["CommandDataSetType"], others["CommandField"]) == (0xA700, 0x0101, 0x8001)


@pytest.mark.parametrize(("length", "kept"), [(63, 63), (64, 64), (65, 64), (500, 64)])
def test_case_71_a_comment_is_cut_at_64_characters(length: int, kept: int):
    answer = encode_response(parse_command(store_rq()), 0xC000, "x" * length)
    assert as_others_read(answer)["ErrorComment"] == "x" * kept
    assert parse_command(answer).error_comment == "x" * kept


def test_success_has_no_comment():
    assert "ErrorComment" not in as_others_read(encode_response(parse_command(store_rq()), 0, "fine"))


def test_a_comment_of_a_peer_is_cut_too():
    assert parse_command(store_rsp(1, 0xC000, element(0x0902, b"y" * 200))).error_comment == "y" * 64


def test_a_new_command_says_nothing():
    command = Command()
    assert (command.field, command.message_id, command.has_data_set) == (0, None, False)


# Against the plain reference -------------------------------------------------------------------------------

FIELDS = (
    "field", "message_id", "responded_id", "sop_class", "sop_instance", "sop_class_bytes", "sop_instance_bytes",
    "priority", "data_set_type", "status", "error_comment",
    "move_originator", "move_originator_id", "has_data_set", "is_response",
)  # fmt: skip
numbers = st.sampled_from(
    [
        0x0000,
        0x0002,
        0x0003,
        0x0100,
        0x0110,
        0x0120,
        0x0700,
        0x0800,
        0x0900,
        0x0902,
        0x1000,
        0x1001,
        0x1030,
        0x1031,
        0x5010,
    ]
)
values = st.binary(max_size=4) | st.text("1.2 \0é", max_size=90).map(lambda text: text.encode("latin-1"))
elements = st.builds(element, numbers, values) | st.just(element(0x0002, b"1")[:2] + b"\1" + bytes(5))
command_sets = st.lists(elements, max_size=12).map(b"".join) | st.lists(elements, max_size=6).map(
    lambda some: store_rq() + b"".join(some)
)


def outcome(parse: Callable[[bytes], Any], data: bytes) -> object:
    try:
        command = parse(data)
    except PeerProtocolError as error:
        return str(error), error.reason
    return tuple(getattr(command, name) for name in FIELDS)


@given(data=command_sets, cut=st.none() | st.integers(0, 400))
def test_a_command_set_reads_as_the_plain_reference_reads_it(data: bytes, cut: int | None):
    data = data[:cut]
    assert outcome(parse_command, data) == outcome(plain_command.parse_command, data)


@given(data=command_sets, status=st.sampled_from([0, 0x0111, 0xA700, 0xC001]), comment=st.text(max_size=80))
def test_what_is_written_is_what_the_plain_reference_writes(data: bytes, status: int, comment: str):
    with contextlib.suppress(PeerProtocolError):
        assert encode_response(parse_command(data), status, comment) == plain_command.encode_response(
            plain_command.parse_command(data), status, comment
        )


@given(
    number=st.integers(0, 65535),
    uid=st.text("0123456789.", max_size=70),
    mover=st.none() | st.tuples(st.text(max_size=20), st.integers(0, 65535)),
)
def test_requests_are_what_the_plain_reference_writes(number: int, uid: str, mover: tuple[str, int] | None):
    assert encode_c_store_rq(number, uid, uid, mover) == plain_command.encode_c_store_rq(number, uid, uid, mover)
    assert encode_c_echo_rq(number) == plain_command.encode_c_echo_rq(number)
