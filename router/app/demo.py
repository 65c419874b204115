"""The whole in a minute: a router and two archives in this process, sample objects sent through, and a table of what
reached whom.

The objects are those that pydicom ships; nothing outside of a temporary folder is touched, and everything is on
loopback.
"""

from __future__ import annotations

import asyncio
import hashlib
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pydicom

from router.app.config import load_config
from router.app.router import Router
from router.app.supervisor import run_loop
from router.dicom.part10 import FileMeta, read_part10
from router.dicom.uids import name_of
from router.errors import DatasetError, RouterError
from router.model import InstanceInfo, Limits, Listener, Origin
from router.net.admission import Gate
from router.net.dialer import associate
from router.net.listener import ListeningServer
from router.observe.logs import configure_logging, get_logger
from router.observe.metrics import RouterMetrics
from router.ports import Buffer
from router.services.acceptor import serving
from router.services.storage_scu import StorageScu, propose

SAMPLES = (
    "CT_small.dcm", "MR_small.dcm", "rtdose.dcm", "JPEG2000.dcm", "JPEG-LL.dcm", "US1_J2KR.dcm", "SC_rgb_rle.dcm",
    "image_dfl.dcm", "MR_small_bigendian.dcm", "liver.dcm", "waveform_ecg.dcm", "test-SR.dcm",
)  # fmt: skip
RULES = """
[[rule]]
name = "everything to the archive"
to   = ["archive"]

[[rule]]
name  = "CT and MR to research as well"
match = { Modality = ["CT", "MR"] }
to    = ["research"]
"""
CONFIG = """
[node]
name     = "demo"
data_dir = "{folder}/data"
[[listen]]
bind   = "127.0.0.1:0"
accept = "any"
tls    = "off"
[destinations.archive]
url = "dicom://ARCHIVE@127.0.0.1:{archive}"
[destinations.research]
url = "dicom://RESEARCH@127.0.0.1:{research}"
[rules]
path = "{folder}/rules"
[admin]
bind = "127.0.0.1:0"
"""


class _Received:
    """A data set on its way into a demo archive."""

    congested = False

    def __init__(self, store: Callable[[str], None]) -> None:
        self._hash = hashlib.sha256()
        self._store = store

    read = None

    def write(self, fragment: memoryview) -> None:
        self._hash.update(fragment)

    def finish(self, done: Callable[[int, str], None]) -> None:
        self._store(self._hash.hexdigest())
        done(0x0000, "")

    def discard(self) -> None:
        return


class _Archive:
    """Implements ``ports.Intake`` and ``ports.Admission``: remembers the digests of each SOP instance."""

    def __init__(self) -> None:
        self.digests: dict[str, set[str]] = {}
        """SOP Instance UID to the SHA-256 of each version that came."""

    def refusal(self) -> None:
        return None

    def begin(
        self,
        origin: Origin,
        *,
        sop_class: str,
        sop_instance: str,
        transfer_syntax: str,
        move_originator: tuple[str, int] | None,
        resume: Callable[[], None],
    ) -> _Received:
        def store(digest: str) -> None:
            self.digests.setdefault(sop_instance, set()).add(digest)

        return _Received(store)


class _FileSource:
    """A whole file in memory, as ``ports.DataSource``."""

    def __init__(self, data: bytes) -> None:
        self.size = len(data)
        self.buffers: list[Buffer] = [data]

    async def chunks(self):  # type: ignore[no-untyped-def]
        yield self.buffers[0]


def run() -> int:
    """Show it; gives the exit code."""
    configure_logging("auto", level="error")
    with tempfile.TemporaryDirectory(prefix="dicom-router-demo-") as folder:
        return run_loop(_show(Path(folder)))


async def _show(folder: Path) -> int:
    say = sys.stdout.write
    archives = {"archive": _Archive(), "research": _Archive()}
    servers = {}
    limits = Limits()
    metrics = RouterMetrics(process=False)
    for name, archive in archives.items():
        listener = Listener(host="127.0.0.1", port=0, ae_titles=("*",), accept="any")
        server = servers[name] = ListeningServer(
            listener, limits, Gate(limits, (), archive), serving(archive, log=get_logger()),
            metrics=metrics.listener(name), log=get_logger(),
        )  # fmt: skip
        await server.start()
    (folder / "rules").mkdir()
    (folder / "rules" / "demo.toml").write_text(RULES)
    text = CONFIG.format(folder=folder, **{name: server.port for name, server in servers.items()})
    (folder / "router.toml").write_text(text)
    router = await Router.start(load_config(folder / "router.toml", {}))
    say(f"router ROUTER on 127.0.0.1:{router.listeners[0].port}; archives: ")
    say(", ".join(f"{name} on 127.0.0.1:{server.port}" for name, server in servers.items()) + "\n\n")
    try:
        rows = await _send(router.listeners[0].port, _samples())
        deadline = time.monotonic() + 30
        await router.ledger.flush()  # it follows the answers; before, it may not know of what it owes
        while any(count for count, _ in router.ledger.counts.open.values()) and time.monotonic() < deadline:
            await asyncio.sleep(0.02)
        same, copies = _table(rows, archives, say)
    finally:
        await router.close(grace=5)
        await asyncio.gather(*(server.close() for server in servers.values()))
    say(
        "\n0xA900: that file's own header names another instance than its data set does; refused, never guessed.\n"
        "0x0000 was said after the object, and with it where it goes, was on the disk;\n"
        f"{same} of {copies} copies arrived byte-identical. Next: make run, then\n"
        "    storescu -aec ROUTER 127.0.0.1 11112 FILE.dcm      and      dicom-router trace UID\n"
    )
    return 0 if same == copies else 1


def _samples() -> list[tuple[str, FileMeta, bytes]]:
    folder = Path(pydicom.__file__).parent / "data" / "test_files"
    found = []
    for name in SAMPLES:
        path = folder / name
        if not path.exists():
            continue
        try:
            with path.open("rb") as file:
                found.append((name, read_part10(file), file.read()))
        except DatasetError:
            continue
    if not found:
        raise RouterError("this installation of pydicom has no sample files")
    return found


async def _send(port: int, samples: list[tuple[str, FileMeta, bytes]]) -> list[tuple[str, FileMeta, str, int]]:
    """Send each; gives (file, meta, digest, status)."""
    pairs = [(meta.sop_class, meta.transfer_syntax) for _, meta, _ in samples]
    request = propose(pairs, called_ae="ROUTER", calling_ae="DEMO")
    connection = await associate("127.0.0.1", port, request, connect_timeout=5, log=get_logger())
    scu = StorageScu(connection, log=get_logger())
    rows = []
    for number, (name, meta, data) in enumerate(samples):
        info = InstanceInfo(
            id=number, sop_class=meta.sop_class, sop_instance=meta.sop_instance, transfer_syntax=meta.transfer_syntax,
            origin=Origin(listener="", peer="", calling_ae="DEMO", called_ae="ROUTER", address=""),
            received=0.0, size=len(data), checksum=b"",
        )  # fmt: skip
        response = await scu.store(info, _FileSource(data))
        rows.append((name, meta, hashlib.sha256(data).hexdigest(), response.status))
    await scu.release()
    return rows


def _table(
    rows: list[tuple[str, FileMeta, str, int]], archives: dict[str, _Archive], say: Callable[[str], object]
) -> tuple[int, int]:
    """Print who got what; gives how many copies are identical, and how many there are."""
    say(f"{'file':24} {'transfer syntax':34} {'answer':7} {'archive':10} {'research':10}\n")
    same = copies = 0
    for name, meta, digest, status in rows:
        cells = []
        for archive in archives.values():
            got = archive.digests.get(meta.sop_instance)
            copies += got is not None
            same += got is not None and digest in got
            cells.append("-" if got is None else "identical" if digest in got else "DIFFERENT")
        say(f"{name:24} {name_of(meta.transfer_syntax)[:34]:34} 0x{status:04X}  {cells[0]:10} {cells[1]:10}\n")
    return same, copies
