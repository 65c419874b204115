"""PDUs and items are read as peers send them, and written as the standard says (PS3.8 §9.3, PS3.7 D.3)."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pynetdicom import pdu as peer
from pynetdicom.pdu_primitives import A_ASSOCIATE, A_RELEASE

from router.errors import AbortReason, PeerProtocolError
from router.ul.pdus import (
    RELEASE_RP,
    RELEASE_RQ,
    Abort,
    AssociateAccept,
    AssociateReject,
    AssociateRequest,
    ContextOutcome,
    ContextResult,
    PduType,
    ProposedContext,
    RoleSelection,
    UserIdentity,
    UserInformation,
    decode_abort,
    decode_accept,
    decode_reject,
    decode_request,
    encode_abort,
    encode_accept,
    encode_reject,
    encode_request,
)
from tests.ul.bench import (
    APPLICATION,
    APPLICATION_ITEM,
    CONTEXT_ITEM,
    CT,
    EXPLICIT,
    IMPLICIT,
    JPEG,
    MR,
    USER_ITEM,
    VERIFICATION,
    accept_body,
    item,
    maximum,
    pdu,
    proposal,
    request_body,
    result,
)

# One A-ASSOCIATE-RQ byte by byte.
REQUEST = bytes.fromhex(
    "0100 000000a7"  # A-ASSOCIATE-RQ, 167 bytes follow
    "0001 0000"  # protocol version 1
    "524f555445522020 2020202020202020"  # called AE "ROUTER"
    "4d4f44414c495459 2020202020202020"  # calling AE "MODALITY"
    + "00"
    * 32
    + "1000 0015 312e322e3834302e31303030382e332e312e312e31"  # application context 1.2.840.10008.3.1.1.1
    "2000 0030 01000000"  # presentation context 1
    "3000 0011 312e322e3834302e31303030382e312e31"  # Verification, 17 characters, not padded
    "4000 0013 312e322e3834302e31303030382e312e322e31"  # Explicit VR Little Endian
    "5000 0012"  # user information
    "5100 0004 00004000"  # maximum length 16384
    "5200 0006 312e322e332e"  # implementation class UID "1.2.3."
)


def test_a_request_is_read_as_the_standard_writes_it():
    assert len(REQUEST) == 6 + int.from_bytes(REQUEST[2:6], "big")
    assert decode_request(REQUEST[6:]) == AssociateRequest(
        called_ae="ROUTER",
        calling_ae="MODALITY",
        contexts=(ProposedContext(1, VERIFICATION, (EXPLICIT,)),),
        user=UserInformation(max_length=16384, implementation_class_uid="1.2.3."),
        raw_header=b"ROUTER          MODALITY        " + bytes(32),
    )


def test_a_request_is_written_as_it_was_read():
    assert encode_request(decode_request(REQUEST[6:])) == REQUEST


def test_the_fixed_pdus():
    assert bytes.fromhex("05000000000400000000") == RELEASE_RQ
    assert bytes.fromhex("06000000000400000000") == RELEASE_RP
    assert encode_abort(Abort(2, 6)) == bytes.fromhex("07000000000400000206")
    assert encode_reject(AssociateReject(1, 1, 7)) == bytes.fromhex("03000000000400010107")


def test_the_numbers_of_the_standard():
    """PS3.8 Table 9-18, and the types of §9.3."""
    assert [outcome.name for outcome in sorted(ContextOutcome)] == [
        "ACCEPTANCE",
        "USER_REJECTION",
        "NO_REASON",
        "ABSTRACT_SYNTAX_NOT_SUPPORTED",
        "TRANSFER_SYNTAXES_NOT_SUPPORTED",
    ]
    assert sorted(ContextOutcome) == [0, 1, 2, 3, 4]
    assert sorted(PduType) == [1, 2, 3, 4, 5, 6, 7]


# Reading what peers send ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "reject", "abort"),
    [
        (b"", (0, 0, 0), (0, 0)),
        (b"\0\1", (1, 0, 0), (0, 0)),
        (b"\0\1\2\3", (1, 2, 3), (2, 3)),
        (b"\0\1\2\3" + b"more", (1, 2, 3), (2, 3)),
    ],
)
def test_case_10_reject_and_abort_of_any_length_are_read(body: bytes, reject: tuple[int, ...], abort: tuple[int, ...]):
    assert decode_reject(body) == AssociateReject(*reject)
    assert decode_abort(body) == Abort(*abort)


def test_case_11_no_item_reaches_beyond_what_holds_it():
    body = request_body()
    for end in range(len(body)):
        cut = body[:end]
        whole_items = end in {68, 68 + len(APPLICATION_ITEM), 68 + len(APPLICATION_ITEM + CONTEXT_ITEM)}
        if whole_items:
            decode_request(cut)
            continue
        with pytest.raises(PeerProtocolError) as raised:
            decode_request(cut)
        assert raised.value.reason is AbortReason.INVALID_PDU_PARAMETER_VALUE


@pytest.mark.parametrize("at", [69 + 2, 68 + len(APPLICATION_ITEM) + 2, -len(USER_ITEM) + 6])
def test_case_11_a_length_that_claims_more_than_there_is(at: int):
    body = bytearray(request_body())
    body[at : at + 2] = b"\xff\xff"
    with pytest.raises(PeerProtocolError) as raised:
        decode_request(bytes(body))
    assert raised.value.reason is AbortReason.INVALID_PDU_PARAMETER_VALUE


def test_case_11_a_uid_within_a_sub_item_does_not_reach_beyond_it():
    for kind in (0x54, 0x56, 0x58):
        content = b"\2\0\xff\xff1.2" if kind == 0x58 else b"\0\x401.2"
        with pytest.raises(PeerProtocolError):
            decode_request(request_body(item(0x50, item(kind, content))))


@pytest.mark.parametrize("version", [1, 3, 0xFFFF])
def test_case_14_only_bit_0_of_the_protocol_version_matters(version: int):
    assert decode_request(request_body(version=version)).protocol_version & 1


def test_case_15_a_version_without_bit_0_is_told_from_others():
    assert not decode_request(request_body(version=2)).protocol_version & 1


@pytest.mark.parametrize(
    ("items", "name"), [((item(0x10, b"1.2.3"), CONTEXT_ITEM), "1.2.3"), ((CONTEXT_ITEM, USER_ITEM), "")]
)
def test_case_16_a_wrong_or_missing_application_context_is_told(items: tuple[bytes, ...], name: str):
    assert decode_request(request_body(*items)).application_context == name


def test_case_17_unknown_items_are_skipped_wherever_they_are():
    strange = item(0x7F, b"\1\2\3")
    context = item(0x20, b"\1\0\0\0" + strange + item(0x30, CT.encode()) + strange + item(0x40, IMPLICIT.encode()))
    user = item(0x50, strange + maximum(4096) + strange + item(0xEE, b""))
    request = decode_request(request_body(strange, APPLICATION_ITEM, strange, context, strange, user, strange))
    assert request.application_context == APPLICATION
    assert request.contexts == (ProposedContext(1, CT, (IMPLICIT,)),)
    assert request.user.max_length == 4096


def test_case_18_items_come_in_any_order():
    context = item(0x20, b"\1\0\0\0" + item(0x40, IMPLICIT.encode()) + item(0x30, CT.encode()))
    backwards = item(0x50, item(0x55, b"V") + item(0x52, b"1.2") + maximum(4096))
    request = decode_request(request_body(backwards, context, APPLICATION_ITEM))
    assert request.contexts == (ProposedContext(1, CT, (IMPLICIT,)),)
    assert request.application_context == APPLICATION
    assert (request.user.max_length, request.user.implementation_version) == (4096, "V")


def test_case_19_reserved_bytes_are_ignored():
    def noisy(kind: int, content: bytes) -> bytes:
        return bytes((kind, 0xFF)) + len(content).to_bytes(2, "big") + content

    context = noisy(0x20, b"\1\xff\xff\xff" + noisy(0x30, CT.encode()) + noisy(0x40, IMPLICIT.encode()))
    body = bytearray(request_body(noisy(0x10, APPLICATION.encode()), context, reserved=b"\xff" * 32))
    body[2:4] = b"\xff\xff"
    request = decode_request(bytes(body))
    assert request.contexts == (ProposedContext(1, CT, (IMPLICIT,)),)
    assert request.application_context == APPLICATION


@pytest.mark.parametrize("padding", ["\0", " ", "\0\0", "  ", " \0"])
def test_case_20_padding_of_uids_is_trimmed(padding: str):
    context = proposal(1, CT + padding, padding + IMPLICIT, EXPLICIT + padding)
    application = item(0x10, (APPLICATION + padding).encode())
    request = decode_request(request_body(application, context))
    assert request.contexts == (ProposedContext(1, CT, (IMPLICIT, EXPLICIT)),)
    assert request.application_context == APPLICATION


@pytest.mark.parametrize(
    ("field", "title"),
    [
        (b"EFILM\0\0\0\0\0\0\0\0\0\0\0", "EFILM"),
        (b"EFILM\0\x7f\x01\xde\xad\xbe\xef\0WXY", "EFILM"),
        (b"EFILM  \0garbage!", "EFILM"),
        (b"   ROUTER       ", "ROUTER"),
        (b"  TWO WORDS     ", "TWO WORDS"),
        (b"SIXTEENCHARACTER", "SIXTEENCHARACTER"),
        (b" " * 16, ""),
        (b"\0" * 16, ""),
        (b"M\xfcNCHEN         ", "MüNCHEN"),
        (b"A\\B             ", "A\\B"),
    ],
    ids=lambda value: repr(value),
)
def test_cases_21_to_25_ae_titles_as_they_come(field: bytes, title: str):
    """21 NUL and garbage, 22 leading spaces, 23 and 24 all spaces, 25 other characters: never an error."""
    request = decode_request(request_body(called=field, calling=field))
    assert (request.called_ae, request.calling_ae) == (title, title)


def test_case_26_the_accept_repeats_what_the_request_had_in_those_fields():
    request = decode_request(request_body(called=b"  ODD\0\1", calling=b"X\xff", reserved=bytes(range(32))))
    accept = encode_accept(AssociateAccept(contexts=(), raw_header=request.raw_header))
    assert accept[6 + 4 : 6 + 68] == b"  ODD\0\1".ljust(16) + b"X\xff".ljust(16) + bytes(range(32))


@pytest.mark.parametrize(
    "items",
    [(APPLICATION_ITEM, CONTEXT_ITEM), (APPLICATION_ITEM, CONTEXT_ITEM, item(0x50, item(0x52, b"1.2")))],
    ids=["no user information", "no maximum length"],
)
def test_cases_27_and_28_a_peer_that_says_no_maximum_takes_16384(items: tuple[bytes, ...]):
    assert decode_request(request_body(*items)).user.max_length == 16384


@pytest.mark.parametrize("length", [0, 1, 7, 8, 65535, 0xFFFFFFFF])
def test_cases_29_to_31_the_maximum_length_is_kept_as_said(length: int):
    assert decode_request(request_body(item(0x50, maximum(length)))).user.max_length == length


def test_case_33_an_implementation_class_uid_is_not_needed():
    assert decode_request(request_body(item(0x50, maximum(1)))).user.implementation_class_uid == ""


def test_case_34_context_ids_are_kept_even_if_even():
    request = decode_request(request_body(*(proposal(number, CT, IMPLICIT) for number in (0, 2, 255))))
    assert [context.id for context in request.contexts] == [0, 2, 255]


def test_case_35_of_two_contexts_with_one_id_the_first_counts():
    request = decode_request(request_body(proposal(1, CT, IMPLICIT), proposal(1, MR, EXPLICIT)))
    assert request.contexts == (ProposedContext(1, CT, (IMPLICIT,)),)


def test_case_36_128_contexts_are_read_and_no_more():
    contexts = [proposal(number, CT, IMPLICIT) for number in range(1, 256, 2)]
    assert len(decode_request(request_body(*contexts)).contexts) == 128
    with pytest.raises(PeerProtocolError):
        decode_request(request_body(*contexts, proposal(2, CT, IMPLICIT)))


def test_a_context_may_propose_64_transfer_syntaxes_and_no_more():
    syntaxes = [f"1.2.{number}" for number in range(64)]
    assert decode_request(request_body(proposal(1, CT, *syntaxes))).contexts[0].transfer_syntaxes == tuple(syntaxes)
    with pytest.raises(PeerProtocolError):
        decode_request(request_body(proposal(1, CT, *syntaxes, "1.3")))


def test_case_38_a_request_may_propose_nothing():
    assert decode_request(request_body(APPLICATION_ITEM, USER_ITEM)).contexts == ()


def test_case_39_contexts_without_a_usable_transfer_syntax_are_read():
    request = decode_request(request_body(proposal(1, CT), proposal(3, CT, ""), proposal(5, CT, "unknown")))
    assert [context.transfer_syntaxes for context in request.contexts] == [(), ("",), ("unknown",)]


def test_case_44_the_operations_window_is_read():
    request = decode_request(request_body(item(0x50, item(0x53, b"\0\5\0\0"))))
    assert request.user.async_window == (5, 0)
    assert decode_request(request_body()).user.async_window is None


def test_case_46_roles_are_read():
    role = len(CT).to_bytes(2, "big") + CT.encode()
    request = decode_request(request_body(item(0x50, item(0x54, role + b"\1\0") + item(0x54, role + b"\0\1"))))
    assert request.user.roles == (RoleSelection(CT, True, False), RoleSelection(CT, False, True))


def test_case_47_extended_and_common_extended_negotiation_do_no_harm():
    extended = len(CT).to_bytes(2, "big") + CT.encode() + b"\1\2\3"
    common = len(CT).to_bytes(2, "big") + CT.encode() + b"\0\x111.2.840.10008.4.2" + b"\0\0"
    request = decode_request(request_body(item(0x50, maximum(1) + item(0x56, extended) + item(0x57, common))))
    assert request.user.extended == ((CT, b"\1\2\3"),)
    assert request.user.max_length == 1


@pytest.mark.parametrize("kind", [1, 2, 3, 4, 5])
def test_case_48_user_identity_is_read_and_never_shown(kind: int):
    content = bytes((kind, 1)) + b"\0\6secret" + (b"\0\4pass" if kind == 2 else b"\0\0")
    request = decode_request(request_body(item(0x50, item(0x58, content))))
    identity = request.user.user_identity
    assert identity == UserIdentity(kind, True, b"secret", b"pass" if kind == 2 else b"")
    assert "secret" not in repr(request)
    assert "pass" not in repr(request)


@pytest.mark.parametrize("content", [b"\x09\1", b"\x09\1\xff\xff", b"\0\0\0\1"])
def test_case_48_an_identity_of_an_unknown_type_is_ignored(content: bytes):
    assert decode_request(request_body(item(0x50, item(0x58, content)))).user.user_identity is None


def test_a_request_that_came_before_is_not_decoded_again():
    body = request_body()
    first = decode_request(bytes(bytearray(body)))
    assert decode_request(bytes(bytearray(body))) is first
    assert first.said == body
    with pytest.raises(PeerProtocolError, match="too many"):
        decode_request(body, max_contexts=0)


@pytest.mark.parametrize(
    "items",
    [
        pytest.param([item(0x50, item(0x58, b"\2\1\0\6secret\0\4pass"))], id="that opens something"),
        pytest.param([proposal(1, CT, *["1.2.840.10008.1.2.4.50"] * 60)] * 15, id="that is long"),
    ],
)
def test_a_request_is_not_remembered(items: list[bytes]):
    body = request_body(*items)
    assert not decode_request(body).said
    assert decode_request(body) is not decode_request(body)


# Reading an A-ASSOCIATE-AC ----------------------------------------------------------------------------------


@pytest.mark.parametrize("syntax", [None, b"", b"nonsense"])
@pytest.mark.parametrize("outcome", [1, 2, 3, 4, 255])
def test_case_87_a_rejected_context_needs_no_transfer_syntax(syntax: bytes | None, outcome: int):
    accept = decode_accept(accept_body(result(1, outcome, syntax), result(3, 0, IMPLICIT.encode())))
    assert [context.result for context in accept.contexts] == [outcome, 0]
    assert accept.contexts[1].transfer_syntax == IMPLICIT


@pytest.mark.parametrize("padded", [IMPLICIT + "\0", IMPLICIT + " ", "\0" + IMPLICIT])
def test_case_90_padding_of_the_accepted_transfer_syntax_is_trimmed(padded: str):
    assert decode_accept(accept_body(result(1, 0, padded.encode()))).contexts == (ContextResult(1, 0, IMPLICIT),)


def test_case_91_an_accept_needs_no_user_information_and_may_hold_what_nobody_knows():
    bare = decode_accept(accept_body(APPLICATION_ITEM, result(1, 0, IMPLICIT.encode())))
    assert bare.user == UserInformation(max_length=16384)
    strange = item(0x50, item(0x99, b"?") + maximum(4096) + item(0x59, b"\0\0"))
    assert decode_accept(accept_body(item(0x77, b"!"), strange)).user.max_length == 4096


def test_an_accept_cut_anywhere_is_an_error_or_reads_as_what_is_there():
    body = accept_body()
    for end in range(len(body)):
        try:
            accept = decode_accept(body[:end])
        except PeerProtocolError as error:
            assert error.reason is AbortReason.INVALID_PDU_PARAMETER_VALUE
        else:
            assert len(accept.contexts) <= 1


# Writing ----------------------------------------------------------------------------------------------------

uids = st.from_regex(r"[1-9][0-9]{0,8}(\.[0-9]{1,6}){1,7}", fullmatch=True)
titles = st.text("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_", min_size=1, max_size=16)
users = st.builds(
    UserInformation,
    max_length=st.integers(0, 2**32 - 1),
    implementation_class_uid=uids,
    implementation_version=titles,
    async_window=st.none() | st.tuples(st.integers(0, 65535), st.integers(0, 65535)),
    roles=st.lists(st.builds(RoleSelection, uids, st.booleans(), st.booleans()), max_size=3).map(tuple),
    extended=st.lists(st.tuples(uids, st.binary(max_size=9)), max_size=3).map(tuple),
    user_identity=st.none()
    | st.builds(UserIdentity, st.integers(1, 5), st.booleans(), st.binary(max_size=9), st.binary(max_size=9)),
)
contexts = st.dictionaries(
    st.integers(0, 127).map(lambda number: 2 * number + 1),
    st.tuples(uids, st.lists(uids, max_size=4).map(tuple)),
    max_size=8,
).map(lambda found: tuple(ProposedContext(number, *content) for number, content in found.items()))


@given(called=titles, calling=titles, proposed=contexts, user=users)
def test_a_request_survives_being_written_and_read(
    called: str, calling: str, proposed: tuple[ProposedContext, ...], user: UserInformation
):
    request = AssociateRequest(called_ae=called, calling_ae=calling, contexts=proposed, user=user)
    read = decode_request(encode_request(request)[6:])
    assert (read.called_ae, read.calling_ae, read.contexts, read.user) == (called, calling, proposed, user)


@given(
    results=st.dictionaries(st.integers(0, 255), st.sampled_from(ContextOutcome), max_size=8), syntax=uids, user=users
)
def test_an_accept_survives_being_written_and_read(
    results: dict[int, ContextOutcome], syntax: str, user: UserInformation
):
    accept = AssociateAccept(
        contexts=tuple(ContextResult(number, outcome, syntax) for number, outcome in results.items()),
        user=user,
        raw_header=bytes(64),
    )
    assert decode_accept(encode_accept(accept)[6:]) == accept


@given(st.binary(max_size=400))
def test_no_bytes_of_a_peer_raise_anything_but_a_protocol_error(noise: bytes):
    for body in (noise, bytes(68) + noise):
        for decode in (decode_request, decode_accept):
            try:
                decode(body)
            except PeerProtocolError as error:
                assert error.reason is AbortReason.INVALID_PDU_PARAMETER_VALUE
    decode_reject(noise)
    decode_abort(noise)


@given(data=st.data())
def test_one_wrong_byte_raises_nothing_but_a_protocol_error(data: st.DataObject):
    body = bytearray(request_body())
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(PeerProtocolError):
        decode_request(bytes(body))


def test_user_sub_items_go_out_in_ascending_order():
    """PS3.8 §9.3.2.3: some old peers expect it."""
    user = UserInformation(
        implementation_class_uid="1.2",
        implementation_version="V",
        async_window=(2, 1),
        roles=(RoleSelection(CT, True, False),),
        extended=((CT, b"\1"),),
        user_identity=UserIdentity(1, False, b"u"),
    )
    request = encode_request(AssociateRequest(called_ae="A", calling_ae="B", contexts=(), user=user))
    at, kinds = 6 + 68 + len(APPLICATION_ITEM) + 4, []
    while at < len(request):
        kinds.append(request[at])
        at += 4 + int.from_bytes(request[at + 2 : at + 4], "big")
    assert kinds == sorted(kinds) == [0x51, 0x52, 0x53, 0x54, 0x55, 0x56, 0x58]


def test_case_95_a_plain_request_has_no_role_items():
    written = encode_request(AssociateRequest(called_ae="A", calling_ae="B", contexts=()))
    assert item(0x54, b"")[:2] not in written[74 + len(APPLICATION_ITEM) :]


def test_a_rejected_context_still_has_its_transfer_syntax_item():
    """Not significant (PS3.8 Table 9-18), but requestors have failed over missing and empty ones."""
    accept = AssociateAccept(contexts=(ContextResult(1, ContextOutcome.ABSTRACT_SYNTAX_NOT_SUPPORTED),))
    assert result(1, 3, IMPLICIT.encode()) in encode_accept(accept)


# Another implementation's eyes ------------------------------------------------------------------------------


def test_pynetdicom_reads_our_request():
    request = AssociateRequest(
        called_ae="ARCHIVE",
        calling_ae="ROUTER",
        contexts=(ProposedContext(1, CT, (JPEG,)), ProposedContext(3, MR, (IMPLICIT, EXPLICIT))),
        user=UserInformation(
            max_length=131072, implementation_class_uid="1.2.3", implementation_version="X", async_window=(16, 1)
        ),
    )
    read = peer.A_ASSOCIATE_RQ()
    read.decode(encode_request(request))
    primitive: Any = read.to_primitive()
    assert isinstance(primitive, A_ASSOCIATE)
    assert (primitive.called_ae_title, primitive.calling_ae_title) == ("ARCHIVE", "ROUTER")
    assert [
        (context.context_id, context.abstract_syntax, context.transfer_syntax)
        for context in primitive.presentation_context_definition_list
    ] == [(1, CT, [JPEG]), (3, MR, [IMPLICIT, EXPLICIT])]
    assert primitive.maximum_length_received == 131072
    assert decode_request(read.encode()[6:]).user == request.user


def test_pynetdicom_reads_our_accept():
    accept = AssociateAccept(
        contexts=(ContextResult(1, 0, IMPLICIT), ContextResult(3, 3)),
        user=UserInformation(max_length=65536, implementation_class_uid="1.2.3", implementation_version="X"),
        raw_header=b"ROUTER".ljust(16) + b"MODALITY".ljust(16) + bytes(32),
    )
    read = peer.A_ASSOCIATE_AC()
    read.decode(encode_accept(accept))
    assert [context.result for context in read.presentation_context] == [0, 3]
    assert read.user_information.maximum_length == 65536
    assert decode_accept(read.encode()[6:]).contexts[0] == ContextResult(1, 0, IMPLICIT)


def test_pynetdicom_reads_our_fixed_pdus():
    abort = peer.A_ABORT_RQ()
    abort.decode(encode_abort(Abort(2, 6)))
    assert (abort.source, abort.reason_diagnostic) == (2, 6)
    reject = peer.A_ASSOCIATE_RJ()
    reject.decode(encode_reject(AssociateReject(2, 3, 1)))
    assert (reject.result, reject.source, reject.reason_diagnostic) == (2, 3, 1)
    release = peer.A_RELEASE_RQ()
    release.decode(RELEASE_RQ)
    assert isinstance(release.to_primitive(), A_RELEASE)


def test_the_bench_writes_what_the_product_writes():
    """The tests' own encoder and the product's say the same thing in the same bytes."""
    request = decode_request(request_body())
    assert encode_request(request) == pdu(1, request_body())
