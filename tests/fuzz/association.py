"""The association core (PS3.8 §9.2) under any bytes, in both roles.

* What a peer sends brings no exception but those that become an A-ABORT.
* Where the network cuts, and whether the request is answered at once or later, changes nothing that is seen or sent.
* A-ASSOCIATE-RQ and -AC mean what the plain reference reads in them.
* An association ends once, and nothing is told after its end.
"""

from __future__ import annotations

from typing import Any

from router._fastpdu import DataFragment, PduReader
from router.dimse.assembler import MessageAssembler
from router.errors import PeerProtocolError
from router.services.acceptor import negotiate
from router.ul.association import AssociationSettings, Role
from router.ul.negotiation import accepted_contexts
from router.ul.pdus import (
    AssociateAccept,
    AssociateReject,
    AssociateRequest,
    UserInformation,
    decode_accept,
    decode_request,
    encode_accept,
)
from router.ul.state import State
from tests.fuzz.inputs import pieces, split
from tests.support import plain_associate
from tests.ul.bench import Bench, Seen, joined

SETTINGS = AssociationSettings(max_pdu=4096, associate_pdu=8192, presentation_contexts=6, transfer_syntaxes=4)
ENDS = ("aborted", "aborted by the peer", "rejected", "Released", "TransportLost")
REQUESTOR, LATE, REJECTING, UNSTRICT = 1, 2, 4, 8


def check(data: bytes) -> None:
    """Options: bits for the role, a late decision, a rejection and tolerance; cuts."""
    options, stream = split(data, 2)
    settings = AssociationSettings(
        max_pdu=SETTINGS.max_pdu,
        associate_pdu=SETTINGS.associate_pdu,
        presentation_contexts=SETTINGS.presentation_contexts,
        transfer_syntaxes=SETTINGS.transfer_syntaxes,
        strict_pdu_length=not options[0] & UNSTRICT,
    )
    said(stream)
    whole = conversation(settings, options[0] & ~LATE, [stream])
    cut = pieces(stream, options[1])
    assert conversation(settings, options[0] & ~LATE, cut) == whole
    if options[0] & LATE:
        late = conversation(settings, options[0], cut)
        if late != whole:
            # What ends an association may arrive before the request is answered; then it is not answered any more.
            assert late[0][0] == whole[0][0] and late[0][1][0] in ENDS and whole[1].endswith(late[1])


def conversation(settings: AssociationSettings, options: int, stream: list[bytes]) -> tuple[list[Seen], bytes]:
    """Everything that the user of the association sees, and everything that the peer is sent."""
    assemblers: list[MessageAssembler] = []

    def decide(request: AssociateRequest) -> AssociateAccept | AssociateReject | None:
        if options & LATE:
            return None
        return decided(request)

    def decided(request: AssociateRequest) -> AssociateAccept | AssociateReject:
        if options & REJECTING:
            return AssociateReject(1, 1, 7)
        accept = negotiate(request, settings.max_pdu)
        assemblers.append(MessageAssembler(accepted_contexts(request, accept), 256))
        return accept

    def on_fragment(fragment: DataFragment) -> None:
        if not assemblers:
            accepted = bench.core.accepted
            assert accepted is not None and bench.core.request is not None
            assemblers.append(MessageAssembler(accepted_contexts(bench.core.request, accepted), 256))
        assemblers[0].feed(fragment)
        bench.core.message_open = assemblers[0].in_message

    role = Role.REQUESTOR if options & REQUESTOR else Role.ACCEPTOR
    bench = Bench(role, settings=settings, decide=decide, on_fragment=on_fragment)
    if role is Role.REQUESTOR:
        bench.core.connected(bench.now)
    for piece in stream:
        bench.receive(piece)
    if bench.state is State.STA3 and bench.core.request is not None:
        answer = decided(bench.core.request)
        if isinstance(answer, AssociateAccept):
            bench.core.accept(answer, bench.now)
        else:
            bench.core.reject(answer, bench.now)
        bench.resume()
    out = bench.sent()
    assert bench.core.buffered <= 2 * settings.associate_pdu, "more is held back than the limits"
    assert bench.state is State.STA1 or bench.core.next_deadline() is not None, "an association without a deadline"
    bench.closed()
    assert bench.state is State.STA1
    kinds = [event[0] for event in bench.events]
    ended = [index for index, kind in enumerate(kinds) if kind in ENDS]
    assert ended in ([], [len(kinds) - 1]), f"told after the end: {kinds}"
    assert wellformed(out)
    return before_an_abort(joined(bench.events)), out


def before_an_abort(events: list[Seen]) -> list[Seen]:
    """Without the fragment that an abort followed: how much of it was seen depends on where the network cut."""
    if len(events) > 1 and events[-1][0] == "aborted" and events[-2][0] in ("command", "data"):
        del events[-2]
    return events


def wellformed(out: bytes) -> bool:
    """What we send is whole PDUs."""
    reader = PduReader(1 << 20)
    return all(item[0] != 0 for item in reader.feed(out)) and not reader.mid_pdu


def said(stream: bytes) -> None:
    """The A-ASSOCIATE PDUs at the beginning mean the same to both readers."""
    for kind, *body in PduReader(4096, 8192).feed(stream):
        if kind == 1:
            ours, theirs = verdict(decode_request, body[0]), verdict(plain_associate.request, body[0])
            assert ours == theirs
            if isinstance(ours, dict):
                encode_accept(negotiate(decode_request(body[0]), 16384))
        elif kind == 2:
            assert verdict(decode_accept, body[0]) == verdict(plain_associate.accept, body[0])


def verdict(decode: Any, body: bytes) -> dict[str, Any] | None:
    """What a decoder reads; None: it refuses."""
    try:
        found = decode(body)
    except (PeerProtocolError, plain_associate.Malformed):
        return None
    if isinstance(found, AssociateRequest):
        contexts: list[Any] = [(c.id, c.abstract_syntax, c.transfer_syntaxes) for c in found.contexts]
        head = {"version": found.protocol_version, "called": found.called_ae, "calling": found.calling_ae}
    elif isinstance(found, AssociateAccept):
        contexts = [(c.id, c.result, c.transfer_syntax) for c in found.contexts]
        head = {}
    else:
        return dict(found)
    return {
        **head,
        "header": found.raw_header,
        "application": found.application_context,
        "contexts": contexts,
        **user(found.user),
    }


def user(found: UserInformation) -> dict[str, Any]:
    identity = found.user_identity
    return {
        "max_length": found.max_length,
        "class": found.implementation_class_uid,
        "name": found.implementation_version,
        "window": found.async_window,
        "identity": identity and (identity.type, identity.response_requested, identity.primary, identity.secondary),
        "roles": [(role.sop_class, role.scu, role.scp) for role in found.roles],
        "extended": list(found.extended),
    }
