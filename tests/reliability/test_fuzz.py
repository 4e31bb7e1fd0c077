"""Readers meet any bytes with a result or one message, never another exception; unharmed files are read."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
import torch

from datasets.augmentation import strong_augmentation
from datasets.image_io import read_image, read_label, read_scores
from datasets.label_noise import parse_spec
from datasets.label_values import LabelReading
from datasets.list_parts import read_lists_record
from datasets.lists import read_list
from datasets.transition_matrix import read_matrix
from evaluation.label_audit.error_table import LabelErrors
from evaluation.label_audit.true_scores import refusal
from evaluation.label_audit.verdict import read_audit
from evaluation.label_errors.decisions import read_decisions
from evaluation.label_errors.issue_files import IssueFolder, JudgedImage, LabelIssue, read_issues, write_issue_files
from evaluation.scores.map_folder import read_predictions
from training.budget.curve import Scores
from training.budget.plan import Length
from training.budget.session import Results
from training.budget.trials import Experiment
from training.fit import configure
from training.losses import parse_loss
from training.options import TrainingOptions, parse_given
from training.run.label_facts import read_manifest
from training.run.logger import read_metrics
from training.run.state import check_content
from utils.checkpoint import load_checkpoint, save_checkpoint
from utils.cli import UserError
from utils.files import write_json

INPUTS, INPUTS_SLOW = 12, 1000  # for each kind of file
SPEC_PARTS = ["flip", "sample", "dilate", "ntm", "bce", "dice", "tversky", "*", "+", ":", ",", "(", ")", "=", "alpha"]
SPEC_PARTS += ["0.3", "1e400", "nan", "-1", "0", "7", ".json", " ", "\0", "é", "inf", "rotate", "noise", "9" * 40]
OPTION_PARTS = [
    "--lr",
    "--crop",
    "--width",
    "--loss",
    "--igtt",
    "--resume",
    "--",
    "--no_flips",
    "--network",
    "=",
    "unet",
]
OPTION_PARTS += ["unet(width=3)", "1", "-1", "nan", "1e400", "auto", "", "\udcff", "9" * 40, "--batch_size=--", "🙂"]


def write_image(path: Path) -> None:
    cv2.imwrite(str(path), np.arange(400, dtype=np.uint8).reshape(20, 20))


def write_label(path: Path) -> None:
    cv2.imwrite(str(path), np.uint8(255) * (np.arange(400).reshape(20, 20) % 3 == 0).astype(np.uint8))


def write_scores(path: Path) -> None:
    tifffile.imwrite(path, np.linspace(0, 1, 400, dtype=np.float32).reshape(20, 20))


def write_list(path: Path) -> None:
    write_image(path.with_name("a.png"))
    path.write_text("# images\na.png\ta.png\na.png\ta.png\n")


def write_config(folder: Path) -> None:
    (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    config = {"dataset": "x", "network": "unet", "epochs": 3, "seed": 0, "labels": {}, "asked": {}, "environment": {}}
    config |= {
        "lr": 0.1,
        "augment": ["blur"],
        "tensorboard": True,
        "loss": "bce",
        "network_options": {},
        "preset": "quick",
    }
    (folder / "config.json").write_text(json.dumps(config | {"preset": "quick"}))


def write_checkpoint(path: Path) -> None:
    state = {"model": {"a": torch.ones(3)}, "optimizer": {"state": {}, "param_groups": []}, "scheduler": {"step": 3}}
    state |= {"scaler": {}, "epoch": 1, "best": {"epoch": 1, "figure": 0.5}, "threshold": 0.5, "pred_invert": False}
    save_checkpoint(path, state | {"rng": {}, "config": {"seed": 0, "epochs": 3}})


def write_issues(folder: Path) -> None:
    image = folder / "a.png"
    issue = LabelIssue(1, image, "too wide", 3.5, 5.0, 20, 0.9375, "crops/1.png", (2, 3, 4, 5))
    judged = {image: JudgedImage(folder / "l.png", "regions/a.tif", "predicted/a.png")}
    write_issue_files(IssueFolder(folder, folder / "list.txt", 1, None, LabelReading(), judged, [issue]))


def write_json_file(content: object) -> Callable[[Path], None]:
    return lambda path: path.write_text(json.dumps(content)) and None


def read_run_config(path: Path) -> object:
    return parse_loss(configure({"resume": str(path.parent), "device": "cpu"}).loss.spec, 1)


def repeat_run(path: Path) -> object:
    return parse_loss(configure({"config": str(path), "device": "cpu"}).loss.spec, 1)


def use_audit(path: Path) -> object:
    audit = read_audit(path)
    known = audit.get("errors_by_distance")
    return refusal(audit), None if known is None else LabelErrors.from_json(known)


def experiment_of(path: Path) -> Experiment:
    shared = {
        "train_list": path,
        "scored_on": path.parent / "val.txt",
        "data_list": None,
        "full": Length(epochs=1, repeat=1, steps=1),
    }
    return Experiment({}, TrainingOptions(), samples=[], folder=path.parent, root=path.parent, **shared)


def write_cells(path: Path) -> None:
    write_list(path.parent / "val.txt")
    cells = {"a": {"share": 1, "images": 4, "repeat": 1, "score": 0.5, "seconds": 2.5}}
    write_json(path, {"settings": experiment_of(path).settings(), "cells": cells})


def use_cells(path: Path) -> object:
    return Scores.of_records(list(Results.open(experiment_of(path)).trials.values()))


MATRIX = {"classes": 2, "matrix": [[0.9, 0.1], [0.2, 0.8]]}
PREDICTIONS = {"maps": {"a.png": "pred/a.tif"}, "threshold": 0.5, "inverted": False, "num_classes": 1, "sizes": {}}
DECISIONS = {"list": "list.txt", "issues": [{"image": "a.png", "id": 1, "action": "take"}]}
AUDIT = {"verdict": "learnable", "iou_ceiling": 0.9, "phi": None, "Q": [[0.9, 0.1], [0.2, 0.8]], "invert": False}
AUDIT |= {"bias": [{"kind": "too wide", "size": 1.5}]}
MASKS = {"pixels": [[[5, 3]] * 9] * 2, "labelled": [[[1, 2]] * 9] * 2, "outcomes": [[[1, 2, 3]] * 9] * 2}
AUDIT |= {"errors_by_distance": {"repair": None, "pixels": [[5, 3]] * 9, "labelled": [[1, 2]] * 9, "stand_in": MASKS}}
LISTS = {"asked": {"seed": 0}, "lists": {"val.txt": "0" * 64}}
# name → the file, how it is written, how it is read
FILES: dict[str, tuple[str, Callable[[Path], object], Callable[[Path], object]]] = {
    "png": ("a.png", write_image, read_image),
    "tiff": ("a.tif", write_scores, read_scores),
    "label": ("l.png", write_label, read_label),
    "list": ("list.txt", write_list, lambda path: read_list(path, say=lambda line: None)),
    "matrix": ("m.json", write_json_file(MATRIX), read_matrix),
    "manifest": ("manifest.json", write_json_file({"spec": "flip:0.3", "transition_matrix": {}}), read_manifest),
    "predictions": ("predictions.json", write_json_file(PREDICTIONS), read_predictions),
    "audit": ("audit.json", write_json_file(AUDIT), use_audit),
    "trainings of a budget": ("cells.json", write_cells, use_cells),
    "record of lists": ("make_lists.json", write_json_file(LISTS), lambda path: read_lists_record(path.parent)),
    "issues": ("issues.json", lambda path: write_issues(path.parent), read_issues),
    "table of issues": ("issues.csv", lambda path: write_issues(path.parent), read_issues),
    "decisions": ("decisions.json", write_json_file(DECISIONS), read_decisions),
    "config": ("run/config.json", lambda path: write_config(path.parent), read_run_config),
    "config to repeat": ("run/config.json", lambda path: write_config(path.parent), repeat_run),
    "metrics": ("metrics.jsonl", lambda path: path.write_text('{"epoch": 1, "loss": 2}\n' * 3), read_metrics),
    "checkpoint": ("c.pth", write_checkpoint, lambda path: check_content(load_checkpoint(path), path)),
}


def harm(content: bytes, draw: random.Random) -> bytes:
    """Bits turned, bytes cut out, put in, repeated, or the end cut off."""
    changed = bytearray(content)
    for _ in range(draw.choice((1, 1, 2, 8))):
        at = draw.randrange(len(changed) + 1)
        kind = draw.randrange(5)
        if kind == 0 and at < len(changed):
            changed[at] ^= 1 << draw.randrange(8)
        elif kind == 1:
            del changed[at : at + draw.randrange(1, 40)]
        elif kind == 2:
            changed[at:at] = draw.choice(
                (b"\0", b"[", b'"', b"\xff\xfe", b"-1", b"NaN", b"1e999", b"{}", b"\t", b"null")
            )
        elif kind == 3:
            changed[at:at] = changed[at : at + draw.randrange(1, 40)]
        else:
            del changed[at:]
    return bytes(changed)


@pytest.fixture
def inputs(request: pytest.FixtureRequest) -> int:
    return INPUTS_SLOW if request.config.getoption("--runslow") else INPUTS


def write_whole(kind: str, folder: Path) -> tuple[Path, Callable[[Path], Any]]:
    """A file of a kind that can be read, and what reads it."""
    name, write, read = FILES[kind]
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    write(path)
    read(path)
    return path, read


def read_or_refuse(read: Callable[[Path], Any], path: Path, what: str) -> None:
    """Read a file; the test fails where that ends in anything but a message for users."""
    try:
        read(path)
    except UserError as message:
        assert str(message).strip(), what
    except Exception as error:
        pytest.fail(f"{what}: {type(error).__name__}: {error}: {path.read_bytes()[:2000]!r}")


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.filterwarnings("ignore")
def test_a_harmed_file_is_read_or_refused_in_one_message(tmp_path, kind, inputs, capsys):
    path, read = write_whole(kind, tmp_path)
    whole = path.read_bytes()
    for seed in range(inputs):
        path.write_bytes(harm(whole, random.Random(f"{kind} {seed}")))
        read_or_refuse(read, path, f"{kind}, seed {seed}")


VALUES = [None, "x", "", [], {}, [1], {"a": 1}, True, -1, 0, 2.5, 1e308, float("nan"), float("inf"), 10**30, "\udc80"]


def replace_a_value(content: object, draw: random.Random) -> object:
    """Another value, of any type, in the place of one that a JSON file holds, or none."""
    holder, key = draw.choice(list(places(content)))
    if isinstance(holder, dict) and draw.random() < 0.25:
        del holder[key]
    else:
        holder[key] = draw.choice(VALUES)
    return content


def places(content: object) -> Iterator[tuple[Any, Any]]:
    """Everything that holds a value, with its key or index."""
    inner = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in inner:
        yield content, key
        yield from places(value)


@pytest.mark.parametrize("kind", [kind for kind, (name, *_) in FILES.items() if name.endswith(".json")])
@pytest.mark.filterwarnings("ignore")
def test_json_with_a_value_of_another_kind_is_read_or_refused_in_one_message(tmp_path, kind, inputs, capsys):
    path, read = write_whole(kind, tmp_path)
    whole = path.read_text()
    for seed in range(8 * inputs):
        path.write_text(json.dumps(replace_a_value(json.loads(whole), random.Random(f"{kind} {seed}"))))
        read_or_refuse(read, path, f"{kind}, seed {seed}")


def test_no_single_turned_bit_of_a_checkpoint_passes(tmp_path, inputs):
    path = tmp_path / "c.pth"
    write_checkpoint(path)
    whole = path.read_bytes()
    for seed in range(inputs):
        draw = random.Random(seed)
        harmed = bytearray(whole)
        harmed[draw.randrange(len(harmed))] ^= 1 << draw.randrange(8)
        path.write_bytes(harmed)
        with pytest.raises(UserError):
            load_checkpoint(path)


@pytest.mark.parametrize("parse", [parse_spec, parse_loss, lambda text: strong_augmentation([text])])
@pytest.mark.filterwarnings("ignore")
def test_any_spec_is_parsed_or_refused(parse, inputs):
    for seed in range(10 * inputs):
        draw = random.Random(seed)
        text = "".join(draw.choices(SPEC_PARTS, k=draw.randrange(1, 8)))
        try:
            parse(text)
        except (UserError, ValueError) as message:
            assert type(message) in (UserError, ValueError) and str(message), f"seed {seed}: {text!r}"
        except Exception as error:
            pytest.fail(f"seed {seed}: {text!r}: {type(error).__name__}: {error}")


def test_any_command_line_is_parsed_or_refused(inputs, capsys):
    for seed in range(3 * inputs):
        draw = random.Random(seed)
        line = draw.choices(OPTION_PARTS, k=draw.randrange(1, 6))
        try:
            parse_given(line)
        except SystemExit as ended:
            assert ended.code in (0, 2), f"seed {seed}: {line}"
        except UserError as message:
            assert str(message), f"seed {seed}: {line}"
        except Exception as error:
            pytest.fail(f"seed {seed}: {line}: {type(error).__name__}: {error}")
