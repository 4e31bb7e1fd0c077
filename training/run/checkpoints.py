"""What a run keeps of an epoch: checkpoints, and pictures in TensorBoard; written while the next one trains."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from training.run.logger import RunLogger
from training.run.state import TrainingState, checkpoint_content
from training.selection import Selection
from utils.background import BackgroundWriter
from utils.checkpoint import save_checkpoint, take_snapshot
from utils.cli import RunFailed

if TYPE_CHECKING:
    from training.data import TrainingData


@dataclass(frozen=True)
class Run:
    """What belongs to a run while it goes on: its folder, log, config, and the thread that writes."""

    folder: Path
    logger: RunLogger
    config: dict[str, Any]
    writer: BackgroundWriter

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
