"""What an acceptor takes, refuses and answers, seen from the wire. Numbers are those of the protocol checklist."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from router.model import Peer, Status
from router.ul.pdus import ProposedContext, RoleSelection, decode_accept
from tests.net.doubles import (
    CT,
    EXPLICIT,
    IMPLICIT,
    LISTENER,
    RELEASE_RP,
    RELEASE_RQ,
    VERIFICATION,
    Node,
    RawPeer,
    abort_pdu,
    associate_rq,
    command_set,
    echo_rq,
    element,
    item,
    p_data,
    raw_element,
    store,
    store_rq,
)

FIND = "1.2.840.10008.5.1.4.1.2.2.1"
PRIVATE_CLASS = "1.3.46.670589.11.0.0.12.1"
PRIVATE_SYNTAX = "1.2.840.113619.5.99"
JPEG = "1.2.840.10008.1.2.4.50"


def associate_pdu(*contexts: ProposedContext, user: bytes | None = None, extra: bytes = b"") -> bytes:
    """An A-ASSOCIATE-RQ built item by item, for what the encoder would never write."""
    body = b"\0\1\0\0" + b"ROUTER".ljust(16) + b"MODALITY".ljust(16) + bytes(32) + item(0x10, b"1.2.840.10008.3.1.1.1")
    for context in contexts:
        content = bytes((context.id, 0, 0, 0)) + item(0x30, context.abstract_syntax.encode())
        for syntax in context.transfer_syntaxes:
            content += item(0x40, syntax.encode())
        body += item(0x20, content)
    body += extra
    body += item(0x50, item(0x51, (131072).to_bytes(4, "big"))) if user is None else user
    return b"\1\0" + len(body).to_bytes(4, "big") + body


async def results(peer: RawPeer, *contexts: ProposedContext, **more: Any) -> dict[int, tuple[int, str]]:
    peer.send(associate_pdu(*contexts, **more))
    accept = decode_accept((await peer.pdu())[6:])
    # The transfer syntax of a context that was not accepted means nothing (PS3.8 Table 9-18).
    return {
        context.id: (context.result, "" if context.result else context.transfer_syntax) for context in accept.contexts
    }


def context(number: int, abstract: str, *syntaxes: str) -> ProposedContext:
    return ProposedContext(number, abstract, syntaxes)


# Presentation contexts -----------------------------------------------------------------------------------------


async def test_case_40_other_services_are_refused_and_the_association_is_accepted() -> None:
    async with Node() as node, node.peer(associated=False) as peer:
        assert await results(peer, context(1, FIND, IMPLICIT)) == {1: (3, "")}
        peer.send(RELEASE_RQ)
        assert await peer.pdu() == RELEASE_RP


async def test_case_38_an_association_without_contexts_is_accepted() -> None:
    async with Node() as node, node.peer(associated=False) as peer:
        assert await results(peer) == {}


async def test_case_41_42_private_classes_and_syntaxes_are_carried() -> None:
    async with Node() as node, node.peer(associated=False) as peer:
        assert await results(peer, context(1, PRIVATE_CLASS, PRIVATE_SYNTAX)) == {1: (0, PRIVATE_SYNTAX)}
        peer.send(store(b"opaque", 1, 1, sop_class=PRIVATE_CLASS))
        assert await peer.status() == 0
        assert node.intake.finished[0].facts["transfer_syntax"] == PRIVATE_SYNTAX


async def test_case_43_the_first_syntax_proposed_is_chosen() -> None:
    async with Node() as node, node.peer(associated=False) as peer:
        assert await results(peer, context(1, CT, JPEG, IMPLICIT)) == {1: (0, JPEG)}


async def test_case_36_37_every_context_is_answered_on_its_own() -> None:
    async with Node() as node, node.peer(associated=False) as peer:
        contexts = [context(2 * n + 1, CT, JPEG if n % 2 else EXPLICIT) for n in range(128)]
        answered = await results(peer, *contexts)
        assert answered == {2 * n + 1: (0, JPEG if n % 2 else EXPLICIT) for n in range(128)}


async def test_case_34_even_ids_work_and_0_is_refused() -> None:
    async with Node() as node, node.peer(associated=False) as peer:
        answered = await results(peer, context(2, CT, EXPLICIT), context(0, CT, EXPLICIT))
        assert answered[2] == (0, EXPLICIT)
        assert answered[0][0] != 0
        peer.send(store(b"12", 1, 2))
        assert await peer.status() == 0


async def test_case_39_nonsense_syntaxes_are_refused_for_their_context() -> None:
    async with Node() as node, node.peer(associated=False) as peer:
        answered = await results(
            peer, context(1, CT), context(3, CT, ""), context(5, CT, "unknown"), context(7, CT, "unknown", EXPLICIT)
        )
        assert [answered[number][0] for number in (1, 3, 5, 7)] == [4, 4, 4, 0]
        assert answered[7][1] == EXPLICIT


async def test_case_26_the_answer_repeats_the_titles_and_reserved_bytes() -> None:
    async with Node() as node, node.peer(associated=False) as peer:
        request = bytearray(associate_rq())
        request[10:26] = b"ROUTER\0garbage!!"
        request[42:74] = bytes(range(32))
        peer.send(bytes(request))
        answer = await peer.pdu()
        assert answer[0] == 2
        assert answer[10:74] == request[10:74]


@pytest.mark.parametrize(
    ("proposed", "granted"), [((5, 5), (5, 1)), ((0, 0), (64, 1)), ((1000, 1), (64, 1)), (None, None)]
)
async def test_case_44_the_operations_window_has_our_true_values(
    proposed: tuple[int, int] | None, granted: tuple[int, int] | None
) -> None:
    async with Node() as node, node.peer(associated=False) as peer:
        peer.send(associate_rq(async_window=proposed))
        assert decode_accept((await peer.pdu())[6:]).user.async_window == granted


async def test_case_46_47_48_roles_are_never_more_than_asked_and_identities_are_not_answered() -> None:
    def role(uid: str, scu: int, scp: int) -> bytes:
        return item(0x54, len(uid).to_bytes(2, "big") + uid.encode() + bytes((scu, scp)))

    user = item(
        0x50,
        item(0x51, (16384).to_bytes(4, "big"))
        + role(CT, 1, 1)
        + role(FIND, 1, 1)
        + item(0x56, len(CT).to_bytes(2, "big") + CT.encode() + b"\1")
        + item(0x57, len(CT).to_bytes(2, "big") + CT.encode() + bytes(4))
        + item(0x58, b"\2\1\0\4user\0\6secret")
        + item(0x99, b"unknown"),
    )
    async with Node() as node, node.peer(associated=False) as peer:
        peer.send(associate_pdu(context(1, CT, EXPLICIT), context(3, FIND, IMPLICIT), user=user))
        answer = await peer.pdu()
        accept = decode_accept(answer[6:])
        assert accept.user.roles == (RoleSelection(CT, True, False),)
        assert accept.user.user_identity is None
        assert "secret" not in str(node.log.lines)


async def test_case_46_a_request_full_of_roles_gets_an_answer_that_holds_one_for_each_class() -> None:
    role = item(0x54, len(VERIFICATION).to_bytes(2, "big") + VERIFICATION.encode() + b"\1\0")
    user = item(0x50, role * (0xFFFF // len(role)))
    async with Node() as node, node.peer(associated=False) as peer:
        peer.send(associate_pdu(context(1, VERIFICATION, IMPLICIT), user=user))
        accept = decode_accept((await peer.pdu())[6:])
        assert accept.user.roles == (RoleSelection(VERIFICATION, True, False),)
        peer.send(p_data(1, 3, echo_rq()))
        assert await peer.status() == 0


async def test_case_27_28_without_user_information_answers_are_still_sent() -> None:
    async with Node() as node, node.peer(associated=False) as peer:
        assert await results(peer, context(1, VERIFICATION, IMPLICIT), user=b"") == {1: (0, IMPLICIT)}
        peer.send(p_data(1, 3, echo_rq()))
        assert await peer.status() == 0


async def test_case_30_a_peer_that_takes_no_data_is_aborted_when_an_answer_is_due() -> None:
    async with Node(artim_timeout=0.1) as node, node.peer(max_length=7) as peer:
        peer.send(p_data(1, 3, echo_rq()))
        assert (await peer.pdu())[0] == 7


async def test_case_29_30_answers_fit_the_smallest_and_the_unlimited_peer() -> None:
    async with Node() as node:
        async with node.peer(max_length=0) as peer:
            peer.send(p_data(1, 3, echo_rq()))
            assert await peer.status() == 0
        async with node.peer(max_length=8) as peer:
            peer.send(p_data(1, 3, echo_rq()))
            command = b""
            while True:
                pdu = await peer.pdu()
                assert len(pdu) == 14 or pdu[11] & 2
                command += pdu[12:]
                if pdu[11] & 2:
                    break
            assert element(command, 0x0900) == 0


async def test_the_same_request_gets_the_same_answer_each_time_and_another_its_own() -> None:
    one, other = (context(1, CT, EXPLICIT), context(3, FIND, IMPLICIT)), (context(1, CT, JPEG),)
    async with Node() as node:
        for _ in range(3):
            async with node.peer(associated=False) as peer:
                assert await results(peer, *one) == {1: (0, EXPLICIT), 3: (3, "")}
                peer.send(store(b"x", context_id=1))
                assert await peer.status() == 0
            async with node.peer(associated=False) as peer:
                assert await results(peer, *other) == {1: (0, JPEG)}
    assert [reception.facts["transfer_syntax"] for reception in node.intake.finished] == [EXPLICIT] * 3


# Messages ------------------------------------------------------------------------------------------------------


async def test_an_instance_is_handed_on_with_what_the_association_says() -> None:
    async with Node() as node, node.peer() as peer:
        data = bytes(range(256)) * 2000
        fragments = b"".join(p_data(3, 0, data[at : at + 9998]) for at in range(0, len(data), 9998))
        peer.send(p_data(3, 3, store_rq(7, "1.2.3")) + fragments + p_data(3, 2, b""))
        assert await peer.status() == 0
        reception = node.intake.finished[0]
        assert bytes(reception.data) == data
        origin = reception.facts.pop("origin")
        assert (origin.peer, origin.calling_ae, origin.called_ae, origin.address) == (
            "unknown",
            "MODALITY",
            "ROUTER",
            "127.0.0.1",
        )
        assert origin.listener == LISTENER.name
        assert reception.facts == {
            "sop_class": CT,
            "sop_instance": "1.2.3",
            "transfer_syntax": EXPLICIT,
            "move_originator": None,
        }
        assert node.metrics.objects == {"unknown": 1}
        assert node.metrics.bytes == len(data)
        assert node.metrics.statuses == [0]


async def test_case_111_the_move_originator_is_kept() -> None:
    async with Node() as node, node.peer() as peer:
        peer.send(store(b"12", e1030="MOVER ", e1031=77))
        await peer.status()
        assert node.intake.finished[0].facts["move_originator"] == ("MOVER", 77)


@pytest.mark.parametrize("uid", [b"1.2.3.4\0", b"1.2.3.40", b"1.2.3.4 ", b"1.2.3.4\0\0\0"])
async def test_case_70_the_answer_repeats_the_uids_as_they_were_padded(uid: bytes) -> None:
    async with Node() as node, node.peer() as peer:
        peer.send(store(b"12", sop_instance=uid, sop_class=CT.encode() + b" "))
        response = await peer.command()
        assert raw_element(response, 0x1000) == uid
        assert raw_element(response, 0x0002) == CT.encode() + b" "
        assert element(response, 0x0100) == 0x8001
        assert element(response, 0x0120) == 1
        assert element(response, 0x0800) == 0x0101
        assert node.intake.finished[0].facts["sop_instance"] == uid.decode().strip("\0 ")


@pytest.mark.parametrize("message_id", [0, 65535])
async def test_case_69_message_ids_0_and_65535_are_valid(message_id: int) -> None:
    async with Node() as node, node.peer() as peer:
        peer.send(p_data(1, 3, echo_rq(message_id)))
        assert element(await peer.command(), 0x0120) == message_id


async def test_case_45_answers_come_in_the_order_of_the_requests() -> None:
    async with Node() as node, node.peer() as peer:
        node.intake.answer_at_once = False
        peer.send(store(b"11", 1) + store(b"22", 2) + p_data(1, 3, echo_rq(3)) + store(b"44", 4))
        await node.intake.until(lambda: len(node.intake.finished) == 3)
        first, second, fourth = (reception.answer for reception in node.intake.finished)
        assert first is not None and second is not None and fourth is not None
        fourth(0xA700, "full")
        second(0, "")
        first(0xC001, "framing")
        answers = [await peer.command() for _ in range(4)]
        assert [element(answer, 0x0120) for answer in answers] == [1, 2, 3, 4]
        assert [element(answer, 0x0900) for answer in answers] == [0xC001, 0, 0, 0xA700]
        assert raw_element(answers[0], 0x0902) == b"framing "
        assert node.metrics.statuses == [0xC001, 0, 0xA700]


async def test_case_45_a_flood_of_unanswered_requests_is_not_read_for_ever() -> None:
    async with Node() as node, node.peer() as peer:
        node.intake.answer_at_once = False
        total = 3000
        peer.send(b"".join(store(bytes(2000), number) for number in range(1, total + 1)))
        await node.intake.until(lambda: len(node.intake.finished) >= 256)
        async with node.peer() as other:
            other.send(p_data(1, 3, echo_rq()))
            assert await other.status() == 0
        assert len(node.intake.finished) < 1000
        node.intake.answer_at_once = True
        for reception in list(node.intake.finished):
            if reception.answer is not None and reception.finished:
                reception.answer(0, "")
        for number in range(1, total + 1):
            assert element(await peer.command(), 0x0120) == number


@pytest.mark.parametrize("first", [0x03, 0xFF, 0x43])
async def test_case_51_only_two_bits_of_the_control_header_count(first: int) -> None:
    async with Node() as node, node.peer() as peer:
        peer.send(p_data(1, first, echo_rq()))
        assert await peer.status() == 0


async def test_case_52_55_fragments_of_any_size_are_put_together() -> None:
    async with Node() as node, node.peer() as peer:
        command, data = store_rq(), bytes(range(100))
        pieces = [p_data(3, 1, command[at : at + 3]) for at in range(0, len(command), 3)]
        peer.send(b"".join(pieces) + p_data(3, 3, b""))
        peer.send(p_data(3, 0, data[:33]) + p_data(3, 0, b"") + p_data(3, 0, data[33:34]) + p_data(3, 2, data[34:]))
        assert await peer.status() == 0
        assert bytes(node.intake.finished[0].data) == data


async def test_case_53_54_several_pdvs_and_messages_in_one_pdu() -> None:
    def pdvs(*parts: tuple[int, int, bytes]) -> bytes:
        body = b"".join((len(data) + 2).to_bytes(4, "big") + bytes((number, mch)) + data for number, mch, data in parts)
        return b"\4\0" + len(body).to_bytes(4, "big") + body

    async with Node() as node, node.peer() as peer:
        peer.send(pdvs((3, 3, store_rq(1)), (3, 2, b"11"), (1, 3, echo_rq(2)), (3, 3, store_rq(3)), (3, 2, b"33")))
        assert [element(await peer.command(), 0x0120) for _ in range(3)] == [1, 2, 3]
        assert [bytes(reception.data) for reception in node.intake.finished] == [b"11", b"33"]


async def test_case_56_an_odd_data_set_is_taken_as_it_is() -> None:
    async with Node() as node, node.peer() as peer:
        peer.send(store(b"odd"))
        assert await peer.status() == 0
        assert bytes(node.intake.finished[0].data) == b"odd"


async def test_case_57_58_nothing_is_nothing() -> None:
    async with Node() as node, node.peer() as peer:
        peer.send(b"\4\0\0\0\0\0" + p_data(3, 3, store_rq()) + b"\4\0\0\0\0\0" + p_data(3, 0, b"") + p_data(3, 2, b""))
        assert await peer.status() == 0
        assert bytes(node.intake.finished[0].data) == b""


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (p_data(5, 3, echo_rq()), 5),  # 60: a context that was not accepted
        (p_data(3, 3, store_rq()) + p_data(1, 2, b"12"), 5),  # 61: data on another context
        (p_data(3, 2, b"12"), 5),  # 61: data before its command
        (p_data(3, 3, store_rq()) + p_data(3, 0, b"12") + p_data(3, 3, echo_rq()), 5),  # 61: command within data
        (b"\4\0\0\0\0\6\0\0\0\1\1\3", 6),  # 59: a PDV that cannot hold its header
        (b"\4\0\0\0\0\10\0\0\0\7\1\3xx", 6),  # 59: a PDV beyond its PDU
        (b"\4\0\0\2\0\1", 6),  # 9: longer than we announced
        (p_data(1, 3, bytes(20000)), 6),  # a command set beyond its limit
        (p_data(1, 3, command_set(e0110=1)), 6),  # no command field
        (p_data(1, 3, command_set(e0100=0x0030, e0800=0x0101)), 6),  # no message id
        (p_data(1, 3, command_set(e0100=0x9999, e0800=0x0101)), 6),  # 67: an unknown response
        (RELEASE_RP, 2),
        (b"\x55", 1),  # 5
    ],
)
async def test_case_59_60_61_67_what_would_mix_up_messages_aborts(sent: bytes, reason: int) -> None:
    async with Node(artim_timeout=0.2) as node, node.peer() as peer:
        peer.send(sent)
        assert await peer.pdu() == abort_pdu(2, reason)
        assert not node.intake.finished


async def test_case_9_a_tolerant_listener_takes_longer_pdus() -> None:
    listener = replace(LISTENER, max_pdu=16384)
    async with Node(listener, strict_pdu_length=False) as node, node.peer() as peer:
        peer.send(store(bytes(100_000)))
        assert await peer.status() == 0


async def test_case_10_fixed_pdus_of_another_length_are_consumed() -> None:
    async with Node() as node, node.peer() as peer:
        peer.send(b"\5\0\0\0\0\10" + bytes(8))
        assert await peer.pdu() == RELEASE_RP


@pytest.mark.parametrize(
    ("command", "data", "status"),
    [
        (store_rq(e0800=0x0101), None, Status.NO_DATA_SET),
        (store_rq(sop_instance=b""), b"12", Status.MISSING_UIDS),
        (store_rq(sop_class=b""), b"12", Status.MISSING_UIDS),
        (store_rq(sop_instance="../../tmp/x"), b"12", Status.INVALID_OBJECT_INSTANCE),
        (store_rq(sop_instance="1." * 32 + "1"), b"12", Status.INVALID_OBJECT_INSTANCE),
        (store_rq(sop_class="../x"), b"12", Status.INVALID_OBJECT_INSTANCE),
        (store_rq(sop_class="1.2.840.10008.5.1.4.1.1.4"), b"12", Status.SOP_CLASS_NOT_SUPPORTED),
    ],
)
async def test_case_62_73_what_a_command_lacks_is_answered_with_a_status(
    command: bytes, data: bytes | None, status: int
) -> None:
    async with Node() as node, node.peer() as peer:
        peer.send(p_data(3, 3, command))
        if data is not None:
            peer.send(p_data(3, 0, bytes(50_000)) + p_data(3, 2, data))
        assert await peer.status() == status
        assert not node.intake.begun
        peer.send(store(b"12", 2))  # and the association goes on
        assert await peer.status() == 0
        assert node.metrics.statuses == [status, 0]


async def test_storing_on_the_verification_context_is_refused() -> None:
    async with Node() as node, node.peer() as peer:
        peer.send(store(b"12", 1, 1, sop_class=VERIFICATION))
        assert await peer.status() == Status.SOP_CLASS_NOT_SUPPORTED


@pytest.mark.parametrize("value", [0, 1, 0x0100, 0x0102, 0xFFFF])
async def test_case_63_anything_but_0101_means_that_data_follows(value: int) -> None:
    async with Node() as node, node.peer() as peer:
        peer.send(p_data(3, 3, store_rq(e0800=value)) + p_data(3, 2, b"12"))
        assert await peer.status() == 0


async def test_case_64_a_c_echo_with_a_data_set_waits_for_it() -> None:
    async with Node(rate_window=0.1, artim_timeout=0.1) as node:
        async with node.peer() as peer:
            echo = command_set(e0002=VERIFICATION, e0100=0x0030, e0110=1, e0800=0)
            peer.send(p_data(1, 3, echo) + p_data(1, 2, b"12"))
            assert await peer.status() == 0
        async with node.peer() as peer:
            peer.send(p_data(1, 3, echo))
            assert await peer.pdu() == abort_pdu(2, 0)


async def test_case_50_65_66_sloppy_commands_are_understood() -> None:
    sloppy = b"".join(
        (
            b"\0\0\0\0\4\0\0\0\xff\xff\xff\xff",  # a group length that is wrong
            b"\0\0\2\0" + (len(CT) + 1).to_bytes(4, "little") + CT.encode() + b"\0",
            b"\0\0\0\1\2\0\0\0\1\0",
            b"\0\0\0\1\2\0\0\0\x30\0",  # twice: the first counts
            b"\0\0\x10\1\4\0\0\0\5\0\6\0",  # two values
            b"\0\0\0\10\2\0\0\0\1\0",
            b"\0\0\0\x10\6\0\0\0" + b"1.2.3\0",
            b"\x09\0\1\0\2\0\0\0xx",  # another group
        )
    )  # and no Priority
    async with Node() as node, node.peer() as peer:
        peer.send(p_data(3, 3, sloppy) + p_data(3, 2, b"12"))
        response = await peer.command()
        assert (element(response, 0x0120), element(response, 0x0900)) == (5, 0)
        assert node.intake.finished[0].facts["sop_instance"] == "1.2.3"


@pytest.mark.parametrize("field", [0x0020, 0x0021, 0x0010, 0x0100, 0x0110, 0x0120, 0x0130, 0x0140, 0x0150, 0x0777])
async def test_case_67_other_requests_are_unrecognized_operations(field: int) -> None:
    async with Node() as node, node.peer() as peer:
        peer.send(p_data(3, 3, command_set(e0002=CT, e0100=field, e0110=9, e0800=1)) + p_data(3, 2, b"12"))
        response = await peer.command()
        assert element(response, 0x0900) == Status.UNRECOGNIZED_OPERATION
        assert element(response, 0x0100) == field | 0x8000
        assert not node.metrics.statuses  # of C-STORE only


async def test_case_68_stray_cancels_and_responses_are_ignored() -> None:
    async with Node() as node, node.peer() as peer:
        peer.send(p_data(1, 3, command_set(e0100=0x0FFF, e0120=1, e0800=0x0101)))
        peer.send(p_data(1, 3, command_set(e0100=0x8001, e0120=1, e0800=0x0101, e0900=0)))
        peer.send(p_data(1, 3, command_set(e0100=0x8020, e0120=1, e0800=1, e0900=0xFF00)) + p_data(1, 2, b"12"))
        peer.send(p_data(1, 3, echo_rq(4)))
        assert element(await peer.command(), 0x0120) == 4


async def test_case_71_a_comment_has_at_most_64_characters() -> None:
    async with Node() as node, node.peer() as peer:
        node.intake.status = (0xC000, "x" * 200)
        peer.send(store(b"12"))
        assert raw_element(await peer.command(), 0x0902) == b"x" * 64


async def test_rights_are_per_peer() -> None:
    peers = [
        Peer(name="echo only", ae_title="ECHO", store=False),
        Peer(name="store only", ae_title="STORE", echo=False),
    ]
    async with Node(replace(LISTENER, accept="known"), peers=peers) as node:
        async with node.peer(calling="ECHO") as peer:
            peer.send(p_data(1, 3, echo_rq()) + store(b"12"))
            assert [await peer.status(), await peer.status()] == [0, Status.NOT_AUTHORIZED]
        async with node.peer(calling="STORE") as peer:
            peer.send(p_data(1, 3, echo_rq()) + store(b"12"))
            assert [await peer.status(), await peer.status()] == [Status.NOT_AUTHORIZED, 0]
        assert node.metrics.objects == {"store only": 1}


@pytest.mark.parametrize("where", ["begin", "write", "finish"])
async def test_a_fault_of_ours_costs_one_object_and_not_the_association(
    where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Node() as node, node.peer() as peer:

        def broken(*arguments: object, **more: object) -> None:
            raise KeyError("canary")

        with monkeypatch.context() as patch:
            if where == "begin":
                patch.setattr(node.intake, "begin", broken)
            elif where == "write":
                node.intake.fault = KeyError("canary")
            else:
                patch.setattr("tests.net.doubles.GatheringReception.finish", broken)
                node.intake.discarded += 1  # what fails to finish has ended all the same
            peer.send(p_data(3, 3, store_rq()) + p_data(3, 0, b"12") + p_data(3, 2, b"34"))
            assert await peer.status() == Status.PROCESSING_FAILURE
        node.intake.fault = None
        peer.send(store(b"12", 2))
        assert await peer.status() == 0
        assert [level for level, _, _ in node.log.lines].count("error") == 1
        assert "canary" not in str(node.log.lines)


# The end -------------------------------------------------------------------------------------------------------


async def test_case_76_a_release_within_a_message_aborts() -> None:
    async with Node(artim_timeout=0.1) as node, node.peer() as peer:
        peer.send(p_data(3, 3, store_rq()) + p_data(3, 0, b"12") + RELEASE_RQ)
        assert await peer.pdu() == abort_pdu(2, 2)
        assert node.intake.discarded == 1


async def test_a_release_is_answered_after_what_is_owed() -> None:
    async with Node() as node, node.peer() as peer:
        node.intake.answer_at_once = False
        peer.send(store(b"12", 1) + store(b"34", 2) + RELEASE_RQ)
        await node.intake.until(lambda: len(node.intake.finished) == 2)
        for reception in node.intake.finished:
            assert reception.answer is not None
            reception.answer(0, "")
        assert [await peer.status(), await peer.status()] == [0, 0]
        assert await peer.pdu() == RELEASE_RP


async def test_case_78_closing_without_release_is_a_normal_end() -> None:
    async with Node() as node:
        async with node.peer() as peer:
            peer.send(store(b"12"))
            assert await peer.status() == 0
        await node.settled()
        assert node.log.levels() == {"info"}


async def test_an_answer_that_comes_after_the_end_is_dropped() -> None:
    async with Node() as node:
        node.intake.answer_at_once = False
        async with node.peer() as peer:
            peer.send(store(b"12"))
            await node.intake.until(lambda: bool(node.intake.finished))
        await node.settled()
        answer = node.intake.finished[0].answer
        assert answer is not None
        answer(0, "")
        assert "error" not in node.log.levels()
        assert node.metrics.statuses == []


async def test_case_79_data_after_a_release_request_is_not_executed() -> None:
    async with Node(artim_timeout=0.1) as node, node.peer() as peer:
        node.intake.answer_at_once = False
        peer.send(store(b"12", 1) + RELEASE_RQ + store(b"34", 2))
        assert await peer.pdu() == abort_pdu(2, 2)
        assert len(node.intake.finished) == 1


async def test_case_80_the_acceptor_waits_for_the_requestor_to_close_but_not_long() -> None:
    loop = asyncio.get_running_loop()
    async with Node(artim_timeout=0.2) as node, node.peer() as peer:
        peer.send(RELEASE_RQ)
        assert await peer.pdu() == RELEASE_RP
        began = loop.time()
        assert await peer.ended()
        assert 0.1 < loop.time() - began < 5
