"""A message as a syslog line (RFC 5424 §6), and as a frame of a TLS stream (RFC 5425 §4.3)."""

from __future__ import annotations

import re
from datetime import UTC, datetime

FACILITY = 10
"""Security and authorization."""
NOTICE, WARNING = 5, 4
MESSAGE_ID = "DICOM+RFC3881"
"""PS3.15 §A.6."""
_UNFIT = re.compile(r"[^\x21-\x7e]")


def line(xml: str, *, at: float, host: str, application: str, process: int, severity: int) -> bytes:
    """``<PRI>1 TIME HOST APP PROCESS MSGID - BOM XML``: one line, as ``messages.render`` gives the XML.

    Args:
        at: Epoch seconds.
    """
    moment = datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    head = (
        f"<{FACILITY * 8 + severity}>1 {moment} {_name(host, 255)} {_name(application, 48)} {process} {MESSAGE_ID} - "
    )
    return head.encode() + b"\xef\xbb\xbf" + xml.encode("utf-8", "replace")


def frame(message: bytes) -> bytes:
    """Octet counting."""
    return b"%d %s" % (len(message), message)


def _name(text: str, longest: int) -> str:
    return _UNFIT.sub("", text)[:longest] or "-"
