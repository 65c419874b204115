"""One router, put together: the only place that knows everybody. Start it, let it run, close it."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial

from router.app.alerts import Alerts
from router.app.certificates import COLLECTOR, CertificatesInForce
from router.app.config import Config, is_loopback
from router.app.control import RouterControl
from router.app.held import HeldInstances
from router.app.housekeeping import Housekeeping
from router.app.ids import IdSource
from router.app.intake import StoreIntake
from router.app.known import KnownInstances
from router.app.recovery import reconcile
from router.app.rules_in_force import RulesInForce, state_of
from router.app.workers.told import socket_of, told_routes
from router.audit.sinks import CollectorSink, FileSink, Sink
from router.audit.trail import Trail
from router.delivery.dicom_sender import DicomSender
from router.delivery.folder_sender import FolderSender, Hanging
from router.delivery.lane import Lane
from router.delivery.memory import Budget
from router.delivery.sender import Pair, Sender
from router.errors import LedgerError, RouterError, SpoolError, fault_location
from router.ledger import SqliteLedger
from router.model import ALONE, Decision, Destination, InstanceInfo, Location, Share, format_id
from router.net.admission import Gate
from router.net.listener import ListeningServer
from router.net.occupancy import Occupancy
from router.net.tls import Credentials
from router.observe.logs import get_logger
from router.observe.loop_lag import LoopLag
from router.observe.metrics import RouterMetrics
from router.ports import Log
from router.routing import RuleSet
from router.routing import load as load_rules
from router.services.acceptor import serving
from router.spool import Spool
from router.web.admin import create_app
from router.web.server import AdminServer


class House:
    """Implements ``ports.Admission``: what the disk and the shutdown say of new associations."""

    def __init__(self, spool: Spool) -> None:
        self.spool = spool
        self.failed = False

    def refusal(self) -> tuple[int, int, int, str] | None:
        if self.failed:
            return 2, 3, 1, "storage_failed"
        if self.spool.below_associations_floor():
            return 2, 3, 1, "disk_full"
        return None


def sender_for(
    destination: Destination, log: Log, credentials: Credentials | None = None
) -> Callable[[Sequence[Pair]], Awaitable[Sender]]:
    """How a lane reaches its destination."""
    if destination.kind == "file":
        hanging: Hanging = set()
        return lambda pairs: FolderSender.open(destination, hanging)
    return lambda pairs: DicomSender.open(destination, pairs, log, credentials)


class Router:
    """Made by ``start``. ``failed`` is set when the disk or the ledger failed: then close and leave."""

    def __init__(
        self, config: Config, log: Log, share: Share = ALONE, *, fresh: bool = False, occupancy: Occupancy | None = None
    ) -> None:
        self.config = config
        self.log = log
        self.share = share
        self.fresh = fresh
        self._occupancy = occupancy
        self.loop = asyncio.get_running_loop()
        self.started = time.time()
        self.failed = asyncio.Event()
        self.failure = ""
        self.draining = False
        self.listeners: list[ListeningServer] = []
        self.lanes: dict[str, Lane] = {}
        self.rules: RulesInForce
        self.certificates: CertificatesInForce
        self.spool: Spool
        self.ledger: SqliteLedger
        self.intake: StoreIntake
        self.metrics: RouterMetrics
        self.gate: Gate
        self.house: House
        self.admin: AdminServer | None = None
        self.held: HeldInstances
        self.trail: Trail | None = None
        self.alerts: Alerts | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._closed = False

    @classmethod
    async def start(
        cls, config: Config, share: Share = ALONE, *, fresh: bool = False, occupancy: Occupancy | None = None
    ) -> Router:
        """Everything up and listening when this returns.

        Args:
            share: Of one of several processes; the configuration is then this process's part of it.
            fresh: The ledger was empty before this process and its siblings began.
            occupancy: Counts associations, of this process and its siblings; None: it has none.

        Raises:
            ConfigError: The rules are wrong.
            RouterError: Spool, ledger or a port cannot be had; the message says what to do.
        """
        log = get_logger() if share.alone else get_logger(worker=share.worker)
        router = cls(config, log, share, fresh=fresh, occupancy=occupancy)
        try:
            await router._start()
        except BaseException:
            await router.close(grace=0)
            raise
        return router

    async def _start(self) -> None:
        config, log = self.config, self.log
        names = [destination.name for destination in config.destinations]

        def load() -> RuleSet:
            return load_rules(
                config.rules_folder,
                names,
                on_no_match=config.on_no_match,
                arrivals=config.arrivals,
                failed=self._rules_failed,
            )

        rules_read = state_of(config.rules_folder)
        rules = load()
        for warning in (*config.warnings, *rules.warnings):
            log.warning("configuration", warning=warning)
        self.metrics = RouterMetrics(
            destinations=names,
            listeners=[listener.name for listener in config.listeners],
            peers=[peer.name for peer in config.peers],
            rules=[rule.name for rule in rules.rules],
        )
        self.metrics.reloaded(True)
        self.certificates = CertificatesInForce(config, expires=self.metrics.certificate_expires, log=log)
        self._open_storage()
        self.rules = RulesInForce(
            rules,
            load=load,
            log=log,
            reloaded=self.metrics.reloaded,
            announce=lambda fresh: self.ledger.rules_in_force(fresh.version),
            changed=self._rules_changed,
        )
        budget = Budget(config.limits.window_memory)
        for destination in config.destinations:
            self.lanes[destination.name] = Lane(
                destination,
                ledger=self.ledger,
                spool=self.spool,
                open_sender=sender_for(destination, log, self.certificates.destinations.get(destination.name)),
                metrics=self.metrics.lane(destination.name),
                log=log,
                limits=config.limits,
                budget=budget,
                random=random.random,
                damaged=self._damaged,
            )
        known = None
        if self.share.alone:  # else others receive too
            known = KnownInstances(self.ledger.sop_instances(), self.ledger.instances())
        self.intake = StoreIntake(
            loop=self.loop,
            spool=self.spool,
            ledger=self.ledger,
            lanes=self.lanes,
            rules=self.rules,
            ids=IdSource(worker=self.share.worker, last=self.ledger.last_id(), clock=time.time),
            limits=config.limits,
            log=log,
            decided=self.metrics.decided,
            discarded=self._discarded,
            commit_observed=self.metrics.commit,
            held_by_others=self._held_by_others,
            changed_duplicate=config.on_changed_duplicate,
            known=known,
            budget=budget,
        )
        self.ledger.ready = self._ready
        self.ledger.start(self.loop, failed=self._ledger_failed)
        self.spool.start(
            self.loop,
            synced=self.intake.synced,
            failed=self._spool_failed,
            broken=self._spool_broken,
        )
        await self._begin_audit()
        await self.ledger.rules_in_force(rules.version)
        self.held = HeldInstances(self)
        for name, reason in self.ledger.paused().items():
            if name in self.lanes:
                self.lanes[name].pause(reason)
        self._warn_of_strangers()
        self.house = House(self.spool)
        self.gate = Gate(config.limits, config.peers, self.house, self._occupancy)
        housekeeping = Housekeeping(
            spool=self.spool, ledger=self.ledger, lanes=self.lanes, metrics=self.metrics, settings=config.spool,
            log=log, share=self.share, known=known,
        )  # fmt: skip
        await housekeeping.gauges()
        control = RouterControl(self)
        if self.share.alone:
            self.admin = AdminServer(create_app(control, self.metrics), host=config.admin_host, port=config.admin_port)
        else:
            inner = create_app(control, self.metrics, told_routes(self))
            self.admin = AdminServer(inner, path=socket_of(config.data_dir, self.share.worker))
        await self.admin.start()
        for listener in config.listeners:
            server = ListeningServer(
                listener,
                config.limits,
                self.gate,
                serving(self.intake, log=log),
                metrics=self.metrics.listener(listener.name),
                log=log,
                shared=not self.share.alone,
                credentials=self.certificates.listeners.get(listener.name),
                alert=self._refused,
            )
            self.listeners.append(server)
            await server.start()
            if listener.tls is None:
                self.metrics.listens_plain(listener.name)
                if not is_loopback(listener.host):
                    log.warning(
                        "this listener speaks plain DICOM: whoever is on the way can read it", listener=listener.name
                    )
            log.info(
                "listening",
                listener=f"{listener.host}:{server.port}",
                ae_titles=list(listener.ae_titles),
                tls="off" if listener.tls is None else listener.tls.profile,
            )
        for lane in self.lanes.values():
            lane.start()
        if self.share.worker == 0:
            self.held.decide_again("started with other rules", held_by_others=True)
        self._tasks = [
            self.loop.create_task(housekeeping.run(), name="housekeeping"),
            self.loop.create_task(self.rules.watch(config.rules_folder, rules_read), name="rules"),
            self.loop.create_task(self.certificates.watch(), name="certificates"),
            self.loop.create_task(LoopLag(self.metrics.loop_lag).run(), name="loop lag"),
        ]
        if self.alerts is not None:
            self._tasks.append(self.loop.create_task(self.alerts.run(), name="alerts"))
        if self.trail is not None:
            self._tasks.append(self.loop.create_task(self.trail.run(), name="audit trail"))
        for task in self._tasks:
            task.add_done_callback(self._task_ended)
        port = self.admin.port if self.share.alone else config.admin_port
        log.info("ready", admin=f"{config.admin_host}:{port}", rules=rules.version)

    async def _begin_audit(self) -> None:
        """Each process of a node writes what it has to tell; the first one tells it."""
        settings, ledger = self.config.audit, self.ledger
        if settings.kind == "off":
            return
        self.alerts = Alerts(lambda facts: ledger.audit("alert", facts))
        if self.share.worker:
            return
        await ledger.audit("started", {})
        sink: Sink
        if settings.kind == "collector":
            sink = CollectorSink(settings.host, settings.port, self.certificates.collector[COLLECTOR])
        else:
            sink = FileSink(self.config.data_dir / "audit", settings.keep)
        self.trail = Trail(
            ledger, sink, node=self.config.node, destinations=self.config.destinations, log=self.log,
            waiting=self.metrics.set_audit,
        )  # fmt: skip

    async def _end_audit(self) -> None:
        """After everything else: what cannot be told now is told after the next start."""
        try:
            if self.alerts is not None:
                await self.alerts.flush(all_of_them=True)
            if self.trail is not None:
                await self.ledger.audit("stopped", {})
                await self.trail.close()
        except LedgerError:
            self.log.error("the end could not be written to the audit trail")

    def _refused(self, listener: str, reason: str, address: str, calling_ae: str) -> None:
        if self.alerts is not None:
            self.alerts.refused(listener, reason, address, calling_ae)

    def _open_storage(self) -> None:
        """Blocking: nothing is served yet."""
        folder = self.config.data_dir
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise RouterError(
                f"cannot use node.data_dir {folder}: {error.strerror}; it must be writable for this user"
            ) from error
        if folder.stat().st_mode & 0o077:
            self.log.warning("node.data_dir can be read by other users: chmod 700", folder=str(folder))
        share = self.share
        self.spool = Spool.open(folder / "spool", self.config.spool, log=self.log, share=share)
        try:
            self.ledger = SqliteLedger.open(
                folder / "ledger.db",
                node=self.config.node,
                log=self.log,
                share=share,
                audit=self.config.audit.kind != "off",
            )
        except RouterError:
            self.spool.close_files()
            raise
        self.ledger.fresh |= self.fresh
        self.spool.ask_for_moved(self.ledger.place_now)
        reconcile(self.spool, self.ledger, self.log, self.config.on_changed_duplicate)

    def _warn_of_strangers(self) -> None:
        """Deliveries to destinations that the configuration no longer has wait for ever: somebody should know."""
        counts = self.ledger.counts
        for name in counts.strangers(self.lanes):
            self.log.error(
                "deliveries wait for a destination that is not configured",
                destination=name,
                waiting=counts.open[name][0],
            )

    async def stuck(self, patience: float) -> str:
        """What makes no progress although there is work for it; empty if all does. Does not return while the ledger
        does not answer.

        Args:
            patience: Seconds that the disk may take for a group of records.
        """
        if self.spool.stuck_for > patience:
            return "the spool's disk does not answer"
        if not self.ledger.failed:
            with suppress(LedgerError):  # an answer too: no start gives it room, or makes another program let go of it
                await self.ledger.flush()
        return ""

    async def reload(self) -> list[str]:
        """Rules and certificates again, each only if it is right; gives the problems of both."""
        return [*await self.rules.reload(), *await self.certificates.reload()]

    # What parts report -------------------------------------------------------------------------------------

    def _discarded(self, info: InstanceInfo, decision: Decision) -> None:
        self.log_discarded(info, decision)
        self.ledger.discarded(info)

    def log_discarded(self, info: InstanceInfo, decision: Decision) -> None:
        self.log.info("instance discarded by a rule", rules=list(decision.rules), size=info.size, peer=info.origin.peer)

    def _rules_failed(self, error: Exception) -> None:
        """Our own fault; the object is held. Only the place is logged: a message may repeat a patient's value."""
        self.log.error("rules failed on an instance, it is held", where=fault_location(error))

    def _damaged(self, info: InstanceInfo, location: Location, reason: str) -> None:
        self.log.error("stored record damaged", instance=format_id(info.id), reason=reason)
        self.loop.run_in_executor(None, partial(self._set_aside, location))

    def _set_aside(self, location: Location) -> None:
        try:
            path = self.spool.quarantine(location)
        except (OSError, SpoolError) as error:
            self.log.error("damaged record could not be set aside", reason=type(error).__name__)
            return
        if path is not None:
            self.log.error("damaged record set aside", file=path.name)

    def _spool_failed(self, entries: Sequence[object], problem: SpoolError) -> None:
        self.intake.failed(entries, problem)

    def _spool_broken(self, problem: SpoolError) -> None:
        """In a thread of the spool, once: the disk failed, also when no group was under way."""
        self.loop.call_soon_threadsafe(self._storage_failed, str(problem))

    def _ledger_failed(self, problem: LedgerError) -> None:
        """In the ledger's thread."""
        self.loop.call_soon_threadsafe(self._storage_failed, str(problem))

    def _ready(self, destination: str) -> None:
        lane = self.lanes.get(destination)
        if lane is not None:
            lane.backlog()

    def _storage_failed(self, reason: str) -> None:
        self.failure = reason
        if hasattr(self, "house"):
            self.house.failed = True
        self.failed.set()

    def _rules_changed(self, rules: RuleSet) -> None:
        self.metrics.set_rules([rule.name for rule in rules.rules])
        self.held.decide_again("rules changed")

    def _held_by_others(self, instance: int) -> None:
        """It came while the rules changed, so those in force have not been asked of it."""
        if not self.draining:  # the next start asks
            self.held.decide_again("rules changed", held_by_others=True, since=instance)

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is not None:
            self.log.error("a background task failed", task=task.get_name(), exc_info=task.exception())

    # Ending ------------------------------------------------------------------------------------------------

    async def close(self, grace: float) -> None:
        """Drain: no new associations, open ones finish within ``grace`` seconds, leases go back, everything is
        committed."""
        if self._closed:
            return
        self._closed = True
        self.draining = True
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=2)
        await asyncio.gather(*(server.close(grace) for server in self.listeners))
        if hasattr(self, "intake"):
            deadline = self.loop.time() + max(grace, 1.0)
            while self.intake.open_receptions and self.loop.time() < deadline and not self.failed.is_set():
                await asyncio.sleep(0.01)
        await asyncio.gather(*(lane.close(grace) for lane in self.lanes.values()))
        if hasattr(self, "held"):
            await self.held.close()
        if self.admin is not None:
            await self.admin.close()
        if hasattr(self, "spool"):
            await self.spool.close()
        if hasattr(self, "ledger"):
            if not self.ledger.failed:
                await self._end_audit()
            await self.ledger.close()
