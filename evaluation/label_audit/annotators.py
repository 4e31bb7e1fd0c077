r"""Several annotators of the same images: who agrees with the rest, who draws wider, who lies beside it.

Each is held against clean labels where enough images have one, else against the consensus of the others: what more
than half of them marked. The consensus leaves out whom it judges, since whoever took part in a vote agrees with it the
better, the fewer vote. What all of them do alike the consensus cannot show: of a crowd that draws wide as one, only
clean labels tell.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from datasets.image_io import read_label
from datasets.label_fusion import annotators_of, consensus, label_overlap
from datasets.labels import IGNORE
from datasets.list_parser import Sample
from evaluation.label_audit.by_distance import inward_distance
from evaluation.label_audit.geometry import find_offset
from evaluation.label_audit.moves import Moved, as_maps, find_move, outline_map
from evaluation.label_audit.repair import choose_repair
from evaluation.scores import ratio
from evaluation.scores.bootstrap import MIN_IMAGES, bootstrap_mean, counts_interval

CLEAN, CONSENSUS = "clean labels", "the consensus of the others"
MATERIAL = 0.02  # of IoU below the other annotators of the same images that puts somebody out of line
MAX_IMAGES = 60  # an annotator is judged by

Row = dict[str, np.ndarray]  # the labels of an image by annotator


@dataclass(frozen=True)
class Annotator:
    """What was found of one annotator; pairs are 95 % bounds, NaN with fewer than MIN_IMAGES images.

    Args:
        name: the folder of the labels, or their column.
        images: that were compared.
        reference: CLEAN or CONSENSUS.
        iou: mean over images.
        behind: mean IoU less that of the other annotators in the same images; below 0: worse than they.
        area: foreground as a share of the reference's, pooled.
        offset: pixels by which outlines are wider (> 0) or narrower; 0 where that is within its error.
        moved: pixels by which labels lie off, down and right; (0, 0) where that is within its error.
        repair: what undoes offset and move, where it is worth it.
    """

    name: str
    images: int
    reference: str
    iou: float
    iou_bounds: tuple[float, float]
    behind: float
    behind_bounds: tuple[float, float]
    area: float
    area_bounds: tuple[float, float]
    offset: float
    offset_bounds: tuple[float, float]
    moved: tuple[int, int]
    moved_bounds: tuple[float, float]
    repair: str | None

    @property
    def is_out_of_line(self) -> bool:
        """Whether the labels agree less with the reference than those of the others, materially and beyond chance."""
        return self.behind < -MATERIAL and self.behind_bounds[1] < 0

    def findings(self) -> list[str]:
        """What is remarkable, in words."""
        found = []
        if self.offset:
            low, high = sorted(abs(bound) for bound in self.offset_bounds)
            found.append(f"{'wider' if self.offset > 0 else 'narrower'} by {abs(self.offset):g} px{_span(low, high)}")
        if any(self.moved):
            found.append(f"moved by {self.moved}{_span(*self.moved_bounds)}")
        if self.is_out_of_line:
            found.append(f"out of line: IoU {self.behind:+.3f} to the others{_span(*self.behind_bounds)}")
        return found

    def line(self) -> str:
        """For people."""
        iou = f"IoU {self.iou:.3f}{_span(*self.iou_bounds)}"
        area = f"area × {self.area:.2f}{_span(*self.area_bounds)}"
        return f"  {self.name}: {'; '.join([iou, area, *self.findings()])}"

    def to_json(self) -> dict[str, Any]:
        """For audit.json."""
        return {**asdict(self), "is_out_of_line": self.is_out_of_line}


def _span(low: float, high: float) -> str:
    return "" if np.isnan(low) else f" ({low:.2f} to {high:.2f})"


def judge_annotators(
    rows: Sequence[Row], clean: Sequence[np.ndarray | None] | None = None, num_classes: int = 1, seed: int = 0
) -> list[Annotator]:
    """Judge everybody who labelled MIN_IMAGES images or more with others, the best first.

    Args:
        rows: labels of each image by annotator, uint8 (H, W) with 255 ignored.
        clean: clean labels of the images, None where there is none; used where MIN_IMAGES or more are known.
    """
    truths: list[np.ndarray | None] = list(clean) if clean is not None else [None] * len(rows)
    has_clean = sum(truth is not None for truth in truths) >= MIN_IMAGES
    truths = truths if has_clean else [None] * len(rows)
    pairs: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
    overlaps: dict[str, list[tuple[float, float]]] = {}
    for row, truth in zip(rows, truths, strict=True):
        if len(row) < 2 or (has_clean and truth is None):
            continue
        references = {name: _without(row, name, num_classes) if truth is None else truth for name in row}
        ious = {name: label_overlap(label, references[name]) for name, label in row.items()}
        for name, label in row.items():
            pairs.setdefault(name, []).append((label, references[name]))
            rest = float(np.mean([iou for other, iou in ious.items() if other != name]))
            overlaps.setdefault(name, []).append((ious[name], rest))
    reference = CLEAN if has_clean else CONSENSUS
    judged = [
        _judge(name, own, np.array(overlaps[name]), reference, num_classes=num_classes, seed=seed)
        for name, own in pairs.items()
        if len(own) >= MIN_IMAGES
    ]
    return sorted(judged, key=lambda one: -one.iou)


def _without(row: Row, name: str, num_classes: int) -> np.ndarray:
    return consensus(np.stack([label for other, label in row.items() if other != name]), num_classes)


def _judge(
    name: str,
    pairs: Sequence[tuple[np.ndarray, np.ndarray]],
    overlaps: np.ndarray,
    reference: str,
    *,
    num_classes: int,
    seed: int,
) -> Annotator:
    labels, truths = [list(part) for part in zip(*pairs, strict=True)]
    iou, *iou_bounds = bootstrap_mean(overlaps[:, 0], seed=seed)
    behind, *behind_bounds = bootstrap_mean(overlaps[:, 0] - overlaps[:, 1], limits=(-1.0, 1.0), seed=seed)
    areas = np.array([_areas(*pair) for pair in pairs], float)
    moved, offset, offset_bounds = Moved(), 0.0, (float("nan"),) * 2
    if num_classes == 1:
        distances = [inward_distance(truth) for truth in truths]
        moved = find_move([outline_map(distance) for distance in distances], as_maps(labels), seed)
        back = [moved.undo(label) for label in labels] if moved else labels
        offset, *offset_bounds = find_offset(distances, back, seed)
    return Annotator(
        name=name,
        images=len(pairs),
        reference=reference,
        iou=iou,
        iou_bounds=_bounds(iou_bounds),
        behind=behind,
        behind_bounds=_bounds(behind_bounds),
        area=float(ratio(*areas.sum(0))),
        area_bounds=counts_interval(lambda sums: ratio(*sums.T), areas, seed),
        offset=float(offset),
        offset_bounds=_bounds(offset_bounds),
        moved=(moved.down, moved.right),
        moved_bounds=(moved.low, moved.high),
        repair=choose_repair(labels, truths, num_classes).spec,
    )


def _bounds(values: Sequence[float]) -> tuple[float, float]:
    return float(values[0]), float(values[1])


def _areas(label: np.ndarray, truth: np.ndarray) -> tuple[int, int]:
    """Foreground pixels of both, where both are known."""
    known = (label != IGNORE) & (truth != IGNORE)
    return int((label[known] > 0).sum()), int((truth[known] > 0).sum())


def judge_samples(
    samples: Sequence[Sample], clean: Callable[[int], np.ndarray | None], num_classes: int = 1, *, seed: int = 0
) -> list[Annotator]:
    """Judge the annotators of a list by at most MAX_IMAGES of its images, those with a clean label first.

    Args:
        clean: the clean label of the image at a place of the list, or None.
    """
    names = annotators_of(samples)
    several = [place for place, sample in enumerate(samples) if sample.more_labels]
    several = np.random.default_rng(seed).permutation(several).tolist()
    known = {place: truth for place in several if (truth := clean(place)) is not None}
    chosen = sorted((*known, *(place for place in several if place not in known)), key=lambda p: p not in known)
    chosen = sorted(chosen[:MAX_IMAGES])
    rows = []
    for place in chosen:
        sample = samples[place]
        paths = (sample.require_label(), *sample.more_labels)
        labels = [read_label(path, num_classes, reading=sample.reading) for path in paths]
        rows.append(dict(zip(names[place], labels, strict=True)))
    return judge_annotators(rows, [known.get(place) for place in chosen], num_classes, seed)


def repairs_of_samples(samples: Sequence[Sample], num_classes: int = 1) -> tuple[list[list[str | None]], list[str]]:
    """What corrects the label of each annotator, for every sample in the order of its labels; and lines that say so.

    Held against the clean labels that samples know, else against the consensus of the others.
    """

    def clean(place: int) -> np.ndarray | None:
        sample = samples[place]
        path = sample.clean_label
        return None if path is None else read_label(path, num_classes, reading=sample.reading)

    judged = judge_samples(samples, clean, num_classes)
    repairs = {one.name: one.repair for one in judged}
    against = f" (held against {judged[0].reference})" if judged else ""
    found = ", ".join(f"{name} {spec}" for name, spec in repairs.items() if spec) or "none is worth it"
    return [[repairs.get(name) for name in row] for row in annotators_of(samples)], [
        f"repair of each annotator{against}: {found}"
    ]


def annotator_lines(judged: Sequence[Annotator]) -> list[str]:
    """The annotators for people, the best first."""
    if not judged:
        return []
    return [f"annotators against {judged[0].reference}, in {judged[0].images} images, the best first:"] + [
        one.line() for one in judged
    ]
