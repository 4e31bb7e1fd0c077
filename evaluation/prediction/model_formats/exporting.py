"""Writing a trained run in another format, with a model card beside it."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from evaluation.prediction.model_card import CARD, TEXT, make_card, write_card
from evaluation.prediction.model_formats import FORMATS, IMAGES_OF
from evaluation.prediction.model_formats.trained import TrainedModel
from evaluation.prediction.predictor import find_checkpoint, load_network
from evaluation.prediction.settings import decide_settings
from models.blocks import fold_batch_norms
from utils.cli import UserError, one_of
from utils.files import content_digest
from utils.output_folder import Writer, files_below, replaced_output
from utils.run_folder import display_path, find_run

WRITER = Writer("export", CARD, keys=("export",), others=(TEXT,))


def export_run(
    train_dir: str | Path,
    to: str,
    which: str = "best",
    *,
    train_list: str | None = None,
    val_list: str | None = None,
    data_root: str | None = None,
    authors: Sequence[str] = (),
    license: str | None = None,
) -> Path:
    """Write a run's network into ``<run>/export/<format>/``; what an earlier export wrote there is replaced.

    Args:
        train_dir: run folder, a path or ``<dataset>/<run>``.
        to: a key of ``FORMATS``.
        which: checkpoint: ``best``, ``last`` or the number of a completed epoch.
        train_list: images that int8 is calibrated on; default: the run's.
        val_list: labelled images that int8 is judged by, and bioimageio shows the first of; default: the run's.
        data_root: folder that relative paths in lists start from; default: the run's.
        authors, license: of the model, for its card.
    Returns: the folder.
    Raises:
        UserError: no such run or checkpoint, an option that the format has no use for, a missing package, an export
            that differs from the network.
    """
    one_of(to, tuple(FORMATS), "--to")
    images = {"train_list": train_list, "val_list": val_list, "data_root": data_root}
    refuse_unused(to, images)
    run = find_run(train_dir)
    network, state, epoch = load_network(run, which)
    settings = decide_settings(state)
    checkpoint = find_checkpoint(run, which)
    network = fold_batch_norms(network.to(memory_format=torch.contiguous_format))
    model = TrainedModel(network, settings, run, checkpoint, state, **images, authors=tuple(authors), license=license)
    folder = run / "export" / to
    with replaced_output(folder, WRITER) as partial:
        check_room(partial, network)
        facts = FORMATS[to](partial, model)
        described = model.describe(to) | {"checked": facts}
        described["files"] = {name: content_digest(partial / name) for name in files_below(partial)}
        write_card(partial, make_card(run, state) | {"export": described})
        files = files_below(partial)
    print(f"{to} of epoch {epoch} → {display_path(folder)}: {', '.join(files)}", flush=True)
    for name, value in facts.items():
        print(f"{name.replace('_', ' ')}: {value}", flush=True)
    return folder


def refuse_unused(to: str, given: Mapping[str, str | None]) -> None:
    """Refuse options that do nothing with a format: name → value, None where it is not given."""
    for name, value in given.items():
        if value is not None and to not in IMAGES_OF[name]:
            readers = " and ".join(f"--to {each}" for each in IMAGES_OF[name])
            raise UserError(f"--{name} {value} does nothing with --to {to}: leave it out; it is for {readers}")


def check_room(folder: Path, network: torch.nn.Module) -> None:
    """Raise where a disk has no room for the weights: what writes them says nothing of that, or of which file."""
    needed = sum(weights.nbytes for weights in network.state_dict().values())
    if shutil.disk_usage(folder).free < needed:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), display_path(folder.parent))
