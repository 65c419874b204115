"""Real senders, real destinations: what arrives is what was sent, byte for byte, in every transfer syntax they carry.

Senders: DCMTK ``storescu`` and ``dcmsend``, pynetdicom, Orthanc. Destinations: two ``storescp``, an Orthanc and a
folder.
"""

from __future__ import annotations

import json
import subprocess
import urllib.request
from pathlib import Path

import pytest

from router.errors import DatasetError
from tests.dicom import samples as packaged
from tests.support.objects import Sample, read_sample, received, save, sha256, synthetic
from tests.support.peers import NODELAY, orthanc, require, storescp, wait_for
from tests.support.router_process import RouterProcess
from tests.support.scu import RawSender
from tests.torture.figures import Figure, report

pytestmark = [pytest.mark.peer, pytest.mark.timeout(300)]


def digests(samples: list[Sample]) -> dict[str, str]:
    return {sample.sop_instance: sha256(sample.data) for sample in samples}


def has_all(folder: Path, expected: dict[str, str]) -> bool:
    found = received(folder)
    return all(digest in found.get(uid, []) for uid, digest in expected.items())


def sendable_samples() -> list[Sample]:
    """The packages' samples that are whole instances, one per SOP Instance UID."""
    chosen: dict[str, Sample] = {}
    for path in packaged.paths().values():
        try:
            sample = read_sample(path)
        except DatasetError:
            continue  # not a Part 10 file that names its instance
        if sample.sop_instance and sample.sop_class and sample.sop_class != "1.2.840.10008.1.3.10":
            chosen.setdefault(sample.sop_instance, sample)
    return list(chosen.values())


def studies(tmp_path: Path, count: int = 6) -> list[Sample]:
    folder = tmp_path / "outgoing"
    folder.mkdir()
    return [read_sample(save(synthetic(size=20_000 * (1 + i), seed=i), folder / f"{i}.dcm")) for i in range(count)]


def test_storescu_and_dcmsend_reach_two_storescp_and_a_folder(tmp_path: Path) -> None:
    samples = studies(tmp_path)
    first, second, archive = tmp_path / "first", tmp_path / "second", tmp_path / "archive"
    with (
        storescp(first) as port1,
        storescp(second) as port2,
        RouterProcess(
            tmp_path / "router",
            {
                "first": f"dicom://STORESCP@127.0.0.1:{port1}",
                "second": f"dicom://STORESCP@127.0.0.1:{port2}",
                "archive": f"file://{archive}",
            },
        ) as router,
    ):
        half = len(samples) // 2
        paths = [sample.path for sample in samples]
        subprocess.run(
            [require("storescu"), "-aec", "ROUTER", "127.0.0.1", str(router.port), *map(str, paths[:half])],
            check=True, timeout=60, env=None,
        )  # fmt: skip
        subprocess.run(
            [require("dcmsend"), "-aec", "ROUTER", "127.0.0.1", str(router.port), *map(str, paths[half:])],
            check=True, timeout=60,
        )  # fmt: skip
        expected = digests(samples)
        for folder in (first, second, archive):
            wait_for(lambda folder=folder: has_all(folder, expected), 30, f"delivery to {folder.name}")
            assert {uid: [digest] for uid, digest in expected.items()} == received(folder), "each exactly once"
        assert router.metric("dicom_router_instances_received_total") == len(samples)
        assert router.metric("dicom_router_deliveries_total", outcome="delivered") == 3 * len(samples)
        assert router.stop() == 0


def test_orthanc_sends_and_receives(tmp_path: Path) -> None:
    samples = studies(tmp_path)
    folder = tmp_path / "storescp"
    with storescp(folder) as port, orthanc(tmp_path / "far") as (dicom, http):
        destinations = {"dcmtk": f"dicom://STORESCP@127.0.0.1:{port}", "orthanc": f"dicom://ORTHANC@127.0.0.1:{dicom}"}
        with (
            RouterProcess(tmp_path / "router", destinations) as router,
            orthanc(
                tmp_path / "near", settings={"DicomModalities": {"router": ["ROUTER", "127.0.0.1", router.port]}}
            ) as (_, near),
        ):
            for sample in samples:
                answer = post(near, "/instances", sample.path.read_bytes())
                post(near, "/modalities/router/store", json.loads(answer)["ID"].encode())
            expected = digests(samples)
            wait_for(lambda: has_all(folder, expected), 30, "delivery to storescp")
            wait_for(lambda: len(json.loads(get(http, "/instances"))) == len(samples), 30, "delivery to Orthanc")
            found = {}
            for identifier in json.loads(get(http, "/instances")):
                file = tmp_path / f"{identifier}.dcm"
                file.write_bytes(get(http, f"/instances/{identifier}/file"))
                sample = read_sample(file)
                found[sample.sop_instance] = sha256(sample.data)
            assert found == expected


def get(port: int, path: str) -> bytes:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=20) as answer:
        body: bytes = answer.read()
        return body


def post(port: int, path: str, body: bytes) -> bytes:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", data=body, timeout=20) as answer:
        content: bytes = answer.read()
        return content


def test_every_transfer_syntax_of_the_samples_goes_through_unchanged(tmp_path: Path, campaign: bool) -> None:
    samples = sendable_samples()
    folder, archive = tmp_path / "storescp", tmp_path / "archive"
    with (
        storescp(folder) as port,
        RouterProcess(
            tmp_path / "router", {"dcmtk": f"dicom://STORESCP@127.0.0.1:{port}", "archive": f"file://{archive}"}
        ) as router,
    ):
        answered: dict[str, str] = {}
        refused: dict[str, int | None] = {}
        for start in range(0, len(samples), 60):
            batch = samples[start : start + 60]
            sender = RawSender(router.port, [(s.sop_class, s.transfer_syntax) for s in batch])
            for sample in batch:
                if not sender.established:
                    sender = RawSender(router.port, [(s.sop_class, s.transfer_syntax) for s in batch])
                status = sender.store(sample.sop_class, sample.sop_instance, sample.transfer_syntax, sample.data)
                if status == 0x0000:
                    answered[sample.sop_instance] = sha256(sample.data)
                else:
                    refused[sample.path.name] = status
            sender.release()
        print(f"\n{len(answered)} samples stored, refused: { ({k: hex(v or -1) for k, v in refused.items()}) }")
        syntaxes = {s.transfer_syntax for s in samples if s.sop_instance in answered}
        assert len(answered) > 60
        assert len(syntaxes) >= 10, syntaxes
        wait_for(lambda: has_all(archive, answered), 60, "delivery to the folder")
        # storescp does not know every private syntax: what it was able to take must be identical.
        wait_for(
            lambda: (
                router.metric("dicom_router_deliveries_total", outcome="delivered") + dead(router) >= 2 * len(answered)
            ),
            120,
            "lanes at rest",
        )
        got = received(folder)
        assert all(answered[uid] == digest for uid, many in got.items() for digest in many)
        assert len(got) >= len(answered) * 0.9, f"{len(got)} of {len(answered)}"
    report(
        Figure(
            test="all",
            promise="what arrives is what was sent, byte for byte, whatever its transfer syntax",
            goal="100 %",
            found=f"100 %: {len(answered)} samples of pydicom and pydicom-data in {len(syntaxes)} transfer syntaxes at "
            f"a folder, {len(got)} of them at storescp, which does not know the others' syntaxes",
            n=len(answered) + len(got),
            command="make torture (tests/integration/test_interop.py)",
        ),
        keep=campaign,
    )


def dead(router: RouterProcess) -> float:
    return router.metric("dicom_router_deliveries_total", outcome="dead") + sum(
        1
        for line in json.loads(router.cli("queue", "-c", str(router.config), "--json", check=False).stdout or "[]")
        or []
    )


def test_dcmtk_senders_with_nagle_are_not_slow(tmp_path: Path) -> None:
    """Fifty small images from an untuned storescu: the stall of 40 ms per object is ours to avoid by acknowledging
    at once."""
    samples = studies(tmp_path, 1)
    with RouterProcess(tmp_path / "router", {}) as router:
        program = require("storescu")
        import time

        started = time.monotonic()
        subprocess.run(
            [program, "--repeat", "50", "-aec", "ROUTER", "127.0.0.1", str(router.port), str(samples[0].path)],
            check=True,
            timeout=60,
        )
        assert time.monotonic() - started < 50 * 0.04


def test_echoscu(tmp_path: Path) -> None:
    with RouterProcess(tmp_path / "router", {}) as router:
        subprocess.run(
            [require("echoscu"), "-aec", "ROUTER", "127.0.0.1", str(router.port)], check=True, timeout=30, env=None
        )
        assert NODELAY
