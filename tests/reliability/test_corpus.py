"""Inputs that failed once, by a traceback or a wrong reading, and others of their kinds: each is read or refused.

``corpus.jsonl`` holds an input a line: its kind, as in ``test_fuzz.py`` or a parser below, its content as text, as hex
or as words of a command line (``times``: so often repeated), what it is, and how it ends. Whatever fails from now on
gets a line there.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from datasets.augmentation import strong_augmentation
from datasets.label_noise import parse_spec
from tests.reliability.test_fuzz import FILES, write_whole
from training.losses import parse_loss
from training.options import parse_given
from utils.cli import UserError
from utils.files import read_jsonl

CORPUS = read_jsonl(Path(__file__).with_name("corpus.jsonl"))
PARSERS: dict[str, Callable[[Any], object]] = {
    "spec": parse_spec,
    "loss": lambda text: parse_loss(text, 1),
    "augmentation": lambda text: strong_augmentation([text]),
    "options": parse_given,
}


def outcome_of(entry: dict[str, Any], folder: Path) -> str:
    """How an input ends: read, or refused in a message."""
    kind = entry["kind"]
    if kind in FILES:
        path, read = write_whole(kind, folder)
        path.write_bytes(
            bytes.fromhex(entry["hex"]) if "hex" in entry else entry["text"].encode() * entry.get("times", 1)
        )
        use = partial(read, path)
    else:
        given = entry["words"] if "words" in entry else entry["text"]
        use = partial(PARSERS[kind], given)
    try:
        use()
    except (UserError, ValueError) as message:
        assert type(message) in (UserError, ValueError) and str(message).strip()
        return "refused"
    except SystemExit as ended:
        return "refused" if ended.code == 2 else f"exit status {ended.code}"
    return "read"


@pytest.mark.parametrize("entry", CORPUS, ids=lambda entry: f"{entry['kind']}: {entry['why']}")
@pytest.mark.filterwarnings("ignore")
def test_what_failed_once_is_read_or_refused(entry, tmp_path, capsys):
    assert outcome_of(entry, tmp_path) == entry["outcome"]


def test_every_kind_of_input_is_in_the_corpus():
    kinds = {entry["kind"] for entry in CORPUS}
    assert kinds == FILES.keys() | PARSERS.keys()
