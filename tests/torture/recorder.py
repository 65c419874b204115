"""A destination that remembers, outside the router: appends a synced line per object, then answers 0x0000.

    python -m tests.torture.recorder PORT_FILE LEDGER

Built on pynetdicom, so that the oracle shares no code with what it judges. Ends when its standard input closes.
"""

from __future__ import annotations

import hashlib
import os
import sys
import time
from pathlib import Path

from pynetdicom import AE, evt
from pynetdicom.presentation import build_context

CT = "1.2.840.10008.5.1.4.1.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"


def main() -> None:
    port_file, ledger = Path(sys.argv[1]), Path(sys.argv[2])
    output = os.open(ledger, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def store(event: evt.Event) -> int:
        data = event.request.DataSet.getvalue()
        uid = str(event.request.AffectedSOPInstanceUID)
        os.write(output, f"{uid} {hashlib.sha256(data).hexdigest()} {time.monotonic():.4f}\n".encode())
        os.fdatasync(output)
        return 0x0000

    ae = AE(ae_title="RECORDER")
    ae.maximum_associations = 50
    ae.supported_contexts = [build_context(CT, EXPLICIT)]
    server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, store)])
    temporary = port_file.with_suffix(".tmp")
    temporary.write_text(str(server.server_address[1]))
    temporary.rename(port_file)
    sys.stdin.read()
    server.shutdown()


if __name__ == "__main__":
    main()
