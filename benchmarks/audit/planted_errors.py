"""How many wrong labels ``evaluation/suspect_labels.py`` finds: known errors are planted, then looked for.

    python benchmarks/audit/planted_errors.py --dataset nuc_sim --images 72 --share 0.25 --out train_log/nuc_sim/planted

Errors of eight kinds go into a known share of a list's clean labels, in equal parts. Networks trained on the other
parts of the list (``main.py --fold``) predict every image, and its label is ranked by our quality and by the two of
cleanlab.segmentation on the same score maps: soft minimum and number of pixel issues (Lad and Mueller, *Estimating
label quality and errors in semantic segmentation data via any model*, arXiv 2307.05080; a development dependency).
Trainings that are finished are not repeated. ``--label_noise SPEC`` puts noise on every label besides, so that the
planted errors must stand out from it.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

if __name__ == "__main__":
    # the repository root, not this folder, whose names would shadow others
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from datasets.catalog import prepare_dataset
from datasets.image_io import read_label, write_label
from datasets.label_noise import make_noisy_label
from datasets.lists import find_list, read_list, write_list
from evaluation.label_errors.ranking import LabelJudge, Verdict, choose_predictions, rank_labels
from evaluation.scores.map_folder import find_maps
from utils.cli import CommandParser, UserError, run_command
from utils.files import read_json, write_json
from utils.run_folder import LOG_ROOT, REPO_ROOT, display_path, environment_record

SHIFT = 10  # pixels
VALIDATION_IMAGES = 8  # they settle threshold and direction, not the ranking


def translate(label: np.ndarray, down: int, right: int) -> np.ndarray:
    """A label (H, W) moved by whole pixels; what comes in from outside is background."""
    height, width = label.shape
    moved = np.zeros_like(label)
    moved[max(down, 0) : height + min(down, 0), max(right, 0) : width + min(right, 0)] = label[
        max(-down, 0) : height + min(-down, 0), max(-right, 0) : width + min(-right, 0)
    ]
    return moved


def shift(label: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A label moved by 10 pixels up, down, left or right."""
    down, right = ((SHIFT, 0), (-SHIFT, 0), (0, SHIFT), (0, -SHIFT))[rng.integers(4)]
    return translate(label, down, right)


def by_spec(spec: str) -> Callable[[np.ndarray, np.random.Generator], np.ndarray]:
    """An error in the grammar of label noise."""
    return lambda label, rng: make_noisy_label(label, spec, int(rng.integers(2**31)), "planted")


# kind of error → what it makes of a clean binary label; "swapped" takes the next such image's label instead.
ERRORS: dict[str, Callable[[np.ndarray, np.random.Generator], np.ndarray]] = {
    "missing": by_spec("missing:0.3"),
    "dilated": by_spec("dilate:7"),
    "shifted": shift,
    "flipped": by_spec("flip:0.3"),
    "swapped": lambda label, rng: label,
    "empty": lambda label, rng: np.zeros_like(label),
    "mirrored": lambda label, rng: np.ascontiguousarray(label[:, ::-1]),
    "inverted": by_spec("flip:1"),
}


def parse_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = CommandParser(description="How many planted label errors are found, ours beside cleanlab's.")
    add = parser.add_argument
    add("--dataset", default="nuc_sim", metavar="NAME", help="data set with clean labels")
    add("--train_list", default="train_gt", metavar="LIST", help="list of clean labels")
    add("--images", type=int, default=72, metavar="N", help="images to use")
    add("--share", type=float, default=0.25, metavar="P", help="share of labels that get an error")
    add("--label_noise", default="clean", metavar="SPEC", help="noise on every label besides")
    add("--folds", type=int, default=3, metavar="K", help="parts of the list")
    add("--epochs", type=int, default=15, metavar="N", help="epochs of each training")
    add("--repeat", type=int, default=2, metavar="N", help="draws of every image in an epoch")
    add("--width", type=int, default=16, metavar="CHANNELS", help="channels of the network's first level")
    add("--crop", type=int, default=128, metavar="PIXELS", help="side of the training window")
    add("--seed", type=int, default=0, metavar="S", help="of errors and trainings")
    add("--out", type=Path, metavar="DIR", help="where lists, labels and results go")
    return parser.parse_args(arguments)


def plant_errors(options: argparse.Namespace, folder: Path) -> dict[str, str]:
    """Write the labels with errors and their list below ``folder``; image → kind of error, "" for none.

    The choice is a function of the seed. Swapped labels come in a ring: each image gets the next one's.
    """
    samples = read_list(find_list(options.train_list, options.dataset))
    if len(samples) < options.images:
        raise UserError(f"--images {options.images}: the list has only {len(samples)}")
    rng = np.random.default_rng(options.seed)
    chosen = [samples[place] for place in rng.permutation(len(samples))[: options.images]]
    count = round(options.share * options.images)
    kinds = [list(ERRORS)[place % len(ERRORS)] for place in range(count)] + [""] * (options.images - count)
    ring = [place for place, kind in enumerate(kinds) if kind == "swapped"]
    source = {place: ring[(turn + 1) % len(ring)] for turn, place in enumerate(ring)}
    pairs = []
    for place, (sample, kind) in enumerate(zip(chosen, kinds, strict=True)):
        label = read_label(chosen[source.get(place, place)].label)
        wrong = ERRORS[kind](label, rng) if kind else label
        noisy = make_noisy_label(wrong, options.label_noise, options.seed, sample.image_id)
        pairs.append((sample.image, folder / "labels" / f"{place:04d}.png"))
        write_label(pairs[-1][1], noisy)
    write_list(folder / "planted.txt", pairs)
    val = read_list(find_list("val", options.dataset))[:VALIDATION_IMAGES]
    write_list(folder / "val.txt", [(sample.image, sample.label) for sample in val])
    return {display_path(sample.image): kind for sample, kind in zip(chosen, kinds, strict=True)}


def training_options(options: argparse.Namespace, folder: Path, fold: int) -> dict[str, Any]:
    """The options of the training that leaves out a part of the list."""
    return {
        "dataset": options.dataset,
        "train_list": str(folder / "planted.txt"),
        "val_list": str(folder / "val.txt"),
        "fold": f"{fold}/{options.folds}",
        "preset": "quick",
        "epochs": options.epochs,
        "repeat": options.repeat,
        "width": options.width,
        "crop": options.crop,
        "seed": options.seed,
        "checkpoint_every": options.epochs,
        "tensorboard": False,
        "run_name": f"{folder.name}_fold{fold}",
    }


def predict_fold(options: argparse.Namespace, folder: Path, fold: int) -> Path:
    """Train without a part of the list and predict that part, unless done before; the folder of the predictions."""
    from evaluation.inference import main as infer
    from training.fit import configure, fit

    done = folder / f"fold_{fold}.json"
    if not done.exists():
        run = LOG_ROOT / options.dataset / f"{folder.name}_fold{fold}"
        resumes = (run / "checkpoints" / "last.pth").exists()
        run = fit(configure({"resume": str(run)} if resumes else training_options(options, folder, fold)))
        infer(["--train_dir", str(run), "--test_ckpt_epoch", "last", "--data_list", str(run / "held_out.txt")])
        write_json(done, {"predictions": display_path(run / "results" / f"epoch_{options.epochs}_held_out")})
    return REPO_ROOT / read_json(done)["predictions"]


def cleanlab_qualities(verdicts: Sequence[Verdict], judge: LabelJudge) -> dict[str, np.ndarray]:
    """Quality of the same labels by cleanlab.segmentation, from the same score maps as they are."""
    from cleanlab.segmentation.filter import find_label_issues
    from cleanlab.segmentation.rank import get_label_quality_scores

    pairs = [judge.read(verdict.prediction) for verdict in verdicts]
    labels = np.stack([label for label, _ in pairs]).astype(np.int64)
    chances = np.stack([np.stack([1 - scores, scores]) for _, scores in pairs])
    softmin, _ = get_label_quality_scores(labels, chances, verbose=False)
    issues = find_label_issues(labels, chances, downsample=1, n_jobs=1, verbose=False)
    return {"cleanlab softmin": softmin, "cleanlab pixel issues": 1 - issues.mean((1, 2))}


def figures(quality: np.ndarray, kinds: Sequence[str]) -> dict[str, Any]:
    """How well a quality finds planted errors.

    Args:
        quality: of each label, low for wrong ones, (n,).
        kinds: of the planted errors, "" for none.
    Returns: AUC; precision among the k worst, k the number of errors; by kind, how many of them are there.
    """
    wrong = np.array([bool(kind) for kind in kinds])
    first = np.zeros(len(quality), bool)
    first[np.argsort(quality, kind="stable")[: wrong.sum()]] = True
    better = (quality[wrong][:, None] < quality[~wrong]) + 0.5 * (quality[wrong][:, None] == quality[~wrong])
    found = {kind: [int(first[np.array(kinds) == kind].sum()), kinds.count(kind)] for kind in ERRORS if kind in kinds}
    return {"auc": float(better.mean()), "precision_at_k": float(wrong[first].mean()), "found": found}


def print_table(rows: dict[str, dict[str, Any]], guesses: Sequence[tuple[str, str]]) -> None:
    """The figures of every method, then what kind of error ours guessed for each planted one."""
    print(f"\n{'':24}{'P@k':>7}{'AUC':>7}  found among the k worst")
    for name, row in rows.items():
        found = "  ".join(f"{kind} {hits}/{count}" for kind, (hits, count) in row["found"].items())
        print(f"{name:24}{row['precision_at_k']:7.3f}{row['auc']:7.3f}  {found}")
    print("\nplanted → guessed")
    for planted, guess in guesses:
        print(f"  {planted or 'nothing':10} → {guess}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Plant, train, predict, rank, compare."""
    options = parse_options(arguments)
    options.dataset = prepare_dataset(options.dataset)
    folder = options.out or LOG_ROOT / options.dataset / "planted"
    settings = {name: value for name, value in vars(options).items() if name != "out"}
    if (folder / "planted.json").exists():
        record = read_json(folder / "planted.json")
        if record["settings"] != settings:
            raise UserError(f"{display_path(folder)} holds a run of other settings: give another folder by --out")
        planted = record["planted"]
    else:
        planted = plant_errors(options, folder)
        write_json(folder / "planted.json", {"settings": settings, "planted": planted})
    maps = [find_maps(predict_fold(options, folder, fold)) for fold in range(1, options.folds + 1)]
    verdicts, judge = rank_labels(choose_predictions(read_list(folder / "planted.txt"), maps), maps)
    kinds = [planted[display_path(verdict.prediction.sample.image)] for verdict in verdicts]
    qualities = {"ours": np.array([verdict.quality for verdict in verdicts]), **cleanlab_qualities(verdicts, judge)}
    rows = {name: figures(quality, kinds) for name, quality in qualities.items()}
    guesses = [(kind, verdict.kind) for kind, verdict in zip(kinds, verdicts, strict=True) if verdict.stands_out]
    print(f"{len(verdicts)} labels, {sum(map(bool, kinds))} with planted errors; {len(guesses)} stand out")
    print_table(rows, guesses)
    write_json(
        folder / "found.json",
        {
            "settings": settings,
            "labels": len(verdicts),
            "methods": rows,
            "stand_out": guesses,
            "environment": environment_record("cpu"),
        },
    )
    print(f"written to {display_path(folder / 'found.json')}")


if __name__ == "__main__":
    run_command(main)
