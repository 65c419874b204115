"""Objects to a DICOM destination: one association, as storage SCU."""

from __future__ import annotations

from collections.abc import Sequence

from router.delivery.sender import Pair
from router.dimse.requestor import Reply
from router.model import Destination, InstanceInfo
from router.net.dialer import associate
from router.net.tls import Credentials
from router.ports import DataSource, Log
from router.services.storage_scu import StorageScu, StoreResponse, propose
from router.ul.association import AssociationSettings


class DicomSender:
    """Implements ``Sender``."""

    def __init__(self, scu: StorageScu, pairs: Sequence[Pair]) -> None:
        self._scu = scu
        self._proposed = frozenset(pairs)
        self._accepted = scu.accepted
        self._outstanding = scu.outstanding
        self._loop = scu.connection.loop
        self.closed = scu.closed

    @classmethod
    async def open(
        cls, destination: Destination, pairs: Sequence[Pair], log: Log, credentials: Credentials | None = None
    ) -> DicomSender:
        """Raises DeliveryError (TlsFailure), AssociationRejected, AssociationAborted. Cancelling it is safe."""
        request = propose(
            pairs,
            called_ae=destination.ae_title,
            calling_ae=destination.calling_ae_title,
            max_pdu=destination.max_pdu,
            async_operations=destination.async_operations,
        )
        connection = await associate(
            destination.host,
            destination.port,
            request,
            AssociationSettings(
                max_pdu=destination.max_pdu,
                strict_pdu_length=False,
                acse_timeout=destination.acse_timeout,
                release_timeout=destination.release_timeout,
                idle_timeout=None,
            ),
            connect_timeout=destination.connect_timeout,
            log=log,
            credentials=credentials,
        )
        return cls(StorageScu(connection, response_timeout=destination.response_timeout, log=log), pairs)

    @property
    def alive(self) -> bool:
        return self._scu.alive

    @property
    def room(self) -> int:
        return self._outstanding.room

    def proposed(self, info: InstanceInfo) -> bool:
        return (info.sop_class, info.transfer_syntax) in self._proposed

    def accepts(self, info: InstanceInfo) -> bool:
        return (info.sop_class, info.transfer_syntax) in self._accepted

    def accepts_pair(self, pair: Pair) -> bool:
        return pair in self._accepted

    def store(self, info: InstanceInfo, source: DataSource) -> Reply[StoreResponse]:
        reply: Reply[StoreResponse] = Reply(self._loop)
        self._scu.begin(info, source, reply)
        return reply

    def hurry(self, much_waits: bool) -> None:
        self._scu.connection.hurry(much_waits)

    async def release(self) -> None:
        await self._scu.release()

    def abort(self) -> None:
        self._scu.abort()
