"""Processes that share a port count their associations together."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from router.model import Limits, Listener, Peer
from router.net.admission import Gate, Refusal
from router.net.occupancy import Occupancy, OccupancyMemory, SharedOccupancy
from router.ul.pdus import AssociateRequest
from tests.net.doubles import House

NAMES = ["ct", "mr", "us", "unknown 192.0.2.1"]
MOST = 6


def shared(processes: int, names: int = MOST) -> tuple[OccupancyMemory, list[SharedOccupancy]]:
    """As the processes see it: each maps the memory for itself."""
    memory = OccupancyMemory(processes, names)
    mapped = [OccupancyMemory(processes, names, memory.descriptor) for _ in range(processes)]
    return memory, [SharedOccupancy(one, row) for row, one in enumerate(mapped)]


@given(
    st.integers(1, 4),
    st.lists(
        st.tuples(st.integers(0, 3), st.sampled_from(["began", "ended", "crashed"]), st.sampled_from(NAMES)),
        max_size=60,
    ),
)
def test_every_process_knows_the_sum_of_all(processes: int, steps: list[tuple[int, str, str]]) -> None:
    memory, occupancies = shared(processes)
    open_there = [Counter[str]() for _ in range(processes)]
    for number, step, name in steps:
        number %= processes
        here = open_there[number]
        if step == "crashed":
            memory.clear(number)
            again = OccupancyMemory(processes, MOST, memory.descriptor)
            occupancies[number], open_there[number] = SharedOccupancy(again, number), Counter()
        elif step == "began" and here.total() < MOST:
            occupancies[number].began(name)
            here[name] += 1
        elif step == "ended" and here[name]:
            occupancies[number].ended(name)
            here[name] -= 1
        for one, occupancy in enumerate(occupancies):
            assert occupancy.here == open_there[one].total()
            assert occupancy.total == sum(there.total() for there in open_there)
            for other in NAMES:
                assert occupancy.of(other) == sum(there[other] for there in open_there)


def test_a_process_that_is_alone_counts_for_itself() -> None:
    occupancy = Occupancy()
    occupancy.began("ct")
    occupancy.began("ct")
    occupancy.ended("ct")
    assert (occupancy.here, occupancy.total, occupancy.of("ct"), occupancy.of("mr")) == (1, 1, 1, 0)


def test_the_limits_of_associations_hold_for_all_processes_together() -> None:
    listener = Listener(host="192.0.2.254", port=104, ae_titles=("ROUTER",), accept="any")
    request = AssociateRequest(called_ae="ROUTER", calling_ae="CT1", contexts=())
    ct = Peer(name="ct", ae_title="CT1")
    _, occupancies = shared(2, names=3)
    limits = Limits(associations=3, associations_per_peer=2)
    gates = [Gate(limits, [ct], House(), occupancy) for occupancy in occupancies]

    def judged(gate: Gate, calling: str = "CT1") -> str:
        found = gate.judge(listener, "10.0.0.1", AssociateRequest(called_ae="ROUTER", calling_ae=calling, contexts=()))
        return found.label if isinstance(found, Refusal) else found.name

    assert isinstance(gates[0].judge(listener, "10.0.0.1", request), Peer)
    gates[0].association_began(ct, "10.0.0.1")
    gates[1].association_began(ct, "10.0.0.1")
    assert [judged(gate) for gate in gates] == ["associations_per_peer"] * 2
    assert judged(gates[0], "OTHER") == "unknown"
    gates[0].association_began(Peer(name="unknown", ae_title="OTHER"), "10.0.0.1")
    assert [judged(gate, "OTHER") for gate in gates] == ["associations"] * 2
    gates[1].association_ended(ct, "10.0.0.1")
    assert [judged(gate) for gate in gates] == ["ct"] * 2
