"""The pilot of an audit: a training of a tenth of the steps, scored on images with clean labels as it goes."""

from __future__ import annotations

import contextlib
import io
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from datasets.lists import Sample, write_list
from evaluation.label_audit.pilot import Pilot
from training.fit import configure, fit
from utils.cli import UserError
from utils.files import read_jsonl
from utils.run_folder import REPO_ROOT
from utils.run_lock import run_lock

MAX_EPOCHS = 10  # after each of which it is scored
# Scores of averaged weights at a constant rate stand for those of a rate that has come down.
SETTINGS = {"schedule": "constant", "ema": 0.9, "audit": False, "tensorboard": False}
NAME = "audit_pilot_"  # and eight hexadecimal digits, of its run
# Options that audit_labels.py and main.py share.
DATA_OPTIONS = ("dataset", "num_classes", "ignore_index", "label_map", "in_channels", "channels", "data_root")
DATA_OPTIONS += ("label_noise", "unlabelled", "seed")
DIRECTIONS = {None: "auto", False: "off", True: "on"}


def make_pilot(audited: Mapping[str, Any], root: Path = REPO_ROOT) -> Pilot:
    """The pilot for labels that are read, and made noisy, as the options of ``audit_labels.py`` say."""
    given = {name: audited[name] for name in DATA_OPTIONS if audited[name] not in (None, ())}
    if "label_noise" not in given:
        given.pop("unlabelled", None)
    return partial(run_pilot, given=given, root=root)


def run_pilot(
    train: Sequence[Sample],
    held_out: Sequence[Sample],
    steps: int,
    invert: bool | None,
    *,
    given: Mapping[str, Any],
    root: Path = REPO_ROOT,
    say: Callable[[str], object] = print,
) -> list[tuple[int, float]]:
    """Train for ``steps`` steps and leave nothing behind; see `evaluation.label_audit.pilot`.

    Args:
        given: options of main.py: the data set, how its labels are read, their noise.
    Returns: steps made and IoU (K classes: mean IoU) on the held-out images after each epoch.
    """
    epochs = min(MAX_EPOCHS, steps)
    say(f"pilot: training for {steps} steps")
    with tempfile.TemporaryDirectory() as folder:
        lists = {"train_list": Path(folder) / "train.txt", "val_list": Path(folder) / "val.txt"}
        for path, samples in zip(lists.values(), (train, held_out), strict=True):
            others = [() if "label_noise" in given else sample.more_labels for sample in samples]
            rows = [(each.image, each.require_label(), *more) for each, more in zip(samples, others, strict=True)]
            write_list(path, rows, root)
        named = {name: str(path) for name, path in lists.items()}
        length = {"steps": steps, "epochs": epochs, "checkpoint_every": epochs, "pred_invert": DIRECTIONS[invert]}
        with own_run(root) as name, contextlib.redirect_stdout(io.StringIO()):
            run = fit(configure({**given, **named, **SETTINGS, **length, "run_name": name}, root), root)
            records = read_jsonl(run / "metrics.jsonl")
    # The IoU that is predicted is that of scores and a threshold alone.
    names = ("val/iou_without_offset", "val/iou", "val/miou")
    scores = [next((record[name] for name in names if name in record), float("nan")) for record in records]
    return [(round(steps * record["epoch"] / epochs), score) for record, score in zip(records, scores, strict=True)]


@contextlib.contextmanager
def own_run(root: Path) -> Iterator[str]:
    """The name of a run that is removed in the end, however that comes; with it go those that a kill has left."""
    for left in (root / "train_log").glob(f"*/{NAME}{'[0-9a-f]' * 8}"):
        with contextlib.suppress(UserError), run_lock(left):  # of a process that is alive: UserError
            shutil.rmtree(left)
    name = f"{NAME}{uuid.uuid4().hex[:8]}"
    try:
        yield name
    except BaseException as error:
        if hasattr(error, "__notes__"):
            error.__notes__ = ["the pilot was given up, and nothing of it is kept"]  # in place of how to go on with it
        raise
    finally:
        for run in (root / "train_log").glob(f"*/{name}"):
            shutil.rmtree(run)
