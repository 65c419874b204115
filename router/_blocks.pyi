from router.ports import Buffer

BLOCK_SIZE: int

class Gatherer:
    def append(self, data: Buffer) -> None: ...
    def take(self) -> list[Buffer]: ...
