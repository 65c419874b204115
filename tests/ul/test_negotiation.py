"""Presentation contexts are answered one by one, and used only as they were answered (PS3.8 §9.3.2.2, §9.3.3.2)."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.ul.negotiation import accepted_contexts, answer, answer_roles, propose
from router.ul.pdus import AssociateAccept, ContextOutcome, ContextResult, ProposedContext, RoleSelection, encode_accept
from tests.ul.bench import CT, EXPLICIT, IMPLICIT, JPEG, MR, VERIFICATION, a_request

ACCEPTED = ContextOutcome.ACCEPTANCE
NO_ABSTRACT = ContextOutcome.ABSTRACT_SYNTAX_NOT_SUPPORTED
NO_TRANSFER = ContextOutcome.TRANSFER_SYNTAXES_NOT_SUPPORTED


def everything(uid: str) -> bool:
    return True


def answers(
    *proposed: ProposedContext,
    supports: Callable[[str], bool] = everything,
    takes: Callable[[str], bool] = everything,
) -> list[tuple[int, int, str]]:
    return [
        (result.id, result.result, result.transfer_syntax)
        for result in answer(proposed, supports=supports, takes=takes)
    ]


# Accepting --------------------------------------------------------------------------------------------------


def test_case_34_an_even_id_is_answered_and_id_0_is_rejected():
    found = answers(ProposedContext(2, CT, (IMPLICIT,)), ProposedContext(0, CT, (IMPLICIT,)))
    assert found == [(2, ACCEPTED, IMPLICIT), (0, ContextOutcome.NO_REASON, "")]


def test_case_36_128_contexts_are_all_answered_in_one_pdu():
    proposed = [ProposedContext(number, CT, (IMPLICIT,)) for number in range(1, 256, 2)]
    results = answer(proposed, supports=everything, takes=everything)
    assert [result.id for result in results] == list(range(1, 256, 2))
    assert len(encode_accept(AssociateAccept(contexts=results))) < 1 << 16


def test_case_37_one_abstract_syntax_in_several_contexts_is_answered_for_each():
    found = answers(
        ProposedContext(1, CT, (JPEG,)), ProposedContext(3, CT, (IMPLICIT,)), takes=lambda uid: uid == IMPLICIT
    )
    assert found == [(1, NO_TRANSFER, ""), (3, ACCEPTED, IMPLICIT)]


def test_case_38_nothing_proposed_is_nothing_answered():
    assert answers() == []


@pytest.mark.parametrize("syntaxes", [(), ("",), ("nonsense",), ("", "nonsense")])
def test_case_39_a_context_without_a_usable_transfer_syntax_is_rejected_alone(syntaxes: tuple[str, ...]):
    found = answers(
        ProposedContext(1, CT, syntaxes), ProposedContext(3, CT, (IMPLICIT,)), takes=lambda uid: uid == IMPLICIT
    )
    assert found == [(1, NO_TRANSFER, ""), (3, ACCEPTED, IMPLICIT)]


def test_case_40_where_nothing_is_acceptable_every_context_is_answered_with_its_rejection():
    found = answers(
        ProposedContext(1, CT, (IMPLICIT,)), ProposedContext(3, MR, (IMPLICIT,)), supports=lambda uid: False
    )
    assert found == [(1, NO_ABSTRACT, ""), (3, NO_ABSTRACT, "")]


def test_case_41_whether_an_unknown_class_is_taken_is_only_asked():
    found = answers(ProposedContext(1, "1.2.3.4.5", (IMPLICIT,)), ProposedContext(3, "", (IMPLICIT,)))
    assert found == [(1, ACCEPTED, IMPLICIT), (3, NO_ABSTRACT, "")]


def test_case_42_whether_an_unknown_transfer_syntax_is_taken_is_only_asked():
    assert answers(ProposedContext(1, CT, ("1.2.3.4.5",))) == [(1, ACCEPTED, "1.2.3.4.5")]
    assert answers(ProposedContext(1, CT, ("1.2.3.4.5",)), takes=lambda uid: uid == IMPLICIT)[0][1] == NO_TRANSFER


def test_case_43_the_first_transfer_syntax_that_we_take_wins():
    context = ProposedContext(1, CT, (JPEG, EXPLICIT, IMPLICIT))
    assert answers(context) == [(1, ACCEPTED, JPEG)]
    assert answers(context, takes=lambda uid: uid != JPEG) == [(1, ACCEPTED, EXPLICIT)]


def test_case_46_roles_are_answered_for_accepted_classes_only_and_never_more_than_proposed():
    proposed = [RoleSelection(CT, True, True), RoleSelection(MR, True, False), RoleSelection(VERIFICATION, False, True)]
    assert answer_roles(proposed, [CT, VERIFICATION]) == (
        RoleSelection(CT, True, False),
        RoleSelection(VERIFICATION, False, False),
    )
    assert answer_roles([], [CT]) == ()


def test_of_several_roles_for_one_class_the_first_is_answered():
    proposed = [RoleSelection(CT, False, True), RoleSelection(CT, True, True)]
    assert answer_roles(proposed, [CT]) == (RoleSelection(CT, False, False),)


uids = st.sampled_from([CT, MR, VERIFICATION, IMPLICIT, EXPLICIT, JPEG, "", "nonsense"])


@given(
    proposed=st.lists(st.builds(ProposedContext, st.integers(0, 255), uids, st.lists(uids, max_size=4).map(tuple))),
    supported=st.sets(uids),
    taken=st.sets(uids),
)
def test_every_proposal_gets_one_answer_that_its_proposer_can_use(
    proposed: list[ProposedContext], supported: set[str], taken: set[str]
):
    results = answer(proposed, supports=supported.__contains__, takes=taken.__contains__)
    assert [result.id for result in results] == [context.id for context in proposed]
    for context, result in zip(proposed, results, strict=True):
        if result.result == ACCEPTED:
            assert context.abstract_syntax in supported
            assert result.transfer_syntax in context.transfer_syntaxes
            assert result.transfer_syntax in taken


# Requesting -------------------------------------------------------------------------------------------------


def test_case_84_each_pair_has_a_context_of_its_own():
    """One transfer syntax in each, or the acceptor would choose."""
    assert propose([(CT, JPEG), (CT, IMPLICIT), (MR, IMPLICIT), (CT, JPEG)]) == (
        ProposedContext(1, CT, (JPEG,)),
        ProposedContext(3, CT, (IMPLICIT,)),
        ProposedContext(5, MR, (IMPLICIT,)),
    )


def test_case_85_an_association_takes_128_pairs_with_odd_ids():
    proposed = propose((CT, f"1.2.{number}") for number in range(200))
    assert [context.id for context in proposed] == list(range(1, 256, 2))
    assert proposed[-1].transfer_syntaxes == ("1.2.127",)


def usable(*results: ContextResult) -> dict[int, tuple[str, str]]:
    request = a_request(ProposedContext(1, CT, (IMPLICIT,)), ProposedContext(3, MR, (JPEG,)))
    return accepted_contexts(request, AssociateAccept(contexts=results))


def test_accepted_contexts_are_usable():
    assert usable(ContextResult(1, 0, IMPLICIT), ContextResult(3, 0, JPEG)) == {1: (CT, IMPLICIT), 3: (MR, JPEG)}


@pytest.mark.parametrize("outcome", [1, 2, 3, 4, 200])
def test_case_87_a_rejected_context_is_not_usable_whatever_syntax_it_names(outcome: int):
    assert usable(ContextResult(1, outcome, IMPLICIT), ContextResult(3, outcome)) == {}


def test_case_88_missing_answers_are_rejections_and_answers_to_nothing_are_ignored():
    assert usable(ContextResult(3, 0, JPEG), ContextResult(5, 0, IMPLICIT)) == {3: (MR, JPEG)}


@pytest.mark.parametrize("syntax", [JPEG, "", "1.2.3"])
def test_case_89_a_transfer_syntax_that_was_not_proposed_makes_a_context_unusable(syntax: str):
    assert usable(ContextResult(1, 0, syntax)) == {}
