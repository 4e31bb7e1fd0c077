"""Where label-free training keeps its pseudo-labels, so that a run resumes from exactly those it had."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from datasets.image_io import read_label, write_label
from utils.cli import UserError
from utils.files import NUMBERS, read_record, write_json
from utils.run_folder import display_path

MANIFEST = "manifest.json"


class PseudoLabelStore:
    """Masks by epoch and image id below ``folder``: ``epoch_N/<stem>-<16 hex of the id>.png`` and a manifest.

    Every process writes the images it predicted; when all have, the main process calls :meth:`complete`, which makes
    the epoch valid. Files are written atomically, the manifest last: an epoch has all of its masks or does not exist.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)

    def _epoch_folder(self, epoch: int) -> Path:
        return self.folder / f"epoch_{epoch}"

    def path(self, epoch: int, image_id: str) -> Path:
        """The file of an image's mask; different ids never share one, whatever characters they hold."""
        digest = hashlib.sha256(image_id.encode()).hexdigest()[:16]
        return self._epoch_folder(epoch) / f"{Path(image_id).stem[:80]}-{digest}.png"

    def write(self, epoch: int, image_id: str, mask: np.ndarray) -> None:
        """Store the mask uint8 (H, W), 0/1, of an image, before any structure is extracted from it."""
        write_label(self.path(epoch, image_id), mask)

    def complete(self, epoch: int, image_ids: Sequence[str], record: dict[str, Any]) -> None:
        """Declare an epoch complete; ``record`` (criterion, spec, agreement, …) is kept beside the file names."""
        files = {image_id: self.path(epoch, image_id).name for image_id in image_ids}
        write_json(self._epoch_folder(epoch) / MANIFEST, {"epoch": epoch, **record, "masks": files})

    def record(self, epoch: int) -> dict[str, Any]:
        """The manifest of a complete epoch.

        Raises:
            UserError: the epoch was never completed, or discarded.
        """
        path = self._epoch_folder(epoch) / MANIFEST
        if not path.is_file():
            known = ", ".join(map(str, self.epochs())) or "none"
            raise UserError(
                f"{display_path(path.parent)} holds no complete pseudo-labels (epochs that do: {known}); resume from a "
                "checkpoint of one of these, or start the run anew"
            )
        remedy = "resume from a checkpoint of another epoch, or start the run anew"
        return read_record(path, {}, {"agreements": NUMBERS}, remedy=remedy)

    def read(self, epoch: int, image_id: str) -> np.ndarray:
        """The mask of an image, uint8 (H, W), 0/1.

        Raises:
            UserError: naming the file where it is missing or broken.
        """
        path = self.path(epoch, image_id)
        if not path.exists():
            raise UserError(
                f"{display_path(path)} does not exist, the pseudo-label of {image_id}: put lists and files back as "
                "they were when the run began, or start it anew"
            )
        return read_label(path)

    def epochs(self) -> list[int]:
        """The complete epochs, ascending."""
        return sorted(epoch for epoch in self._folders() if (self._epoch_folder(epoch) / MANIFEST).is_file())

    def _folders(self) -> list[int]:
        names = [path.name.removeprefix("epoch_") for path in self.folder.glob("epoch_*") if path.is_dir()]
        return [int(name) for name in names if name.isdecimal()]

    def discard_newer(self, epoch: int) -> None:
        """Remove what was written after ``epoch``, as a resumed run writes it again."""
        self._remove(number for number in self._folders() if number > epoch)

    def keep_only(self, epochs: Collection[int]) -> None:
        """Remove all other epochs: only those that a checkpoint names are ever read again."""
        self._remove(number for number in self._folders() if number not in epochs)

    def _remove(self, epochs: Iterable[int]) -> None:
        for epoch in epochs:
            # The manifest goes first: cut short, this leaves no epoch that looks complete.
            (self._epoch_folder(epoch) / MANIFEST).unlink(missing_ok=True)
            shutil.rmtree(self._epoch_folder(epoch))
