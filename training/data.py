"""From a run's options to the loaders it trains and validates with."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Sampler

from datasets.image_files import split_plane
from datasets.label_values import LabelReading
from datasets.labels import IGNORE
from datasets.list_checks import ListSurvey
from datasets.lists import Sample, read_list
from datasets.segmentation import (
    LabelNoise,
    OrderedBatches,
    SegmentationDataset,
    TrainingBatches,
    make_loader,
    steps_before,
)
from datasets.transforms import TrainingTransform
from evaluation.scores.validation import can_choose, error_of_few, group_numbers, unit_names
from training.methods import METHODS
from training.options import DataOptions, TrainingOptions
from utils.cli import UserError
from utils.distributed import local_world_size, rank, world_size
from utils.files import read_json
from utils.processors import usable_processors

AUTO_REPAIR = "auto"  # of --label_repair: what the clean labels show to be worth it
HELD_OUT = "held_out.txt"  # the samples that --fold left out, in the run folder
MAX_DRAWS = 10**8  # in an epoch; their order is held in memory
SHARE_OF_MEMORY, SHARE_OF_GPU = 0.5, 0.25  # of what is free, what ``--cache auto`` may fill
BYTES_PER_VALUE = 4  # at most; labels take one


@dataclass(frozen=True)
class RunLists:
    """The lists of a run, read and checked; ``val``, ``test`` and ``clean`` are None where they do not exist.

    Samples of ``train`` know their clean labels, where ``--clean_list`` has some; ``held_out`` are those of the list
    that ``--fold`` leaves out of it, so that nothing is decided by them; ``reading`` is what the values of labels mean.
    """

    train: ListSurvey
    val: ListSurvey | None
    test: Path | None
    reading: LabelReading
    clean: Path | None = None
    held_out: Sequence[Sample] = ()


@dataclass(frozen=True)
class TrainingData:
    """The lists of a run and what reads them; ``val`` is None where no validation list exists.

    ``held_out`` are the samples of the training list that ``--fold`` leaves out; ``reading`` is what the values of
    labels mean. ``known`` are training images with clean labels, by which ``--recipe auto`` chooses the threshold where
    validation images cannot.
    """

    train_list: Path
    val_list: Path | None
    test_list: Path | None
    train: SegmentationDataset
    train_batches: TrainingBatches
    train_loader: Iterable[dict[str, Any]]
    val: SegmentationDataset | None
    val_loader: Iterable[dict[str, Any]] | None
    held_out: list[Sample]
    reading: LabelReading = LabelReading()
    clean_list: Path | None = None
    known: SegmentationDataset | None = None
    known_loader: Iterable[dict[str, Any]] | None = None

    def val_groups(self) -> list[int]:
        """The group that each validation image is counted in, see `validation.group_numbers`; none without a list."""
        return [] if self.val is None else groups_of(self.val)

    @property
    def train_fields(self) -> int:
        """How many fields of view the training images are of, counting a stack of planes as one."""
        return len(set(unit_names([sample.image_id for sample in self.train.samples], enough=1)))

    @property
    def val_is_one_field(self) -> bool:
        """Whether all validation images, of several, are crops of one field of view."""
        return self.val is not None and len(self.val) > 1 and len(set(self.val_groups())) == 1

    @property
    def error_of_choice(self) -> float:
        """The difference in IoU up to which a single field of view tells no epoch from another; 0 of several."""
        return error_of_few(1) if self.val_is_one_field else 0.0

    def files(self) -> list[Path]:
        """The lists, images, labels and matrices of noise that the run learns from and chooses by."""
        samples = [*self.train.samples, *(self.val.samples if self.val is not None else [])]
        files = [
            file
            for sample in samples
            for file in (sample.image, sample.label, sample.clean_label, *(sample.more_labels if sample.fusion else ()))
            if file is not None
        ]
        lists = [path for path in (self.train_list, self.val_list, self.clean_list) if path is not None]
        matrices = []
        if self.train.noise is not None:
            from datasets.label_noise import MATRIX_PATH

            paths = MATRIX_PATH.findall(self.train.noise.spec)
            matrices = [Path(os.path.abspath(path.strip())) for path in paths]
        return [*lists, *matrices, *(split_plane(file)[0] for file in files)]


def groups_of(dataset: SegmentationDataset) -> list[int]:
    """The group that each image is counted in, see `validation.group_numbers`."""
    return group_numbers([sample.image_id for sample in dataset.samples])


def decoded_bytes(sizes: list[tuple[int, int]], in_channels: int) -> int:
    """Bytes that images of these sizes (H, W) and their labels fill at most when they are decoded."""
    return sum(height * width for height, width in sizes) * (BYTES_PER_VALUE * in_channels + 1)


def free_memory(device: torch.device) -> int:
    """Free bytes of a CUDA device, or of the machine for any other (4 GiB where that is not known)."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return 4 << 30


def choose_cache(name: str, need: int, device: torch.device, copies: int = 1, labels_change: bool = False) -> str:
    """Turn ``auto`` into the best place for decoded images: ``gpu``, ``ram``, or ``none`` where they fit in neither.

    Args:
        need: bytes of the decoded set.
        copies: processes of this machine that read; each keeps its own of what is cached in RAM.
        labels_change: labels are drawn anew every epoch, which for a GPU is left to worker processes.
    Raises:
        UserError: ``gpu`` without a CUDA device.
    """
    if name == "gpu" and device.type != "cuda":
        raise UserError(f"--cache gpu needs an NVIDIA or AMD GPU, and this run is on {device.type}: use --cache ram")
    if name != "auto":
        return name
    if device.type == "cuda" and labels_change:
        return "none"
    if device.type == "cuda" and need <= SHARE_OF_GPU * free_memory(device):
        return "gpu"
    fits = need * copies <= SHARE_OF_MEMORY * free_memory(torch.device("cpu"))
    return "ram" if fits else "none"


def method_name(options: TrainingOptions) -> str:
    """How the run learns, of ``METHODS``."""
    return "label_free" if options.label_free.igtt else options.loss.method


def labels_change(options: TrainingOptions) -> bool:
    """Whether the run replaces labels while it goes on, by what it has learned of the images."""
    return METHODS[method_name(options)].changes_labels


def make_dataset(
    options: TrainingOptions, samples: list[Sample], cache: str, **training: object
) -> SegmentationDataset:
    """The samples as a run reads them; ``training`` is what sets its training images apart."""
    return SegmentationDataset(
        samples,
        num_classes=options.data.num_classes,
        in_channels=options.data.in_channels,
        channels=options.data.channels,
        seed=options.run.seed,
        cache=cache == "ram"
        or (cache == "gpu" and labels_change(options)),  # every refresh looks at the images on the host
        ignore_index=options.data.ignore_index,
        normalization=options.data.normalization,
        **training,
    )


def _make_loader(
    options: TrainingOptions, dataset: SegmentationDataset, batches: Sampler, cache: str, device: torch.device
) -> Iterable[dict[str, Any]]:
    """Batches from the GPU where the data lie there, else from memory or from worker processes."""
    if cache == "gpu":
        from datasets.gpu_loader import DeviceLoader

        fresh = dataset.noise is not None and dataset.noise.refresh == "epoch"
        return DeviceLoader(dataset, batches, device, labels_change=fresh or labels_change(options))
    workers = options.machine.workers
    if workers is None:
        workers = 0 if dataset.cache else max(1, min(8, usable_processors() // local_world_size() - 1))
    if labels_change(options):
        workers = 0  # which would not see it
    return make_loader(dataset, batches, workers, pin_memory=device.type == "cuda")


def load_data(options: TrainingOptions, lists: RunLists, device: torch.device) -> TrainingData:
    """Make the loaders of a run.

    Raises:
        UserError: an option that does not fit.
    """
    if options.optimization.batch_size < world_size():
        raise UserError(
            f"--batch_size {options.optimization.batch_size} is the number of images over all processes, of which "
            f"there are {world_size()}: give at least one image to each, or start fewer"
        )
    samples, val_sizes = lists.train.samples, [] if lists.val is None else lists.val.sizes
    cache = choose_cache(
        options.machine.cache,
        decoded_bytes(lists.train.sizes + val_sizes, options.data.in_channels),
        device,
        max(1, options.machine.workers or 0) * local_world_size(),
        labels_change=options.noise.label_noise_refresh == "epoch",
    )
    train = make_dataset(
        options,
        samples,
        cache,
        transform=training_transform(options),
        noise=training_noise(options),
        repair=options.noise.label_repair,
        sizes=lists.train.sizes,
    )
    batches = training_batches(options, len(train))
    train_loader = _make_loader(options, train, batches, cache, device)
    val = val_loader = known = known_loader = None
    if lists.val is not None:
        val, val_loader = _make_judges(options, lists.val.samples, val_sizes, cache, device)
    if options.run.recipe == "auto" and options.data.num_classes == 1 and not is_validated(options, lists):
        clean = [i for i, sample in enumerate(samples) if sample.clean_label is not None]
        if clean:
            sizes = [lists.train.sizes[i] for i in clean]
            known, known_loader = _make_judges(options, [samples[i] for i in clean], sizes, cache, device)
    return TrainingData(
        lists.train.path,
        None if lists.val is None else lists.val.path,
        lists.test,
        train,
        batches,
        train_loader,
        val,
        val_loader,
        list(lists.held_out),
        lists.reading,
        lists.clean,
        known,
        known_loader,
    )


def is_validated(options: TrainingOptions, lists: RunLists) -> bool:
    """Whether validation images choose the threshold: clean ones, of enough fields of view."""
    if lists.val is None or options.data.val_labels != "clean":
        return False
    return can_choose([sample.image_id for sample in lists.val.samples])


def _make_judges(
    options: TrainingOptions, samples: list[Sample], sizes: list[tuple[int, int]], cache: str, device: torch.device
) -> tuple[SegmentationDataset, Iterable[dict[str, Any]]]:
    """Images that decide, whole and in order, and their batches, shared among the processes."""
    dataset = make_dataset(options, samples, cache, sizes=sizes)
    batches = OrderedBatches(sizes, validation_batch_size(options.optimization.batch_size), rank(), world_size())
    return dataset, _make_loader(options, dataset, batches, cache, device)


def training_batches(options: TrainingOptions, images: int) -> TrainingBatches:
    """The batches of a run: as many an epoch as ``steps`` asks, else every image ``repeat`` times."""
    optimization, repeat = options.optimization, options.augmentation.repeat
    if repeat != "auto" and images * repeat > MAX_DRAWS:
        raise UserError(f"--repeat {repeat} of {images} images is more than {MAX_DRAWS} draws in an epoch: lower it")
    return TrainingBatches(
        images,
        optimization.batch_size,
        options.run.seed,
        1 if repeat == "auto" else repeat,
        rank(),
        world_size(),
        steps=None if optimization.steps is None else optimization.steps / optimization.epochs,
    )


def run_steps(options: TrainingOptions, images: int) -> int:
    """The optimizer steps of a whole run on so many images."""
    return steps_before(options.optimization.epochs, training_batches(options, images).steps_per_epoch)


def hold_out(
    samples: Sequence[Sample], data: DataOptions, previous: Path | None, root: Path
) -> tuple[list[int], list[int]]:
    """Indices to train on and indices that ``--fold`` leaves out; a run that goes on keeps those that it left out.

    Raises:
        UserError: see `list_splits.split_fold` and `list_splits.group_names`.
    """
    if data.fold is None:
        return list(range(len(samples))), []
    from datasets.list_splits import group_names, split_fold

    if previous is not None and (previous / HELD_OUT).is_file():
        known = read_list(previous / HELD_OUT, data.data_root, root, say=lambda line: None)
        left_out = {(sample.image, sample.label) for sample in known}
        is_out = [(sample.image, sample.label) in left_out for sample in samples]
    else:
        parts = int(data.fold.split("/")[1])
        ids = [sample.image_id for sample in samples]
        is_out = split_fold(unit_names(ids, parts, lambda names: group_names(names, data.group_by)), data.fold)
    return [i for i, out in enumerate(is_out) if not out], [i for i, out in enumerate(is_out) if out]


def training_noise(options: TrainingOptions) -> LabelNoise | None:
    """The label noise of a run, its spec checked; without labels, what turns masks into the labels of an epoch."""
    free, noise = options.label_free, options.noise
    if not free.igtt and noise.label_noise is None:
        return None
    from datasets.label_noise import parse_spec

    if free.igtt:
        parse_spec(free.igtt_ems)
        return LabelNoise(free.igtt_ems, options.run.seed, refresh="epoch")
    parse_spec(noise.label_noise, options.data.num_classes)
    return LabelNoise(noise.label_noise, noise.noise_seed, noise.label_noise_refresh, noise.unlabelled)


def training_transform(options: TrainingOptions) -> TrainingTransform:
    """The augmentation of a run, its names and strengths checked."""
    if options.augmentation.augment:
        from datasets.augmentation import strong_augmentation  # imports torchvision

        try:
            strong_augmentation(options.augmentation.augment)
        except ValueError as error:
            raise UserError(f"--augment: {error}") from None
    return TrainingTransform(options.augmentation.crop, options.augmentation.flips, options.augmentation.augment)


def validation_batch_size(batch_size: int) -> int:
    """Whole images in a validation batch: no more than 8, since they are not cropped."""
    return min(8, batch_size)


def simulated_noise(dataset: SegmentationDataset) -> str | None:
    """The noise that ``make_noisy_labels.py`` put on a list's labels, as the manifest beside them states it."""
    folders = {sample.label.parent for sample in dataset.samples if sample.label is not None}
    manifests = [folder / "manifest.json" for folder in folders if (folder / "manifest.json").exists()]
    manifest = read_json(manifests[0]) if len(folders) == len(manifests) == 1 else None
    return manifest.get("spec") if isinstance(manifest, dict) else None


def class_counts(dataset: SegmentationDataset, most: int) -> np.ndarray:
    """Pixels of every class in the labels that training sees, int64 (max(num_classes, 2),).

    Args:
        most: labels to count; of a longer list, as many spread evenly over it.
    """
    classes = max(dataset.num_classes, 2)
    counts = np.zeros(classes, np.int64)
    for index in np.unique(np.linspace(0, len(dataset) - 1, min(most, len(dataset))).astype(int)):
        label = dataset.label(int(index))
        known = label[label != IGNORE]
        if known.dtype == np.uint8:
            counts += np.bincount(known, minlength=classes)[:classes]
        else:  # shares of foreground
            foreground = round(float(known.sum(dtype=np.float64)))
            counts += [known.size - foreground, foreground]
    return counts
