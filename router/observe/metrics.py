"""Every metric of the router, by the names that dashboards rely on.

Labels come from closed sets: the destinations, listeners, peers and rules of the configuration (of destinations also
those that it had when something was owed to them), and statuses and
reasons that we choose ourselves. Whatever a peer says becomes ``unknown``, so traffic adds no series, and nothing here
is ever a UID or anything of a patient.

What happens per object is counted in plain integers on the event loop (some 50 ns each); a collector turns them into
Prometheus' families when somebody asks, which may be in another thread.
"""

from __future__ import annotations

import asyncio
import platform
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Final

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from router import __version__
from router.model import Decision, Status
from router.observe.histogram import Histogram

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
UNKNOWN: Final = "unknown"

STORE_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
DELIVERY_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5, 30, 60, 300, 900, 3600, 14_400, 86_400)
COMMIT_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5)
COMMIT_INSTANCES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
LAG_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5)

CUT_THROUGH = ("completed", "given_up")
OUTCOMES = ("delivered", "warning", "retry", "dead")
REJECTIONS = (
    "protocol_version", "application_context", "called_ae", "calling_ae", "certificate", "address",
    "associations", "associations_per_peer", "handshakes", "handshakes_per_address", "handshake_memory",
    "handshake_timeout", "malformed", "not_dicom", "tls_certificate", "tls_no_certificate", "tls_version",
    "tls_cipher", "tls_plain_peer", "tls_on_plain_port", "tls_refused", "tls_handshake",
    "disk_full", "storage_failed", "shutting_down",
)  # fmt: skip
"""Why somebody is not let in."""


class DestinationMetrics:
    """Implements ``ports.LaneMetrics``. One per destination, on the loop."""

    __slots__ = ("_parent", "bytes", "early", "is_paused", "is_up", "outcomes", "queue", "seconds")

    def __init__(self, parent: RouterMetrics) -> None:
        self._parent = parent
        self.outcomes = dict.fromkeys(OUTCOMES, 0)
        self.early = dict.fromkeys(CUT_THROUGH, 0)
        self.bytes = 0
        self.seconds = Histogram(DELIVERY_SECONDS)
        self.is_up = True
        self.is_paused = False
        self.queue: tuple[int, int, float] = (0, 0, 0.0)

    def outcome(self, kind: str) -> None:
        """``kind``: an ``OutcomeKind``. An attempt ended like this."""
        self.outcomes[kind] += 1

    def delivered(self, size: int, seconds: float) -> None:
        """``size``: bytes of the data set. ``seconds``: from our 0x0000 to the destination's."""
        self.bytes += size
        self.seconds.observe(seconds)

    def up(self, is_up: bool) -> None:
        self.is_up = is_up

    def paused(self, is_paused: bool) -> None:
        self.is_paused = is_paused

    def association_opened(self) -> None:
        self._parent.associations_out += 1

    def association_closed(self) -> None:
        self._parent.associations_out -= 1

    def cut_through(self, outcome: str) -> None:
        """``outcome``: ``completed`` or ``given_up``. An early transfer ended like this."""
        self.early[outcome] += 1


class ListenerCounters:
    """Implements ``ports.ListenerMetrics``. One per listener, on the loop."""

    __slots__ = ("_parent", "by_peer", "rejections")

    def __init__(self, parent: RouterMetrics, peers: Iterable[str]) -> None:
        self._parent = parent
        self.by_peer = {peer: [0, 0] for peer in (*peers, UNKNOWN)}
        """Peer to [instances, bytes]."""
        self.rejections = dict.fromkeys(REJECTIONS, 0)

    def association_opened(self) -> None:
        self._parent.associations_in += 1

    def association_closed(self) -> None:
        self._parent.associations_in -= 1

    def rejected(self, reason: str) -> None:
        """``reason``: one of our own few words, never anything that the peer sent."""
        self.rejections[reason] = self.rejections.get(reason, 0) + 1

    def received(self, peer: str, size: int) -> None:
        """``size``: bytes of the data set. A peer that the configuration does not name counts as ``unknown``."""
        count = self.by_peer.get(peer) or self.by_peer[UNKNOWN]
        count[0] += 1
        count[1] += size

    def response(self, status: int, seconds: float) -> None:
        """``status`` went out, ``seconds`` after the last fragment of the data set was in."""
        responses = self._parent.responses
        responses[status] = responses.get(status, 0) + 1
        self._parent.store_seconds.observe(seconds)


class RouterMetrics:
    """All metrics of one router, in a registry of its own.

    Args:
        destinations: Names of the configuration; each has its series from the start, so that "none yet" is 0. So have
            statuses and reasons of refusals: a series that begins with 1 is no increase to who watches it.
        listeners: Names (the ``bind``) of the listeners.
        peers: Names of the configured peers.
        rules: Names of the rules in force; ``set_rules`` follows a reload.
        process: Also show open files, memory and processor time of this process, as Prometheus' own clients do.
    """

    def __init__(
        self,
        *,
        destinations: Collection[str] = (),
        listeners: Collection[str] = (),
        peers: Collection[str] = (),
        rules: Collection[str] = (),
        process: bool = True,
    ) -> None:
        self.associations_in = 0
        self.associations_out = 0
        self.responses = dict.fromkeys(map(int, Status), 0)
        self.store_seconds = Histogram(STORE_SECONDS)
        self.commit_seconds = Histogram(COMMIT_SECONDS)
        self.commit_instances = Histogram(COMMIT_INSTANCES)
        self.lag_seconds = Histogram(LAG_SECONDS)
        self._peers = tuple(peers)
        self._lanes: dict[str, DestinationMetrics] = {}
        self._strangers: Mapping[str, tuple[int, int, float]] = {}
        self._listeners: dict[str, ListenerCounters] = {}
        self._rules = dict.fromkeys(rules, 0)
        self._held = 0
        self._dead = 0
        self._spool_bytes = 0
        self._quarantined = 0
        self._plain: set[str] = set()
        self._audit = (0, 0.0)
        self._spool_free = 0
        self._expiries: dict[tuple[str, str], float] = {}
        self._reload_ok = True
        self._reload_at = 0.0
        for name in destinations:
            self.lane(name)
        for name in listeners:
            self.listener(name)
        self.registry = CollectorRegistry()
        self.registry.register(_Families(self))
        if process:
            ProcessCollector(registry=self.registry)

    # What others hold ------------------------------------------------------------------------------------------

    def lane(self, destination: str) -> DestinationMetrics:
        """The same object every time; ``destination`` is a name of the configuration."""
        found = self._lanes.get(destination)
        if found is None:
            found = self._lanes[destination] = DestinationMetrics(self)
        return found

    def listener(self, name: str) -> ListenerCounters:
        """The same object every time; ``name`` is a listener of the configuration."""
        found = self._listeners.get(name)
        if found is None:
            found = self._listeners[name] = ListenerCounters(self, self._peers)
        return found

    # What is set now and then ----------------------------------------------------------------------------------

    def set_queue(self, destination: str, depth: int, size: int, oldest: float) -> None:
        """Deliveries not yet done: how many, their bytes, the age of the oldest in seconds (0 if there is none)."""
        self.lane(destination).queue = (depth, size, oldest)

    def set_strangers(self, queues: Mapping[str, tuple[int, int, float]]) -> None:
        """The same of all destinations that something is owed to and that the configuration no longer has."""
        self._strangers = queues

    def set_held(self, held: int, dead: int) -> None:
        """Instances that wait for a person, and deliveries given up."""
        self._held = held
        self._dead = dead

    def set_spool(self, size: int, free: int) -> None:
        """Bytes used by the spool, bytes free on its disk."""
        self._spool_bytes = size
        self._spool_free = free

    def certificate_expires(self, listener: str, destination: str, at: float) -> None:
        """The certificate that we show there ends at ``at``, epoch seconds; one of the names is empty."""
        self._expiries[listener, destination] = at

    def listens_plain(self, listener: str) -> None:
        """A listener without TLS."""
        self._plain.add(listener)

    def set_audit(self, rows: int, seconds: float) -> None:
        """What the audit trail has still to tell, and the age of the oldest."""
        self._audit = (rows, seconds)

    def set_quarantined(self, records: int) -> None:
        """Damaged records that were set aside and are still there."""
        self._quarantined = records

    def set_rules(self, names: Collection[str]) -> None:
        """Other rules are in force: counts of those that stay go on, series of those that are gone end."""
        self._rules = {name: self._rules.get(name, 0) for name in names}

    def reloaded(self, succeeded: bool) -> None:
        """The rules were read, at the start or later. The time shown is that of the last success."""
        self._reload_ok = succeeded
        if succeeded:
            self._reload_at = time.time()

    # What happens ----------------------------------------------------------------------------------------------

    def decided(self, decision: Decision) -> None:
        """Count the rules that matched one instance; not one that a reload has removed in the meantime."""
        counts = self._rules
        for rule in decision.rules:
            if rule in counts:
                counts[rule] += 1

    def rule_matches(self) -> dict[str, int]:
        """How often each rule in force has matched."""
        return dict(self._rules)

    def commit(self, seconds: float, instances: int) -> None:
        """One group was made durable: how long it took, how many instances shared it."""
        self.commit_seconds.observe(seconds)
        self.commit_instances.observe(instances)

    def loop_lag(self, seconds: float) -> None:
        """The event loop came back this late."""
        self.lag_seconds.observe(seconds)

    def render(self) -> bytes:
        """The text of ``/metrics`` (``CONTENT_TYPE``). Milliseconds with many destinations: call it in a thread."""
        return generate_latest(self.registry)

    async def exposition(self) -> bytes:
        """``render``, in a thread."""
        return await asyncio.to_thread(self.render)

    # For the collector -----------------------------------------------------------------------------------------

    def families(self) -> Iterator[Metric]:
        yield from self._receiving()
        yield from self._delivering()
        yield from self._keeping()

    def _receiving(self) -> Iterator[Metric]:
        gauge = GaugeMetricFamily("dicom_router_associations", "Open associations", labels=["direction"])
        gauge.add_metric(["in"], self.associations_in)
        gauge.add_metric(["out"], self.associations_out)
        yield gauge
        rejected = CounterMetricFamily(
            "dicom_router_associations_rejected", "Associations refused", labels=["listener", "reason"]
        )
        instances = CounterMetricFamily(
            "dicom_router_instances_received", "Instances received", labels=["listener", "peer"]
        )
        size = CounterMetricFamily(
            "dicom_router_received_bytes", "Bytes of data sets received", labels=["listener", "peer"]
        )
        for name, listener in list(self._listeners.items()):
            for reason, count in list(listener.rejections.items()):
                rejected.add_metric([name, reason], count)
            for peer, (number, octets) in listener.by_peer.items():
                instances.add_metric([name, peer], number)
                size.add_metric([name, peer], octets)
        yield rejected
        yield instances
        yield size
        responses = CounterMetricFamily("dicom_router_store_responses", "C-STORE-RSP sent", labels=["status"])
        for status, count in list(self.responses.items()):
            responses.add_metric([f"0x{status:04X}"], count)
        yield responses
        yield _histogram("dicom_router_store_seconds", "Last fragment in to response out", self.store_seconds)

    def _delivering(self) -> Iterator[Metric]:
        lanes = list(self._lanes.items())
        outcomes = CounterMetricFamily(
            "dicom_router_deliveries", "Attempts by how they ended", labels=["destination", "outcome"]
        )
        early = CounterMetricFamily(
            "dicom_router_cut_through",
            "Large objects sent on while they still arrived, by how that ended",
            labels=["destination", "outcome"],
        )
        size = CounterMetricFamily("dicom_router_delivered_bytes", "Bytes delivered", labels=["destination"])
        seconds = HistogramMetricFamily(
            "dicom_router_delivery_seconds", "Answered to delivered", labels=["destination"]
        )
        for name, lane in lanes:
            for outcome, count in lane.outcomes.items():
                outcomes.add_metric([name, outcome], count)
            for outcome, count in lane.early.items():
                early.add_metric([name, outcome], count)
            size.add_metric([name], lane.bytes)
            seconds.add_metric([name], lane.seconds.buckets(), lane.seconds.total)
        yield outcomes
        yield early
        yield size
        yield seconds

        for name, queue in self._strangers.items():
            lanes.append((name, stranger := DestinationMetrics(self)))
            stranger.queue, stranger.is_up = queue, False

        def gauge(name: str, text: str, value: Callable[[DestinationMetrics], float]) -> GaugeMetricFamily:
            family = GaugeMetricFamily(name, text, labels=["destination"])
            for destination, lane in lanes:
                family.add_metric([destination], value(lane))
            return family

        yield gauge("dicom_router_queue_depth", "Deliveries not yet done", lambda lane: lane.queue[0])
        yield gauge("dicom_router_queue_bytes", "Bytes not yet delivered", lambda lane: lane.queue[1])
        yield gauge("dicom_router_queue_oldest_seconds", "Age of the oldest delivery", lambda lane: lane.queue[2])
        yield gauge("dicom_router_destination_up", "1 unless the last attempts failed", lambda lane: lane.is_up)
        yield gauge("dicom_router_destination_paused", "1 if an operator paused it", lambda lane: lane.is_paused)

    def _keeping(self) -> Iterator[Metric]:
        yield GaugeMetricFamily("dicom_router_held_instances", "Instances that wait for a person", self._held)
        yield GaugeMetricFamily("dicom_router_dead_letters", "Deliveries given up, kept and replayable", self._dead)
        yield GaugeMetricFamily("dicom_router_audit_queue_depth", "Audit events not yet told", self._audit[0])
        yield GaugeMetricFamily("dicom_router_audit_oldest_seconds", "Age of the oldest of them", self._audit[1])
        yield GaugeMetricFamily("dicom_router_quarantined_records", "Damaged records set aside", self._quarantined)
        yield GaugeMetricFamily("dicom_router_spool_bytes", "Bytes used by the spool", self._spool_bytes)
        yield GaugeMetricFamily("dicom_router_spool_free_bytes", "Bytes free on the spool's disk", self._spool_free)
        yield _histogram(
            "dicom_router_commit_seconds", "From the last fragment to the answers of a group", self.commit_seconds
        )
        yield _histogram("dicom_router_commit_instances", "Instances that share a sync", self.commit_instances)
        matches = CounterMetricFamily("dicom_router_rule_matches", "Instances that a rule matched", labels=["rule"])
        for rule, count in list(self._rules.items()):
            matches.add_metric([rule], count)
        yield matches
        yield GaugeMetricFamily(
            "dicom_router_config_last_reload_successful", "0 if the last reload was refused", float(self._reload_ok)
        )
        yield GaugeMetricFamily(
            "dicom_router_config_last_reload_timestamp_seconds", "When the rules in force were read", self._reload_at
        )
        expires = GaugeMetricFamily(
            "dicom_router_certificate_expires_seconds",
            "Until our certificate ends; negative when it has",
            labels=["listener", "destination"],
        )
        plain = GaugeMetricFamily(
            "dicom_router_listener_plain", "1 where DICOM is spoken without TLS", labels=["listener"]
        )
        for name in self._listeners:
            plain.add_metric([name], float(name in self._plain))
        yield plain
        now = time.time()
        for names, at in list(self._expiries.items()):
            expires.add_metric(names, at - now)
        yield expires
        yield _histogram("dicom_router_event_loop_lag_seconds", "How late the event loop came back", self.lag_seconds)
        build = GaugeMetricFamily("dicom_router_build_info", "Always 1", labels=["version", "python"])
        build.add_metric([__version__, platform.python_version()], 1)
        yield build


class _Families(Collector):
    def __init__(self, metrics: RouterMetrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        return self._metrics.families()


def _histogram(name: str, text: str, histogram: Histogram) -> HistogramMetricFamily:
    return HistogramMetricFamily(name, text, buckets=histogram.buckets(), sum_value=histogram.total)
