"""What logs may not hold, and what must not happen when they cannot be written."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from router.errors import DeliveryError, SpoolError
from router.model import Status
from router.observe.logs import as_logged, configure_logging, get_logger
from router.observe.redaction import LONGEST, REDACTED, Redaction

CANARY = "CANARY^PATIENT"
SENT = "sent 1.3.6.1.4.1.5962.99.1.2280943358.716200484."
SOP = "1.3.6.1.4.1.5962.99.1.2280943358.716200484"


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_one_json_object_a_line_unless_a_terminal_reads() -> None:
    stream, terminal = io.StringIO(), Terminal()
    configure_logging("auto", stream=stream)
    get_logger(node="router-1").info("stored", size=5)
    (line,) = lines(stream)
    assert line["event"] == "stored"
    assert line["level"] == "info"
    assert line["node"] == "router-1"
    assert line["size"] == 5
    assert line["timestamp"].endswith("Z")
    assert list(line)[:3] == ["timestamp", "level", "event"]
    configure_logging("auto", stream=terminal)
    get_logger().info("stored", size=5)
    assert "stored" in terminal.getvalue()
    assert "{" not in terminal.getvalue()


def test_no_color_is_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    terminal = Terminal()
    configure_logging("console", stream=terminal)
    get_logger().warning("late", destination="pacs")
    assert "\x1b" not in terminal.getvalue()


def test_levels() -> None:
    stream = io.StringIO()
    configure_logging("json", level="warning", stream=stream)
    log = get_logger()
    log.debug("a")
    log.info("b")
    log.warning("c")
    log.error("d")
    assert [line["event"] for line in lines(stream)] == ["c", "d"]


@pytest.mark.parametrize("wrong", [{"format": "xml"}, {"level": "loud"}, {"uids": "some"}])
def test_a_setting_that_does_not_exist_is_told_with_those_that_do(wrong: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="is none of"):
        configure_logging(**wrong)


@pytest.mark.parametrize(
    "key",
    [
        "patient_name",
        "PatientName",
        "patient_id",
        "PatientID",
        "patient-birth-date",
        "accession",
        "AccessionNumber",
        "StudyDescription",
        "InstitutionName",
        "comment",
        "error_comment",
        "value",
        "dataset",
    ],
)
def test_names_of_patients_and_free_text_never_reach_a_log(key: str) -> None:
    stream = io.StringIO()
    configure_logging("json", uids="full", stream=stream)
    get_logger().info("stored", **{key: CANARY}, nested={key: [CANARY]}, listed=[{key: CANARY}])
    assert CANARY not in stream.getvalue()
    assert lines(stream)[0][key] == REDACTED


def test_uids_of_instances_are_hashed_and_those_of_the_standard_are_not() -> None:
    stream = io.StringIO()
    configure_logging("json", stream=stream)
    log = get_logger()
    log.info("stored", sop_instance=SOP, sop_class="1.2.840.10008.5.1.4.1.1.2", address="10.1.2.3:104", free=1.5)
    log.info(SENT, reason=f"{SOP}, then 2.25.123456789", seen=(SOP,))
    first, second = lines(stream)
    assert SOP not in stream.getvalue()
    assert "2.25.123456789" not in stream.getvalue()
    assert first["sop_class"] == "1.2.840.10008.5.1.4.1.1.2"
    assert first["address"] == "10.1.2.3:104"
    assert first["sop_instance"] in second["reason"], "the same UID has the same hash"
    assert second["seen"] == [first["sop_instance"]]


def test_a_site_may_have_uids_in_full() -> None:
    stream = io.StringIO()
    configure_logging("json", uids="full", stream=stream)
    get_logger().info("stored", sop_instance=SOP)
    assert lines(stream)[0]["sop_instance"] == SOP == as_logged(SOP)


def test_who_has_a_uid_can_learn_what_stands_for_it() -> None:
    stream = io.StringIO()
    configure_logging("json", key=b"k" * 32, stream=stream)
    get_logger().info("stored", sop_instance=SOP)
    assert lines(stream)[0]["sop_instance"] == as_logged(SOP) != SOP


def test_hashes_compare_with_the_same_key_only() -> None:
    assert Redaction(key=b"k" * 32).hash(SOP) == Redaction(key=b"k" * 32).hash(SOP)
    assert Redaction().hash(SOP) != Redaction().hash(SOP)


@given(st.lists(st.integers(0, 10**12), min_size=4, max_size=8), st.text(max_size=20), st.text(max_size=20))
def test_a_uid_is_found_wherever_it_stands(parts: list[int], before: str, after: str) -> None:
    uid = ".".join(map(str, [1, 3, *parts]))
    assert uid not in Redaction().text(f"{before} {uid} {after}")


def test_exceptions_say_where_and_what_kind_but_not_what_they_quote() -> None:
    stream = io.StringIO()
    configure_logging("json", stream=stream)
    try:
        try:
            int(CANARY)
        except ValueError as error:
            raise DeliveryError("no answer", destination="pacs") from error
    except DeliveryError as error:
        get_logger().error("failed", error=error, cause=error.__cause__)
        logging.getLogger("library").exception("failed")
        structlog.get_logger().exception("failed")
    assert CANARY not in stream.getvalue()
    ours, library, traced = lines(stream)
    assert ours["error"] == "DeliveryError: no answer"
    assert ours["cause"] == "ValueError"
    for line in (library, traced):
        assert "test_logs.py" in line["exception"]
        assert "DeliveryError: no answer" in line["exception"]
        assert "ValueError" in line["exception"]


def test_bytes_are_counted_not_shown() -> None:
    stream = io.StringIO()
    configure_logging("json", stream=stream)
    get_logger().info("refused", pdu=CANARY.encode())
    assert lines(stream)[0]["pdu"] == f"[{len(CANARY)} bytes]"


def test_libraries_log_the_same_way_and_without_what_they_put_into_their_texts() -> None:
    stream = io.StringIO()
    configure_logging("json", stream=stream)
    logging.getLogger("uvicorn.error").warning("about %s", CANARY)
    logging.getLogger("uvicorn.error").info("chatter")
    logging.getLogger("uvicorn.error").error(ValueError(CANARY))
    logging.getLogger("uvicorn.error").error("first line\nof %s", CANARY)
    callback = f"Exception in callback store('{CANARY}')\nhandle: <Handle store('{CANARY}')>"
    logging.getLogger("asyncio").error(callback)
    task = f"Task exception: <Task name='{CANARY}'>"
    logging.getLogger("asyncio").error(task)
    assert CANARY not in stream.getvalue()
    assert [(line["event"], line["level"], line["library"]) for line in lines(stream)] == [
        ("about %s", "warning", "uvicorn.error"),
        ("ValueError", "error", "uvicorn.error"),
        ("first line", "error", "uvicorn.error"),
        ("Exception in callback store", "error", "asyncio"),
        ("Task exception", "error", "asyncio"),
    ]


def test_setting_up_twice_does_not_write_twice() -> None:
    stream = io.StringIO()
    configure_logging("json", stream=io.StringIO())
    configure_logging("json", stream=stream)
    logging.getLogger("x").error("once")
    get_logger().error("once")
    assert len(lines(stream)) == 2


class FullDisk(io.StringIO):
    def write(self, text: str) -> int:
        raise OSError(28, "No space left on device")


def test_a_log_that_cannot_be_written_stops_nothing() -> None:
    configure_logging("json", stream=FullDisk())
    get_logger().info("stored")
    closed = io.StringIO()
    configure_logging("json", stream=closed)
    closed.close()
    get_logger().info("stored")
    logging.getLogger("library").error("still here")


def test_of_values_whose_text_is_not_ours_only_the_kind_is_written() -> None:
    stream = io.StringIO()
    configure_logging("json", stream=stream)

    @dataclass
    class Instance:
        patient_id: str = CANARY

    get_logger().info("odd", kind=SpoolError, number=1 + 2j, path=Path("a/b"), status=Status.SUCCESS, info=Instance())
    (line,) = lines(stream)
    assert (line["kind"], line["number"], line["path"], line["info"]) == ("SpoolError", "(1+2j)", "a/b", "[Instance]")
    assert CANARY not in stream.getvalue()


@pytest.mark.parametrize("key", ["password", "key_password", "KeyPassphrase", "api_token", "client-secret", "Cookie"])
def test_names_of_secrets_never_reach_a_log(key: str) -> None:
    stream = io.StringIO()
    configure_logging("json", uids="full", stream=stream)
    number = 471147114711  # longer than any run of digits in the line's own time
    get_logger().info("loaded", **{key: CANARY}, nested={key: CANARY.encode()}, listed=[{key: number}])
    assert CANARY not in stream.getvalue()
    assert str(number) not in stream.getvalue()


HOSTILE = {
    "a line of its own": "CT1\n2026-01-01 [error] disk failed",
    "a carriage return": "CT1\rall is well",
    "a title for the terminal": "\x1b]0;owned\x07",
    "colours": "\x1b[2J\x1b[31m",
    "an eight-bit control sequence": "\x9b2J",
    "from right to left": "CT1\u202egnp.exe",
    "nothing to see": "C\u200bT1",
    "a line separator": "CT1\u2028CT2",
    "a lone surrogate": "CT\udcff",
    "a NUL": "CT1\0",
    "delete": "CT1\x7f",
}


@pytest.mark.parametrize("format", ["json", "console"])
@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_what_a_peer_says_cannot_leave_its_place_in_the_line(format: str, text: str) -> None:
    stream = io.StringIO()
    configure_logging(format, stream=stream)
    get_logger().info("association rejected", calling_ae=text, listed=[text], nested={text: text}, sop_instance=text)
    configure_logging(format, uids="full", stream=stream)
    get_logger().info("association rejected", calling_ae=text, sop_instance=text)
    get_logger().warning(text)
    logging.getLogger("library").warning(text)
    try:
        raise DeliveryError(text)
    except DeliveryError:
        get_logger().error("failed", exc_info=True)
    written = stream.getvalue()
    assert written.count("\n") == len(written.splitlines()) == 5
    assert all(line.isprintable() for line in written.splitlines()), "as it stands in the file"
    if format == "json":
        for line in lines(stream):
            assert all(value.isprintable() for value in line.values() if isinstance(value, str)), "as a reader shows it"


def test_long_texts_are_shortened() -> None:
    stream = io.StringIO()
    configure_logging("json", stream=stream)
    get_logger().info("said", text="x" * 10**6, escaped="\n" * 10**6)
    (line,) = lines(stream)
    assert line["text"].endswith(f"({10**6 - LONGEST} more)")
    assert len(stream.getvalue()) < 8 * LONGEST
