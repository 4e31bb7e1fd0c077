"""What the values of labels mean: sets of every kind that people have, read as they look, or refused by name."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from datasets.image_io import read_label, read_stored_label
from datasets.label_maps import LabelMap
from datasets.label_summary import summarize
from datasets.label_values import LabelReading, decide_reading
from datasets.labels import IGNORE
from datasets.list_checks import Expectation
from datasets.lists import read_checked_lists, write_list
from utils.cli import UserError

SIDE = 64
FIRST = np.arange(SIDE**2).reshape(SIDE, SIDE) == 3  # a single pixel
FULL = np.full((SIDE, SIDE), 255, np.uint8)


def numbered(seed: int, count: int = 4) -> np.ndarray:
    """Disks that do not touch, numbered from 1, int64 (SIDE, SIDE)."""
    rng = np.random.default_rng(seed)
    label = np.zeros((SIDE, SIDE), int)
    for number, place in enumerate(rng.permutation(9)[:count], start=1):
        y, x = np.mgrid[:SIDE, :SIDE]
        label[(y - 11 - 21 * (place // 3)) ** 2 + (x - 11 - 21 * (place % 3)) ** 2 < rng.integers(5, 9) ** 2] = number
    return label


def mask(seed: int) -> np.ndarray:
    return numbered(seed) > 0


def mask8(seed: int) -> np.ndarray:
    return mask(seed).astype(np.uint8) * np.uint8(255)


def picture(array: np.ndarray, kind: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    Image.fromarray(array).save(file, kind, **options)
    return file.getvalue()


def palette(indices: np.ndarray, colors: list[int], kind: str = "PNG") -> bytes:
    image = Image.frombytes("P", indices.shape[::-1], indices.astype(np.uint8).tobytes())
    image.putpalette(colors)
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


def tiff(array: np.ndarray, **options) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, array, **options)
    return file.getvalue()


def blurred(seed: int, sigma: float) -> np.ndarray:
    return cv2.GaussianBlur(mask8(seed), (0, 0), sigma)


def distances(seed: int, highest: int) -> np.ndarray:
    """The distance of small disks' pixels from their edges, scaled to ``highest``."""
    distance = cv2.distanceTransform(mask8(seed), cv2.DIST_L2, cv2.DIST_MASK_5)
    return (distance * highest / distance.max()).astype(np.uint8 if highest == 255 else np.uint16)


def resized(seed: int, side: int) -> np.ndarray:
    return np.asarray(Image.fromarray(mask8(seed)).resize((side, side), Image.Resampling.BILINEAR))


def trimap(seed: int, band: int) -> np.ndarray:
    """0 and 1 with a band of ``band`` around the objects."""
    window = np.ones((5, 5), np.uint8)
    inner, outer = cv2.erode(mask8(seed), window), cv2.dilate(mask8(seed), window)
    return np.where(inner > 0, 1, np.where(outer > 0, band, 0)).astype(np.uint8)


def colored(seed: int) -> np.ndarray:
    return np.dstack([mask8(seed), mask8(seed) // 2, np.zeros_like(mask8(seed))])


def make_list(folder: Path, labels: list[bytes], name: str = "train", side: int = SIDE) -> Path:
    """A list of images with these label files."""
    pairs = []
    for number, content in enumerate(labels):
        image, label = folder / f"{name}{number}.png", folder / f"{name}{number}_label.png"
        label.write_bytes(content)
        Image.fromarray(np.full((side, side), 60 + number, np.uint8)).save(image)
        pairs.append((image, label))
    write_list(folder / f"{name}.txt", pairs, folder)
    return folder / f"{name}.txt"


def read_set(
    folder: Path, labels: list[bytes], side: int = SIDE, **options
) -> tuple[list[np.ndarray], LabelReading, str]:
    """The labels of a training list as a run reads them, the decision, and what was said."""
    said: list[str] = []
    expected = Expectation.of(**options)
    (found,), reading = read_checked_lists(
        [make_list(folder, labels, side=side)], expected, root=folder, say=said.append
    )
    read = [read_label(sample.require_label(), reading=sample.reading) for sample in found.samples]
    return read, reading, "\n".join(said)


PLAIN = {
    "0/255": lambda seed: picture(mask8(seed)),
    "0/1": lambda seed: picture(mask(seed).astype(np.uint8)),
    "0/200": lambda seed: picture(mask8(seed) // 255 * np.uint8(200)),
    "0/1 beside 0/255": lambda seed: picture(mask8(seed) if seed % 2 else mask(seed).astype(np.uint8)),
    "1-bit PNG": lambda seed: picture(mask(seed)),
    "1-bit PNG beside 0/1": lambda seed: picture(mask(seed) if seed % 2 else mask(seed).astype(np.uint8)),
    "grey with alpha": lambda seed: picture(np.dstack([mask8(seed), FULL])),
    "RGB of equal channels": lambda seed: picture(np.dstack([mask8(seed)] * 3)),
    "RGBA of equal channels": lambda seed: picture(np.dstack([mask8(seed)] * 3 + [FULL])),
    "uint16 0/65535": lambda seed: tiff(mask(seed) * np.uint16(65535)),
    "float 0/1": lambda seed: tiff(mask(seed).astype(np.float32)),
    "bool TIFF": lambda seed: tiff(mask(seed)),
    "1-bit TIFF": lambda seed: picture(mask(seed), "TIFF", compression="group4"),
    "1-bit MinIsWhite TIFF": lambda seed: picture(mask(seed), "TIFF", compression="group4", tiffinfo={262: 0}),
    "8-bit MinIsWhite TIFF": lambda seed: tiff(mask8(seed), photometric="miniswhite"),
    "black and white palette": lambda seed: palette(mask(seed), [0, 0, 0, 255, 255, 255]),
    "white and black palette": lambda seed: palette(~mask(seed), [255, 255, 255, 0, 0, 0]),
    "white and black GIF": lambda seed: palette(~mask(seed), [255, 255, 255, 0, 0, 0], "GIF"),
    "white and black BMP": lambda seed: palette(~mask(seed), [255, 255, 255, 0, 0, 0], "BMP"),
    "dark and light grey palette": lambda seed: palette(mask(seed), [60, 60, 60, 200, 200, 200]),
    "palette of colours": lambda seed: palette(mask(seed), [200, 0, 0, 0, 0, 90]),
    "instances of 8 bits": lambda seed: picture(numbered(seed, 3 + seed % 3).astype(np.uint8)),
    "instances of 32 bits": lambda seed: tiff(numbered(seed, 3 + seed % 3).astype(np.int32)),
    "instances in floats": lambda seed: tiff(numbered(seed, 3 + seed % 3).astype(np.float32)),
    "instances numbered over the set": lambda seed: tiff((numbered(seed) + 40 * seed * mask(seed)).astype(np.uint16)),
    "one object an image, numbered": lambda seed: picture(((numbered(seed) == 1) * (seed + 3)).astype(np.uint8)),
}


@pytest.mark.parametrize("kind", PLAIN)
def test_labels_are_read_as_they_look(kind: str, tmp_path: Path):
    labels, reading, _ = read_set(tmp_path, [PLAIN[kind](seed) for seed in range(6)])
    for seed, label in enumerate(labels):
        expected = mask(seed)
        if "instances" in kind:
            expected = numbered(seed, 3 + seed % 3 if "numbered over" not in kind else 4) > 0
        elif "one object" in kind:
            expected = numbered(seed) == 1
        np.testing.assert_array_equal(label == 1, expected)
        assert set(np.unique(label)) <= {0, 1}
    assert reading.objects == ("instances" in kind or "one object" in kind)
    assert reading.cut is None


SMEARED = {
    **{f"JPEG of quality {q}": (lambda seed, q=q: picture(mask8(seed), "JPEG", quality=q)) for q in (10, 50, 75, 95)},
    "one stray value": lambda seed: picture(np.where(FIRST, 1, mask8(seed)).astype(np.uint8)),
    "254 and 255": lambda seed: picture(mask8(seed) - np.uint8(seed % 2) * mask(seed)),
    "anti-aliased": lambda seed: picture(blurred(seed, 0.7)),
}


@pytest.mark.parametrize("kind", SMEARED)
def test_smeared_masks_are_cut_at_half_and_that_is_said(kind: str, tmp_path: Path):
    labels, reading, said = read_set(tmp_path, [SMEARED[kind](seed) for seed in range(6)])
    assert reading.cut == 127.5
    read, true = (np.mean([part.mean() for part in parts]) for parts in (labels, [mask(seed) for seed in range(6)]))
    assert abs(read - true) < 0.02 * true
    assert "labels hold values between 0 and 255" in said and "JPEG" in said


def test_jpeg_masks_that_overshoot_or_have_flat_blocks_are_cut(tmp_path: Path):
    labels, _, _ = read_set(tmp_path, [picture(mask8(seed) // 255 * np.uint8(128), "JPEG") for seed in range(6)])
    assert all(np.mean(label != mask(seed)) < 0.01 for seed, label in enumerate(labels))
    coarse = [picture(np.kron(mask8(seed), np.ones((4, 4), np.uint8)), "JPEG", quality=20) for seed in range(6)]
    labels, _, _ = read_set(tmp_path, coarse, side=4 * SIDE)
    assert all(np.mean(label[::4, ::4] != mask(seed)) < 0.01 for seed, label in enumerate(labels))


@pytest.mark.parametrize("side", [SIDE // 2, SIDE * 3 // 2, SIDE * 4])
def test_resized_masks_keep_their_share_of_foreground(side: int, tmp_path: Path):
    labels, _, _ = read_set(tmp_path, [picture(resized(seed, side)) for seed in range(6)], side)
    read, true = (np.mean([part.mean() for part in parts]) for parts in (labels, [mask(seed) for seed in range(6)]))
    assert abs(read - true) < 0.05 * true


def test_an_empty_jpeg_among_others_stays_empty(tmp_path: Path):
    files = [picture(FULL * 0, "JPEG"), *(picture(mask8(s), "JPEG") for s in range(4))]
    labels, _, _ = read_set(tmp_path, files)
    assert not labels[0].any() and all(label.any() for label in labels[1:])


REFUSED = {
    "Ilastik's 1 and 2": (lambda seed: picture(mask(seed).astype(np.uint8) + 1), ["no background", "1, 2"]),
    "1 and 255": (lambda seed: picture(mask8(seed) | 1), ["no background", "1, 255", '--label_map "1:0,255:1"']),
    "three classes": (
        lambda seed: picture(mask(seed).astype(np.uint8) + mask(seed + 50)),
        ["0, 1, 2", "--num_classes 3", "--label_map"],
    ),
    "classes 0, 127, 255": (
        lambda seed: picture(((mask(seed) * 1 + mask(seed + 50)) * 127.5).astype(np.uint8)),
        ["0, 127, 255", "--label_map"],
    ),
    "a band of 128": (lambda seed: picture(trimap(seed, 128)), ["0, 1, 128", "--label_map"]),
    "void 255": (lambda seed: picture(trimap(seed, 255)), ["0, 1, 255", "--ignore_index 255"]),
    "an image": (
        lambda seed: picture(np.random.default_rng(seed).normal(60 + 80 * mask(seed), 8).astype(np.uint8)),
        ["values from", "exchanged"],
    ),
    "probabilities": (lambda seed: tiff(blurred(seed, 5) / np.float32(255)), ["probabilities"]),
    "probabilities of 8 bits": (lambda seed: picture(blurred(seed, 6)), ["probabilities"]),
    "distances of 8 bits": (lambda seed: picture(distances(seed, 255)), ["distances"]),
    "distances of 16 bits": (lambda seed: tiff(distances(seed, 1500)), ["distances"]),
    "negative": (lambda seed: tiff(mask(seed) - np.int16(1)), ["negative", "-1, 0", '--label_map "-1:ignore']),
    "instances as JPEG": (
        lambda seed: picture((numbered(seed, 3 + seed % 3) * 40).astype(np.uint8), "JPEG"),
        ["values from 0 to"],
    ),
    "all empty": (lambda seed: picture(FULL * 0), ["no label has any foreground"]),
    "all full": (lambda seed: picture(FULL), ["no label has any background"]),
    "complex": (lambda seed: tiff(mask(seed).astype(np.complex64)), ["complex64"]),
    "three colours": (
        lambda seed: picture(colored(seed) + np.dstack([np.zeros((SIDE, SIDE, 2), np.uint8), mask8(seed + 50)])),
        ["label in colours", "#0000ff", "--label_map"],
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_values_that_do_not_say_what_is_foreground_are_refused_by_name(kind: str, tmp_path: Path):
    make, words = REFUSED[kind]
    with pytest.raises(UserError) as caught:
        read_set(tmp_path, [make(seed) for seed in range(6)])
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_single_empty_and_full_images_are_ordinary(tmp_path: Path):
    labels, _, said = read_set(tmp_path, [picture(FULL * 0), picture(FULL), picture(mask8(0))])
    assert [label.mean() for label in labels[:2]] == [0, 1] and not said


def test_zero_and_one_among_jpegs_are_refused(tmp_path: Path):
    files = [picture(mask(0).astype(np.uint8)), *(picture(mask8(seed), "JPEG") for seed in range(1, 5))]
    with pytest.raises(UserError, match=r"train0_label.*holds 0, 1.*up to 255"):
        read_set(tmp_path, files)


def test_small_numbers_in_jpeg_are_refused(tmp_path: Path):
    files = [tmp_path / f"{number}.jpg" for number in range(4)]
    for number, file in enumerate(files):
        file.write_bytes(picture(numbered(number).astype(np.uint8), "JPEG", quality=90))
    stored = [read_stored_label(file, LabelReading()) for file in files]
    with pytest.raises(UserError, match=r"0\.jpg holds the values 0, 1.*in JPEG.*save the labels as PNG"):
        decide_reading([summarize(each.values, each.ignored) for each in stored], files)


MAPPED = {
    "1:0,2:1": (lambda seed: picture(mask(seed).astype(np.uint8) + 1), {}),
    "-1:ignore": (lambda seed: tiff(np.where(np.arange(SIDE)[:, None] < 5, -1, mask(seed)).astype(np.int16)), {}),
    "#ff7f00:1": (lambda seed: picture(colored(seed)), {}),
    "#c80000:0,#00005a:1": (lambda seed: palette(mask(seed), [200, 0, 0, 0, 0, 90]), {}),
    "#000000:0,#ff7f00:2": (lambda seed: picture(colored(seed)), {"num_classes": 3}),
    "0:1,255:0": (lambda seed: picture(~mask8(seed)), {}),
}


@pytest.mark.parametrize("label_map", MAPPED)
def test_a_label_map_says_what_values_and_colours_mean(label_map: str, tmp_path: Path):
    make, options = MAPPED[label_map]
    labels, reading, _ = read_set(tmp_path, [make(seed) for seed in range(3)], label_map=label_map, **options)
    foreground = 2 if options else 1
    for seed, label in enumerate(labels):
        expected = np.where(mask(seed), foreground, 0)
        if "ignore" in label_map:
            expected[:5] = IGNORE
        np.testing.assert_array_equal(label, expected)
    assert LabelReading.from_json(reading.to_json()) == reading


@pytest.mark.parametrize(
    ("background", "void", "advised"),
    [(0, -1, '--label_map "-1:ignore"'), (0, 65535, "--ignore_index 65535"), (1, 0, None), (2, None, '"2:0"')],
)
def test_what_is_void_or_background_may_be_said_of_numbered_objects(tmp_path: Path, background, void, advised):
    def label(seed: int) -> bytes:
        values = np.where(mask(seed), numbered(seed, 3 + seed % 2) + background, background)
        values[:3] = background if void is None else void
        return tiff(values.astype(np.int32))

    labels = [label(seed) for seed in range(4)]
    if advised:
        with pytest.raises(UserError, match=advised):
            read_set(tmp_path, labels)
    label_map = ",".join([f"{background}:0", *([] if void is None else [f"{void}:ignore"])])
    read, reading, said = read_set(tmp_path, labels, label_map=label_map)
    assert reading.objects and LabelReading.from_json(reading.to_json()) == reading
    assert said == "labels number objects, up to 4 in an image: all are foreground"
    for seed, found in enumerate(read):
        expected = (numbered(seed, 3 + seed % 2) > 0).astype(np.uint8)
        expected[:3] = 0 if void is None else IGNORE
        np.testing.assert_array_equal(found, expected)


def test_a_value_that_the_map_does_not_name_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match=r'holds 3 in \d+ pixels, which --label_map "1:0,2:1" does not name'):
        read_set(tmp_path, [picture(mask(0).astype(np.uint8) * 2 + 1)], label_map="1:0,2:1")


@pytest.mark.parametrize(
    ("text", "message"),
    [("1=0", "not understood"), ("1:2", "no class 2"), ("1:0,1:1", "more than once"), ("red:1", "not understood")],
)
def test_a_label_map_that_means_nothing_is_refused(text: str, message: str):
    with pytest.raises(UserError, match=message):
        LabelMap.parse(text)


def test_two_colours_are_background_and_foreground(tmp_path: Path):
    labels, reading, said = read_set(tmp_path, [picture(colored(seed)) for seed in range(4)])
    for seed, label in enumerate(labels):
        np.testing.assert_array_equal(label == 1, mask(seed))
    assert reading.label_map is not None and "#ff7f00 foreground" in said


COLORS = np.random.default_rng(0).permutation(np.arange(1, 256))[:27].reshape(9, 3).astype(np.uint8)


@pytest.mark.parametrize("num_classes", [1, 3])
def test_palettes_that_a_program_makes_for_each_file_are_refused(tmp_path: Path, num_classes: int):
    colors = [[0, 0, 0, 255, 0, 0], [255, 0, 0, 0, 0, 0]]
    labels = [palette(mask(seed) ^ bool(seed), colors[seed]) for seed in (0, 1)]
    advised = "#000000:0,#ff0000:1"
    with pytest.raises(UserError, match=rf"#(000000|ff0000) is number [01] in .* --label_map \"{advised}\""):
        read_set(tmp_path, labels, num_classes=num_classes)
    read, _, _ = read_set(tmp_path, labels, num_classes=num_classes, label_map=advised)
    assert all(np.array_equal(label, mask(seed)) for seed, label in enumerate(read))


def test_palettes_whose_colours_do_not_disagree_are_plain(tmp_path: Path):
    colors = [[0, 0, 0, 255, 0, 0], [0, 0, 0, 0, 255, 0, 255, 0, 0], [0, 0, 0] * 2]
    read, _, said = read_set(tmp_path, [palette(mask(seed), colors[seed]) for seed in range(3)])
    assert not said and all(np.array_equal(label, mask(seed)) for seed, label in enumerate(read))


def test_colours_of_single_objects_are_foreground(tmp_path: Path):
    def painted(seed: int, count: int) -> bytes:
        label = numbered(seed, count)
        return picture(np.where(label[..., None] > 0, COLORS[label], 0))

    read, reading, said = read_set(tmp_path, [painted(0, 3), painted(1, 5)])
    assert [label.sum() for label in read] == [(numbered(seed, count) > 0).sum() for seed, count in ((0, 3), (1, 5))]
    assert (
        reading.objects
        and said == "labels give every object a colour of its own, up to 5 in an image: all are foreground"
    )
    with pytest.raises(UserError, match="is a label in colours"):  # the same few in every image may be classes
        read_set(tmp_path, [painted(0, 3), painted(1, 3)])


def test_a_few_numbers_alone_are_objects_where_there_are_no_classes(tmp_path: Path):
    path = make_list(tmp_path, [tiff(numbered(0).astype(np.uint16))])
    for only_binary in (True, False):
        expected = replace(Expectation(), only_binary=only_binary)
        if only_binary:
            assert read_checked_lists([path], expected, root=tmp_path, say=print)[1].objects
        else:
            with pytest.raises(UserError, match="--num_classes 5"):
                read_checked_lists([path], expected, root=tmp_path, say=print)


def test_masks_of_0_and_255_go_with_numbered_objects(tmp_path: Path):
    read, reading, _ = read_set(
        tmp_path, [picture(mask8(0)), tiff(numbered(1, 3).astype(np.uint16)), picture(mask8(2))]
    )
    assert reading.objects and all(np.array_equal(label, mask(seed)) for seed, label in ((0, read[0]), (2, read[2])))
    assert np.array_equal(read[1], numbered(1, 3) > 0)


@pytest.mark.parametrize("only_binary", [False, True])
def test_a_void_border_around_a_single_object_is_no_object(tmp_path: Path, only_binary: bool):
    path = make_list(
        tmp_path,
        [picture(np.where(numbered(seed, 2) == 2, 255, numbered(seed, 2) > 0).astype(np.uint8)) for seed in (0, 1)],
    )
    with pytest.raises(UserError, match="if 255 marks what does not count, --ignore_index 255"):
        read_checked_lists([path], replace(Expectation(), only_binary=only_binary), root=tmp_path, say=print)


@pytest.mark.parametrize("label_map", ["255:0,0:1", "1:0,0:1"])
def test_a_label_map_names_the_values_of_1_bit_files_either_way(label_map: str, tmp_path: Path):
    read, _, _ = read_set(tmp_path, [picture(~mask(seed)) for seed in (0, 1)], label_map=label_map)
    assert all(np.array_equal(label, mask(seed)) for seed, label in enumerate(read))


def test_a_label_map_of_jpeg_says_what_to_do_about_the_rest(tmp_path: Path):
    with pytest.raises(UserError, match=r"and \d+ more in \d+ pixels.*save the labels as PNG"):
        read_set(tmp_path, [picture(255 - mask8(0), "JPEG")], label_map="255:0,0:1")


def test_an_inverting_look_up_table_of_8_bits_is_said_once(tmp_path: Path):
    _, _, said = read_set(tmp_path, [tiff(mask8(seed), photometric="miniswhite") for seed in range(4)])
    assert said.count("MinIsWhite") == 1 and said.startswith("4 labels")


def test_the_decision_is_made_once_for_all_lists(tmp_path: Path):
    train = make_list(tmp_path, [picture(mask8(seed), "JPEG") for seed in range(4)])
    val = make_list(tmp_path, [picture(blurred(7, 0.7) // 3)], name="val")
    said: list[str] = []
    lists, reading = read_checked_lists(
        [train, val], Expectation(), root=tmp_path, labels=["required"] * 2, say=said.append
    )
    assert reading.cut == 127.5 and all(s.reading == reading for each in lists for s in each.samples)
    assert any(
        "val.txt: no label has any foreground: IoU, F1 and other figures that need it are undefined" in line
        for line in said
    )


def test_an_instance_map_alone_is_foreground(tmp_path: Path):
    path = tmp_path / "7.tif"
    path.write_bytes(tiff(numbered(3).astype(np.uint16)))
    np.testing.assert_array_equal(read_label(path) == 1, mask(3))


def test_a_jpeg_alone_is_cut_at_half(tmp_path: Path):
    path = tmp_path / "7.jpg"
    path.write_bytes(picture(mask8(3), "JPEG", quality=75))
    assert abs((read_label(path) == 1).mean() - mask(3).mean()) < 0.02 * mask(3).mean()


def test_classes_that_no_label_holds_are_said(tmp_path: Path):
    full, part = numbered(0, 2).astype(np.uint8), np.minimum(numbered(1, 2), 1).astype(np.uint8)
    lists = [make_list(tmp_path, [picture(label)], name) for name, label in (("train", full), ("val", part))]
    said: list[str] = []
    options = {"labels": ["required"] * 2, "root": tmp_path, "say": said.append}
    read_checked_lists(lists, Expectation.of(3), **options)
    assert said[0].endswith("val.txt: no label holds class 2: figures of such a class are undefined")
    assert not any("train.txt: no label" in line for line in said)
    said.clear()
    read_checked_lists(lists[:1], Expectation.of(5), **options | {"labels": ["required"]})
    assert said[0].endswith("train.txt: no label holds class 3, 4: such a class cannot be learned")
