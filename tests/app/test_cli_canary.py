"""Patient data stays in the spool: a real router gets objects with a mark in every text; what it writes is searched."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydicom.dataset import Dataset

from tests.support.objects import encode, synthetic
from tests.support.peers import wait_for
from tests.support.router_process import RouterProcess
from tests.support.scu import RawSender

CT = "1.2.840.10008.5.1.4.1.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"
CANARY = "CANARY7F3A"
STRANGER = "STRANGER"
TEXTS = (
    "PatientName",
    "PatientID",
    "PatientAddress",
    "PatientComments",
    "OtherPatientNames",
    "StudyDescription",
    "SeriesDescription",
    "AccessionNumber",
    "InstitutionName",
    "ReferringPhysicianName",
    "OperatorsName",
    "StudyID",
    "ImageComments",
    "ProtocolName",
)


def marked(uid: str, **more: str) -> Dataset:
    texts = {keyword: f"{CANARY}{number}" for number, keyword in enumerate(TEXTS)}
    return synthetic(sop_instance=uid, **{**texts, **more})


@pytest.mark.timeout(120)
def test_no_text_of_a_patient_leaves_the_spool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DICOM_ROUTER__LOG__LEVEL", "debug")
    # Deciding looks at the values, so it is a place where they could slip out.
    match = f'{{ PatientName = "{CANARY}*", SliceThickness = {{ min = 1 }} }}'
    rules = f'[[rule]]\nname = "marked"\nmatch = {match}\nto = ["out"]\n'
    rules += '[[rule]]\nname = "gone"\nmatch = { Modality = "MR" }\ndiscard = true\n'
    with RouterProcess(tmp_path / "router", {"out": f"file://{tmp_path / 'out'}"}, rules=rules) as router:
        sender = RawSender(router.port, [(CT, EXPLICIT)])
        fine = encode(marked("2.25.66001", SliceThickness="2"))
        assert sender.store(CT, "2.25.66001", EXPLICIT, fine) == 0x0000
        held = encode(marked("2.25.66002", PatientName="SOMEBODY"))
        assert sender.store(CT, "2.25.66002", EXPLICIT, held) == 0x0000
        discarded = encode(marked("2.25.66003", Modality="MR"))
        assert sender.store(CT, "2.25.66003", EXPLICIT, discarded) == 0x0000
        assert sender.store(CT, "2.25.66009", EXPLICIT, fine) == 0xA900, "other UIDs in the data set"
        assert sender.store(CT, "2.25.66001", EXPLICIT, fine[:-9]) == 0xC001, "cut short"
        sender.release()
        assert not RawSender(router.port, [(CT, EXPLICIT)], calling=STRANGER, called="NOBODY").established
        wait_for(lambda: router.metric("dicom_router_deliveries_total", outcome="delivered") == 1, 20, "the delivery")
        pages = [
            router.get(path) for path in ("/metrics", "/healthz", "/readyz", "/", "/api/v1/status", "/api/v1/rules")
        ]
        waiting = (
            router.cli("status", "-c", str(router.config)).stdout + router.cli("queue", "-c", str(router.config)).stdout
        )
        names = "\n".join(str(path) for path in tmp_path.rglob("*"))
        assert router.stop() == 0
        log = router.log.read_text()
    stored = b"".join(path.read_bytes() for path in (tmp_path / "router" / "data").rglob("*.seg"))
    assert CANARY.encode() in stored, "the mark never arrived: the search would prove nothing"
    assert "association" in log
    for where, text in {"log": log, "pages": "\n".join(pages), "listings": waiting, "file names": names}.items():
        assert CANARY not in text, where
    assert "2.25.66001" not in log
    assert "2.25.66001" not in pages[0]
    assert STRANGER not in pages[0], "an unknown AE title is no label"
