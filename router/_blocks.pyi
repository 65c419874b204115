from collections.abc import Callable

from router.errors import DatasetError
from router.ports import Buffer

BLOCK_SIZE: int

class Gatherer:
    def __init__(
        self,
        look: Callable[[Buffer], None] | None = None,
        update: Callable[[Buffer], object] | None = None,
        beyond: Callable[[memoryview], None] | None = None,
        most: int = ...,
    ) -> None: ...
    def write(self, data: Buffer) -> None: ...
    def stop(self) -> None: ...
    def take(self) -> list[Buffer]: ...
    @property
    def size(self) -> int: ...
    @property
    def held(self) -> int: ...
    @property
    def error(self) -> DatasetError | None: ...
