"""The model card of a run or of its export: what it learned from, how well it does, what it cannot do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from evaluation.scores import DEFAULT_THRESHOLD, foreground_iou, mean_iou
from evaluation.scores.validation import MIN_IMAGES, table_interval
from utils.cli import counted
from utils.files import atomic_write, read_json_if_whole, write_json

CARD, TEXT = "model_card.json", "README.md"
FEW_IMAGES = 10  # training images, below which a card warns
CITATION = (
    "Luo, Liu, Guo, Yang: Deep Neural Networks Learn Meta-Structures from Noisy Labels in Semantic Segmentation. "
    "AAAI 2022, doi:10.1609/aaai.v36i2.20085"
)
RECIPE = (
    *("preset", "method", "method_options", "network", "network_options", "loss", "class_weights", "label_repair"),
    *("optimizer", "lr", "schedule", "batch_size", "crop", "epochs", "steps", "augment", "flips", "ema", "seed"),
    *("igtt", "normalization", "used_precision"),
)


def make_card(run: Path, checkpoint: dict[str, Any]) -> dict[str, Any]:
    """What the card of a run says at a checkpoint, from the run's own records.

    Args:
        checkpoint: its ``config``, ``best``, ``epoch``, ``threshold``, ``pred_invert`` and ``mask_offset`` are read.
    """
    config = checkpoint["config"]
    audit = read_json_if_whole(run / "audit.json")
    audit = audit if isinstance(audit, dict) else None
    threshold = checkpoint["threshold"]
    card = {
        "name": f"{config['dataset']}/{run.name}",
        "task": {"classes": config["num_classes"], "channels": config["in_channels"]},
        "data": describe_data(config),
        "labels": describe_labels(config, audit),
        "recipe": {name: config[name] for name in RECIPE if config.get(name) not in (None, [], {})},
        "decisions": config.get("decisions") or [],
        "validation": validation_figures(checkpoint),
        "mask": {
            "threshold": DEFAULT_THRESHOLD if threshold is None and config["num_classes"] == 1 else threshold,
            "inverted": bool(checkpoint["pred_invert"]),
            "mask_offset": float(checkpoint.get("mask_offset") or 0.0),
        },
        "scores": score_meaning(config, bool(checkpoint["pred_invert"])),
        "environment": {key: config.get("environment", {}).get(key) for key in ("git_commit", "versions", "time")},
        "citation": CITATION,
    }
    return card | {"limits": limits(card, config, audit)}


def describe_data(config: dict[str, Any]) -> dict[str, Any]:
    """The lists and the fingerprint of all files that were trained on and chosen by."""
    return {
        "dataset": config["dataset"],
        "train_list": _shown_list(config.get("train_list")),
        "val_list": _shown_list(config.get("val_list")),
        "train_images": config.get("train_images"),
        "val_images": config.get("val_images"),
        "fingerprint": config.get("data_fingerprint"),
    }


def _shown_list(path: str | None) -> str | None:
    """A list as it lies below the repository, else its name: cards travel, and tell of no computer's folders."""
    return Path(path).name if path is not None and Path(path).is_absolute() else path


def describe_labels(config: dict[str, Any], audit: dict[str, Any] | None) -> dict[str, Any]:
    """What is known of the training labels: noise put on them, repairs, the audit's verdict."""
    kept = ("verdict", "predicted_iou", "predicted_iou_low", "predicted_iou_high", "iou_ceiling", "bias", "Q")
    return {
        "label_free": config.get("igtt"),
        "label_noise": label_noise(config),
        "label_repair": config.get("label_repair"),
        "clean_list": _shown_list(config.get("clean_list")),
        "annotators": config.get("annotators"),
        "fusion": config.get("fusion"),
        "val_labels": config.get("val_labels"),
        "audit": None if audit is None else {name: audit.get(name) for name in kept},
    }


def label_noise(config: dict[str, Any]) -> str | None:
    """The simulated noise of the training labels, that of their list first; None without any."""
    steps = [config.get(name) for name in ("listed_label_noise", "label_noise")]
    return ", then ".join(step for step in steps if step) or None


def score_meaning(config: dict[str, Any], inverted: bool) -> dict[str, Any]:
    """What scores are the probabilities of, where the noise of the labels is known, and how masks follow from them.

    Args:
        inverted: whether scores are inverted.
    Returns: ``of``, a phrase, or None where nothing is known; ``decoded``, whether masks are taken from scores that are
        multiplied by the inverse of the labels' transition matrix.
    """
    of, known = None, (config.get("labels") or {}).get("matrix")
    decoded, learned = config.get("decode_matrix") is not None, config.get("score_matrix")
    if learned is not None and known is not None and known != np.eye(len(known)).tolist():
        of = "probabilities of the noisy labels, not of the truth"
        if learned != known:
            of = "probabilities of the truth, not of the noisy labels: the loss undoes their noise"
        elif config.get("class_weights"):
            of += ", moved by the class weights"
        elif config["num_classes"] == 1:
            background, foreground = (1 - row[1] if inverted else row[1] for row in known)
            of += f": at {background:.2g} the truth is surely background, at {foreground:.2g} surely foreground"
    return {"of": of, "decoded": decoded}


def validation_figures(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """The IoU (K classes: mean IoU) on validation images with its 95 % interval; nulls where there is none.

    The tables are those of the best epoch, so another epoch's checkpoint has no figure of its own.
    """
    best = checkpoint.get("best") or {}
    tables = best.get("tables")
    if tables is None or best.get("epoch") != checkpoint["epoch"]:
        return {"iou": None, "low": None, "high": None}
    tables = np.asarray(tables)
    metric = mean_iou if checkpoint["config"]["num_classes"] > 1 else foreground_iou
    reached = metric(tables.sum(0))
    if np.isnan(reached):
        return {"iou": None, "low": None, "high": None}
    low, high = table_interval(metric, tables) or (None, None)
    return {"iou": reached, "low": low, "high": high}


def limits(card: dict[str, Any], config: dict[str, Any], audit: dict[str, Any] | None) -> list[str]:
    """What a user must know before trusting the network, a sentence each."""
    start = first_weights(config)
    found = [f"Trained on images of {config['dataset']} {start}; other instruments and magnifications are untried."]
    images = card["data"]["train_images"]
    if images is not None and images < FEW_IMAGES:
        found.append(f"Trained on {counted(images, 'image')} only.")
    fields = config.get("train_fields")
    if images is not None and fields is not None and fields < min(images, MIN_IMAGES):
        which = "one field of view, or one stack" if fields == 1 else f"{fields} fields of view or stacks"
        found.append(f"All training images are parts of {which}: others may look different.")
    if card["validation"]["iou"] is None:
        found.append("No validation figure: nothing says how well this checkpoint does.")
    elif card["validation"]["low"] is None:
        found.append("Too few validation images for an interval.")
    if config.get("val_is_one_field"):
        found.append("All validation images are crops of one field: the figure says nothing of others.")
    if config.get("val_labels") == "noisy":
        found.append("Validation labels are noisy too: the figure is agreement with them, not accuracy.")
    verdict = (audit or {}).get("verdict")
    if verdict is not None and verdict.startswith("unknown"):
        found.append("The audit could not tell whether the training labels are right.")
    elif verdict is not None and not verdict.startswith("learnable"):
        found.append(f"The audit calls the training labels {verdict}.")
    found += [_bias_line(bias) for bias in (audit or {}).get("bias") or []]
    if card["labels"]["label_noise"]:
        found.append(f"Trained on labels with simulated noise, {card['labels']['label_noise']}.")
    if config.get("igtt"):
        found.append("Trained without labels: what counts as foreground was told by the images alone.")
    return found


def first_weights(config: dict[str, Any]) -> str:
    """What a run learned from beside its own images."""
    if config.get("init_from"):
        return f"and, before, those of the run {'/'.join(Path(config['init_from']).parts[-2:])}"
    if (config.get("network_options") or {}).get("pretrained"):
        return "and, its encoder before, on others"
    return "alone"


def _bias_line(bias: dict[str, Any]) -> str:
    """A systematic error of the training labels, which the network will have learned."""
    how = f" by {bias['size']:.1f} px" if bias.get("unit") == "px" else ""
    return f"Training labels are biased {bias['kind']}: {bias.get('what', 'no more is known')}{how}."


def card_text(card: dict[str, Any]) -> str:
    """The card as Markdown."""
    audit, figures, mask = card["labels"]["audit"], card["validation"], card["mask"]
    data = card["data"]
    fingerprint = data["fingerprint"] or {}
    interval = "" if figures["low"] is None else f" [{figures['low']:.4f}, {figures['high']:.4f}]"
    export = card.get("export")
    verdict = "none was made" if audit is None else f"**{audit['verdict']}**{_predicted(audit)}"
    noise = card["labels"]["label_noise"] or "none was added"
    metric = "IoU" if card["task"]["classes"] == 1 else "mean IoU"
    shown = "none" if mask["threshold"] is None else f"{mask['threshold']:.4g}"
    shown += ", scores inverted" if mask["inverted"] else ""
    shown += f", outlines moved by {mask['mask_offset']:+g} px" if mask["mask_offset"] else ""
    images = f"{_count(data['train_images'])} training, {_count(data['val_images'])} validation images"
    reached = "unknown" if figures["iou"] is None else f"{figures['iou']:.4f}{interval}"
    files = f"`{fingerprint.get('digest', 'unknown')}`, {fingerprint.get('files', 'unknown')} files"
    rows = {
        "data": f"{data['dataset']}: {images}",
        "fingerprint of the data": files,
        "audit of the labels": verdict,
        "label noise": noise,
        f"validation {metric}, 95 % interval": reached,
        "threshold": shown,
    }
    meaning = card.get("scores") or {}
    if meaning.get("of"):
        rows["scores"] = meaning["of"]
    if meaning.get("decoded"):
        by = "scores times the inverse of the labels' transition matrix"
        rows["masks"] = f"the class of the highest of {by}" + (
            ", which is not in the export: see mask below" if export else ""
        )
    if (card["labels"]["annotators"] or 1) > 1:
        rows["annotators"] = (
            f"up to {card['labels']['annotators']} an image, labels fused by {card['labels']['fusion']}"
        )
    if export:
        rows["format"] = f"{export['format']}, of epoch {export['epoch']}"
        rows["licence"] = export.get("license") or "**missing**: give --license"
        rows["authors"] = ", ".join(export.get("authors") or []) or "**missing**: give --authors"
    lines = [f"# {card['name']}", "", f"A segmentation network for {_kind(card['task'])}.", "", "| | |", "|---|---|"]
    lines += [f"| {name} | {value} |" for name, value in rows.items()]
    lines += ["", "## Validation", "", f"The {metric} on the run's validation images, pooled over pixels: {reached}."]
    lines += ["", "## Limits", "", *(f"- {line}" for line in card["limits"]), "", "## Recipe", ""]
    lines += ["| option | value |", "|---|---|", *(f"| {name} | {value} |" for name, value in card["recipe"].items())]
    lines += [f"| {each['name']}, decided | {each['value']}: {each['reason']} |" for each in card["decisions"]]
    if export:
        lines += ["", "## Input and output", "", *_interface_lines(export["interface"])]
    return "\n".join([*lines, "", "## Cite", "", card["citation"], ""])


def _interface_lines(interface: dict[str, Any]) -> list[str]:
    return [
        f"- **{part}**, {name.replace('_', ' ')}: {value}"
        for part, values in interface.items()
        for name, value in values.items()
        if value is not None
    ]


def _predicted(audit: dict[str, Any]) -> str:
    value = audit.get("predicted_iou")
    return "" if value is None else f", predicted IoU {value:.2f}"


def _kind(task: dict[str, int]) -> str:
    channels = "grey images" if task["channels"] == 1 else f"images of {task['channels']} channels"
    return f"{channels}, {'foreground and background' if task['classes'] == 1 else str(task['classes']) + ' classes'}"


def _count(value: int | None) -> str:
    return "an unknown number of" if value is None else str(value)


def write_card(folder: Path, card: dict[str, Any]) -> None:
    """Write a card as README.md and as JSON."""
    with atomic_write(folder / TEXT) as file:
        file.write(card_text(card).encode())
    write_json(folder / CARD, card)


def write_run_card(run: Path, config: dict[str, Any], best: dict[str, Any]) -> None:
    """Write the card of a finished run's best checkpoint into its folder.

    Args:
        best: that of the training state; one of before does not know of inversion, and the checkpoint is looked at.
    """
    if "invert" not in best:
        from utils.checkpoint import load_checkpoint

        best = {**best, "invert": load_checkpoint(run / "checkpoints" / "best.pth")["pred_invert"]}
    checkpoint = {
        "config": config,
        "best": best,
        "epoch": best["epoch"],
        "threshold": best.get("threshold"),
        "pred_invert": best["invert"],
        "mask_offset": best.get("mask_offset"),
    }
    write_card(run, make_card(run, checkpoint))
