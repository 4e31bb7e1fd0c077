"""Inference on a small run folder: names, sizes, tiles, inversion, lists, wrong use."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from datasets.image_io import read_image, read_label, read_scores, write_image
from datasets.transforms import normalize
from evaluation.inference import main
from evaluation.prediction import MapSettings, Picture, Predictor, find_checkpoint, load_network, predict_pictures
from evaluation.prediction.score_maps import band_writer
from evaluation.prediction.tiling import predict_bands
from models import build_network, to_scores
from utils.checkpoint import save_checkpoint
from utils.cli import Progress, UserError
from utils.files import read_json

SIZES = {"7": (64, 64), "8": (33, 47), "9": (64, 64), "10": (150, 97)}


def write_images(folder: Path, sizes: dict[str, tuple[int, int]] = SIZES, seed: int = 0) -> list[Path]:
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    for name, size in sizes.items():
        cv2.imwrite(str(folder / f"{name}.png"), rng.integers(0, 255, size, np.uint8))
    return [folder / f"{name}.png" for name in sizes]


def make_run(root: Path, test_list: Path | None = None, invert: bool = False, **config: object) -> Path:
    """A run folder with a tiny untrained network, its last epoch 3 and its best epoch 2."""
    run = root / "train_log" / "set" / "run"
    config = {
        "dataset": "set",
        "network": "unet",
        "network_options": {"width": 2, "init": "kaiming"},
        "in_channels": 1,
        "num_classes": 1,
        "ignore_index": None,
        "normalization": "zscore",
        "data_root": None,
        "test_list": None if test_list is None else str(test_list),
        **config,
    }
    torch.manual_seed(0)
    network = build_network("unet", config["in_channels"], config["num_classes"], width=2, init="kaiming")
    for name, epoch in (("epoch_2", 2), ("best", 2), ("last", 3)):
        state = {
            "model": network.state_dict(),
            "optimizer": {},
            "scheduler": {},
            "scaler": {},
            "epoch": epoch,
            "best": {"epoch": 2, "figure": 0.5},
            "rng": {},
            "config": config,
            "pred_invert": invert,
            "threshold": 0.4 if config["num_classes"] == 1 else None,
        }
        save_checkpoint(run / "checkpoints" / f"{name}.pth", state)
    return run


def write_list(path: Path, images: list[Path], label: bool = False) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{image}\t{image}\n" if label else f"{image}\n" for image in images))
    return path


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    return write_images(tmp_path / "images")


@pytest.fixture
def run(tmp_path: Path, images: list[Path]) -> Path:
    return make_run(tmp_path, write_list(tmp_path / "lists" / "test.txt", images, label=True))


def predict(run: Path, *arguments: object) -> None:
    main(["--train_dir", str(run), "--device", "cpu", "--precision", "fp32", *map(str, arguments)])


def test_maps_are_the_scores_of_the_network_whatever_batch_and_size(run, images):
    predict(run)
    network, checkpoint, epoch = load_network(run, "best")
    assert epoch == checkpoint["epoch"] == 2
    record = read_json(run / "results" / "epoch_2" / "predictions.json")
    assert record["threshold"] == 0.4 and record["inverted"] is False and record["epoch"] == 2
    assert list(record["maps"]) == [str(image) for image in images]
    for image in images:
        scores = read_scores(run / "results" / "epoch_2" / record["maps"][str(image)])
        assert list(scores.shape) == record["sizes"][str(image)] and scores.dtype == np.float32
        with torch.inference_mode():
            alone = to_scores(network(torch.from_numpy(normalize(read_image(image)))[None]))[0, 0].numpy()
        assert scores == pytest.approx(alone, abs=1e-5)


@pytest.mark.parametrize(("told", "expected"), [("auto", "bf16"), ("fp16", "bf16"), ("fp32", "fp32")])
def test_auto_is_the_fastest_arithmetic_unless_the_run_was_told_fp32(tmp_path, images, monkeypatch, told, expected):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True}, raising=False)
    run = make_run(tmp_path, precision=told)
    predict(run, "--input", images[0], "--precision", "auto")
    assert read_json(run / "results" / "epoch_2_images" / "predictions.json")["precision"] == expected


def test_last_and_numbers_name_the_completed_epoch(run, capsys):
    predict(run, "--test_ckpt_epoch", "last")
    assert sorted(path.name for path in (run / "results" / "epoch_3" / "pred").iterdir()) == sorted(
        f"{name}.tif" for name in SIZES
    )
    said = capsys.readouterr().out
    assert "4 images of epoch 3" in said
    assert f"python evaluation/metrics.py --prd_dir {run / 'results' / 'epoch_3' / 'pred'}\n" in said
    assert find_checkpoint(run, "2").name == "epoch_2.pth"
    assert find_checkpoint(run, "3").name == "last.pth"


def test_an_unknown_checkpoint_lists_those_that_exist(run):
    for which in ("7", "newest", "../best"):
        with pytest.raises(UserError, match=f"{which}'; --test_ckpt_epoch can be: 2, last, best"):
            predict(run, "--test_ckpt_epoch", which)


def test_inverted_runs_write_the_complement(tmp_path, images, run):
    predict(run)
    inverted = make_run(tmp_path / "second", tmp_path / "lists" / "test.txt", invert=True)
    predict(inverted, "--masks")
    for name in SIZES:
        scores = read_scores(run / "results" / "epoch_2" / "pred" / f"{name}.tif")
        turned = read_scores(inverted / "results" / "epoch_2" / "pred" / f"{name}.tif")
        assert (turned == 1 - scores).all()
        mask = read_label(inverted / "results" / "epoch_2" / "masks" / f"{name}.png")
        assert (mask == (turned >= 0.4)).all()
    predict(inverted, "--pred_invert", "off")
    record = read_json(inverted / "results" / "epoch_2" / "predictions.json")
    assert record["inverted"] is False and record["threshold"] == 0.6
    assert (read_scores(inverted / "results" / "epoch_2" / "pred" / "7.tif") <= 1).all()


def test_large_images_are_tiled_and_older_results_removed(run):
    predict(run, "--overlays", 1)
    whole = read_scores(run / "results" / "epoch_2" / "pred" / "10.tif")
    assert (run / "results" / "epoch_2" / "overlays" / "7.png").is_file()
    predict(run, "--tile", 96, "--overlap", 48, "--masks")
    tiled = read_scores(run / "results" / "epoch_2" / "pred" / "10.tif")
    assert tiled.shape == whole.shape == SIZES["10"]
    network, _, _ = load_network(run)
    image = torch.from_numpy(normalize(read_image(run.parents[2] / "images" / "10.png")))
    bands = predict_bands(
        lambda tiles: to_scores(network(tiles)),
        lambda top, bottom: image[:, top:bottom],
        SIZES["10"],
        window=96,
        overlap=48,
    )
    with torch.inference_mode():
        expected = torch.cat([scores[0] for _, scores in bands]).numpy()
    assert tiled == pytest.approx(expected, abs=1e-5)
    assert read_label(run / "results" / "epoch_2" / "masks" / "10.png").shape == SIZES["10"]
    assert not (run / "results" / "epoch_2" / "overlays").exists()  # of the earlier prediction


def test_equal_stems_get_the_folder_and_input_takes_folders(tmp_path, run):
    write_images(tmp_path / "a", {"7": (20, 20), "1": (20, 20)})
    write_images(tmp_path / "b", {"7": (20, 20)}, seed=1)
    predict(run, "--input", tmp_path / "a", tmp_path / "b" / "7.png")
    folder = run / "results" / f"epoch_2_{tmp_path.name}"
    record = read_json(folder / "predictions.json")
    assert record["list"] is None
    assert list(record["maps"].values()) == ["pred/1.tif", "pred/a__7.tif", "pred/b__7.tif"]
    assert not (read_scores(folder / "pred/a__7.tif") == read_scores(folder / "pred/b__7.tif")).all()
    predict(run, "--input", tmp_path / "a")
    assert (run / "results" / "epoch_2_a" / "pred" / "7.tif").is_file()


def test_input_folders_are_followed_through_links_and_without_litter(tmp_path, run):
    write_images(tmp_path / "store", {"7": (20, 20)})
    write_images(tmp_path / "mine", {"9": (20, 20)})
    write_images(tmp_path / "mine/@eaDir/9.png", {"thumbnail": (20, 20)})
    (tmp_path / "mine/day1").symlink_to(tmp_path / "store")
    (tmp_path / "mine/up").symlink_to("..")
    predict(run, "--input", tmp_path / "mine")
    maps = read_json(run / "results" / "epoch_2_mine" / "predictions.json")["maps"]
    assert sorted(maps.values()) == ["pred/9.tif", "pred/day1/7.tif"]


def test_results_among_the_images_are_not_predicted_and_links_to_nothing_are_named(tmp_path, run):
    folder = tmp_path / "mine"
    write_images(folder, {"9": (20, 20)})
    write_images(folder / "day1", {"7": (20, 20)})
    for _ in range(2):
        predict(run, "--input", folder, "--out", folder, "--masks")
        predict(run, "--input", folder / "day1", "--out", folder / "day1", "--overlays", 1)
        assert sorted(read_json(folder / "predictions.json")["maps"].values()) == ["pred/9.tif", "pred/day1/7.tif"]
    (folder / "8.png").symlink_to(tmp_path / "unmounted/8.png")
    with pytest.raises(UserError, match=r"1 of 3 images could not .*\n.*mine/8\.png does not exist"):
        predict(run, "--input", folder, "--out", folder, "--masks")


def test_images_that_are_not_read_are_told(tmp_path, run, capsys):
    write_images(tmp_path / "mine", {"9": (20, 20)})
    for name in ("day1/7.czi", "8.ND2", "9.czi", "notes.json", "RoiSet.zip"):
        (tmp_path / "mine" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "mine" / name).write_bytes(b"")
    predict(run, "--input", tmp_path / "mine")
    said = capsys.readouterr().out
    assert "left out: 1 .czi file (7.czi); save" in said and "1 .nd2 file (8.ND2)" in said and "json" not in said


def test_another_list_has_its_own_folder(tmp_path, images, run):
    other = write_list(tmp_path / "lists" / "other.txt", images[:2])
    predict(run, "--data_list", other)
    record = read_json(run / "results" / "epoch_2_other" / "predictions.json")
    assert len(record["maps"]) == 2 and record["list"] == str(other)
    predict(run, "--data_list", tmp_path / "lists" / "test.txt")
    assert (run / "results" / "epoch_2" / "predictions.json").is_file()


def test_lists_of_the_run_that_are_gone_are_told_with_what_helps(tmp_path, images):
    run = make_run(tmp_path, tmp_path / "gone.txt", val_list="/elsewhere/val.txt")
    with pytest.raises(
        UserError, match=r"(?s)^the run's test list: .*gone\.txt.*\n.* give --data_list LIST, or --input"
    ):
        predict(run)
    with pytest.raises(UserError, match=r"(?s)^--calibrate needs the run's validation images: .*/elsewhere/val\.txt"):
        predict(run, "--input", images[0], "--calibrate")
    with pytest.raises(UserError, match="--save_scores does nothing for two classes"):
        predict(run, "--input", images[0], "--save_scores")


def test_several_classes_give_class_maps_and_scores_on_request(tmp_path, images):
    test_list = write_list(tmp_path / "lists" / "test.txt", images)
    swap = [[0.1, 0.9, 0.0], [0.9, 0.1, 0.0], [0.0, 0.0, 1.0]]
    run = make_run(tmp_path, test_list, num_classes=3)
    swapped = make_run(tmp_path / "second", test_list, num_classes=3, decode_matrix=swap)
    for each in (run, swapped):
        predict(each, "--save_scores", "--masks", "--overlays", 4, "--tile", 96, "--overlap", 32)
    for name, size in SIZES.items():
        classes = read_image(run / "results" / "epoch_2" / "pred" / f"{name}.tif")
        scores = read_scores(run / "results" / "epoch_2" / "scores" / f"{name}.tif")
        assert classes.dtype == np.uint8 and classes.shape == size and scores.shape == (3, *size)
        assert (classes == scores.argmax(0)).all() and scores.sum(0) == pytest.approx(1, abs=1e-5)
        assert (read_label(run / "results" / "epoch_2" / "masks" / f"{name}.png", 3) == classes).all()
        decoded = read_image(swapped / "results" / "epoch_2" / "pred" / f"{name}.tif")
        truth = np.einsum("mhw,mj->jhw", scores, np.linalg.inv(np.array(swap)))
        assert (decoded == truth.argmax(0)).mean() > 0.999
    with pytest.raises(UserError, match="several classes"):
        predict(run, "--pred_invert", "on")


def test_averaging_over_rotations_makes_the_scores_turn_with_the_image(run):
    network, _, _ = load_network(run)
    predictor = Predictor(network, torch.device("cpu"), augment=True)
    image = torch.randn(1, 1, 32, 48)
    turned = predictor(image.rot90(1, (-2, -1))).rot90(-1, (-2, -1))
    assert turned.numpy() == pytest.approx(predictor(image).numpy(), abs=1e-5)


def test_arithmetic_and_averaging_that_are_asked_for_are_used(tmp_path, images):
    run, maps = make_run(tmp_path), {}
    asked = {"fp32": (), "bf16": ("--precision", "bf16"), "tta": ("--tta",), "one": ("--batch_size", 1)}
    for name, given in asked.items():
        predict(run, "--input", images[0], *given)
        maps[name] = read_scores(next((run / "results" / "epoch_2_images" / "pred").iterdir()))
    assert maps["one"] == pytest.approx(maps["fp32"], abs=1e-5)
    assert 0 < np.abs(maps["bf16"] - maps["fp32"]).max() < 0.05
    network, _, _ = load_network(run)
    image = torch.from_numpy(normalize(read_image(images[0])))[None]
    averaged = Predictor(network, torch.device("cpu"), augment=True)(image)[0, 0].numpy()
    assert maps["tta"] == pytest.approx(averaged, abs=1e-5) and maps["tta"] != pytest.approx(maps["fp32"], abs=1e-4)


# wrong use


def test_wrong_input_is_named(tmp_path, run):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty is a folder without images"):
        predict(run, "--input", tmp_path / "empty")
    with pytest.raises(UserError, match=r"nothing\.tif does not exist"):
        predict(run, "--input", tmp_path / "nothing.tif")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    with pytest.raises(UserError, match=r"^--input: image .*broken\.png cannot"):
        predict(run, "--input", tmp_path / "broken.png")
    (tmp_path / "images.txt").write_text("broken.png\n")
    with pytest.raises(UserError, match=r"images\.txt: .* by --data_list"):
        predict(run, "--input", tmp_path / "images.txt")
    with pytest.raises(UserError, match="there is no list 'nowhere'"):
        predict(run, "--data_list", "nowhere")
    with pytest.raises(UserError, match="no run folder"):
        predict(tmp_path / "no_such_run")


def test_a_run_without_test_list_asks_for_images(tmp_path):
    with pytest.raises(UserError, match="--data_list LIST or --input FILES"):
        predict(make_run(tmp_path))


def test_weights_that_do_not_fit_are_refused(tmp_path, images):
    run = make_run(tmp_path, network_options={"width": 4})
    with pytest.raises(UserError, match=r"best\.pth does not hold the network"):
        predict(run, "--input", *images)


def test_the_command_ends_with_status_2_and_one_message(run_tool):
    answer = run_tool("evaluation/inference.py", "--train_dir", "nowhere/run")
    assert answer.returncode == 2 and answer.stdout == ""
    assert answer.stderr.startswith("error: nowhere/run is no run folder") and "Traceback" not in answer.stderr
    assert run_tool("evaluation/inference.py", "--train_dir", "x", "--overlap", "300").returncode == 2


# huge images


@pytest.mark.parametrize(("shape", "dtype"), [((50, 31), "float32"), ((3, 50, 31), "float32"), ((50, 31), "uint8")])
def test_maps_written_band_by_band_are_read_as_a_whole(tmp_path, rng, shape, dtype):
    values = (rng.random(shape) * 200).astype(dtype)
    with band_writer(tmp_path / "maps" / "7.tif", shape, dtype) as write:
        for top in (20, 0, 40):
            write(top, values[..., top : top + 20, :])
    read = read_image if dtype == "uint8" else read_scores
    assert (read(tmp_path / "maps" / "7.tif") == values).all()
    with pytest.raises(ZeroDivisionError), band_writer(tmp_path / "maps" / "8.tif", shape, dtype) as write:
        write(1 // 0, values)
    assert [path.name for path in (tmp_path / "maps").iterdir()] == ["7.tif"]


def test_a_huge_image_needs_little_memory_beyond_its_own_pixels(tmp_path, rng):
    side = 3000
    write_image(tmp_path / "huge.tif", rng.integers(0, 60_000, (side, side), np.uint16))
    picture = Picture(tmp_path / "huge.tif", "huge", (side, side))
    pointwise = torch.nn.Conv2d(1, 1, 1).eval()
    with Progress(1, "predicting") as progress:
        tracemalloc.start()
        predict_pictures(
            Predictor(pointwise, torch.device("cpu")), [picture], MapSettings(), tmp_path, window=256, progress=progress
        )
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert 2 * side**2 < peak < 2 * 4 * side**2  # more than its own 16 bits a pixel, less than two copies in float32
    scores = read_scores(tmp_path / "pred" / "huge.tif")
    image = torch.from_numpy(normalize(read_image(tmp_path / "huge.tif")))
    with torch.inference_mode():
        assert scores[100:110] == pytest.approx(to_scores(pointwise(image[None, :, 100:110]))[0, 0].numpy(), abs=1e-6)


def test_colour_read_as_grey_is_said_and_patterns_are_matched(tmp_path, run, capsys):
    folder = tmp_path / "colour"
    folder.mkdir()
    for name in ("10", "9"):
        view = np.dstack([np.full((48, 48), value, np.uint8) for value in (20, 90, 200)])
        write_image(folder / f"{name}.png", view)
    predict(run, "--input", folder / "*.png")
    assert "2 images are in colour and are read as grey" in capsys.readouterr().out
    record = read_json(run / "results" / "epoch_2_colour" / "predictions.json")
    assert [Path(name).stem for name in record["maps"]] == ["9", "10"]
    with pytest.raises(UserError, match=r"\*\.jpg does not exist"):
        predict(run, "--input", folder / "*.jpg")
