"""Presentation context negotiation, both sides (PS3.8 §9.3.2.2, §9.3.3.2).

Pure functions: proposals and what we support go in, one answer per proposal comes out. Knows nothing about PDUs on the
wire, AE titles or configuration files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from router.ul.pdus import (
    AssociateAccept,
    AssociateRequest,
    ContextOutcome,
    ContextResult,
    ProposedContext,
    RoleSelection,
)

MAX_CONTEXTS = 128
"""Odd ids from 1 to 255."""


def answer(
    proposed: Sequence[ProposedContext],
    *,
    supports: Callable[[str], bool],
    takes: Callable[[str], bool],
) -> tuple[ContextResult, ...]:
    """Answer every proposed presentation context, in the order proposed.

    The first transfer syntax that we take wins: senders list what they have natively first. A context that we cannot
    serve is refused with a reason, never left out.

    Args:
        supports: Whether an abstract syntax UID is served.
        takes: Whether a transfer syntax UID (never empty) is taken.
    """
    results = []
    for context in proposed:
        syntax = next((uid for uid in context.transfer_syntaxes if uid and takes(uid)), "")
        if context.id == 0:
            # Not a legal id: answered, so that the peer is not left waiting, but never usable.
            results.append(ContextResult(0, ContextOutcome.NO_REASON))
        elif not context.abstract_syntax or not supports(context.abstract_syntax):
            results.append(ContextResult(context.id, ContextOutcome.ABSTRACT_SYNTAX_NOT_SUPPORTED))
        elif not syntax:
            results.append(ContextResult(context.id, ContextOutcome.TRANSFER_SYNTAXES_NOT_SUPPORTED))
        else:
            results.append(ContextResult(context.id, ContextOutcome.ACCEPTANCE, syntax))
    return tuple(results)


def answer_roles(proposed: Iterable[RoleSelection], accepted: Iterable[str]) -> tuple[RoleSelection, ...]:
    """Roles for accepted abstract syntaxes only, never more than proposed: the requestor stays SCU, we stay SCP
    (PS3.7 D.3.3.4).

    One for each abstract syntax: of several the first counts. As many as fit into a request would not fit into the
    answer, which says more than the request.
    """
    served = set(accepted)
    answers: dict[str, RoleSelection] = {}
    for role in proposed:
        if role.sop_class in served:
            answers.setdefault(role.sop_class, RoleSelection(role.sop_class, role.scu, False))
    return tuple(answers.values())


def accepted_contexts(request: AssociateRequest, accept: AssociateAccept) -> dict[int, tuple[str, str]]:
    """What may be used: presentation context id to (abstract syntax, transfer syntax).

    A context missing from the answer is rejected, one that was not proposed is ignored, and one accepted with a
    transfer syntax that we did not propose is unusable.
    """
    proposals = {context.id: context for context in request.contexts}
    usable = {}
    for result in accept.contexts:
        proposal = proposals.get(result.id)
        if (
            proposal is not None
            and result.result == ContextOutcome.ACCEPTANCE
            and result.transfer_syntax in proposal.transfer_syntaxes
        ):
            usable[result.id] = (proposal.abstract_syntax, result.transfer_syntax)
    return usable


def propose(pairs: Iterable[tuple[str, str]]) -> tuple[ProposedContext, ...]:
    """One context per (abstract syntax, transfer syntax): the acceptor must not choose for a router that does not
    transcode.

    The first 128 different pairs are taken; ids are odd, 1 to 255.
    """
    unique = list(dict.fromkeys(pairs))[:MAX_CONTEXTS]
    return tuple(
        ProposedContext(2 * index + 1, abstract, (transfer,)) for index, (abstract, transfer) in enumerate(unique)
    )
