"""The labels of a list, corrected or fused on disk; what ``datasets/repair_labels.py`` does."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from datasets.image_io import read_label, stored_channels, write_image, write_label
from datasets.label_fusion import annotators_of, with_fusion
from datasets.label_noise import make_noisy_label, parse_repair
from datasets.labels import IGNORE
from datasets.list_checks import Expectation
from datasets.lists import (
    Sample,
    default_training_list,
    find_list,
    list_folder,
    read_checked_lists,
    tell_clean,
    with_clean_labels,
    write_list,
)
from datasets.noise_files import (
    NoiseSettings,
    channels_of_list,
    check_replaceable,
    name_files,
    training_command,
    write_noisy_labels,
)
from evaluation.label_audit.annotators import repairs_of_samples
from evaluation.label_audit.repair import choose_repair, labels_iou
from utils.cli import UserError
from utils.files import write_json
from utils.output_folder import new_folder
from utils.run_folder import REPO_ROOT, display_path

AUTO = "auto"


def repair_list(
    dataset: str,
    train_list: str | Path | None = None,
    *,
    clean_list: str | Path | None = None,
    spec: str = AUTO,
    num_classes: int = 1,
    ignore_index: int | None = None,
    label_map: str | None = None,
    data_root: str | None = None,
    root: Path = REPO_ROOT,
    say: Callable[[str], object] = print,
) -> Path | None:
    """Write the labels of a list with a correction, and the list that names them; the labels themselves stay.

    They equal those that training reads with ``--label_repair``, bit for bit.

    Args:
        clean_list: clean labels of some of the images, which ``auto`` chooses by.
        spec: the correction, see `datasets.label_noise.parse_repair`; ``auto``: see `choose_repair`.
        label_map: what the values of labels mean.
    Returns: the new list; None where ``auto`` finds that labels are better left as they are.
    Raises:
        UserError: ``auto`` without clean labels, a spec that makes noise, faults of the lists.
    """
    source = find_list(train_list or default_training_list(dataset, root=root), dataset, root)
    if spec != AUTO:
        parse_repair(spec, num_classes)
    elif clean_list is None:
        raise UserError("--label_repair auto is chosen by clean labels of some of the images: give --clean_list LIST")
    known: Sequence[Sample] = ()
    if clean_list is not None:
        clean = find_list(clean_list, dataset, root)
        expected = Expectation.of(num_classes, ignore_index, label_map)
        (listed, named), _ = read_checked_lists([source], expected, data_root, root, say=say, clean_list=clean)
        samples = with_clean_labels(listed.samples, source, named.samples, clean)
        say(tell_clean(samples, named.samples, clean))
        known = [sample for sample in samples if sample.clean_label is not None]
    chosen = _chosen_spec(known, spec, num_classes, say)
    if chosen is None:
        return None
    reading: dict[str, Any] = {
        "num_classes": num_classes,
        "ignore_index": ignore_index,
        "label_map": label_map,
        "data_root": data_root,
    }
    new_list = write_noisy_labels(dataset, chosen, source_list=source, root=root, repair=True, say=say, **reading)
    say(f"wrote {display_path(new_list)}")
    reading["in_channels"] = channels_of_list(new_list, data_root, root)
    say(f"train on it with: {training_command(dataset, new_list.stem, clean_list=clean_list, **reading)}")
    return new_list


def _chosen_spec(known: Sequence[Sample], spec: str, num_classes: int, say: Callable[[str], object]) -> str | None:
    """The correction to make, after a line on what it does to the labels whose clean ones are known."""
    labels = [read_label(sample.require_label(), reading=sample.reading) for sample in known]
    clean = [_read_clean(sample) for sample in known]
    if spec != AUTO:
        if known:
            before = labels_iou(labels, clean, num_classes)
            after = labels_iou(
                [make_noisy_label(label, spec, 0, "", num_classes) for label in labels], clean, num_classes
            )
            say(f"{spec}: IoU of {len(known)} labels with clean ones: before {before:.3f}, after {after:.3f}")
        return spec
    found = choose_repair(labels, clean, num_classes)
    ious = f"IoU of {found.images} labels with clean ones: before {found.before:.3f}"
    if found.spec is None:
        say(f"no repair, {ious}: {found.reason}; the labels are better used as they are")
        return None
    say(
        f"{found.spec}: {ious}, after {found.after:.3f}, each image repaired as the others say; predicted gain "
        f"{found.gain:+.3f} ± {found.error:.3f} in what a network takes from the labels"
    )
    return found.spec


def _read_clean(sample: Sample) -> np.ndarray:
    assert sample.clean_label is not None
    return read_label(sample.clean_label, reading=sample.reading)


def fuse_list(
    dataset: str,
    train_list: str | Path | None = None,
    *,
    how: str,
    clean_list: str | Path | None = None,
    num_classes: int = 1,
    ignore_index: int | None = None,
    label_map: str | None = None,
    data_root: str | None = None,
    root: Path = REPO_ROOT,
    say: Callable[[str], object] = print,
) -> Path:
    """Write ``labels_fused``, the labels of several annotators as one, and ``train_fused.txt``, which names them.

    Binary shares become 8-bit numbers, 255 where all agree on foreground; more than half is at least 128. Training on
    the list fused here uses the shares themselves.

    Args:
        how: of `datasets.FUSIONS`.
        clean_list: clean labels of some of the images, which repairs are chosen by.
    Returns: the new list.
    Raises:
        UserError: faults of the lists, no image with several labels, pixels that nobody knows.
    """
    source = find_list(train_list or default_training_list(dataset, root=root), dataset, root)
    expected = Expectation.of(num_classes, ignore_index, label_map)
    clean = None if clean_list is None else find_list(clean_list, dataset, root)
    lists, _ = read_checked_lists([source], expected, data_root, root, say=say, clean_list=clean, fusion=how)
    samples = lists[0].samples
    if clean is not None:
        samples = with_clean_labels(samples, source, lists[1].samples, clean)
    if not any(sample.more_labels for sample in samples):
        raise UserError(
            f"{display_path(source)} names one label for each image: there is nothing to fuse; a line of a list with "
            "several annotators is image<TAB>label<TAB>label…, as make_lists.py --labels A B writes it"
        )
    repairs, lines = repairs_of_samples(samples, num_classes) if how == "repaired" else (None, [])
    for line in lines:
        say(line)
    fused = dict(zip(name_files(samples, source), with_fusion(samples, how, repairs), strict=True))
    folder = root / "datasets" / dataset / "train" / "labels_fused"
    settings = NoiseSettings(how, num_classes=num_classes)
    check_replaceable(folder, [*fused.values()], settings, say)
    new_list = list_folder(dataset, root) / "train" / "train_fused.txt"
    with new_folder(folder) as into:
        for file, sample in fused.items():
            _write_fused(into / file, sample, num_classes)
        named = dict(zip(annotators_of(samples)[0], repairs[0], strict=True)) if repairs else None
        write_json(into / "manifest.json", _fusion_record(settings, source, named, fused))
    write_list(new_list, [(sample.image, folder / file) for file, sample in fused.items()], root)
    say(f"wrote {display_path(new_list)}")
    are_shares = num_classes == 1
    given = training_command(
        dataset,
        (train_list or source.stem) if are_shares else new_list.stem,
        num_classes=num_classes,
        ignore_index=ignore_index,
        label_map=label_map,
        data_root=data_root,
        clean_list=clean_list,
        in_channels=stored_channels(samples[0].image),
    )
    say(f"train on the shares themselves with: {given} --fusion {how}" if are_shares else f"train on it with: {given}")
    return new_list


def _fusion_record(
    settings: NoiseSettings, source: Path, repairs: Mapping[str, str | None] | None, samples: Mapping[str, Sample]
) -> dict[str, Any]:
    """The manifest of fused labels; ``repairs`` by annotator, ``samples`` by the label's file."""
    return {
        **{"fusion": settings.spec, "seed": 0, "num_classes": settings.num_classes, "unlabelled": settings.unlabelled},
        **({"ignore_value": IGNORE} if settings.num_classes > 1 else {}),  # shares are not what write_label writes
        "source_list": display_path(source),
        "repairs": repairs,
        "images": len(samples),
        "labels": [{"label": file, "image": sample.image_id} for file, sample in samples.items()],
    }


def _write_fused(path: Path, sample: Sample, num_classes: int) -> None:
    """Write the label of a sample, of several annotators the fused one, shares as 8-bit numbers."""
    labels = [read_label(one, reading=sample.reading) for one in (sample.require_label(), *sample.more_labels)]
    label = labels[0] if sample.fusion is None else sample.fusion(labels, num_classes)
    if num_classes > 1:
        return write_label(path, label, num_classes)
    if (label == IGNORE).any():
        raise UserError(f"{display_path(sample.image)}: shares have no value for pixels that all annotators ignore")
    return write_image(path, np.floor(label * 255 + 1e-4).astype(np.uint8))
