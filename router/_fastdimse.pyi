from collections.abc import Container

from router._fastpdu import DataFragment

class Command:
    field: int
    message_id: int | None
    responded_id: int | None
    sop_class: str
    sop_instance: str
    sop_class_bytes: bytes
    sop_instance_bytes: bytes
    priority: int | None
    data_set_type: int
    status: int | None
    error_comment: str
    move_originator: str
    move_originator_id: int | None
    @property
    def has_data_set(self) -> bool: ...
    @property
    def is_response(self) -> bool: ...

def parse_command(data: bytes) -> Command: ...
def encode_c_store_rq(
    message_id: int, sop_class: str, sop_instance: str, move_originator: tuple[str, int] | None = None
) -> bytes: ...
def encode_c_echo_rq(message_id: int) -> bytes: ...
def encode_response(request: Command, status: int, comment: str = "") -> bytes: ...

class CommandReceived:
    context_id: int
    command: Command

class DataReceived:
    data: memoryview
    last: bool

class MessageAssembler:
    def __init__(self, contexts: Container[int], command_limit: int = 16384) -> None: ...
    @property
    def in_message(self) -> bool: ...
    def feed(self, fragment: DataFragment) -> CommandReceived | DataReceived | None: ...
    def data_ended(self) -> None: ...
