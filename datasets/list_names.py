"""What tools put around the names of images and labels: random codes, leading zeros, words; pure functions of names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import unquote

CODE = re.compile(
    r"(?<![A-Za-z0-9])(?:[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}"
    r"|(?=[0-9a-f]*[a-f])(?=[0-9a-f]*[0-9])[0-9a-f]{8,})(?![A-Za-z0-9])",
    re.IGNORECASE,
)  # a UUID, or eight or more hexadecimal digits that are neither a number nor a word
LEAST_NAME = 2  # characters, a letter among them, of a name that is found within another
MOST_WORDS = 24  # of a name that others are looked for in


def without_codes(name: str) -> str:
    """A name without the random codes that tools make up; the name itself where it is nothing else.

    >>> without_codes("0a1b2c3d-image01_mask"), without_codes("image01_jpg.rf.6f4922f45568161a8cdf4ad2299f6d23")
    ('image01_mask', 'image01_jpg.rf')
    """
    name = unquote(name)  # %20 is the code of a space
    rest = re.sub(rf"^{CODE.pattern}[_\-. ]*|[_\-. ]*{CODE.pattern}", "", name, flags=re.IGNORECASE)
    return rest or name


def without_zeros(name: str) -> str:
    """A name whose numbers have no leading zeros.

    >>> without_zeros("mask007_t00")
    'mask7_t0'
    """
    return re.sub(r"(?<!\d)0+(?=\d)", "", name)


def match_within(
    images: Mapping[Path, str], labels: Mapping[Path, str], bare_labels: Mapping[Path, str]
) -> dict[Path, Path]:
    """Image → label where one name holds the other, between separators; of several the longest.

    Args:
        images, labels: name of each file; bare_labels: the same of labels without a known ending or beginning.
    Returns: nothing where any image would have several labels or a label several images, nor where most of the images
        and most of the labels would stay alone.
    """
    pairs = {(image, label) for label, image in _longest_within(labels, images)}
    pairs |= set(_longest_within(images, bare_labels))
    if len({image for image, _ in pairs}) < len(pairs) or len({label for _, label in pairs}) < len(pairs):
        return {}
    return dict(sorted(pairs)) if 2 * len(pairs) >= min(len(images), len(labels)) else {}


def _longest_within(holders: Mapping[Path, str], held: Mapping[Path, str]) -> list[tuple[Path, Path]]:
    """Each holder with those of the longest name that its name has in it."""
    by_words: dict[tuple[str, ...], list[Path]] = {}
    for key, name in held.items():
        if len(name) >= LEAST_NAME and re.search(r"[^\W\d_]", name):
            by_words.setdefault(_words(name), []).append(key)
    found = []
    for holder, name in holders.items():
        words = _words(name)[:MOST_WORDS]
        spans = ((start, end) for start in range(len(words)) for end in range(start + 1, len(words) + 1))
        known = [span for start, end in spans if (span := words[start:end]) in by_words]
        longest = max(known, key=lambda span: sum(map(len, span)), default=())
        found += [(holder, key) for key in by_words.get(longest, ())]
    return found


def _words(name: str) -> tuple[str, ...]:
    return tuple(re.split(r"[_\-. ]+", name.casefold()))
