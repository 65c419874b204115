"""A router as pynetdicom's examples lead to it: the handler of C-STORE saves the object and sends it on.

python -m benchmarks.pynetdicom_router PORT FOLDER DESTINATION_PORT ...
"""

from __future__ import annotations

import sys
from pathlib import Path

from pydicom import dcmread
from pynetdicom import AE, StoragePresentationContexts, evt
from pynetdicom.sop_class import CTImageStorage


def main() -> None:
    port, folder, destinations = int(sys.argv[1]), Path(sys.argv[2]), [int(text) for text in sys.argv[3:]]

    def store(event: evt.Event) -> int:
        path = folder / f"{event.request.AffectedSOPInstanceUID}.dcm"
        path.write_bytes(event.encoded_dataset())
        for destination in destinations:
            client = AE(ae_title="PYNETDICOM")
            client.add_requested_context(CTImageStorage, "1.2.840.10008.1.2.1")
            association = client.associate("127.0.0.1", destination, ae_title="SINK")
            if not association.is_established:
                return 0xA700
            status = association.send_c_store(dcmread(path))
            association.release()
            if status.get("Status") != 0:
                return 0xA700
        return 0x0000

    server = AE(ae_title="PYNETDICOM")
    server.supported_contexts = StoragePresentationContexts
    server.maximum_pdu_size = 131072
    server.start_server(("127.0.0.1", port), block=True, evt_handlers=[(evt.EVT_C_STORE, store)])


if __name__ == "__main__":
    main()
