"""By which endings or beginnings of their names the labels in a folder are told from the images beside them."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence, Set
from pathlib import Path

from datasets.list_names import without_codes
from datasets.list_pairing import (
    IMAGE_BEGINNINGS,
    IMAGE_ENDINGS,
    LABEL_BEGINNINGS,
    LABEL_ENDINGS,
    SEPARATORS,
    agree_but_for_shared,
    begins_with_mark,
    spellings,
    stem,
    without_affix,
)
from utils.cli import UserError
from utils.paths import display_path


def label_marks(paths: Sequence[Path]) -> list[str]:
    """The endings and beginnings of labels' names in a folder; none where they do not tell labels from images.

    Raises:
        UserError: every name is there twice, in two formats neither of which is JPEG.
    """
    return _known_marks(paths) or _suffix_of_labels(paths) or _unknown_marks(paths)


def _known_marks(paths: Sequence[Path]) -> list[str]:
    """The known endings and beginnings of labels' names by which at least one label meets an image of the folder."""
    endings = {mark: None for name in LABEL_ENDINGS for mark in spellings(name)}
    beginnings = [mark for name in LABEL_BEGINNINGS for mark in (*spellings(name), name.rstrip("_"))]
    found: dict[str, list[str]] = defaultdict(list)
    images, plain = set(), []
    for name in map(stem, paths):
        ending = next((mark for mark in endings if name.lower().endswith(mark) and len(name) > len(mark)), None)
        start = next((mark for mark in beginnings if begins_with_mark(name.lower(), mark) and name[len(mark) :]), "")
        if ending is not None:
            found[name[-len(ending) :]].append(name[: -len(ending)])
        elif start:
            found[name[: len(start)]].append(name[len(start) :])
        else:
            plain.append(name)
            images |= {name, without_affix(name, IMAGE_BEGINNINGS, IMAGE_ENDINGS)}
    return [mark for mark, bases in found.items() if _meet(images, plain, bases)]


def _meet(images: Set[str], plain: Sequence[str], bases: Sequence[str]) -> bool:
    """Whether labels' names without a known mark meet those of images; at last without random codes."""
    if images.intersection(bases) or agree_but_for_shared(plain, bases):
        return True
    images, plain, bases = ([without_codes(name) for name in names] for names in (images, plain, bases))
    return bool(set(images).intersection(bases)) or agree_but_for_shared(plain, bases)


def _unknown_marks(paths: Sequence[Path]) -> list[str]:
    """The endings ``e`` of which every image ``x`` of a folder has a file ``x + e``, if there are two images or more.

    >>> _unknown_marks([Path(name) for name in ("a.png", "a_1stHO.png", "b.png", "b_1stHO.png")])
    ['_1stHO']
    """
    counts: Counter[str] = Counter()
    images = 0
    shorter: list[str] = []  # images that the name at hand begins with, each the beginning of the next
    for name in sorted(map(stem, paths)):
        while shorter and not name.startswith(shorter[-1]):
            shorter.pop()
        rest = name[len(shorter[-1]) :] if shorter else ""
        if rest and rest[0] in SEPARATORS and re.search(r"[^\W\d_]", rest):
            counts[rest] += 1
        else:
            shorter.append(name)
            images += 1
    return [mark for mark, count in counts.items() if count == images > 1]


def _suffix_of_labels(paths: Sequence[Path]) -> list[str]:
    """The suffix of labels where every name is there twice, as JPEG and as another format: ``7.jpg`` and ``7.png``.

    Raises:
        UserError: every name is there twice, and neither is JPEG.
    """
    by_suffix: dict[str, set[str]] = defaultdict(set)
    for path in paths:
        by_suffix[path.suffix].add(stem(path))
    if len(by_suffix) != 2 or len({frozenset(names) for names in by_suffix.values()}) != 1:
        return []
    others = [suffix for suffix in by_suffix if suffix.lower() not in (".jpg", ".jpeg")]
    if len(others) == 1:
        return others
    raise UserError(
        f"{display_path(paths[0].parent)} has every name twice, as {' and '.join(by_suffix)}: say which are the "
        f"labels, for example --label_suffix {others[-1] if others else list(by_suffix)[-1]}"
    )
