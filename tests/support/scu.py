"""A sender that is not ours: pynetdicom's association carrying data sets as raw bytes, so what is sent is known to
the byte."""

from __future__ import annotations

import io
import time
from collections.abc import Iterable

from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_STORE


class RawSender:
    """One association; ``store`` gives the status, or None when no answer came."""

    def __init__(
        self,
        port: int,
        contexts: Iterable[tuple[str, str]],
        *,
        calling: str = "SENDER",
        called: str = "ROUTER",
        timeout: float = 30,
    ) -> None:
        ae = AE(ae_title=calling)
        ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = timeout
        for sop_class, transfer_syntax in dict.fromkeys(contexts):
            ae.add_requested_context(sop_class, transfer_syntax)
        self.association: Association = ae.associate("127.0.0.1", port, ae_title=called)
        self.contexts = {
            (context.abstract_syntax, context.transfer_syntax[0]): context.context_id
            for context in self.association.accepted_contexts
        }
        self._message_id = 0
        if not self.established:
            self._close()

    @property
    def established(self) -> bool:
        return bool(self.association.is_established)

    def store(self, sop_class: str, sop_instance: str, transfer_syntax: str, data: bytes) -> int | None:
        context_id = self.contexts[(sop_class, transfer_syntax)]
        self._message_id = self._message_id % 65535 + 1
        request = C_STORE()
        request.MessageID = self._message_id
        request.AffectedSOPClassUID = sop_class
        request.AffectedSOPInstanceUID = sop_instance
        request.Priority = 0
        request.DataSet = io.BytesIO(data)
        association = self.association
        # pynetdicom's reactor would take the answer for a request of the peer; its own send_c_store pauses it the
        # same way.
        association._reactor_checkpoint.clear()
        self._wait_until_paused()
        try:
            association.dimse.send_msg(request, context_id)
            _, response = association.dimse.get_msg(block=True)
        finally:
            association._reactor_checkpoint.set()
        if response is None or not response.is_valid_response:
            association.abort()
            return None
        status: int = response.Status
        return status

    def _wait_until_paused(self) -> None:
        """The reactor says that it is paused on its way through each of its rounds: only twice in a row is it true."""
        deadline = time.monotonic() + 5
        seen = 0
        while seen < 2 and time.monotonic() < deadline and self.association.is_alive():
            seen = seen + 1 if self.association._is_paused else 0
            time.sleep(0.001)

    def release(self) -> None:
        if self.association.is_established:
            self.association.release()
        self._close()

    def abort(self) -> None:
        self.association.abort()
        self._close()

    def _close(self) -> None:
        """Once its thread is over: pynetdicom leaves a socket open if the peer was the first to close it."""
        if self.association.is_alive():
            self.association.join(5)
        dialed = self.association.dul.socket
        if dialed is not None and dialed.socket is not None:
            dialed.socket.close()
