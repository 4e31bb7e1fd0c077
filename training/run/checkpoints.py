"""What a run keeps of an epoch, written while the next one trains, and how a run that ends early is gone on with."""

from __future__ import annotations

import contextlib
import copy
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from datasets.segmentation import USUAL_PIXELS, SegmentationDataset
from training.run.logger import RunLogger
from training.run.state import TrainingState, checkpoint_content, has_checkpoint
from training.selection import Selection
from utils.background import BackgroundWriter
from utils.checkpoint import load_checkpoint, save_checkpoint, take_snapshot
from utils.cli import RunFailed, UserError
from utils.distributed import is_main, launcher, world_size
from utils.files import read_json, write_json
from utils.run_folder import CROSS_FIT, display_path, quoted

if TYPE_CHECKING:
    from training.data import TrainingData
    from training.options import TrainingOptions

CONFIG, DIVERGED = "config.json", "diverged"
MEMORY_ERRORS = re.compile(r"out of memory|can't allocate memory|bad_alloc|Unable to allocate", re.IGNORECASE)
FEWEST, OWN_IMAGES = 8, 32  # of training, and as many of validation, that the end of a run describes


@dataclass(frozen=True)
class Run:
    """What belongs to a run while it goes on: its folder, log, config, the thread that writes, and when it began."""

    folder: Path
    logger: RunLogger
    config: dict[str, Any]
    writer: BackgroundWriter
    started: float

    def saved_epochs(self) -> set[int]:
        """The epochs that have a numbered checkpoint, when all that was put has been written."""
        self.writer.wait()
        paths = (self.folder / "checkpoints").glob("epoch_*.pth")
        return {int(path.stem.removeprefix("epoch_")) for path in paths}


def show_pictures(run: Run, data: TrainingData, state: TrainingState, selection: Selection) -> None:
    """Put rows image | label | score | error of training and validation images into TensorBoard."""
    if run.logger.writer is None:
        return
    from training.run.pictures import Shown, picture_of, predict_some

    epoch, num_classes = state.epoch, data.train.num_classes
    decoder = state.scores.decoder(num_classes, state.loss.class_weights)

    def draw(name: str, shown: list[Shown]) -> None:
        run.logger.log_picture(name, picture_of(shown, num_classes, selection, decoder), epoch)

    for name, dataset in (("train", data.train), ("val", data.val)):
        if dataset is not None:
            shown = predict_some(state.predictor, dataset, state.device, state.precision)
            run.writer.put(f"{name} pictures {epoch}", partial(draw, name, shown))


def keep_own_images(run: Run, data: TrainingData, state: TrainingState) -> None:
    """Add to ``best`` and ``last`` how own images look to their networks, by which inference tells others.

    It is done once, when training is over: it costs a pass over some images, fewer where they are large.
    """
    from evaluation.prediction.unlikeness import learn_own_images

    run.writer.wait()
    folder, network = run.folder / "checkpoints", copy.deepcopy(state.predictor).eval()
    for epoch in sorted({state.best["epoch"], state.epoch}):
        names = [f"epoch_{epoch}"] + ["best"] * (epoch == state.best["epoch"]) + ["last"] * (epoch == state.epoch)
        paths = [path for path in (folder / f"{name}.pth" for name in names) if path.is_file()]
        contents = {path: load_checkpoint(path) for path in paths}
        network.load_state_dict(contents[paths[-1]]["model"])
        trained, held_out = _some_inputs(data.train), [] if data.val is None else _some_inputs(data.val)
        own = learn_own_images(network, trained, held_out, device=state.device, precision=state.precision)
        for path, content in contents.items():
            content["own_images"] = None if own is None else own.to_json()
            write_checkpoint(path, partial(dict, content))


def _some_inputs(dataset: SegmentationDataset) -> Iterator[Tensor]:
    """Network input (C, H, W) of images spread over a data set."""
    size = dataset.image(0).shape[:2]
    most = max(FEWEST, min(OWN_IMAGES, OWN_IMAGES * USUAL_PIXELS // math.prod(size)))
    for index in range(0, len(dataset), -(-len(dataset) // most)):
        pixels, scaling = dataset.scaled_pixels(index)
        yield torch.from_numpy(scaling(pixels))


def save_epoch(run: Run, state: TrainingState, selection: Selection, numbered: bool) -> None:
    """Have the checkpoints written that are due: numbered, ``best`` and, last of all, ``last``."""
    content = checkpoint_content(state, run.config, selection.threshold, selection.invert, selection.offset)
    snapshot = take_snapshot(content, state.device)
    due = [f"epoch_{state.epoch}"] if numbered else []
    due += ["best"] if state.best["epoch"] == state.epoch else []
    for name in (*due, "last"):
        path = run.folder / "checkpoints" / f"{name}.pth"
        run.writer.put(name, partial(write_checkpoint, path, snapshot))


def write_checkpoint(path: Path, snapshot: Callable[[], dict[str, Any]]) -> None:
    """Write what ``snapshot`` gives to ``path``; RunFailed where the disk does not take it."""
    try:
        save_checkpoint(path, snapshot())
    except (OSError, RuntimeError) as error:  # torch.save hides what the disk said in the latter
        reason = error.__context__ if isinstance(error.__context__, OSError) else error
        raise RunFailed(
            f"{path} could not be written: {reason}; what it held before is kept. Make room, or see to the folder"
        ) from error


def resume_command(folder: Path) -> str:
    """What to type to go on with a run, or with the cross-fit that it is a part of."""
    if world_size() == 1 and (folder.parent / CROSS_FIT).is_file():
        folder = folder.parent
    return f"{launcher()} main.py --resume {quoted(display_path(folder))}"


def how_to_go_on(folder: Path, saved: int, lr: float | None = None) -> str:
    """What to do after a run ended early.

    Args:
        saved: the last epoch whose checkpoint was handed to the disk.
        lr: a rate to go on with.
    """
    rate = "" if lr is None else f" --lr {lr:.3g}"
    if is_main() and not (folder / CONFIG).exists():
        return f"{display_path(folder / CONFIG)} is gone; where the run lies now: {launcher()} main.py --resume FOLDER"
    if has_checkpoint(folder) if is_main() else saved > 0:
        command = (
            f"{launcher()} main.py --resume {quoted(display_path(folder))}{rate}" if lr else resume_command(folder)
        )
        return f"finished epochs are kept; go on with: {command}"
    return "no epoch was finished, so there is nothing to resume: start the run anew" + (f" with{rate}" if rate else "")


def note_divergence(folder: Path, epoch: int) -> None:
    """Keep with the run that its loss was not finite, after which ``--resume`` takes another ``--lr``."""
    with contextlib.suppress(OSError, UserError):  # what went wrong first is what matters
        write_json(folder / CONFIG, {**read_json(folder / CONFIG), DIVERGED: {"epoch": epoch}})


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the host or the device had no memory left."""
    named = isinstance(error, RuntimeError) and MEMORY_ERRORS.search(str(error)) is not None
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or named


def out_of_memory(error: BaseException, options: TrainingOptions, advice: str) -> RunFailed:
    """The failure that names what to lower."""
    batch, crop = options.optimization.batch_size, options.augmentation.crop
    width = options.network.options.get("width")
    named_width = "--width" if width is None else f"--width {width}"
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    failure = RunFailed(
        f"out of memory: lower --batch_size {batch} (or raise --accumulate), --crop {crop} or {named_width}. "
        f"What was said: {reason[:200]}"
    )
    failure.add_note(advice)
    return failure
