from collections.abc import Sequence

from router.ports import Buffer

def write_blocks(
    descriptor: int,
    buffers: Sequence[Buffer],
    offset: int,
    staging: Buffer,
    *,
    sync: bool = False,
    most: int = 1 << 30,
) -> tuple[int, int]: ...
