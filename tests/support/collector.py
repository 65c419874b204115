"""A real audit record repository: rsyslog with TLS on loopback, started and killed at will."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.support.authority import Authority
from tests.support.peers import accepts, require, wait_for
from tests.support.ports import free_port

CONFIGURATION = """
global(workDirectory="{folder}" maxMessageSize="64k"
       defaultNetstreamDriverCAFile="{ca}" defaultNetstreamDriverCertFile="{certificate}"
       defaultNetstreamDriverKeyFile="{key}")
module(load="imtcp" streamDriver.name="gtls" streamDriver.mode="1" streamDriver.authMode="x509/certvalid")
template(name="raw" type="string" string="%rawmsg%\\n")
ruleset(name="audit") {{ action(type="omfile" file="{messages}" template="raw" fileCreateMode="0600") }}
input(type="imtcp" address="127.0.0.1" port="{port}" ruleset="audit")
"""


class Collector:
    """Leave the ``with`` block and it has ended.

    Args:
        authority: Whose certificates it takes; it shows one for ``localhost``.
    """

    def __init__(self, folder: Path, authority: Authority) -> None:
        folder.mkdir(parents=True)
        identity = authority.issue("collector", "localhost")
        self.port = free_port()
        self.messages = folder / "messages"
        self._configuration = folder / "rsyslog.conf"
        self._pid = folder / "pid"
        self._log = folder / "log"
        self._process: subprocess.Popen[bytes] | None = None
        self._configuration.write_text(
            CONFIGURATION.format(
                folder=folder, ca=authority.file, certificate=identity.certificate, key=identity.key,
                messages=self.messages, port=self.port,
            )
        )  # fmt: skip

    def __enter__(self) -> Collector:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        with self._log.open("ab") as output:
            self._process = subprocess.Popen(
                [require("rsyslogd"), "-n", "-C", "-f", str(self._configuration), "-i", str(self._pid)],
                stdout=output,
                stderr=output,
            )
        wait_for(lambda: accepts(self.port), 30, "rsyslogd")

    def kill(self) -> None:
        """With what it has read and not written."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)
            self._pid.unlink(missing_ok=True)
            self._process = None

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(30)
            self._process = None

    def written(self) -> bytes:
        """A line for each message; a kill may have torn some."""
        return self.messages.read_bytes() if self.messages.exists() else b""
