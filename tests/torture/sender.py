"""A sender that remembers: what it sends it has written down before, and an object is in its ledger of answers, synced,
only after the router answered 0x0000.

    python -m tests.torture.sender PORT NAME LEDGER SEED DESTINATIONS

Sends until its standard input closes, on a new association whenever the old one dies; every object has its own UID,
which is its study's too, and its own pixels. Objects that were not answered are sent again with the next association,
as a modality would.
"""

from __future__ import annotations

import random
import sys
import threading
import time
from pathlib import Path

from tests.support.objects import encode, synthetic
from tests.support.scu import RawSender
from tests.torture.books import Book

CT = "1.2.840.10008.5.1.4.1.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"
SIZES = (2_000, 20_000, 200_000, 2_500_000)
"""The last is beyond what is kept in memory: it takes the streamed path."""
WEIGHTS = (40, 40, 15, 5)


def main() -> None:
    port, name, ledger, seed = int(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), int(sys.argv[4])
    book = Book(ledger, sys.argv[5].split(","))
    stopped = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), stopped.set()), daemon=True).start()
    random_ = random.Random(seed)
    template = {size: encode(synthetic(size=size, sop_instance="1" * 60, study="1" * 60, seed=seed)) for size in SIZES}
    number = 0
    pending: tuple[str, bytes] | None = None
    sender: RawSender | None = None
    while not stopped.is_set():
        if sender is None or not sender.established:
            sender = RawSender(port, [(CT, EXPLICIT)], calling=name, timeout=10)
            if not sender.established:
                sender = None
                time.sleep(0.05)
                continue
        if pending is None:
            number += 1
            uid = f"2.25.{seed:06d}1{number:048d}".replace("2.25.0", "2.25.9")
            body = template[random_.choices(SIZES, WEIGHTS)[0]].replace(b"1" * 60, uid.encode())
            pending = uid, body
        uid, body = pending
        book.intend(uid, body)
        try:
            status = sender.store(CT, uid, EXPLICIT, body)
        except (RuntimeError, ValueError, OSError):
            status = None
        if status == 0x0000:
            book.answered(uid)
            pending = None
        elif status is None:
            sender = None
        else:
            time.sleep(0.05)
    if sender is not None:
        sender.release()


if __name__ == "__main__":
    main()
