"""Runs one router in this process, or the parent of several: the loop, the signals, the exit code.

SIGTERM drains (a second one stops now), SIGHUP reloads. Exit codes: 0 drained, 1 could not start, 3 the disk or the
ledger failed under us (nothing was acknowledged after it), 78 the configuration is wrong.
"""

from __future__ import annotations

import asyncio
import gc
import os
import resource
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from router.app.config import Config, load_config
from router.app.router import Router
from router.app.service_manager import ServiceManager
from router.errors import ConfigError, RouterError
from router.model import ALONE, Share
from router.net.occupancy import Occupancy
from router.observe.faults import log_of_loop, log_uncaught
from router.observe.log_key import kept_key
from router.observe.logs import configure_logging, get_logger

OPEN_FILES = 65536
STOP_NOW = signal.SIGUSR1
"""From the parent to a worker: what the second SIGTERM means to a router of one process."""
EXIT_OK = 0
EXIT_FAILED = 1
EXIT_STORAGE = 3
EXIT_CONFIG = 78

# The loop and the two commit threads share one interpreter lock. The default of 5 ms is how long a thread back from the
# disk would wait for a busy loop to yield; an answer would wait as long.
SWITCH_INTERVAL = 0.0005


def run(config_path: Path | None, env: Mapping[str, str] | None = None) -> int:
    """Run until told to stop; gives the exit code."""
    environment = os.environ if env is None else env
    try:
        config = load_config(config_path, environment)
    except ConfigError as error:
        for problem in error.problems:
            print(problem, file=sys.stderr)
        return EXIT_CONFIG
    set_up(config)
    manager = ServiceManager(os.environ)
    if config.workers > 1:
        # Imported where it is needed: one process has no use for it.
        from router.app.workers.parent import Parent

        return run_loop(Parent(config, manager).run())
    return run_loop(serve(config, manager=manager))


def set_up(config: Config) -> None:
    """What a process needs before its loop."""
    os.umask(0o077)
    _no_core()
    _log(config)
    sys.setswitchinterval(SWITCH_INTERVAL)
    # What has been imported stays. To look through it for garbage takes some 50 ms, for which everybody would wait; who
    # starts a router has not let Python look while it was imported either.
    gc.freeze()
    gc.enable()


def _log(config: Config) -> None:
    key, told = None, ""
    if config.log_uids == "hashed":
        try:
            key, told = kept_key(config.data_dir)
        except OSError as error:
            told = f"the key of the hashes of UIDs cannot be kept ({error.strerror}): they compare within this run only"
    configure_logging(config.log_format, level=config.log_level, uids=config.log_uids, key=key)
    log_uncaught()
    if told:
        get_logger().warning("hashes of UIDs in the log", told=told)


def _no_core() -> None:
    """Memory holds images of patients. A limit of 0 does not keep Linux from handing it to a program
    (``kernel.core_pattern``); one byte does, and is too little for a file as well."""
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    least = 1 if hard == resource.RLIM_INFINITY else min(1, hard)
    resource.setrlimit(resource.RLIMIT_CORE, (least, least))


def open_files() -> int:
    """Ask for as many open files as the system grants, up to ``OPEN_FILES``; gives what was granted."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft = wanted
    return soft


def run_loop(main: object) -> int:
    """One event loop for the process; uvloop where it exists."""
    try:
        import uvloop
    except ImportError:
        return asyncio.run(main)  # type: ignore[arg-type]
    return uvloop.run(main)  # type: ignore[arg-type]


async def serve(
    config: Config,
    share: Share = ALONE,
    *,
    fresh: bool = False,
    occupancy: Occupancy | None = None,
    ready: Callable[[], None] = lambda: None,
    manager: ServiceManager | None = None,
) -> int:
    """One router on this loop, until it is told to stop; gives the exit code.

    Args:
        occupancy: Counts the associations of all processes; None: this is the only one.
        ready: Called when it serves.
        manager: Told what becomes of the service; None: somebody else tells it.
    """
    manager = manager if manager is not None else ServiceManager({})
    log = get_logger() if share.alone else get_logger(worker=share.worker)
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(log_of_loop)
    stopping = asyncio.Event()
    now = asyncio.Event()

    def terminate() -> None:
        if stopping.is_set():
            now.set()
        stopping.set()

    def stop_now() -> None:
        now.set()
        stopping.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        # A worker may get its parent's and that of who stops the whole group: neither of them means "now".
        loop.add_signal_handler(number, terminate if share.alone else stopping.set)
    if not share.alone:
        loop.add_signal_handler(STOP_NOW, stop_now)
    granted = open_files()
    try:
        router = await Router.start(config, share, fresh=fresh, occupancy=occupancy)
    except ConfigError as error:
        for problem in error.problems:
            print(problem, file=sys.stderr)
        return EXIT_CONFIG
    except (RouterError, OSError) as error:
        log.error("could not start", reason=str(error))
        print(f"dicom-router: {error}", file=sys.stderr)
        return EXIT_FAILED
    log.info("open files", granted=granted, associations=config.limits.associations)
    reloads: set[asyncio.Task[object]] = set()

    async def reload_once() -> None:
        manager.reloading()
        await router.reload()
        manager.ready()

    def reload() -> None:
        task = loop.create_task(reload_once())
        reloads.add(task)
        task.add_done_callback(reloads.discard)

    loop.add_signal_handler(signal.SIGHUP, reload)
    ready()
    manager.ready()
    watching = loop.create_task(manager.watch(lambda: router.stuck(manager.interval or 0.0), log))
    failed = loop.create_task(router.failed.wait())
    stopped = loop.create_task(stopping.wait())
    await asyncio.wait({failed, stopped}, return_when=asyncio.FIRST_COMPLETED)
    watching.cancel()
    manager.stopping()
    if router.failed.is_set():
        stopped.cancel()
        log.error("stopping: storage failed; nothing was acknowledged after it", reason=router.failure)
        # Nothing more can be made durable, so there is nothing to finish: leave before anybody is misled.
        await router.close(grace=0)
        return EXIT_STORAGE
    failed.cancel()
    log.info("draining", grace=config.shutdown_grace)
    drain = loop.create_task(router.close(grace=config.shutdown_grace))
    at_once = loop.create_task(now.wait())
    await asyncio.wait({drain, at_once}, return_when=asyncio.FIRST_COMPLETED)
    if not drain.done():
        log.warning("stopping now")
        drain.cancel()
        await asyncio.wait({drain}, timeout=5)
        return EXIT_OK
    at_once.cancel()
    await drain
    log.info("stopped")
    return EXIT_OK
