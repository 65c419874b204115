"""The program of one worker: ``python -m router.app.workers.worker PARENT``, started by the parent only."""

from __future__ import annotations

import gc
import os
import sys

from router.app.workers.errand import Errand, die_with_parent


def main() -> int:
    """Gives the exit code, as ``supervisor`` says."""
    if len(sys.argv) != 2 or not sys.argv[1].isdigit() or not die_with_parent(int(sys.argv[1])):
        return 1
    gc.disable()  # until ``set_up``
    errand = Errand.decode(sys.stdin.buffer.read())
    from router.app import supervisor
    from router.net.occupancy import OccupancyMemory, SharedOccupancy

    supervisor.set_up(errand.config)

    def ready() -> None:
        os.write(errand.ready, b"1")
        os.close(errand.ready)

    share, associations = errand.share, errand.config.limits.associations
    memory = OccupancyMemory(share.of, associations, errand.occupancy)
    occupancy = SharedOccupancy(memory, share.worker)
    return supervisor.run_loop(
        supervisor.serve(errand.config, share, fresh=errand.fresh, occupancy=occupancy, ready=ready)
    )


if __name__ == "__main__":
    sys.exit(main())
