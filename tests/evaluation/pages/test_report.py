"""The report is one whole file, its examples are the right images, its pictures have the right colours."""

from __future__ import annotations

import base64
import html
import json
import os
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

from datasets.image_io import read_image, read_label, write_image, write_label, write_scores
from datasets.labels import IGNORE
from datasets.lists import Sample
from evaluation.pages import charts, choose_examples, pictures
from evaluation.pages.charts import METHODS
from evaluation.pages.evaluate import evaluate_maps
from evaluation.pages.pictures import quantize_scores
from evaluation.pages.rebuild import find_results, rebuild_report, score_again
from evaluation.pages.report import threshold_counts
from evaluation.pages.sentences import first_sentence, than_expected
from evaluation.report import main
from evaluation.scores import confusion_counts, score_histogram
from evaluation.scores.images import ImageResult
from utils import overlays
from utils.cli import UserError
from utils.files import append_jsonl, read_json, write_json
from utils.plots import to_svg


class Checker(HTMLParser):
    """Collects what a page refers to, and the tags it leaves open."""

    VOID = {"meta", "img", "br", "link", "input"}

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sources: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.sources += [value for name, value in attrs if name in ("src", "href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture
def run(tmp_path: Path, rng) -> Path:
    """A run folder with curves, an audit and a prediction of images whose IoU falls with their number."""
    run = tmp_path / "train_log" / "a<b>&c" / "run"
    lines, maps = [], {}
    for number in range(8):
        label = np.zeros((32, 32), np.uint8)
        label[4:24, 4:24] = 1
        scores = np.full(label.shape, 0.1, np.float32)
        scores[4:24, 4 : 24 - 2 * number] = 0.9
        image, label_path = tmp_path / "images" / f"{number}.png", tmp_path / "labels" / f"{number}.png"
        write_image(image, rng.integers(0, 255, label.shape).astype(np.uint8))
        write_label(label_path, label)
        write_scores(run / "results" / "epoch_2" / "pred" / f"{number}.tif", scores)
        lines.append(f"{image}\t{label_path}\n")
        maps[str(image)] = f"pred/{number}.tif"
    (tmp_path / "list.txt").write_text("".join(lines))
    record = {"maps": maps, "list": str(tmp_path / "list.txt"), "threshold": 0.5, "num_classes": 1, "run": str(run)}
    write_json(run / "results" / "epoch_2" / "predictions.json", record)
    write_json(run / "audit.json", {"verdict": "learnable", "iou_ceiling": 0.93})
    write_json(run / "config.json", {"dataset": "a<b>&c", "network": "unet", "lr": 0.05})
    for epoch in (1, 2):
        append_jsonl(run / "metrics.jsonl", {"epoch": epoch, "train/loss": 1 / epoch, "val/iou": 0.4 * epoch})
    return run


def read_data(page: str) -> dict:
    """What the script of a page works with."""
    return json.loads(re.search(r'id="data">(.*?)</script>', page, re.S)[1])


def decode(address: str) -> np.ndarray:
    assert address.startswith("data:image/")
    return cv2.imdecode(np.frombuffer(base64.b64decode(address.split(",")[1]), np.uint8), cv2.IMREAD_UNCHANGED)


def test_the_report_is_one_whole_escaped_file(run):
    evaluate_maps(run / "results" / "epoch_2")
    page = (run / "results" / "epoch_2" / "report.html").read_text()
    checker = Checker()
    checker.feed(page)
    assert checker.open == []
    assert all(source.startswith("#") for source in checker.sources)
    assert "a&lt;b&gt;&amp;c/run" in page and "<b>&c" not in page
    assert "verdict: learnable</b> · IoU ceiling 0.93" in page and "network unet" in page
    assert not re.search(r"https?://", page)
    assert page.count("<svg") == page.count("</svg>") == 8  # training, validation, classic, IoU, four of the scores
    assert page.count('<tr data-image="') == 8


def test_the_page_draws_from_the_very_scores(run, tmp_path):
    evaluate_maps(run / "results" / "epoch_2")
    images = read_data((run / "results" / "epoch_2" / "report.html").read_text())["images"]
    assert len(images) == 8
    for number, shown in enumerate(images):
        label = read_label(tmp_path / "labels" / f"{number}.png")
        scores = read_image(run / "results" / "epoch_2" / "pred" / f"{number}.tif")
        assert (decode(shown["label"]) == label).all() and shown["size"] == [32, 32]
        assert (decode(shown["maps"][0]) == np.floor(scores.astype(float) * 255)).all() and shown["masks"] == [None]
        image = read_image(tmp_path / "images" / f"{number}.png")
        assert np.corrcoef(decode(shown["image"]).ravel(), image.ravel())[0, 1] > 0.9  # JPEG


def test_the_first_sentence_says_what_matters(run):
    summary = evaluate_maps(run / "results" / "epoch_2")
    page = (run / "results" / "epoch_2" / "report.html").read_text()
    sentence = html.unescape(re.sub("<.*?>", "", re.search(r'id="sentence">(.*?)</p>', page, re.S)[1]))
    best, value = max(summary["classic"]["iou"].items(), key=lambda item: item[1])
    assert sentence.startswith("The labels teach the structure; the network reaches an IoU of 0.650 on 8 images (")
    assert f"the best quick classic method, {METHODS[best]}, reaches {value:.3f}" in sentence
    # IoU falls with the number of the image
    assert sentence.split("Look at these 5 images first: ")[1].split() == [
        "7.png,",
        "6.png,",
        "5.png,",
        "4.png,",
        "3.png.",
    ]
    assert "IoU 0.300: misses 70 % of the foreground" in page


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.5, 1 / 255, 0.7071, 1.0])
def test_no_score_changes_its_side_in_eight_bits(rng, threshold):
    scores = np.append(rng.random(10_000), [0, threshold, np.nextafter(threshold, 0), 1]).astype(np.float32)[None]
    assert ((quantize_scores(scores, threshold) >= 255 * threshold) == (scores >= threshold)).all()


def test_counts_of_the_slider_are_those_of_the_threshold(rng):
    scores, label = rng.random((50, 50)), (rng.random((50, 50)) < 0.3).astype(np.uint8)
    counts = threshold_counts(score_histogram(scores, label))
    for level in (0, 1, 100, 254):
        expected = confusion_counts(scores >= level / 255, label)
        assert [counts[name][level] for name in ("tp", "fp", "fn")] == [expected.tp, expected.fp, expected.fn]


def test_a_page_of_many_images_stays_small(run, monkeypatch):
    monkeypatch.setattr(pictures, "PAGE_BYTES", 60_000)
    evaluate_maps(run / "results" / "epoch_2")
    images = read_data((run / "results" / "epoch_2" / "report.html").read_text())["images"]
    assert sum(map(pictures.text_length, images)) < 60_000
    monkeypatch.setattr(pictures, "MAX_PICTURES", 6)
    evaluate_maps(run / "results" / "epoch_2")
    images = read_data((run / "results" / "epoch_2" / "report.html").read_text())["images"]
    assert sum(image is None for image in images) == 2


def test_equal_figures_make_an_equal_drawing(rng):
    first, second = (charts.confusion(np.eye(3)) for _ in range(2))
    assert to_svg(first, "a") == to_svg(second, "a")


def test_a_report_without_a_run_and_of_one_empty_image_is_written(tmp_path):
    write_image(tmp_path / "images" / "7.png", np.full((20, 30), 9, np.uint8))
    write_label(tmp_path / "labels" / "7.png", np.zeros((20, 30), np.uint8))
    write_scores(tmp_path / "maps" / "7.tif", np.zeros((20, 30), np.float32))
    (tmp_path / "list.txt").write_text(f"{tmp_path}/images/7.png\t{tmp_path}/labels/7.png\n")
    evaluate_maps(tmp_path / "maps", str(tmp_path / "list.txt"), out=tmp_path / "out")
    page = (tmp_path / "out" / "report.html").read_text()
    assert "(IoU = F1 = 1): 1." in page and "verdict" not in page.split("</style>")[1].split("<script")[0]
    assert "there is nothing to find" in page
    assert [path.name for path in (tmp_path / "out" / "overlays").iterdir()] == ["best_1_7.png"]
    assert not (tmp_path / "maps" / "metrics.json").exists()


def test_several_classes_have_their_report(tmp_path, rng):
    label = rng.integers(0, 3, (20, 30)).astype(np.uint8)
    write_image(tmp_path / "images" / "7.png", np.full((20, 30), 9, np.uint8))
    write_label(tmp_path / "labels" / "7.png", label, 3)
    write_image(tmp_path / "maps" / "7.png", label)
    (tmp_path / "list.txt").write_text(f"{tmp_path}/images/7.png\t{tmp_path}/labels/7.png\n")
    evaluate_maps(tmp_path / "maps", str(tmp_path / "list.txt"), num_classes=3)
    page = (tmp_path / "maps" / "report.html").read_text()
    checker = Checker()
    checker.feed(page)
    assert checker.open == [] and page.count("<svg") == 2 and "Confusion" in page and "<td>1.00</td>" in page
    assert (decode(read_data(page)["images"][0]["maps"][0]) == label).all()


def test_a_report_is_made_anew_from_its_files(run, capsys):
    written = run / "results" / "epoch_2" / "report.html"
    evaluate_maps(run / "results" / "epoch_2", threshold=0.05)
    before = read_data(written.read_text())
    written.unlink()
    main(["--train_dir", str(run)])
    after = read_data(written.read_text())
    assert after == before and after["runs"][0]["threshold"] == 0.05


def test_runs_stand_side_by_side(run, tmp_path):
    other = run.with_name("other")
    shutil.copytree(run, other)
    record = read_json(other / "results" / "epoch_2" / "predictions.json")
    write_json(other / "results" / "epoch_2" / "predictions.json", {**record, "run": str(other)})
    write_scores(other / "results" / "epoch_2" / "pred" / "7.tif", np.zeros((32, 32), np.float32))
    for each in (run, other):
        evaluate_maps(each / "results" / "epoch_2")
    main(["--train_dir", str(run), str(other), "--out", str(tmp_path / "both.html")])
    page = (tmp_path / "both.html").read_text()
    assert "Of 2 runs run reaches the highest IoU, 0.650, other 0.613." in page
    assert re.search(r'data-image="7">.*?0\.300</td>.*?0\.00</td>.*?-0\.3000</td>', page, re.S)
    assert [len(image["maps"]) for image in read_data(page)["images"]] == [2] * 8


@pytest.mark.parametrize(("given", "offset"), [(None, 1.0), (0.5, 0.0), (0.4, 0.0)])
def test_a_report_made_anew_moves_outlines_as_the_metrics_did(run, given, offset):
    folder = run / "results" / "epoch_2"
    record = read_json(folder / "predictions.json")
    write_json(folder / "predictions.json", {**record, "mask_offset": 1.0})
    summary = evaluate_maps(folder, threshold=given, report=False)
    again = score_again(folder).summary
    assert summary["mask_offset"] == again["mask_offset"] == offset
    assert again["threshold"] == summary["threshold"] and again["pooled"] == summary["pooled"]
    if offset:
        assert "threshold 0.5000, outlines moved by +1 px" in rebuild_report([str(run)]).read_text()


def test_several_classes_are_told_by_their_mean_iou():
    runs: Any = [
        SimpleNamespace(name=name, binary=False, summary={"pooled": {"iou": iou}})
        for name, iou in zip("ab", (0.2, 0.3), strict=True)
    ]
    assert first_sentence(runs) == "Of 2 runs b reaches the highest mean IoU, 0.300, a 0.200."


def test_of_several_scored_predictions_the_one_dated_last_is_taken_and_named(run, capsys):
    shutil.copytree(run / "results/epoch_2", run / "results/epoch_1")
    for name, seconds in (("epoch_1", 2000), ("epoch_2", 1000)):
        evaluate_maps(run / "results" / name, report=False)
        os.utime(run / "results" / name / "metrics.json", (seconds, seconds))
    assert find_results(str(run)) == run / "results/epoch_1"
    assert "of 2 scored predictions the one dated last: epoch_1 (--results NAME" in capsys.readouterr().out
    assert find_results(str(run), "epoch_2") == run / "results/epoch_2" and not capsys.readouterr().out


def test_what_cannot_be_reported_is_named(run, tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        rebuild_report(["nowhere/run"])
    with pytest.raises(UserError, match=r"epoch_2 of .* was not scored; .*evaluation/metrics\.py --prd_dir"):
        rebuild_report([str(run)], results="epoch_2")
    with pytest.raises(UserError, match=r"no prediction of .* was scored; .*evaluation/metrics\.py --prd_dir"):
        rebuild_report([str(run)])
    evaluate_maps(run / "results" / "epoch_2")
    with pytest.raises(UserError, match="more than once"):
        rebuild_report([str(run), str(run)])
    with pytest.raises(UserError, match="--results epoch_9: .* has epoch_2"):
        rebuild_report([str(run)], results="epoch_9")
    (tmp_path / "mine.html").write_text("<!doctype html>precious")
    with pytest.raises(UserError, match=r"mine\.html exists and is no report"):
        rebuild_report([str(run)], out=tmp_path / "mine.html")
    assert (tmp_path / "mine.html").read_text() == "<!doctype html>precious"
    assert rebuild_report([str(run)], out=tmp_path / "page.html") == rebuild_report(
        [str(run)], out=tmp_path / "page.html"
    )
    figures = run / "results/epoch_2/metrics.json"
    for broken in ("3", '"x"', '{"num_classes": "1"}', json.dumps({**read_json(figures), "reading": {"channels": 1}})):
        figures.write_text(broken)
        with pytest.raises(UserError, match=r"metrics\.json.*run evaluation/metrics\.py again"):
            rebuild_report([str(run)])
    (tmp_path / "bare").mkdir()
    with pytest.raises(UserError, match="has no predictions; .*inference"):
        rebuild_report([str(tmp_path / "bare")])


def test_examples_are_best_median_and_worst(run):
    evaluate_maps(run / "results" / "epoch_2")
    names = sorted(path.name for path in (run / "results" / "epoch_2" / "overlays").iterdir())
    assert names == [
        "best_1_0.png",
        "best_2_1.png",
        "median_1_3.png",
        "median_2_4.png",
        "worst_1_6.png",
        "worst_2_7.png",
    ]
    evaluate_maps(run / "results" / "epoch_2", threshold=0.05)  # now all images are equal
    assert len(list((run / "results" / "epoch_2" / "overlays").iterdir())) == 6


@pytest.mark.parametrize("count", range(7))
def test_no_example_is_shown_twice(count):
    results = [
        ImageResult(Sample(Path(f"{n}"), None, f"{n}", 1), Path(f"{n}"), None, None, {"iou": n / 10}, False)
        for n in range(count)
    ]
    results.append(ImageResult(Sample(Path("x"), None, "x", 1), Path("x"), None, None, {"iou": float("nan")}, False))
    chosen = [result.sample.image_id for _, result in choose_examples(results)]
    assert len(chosen) == len(set(chosen)) == min(count, 6) and "x" not in chosen


# overlays


def test_error_colors_say_what_happened():
    image = np.zeros((2, 3), np.uint8)
    prediction, label = np.array([[1, 0, 1], [0, 1, 2]]), np.array([[1, 1, 0], [0, IGNORE, 1]], np.uint8)
    shown = overlays.show_errors(image, prediction, label).tolist()
    half = [128, 128, 128]
    assert shown[0] == [half, list(overlays.MISSED), list(overlays.INVENTED)]
    assert shown[1] == [[0, 0, 0], list(overlays.IGNORED), list(overlays.INVENTED)]


@pytest.mark.parametrize("shape", [(40, 60), (40, 60, 3), (900, 300)])
@pytest.mark.parametrize("num_classes", [1, 5])
def test_panels_fit_any_image(rng, shape, num_classes):
    image = (rng.random(shape) * 4000).astype(np.uint16)
    label = rng.integers(0, max(num_classes, 2), shape[:2]).astype(np.uint8)
    label[0] = IGNORE
    prediction = rng.random(shape[:2]).astype(np.float32) if num_classes == 1 else label % 5
    for given, count in ((label, 4), (None, 3)):
        row = overlays.panels(image, given, prediction, 0.5, num_classes, max_side=300)
        height, width = (300, 100) if shape[0] == 900 else shape[:2]
        assert row.dtype == np.uint8 and row.shape == (height, count * width + (count - 1) * overlays.GAP, 3)


def test_every_class_has_a_color_of_its_own():
    colors = overlays.class_colors(40)
    assert colors.shape == (40, 3) and len(np.unique(colors, axis=0)) == 40 and (colors[0] == 0).all()
    assert (overlays.class_colors(3) == colors[:3]).all()


@pytest.mark.parametrize("value", [0, 7.5])
def test_a_constant_image_can_be_shown(value):
    assert overlays.show_image(np.full((4, 4), value, np.float32)).shape == (4, 4, 3)


def test_pictures_of_different_sizes_stack():
    pictures = [np.zeros((4, 5, 3), np.uint8), np.zeros((6, 2, 3), np.uint8)]
    assert overlays.beside(pictures).shape == (6, 7 + overlays.GAP, 3)
    assert overlays.beside(pictures, axis=0).shape == (10 + overlays.GAP, 5, 3)


def test_headings_and_legends_are_as_wide_as_what_they_stand_at():
    for width in (60, 300, 901):
        headings = overlays.heading_strip(("image", "label", "errors"), width)
        assert headings.shape == (overlays.STRIP, width, 3)
        legend = overlays.legend_strip({"missed": overlays.MISSED, "invented": overlays.INVENTED}, width)
        assert legend.shape[0] % overlays.STRIP == 0 and legend.shape[1:] == (width, 3)
        for color in (overlays.MISSED, overlays.INVENTED):
            assert (legend == color).all(axis=2).sum() > 50
    parts = np.split(overlays.heading_strip(("a", "b"), 196).min(axis=(0, 2)), [100])
    assert all(part.min() < 128 for part in parts)  # a name stands above each panel


@pytest.mark.parametrize(("low", "high", "said"), [(0.7, 0.8, ", less than that"), (0.5, 0.6, ", more than that")])
def test_the_sentence_says_where_the_audit_was_wrong(low, high, said):
    assert than_expected(0.65, {"predicted_iou_low": low, "predicted_iou_high": high}) == said
    assert than_expected(0.65, {"predicted_iou_low": 0.6, "predicted_iou_high": 0.7}) == than_expected(0.65, {}) == ""


@pytest.mark.parametrize(
    ("verdicts", "said"),
    [
        (["learnable"] * 3, "The labels teach the structure, by the audits of 3 parts: "),
        (
            ["learnable", "inverted", "learnable"],
            "In 2 of 3 parts the labels teach the structure, in 1 of 3 parts the ",
        ),
        ([], "What the labels teach was not audited; "),
    ],
)
def test_a_cross_fit_is_told_by_the_audits_of_its_parts(run, verdicts, said):
    folder = run / "results" / "epoch_2"
    parts = [run.parent / "f" / f"fold_{number}" for number in (1, 2, 3)]
    for part, verdict, predicted in zip(parts, verdicts, (0.6, 0.7, 0.8), strict=False):
        bounds = {"predicted_iou_low": predicted - 0.1, "predicted_iou_high": predicted + 0.1}
        write_json(part / "audit.json", {"verdict": verdict, "predicted_iou": predicted, "iou_ceiling": 0.9, **bounds})
    record = {name: value for name, value in read_json(folder / "predictions.json").items() if name != "run"}
    write_json(folder / "predictions.json", {**record, "out_of_fold": True, "runs": [str(part) for part in parts]})
    evaluate_maps(folder)
    page = html.unescape((folder / "report.html").read_text())
    sentence = re.search(r'id="sentence">(.*?)</p>', page, re.S)[1]
    assert sentence.startswith(said) and "<title>a<b>&c/f</title>" in page
    assert ("an IoU of 0.70 (0.50 to 0.90) with the truth was to be expected" in sentence) == bool(verdicts)
    assert "against these very labels the network reaches an IoU of 0.650 on 8 images" in sentence
    assert "than that" not in sentence and "what the audit foretold" not in page
    lines = [
        f"Audit of the training labels of fold_{number}: <b>verdict: {verdict}"
        for number, verdict in enumerate(verdicts, 1)
    ]
    assert all(line in page for line in lines) and page.count("Audit of the training labels") == len(lines)
