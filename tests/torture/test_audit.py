"""The audit trail over kill -9 of the router and of its collector, and in a file over power cuts: no event of a
transfer is missing.

Every object is a study of its own, so messages tell which objects they are about. Repeated messages are legal.
"""

from __future__ import annotations

import random
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from tests.support.audit_schema import event_of, whole_messages
from tests.support.authority import Authority
from tests.support.collector import Collector
from tests.support.peers import cannot, wait_for
from tests.support.router_process import RouterProcess
from tests.torture.figures import Figure, report
from tests.torture.images import Image, unable
from tests.torture.oracle import Oracle
from tests.torture.test_power_cut import SMALL_DISK, cut

TRANSFERRED = "DICOM Instances Transferred"


def studies_by(messages: Iterable[ET.Element]) -> dict[str, set[str]]:
    """Destination of the transfer to the studies that were transferred there."""
    found: dict[str, set[str]] = {}
    for message in messages:
        if event_of(message) != TRANSFERRED:
            continue
        target = message.findall("ActiveParticipant")[1].attrib["UserID"]
        for one in message.findall("ParticipantObjectIdentification"):
            if one.attrib["ParticipantObjectTypeCodeRole"] == "3":
                found.setdefault(target, set()).add(one.attrib["ParticipantObjectID"])
    return found


def missing(oracle: Oracle, messages: Iterable[ET.Element]) -> int:
    """Transfers that nobody was told of: of each answered object, one to us and one to each destination."""
    answered = {uid for uid, _ in oracle.answered()}
    found = studies_by(messages)
    return sum(len(answered - found.get(name, set())) for name in ("test", *oracle.urls))


@pytest.mark.peer
@pytest.mark.timeout(3600)
def test_no_audit_event_is_missing_over_kills_of_router_and_collector(
    tmp_path: Path, amount: Callable[[str, int, int], int], campaign: bool
) -> None:
    kills = amount("audit_kills", 2, 100)
    randomness = random.Random(20261123)
    authority = Authority(tmp_path / "tls")
    ours = authority.issue("router")
    with Oracle(tmp_path, destinations=1) as oracle, Collector(tmp_path / "collector", authority) as collector:
        router = RouterProcess(
            tmp_path / "router",
            oracle.urls,
            extra=f'[audit]\nto = "syslog+tls://localhost:{collector.port}"\n'
            f'tls = {{ ca = "{authority.file}", certificate = "{ours.certificate}", key = "{ours.key}" }}\n',
        )
        router.start()
        oracle.send(router.port, senders=2)
        for number in range(kills):
            time.sleep(randomness.uniform(0.2, 1.5))
            if number % 2:
                collector.kill()
                collector.start()
            else:
                router.kill()
                router.start()
        answered = len(oracle.answered())
        wait_for(lambda: len(oracle.answered()) > answered, 60, "an answer after the last kill")
        oracle.stop_sending()
        wait_for(oracle.drained, 120, "delivery of everything answered")
        # A transfer is over five seconds after its last object, and told ten later.
        wait_for(lambda: router.metric("dicom_router_audit_queue_depth") == 0, 180, "everything to be told")
        assert router.stop() == 0
        messages = whole_messages(collector.written())
        assert missing(oracle, messages) == 0
        events = {event_of(message) for message in messages}
        assert events >= {"Application Activity", "Begin Transferring DICOM Instances", TRANSFERRED}
        told = len(oracle.answered()) * 2
        assert missing(oracle, messages[: len(messages) // 2]) > 0, "else this sees nothing"
    report(
        Figure(
            test="T27",
            promise="no audit event is missing over kill -9 of the router and of its collector (rsyslog, TLS)",
            goal="0 missing",
            found=f"0 of {told:,} transfers missing in {len(messages):,} messages, all of the schema",
            n=kills,
            command=f"make torture (tests/torture/test_audit.py, --amount audit_kills={kills})",
        ),
        keep=campaign,
    )


@pytest.mark.timeout(3600)
def test_no_audit_event_is_missing_in_the_file_over_power_cuts(
    tmp_path: Path, amount: Callable[[str, int, int], int], campaign: bool
) -> None:
    """The file lies with the spool and the ledger, and loses what it had not synced as they do."""
    cuts = amount("audit_cuts", 2, 100)
    if why := unable("ext4"):
        cannot(why)
    randomness = random.Random(20261128)
    data = tmp_path / "router" / "data"
    with Oracle(tmp_path, destinations=1) as oracle, Image(tmp_path / "disk", data, "ext4", 512 << 20) as disk:
        router = RouterProcess(tmp_path / "router", oracle.urls, extra=SMALL_DISK)
        try:
            router.start()
            oracle.send(router.port, senders=2)
            for _ in range(cuts):
                answered = len(oracle.answered()) + randomness.randint(1, 60)
                wait_for(lambda answered=answered: len(oracle.answered()) >= answered, 60, "answers")  # type: ignore[misc]
                time.sleep(randomness.uniform(0.0, 1.5))
                cut(router, [disk])
                router.start()
            oracle.stop_sending()
            wait_for(oracle.drained, 120, "delivery of everything answered")
            assert router.stop() == 0  # which tells of transfers that are not over by the clock
            written = b"".join(path.read_bytes() for path in (data / "audit").glob("audit-*.log"))
        finally:
            router.kill()
        messages = whole_messages(written)
        assert missing(oracle, messages) == 0
        assert missing(oracle, messages[: len(messages) // 2]) > 0, "else this sees nothing"
        told = len(oracle.answered()) * 2
    report(
        Figure(
            test="T27",
            promise="no audit event is missing in the audit file over power cuts (ext4)",
            goal="0 missing",
            found=f"0 of {told:,} transfers missing in {len(messages):,} messages, all of the schema",
            n=cuts,
            command=f"make torture (tests/torture/test_audit.py, --amount audit_cuts={cuts})",
        ),
        keep=campaign,
    )
