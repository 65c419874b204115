"""The oracle sees what it is there to see: lost, changed, astray, repeated without a kill, left behind."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path

import pytest

from router.dicom.part10 import file_meta
from router.model import InstanceInfo
from tests.spool.support import entry_of
from tests.torture.books import files
from tests.torture.oracle import FORGOTTEN, LATE, Oracle, Verdict, unfinished

DATA = b"an object"
DIGEST = hashlib.sha256(DATA).hexdigest()


class Scene:
    """One sender whose objects are for d1 and the files, one object that it meant to send, and arrivals by hand."""

    def __init__(self, folder: Path) -> None:
        self.files = folder / "files"
        self.files.mkdir()
        self.oracle = Oracle(folder / "books", destinations=2, routed=True, files=self.files)
        calling = self.oracle.calling(1)
        self.book = self.oracle.book("sender1", calling)
        self.book.intend("2.25.1", DATA)
        self.now = time.monotonic()

    def arrives(self, at: str = "d1", *, digest: str = DIGEST, uid: str = "2.25.1", seconds: float = 0.0) -> None:
        with self.oracle.arrivals[int(at[1:])].open("a") as ledger:
            ledger.write(f"{uid} {digest} {self.now + seconds:.4f}\n")

    def is_filed(self, data: bytes = DATA) -> None:
        info: InstanceInfo = entry_of(1, len(data)).info
        path = self.files / "ab" / f"{len(list(self.files.rglob('*.dcm')))}.dcm"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(
            file_meta(info).replace(info.sop_instance.encode(), b"2.25.1".ljust(len(info.sop_instance), b"\0")) + data
        )

    def judged(self) -> Verdict:
        return self.oracle.judge()


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


def test_everything_where_it_belongs_is_nothing_wrong(scene: Scene) -> None:
    scene.book.answered("2.25.1")
    assert not scene.oracle.drained()
    assert scene.oracle.lacking() == {"2.25.1"}
    scene.arrives()
    scene.is_filed()
    verdict = scene.judged()
    assert scene.oracle.drained()
    assert (verdict.wrong, verdict.deliveries, verdict.unasked, verdict.duplicates) == (0, 2, 0, 0)


def test_what_did_not_arrive_is_lost_at_a_peer_and_in_a_folder(scene: Scene) -> None:
    scene.book.answered("2.25.1")
    assert scene.judged().lost == 2
    scene.is_filed(b"half of it")
    verdict = scene.judged()
    assert (verdict.lost, verdict.changed) == (2, 1)


def test_an_object_that_no_rule_wants_there_is_astray(scene: Scene) -> None:
    scene.book.answered("2.25.1")
    scene.arrives("d1")
    scene.arrives("d0")
    scene.is_filed()
    verdict = scene.judged()
    assert (verdict.astray, verdict.lost, verdict.wrong) == (1, 0, 1)


def test_other_bytes_are_seen_even_of_what_was_never_answered(scene: Scene) -> None:
    scene.arrives(digest="0" * 64)
    verdict = scene.judged()
    assert (verdict.changed, verdict.unasked) == (1, 1)


def test_an_object_that_nobody_wanted_to_send_is_seen(scene: Scene) -> None:
    scene.arrives(uid="2.25.2")
    assert scene.judged().changed == 1


@pytest.mark.parametrize(
    ("kill", "unexplained"),
    [(None, 1), (0.1, 0), (-LATE / 2, 0), (-2 * LATE, 1), (FORGOTTEN + 1, 1), (FORGOTTEN + 3, 1)],
)
def test_what_comes_twice_must_have_come_just_before_a_kill(scene: Scene, kill: float | None, unexplained: int) -> None:
    scene.book.answered("2.25.1")
    scene.arrives()
    scene.arrives(seconds=FORGOTTEN + 2)
    if kill is not None:
        scene.oracle._kills.append(scene.now + kill)
    verdict = scene.judged()
    assert (verdict.duplicates, verdict.unexplained) == (1, unexplained)


def test_what_its_sender_sent_again_may_come_again_as_often(scene: Scene) -> None:
    for times in range(3):
        scene.arrives(seconds=10.0 * times)
    assert scene.judged().unexplained == 2
    scene.book.intend("2.25.1", DATA)
    verdict = scene.judged()
    assert (verdict.duplicates, verdict.resent, verdict.unexplained) == (2, 1, 1)


def test_files_of_which_only_a_part_is_there_are_seen(scene: Scene) -> None:
    scene.is_filed()
    (path,) = scene.files.rglob("*.dcm")
    whole = path.read_bytes()
    for size in (0, 100, 131, 150, len(whole) - 1):
        path.write_bytes(whole[:size])
        assert files(scene.files).get("2.25.1", []) != [DIGEST]
    path.write_bytes(whole)
    assert files(scene.files) == {"2.25.1": [DIGEST]}


def test_what_is_left_behind_is_seen(tmp_path: Path) -> None:
    for name in ("spool/0000000001.seg", "spool/lock", "ledger.db", "ledger.db-wal", "ledger.ballast"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    assert unfinished(tmp_path) == []
    (tmp_path / "spool" / "something.part").touch()
    (tmp_path / "ledger.db.damaged").touch()
    assert unfinished(tmp_path) == ["ledger.db.damaged", "spool/something.part"]
