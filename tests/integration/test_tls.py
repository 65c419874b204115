"""DICOM over TLS with real peers: what they send arrives byte for byte, and who should not get in does not.

Peers: DCMTK's ``storescu``, ``storescp`` and ``echoscu``, Orthanc on both sides, and our own commands.
"""

from __future__ import annotations

import json
import shutil
import ssl
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from cryptography import x509

from tests.integration.test_interop import digests, has_all, studies
from tests.support.authority import DAY
from tests.support.objects import Sample, read_sample, received, save, sha256, synthetic
from tests.support.peers import NODELAY, orthanc, require, storescp, wait_for
from tests.support.router_process import RouterProcess
from tests.support.tls_router import TlsRouter
from tests.support.wire import WireSender

pytestmark = [pytest.mark.peer, pytest.mark.timeout(300)]


@pytest.fixture
def tls(tmp_path: Path) -> TlsRouter:
    return TlsRouter(tmp_path / "certificates")


def storescu(tls: TlsRouter, paths: list[Path], *options: str, identity: list[str] | None = None) -> int:
    done = subprocess.run(
        [
            require("storescu"), *(identity or tls.options()), *options,
            "-aec", "ROUTER", "127.0.0.1", str(tls.port), *map(str, paths),
        ],
        timeout=120, check=False, capture_output=True, env={"PATH": "/usr/bin:/bin", **NODELAY},
    )  # fmt: skip
    return done.returncode


@pytest.fixture
def archive(tls: TlsRouter, tmp_path: Path) -> Iterator[tuple[Path, int]]:
    """A storescp with TLS that wants a certificate: its folder and its port."""
    shown = tls.authority.issue("archive")
    with storescp(tmp_path / "archive", *tls.options(shown)) as port:
        yield tmp_path / "archive", port


def test_storescu_to_storescp_through_tls_on_both_sides(
    tls: TlsRouter, archive: tuple[Path, int], tmp_path: Path
) -> None:
    samples = studies(tmp_path)
    folder, port = archive
    with tls.router(tmp_path / "router", {"archive": port}) as router:
        assert storescu(tls, [sample.path for sample in samples]) == 0
        wait_for(lambda: has_all(folder, digests(samples)), 60, "everything delivered")
        echo = [require("echoscu"), *tls.options(), "-aec", "ROUTER", "127.0.0.1", str(tls.port)]
        assert subprocess.run(echo, timeout=60, check=False).returncode == 0
        left = router.metric("dicom_router_certificate_expires_seconds", listener=f"127.0.0.1:{tls.port}")
        assert 360 * 86400 < left < 365 * 86400
        assert router.metric("dicom_router_certificate_expires_seconds", destination="archive") > 360 * 86400


def test_large_objects_are_streamed_and_cut_through(tls: TlsRouter, archive: tuple[Path, int], tmp_path: Path) -> None:
    folder, port = archive
    sample = read_sample(save(synthetic(size=48 << 20, seed=7), tmp_path / "large.dcm"))
    with tls.router(tmp_path / "router", {"archive": port}) as router:
        assert storescu(tls, [sample.path]) == 0
        wait_for(lambda: has_all(folder, digests([sample])), 60, "everything delivered")
        assert router.metric("dicom_router_cut_through_total", outcome="completed") == 1


def test_two_workers_share_a_listener_of_tls(tls: TlsRouter, archive: tuple[Path, int], tmp_path: Path) -> None:
    samples = studies(tmp_path, 8)
    folder, port = archive
    with tls.router(tmp_path / "router", {"archive": port}, workers=2) as router:
        for sample in samples:
            assert storescu(tls, [sample.path]) == 0
        wait_for(lambda: has_all(folder, digests(samples)), 60, "everything delivered")
        # What every worker knows alike is said once, not twice.
        left = router.metric("dicom_router_certificate_expires_seconds", destination="archive")
        assert left < 365 * 86400


def test_orthanc_sends_and_receives_with_tls(tls: TlsRouter, tmp_path: Path) -> None:
    shown = tls.authority.issue("orthanc")
    settings = {
        "DicomTlsEnabled": True,
        "DicomTlsCertificate": str(shown.certificate),
        "DicomTlsPrivateKey": str(shown.key),
        "DicomTlsTrustedCertificates": str(tls.authority.file),
        "DicomTlsRemoteCertificateRequired": True,
        "DicomModalities": {
            "router": {"AET": "ROUTER", "Host": "127.0.0.1", "Port": tls.port, "UseDicomTls": True},
        },
    }
    samples = studies(tmp_path, 3)
    with orthanc(tmp_path / "orthanc", settings=settings) as (dicom, http):
        with tls.router(tmp_path / "router", {}, more=tls.destination("orthanc", dicom, aet="ORTHANC")) as router:
            router.write_rules('[[rule]]\nname = "back"\nto = ["orthanc"]\n')
            router.post("/-/reload")
            assert storescu(tls, [samples[0].path]) == 0
            wait_for(lambda: _instances(http) == 1, 60, "Orthanc got it")
            assert sha256(_data_set(http, tmp_path)) == sha256(samples[0].data)
        archive = tmp_path / "folder"
        (tmp_path / "second").mkdir()
        with RouterProcess(
            tmp_path / "second", {"archive": f"file://{archive}"}, extra=tls.listener()
        ):  # and the other way
            identifier = json.loads(_get(http, "/instances"))[0]
            request = urllib.request.Request(
                f"http://127.0.0.1:{http}/modalities/router/store", data=identifier.encode(), method="POST"
            )
            urllib.request.urlopen(request, timeout=60).close()
            wait_for(lambda: has_all(archive, digests(samples[:1])), 60, "Orthanc's object delivered")


def _get(http: int, path: str) -> bytes:
    with urllib.request.urlopen(f"http://127.0.0.1:{http}{path}", timeout=30) as answer:
        body: bytes = answer.read()
        return body


def _instances(http: int) -> int:
    return len(json.loads(_get(http, "/instances")))


def _data_set(http: int, tmp_path: Path) -> bytes:
    path = tmp_path / "from-orthanc.dcm"
    path.write_bytes(_get(http, f"/instances/{json.loads(_get(http, '/instances'))[0]}/file"))
    return read_sample(path).data


# Who should not get in -------------------------------------------------------------------------------------


def test_storescu_with_a_bad_certificate_stores_nothing(tls: TlsRouter, tmp_path: Path) -> None:
    sample = studies(tmp_path, 1)[0]
    good, stranger = tls.authority, TlsRouter(tmp_path / "others").modality
    revoked = good.issue("revoked")
    crl = good.revoke(revoked)
    bad = {
        "expired": good.issue("expired", begins=-2 * DAY, ends=-DAY),
        "early": good.issue("early", begins=DAY),
        "self-signed": good.issue("self", self_signed=True),
        "foreign": stranger,
        "revoked": revoked,
    }
    folder = tmp_path / "out"
    router = RouterProcess(tmp_path / "router", {"archive": f"file://{folder}"}, extra=tls.listener(crl=str(crl)))
    with router:
        for identity in bad.values():
            assert storescu(tls, [sample.path], identity=tls.options(identity)) != 0
        assert storescu(tls, [sample.path], identity=["+tla", "-ic"]) != 0
        assert not received(folder)
        assert router.metric("dicom_router_associations_rejected_total", reason="tls_certificate") == len(bad)
        assert router.metric("dicom_router_associations_rejected_total", reason="tls_no_certificate") == 1
        assert storescu(tls, [sample.path]) == 0
        wait_for(lambda: has_all(folder, digests([sample])), 30, "the good one delivered")


def test_an_ae_title_of_another_certificate_is_rejected(tls: TlsRouter, tmp_path: Path) -> None:
    sample = studies(tmp_path, 1)[0]
    folder = tmp_path / "out"
    peers = (
        f'[peers.ct1]\nae_title = "CT1"\ncertificate = {{ public_key_sha256 = ["{tls.modality.public_key_sha256}"] }}\n'
    )
    with RouterProcess(tmp_path / "router", {"archive": f"file://{folder}"}, extra=tls.listener() + peers) as router:
        other = tls.options(tls.authority.issue("other"))
        assert storescu(tls, [sample.path], "-aet", "CT1", identity=other) != 0
        assert router.metric("dicom_router_associations_rejected_total", reason="certificate") == 1
        assert "security: AE title of another certificate" in router.log.read_text()
        assert storescu(tls, [sample.path], "-aet", "CT1") == 0


def test_a_destination_with_a_wrong_certificate_gets_nothing_until_it_is_right(
    tls: TlsRouter, archive: tuple[Path, int], tmp_path: Path
) -> None:
    """Nothing is given up: the destination rests, and says why."""
    sample = studies(tmp_path, 1)[0]
    folder, port = archive
    wrong = f'ca = "{TlsRouter(tmp_path / "others").authority.file}"'
    router = tls.router(tmp_path / "router", {}, more=tls.destination("archive", port, tls=wrong))
    router.write_rules('[[rule]]\nname = "all"\nto = ["archive"]\n')
    with router:
        assert storescu(tls, [sample.path]) == 0
        wait_for(lambda: router.metric("dicom_router_destination_up", destination="archive") == 0, 30, "resting")
        (lane,) = json.loads(router.get("/api/v1/queue"))["destinations"]
        assert "certificate" in lane["reason"]
        assert lane["url"].startswith("dicoms://")
        assert lane["dead_letters"] == 0
    router.config.write_text(router.config.read_text().replace(wrong, f'certificate = "{tls.identity.certificate}", '
                             f'key = "{tls.identity.key}", ca = "{tls.authority.file}"'))  # fmt: skip
    with router:
        wait_for(lambda: has_all(folder, digests([sample])), 60, "delivered after all")


# Certificates that change ----------------------------------------------------------------------------------


def test_a_new_certificate_is_shown_without_a_restart_and_a_broken_one_is_not(tls: TlsRouter, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    sample, later = studies(tmp_path, 2)
    with RouterProcess(tmp_path / "router", {"archive": f"file://{folder}"}, extra=tls.listener()) as router:

        def left() -> float:
            return router.metric("dicom_router_certificate_expires_seconds", listener=f"127.0.0.1:{tls.port}")

        before = left()
        whole = tls.identity.certificate.read_bytes()
        tls.identity.certificate.write_bytes(whole[:100])
        wait_for(lambda: "certificate refused" in router.log.read_text(), 20, "the broken file refused")
        assert storescu(tls, [sample.path]) == 0
        with pytest.raises(urllib.error.HTTPError) as told:
            router.post("/-/reload")
        with told.value as answer:
            assert "listen.1.tls" in answer.read().decode()
        fresh = tls.authority.issue("fresh", ends=20 * DAY)
        shutil.copy(fresh.key, tls.identity.key)
        shutil.copy(fresh.certificate, tls.identity.certificate)
        wait_for(lambda: left() < 20 * 86400, 20, "the new certificate read")
        assert left() < before
        assert storescu(tls, [later.path]) == 0
        wait_for(lambda: has_all(folder, digests([sample, later])), 30, "both delivered")
        assert "certificate expires soon" in router.log.read_text()


def test_certificates_are_read_again_where_only_what_links_name_has_changed(tls: TlsRouter, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for file in (tls.identity.key, tls.identity.certificate):
        file.symlink_to(file.rename(elsewhere / file.name))
    fresh = tls.authority.issue("fresh", ends=20 * DAY)
    with RouterProcess(tmp_path / "router", {}, extra=tls.listener()) as router:
        shutil.copy(fresh.key, elsewhere / tls.identity.key.name)
        shutil.copy(fresh.certificate, elsewhere / tls.identity.certificate.name)
        wait_for(lambda: "certificate reloaded" in router.log.read_text(), 20, "the new certificate read")


def test_an_association_goes_on_while_the_certificate_changes(tls: TlsRouter, tmp_path: Path) -> None:
    """Who is here stays, with what was agreed on; who comes is shown the new certificate."""
    folder = tmp_path / "out"
    samples = studies(tmp_path, 3)
    with RouterProcess(tmp_path / "router", {"archive": f"file://{folder}"}, extra=tls.listener()) as router:
        with closing(tls_sender(tls, samples[0])) as early:
            assert shown_to(early) == tls.identity.issued
            assert early.store(samples[0].sop_instance, samples[0].data) == 0x0000
            fresh = tls.authority.issue("fresh", ends=20 * DAY)
            shutil.copy(fresh.key, tls.identity.key)
            shutil.copy(fresh.certificate, tls.identity.certificate)
            wait_for(lambda: "certificate reloaded" in router.log.read_text(), 20, "the new certificate read")
            with closing(tls_sender(tls, samples[1])) as late:
                assert shown_to(late) == fresh.issued
                assert late.store(samples[1].sop_instance, samples[1].data) == 0x0000
                assert router.metric("dicom_router_associations", direction="in") == 2
            assert early.store(samples[2].sop_instance, samples[2].data) == 0x0000
        wait_for(lambda: has_all(folder, digests(samples)), 30, "all delivered")


def tls_sender(tls: TlsRouter, sample: Sample) -> WireSender:
    context = ssl.create_default_context(cafile=str(tls.authority.file))
    context.load_cert_chain(tls.modality.certificate, tls.modality.key)
    return WireSender(tls.port, (sample.sop_class, sample.transfer_syntax), tls=context)


def shown_to(sender: WireSender) -> x509.Certificate:
    """The certificate by which the router proved who it is."""
    assert isinstance(sender.connection, ssl.SSLSocket)
    shown = sender.connection.getpeercert(binary_form=True)
    assert shown is not None
    return x509.load_der_x509_certificate(shown)


def test_a_router_with_files_that_cannot_be_used_does_not_start(tls: TlsRouter, tmp_path: Path) -> None:
    tls.identity.key.chmod(0o644)
    router = RouterProcess(tmp_path / "router", {}, extra=tls.listener())
    done = router.cli("run", "-c", str(router.config), check=False)
    assert done.returncode == 78
    assert "listen.1.tls" in done.stderr
    assert "can be read by others" in done.stderr


# Our own commands ------------------------------------------------------------------------------------------


def test_check_connect_echo_and_send_speak_tls(tls: TlsRouter, archive: tuple[Path, int], tmp_path: Path) -> None:
    folder, port = archive
    router = tls.router(tmp_path / "router", {"archive": port})
    done = router.cli("check", "--connect", "-c", str(router.config))
    assert "archive: answered C-ECHO" in done.stdout
    address = f"dicoms://STORESCP@localhost:{port}"
    files = ["+tls", str(tls.modality.key), str(tls.modality.certificate), "+cf", str(tls.authority.file)]
    assert "answered in" in router.cli("echo", *files, address).stdout
    sample = studies(tmp_path, 1)[0]
    router.cli("send", *files, address, str(sample.path))
    assert has_all(folder, digests([sample]))
    refused = router.cli("echo", "--tls-ca", str(tls.authority.file), address, check=False)
    assert refused.returncode == 1
    assert "no TLS" in refused.stderr
    pinned = router.cli("echo", *files[:3], "--tls-pin", "00" * 32, address, check=False)
    assert "none of those that are pinned" in pinned.stderr


def test_check_tells_of_certificates_that_end_and_hosts_that_are_others(tls: TlsRouter, tmp_path: Path) -> None:
    soon, over = tls.authority.issue("soon", ends=5 * DAY), tls.authority.issue("over", begins=-2 * DAY, ends=-DAY)
    elsewhere = tls.authority.issue("elsewhere", "pacs.hospital")
    with storescp(tmp_path / "elsewhere", *tls.options(elsewhere)) as port:
        router = tls.router(tmp_path / "router", {"archive": port})
        text = router.config.read_text()
        done = router.cli("check", "--connect", "-c", str(router.config), check=False)
        assert done.returncode == 69
        assert "IP address mismatch" in done.stderr
        router.config.write_text(
            text.replace(str(tls.identity.certificate), str(soon.certificate)).replace(
                str(tls.identity.key), str(soon.key)
            )
        )
        done = router.cli("check", "-c", str(router.config), check=False)
        assert done.returncode == 0
        assert "expires in less than 7 days" in done.stderr
        router.config.write_text(
            text.replace(str(tls.identity.certificate), str(over.certificate)).replace(
                str(tls.identity.key), str(over.key)
            )
        )
        done = router.cli("check", "-c", str(router.config), check=False)
        assert done.returncode == 78
        assert "is expired" in done.stderr
