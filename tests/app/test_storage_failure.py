"""The disk fails under a running router: nothing is acknowledged on doubt, and it says so at once."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from router.app.config import load_config
from router.app.control import RouterControl
from router.app.router import Router
from router.errors import RouterError
from router.ledger import SqliteLedger
from router.model import InstanceInfo, Origin
from router.net.dialer import associate
from router.observe.logs import get_logger
from router.services.storage_scu import StorageScu, propose
from router.spool import durable
from tests.spool.faulty import Faulty
from tests.support.objects import encode, synthetic
from tests.support.router_process import NO_FLOORS

CT = "1.2.840.10008.5.1.4.1.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"


def configuration(folder: Path, extra: str = "") -> Path:
    (folder / "rules").mkdir()
    path = folder / "router.toml"
    path.write_text(
        f'[node]\ndata_dir = "{folder / "data"}"\n[[listen]]\nbind = "127.0.0.1:0"\naccept = "any"\ntls = "off"\n'
        f'[rules]\npath = "{folder / "rules"}"\n[admin]\nbind = "127.0.0.1:0"\n{extra}'
    )
    return path


class Source:
    def __init__(self, data: bytes) -> None:
        self.size = len(data)
        self.buffers = [data]


async def store(scu: StorageScu, uid: str) -> int:
    data = encode(synthetic(sop_instance=uid))
    info = InstanceInfo(
        id=1, sop_class=CT, sop_instance=uid, transfer_syntax=EXPLICIT, received=0.0, size=len(data), checksum=b"",
        origin=Origin(listener="", peer="", calling_ae="", called_ae="", address=""),
    )  # fmt: skip
    return (await scu.store(info, Source(data))).status  # type: ignore[arg-type]


async def test_after_a_failed_sync_no_success_is_answered_any_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Faulty.heal()
    monkeypatch.setattr(durable, "Committer", Faulty)
    router = await Router.start(load_config(configuration(tmp_path), NO_FLOORS))
    control = RouterControl(router)
    try:
        assert control.ready() == (True, [])
        request = propose([(CT, EXPLICIT)], called_ae="ROUTER", calling_ae="CT1")
        connection = await associate(
            "127.0.0.1", router.listeners[0].port, request, connect_timeout=5, log=get_logger()
        )
        scu = StorageScu(connection, log=get_logger())
        assert await store(scu, "2.25.1") == 0x0000

        Faulty.sync_problem = errno.EIO
        assert await store(scu, "2.25.2") == 0xA700
        Faulty.heal()
        assert await store(scu, "2.25.3") == 0xA700, "a sync that works again proves nothing"
        await router.failed.wait()
        ready, reasons = control.ready()
        assert not ready
        assert "storage failed" in reasons[0]
        assert router.house.refusal() == (2, 3, 1, "storage_failed")
        scu.abort()
    finally:
        await router.close(grace=0)


async def test_what_was_answered_and_never_reached_the_ledger_is_owed_after_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = configuration(tmp_path)
    router = await Router.start(load_config(path, NO_FLOORS))
    # The process dies after the answer and before the ledger has committed.
    monkeypatch.setattr(SqliteLedger, "record", lambda self, receipts, done, *, position, owed: None)
    try:
        request = propose([(CT, EXPLICIT)], called_ae="ROUTER", calling_ae="CT1")
        connection = await associate(
            "127.0.0.1", router.listeners[0].port, request, connect_timeout=5, log=get_logger()
        )
        scu = StorageScu(connection, log=get_logger())
        for number in range(3):
            assert await store(scu, f"2.25.{number + 1}") == 0x0000
        await scu.release()
    finally:
        await router.close(grace=0)
    monkeypatch.undo()
    for _ in range(2):  # and only once
        router = await Router.start(load_config(path, NO_FLOORS))
        try:
            assert router.ledger.counts.held == 3
            held = [info.sop_instance for info, _ in await router.ledger.held_instances(0, 10)]
            assert held == ["2.25.1", "2.25.2", "2.25.3"]
        finally:
            await router.close(grace=0)


async def test_a_data_directory_that_cannot_be_used_is_told_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file, not a folder")
    with pytest.raises(RouterError, match="data_dir"):
        await Router.start(load_config(configuration(tmp_path), NO_FLOORS))


async def test_two_routers_cannot_share_a_data_directory(tmp_path: Path) -> None:
    path = configuration(tmp_path)
    router = await Router.start(load_config(path, NO_FLOORS))
    try:
        with pytest.raises(RouterError, match="in use by another process"):
            await Router.start(load_config(path, NO_FLOORS))
    finally:
        await router.close(grace=0)
