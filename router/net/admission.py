"""Who may come in: the checks of an association, in their order, and the places that sockets and associations take.

address → handshake budget → TLS → called AE title → calling AE title and its certificate → state of the house → number
of associations.
(Presentation contexts follow in the services.) Each refusal has a label for its counter. An AE title is an address and
not authentication.

Sockets that have not finished their A-ASSOCIATE have places of their own, so that silence cannot use up those of
associations, and a few per address, so that one address cannot use up those of the others. Beyond them, senders that
open many associations at once are let in all the same, from a second budget and with ``BURST_TIMEOUT`` to say who they
are: a real sender says it in milliseconds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

from router.model import Limits, Listener, Peer, PresentedCertificate
from router.net.occupancy import Occupancy
from router.ports import Admission
from router.ul.pdus import APPLICATION_CONTEXT, AssociateReject, AssociateRequest

UNKNOWN = "unknown"
"""Name of whoever calls on a listener that takes any caller and is not configured."""
CERTIFICATE = "certificate"
"""Label of a refusal: this AE title belongs to another certificate."""
ENOUGH = 1.0
"""Seconds after which a socket that has said nothing gives up its place to another."""
BURST_TIMEOUT = 2.0
"""Seconds for the A-ASSOCIATE-RQ of a socket beyond ``handshakes_per_address``."""
BURST_PER_ADDRESS = 128

# PS3.8 Table 9-21: result, source, reason.
CALLED_AE_NOT_RECOGNIZED = AssociateReject(1, 1, 7)
CALLING_AE_NOT_RECOGNIZED = AssociateReject(1, 1, 3)
APPLICATION_CONTEXT_NOT_SUPPORTED = AssociateReject(1, 1, 2)
PROTOCOL_VERSION_NOT_SUPPORTED = AssociateReject(1, 2, 2)
TEMPORARY_CONGESTION = AssociateReject(2, 3, 1)
LOCAL_LIMIT_EXCEEDED = AssociateReject(2, 3, 2)


@dataclass(frozen=True, slots=True)
class Refusal:
    reject: AssociateReject
    label: str


class Place(Enum):
    """What a socket takes until its A-ASSOCIATE is answered."""

    HANDSHAKE = "handshake"
    BURST = "burst"


@dataclass(frozen=True, slots=True)
class KnownPeer:
    peer: Peer
    networks: tuple[IPv4Network | IPv6Network, ...]

    def has_address(self, address: str) -> bool:
        return not self.networks or any(ip_address(address) in network for network in self.networks)


class Gate:
    """All listeners of a process share one: it counts their sockets and associations.

    Args:
        house: What the state of the disk says of new associations.
        occupancy: Counts the associations; None: there are only those of this process.
    """

    def __init__(
        self, limits: Limits, peers: Sequence[Peer], house: Admission, occupancy: Occupancy | None = None
    ) -> None:
        self.limits = limits
        self.house = house
        self.draining = False
        """The process is ending: every new association is told to come back later."""
        self.handshake_memory = 0
        """Bytes held for all unfinished handshakes."""
        self._peers: tuple[KnownPeer, ...] = ()
        self._handshakes: Counter[tuple[Place, str]] = Counter()
        self._sockets: Counter[Place] = Counter()
        self._since: dict[Place, dict[Callable[[], None], float]] = {place: {} for place in Place}
        """Who has places, oldest first, and since when."""
        self._occupancy = occupancy if occupancy is not None else Occupancy()
        self.know(peers)

    def know(self, peers: Sequence[Peer]) -> None:
        """Take other peers; associations that are open stay."""
        self._peers = tuple(KnownPeer(peer, tuple(ip_network(text) for text in peer.addresses)) for peer in peers)

    # Sockets -----------------------------------------------------------------------------------------------

    @property
    def handshakes(self) -> int:
        """Sockets whose A-ASSOCIATE is not answered yet."""
        return self._sockets.total()

    def enter(
        self, listener: Listener, address: str, give_up: Callable[[], None] | None = None, now: float = 0.0
    ) -> Place | str:
        """The place that a new socket has now taken, or the label under which it is closed unheard.

        Where all places are taken, the oldest socket has to give up its own if it had it long enough to send an
        A-ASSOCIATE-RQ: silence from many addresses does not keep out who has something to say.

        Args:
            give_up: Called when this socket has to: it ``leave``s before it returns.
            now: Monotonic seconds.
        """
        if listener.accept != "any" and not any(known.has_address(address) for known in self._peers):
            return "address"
        limits = self.limits
        place, per_address = Place.HANDSHAKE, limits.handshakes_per_address
        if self._handshakes[place, address] >= per_address:
            place, per_address = Place.BURST, BURST_PER_ADDRESS
        if self._handshakes[place, address] >= per_address:
            return "handshakes_per_address"
        if self._sockets[place] >= limits.handshakes:
            oldest = next(iter(self._since[place].items()), None)
            if oldest is None or now - oldest[1] < ENOUGH:
                return "handshakes"
            oldest[0]()
        if give_up is not None:
            self._since[place][give_up] = now
        self._sockets[place] += 1
        self._handshakes[place, address] += 1
        return place

    def leave(self, place: Place, address: str, give_up: Callable[[], None] | None = None) -> None:
        """The handshake is over, one way or another."""
        if give_up is not None:
            self._since[place].pop(give_up, None)
        self._sockets[place] -= 1
        self._handshakes[place, address] -= 1
        if not self._handshakes[place, address]:
            del self._handshakes[place, address]

    # Associations ------------------------------------------------------------------------------------------

    @property
    def associations(self) -> int:
        """Open in this process."""
        return self._occupancy.here

    def judge(
        self,
        listener: Listener,
        address: str,
        request: AssociateRequest,
        certificate: PresentedCertificate | None = None,
    ) -> Peer | Refusal:
        """The configured peer that calls (or a stand-in named ``unknown``), or why it may not.

        Args:
            certificate: The peer's, verified.
        """
        if not request.protocol_version & 1:  # only bit 0 is tested (PS3.8 Table 9-11)
            return Refusal(PROTOCOL_VERSION_NOT_SUPPORTED, "protocol_version")
        if request.application_context != APPLICATION_CONTEXT:
            return Refusal(APPLICATION_CONTEXT_NOT_SUPPORTED, "application_context")
        titles = listener.ae_titles
        if "*" not in titles and request.called_ae not in titles:
            return Refusal(CALLED_AE_NOT_RECOGNIZED, "called_ae")
        if not self._may_use(certificate, request.calling_ae):
            return Refusal(CALLING_AE_NOT_RECOGNIZED, CERTIFICATE)
        peer = self._find(listener, address, request.calling_ae, certificate)
        if peer is None:
            return Refusal(CALLING_AE_NOT_RECOGNIZED, "calling_ae")
        if self.draining:
            return Refusal(TEMPORARY_CONGESTION, "shutting_down")
        refusal = self.house.refusal()
        if refusal is not None:
            result, source, reason, label = refusal
            return Refusal(AssociateReject(result, source, reason), label)
        if self._occupancy.total >= self.limits.associations:
            return Refusal(LOCAL_LIMIT_EXCEEDED, "associations")
        allowed = self.limits.associations_per_peer if peer.associations is None else peer.associations
        if self._occupancy.of(_slot(peer, address)) >= allowed:
            return Refusal(LOCAL_LIMIT_EXCEEDED, "associations_per_peer")
        return peer

    def association_began(self, peer: Peer, address: str) -> None:
        self._occupancy.began(_slot(peer, address))

    def association_ended(self, peer: Peer, address: str) -> None:
        self._occupancy.ended(_slot(peer, address))

    def _may_use(self, certificate: PresentedCertificate | None, calling_ae: str) -> bool:
        """An AE title that is bound to certificates is theirs only, and a certificate that is bound to AE titles can
        use no others."""
        bound = [known.peer for known in self._peers if known.peer.certificate is not None]
        if not bound:
            return True
        titles = {peer.ae_title for peer in bound if _holds(peer, certificate)}
        return calling_ae in titles or (not titles and all(peer.ae_title != calling_ae for peer in bound))

    def _find(
        self, listener: Listener, address: str, calling_ae: str, certificate: PresentedCertificate | None
    ) -> Peer | None:
        for known in self._peers:
            peer = known.peer
            if (
                peer.ae_title == calling_ae
                and (peer.certificate is None or _holds(peer, certificate))
                and known.has_address(address)
                and (not peer.listeners or listener.name in peer.listeners)
            ):
                return peer
        return Peer(name=UNKNOWN, ae_title=calling_ae) if listener.accept == "any" else None


def _holds(peer: Peer, certificate: PresentedCertificate | None) -> bool:
    return peer.certificate is not None and certificate is not None and peer.certificate.holds(certificate)


def _slot(peer: Peer, address: str) -> str:
    """Unknown peers are told apart by address: one of them cannot use up the places of all."""
    return f"{UNKNOWN} {address}" if peer.name == UNKNOWN else peer.name
