from collections.abc import Sequence

from router.model import Decision, InstanceInfo
from router.ports import Buffer

MAGIC: bytes
HEADER_SIZE: int
FOOTER_SIZE: int
META_LIMIT: int
ALIGNMENT: int
ALIGNED_SIZE: int

def encode_meta(info: InstanceInfo, decision: Decision) -> bytes: ...
def encode_header(
    info: InstanceInfo, meta: bytes, *, epoch: int, synced: int, flags: int = 0, data_offset: int
) -> bytes: ...
def encode_footer(epoch: int, number: int, checksum: bytes) -> bytes: ...
def encode_record(
    info: InstanceInfo, decision: Decision, chunks: Sequence[Buffer], *, epoch: int, synced: int
) -> tuple[list[Buffer], int]: ...
