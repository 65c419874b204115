"""Whatever AE titles, UIDs and statuses peers bring, the metrics have the same series: those of the configuration."""

from __future__ import annotations

import random
import string
from collections.abc import Callable
from pathlib import Path

import pytest

from router.delivery.classify import Meaning, judge_status
from router.model import Decision, Limits, Listener, OutcomeKind, Peer, Verdict
from router.net.admission import Gate, Refusal
from router.observe.metrics import RouterMetrics
from router.ul.pdus import AssociateRequest, ProposedContext, decode_request, encode_request
from tests.support.plain_dataset import EXPLICIT as WRITER
from tests.support.router_process import RouterProcess
from tests.torture.figures import Figure, report
from tests.torture.gossip import Sender
from tests.torture.marked import CT

PEERS = (Peer(name="ct1", ae_title="CT1"), Peer(name="ct2", ae_title="CT2", addresses=("10.0.0.0/8",)))
LISTENERS = tuple(Listener(host="127.0.0.1", port=104 + n, accept=accept) for n, accept in enumerate(("any", "known")))


class Anybody:
    """A peer that is another one each time."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)

    def ae_title(self) -> str:
        """Legal, of any byte that can be sent, or what a label could be mistaken for."""
        chance = self.chance
        kind = chance.random()
        if kind < 0.7:
            return "".join(chance.choices(string.ascii_uppercase + string.digits + "_", k=chance.randint(1, 16)))
        if kind < 0.9:
            return chance.randbytes(16).decode("latin-1").replace("\0", "x").strip() or "x"
        return chance.choice(["CT1", "CT2", "unknown", '"} 1', "a\nb 2", "", "ct1"])

    def uid(self) -> str:
        return f"2.25.{self.chance.getrandbits(120)}"

    def request(self) -> AssociateRequest:
        """As it comes over the wire."""
        return decode_request(
            encode_request(
                AssociateRequest(
                    called_ae=self.ae_title() if self.chance.random() < 0.3 else "ROUTER",
                    calling_ae=self.ae_title(),
                    contexts=(ProposedContext(1, self.uid(), (self.uid(),)),),
                    application_context=self.uid() if self.chance.random() < 0.1 else "1.2.840.10008.3.1.1.1",
                )
            )[6:]
        )


class Open:
    """Implements ``ports.Admission``."""

    def refusal(self) -> None:
        return None


def series(exposition: str) -> set[str]:
    return {line.rpartition(" ")[0] for line in exposition.splitlines() if line and not line.startswith("#")}


def test_no_peer_makes_a_series(amount: Callable[[str, int, int], int], campaign: bool) -> None:
    associations = amount("strangers", 10_000, 1_000_000)
    metrics = RouterMetrics(
        destinations=["pacs"],
        listeners=[listener.name for listener in LISTENERS],
        peers=[peer.name for peer in PEERS],
        rules=["all"],
        process=False,
    )
    gate = Gate(Limits(), PEERS, Open())
    anybody = Anybody(1)

    def call(listener: Listener) -> None:
        request = anybody.request()
        judged = gate.judge(listener, "127.0.0.1", request)
        counters = metrics.listener(listener.name)
        if isinstance(judged, Refusal):
            counters.rejected(judged.label)
            return
        gate.association_began(judged, "127.0.0.1")
        counters.received(judged.name, 1)
        gate.association_ended(judged, "127.0.0.1")
        metrics.decided(Decision(verdict=Verdict.ROUTE, rules=("all", anybody.uid()), version="1"))
        meaning = judge_status(anybody.chance.getrandbits(16)).meaning
        metrics.lane("pacs").outcome(OutcomeKind.DELIVERED if meaning is Meaning.DELIVERED else OutcomeKind.RETRY)

    for _ in range(500):
        for listener in LISTENERS:
            call(listener)
    before = series(metrics.render().decode())
    for number in range(associations):
        call(LISTENERS[number % 2])
    assert series(metrics.render().decode()) == before
    rejections = metrics.listener(LISTENERS[1].name).rejections
    assert all(rejections[reason] for reason in ("called_ae", "calling_ae", "application_context"))
    report(
        Figure(
            test="T27",
            promise="AE titles and UIDs of strangers make no series of metrics",
            goal="0 new series",
            found=f"0 new beside {len(before)}",
            n=associations,
            command=f"make torture (tests/torture/test_series.py, --amount strangers={associations})",
        ),
        keep=campaign,
    )


@pytest.mark.timeout(600)
def test_no_peer_makes_a_series_of_a_router(
    tmp_path: Path, amount: Callable[[str, int, int], int], campaign: bool
) -> None:
    objects = amount("strangers on the wire", 60, 5000)
    anybody = Anybody(2)
    room = '[spool]\nreserve_associations = "0B"\nreserve_objects = "0B"\n'
    with RouterProcess(tmp_path, {"folder": f"file://{tmp_path / 'archive'}"}, extra=room) as router:

        def call() -> None:
            calling = on_the_wire(anybody.ae_title())
            called = "ROUTER" if anybody.chance.random() < 0.8 else on_the_wire(anybody.ae_title())
            with Sender(router.port, calling, called=called) as sender:
                if not sender.accepted:
                    return
                uid, right = anybody.uid(), anybody.chance.random() < 0.8
                texts = [
                    (0x0008_0016, CT),
                    (0x0008_0018, uid if right else anybody.uid()),
                    (0x0020_000D, anybody.uid()),
                ]
                data = b"".join(WRITER.element(tag, "UI", even(text)) for tag, text in texts)
                assert sender.store(uid, data) == (0x0000 if right else 0xA900)

        for _ in range(20):
            call()
        before = series(router.get("/metrics"))
        for _ in range(objects):
            call()
        after = router.get("/metrics")
        assert router.metric("dicom_router_instances_received_total", peer="unknown") > objects / 2
    assert series(after) == before
    assert "2.25." not in after
    report(
        Figure(
            test="T27",
            promise="AE titles and UIDs of strangers make no series of a running router",
            goal="0 new series",
            found=f"0 new beside {len(before)}",
            n=objects,
            command=f"make torture (tests/torture/test_series.py, --amount 'strangers on the wire={objects}')",
        ),
        keep=campaign,
    )


def on_the_wire(title: str) -> str:
    return title.encode("ascii", "replace").decode()


def even(uid: str) -> bytes:
    return uid.encode() + b"\0" * (len(uid) % 2)
