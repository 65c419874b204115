"""Who may come in: the checks of an association, in their order, and the slots that associations take.

address → handshake budget → called AE title → calling AE title → state of the house → number of associations. (Presentation contexts
follow in the acceptor.) Each refusal has a label for its counter. AE titles are an address and not authentication.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

from router.model import Limits, Listener, Peer
from router.ports import Admission
from router.ul.pdus import AssociateReject, AssociateRequest

UNKNOWN = "unknown"
LOOPBACK = (ip_network("127.0.0.0/8"), ip_network("::1/128"))

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


@dataclass(frozen=True, slots=True)
class KnownPeer:
    peer: Peer
    networks: tuple[IPv4Network | IPv6Network, ...]

    def has_address(self, address: str) -> bool:
        return not self.networks or any(ip_address(address) in network for network in self.networks)


class Gate:
    """All listeners of a process share one: it counts sockets and associations.

    Args:
        house: What the state of the disk says of new associations.
    """

    def __init__(self, limits: Limits, peers: Sequence[Peer], house: Admission) -> None:
        self.limits = limits
        self.house = house
        self.peers = tuple(KnownPeer(peer, tuple(ip_network(text) for text in peer.addresses)) for peer in peers)
        self.draining = False
        self.associations = 0
        self._handshakes: Counter[str] = Counter()
        self._handshaking = 0
        self._by_peer: Counter[str] = Counter()

    # Sockets -----------------------------------------------------------------------------------------------

    def socket_refusal(self, listener: Listener, address: str) -> str | None:
        """The label under which a new socket is closed unheard, or None."""
        if listener.accept != "any" and not any(known.has_address(address) for known in self.peers):
            return "address"
        if self._handshaking >= self.limits.handshakes:
            return "handshakes"
        if self._handshakes[address] >= self.limits.handshakes_per_address:
            return "handshakes_per_address"
        return None

    def handshake_began(self, address: str) -> None:
        self._handshaking += 1
        self._handshakes[address] += 1

    def handshake_ended(self, address: str) -> None:
        self._handshaking -= 1
        self._handshakes[address] -= 1
        if not self._handshakes[address]:
            del self._handshakes[address]

    # Associations ------------------------------------------------------------------------------------------

    def judge(self, listener: Listener, address: str, request: AssociateRequest) -> Peer | Refusal:
        """The configured peer that calls (or a stand-in named ``unknown``), or why it may not."""
        titles = listener.ae_titles
        if "*" not in titles and request.called_ae not in titles:
            return Refusal(CALLED_AE_NOT_RECOGNIZED, "called_ae")
        peer = self._find(listener, address, request.calling_ae)
        if peer is None:
            return Refusal(CALLING_AE_NOT_RECOGNIZED, "calling_ae")
        if self.draining:
            return Refusal(TEMPORARY_CONGESTION, "shutting_down")
        refusal = self.house.refusal()
        if refusal is not None:
            result, source, reason, label = refusal
            return Refusal(AssociateReject(result, source, reason), label)
        if self.associations >= self.limits.associations:
            return Refusal(LOCAL_LIMIT_EXCEEDED, "associations")
        if self._by_peer[self._slot(peer, address)] >= (peer.associations or self.limits.associations_per_peer):
            return Refusal(LOCAL_LIMIT_EXCEEDED, "associations_per_peer")
        return peer

    def association_began(self, peer: Peer, address: str) -> None:
        self.associations += 1
        self._by_peer[self._slot(peer, address)] += 1

    def association_ended(self, peer: Peer, address: str) -> None:
        self.associations -= 1
        slot = self._slot(peer, address)
        self._by_peer[slot] -= 1
        if not self._by_peer[slot]:
            del self._by_peer[slot]

    def _find(self, listener: Listener, address: str, calling_ae: str) -> Peer | None:
        for known in self.peers:
            peer = known.peer
            if (
                peer.ae_title == calling_ae
                and known.has_address(address)
                and (not peer.listeners or listener.name in peer.listeners)
            ):
                return peer
        return Peer(name=UNKNOWN, ae_title=calling_ae) if listener.accept == "any" else None

    @staticmethod
    def _slot(peer: Peer, address: str) -> str:
        """Unknown peers are told apart by address: one of them cannot use up the places of all."""
        return address if peer.name == UNKNOWN else peer.name
