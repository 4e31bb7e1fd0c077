"""Simulated micrographs with exact ground truth: ``er_sim``, ``mito_sim`` and ``nuc_sim``.

A field is drawn (`datasets.simulation_specimens`), then seen through a microscope: point-spread blur, haze from out of
focus, glow of the cell body, uneven background and illumination, then a camera with photon (Poisson) and read noise,
16 bits deep. The mask comes from the shapes alone. Every image has its own random stream, a function of the data set's
name, the split and the image's number, so that order and number of threads change nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np

from datasets.image_io import write_image, write_label
from datasets.list_files import SPLITS, write_list
from datasets.noise_files import write_noisy_labels
from datasets.simulation_geometry import Range, Specimen, draw_log_uniform, smooth_field
from datasets.simulation_specimens import Mitochondria, Nuclei, TubuleNetwork
from utils.cli import UserError, map_with_progress, one_of
from utils.files import plain, read_json, write_json
from utils.run_folder import REPO_ROOT, display_path

VERSION = 1  # raised whenever code or a parameter changes an image
SEED = 20260730
NOISE_SPEC = "flip:0.3"  # of the noisy list
MARKER = "simulation.json"  # written last: its presence says that the set is complete
IMAGE_SIZE = 256
BESIDE = 6  # pixels around the foreground that count as the background beside it
MAX_FOREGROUND = 0.9


@dataclass(frozen=True, slots=True)
class Microscope:
    """How the light of a specimen becomes a 16-bit image. Light is relative to a bright structure in focus (1).

    Attributes:
        blur: standard deviation of the point-spread function in focus, pixels.
        haze: light from out of focus, relative to the light in focus, spread over ``haze_width`` pixels (deviation).
        glow: brightest light of the cell body above and below the focus; it is uneven by ``unevenness``.
        background: light that has nothing to do with the specimen; it is uneven by ``unevenness`` over half the field.
        unevenness: deviation of the logarithm of glow and background.
        illumination: deviation of the logarithm of the light that excites, over the field.
        snr: signal-to-noise ratio of an image, its logarithm uniform: mean signal of the foreground above the
            background within `BESIDE` pixels, over the root mean square of the noise in the foreground.
        read_noise: deviation, electrons.
        gain: grey levels per electron.
        offset: grey level of darkness.
    """

    blur: Range
    haze: Range
    haze_width: float
    glow: Range
    background: Range
    unevenness: float
    snr: Range
    illumination: float = 0.1
    read_noise: float = 1.6
    gain: float = 2.2
    offset: float = 100.0


@dataclass(frozen=True, slots=True)
class Recipe:
    """A simulated data set.

    Attributes:
        specimen: what is drawn.
        microscope: how it is seen.
        counts: images for train, val and test.
        least_foreground: fields with a smaller share of foreground are drawn again.
    """

    specimen: TubuleNetwork | Mitochondria | Nuclei
    microscope: Microscope
    counts: tuple[int, int, int]
    least_foreground: float


SIMULATED = {
    "er_sim": Recipe(
        TubuleNetwork(),
        Microscope(
            blur=(1.2, 1.9),
            haze=(0.3, 0.8),
            haze_width=9,
            glow=(0.15, 0.6),
            background=(0.1, 0.4),
            unevenness=0.25,
            snr=(2.5, 10),
        ),
        counts=(157, 28, 38),
        least_foreground=0.05,
    ),
    "mito_sim": Recipe(
        Mitochondria(),
        Microscope(
            blur=(1.2, 1.8),
            haze=(0.3, 0.8),
            haze_width=8,
            glow=(0.05, 0.4),
            background=(0.1, 0.4),
            unevenness=0.25,
            snr=(3, 12),
        ),
        counts=(165, 8, 10),
        least_foreground=0.02,
    ),
    "nuc_sim": Recipe(
        Nuclei(),
        Microscope(
            blur=(1.0, 2.4),
            haze=(0.05, 0.4),
            haze_width=8,
            glow=(0.0, 0.1),
            background=(0.03, 0.15),
            unevenness=0.15,
            snr=(10, 50),
        ),
        counts=(160, 20, 40),
        least_foreground=0.005,
    ),
}


def simulate_image(name: str, rng: np.random.Generator, size: int = IMAGE_SIZE) -> tuple[np.ndarray, np.ndarray]:
    """Simulate one micrograph.

    Args:
        name: a key of `SIMULATED`.
        rng: the image's own random stream.
        size: height and width, pixels; at least 64.
    Returns: image uint16 (size, size) and its exact mask uint8 0/1 (size, size).
    Raises:
        UserError: the name is unknown.
    """
    recipe = SIMULATED[one_of(name, list(SIMULATED), "simulated data set")]
    specimen, electrons = expected_electrons(recipe, rng, size)
    return detect(electrons, recipe.microscope, rng), specimen.mask


def expected_electrons(recipe: Recipe, rng: np.random.Generator, size: int) -> tuple[Specimen, np.ndarray]:
    """Draw a specimen and the noiseless image of it: mean electrons per pixel, float32 (size, size)."""
    share = 0.0
    while not recipe.least_foreground <= share <= MAX_FOREGROUND:
        specimen = recipe.specimen.draw(rng, size)
        share = specimen.mask.mean()
    light = form_image(specimen, recipe.microscope, rng)
    snr = draw_log_uniform(rng, recipe.microscope.snr)
    return specimen, light * exposure(light, specimen.mask, snr, recipe.microscope.read_noise)


def form_image(specimen: Specimen, microscope: Microscope, rng: np.random.Generator) -> np.ndarray:
    """The light that reaches the camera, relative, float32 > 0, (size, size)."""
    size, unevenness = len(specimen.mask), microscope.unevenness
    light = cv2.GaussianBlur(specimen.emission, (0, 0), rng.uniform(*microscope.blur))
    light += rng.uniform(*microscope.haze) * cv2.GaussianBlur(specimen.emission, (0, 0), microscope.haze_width)
    light += rng.uniform(*microscope.glow) * specimen.glow * np.exp(unevenness * smooth_field(rng, size, 40))
    light += rng.uniform(*microscope.background) * np.exp(unevenness * smooth_field(rng, size, size / 2))
    return light * np.exp(microscope.illumination * smooth_field(rng, size, size))


def exposure(light: np.ndarray, mask: np.ndarray, snr: float, read_noise: float) -> float:
    r"""Electrons per unit of light that give an image the wanted signal-to-noise ratio.

    With contrast c and mean m of the foreground's light, the exposure s solves

    .. math:: \mathrm{SNR} = \frac{s c}{\sqrt{s m + r^2}}

    where s·m is the variance of the photon noise and r the read noise.
    """
    beside = cv2.dilate(mask, np.ones((2 * BESIDE + 1, 2 * BESIDE + 1), np.uint8)) > mask
    mean = float(light[mask > 0].mean())
    contrast = mean - float(light[beside].mean())
    half = snr**2 * mean / 2
    return (half + np.sqrt(half**2 + (snr * contrast * read_noise) ** 2)) / contrast**2


def detect(electrons: np.ndarray, microscope: Microscope, rng: np.random.Generator) -> np.ndarray:
    """Count photons, read them out and digitize: uint16, same shape."""
    counted = rng.poisson(electrons) + microscope.read_noise * rng.standard_normal(electrons.shape)
    return np.clip(np.rint(microscope.offset + microscope.gain * counted), 0, 65535).astype(np.uint16)


def image_rng(name: str, split: str, index: int) -> np.random.Generator:
    """The random stream of one image of a data set."""
    digest = hashlib.sha256(f"{name}/{split}/{index}".encode()).digest()
    return np.random.default_rng(np.random.SeedSequence([SEED, int.from_bytes(digest, "big")]))


def sample_paths(name: str, split: str, root: Path) -> list[tuple[Path, Path]]:
    """Image and label paths of a split, in order."""
    folder = root / "datasets" / name / split
    count = SIMULATED[name].counts[SPLITS.index(split)]
    return [(folder / "images" / f"{index:03d}.tif", folder / "labels" / f"{index:03d}.png") for index in range(count)]


def list_paths(name: str, root: Path) -> dict[str, Path]:
    """The clean list of each split."""
    folder = root / "txt" / name
    return {"train": folder / "train" / "train_gt.txt", "val": folder / "val.txt", "test": folder / "test.txt"}


def make_dataset(name: str, root: Path = REPO_ROOT, say: Callable[[str], object] = print) -> None:
    """Make a simulated data set with its lists, unless it is there already.

    Files: ``datasets/<name>/{train,val,test}/{images,labels}``, 16-bit TIFF and 8-bit 0/255 PNG; lists ``train_gt``,
    ``val``, ``test`` and the noisy list of `NOISE_SPEC`. A generation that was interrupted, or a set of which
    files are missing, is made again as a whole; all files come out the same.

    Args:
        name: a key of `SIMULATED`.
        root: the folder that holds ``datasets`` and ``txt``.
        say: takes the lines meant for the user.
    Raises:
        UserError: the name is unknown, or a file cannot be written.
    """
    recipe = SIMULATED[one_of(name, list(SIMULATED), "simulated data set")]
    marker = root / "datasets" / name / MARKER
    record = plain({"name": name, "version": VERSION, "seed": SEED, **asdict(recipe)})
    if is_complete(name, root):
        if read_json(marker) != record:
            say(
                f"{display_path(marker.parent)} was made by another version of the simulation; "
                "delete the folder to have it made again"
            )
        return
    say(
        f"simulating {name} in {display_path(marker.parent)}: {' + '.join(map(str, recipe.counts))} images "
        "(train + val + test) with exact ground truth"
    )
    try:
        marker.unlink(missing_ok=True)
        write_samples(name, root)
        write_lists(name, root, say)
        write_json(marker, record)
    except OSError as error:
        raise UserError(f"{display_path(marker.parent)} cannot be written: {error}") from None


def is_complete(name: str, root: Path) -> bool:
    """Whether a finished data set and its clean lists are all in place."""
    files = [path for split in SPLITS for pair in sample_paths(name, split, root) for path in pair]
    marker = root / "datasets" / name / MARKER
    return marker.is_file() and all(path.is_file() for path in [*files, *list_paths(name, root).values()])


def write_samples(name: str, root: Path) -> None:
    """Simulate and write all images and labels, on two threads."""
    jobs = [(split, index, *pair) for split in SPLITS for index, pair in enumerate(sample_paths(name, split, root))]

    def write(job: tuple[str, int, Path, Path]) -> None:
        split, index, image_path, label_path = job
        image, mask = simulate_image(name, image_rng(name, split, index))
        write_image(image_path, image)
        write_label(label_path, mask)

    map_with_progress(write, jobs, f"simulating {name}", workers=2)


def write_lists(name: str, root: Path, say: Callable[[str], object]) -> None:
    """Write the clean lists, then the noisy labels and their list."""
    for split, path in list_paths(name, root).items():
        write_list(path, sample_paths(name, split, root), root=root)
    write_noisy_labels(name, NOISE_SPEC, root=root, data_root=root, make_default=True, say=say)
