"""Trees of the Cell Tracking Challenge: frames and labels meet by film and number, and films stay whole."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import tifffile

from datasets.list_building import Lists, make_lists
from datasets.lists import read_checked_list
from utils.cli import UserError

SIDE = 32


def write(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, pixels, photometric="minisblack")


def numbered(seed: int) -> np.ndarray:
    """Squares numbered from 1 on, uint16, more of them in every second frame."""
    label = np.zeros((SIDE, SIDE), np.uint16)
    for number in range(1, 3 + seed % 2):
        label[8 * number : 8 * number + 5, 3 + seed % 9 : 9 + seed % 9] = number
    return label


def write_films(root: Path, films: str = "12", frames: int = 6, gold: tuple[int, ...] = (1, 4)) -> Path:
    """Films of frames 0, 1, …; GT of some, with markers and a table of tracks, and ST of all."""
    for film in films:
        for frame in range(frames):
            seed = 100 * int(film) + frame
            image = (60 + 90 * (numbered(seed) > 0) + np.random.default_rng(seed).normal(0, 5, (SIDE, SIDE))).clip(
                0, 255
            )
            write(root / f"0{film}/t{frame:03d}.tif", image.astype(np.uint8))
            write(root / f"0{film}_ST/SEG/man_seg{frame:03d}.tif", numbered(seed))
            write(root / f"0{film}_GT/TRA/man_track{frame:03d}.tif", numbered(seed))
            if frame in gold:
                write(root / f"0{film}_GT/SEG/man_seg{frame:03d}.tif", numbered(seed))
    (root / f"0{films[0]}_GT/TRA/man_track.txt").write_text("1 0 5 0\n")
    return root


def made(root: Path, **options: object) -> tuple[Lists, list[str]]:
    said: list[str] = []
    return make_lists("films", [root / "DIC-C2DH"], root=root, say=said.append, **options), said


def names(rows: list[tuple[Path, ...]]) -> list[str]:
    return [" ".join("/".join(path.parts[-2:]) for path in row) for row in rows]


def test_frames_meet_their_labels_by_film_and_number(tmp_path: Path):
    write_films(tmp_path / "DIC-C2DH")
    lists, said = made(tmp_path, labels=["GT"])
    rows = [row for rows in lists.values() for row in rows]
    assert sorted(names(rows)) == [
        f"0{film}/t00{frame}.tif SEG/man_seg00{frame}.tif" for film in "12" for frame in (1, 4)
    ]
    assert all(f"{row[0].parent}_GT" == str(row[1].parents[1]) for row in rows)
    assert "2 films of the Cell Tracking Challenge, 12 frames; labels are those of GT, left out 8 without" in said
    assert [{row[0].parent.name for row in rows} for rows in lists.values()] in ([{"01"}, {"02"}], [{"02"}, {"01"}])
    samples, _ = read_checked_list(tmp_path / "txt/films/train/train_gt.txt", tmp_path)
    assert len(samples) == 2 and all(sample.reading and sample.reading.objects for sample in samples)


def test_both_kinds_are_asked_for_and_may_be_two_annotators_or_the_noisy_one(tmp_path: Path):
    write_films(tmp_path / "DIC-C2DH")
    with pytest.raises(UserError, match=r"2 kinds: GT of 4 frames, ST of 12 frames; name the one that is meant"):
        made(tmp_path)
    with pytest.raises(UserError, match="has no labels of TRA; it has GT of 4 frames"):
        made(tmp_path, labels=["TRA"])
    lists, _ = made(tmp_path, labels=["GT"], noisy_labels="ST")
    clean, noisy = lists["train/train_gt.txt"], lists["train/train_noisyLabel.txt"]
    assert [row[0] for row in clean] == [row[0] for row in noisy]
    assert {row[1].parents[1].name[2:] for row in noisy} == {"_ST"}
    lists, _ = made(tmp_path, labels=["GT", "ST"], overwrite=True)
    assert sorted(len(row) for row in lists["train/train_gt.txt"]) == [2, 2, 2, 2, 3, 3]


def test_a_single_film_is_cut_into_blocks(tmp_path: Path):
    write_films(tmp_path / "DIC-C2DH", films="1", frames=10)
    lists, said = made(tmp_path, labels=["ST"], split="60/20/20")
    frames = [[int(re.sub(r"\D", "", row[0].stem)) for row in rows] for rows in lists.values()]
    assert frames == [[0, 1, 2, 3, 4, 5], [6, 7], [8, 9]]
    assert any(
        line.startswith("frames of a film are divided in blocks, in their order: frames at the cuts") for line in said
    )


def test_labels_of_planes_meet_the_planes_of_their_frame(tmp_path: Path):
    root = tmp_path / "DIC-C2DH"
    for frame in range(3):
        write(root / f"01/t00{frame}.tif", np.stack([numbered(frame + 7 * z).astype(np.uint8) * 9 for z in range(5)]))
    for frame, plane in ((0, 2), (0, 3), (2, 0)):
        write(root / f"01_GT/SEG/man_seg_00{frame}_00{plane}.tif", numbered(frame + 7 * plane))
    lists, _ = made(tmp_path, split="100/0")
    expected = [
        f"01/t00{frame}.tif::{plane} SEG/man_seg_00{frame}_00{plane}.tif" for frame, plane in ((0, 2), (0, 3), (2, 0))
    ]
    assert names(lists["train/train_gt.txt"]) == expected
    assert len(read_checked_list(tmp_path / "txt/films/train/train_gt.txt", tmp_path)[0]) == 3


def test_folders_that_divide_films_are_kept(tmp_path: Path):
    write_films(tmp_path / "DIC-C2DH/train")
    write_films(tmp_path / "DIC-C2DH/val", films="3")
    lists, _ = made(tmp_path, labels=["ST"])
    assert {name: len(rows) for name, rows in lists.items()} == {"train/train_gt.txt": 12, "val.txt": 6}


def test_results_are_labels_and_markers_are_not(tmp_path: Path):
    root = tmp_path / "DIC-C2DH"
    for frame in range(4):
        write(root / f"01/t00{frame}.tif", numbered(frame).astype(np.uint8) * 9)
        write(root / f"01_GT/TRA/man_track00{frame}.tif", numbered(frame))
    with pytest.raises(UserError, match=r"markers of the Cell Tracking Challenge \(TRA\).*get those in SEG"):
        made(tmp_path)
    for frame in range(4):
        write(root / f"01_ERR_SEG/mask00{frame}.tif", numbered(frame))
    lists, _ = made(tmp_path, split="100/0")
    assert names(lists["train/train_gt.txt"]) == [f"01/t00{n}.tif 01_ERR_SEG/mask00{n}.tif" for n in range(4)]
    write(root / "01_GT/SEG/man_seg002.tif", numbered(2))
    lists, _ = made(tmp_path, split="100/0", overwrite=True, noisy_labels="ERR_SEG")
    assert names(lists["train/train_gt.txt"]) == ["01/t002.tif SEG/man_seg002.tif"]
    assert names(lists["train/train_noisyLabel.txt"]) == ["01/t002.tif 01_ERR_SEG/mask002.tif"]
