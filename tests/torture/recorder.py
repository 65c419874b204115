"""A destination that remembers, outside the router: appends a synced line per object, then answers 0x0000.

    python -m tests.torture.recorder PORT_FILE LEDGER [PORT]

Built on pynetdicom, so that the oracle shares no code with what it judges. Ends when its standard input closes. Each
line there is how to behave from now on, answered by ``ok`` when it does:

    status A700     what every object is answered; kept, with a line, only if the sender may take it for stored
    down            nothing listens, and what was open is aborted
    up              listening again, on the same port
"""

from __future__ import annotations

import hashlib
import os
import sys
import time
from pathlib import Path

from pynetdicom import AE, evt
from pynetdicom.presentation import build_context
from pynetdicom.transport import ThreadedAssociationServer

CT = "1.2.840.10008.5.1.4.1.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"
DUPLICATE = 0x0111
"""The only failure that says "it is here"."""


class Recorder:
    def __init__(self, ledger: Path) -> None:
        self._output = os.open(ledger, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._ae = AE(ae_title="RECORDER")
        self._ae.maximum_associations = 50
        self._ae.supported_contexts = [build_context(CT, EXPLICIT)]
        self._server: ThreadedAssociationServer | None = None
        self.status = 0x0000

    def up(self, port: int) -> int:
        if self._server is None:
            handlers = [(evt.EVT_C_STORE, self._store)]
            self._server = self._ae.start_server(("127.0.0.1", port), block=False, evt_handlers=handlers)  # type: ignore[arg-type]
        assert self._server is not None
        return int(self._server.server_address[1])

    def down(self) -> None:
        server, self._server = self._server, None
        if server is None:
            return
        server.shutdown()
        server.server_close()
        for association in server.active_associations:
            association.abort()

    def _store(self, event: evt.Event) -> int:
        status = self.status
        if status == 0x0000 or status >> 12 == 0xB or status == DUPLICATE:
            data = event.request.DataSet.getvalue()
            uid = str(event.request.AffectedSOPInstanceUID)
            os.write(self._output, f"{uid} {hashlib.sha256(data).hexdigest()} {time.monotonic():.4f}\n".encode())
            os.fdatasync(self._output)
        return status


def main() -> None:
    port_file = Path(sys.argv[1])
    recorder = Recorder(Path(sys.argv[2]))
    port = recorder.up(int(sys.argv[3]) if len(sys.argv) > 3 else 0)
    temporary = port_file.with_suffix(".tmp")
    temporary.write_text(str(port))
    temporary.rename(port_file)
    for line in sys.stdin:
        match line.split():
            case ["status", digits]:
                recorder.status = int(digits, 16)
            case ["down"]:
                recorder.down()
            case ["up"]:
                recorder.up(port)
            case _:
                raise SystemExit(f"{line!r} is no way to behave")
        print("ok", flush=True)
    recorder.down()


if __name__ == "__main__":
    main()
