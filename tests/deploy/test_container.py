"""The container file by our own rules, and the router where it will run: a read-only root, no privileges.

No engine is needed: the root is made of read-only mounts.
"""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from router.app.config import load_config
from tests.support.objects import encode, synthetic
from tests.support.peers import cannot, wait_for
from tests.support.router_process import RouterProcess
from tests.support.wire import WireSender
from tests.torture.oracle import Oracle, lines

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "deploy" / "container"
USER = 65532
DATA = "/var/lib/dicom-router"
CT = "1.2.840.10008.5.1.4.1.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"

Instruction = tuple[str, str]


def instructions(text: str) -> list[Instruction]:
    joined = re.sub(r"\\\n\s*", "", "\n".join(line for line in text.splitlines() if not line.startswith("#")))
    return [(name, rest) for name, _, rest in (line.partition(" ") for line in joined.splitlines() if line)]


def faults(text: str) -> list[str]:
    """What is wrong with a container file."""
    found = instructions(text)
    stages = [rest for name, rest in found if name == "FROM"]
    last = found[max(index for index, (name, _) in enumerate(found) if name == "FROM") :]
    said = dict(last)
    wrong = []
    for stage in stages:
        image, _, tag = stage.split()[0].partition(":")
        if "/" in image or tag in ("", "latest"):
            wrong.append(f"image without a fixed tag, or of a host: {stage}")
    if len(stages) < 2 or any(name == "RUN" and re.search(r"apt-get|gcc|pip ", rest) for name, rest in last):
        wrong.append("the last stage builds")
    if not re.fullmatch(r"[1-9]\d*:[1-9]\d*", said.get("USER", "")):
        wrong.append("the last stage runs as root, or as a name that an orchestrator cannot check")
    for name in ("ENTRYPOINT", "CMD"):
        if not said.get(name, "").startswith("["):
            wrong.append(f"{name} goes through a shell")
    if not re.search(r'CMD \["/opt/dicom-router/bin/dicom-router"', said.get("HEALTHCHECK", "")):
        wrong.append("no health check by the router's own command")
    if json.loads(said.get("VOLUME", "[]")) != [DATA]:
        wrong.append(f"something else than {DATA} is written")
    for name, rest in found:
        if name == "ADD" or re.search(r"\b(curl|wget|sudo|chmod 777)\b|https?://", rest):
            wrong.append(f"fetches or opens: {rest}")
        if "apt-get install" in rest and ("--no-install-recommends" not in rest or "rm -rf /var/lib/apt" not in rest):
            wrong.append(f"installs too much: {rest}")
        if "pip install" in rest and not re.search("--require-hashes|--no-deps", rest):
            wrong.append(f"installs what is not locked: {rest}")
        if name == "COPY" and "--from" not in rest:
            wrong += [f"not there: {source}" for source in rest.split()[:-1] if not (ROOT / source).exists()]
    return wrong


def test_the_container_file_keeps_our_rules() -> None:
    assert faults((FOLDER / "Containerfile").read_text()) == []


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("FROM python:3.11-slim-bookworm\n", "FROM python:latest\n"),
        ("FROM python:3.11-slim-bookworm AS", "FROM registry.example/python:3.11 AS"),
        ("USER 65532:65532\n", ""),
        ("--require-hashes ", ""),
        (" --no-install-recommends", ""),
        ("USER 65532", "RUN apt-get install gcc\nUSER 65532"),
        ('ENTRYPOINT ["/opt/dicom-router/bin/dicom-router"]', "ENTRYPOINT /opt/dicom-router/bin/dicom-router"),
        ("COPY LICENSE", "COPY LICENCE"),
        ("HEALTHCHECK", "LABEL"),
    ],
)
def test_a_container_file_that_breaks_one_is_found(old: str, new: str) -> None:
    text = (FOLDER / "Containerfile").read_text()
    assert old in text
    assert faults(text.replace(old, new))


def test_the_configuration_in_it_is_valid_and_lets_nobody_in() -> None:
    config = load_config(FOLDER / "router.toml", {})
    assert str(config.data_dir) == DATA
    assert not config.peers


def test_composed_it_is_closed_and_has_time_to_drain() -> None:
    text = (FOLDER / "compose.yaml").read_text()
    for line in ("read_only: true", "cap_drop: [ALL]", 'security_opt: ["no-new-privileges:true"]'):
        assert line in text
    (seconds,) = re.findall(r"stop_grace_period: (\d+)s", text)
    assert int(seconds) > 2 * load_config(None, {}).shutdown_grace


def mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True, capture_output=True, timeout=30)


@contextmanager
def enclosed(root: Path, shown: Iterable[str]) -> Iterator[None]:
    """What an engine does for a container: ``shown`` and nothing else, read-only, and one place to write.

    Without a mount namespace of its own: that would keep alive, for other tests, the file systems that they unmount.
    """
    root.mkdir()
    mount("-t", "tmpfs", "-o", "mode=755", "tmpfs", str(root))
    try:
        for folder in shown:
            place = root / folder[1:]
            place.mkdir(parents=True, exist_ok=True)
            mount("--bind", folder, str(place))
            mount("-o", "remount,bind,ro", str(place))
        (root / "proc").mkdir()
        mount("--bind", "/proc", str(root / "proc"))
        data = root / DATA[1:]
        data.mkdir(parents=True)
        mount("-t", "tmpfs", "-o", f"uid={USER},gid={USER},mode=700,size=256m", "tmpfs", str(data))
        mount("-o", "remount,ro", str(root))
        yield
    finally:
        subprocess.run(["umount", "--recursive", str(root)], check=True, capture_output=True, timeout=30)


def unable(folder: Path) -> str:
    try:
        with enclosed(folder, ()):
            return ""
    except subprocess.CalledProcessError as error:
        return f"no mounts here: {error.stderr.decode().strip()}"


def shown(folder: Path) -> list[str]:
    """What the router is made of, and its configuration in ``folder``."""
    system = [path for path in ("/usr", "/lib", "/lib64", "/bin", "/etc") if Path(path).is_dir()]
    ours = {os.path.realpath(path) for path in (sys.base_prefix, sys.prefix, ROOT)}
    outer = {path for path in ours if not any(path.startswith(f"{other}/") for other in (*ours, *system))}
    return [*system, *sorted(outer), str(folder)]


@pytest.fixture
def router(tmp_path: Path) -> Iterator[RouterProcess]:
    """In a root of its own, where only its data folder can be written."""
    if os.geteuid() != 0:
        cannot("a root of its own needs root")
    if reason := unable(tmp_path / "probe"):
        cannot(reason)
    root, folder = tmp_path / "root", tmp_path / "router"
    chroot = ["chroot", f"--userspec={USER}:{USER}", "--groups=", str(root)]
    router = RouterProcess(
        folder,
        {},
        program=[*chroot, sys.executable, "-m", "router.app.cli"],
        environment={"PYTHONPATH": str(ROOT)},
    )
    with enclosed(root, shown(folder)):
        yield router
        router.kill()


def test_it_stores_and_delivers_from_a_read_only_root_without_privileges(tmp_path: Path, router: RouterProcess) -> None:
    with Oracle(tmp_path / "oracle", destinations=1) as oracle:
        router.write_rules('[[rule]]\nname = "everything"\nto = ["d0"]\n')
        text = router.config.read_text().replace(str(router.folder / "data"), DATA)
        router.config.write_text(f'{text}\n[destinations.d0]\nurl = "{oracle.urls["d0"]}"\n{SMALL}')
        router.start()
        try:
            assert router.process is not None
            process = Path(f"/proc/{router.process.pid}")
            sender = WireSender(router.port, (CT, EXPLICIT))
            assert sender.store("2.25.90", encode(synthetic(sop_instance="2.25.90"))) == 0x0000
            sender.close()
            wait_for(lambda: lines(oracle.arrivals[0]), 30, "delivery")
            status = dict(line.split(":\t", 1) for line in (process / "status").read_text().splitlines())
            assert set(status["Uid"].split() + status["Gid"].split()) == {str(USER)}
            assert int(status["CapEff"], 16) == 0
            assert status["Umask"] == "0077"
            assert re.search(r"Max core file size +[01] +[01] ", (process / "limits").read_text())
            assert writable(process) == {DATA}
            for path in (process / "root" / DATA[1:]).rglob("*"):
                assert stat.S_IMODE(path.lstat().st_mode) & 0o077 == 0, path.name
            assert router.cli("status", "-c", str(router.config)).returncode == 0
            assert router.stop() == 0
            assert router.cli("status", "-c", str(router.config), check=False).returncode != 0
        finally:
            router.kill()


SMALL = '[spool]\nsegment_size = "4MiB"\nreserve_associations = "16MiB"\nreserve_objects = "8MiB"\n'


def writable(process: Path) -> set[str]:
    """Where the root of this process has mounts that can be written; /proc aside, which is the kernel's."""
    mounts = [line.split() for line in (process / "mountinfo").read_text().splitlines()]
    return {fields[4] for fields in mounts if "rw" in fields[5].split(",") and not fields[4].startswith("/proc")}
