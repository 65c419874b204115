"""Nobody is let in by default: what would open the router beyond loopback without saying so does not start, and what it
opens by default is loopback's."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.ports import free_port
from tests.support.router_process import RouterProcess
from tests.torture.figures import Figure, report

EXIT_CONFIGURATION = 78
EVERYBODY = "0.0.0.0"  # noqa: S104
OPEN = (EVERYBODY, "[::]", "192.0.2.7", "[2001:db8::7]", "router.example")
"""Addresses of everybody, of a network, a name."""
TITLES = 'ae_titles = ["ROUTER"]\n'
WAYS = {
    **{f"admin on {host}": f'[admin]\nbind = "{host}:{{port}}"\n' for host in OPEN},
    **{f"plain DICOM on {host}, not asked for": f'[[listen]]\nbind = "{host}:{{port}}"\n{TITLES}' for host in OPEN},
    "TLS that asks nobody who he is, not asked for": f'[[listen]]\nbind = "{EVERYBODY}:{{port}}"\n{TITLES}'
    'tls = {{ certificate = "a.pem", key = "a.key" }}\n',
}


def listening(pid: int) -> set[str]:
    """Addresses that the process listens on."""
    inodes = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        try:
            inodes.add(str(link.readlink()))
        except FileNotFoundError:
            continue
    found = set()
    for name in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{name}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in inodes:
                raw = bytes.fromhex(fields[1].partition(":")[0])
                words = b"".join(raw[at : at + 4][::-1] for at in range(0, len(raw), 4))
                found.add(socket.inet_ntop(socket.AF_INET if len(raw) == 4 else socket.AF_INET6, words))
    return found


@pytest.mark.timeout(300)
def test_nothing_is_open_beyond_loopback_that_was_not_asked_for(tmp_path: Path, campaign: bool) -> None:
    ways = {way: text for way, text in WAYS.items() if campaign or EVERYBODY in text}
    (tmp_path / "rules").mkdir()
    for number, (way, text) in enumerate(ways.items()):
        path = tmp_path / f"router-{number}.toml"
        path.write_text(f'[node]\ndata_dir = "{tmp_path}/data"\n' + text.format(port=free_port()))
        done = subprocess.run(
            [sys.executable, "-m", "router.app.cli", "run", "-c", str(path)],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == EXIT_CONFIGURATION, f"{way}: {done.returncode}\n{done.stderr}"
        assert path.name in done.stderr + done.stdout, "and says where"
        assert not (tmp_path / "data").exists(), "nothing was begun"
    with RouterProcess(tmp_path / "router", {}) as router:
        assert router.process is not None
        assert listening(router.process.pid) == {"127.0.0.1"}
        text = router.config.read_text().replace(f"127.0.0.1:{router.port}", f"{EVERYBODY}:{router.port}")
    # Asked for: it opens, and every address is seen by what looked.
    router.config.write_text(text)
    with router:
        assert listening(router.process.pid) == {"127.0.0.1", EVERYBODY}
        assert router.metric("dicom_router_listener_plain") == 1
        assert "plain DICOM: whoever is on the way can read it" in router.log.read_text()
    report(
        Figure(
            test="T26",
            promise="an admin port, plain DICOM or TLS without certificates of peers, beyond loopback, that nobody "
            "asked for",
            goal="does not start",
            found="none started, each said where; otherwise only 127.0.0.1 is listened on",
            n=len(ways),
            command="make torture (tests/hostile/test_exposure.py)",
        ),
        keep=campaign,
    )
