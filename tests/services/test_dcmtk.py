"""DCMTK's tools on the other end, with its defaults: Nagle on and headers written apart from bodies."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from router.dicom.part10 import read_part10
from router.model import InstanceInfo
from tests.net.doubles import CT, EXPLICIT, IMPLICIT, VERIFICATION, Node
from tests.services.test_storage_scu import Disk, Memory, instance, scu_to
from tests.support.objects import encode, save, sha256, synthetic
from tests.support.peers import accepts, require, running, storescp, wait_for
from tests.support.ports import free_port

pytestmark = pytest.mark.peer


def stored(*paths: Path) -> dict[str, str]:
    """SOP Instance UID to the SHA-256 of the data set of each Part 10 file."""
    found = {}
    for path in paths:
        with path.open("rb") as file:
            meta = read_part10(file)
            found[meta.sop_instance] = sha256(file.read())
    assert len(found) == len(paths)
    return found


async def run(*arguments: str, **environment: str) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        require(arguments[0]),
        *arguments[1:],
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={**os.environ, **environment},
    )
    async with asyncio.timeout(60):
        output, _ = await process.communicate()
    return process.returncode or 0, output.decode(errors="replace")


async def test_echoscu() -> None:
    async with Node() as node:
        code, output = await run("echoscu", "-aec", "ROUTER", "127.0.0.1", str(node.port))
        assert code == 0, output
        await node.settled()
        assert node.log.levels() == {"info"}


async def test_echoscu_hears_why_it_is_refused() -> None:
    async with Node() as node:
        code, output = await run("echoscu", "-aec", "OTHER", "127.0.0.1", str(node.port))
        assert code != 0
        assert "Called AE Title Not Recognized" in output


@pytest.mark.parametrize("program", [("storescu", "-xe"), ("dcmsend",)])
async def test_files_arrive_byte_for_byte(program: tuple[str, ...], tmp_path: Path) -> None:
    files = [save(synthetic(size=200_000 + n, seed=n), tmp_path / f"{n}.dcm") for n in range(5)]
    async with Node() as node:
        code, output = await run(*program, "-aec", "ROUTER", "127.0.0.1", str(node.port), *map(str, files))
        assert code == 0, output
        got = {reception.facts["sop_instance"]: sha256(bytes(reception.data)) for reception in node.intake.finished}
        assert got == stored(*files)
        await node.settled()


async def test_a_status_reaches_the_sender(tmp_path: Path) -> None:
    file = save(synthetic(), tmp_path / "1.dcm")
    async with Node() as node:
        node.intake.status = (0xA700, "out of disk space")
        code, output = await run("storescu", "-v", "-aec", "ROUTER", "127.0.0.1", str(node.port), str(file))
        assert "0xa700" in output or "Refused" in output, output
        assert code == 0xA7


async def test_a_sender_with_nagle_on_does_not_wait_for_delayed_acknowledgements(tmp_path: Path) -> None:
    count = 30
    files = [save(synthetic(size=9000, seed=n), tmp_path / f"{n}.dcm") for n in range(count)]
    loop = asyncio.get_running_loop()
    async with Node() as node:
        times = []
        for _ in range(3):
            began = loop.time()
            code, output = await run("storescu", "-aec", "ROUTER", "127.0.0.1", str(node.port), *map(str, files))
            assert code == 0, output
            times.append(loop.time() - began)
    # A delayed acknowledgement costs 40 ms an object.
    assert min(times) < count * 0.030


async def test_a_receiver_with_nagle_on_does_not_wait_either(tmp_path: Path) -> None:
    count = 20
    data = encode(synthetic(size=9000, sop_instance="1.2.3"))
    loop = asyncio.get_running_loop()
    folder = tmp_path / "in"
    folder.mkdir()
    port = free_port()
    times = []
    with running([require("storescp"), "-od", str(folder), str(port)], tmp_path / "storescp.log"):
        wait_for(lambda: accepts(port), 10, "storescp listening")
        for _ in range(3):
            async with scu_to(port) as scu:
                began = loop.time()
                for _ in range(count):
                    assert (await scu.store(instance("1.2.3"), Memory(data))).status == 0
                times.append(loop.time() - began)
                await scu.release()
    assert min(times) < count * 0.030


async def test_storescp_gets_what_we_have(tmp_path: Path) -> None:
    sent: dict[str, str] = {}
    with storescp(tmp_path / "in") as port:
        pairs = [(CT, EXPLICIT), (CT, IMPLICIT), (VERIFICATION, IMPLICIT)]
        async with scu_to(port, pairs=pairs, async_operations=16) as scu:
            assert scu.window == 1  # DCMTK has no asynchronous operations
            assert await scu.echo() == 0
            for number, size in enumerate((500, 16_384, 524_288, 5_000_000)):
                uid = f"1.2.3.{number}"
                implicit = number % 2 == 1
                data = encode(synthetic(size=size, sop_instance=uid), implicit=implicit)
                sent[uid] = sha256(data)
                info = instance(uid, IMPLICIT if implicit else EXPLICIT)
                assert (await scu.store(info, Memory(data[:1000], data[1000:]))).status == 0
            await scu.release()
            assert await scu.closed is None
    assert stored(*(tmp_path / "in").iterdir()) == sent


async def test_a_large_instance_streams_to_storescp(tmp_path: Path) -> None:
    data = encode(synthetic(size=20_000_000, sop_instance="1.2.3.4"))

    class Chunks(Disk):
        async def chunks(self):  # type: ignore[no-untyped-def]
            for at in range(0, len(data), 300_001):
                yield data[at : at + 300_001]

    with storescp(tmp_path / "in") as port:
        async with scu_to(port) as scu:
            info: InstanceInfo = instance("1.2.3.4")
            assert (await scu.store(info, Chunks(len(data)))).status == 0
            await scu.release()
    assert stored(*(tmp_path / "in").iterdir()) == {"1.2.3.4": sha256(data)}
