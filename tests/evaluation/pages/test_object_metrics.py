"""Objects, networks and µm in metrics: numbered labels, watershed, pixel sizes, what the files hold."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import tifffile
from scipy.ndimage import distance_transform_edt

from evaluation.metrics import evaluate_maps
from evaluation.pages.compare import compare_maps
from evaluation.scores import surface
from utils.files import read_json, write_json

SIDE = 64
CELLS = ((12, 14), (12, 27), (44, 20), (44, 50))  # the first two touch


def cells(shift: int = 0, missing: int | None = None) -> np.ndarray:
    """Numbered disks of radius 7."""
    y, x = np.mgrid[:SIDE, :SIDE]
    numbers = np.zeros((SIDE, SIDE), np.uint16)
    for number, (cy, cx) in enumerate(CELLS, start=1):
        if number != missing:
            numbers[((y - cy) ** 2 + (x - cx - shift) ** 2 < 50) & (numbers == 0)] = number
    return numbers


def write_data(root: Path, numbered: bool = True, **record: object) -> Path:
    """Two images with labels and maps; one cell of the first is missed, all of the second are moved by two pixels."""
    lines, maps = [], {}
    for folder in ("images", "labels", "pred"):
        (root / folder).mkdir()
    for number, found in enumerate((cells(missing=3), cells(shift=2))):
        label = cells() + np.uint16(40 * number) * (cells() > 0) if numbered else (cells() > 0).astype(np.uint8)
        how = {"imagej": True, "resolution": (4, 5), "metadata": {"unit": "um"}}
        tifffile.imwrite(root / f"images/{number}.tif", np.zeros((SIDE, SIDE), np.uint8), **how)
        tifffile.imwrite(root / f"labels/{number}.tif", label)
        tifffile.imwrite(root / f"pred/{number}.tif", (found > 0).astype(np.float32))
        lines.append(f"{root}/images/{number}.tif\t{root}/labels/{number}.tif\n")
        maps[f"{root}/images/{number}.tif"] = f"pred/{number}.tif"
    (root / "list.txt").write_text("".join(lines))
    content = {"maps": maps, "list": str(root / "list.txt"), "threshold": 0.5, "num_classes": 1, **record}
    write_json(root / "predictions.json", content)
    return root


def rows_of(root: Path) -> list[dict[str, str]]:
    with open(root / "per_image.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_numbered_labels_are_matched_by_the_recorded_method(tmp_path, capsys):
    root = write_data(tmp_path, instances={"method": "watershed", "min_area": 1, "objects": 7})
    figures = evaluate_maps(root, report=False)
    assert figures["objects"]["label"] == "numbered" and figures["objects"]["mask"] == "watershed"
    assert (figures["objects"]["labelled"], figures["objects"]["predicted"]) == (8, 7)
    first, second = rows_of(root)
    assert float(first["object_f1"]) == pytest.approx(2 * 3 / 7) and float(second["object_f1"]) == 1
    assert float(second["object_f1_mean"]) < 0.6  # moved by 2 of 7 pixels
    assert figures["objects"]["object_f1"] == pytest.approx(2 * 7 / 15)
    assert figures["objects"]["f1_by_iou"]["0.50"] == pytest.approx(2 * 7 / 15)
    assert (first["objects"], first["objects_label"], first["betti0_error"]) == ("3", "4", "1")
    said = capsys.readouterr().out
    assert "objects (numbered by the labels; of masks by watershed): 8 in labels, 7 in masks" in said


def test_the_method_may_be_given_and_without_one_touching_cells_are_one(tmp_path):
    root = write_data(tmp_path)
    assert evaluate_maps(root, report=False)["objects"]["predicted"] == 5
    assert evaluate_maps(root, report=False, instances="watershed")["objects"]["predicted"] == 7


@pytest.mark.parametrize("first", [0, 200])  # above half of a type's range, too
def test_maps_that_number_objects_keep_touching_ones_apart(tmp_path, capsys, first: int):
    root = write_data(tmp_path)
    (root / "predictions.json").unlink()  # of another program
    for number, found in enumerate((cells(missing=3), cells(shift=2))):
        tifffile.imwrite(root / f"pred/{number}.tif", np.where(found > 0, found + first + number, 0).astype(np.uint8))
    figures = evaluate_maps(root / "pred", str(root / "list.txt"), report=False)
    assert (figures["objects"]["labelled"], figures["objects"]["predicted"]) == (8, 7)
    assert figures["objects"]["object_f1"] == pytest.approx(2 * 7 / 15)
    assert figures["pooled"]["precision"] > 0.8
    assert "of masks as their maps number them): 8 in labels, 7 in masks" in capsys.readouterr().out
    assert (
        evaluate_maps(root, str(root / "list.txt"), report=False, instances="components")["objects"]["predicted"] == 5
    )


def test_of_plain_labels_both_sides_are_components(tmp_path):
    root = write_data(tmp_path, numbered=False, instances={"method": "watershed", "min_area": 1, "objects": 7})
    figures = evaluate_maps(root, report=False)
    assert figures["objects"]["label"] == figures["objects"]["mask"] == "components"
    assert (figures["objects"]["labelled"], figures["objects"]["predicted"]) == (6, 5)
    assert figures["per_image_mean"]["object_f1"]["mean"] == pytest.approx((4 / 5 + 1) / 2)


def test_distances_in_micrometres_follow_flat_pixels(tmp_path, capsys):
    root = write_data(tmp_path)
    figures = evaluate_maps(root, report=False)
    size = (1 / 5, 1 / 4)
    edge, label_edge = surface.boundary(cells(shift=2) > 0), surface.boundary(cells() > 0)
    forth = distance_transform_edt(~label_edge, sampling=size)[edge]
    back = distance_transform_edt(~edge, sampling=size)[label_edge]
    assert float(rows_of(root)[1]["hd95_um"]) == pytest.approx(
        max(np.percentile(forth, 95), np.percentile(back, 95)), rel=1e-5
    )
    assert "HD95 (µm)" in capsys.readouterr().out
    for path in (root / "images").iterdir():
        tifffile.imwrite(path, np.zeros((SIDE, SIDE), np.uint8))
    assert "hd95_um" not in evaluate_maps(root, report=False)["per_image_mean"]
    assert "HD95 (µm)" not in capsys.readouterr().out
    (root / "images/0.tif").write_bytes(b"II*\0 broken")  # scoring without a report needs labels and maps alone
    assert evaluate_maps(root, report=False)["n_images"] == 2
    assert "hd95" in read_json(root / "metrics.json")["per_image_mean"] and figures["per_image_mean"]["hd95_um"]


def test_objects_of_several_classes_are_counted_class_by_class(tmp_path, capsys):
    root = write_data(tmp_path, num_classes=4)
    for number, found in enumerate((cells(missing=3), cells(shift=2))):
        of_class = np.array([0, 1, 2, 2, 1])  # cells of either touch no other of their class; none is of class 3
        label, mask = of_class[cells()].astype(np.uint8), of_class[found].astype(np.uint8)
        label[-1, :], mask[-1, 5] = 255, 1  # an object where nothing counts
        tifffile.imwrite(root / f"labels/{number}.tif", label)
        tifffile.imwrite(root / f"pred/{number}.tif", mask)
    figures = evaluate_maps(root)
    assert [row["object_f1"] for row in figures["classes"]] == pytest.approx([np.nan, 1, 6 / 7, np.nan], nan_ok=True)
    mean = {name: figures["objects"][name] for name in ("object_f1", "labelled", "predicted")}
    assert mean == pytest.approx({"object_f1": (1 + 6 / 7) / 2, "labelled": 8, "predicted": 7})
    assert figures["per_image_mean"]["object_f1"]["mean"] == pytest.approx(((1 + 2 / 3) / 2 + 1) / 2)
    # moved by two pixels all match up to an IoU of 0.6 or so, unmoved ones at every threshold
    half, strict = (figures["classes"][1][name] for name in ("object_f1", "object_f1_mean"))
    assert 0.5 < strict < half == 1
    written = read_json(root / "metrics.json")
    assert written["classes"][0]["object_f1"] is None is written["classes"][3]["object_f1_mean"]
    first, second = rows_of(root)
    assert float(first["object_f1"]) == pytest.approx((1 + 2 / 3) / 2) and float(second["object_f1"]) == 1
    assert (first["objects"], first["objects_label"]) == ("3", "4")
    said = capsys.readouterr().out
    assert "mean object F1 (IoU 0.5)  " in said and "object F1 (IoU 0.5) 0.857  (" in said
    assert "objects (components): 8 in labels, 7 in masks" in said
    assert "<th>object F1 (IoU 0.5)</th>" in (root / "report.html").read_text()


def test_no_distance_exceeds_the_diagonal_and_no_error_the_pieces_that_fit(tmp_path):
    root = write_data(tmp_path)
    label, found = (np.zeros((SIDE, SIDE), np.uint8) for _ in range(2))
    label[:4, :4] = found[-4:, -4:] = 1
    found[::8, ::8] = 1
    for number, mask in enumerate((label, found)):
        tifffile.imwrite(root / f"labels/{number}.tif", label)
        tifffile.imwrite(root / f"pred/{number}.tif", mask.astype(np.float32))
    means = evaluate_maps(root, report=False)["per_image_mean"]
    assert means["hd95"]["mean"] > 30 and means["hd95"]["high"] == pytest.approx(
        63 * 2**0.5
    )  # of two images: Student's
    assert means["hd95_um"]["high"] == pytest.approx(63 * np.hypot(1 / 4, 1 / 5))
    assert means["betti0_error"]["mean"] > 30 and means["betti0_error"]["high"] <= 32**2
    (root / "right").mkdir()
    for number in range(2):
        tifffile.imwrite(root / f"right/{number}.tif", label.astype(np.float32))
    compared = compare_maps([root / "right", root / "pred"], str(root / "list.txt"), threshold=0.5, out=root / "out")
    assert compared["differences"][0]["hd95"]["high"] == pytest.approx(63 * 2**0.5)


def test_networks_are_held_against_those_of_the_label(tmp_path):
    root = write_data(tmp_path)
    label, found = (np.zeros((SIDE, SIDE), np.uint8) for _ in range(2))
    label[10:50:39, 10:50] = label[10:50, 10:50:39] = 1  # a square, 40 by 40
    found[:] = label
    found[20:30, 10] = 0  # cut open
    for number in range(2):
        tifffile.imwrite(root / f"labels/{number}.tif", label)
        tifffile.imwrite(root / f"pred/{number}.tif", (found if number == 0 else label).astype(np.float32))
    figures = evaluate_maps(root, report=False)
    first, second = rows_of(root)
    assert (first["betti0_error"], first["betti1_error"], second["betti1_error"]) == ("0", "1", "0")
    drawn, cut = float(first["skeleton_px_label"]), float(first["skeleton_px"])
    assert drawn == pytest.approx(4 * 39, abs=3) and drawn - cut == pytest.approx(11, abs=2)
    assert float(first["skeleton_length_error"]) == pytest.approx((drawn - cut) / drawn, rel=1e-4)
    lengths = {"skeleton_px": cut + drawn, "skeleton_px_label": 2 * drawn}
    assert figures["networks"] == pytest.approx(lengths, rel=1e-5)


def test_figures_agree_with_torchmetrics(rng):
    torch = pytest.importorskip("torch")
    torchmetrics = pytest.importorskip("torchmetrics.functional")
    from evaluation import scores as s

    label = rng.integers(0, 2, (SIDE, SIDE)).astype(np.uint8)
    values = (np.rint((0.4 * label + 0.6 * rng.random(label.shape)) * 64) / 64).astype(np.float32)
    histogram, counts = s.score_histogram(values, label), s.confusion_counts(values >= 0.5, label)
    pair = torch.tensor(values), torch.tensor(label, dtype=torch.int64)
    for name, ours in (
        ("jaccard_index", s.iou(counts)),
        ("f1_score", s.f1(counts)),
        ("accuracy", s.accuracy(counts)),
        ("precision", s.precision(counts)),
        ("recall", s.sensitivity(counts)),
        ("specificity", s.specificity(counts)),
        ("auroc", s.auc(histogram)),
        ("average_precision", s.average_precision(histogram)),
    ):
        # Their masks are of scores above the threshold, ours at or above it.
        theirs = getattr(torchmetrics, name)(torch.nextafter(pair[0], torch.tensor(2.0)).clamp(0, 1), pair[1], "binary")
        assert ours == pytest.approx(float(theirs), abs=1e-5), name


def test_hausdorff_agrees_with_scikit_image(rng):
    from skimage.metrics import hausdorff_distance

    for shift in (1, 3):
        found, label = cells(shift) > 0, cells() > 0
        forth, back = surface.boundary_distances(found, label)
        expected = hausdorff_distance(surface.boundary(found), surface.boundary(label))
        assert max(forth.max(), back.max()) == pytest.approx(expected)
        assert surface.hd95(found, label) <= expected
