"""Places that belong to other users: refused before any work is done, and nothing that lies there is lost."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from datasets.catalog import has_files, has_lists
from datasets.list_building import make_lists
from datasets.list_pairing import list_image_tree
from datasets.lists import read_list
from datasets.noise_files import write_noisy_labels
from training.run.config import check_folder
from utils.errors import UserError
from utils.files import check_places, write_json
from utils.output_folder import Writer, _this_host, check_output, new_folder, replaced_output
from utils.run_lock import remove_temporary_files

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX permissions")
NOBODY = 65534
IS_ROOT = sys.platform != "win32" and os.geteuid() == 0
NOTES = Writer("notes", "notes.json", keys=("pages",), others=("cover.txt",))


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that every user can look into; pytest's own are closed to others."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    for path in (folder, *folder.rglob("*")):
        if path.is_dir():
            path.chmod(0o755)
    shutil.rmtree(folder)


def refusal(work: Callable[[], object]) -> str:
    """What is refused where ``work`` is done by a user who owns nothing: the file that is named, or the message.

    Who is not root is refused his own folders, too, once they are closed.
    """
    if not IS_ROOT:
        return _named(work)
    source, sink = os.pipe()
    child = os.fork()
    if not child:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
        try:
            os.write(sink, _named(work).encode())
        except BaseException as error:
            os.write(sink, repr(error).encode())
        os._exit(0)
    os.close(sink)
    with open(source, encoding="utf-8") as answer:
        text = answer.read()
    os.waitpid(child, 0)
    return text


def _named(work: Callable[[], object]) -> str:
    try:
        work()
    except PermissionError as error:
        return str(error.filename)
    except UserError as error:
        return str(error)
    return ""


def close(*folders: Path) -> None:
    """Let nobody write into folders: neither who owns them nor, as everybody is root's other, anybody else."""
    for folder in folders:
        folder.chmod(0o555)


def write(folder: Path, pages: bool = True) -> None:
    with replaced_output(folder, NOTES) as partial:
        if pages:
            (partial / "pages").mkdir()
            (partial / "pages/1.txt").write_text("page")
        write_json(partial / "notes.json", {"pages": 1})


def content(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_the_folder_is_named_that_is_not_ones_own(place):
    inner = place / "a/b"
    inner.mkdir(parents=True)
    inner.chmod(0o777)
    assert refusal(lambda: check_places([inner / "1.txt", inner / "c/d/2.txt"])) == ""
    close(inner)
    for path in ("1.txt", "c/d/2.txt"):
        assert refusal(lambda path=path: check_places([inner / path])) == str(inner)


@pytest.mark.skipif(not IS_ROOT, reason="needs two users")
def test_in_a_sticky_folder_the_file_of_another_user_is_named(place):
    place.chmod(0o1777)
    (place / "theirs.txt").touch()
    assert refusal(lambda: check_places([place / "mine.txt"])) == ""
    assert refusal(lambda: check_places([place / "mine.txt", place / "theirs.txt"])) == str(place / "theirs.txt")
    check_places([place / "theirs.txt"])


@pytest.mark.parametrize("is_known", [True, False], ids=["before the work", "at its end"])
def test_previous_output_stays_whole_where_a_part_of_it_belongs_to_another_user(place, is_known):
    write(place, pages=is_known)
    (place / "pages").mkdir(exist_ok=True)
    (place / ".lock").unlink()
    before = content(place)
    for path in (place, *(path for path in place.rglob("*") if path.is_file())):
        path.chmod(0o777)
    close(place / "pages")

    def overwrite() -> None:
        with replaced_output(place, NOTES) as partial:
            assert not is_known, "the work was begun"
            (partial / "pages").mkdir()
            (partial / "pages/1.txt").write_text("new")
            (partial / "notes.json").write_text('{"pages": 2}')

    assert refusal(overwrite) == str(place / "pages")
    assert content(place) == before


def test_the_lock_of_another_user_is_named(place):
    write(place)
    place.chmod(0o777)
    (place / ".lock").chmod(0o444)
    for folder in (place, place / "pages"):
        folder.chmod(0o777)
    assert refusal(lambda: check_output(place, NOTES)) == str(place / ".lock")


@pytest.mark.parametrize("closed", ["checkpoints", "log.txt", ".lock", "."])
def test_a_run_of_another_user_is_not_gone_on_with(place, closed):
    run = place / "train_log/disks/r"
    (run / "checkpoints").mkdir(parents=True)
    for name in ("checkpoints/last.pth", "log.txt", "config.json", "metrics.jsonl", ".lock"):
        (run / name).touch()
        (run / name).chmod(0o666)
    for folder in (run, run / "checkpoints"):
        folder.chmod(0o777)
    options: Any = SimpleNamespace(data=SimpleNamespace(dataset="disks"), run=SimpleNamespace(run_name=None))
    assert refusal(lambda: check_folder(options, run, place)) == ""
    (run / closed).chmod(0o555 if (run / closed).is_dir() else 0o444)
    assert refusal(lambda: check_folder(options, run, place)) == str(run / closed)


@pytest.mark.parametrize("closed", ["train/labels", "test", "."])
def test_files_in_a_closed_folder_are_not_taken_for_absent(place, closed, draw_many_disks):
    draw_many_disks(place, counts=(2, 1, 1))
    source = place / "datasets/disks"
    (place / "txt").chmod(0o777)
    listed = lambda: read_list(place / "txt/disks/train/train_gt.txt", place, place)  # noqa: E731
    assert len(list_image_tree(source)) == 8 and len(listed()) == 2 and has_files("disks", place)
    (source / closed).chmod(0)
    for work in (
        lambda: list_image_tree(source),
        lambda: make_lists("own", [source], root=place, say=lambda line: None),
    ):
        assert refusal(work) == str(source / closed)
    assert not (place / "txt/own").exists()
    message = refusal(listed)
    assert (f"{source / closed} is closed" in message) == (closed != "test") and "does not exist" not in message
    if closed == ".":
        assert refusal(lambda: has_files("disks", place)) == str(source)
        (place / "txt/disks").chmod(0)
        assert refusal(lambda: has_lists("disks", place)) == str(place / "txt/disks")


@pytest.mark.parametrize("closed", ["txt/disks/train", "datasets/disks/train"])
def test_labels_are_not_written_where_their_list_cannot_be(place, closed, draw_many_disks):
    draw_many_disks(place, counts=(2, 1, 1))
    for folder in ("txt/disks/train", "datasets/disks/train"):
        (place / folder).chmod(0o777)
    work = lambda name: write_noisy_labels("disks", f"flip:{name}", root=place, say=lambda line: None)  # noqa: E731
    assert work(0.1).is_file() and (place / "datasets/disks/train/labels_flip-0.1").is_dir()
    close(place / closed)
    assert refusal(lambda: work(0.2)) == str(place / closed)
    assert not (place / "datasets/disks/train/labels_flip-0.2").exists()


@pytest.mark.parametrize("kind", ["tmp", "old"])
def test_what_a_killed_process_of_another_user_left_stops_nobody(place, kind):
    left = place / f".labels_x.{_this_host()}-{2**22 - 1}-0123abcd.{kind}"
    left.mkdir()
    (left / "1.png").write_text("theirs")
    close(left)
    if kind == "old":
        (place / "labels_x").mkdir()  # in place again, so that the old one is to go
    place.chmod(0o777)

    def work() -> None:
        with new_folder(place / "labels_y") as fresh:
            (fresh / "1.png").write_text("mine")

    assert refusal(work) == "" and (place / "labels_y/1.png").read_text() == "mine"
    assert (left / "1.png").read_text() == "theirs"


@pytest.mark.skipif(not IS_ROOT, reason="needs two users")
def test_temporary_files_of_another_user_in_a_sticky_folder_stay(place):
    place.chmod(0o1777)
    (place / ".last.pth.12345.tmp").touch()
    assert refusal(lambda: remove_temporary_files(place)) == "" and (place / ".last.pth.12345.tmp").exists()
    remove_temporary_files(place)
    assert not (place / ".last.pth.12345.tmp").exists()


def test_lists_are_written_all_or_none(place, draw_many_disks):
    draw_many_disks(place, counts=(2, 1, 1))
    lists = place / "txt/disks"
    shutil.rmtree(lists)
    work = lambda: make_lists("disks", root=place, say=lambda line: None)  # noqa: E731
    assert len(work()) == 3
    for path in lists.rglob("*.txt"):
        path.unlink()
    (lists / "train").chmod(0o777)
    close(lists)
    assert refusal(work) == str(lists) and not any((lists / "train").iterdir())
