"""``echo`` and ``send`` against a peer that is not ours, and ``check --connect``."""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pydicom
import pytest
from click.testing import CliRunner, Result
from pydicom.data import get_testdata_file
from pynetdicom import AE, evt
from pynetdicom.sop_class import CTImageStorage, MRImageStorage, Verification

from router.app.cli.root import cli
from tests.support.authority import Authority
from tests.support.collector import Collector
from tests.support.ports import free_port

CT = str(get_testdata_file("CT_small.dcm"))
MR = str(get_testdata_file("MR_small.dcm"))
JPEG = str(get_testdata_file("SC_rgb_jpeg_dcmtk.dcm"))


class Scp:
    """A pynetdicom SCP on a port of its own that keeps what it gets as bytes."""

    def __init__(self) -> None:
        self.got: list[tuple[str, bytes]] = []
        self.calling: list[str] = []
        self.status: Callable[[int], int] = lambda count: 0x0000
        self.abort_after: int | None = None
        ae = AE("SCP")
        ae.require_called_aet = True
        ae.add_supported_context(Verification)
        for sop_class in (CTImageStorage, MRImageStorage):
            ae.add_supported_context(sop_class, ["1.2.840.10008.1.2.1"])
        handlers: list[Any] = [(evt.EVT_C_STORE, self._store), (evt.EVT_C_ECHO, self._echo)]
        self.server: Any = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
        self.port: int = self.server.socket.getsockname()[1]

    def _echo(self, event: Any) -> int:
        self.calling.append(event.assoc.requestor.ae_title)
        return self.status(0)

    def _store(self, event: Any) -> int:
        if self.abort_after is not None and len(self.got) >= self.abort_after:
            event.assoc.abort()
            return 0xC000
        self.got.append((event.request.AffectedSOPInstanceUID, event.request.DataSet.getvalue()))
        return self.status(len(self.got))

    @property
    def address(self) -> str:
        return f"SCP@127.0.0.1:{self.port}"


@pytest.fixture
def scp() -> Iterator[Scp]:
    peer = Scp()
    yield peer
    peer.server.shutdown()


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli, list(map(str, arguments)))


def data_set_of(path: str | Path) -> bytes:
    """What follows the file meta information, found by another implementation."""
    with open(path, "rb") as file:
        pydicom.filereader.read_preamble(file, False)
        pydicom.filereader._read_file_meta_info(file)
        return file.read()


def copies(folder: Path, count: int, source: str = CT) -> list[str]:
    """``count`` files with UIDs of their own; gives the UIDs in file name order."""
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for number in range(count):
        data = pydicom.dcmread(source)
        data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = f"2.25.77{number:04d}"
        buffer = io.BytesIO()
        data.save_as(buffer)
        (folder / f"{number:04d}").write_bytes(buffer.getvalue())
        found.append(str(data.SOPInstanceUID))
    return found


# echo ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spelling", ["SCP@127.0.0.1:{}", "dicom://SCP@127.0.0.1:{}/", "127.0.0.1 {} -aec SCP"])
def test_a_peer_that_answers(scp: Scp, spelling: str) -> None:
    result = run("echo", "-aet", "CT1", *spelling.format(scp.port).split())
    assert result.exit_code == 0, result.output
    assert f"SCP@127.0.0.1:{scp.port} answered in" in result.output
    assert scp.calling == ["CT1"]


def test_echo_for_scripts(scp: Scp) -> None:
    answer = json.loads(run("echo", scp.address, "--json").output)
    assert answer["peer"] == scp.address
    assert answer["seconds"] > 0
    assert run("echo", "-q", scp.address).output == ""


def test_a_rejection_is_told_in_words(scp: Scp) -> None:
    result = run("echo", f"WRONG@127.0.0.1:{scp.port}")
    assert result.exit_code == 1
    assert "called AE title not recognized" in result.stderr
    assert "result 1, source 1, reason 7" in result.stderr


def test_nobody_there_exits_69() -> None:
    result = run("echo", "SCP@127.0.0.1:1")
    assert result.exit_code == 69
    assert result.stderr == "SCP@127.0.0.1:1: cannot connect: Connection refused\n"


def test_a_status_other_than_success_is_a_failure(scp: Scp) -> None:
    scp.status = lambda count: 0x0122
    result = run("echo", scp.address)
    assert result.exit_code == 1
    assert "0x0122" in result.stderr


@pytest.mark.parametrize(
    ("address", "hint"),
    [
        ("SCP@127.0.0.1:0", "ports are 1 to 65535"),
        ("SCP@127.0.0.1:99999", "ports are 1 to 65535"),
        ("SCP@127.0.0.1:http", "ports are 1 to 65535"),
        ("SEVENTEEN_LETTERS@127.0.0.1:104", "1 to 16 characters"),
        ("A\\B@127.0.0.1:104", "no backslash"),
        ("https://A@127.0.0.1:104", "only dicom://"),
        ("A@:104", "no host"),
        ("A@::1:104", "in brackets"),
    ],
)
def test_an_address_that_is_none_is_a_usage_error_that_says_what_would_do(address: str, hint: str) -> None:
    for command in (["echo", address], ["send", address, CT]):
        result = run(*command)
        assert result.exit_code == 2
        assert hint in " ".join(result.stderr.split())


def test_calling_titles_are_checked_too() -> None:
    assert run("echo", "-aet", "SEVENTEEN_LETTERS", "A@127.0.0.1:104").exit_code == 2
    assert run("echo", "-aec", " ", "127.0.0.1:104").exit_code == 2
    assert run("echo", "A@h:1", "2", "3").exit_code == 2


# send ------------------------------------------------------------------------------------------------------


def test_data_sets_arrive_byte_for_byte(scp: Scp) -> None:
    result = run("send", scp.address, CT, MR)
    assert result.exit_code == 0, result.output
    assert [data for _, data in scp.got] == [data_set_of(CT), data_set_of(MR)]
    assert "2 of 2 files" in result.output
    assert "2  0x0000  success" in result.output


def test_dcmtk_spelling(scp: Scp) -> None:
    result = run(
        "send", "-aet", "ME", "-aec", "SCP", "-pdu", "16384", "-to", "5", "+sd", "127.0.0.1", str(scp.port), CT
    )
    assert result.exit_code == 0, result.output
    assert len(scp.got) == 1


def test_folders_are_searched_and_what_is_no_dicom_is_passed_over(scp: Scp, tmp_path: Path) -> None:
    expected = copies(tmp_path / "a" / "b", 3)
    (tmp_path / "readme.txt").write_text("no DICOM")
    (tmp_path / "empty").write_bytes(b"")
    directory = get_testdata_file("DICOMDIR")
    shutil.copy(str(directory), tmp_path / "DICOMDIR")
    result = run("send", scp.address, tmp_path)
    assert result.exit_code == 0, result.output
    assert [uid for uid, _ in scp.got] == expected
    assert "3  passed over" in result.output


def test_nothing_to_send_is_no_success(scp: Scp, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no DICOM")
    result = run("send", scp.address, str(tmp_path))
    assert result.exit_code == 1
    assert "nothing to send" in result.stderr
    assert "1  passed over" in result.stdout


def test_a_folder_that_cannot_be_searched_is_a_failure(
    scp: Scp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = tmp_path / "closed"
    closed.mkdir()
    shutil.copy(CT, tmp_path / "ct.dcm")
    look = os.scandir

    def scandir(path: str) -> Any:
        if Path(path) == closed:  # whoever runs this may be root, whom no mode keeps out
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return look(path)

    monkeypatch.setattr(os, "scandir", scandir)
    result = run("send", scp.address, str(tmp_path))
    assert (result.exit_code, len(scp.got)) == (1, 1)
    assert f"{closed}: cannot be searched: Permission denied" in result.stderr


def test_a_named_file_that_is_no_dicom_is_an_error(scp: Scp, tmp_path: Path) -> None:
    (tmp_path / "readme.txt").write_text("no DICOM")
    result = run("send", scp.address, tmp_path / "readme.txt", tmp_path / "missing", CT)
    assert result.exit_code == 1
    assert "readme.txt: not a DICOM Part 10 file" in result.stderr
    assert "missing: No such file" in result.stderr
    assert len(scp.got) == 1, "the others are sent nevertheless"


def test_a_large_file_is_streamed(scp: Scp, tmp_path: Path) -> None:
    data = pydicom.dcmread(CT)
    data.Rows, data.Columns = 1024, 3072
    data.PixelData = bytes(range(256)) * (1024 * 3072 * 2 // 256)
    data.save_as(tmp_path / "large")
    result = run("send", scp.address, tmp_path / "large")
    assert result.exit_code == 0, result.output
    assert scp.got[0][1] == data_set_of(tmp_path / "large")


def test_statuses_are_summed_up_and_failures_named(scp: Scp, tmp_path: Path) -> None:
    copies(tmp_path, 4)
    scp.status = lambda count: {1: 0x0000, 2: 0xB000, 3: 0xC123, 4: 0xA700}[count]
    result = run("send", scp.address, tmp_path)
    assert result.exit_code == 1
    for line in ("1  0x0000  success", "1  0xB000  coercion", "1  0xC123  cannot understand", "1  0xA700  refused"):
        assert line in result.output
    assert "0002: 0xC123" in result.stderr
    report = json.loads(run("send", scp.address, tmp_path / "0000", "--json").stdout.replace("\n", ""))
    assert report["failures"][0]["why"].startswith("no") or report["files"] == 1


def test_what_a_peer_says_of_a_refusal_cannot_speak_to_the_terminal(scp: Scp, tmp_path: Path) -> None:
    copies(tmp_path, 1)
    status = pydicom.Dataset()
    status.Status = 0xC123
    status.ErrorComment = "no\x1b]0;owned\x07\r\nall stored \x9b2J"
    scp.status = lambda count: status  # type: ignore[assignment,return-value]
    for more in ((), ("--json",)):
        result = run("send", scp.address, tmp_path, *more)
        said = result.output + result.stderr
        assert "all stored" in said
        assert all(line.isprintable() for line in said.split("\n")), said
        assert not any(line.startswith("all stored") for line in said.splitlines())


def test_a_full_peer_exits_75(scp: Scp, tmp_path: Path) -> None:
    copies(tmp_path, 2)
    scp.status = lambda count: 0xA700
    assert run("send", scp.address, tmp_path).exit_code == 75


def test_json_names_every_failure(scp: Scp, tmp_path: Path) -> None:
    copies(tmp_path, 15)
    scp.status = lambda count: 0xC000
    result = run("send", scp.address, tmp_path, "--json")
    report = json.loads(result.stdout)
    assert (report["files"], report["sent"], report["statuses"]) == (15, 0, {"0xC000": 15})
    assert len(report["failures"]) == 15
    assert "and 5 more" in run("send", scp.address, tmp_path).stderr


def test_what_the_peer_takes_no_context_for_is_a_failure_of_that_file_only(scp: Scp) -> None:
    result = run("send", scp.address, JPEG, CT)
    assert result.exit_code == 1
    assert "accepted no presentation context" in result.stderr
    assert len(scp.got) == 1


def test_after_a_lost_association_the_rest_is_sent_over_another(scp: Scp, tmp_path: Path) -> None:
    copies(tmp_path, 6)
    aborted: list[int] = []

    def once(event: Any) -> int:
        if len(scp.got) == 2 and not aborted:
            aborted.append(1)
            event.assoc.abort()
            return 0xC000
        scp.got.append((event.request.AffectedSOPInstanceUID, b""))
        return 0x0000

    scp.server.bind(evt.EVT_C_STORE, once)
    result = run("send", scp.address, tmp_path, "--window", "1")
    assert result.exit_code == 1
    assert len(scp.got) == 5
    assert "5 of 6 files" in result.output


def test_a_peer_that_aborts_again_and_again_is_given_up(scp: Scp, tmp_path: Path) -> None:
    copies(tmp_path, 9)
    scp.abort_after = 0
    result = run("send", scp.address, tmp_path, "--window", "1")
    assert result.exit_code == 1
    assert "gave up" in result.stderr


def test_sending_to_nobody_exits_69() -> None:
    result = run("send", "SCP@127.0.0.1:1", CT)
    assert result.exit_code == 69
    assert "Connection refused" in result.stderr


# check --connect -------------------------------------------------------------------------------------------


def write_config(folder: Path, urls: dict[str, str]) -> Path:
    (folder / "rules").mkdir()
    names = json.dumps(list(urls))
    (folder / "rules" / "10.toml").write_text(f'[[rule]]\nname = "all"\nto = {names}\n')
    config = folder / "router.toml"
    config.write_text("".join(f'[destinations.{name}]\nurl = "{url}"\n' for name, url in urls.items()))
    return config


def test_check_connect_asks_every_destination(scp: Scp, tmp_path: Path) -> None:
    urls = {"pacs": f"dicom://{scp.address}", "folder": f"file://{tmp_path}/archive"}
    result = run("check", "-c", write_config(tmp_path, urls), "--connect")
    assert result.exit_code == 0, result.output
    assert "pacs: answered C-ECHO in" in result.output
    assert "folder: writable" in result.output
    assert not (tmp_path / "archive").exists(), "check changes nothing"


def test_check_connect_exits_69_and_still_asks_the_others(scp: Scp, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    urls = {"gone": "dicom://X@127.0.0.1:1", "pacs": f"dicom://{scp.address}", "odd": f"file://{tmp_path}/file"}
    result = run("check", "-c", write_config(tmp_path, urls), "--connect", "--json")
    assert result.exit_code == 69
    found = {one["destination"]: one["ok"] for one in json.loads(result.stdout)["destinations"]}
    assert found == {"gone": False, "pacs": True, "odd": False}


def with_collector(folder: Path, port: int, authority: Authority, ca: Path) -> Path:
    ours = authority.issue("router")
    config = write_config(folder, {"folder": f"file://{folder}/archive"})
    config.write_text(
        f'{config.read_text()}[audit]\nto = "syslog+tls://localhost:{port}"\n'
        f'tls = {{ ca = "{ca}", certificate = "{ours.certificate}", key = "{ours.key}" }}\n'
    )
    return config


@pytest.mark.peer
@pytest.mark.parametrize("case", ["good", "nobody there", "of another authority", "does not know us"])
def test_check_connect_asks_the_collector_of_the_audit_trail(case: str, tmp_path: Path) -> None:
    authority, other = Authority(tmp_path / "ca"), Authority(tmp_path / "other")
    with Collector(tmp_path / "collector", authority) as collector:
        config = with_collector(
            tmp_path,
            free_port() if case == "nobody there" else collector.port,
            other if case == "does not know us" else authority,
            (other if case == "of another authority" else authority).file,
        )
        result = run("check", "-c", config, "--connect", "--json")
    assert result.exit_code == (0 if case == "good" else 69), result.output
    found = {one["destination"]: one["ok"] for one in json.loads(result.stdout)["destinations"]}
    assert found == {"folder": True, "audit collector": case == "good"}
