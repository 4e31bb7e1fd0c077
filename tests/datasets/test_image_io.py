"""Images, labels and score maps: known pixel values in every format, and errors that name the file."""

from __future__ import annotations

import http.client
import http.server
import io
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from datasets.image_io import read_image, read_label, read_scores, read_shape, write_image, write_label, write_scores
from datasets.image_scale import read_scale
from datasets.labels import IGNORE
from datasets.lists import read_checked_list
from utils.cli import UserError

RAMP = np.arange(20 * 24).reshape(20, 24)
GREY8, GREY16 = (RAMP % 256).astype(np.uint8), (RAMP * 130).astype(np.uint16)
MASK = GREY8 > 100
RGB8 = np.stack([GREY8, GREY8[::-1], GREY8.T[:20, :1] + np.zeros_like(GREY8)], axis=-1)
REUSED_FOLDER = settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])


def tiff(array: np.ndarray, **options) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, array, **options)
    return file.getvalue()


def picture(array: np.ndarray | Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image = array if isinstance(array, Image.Image) else Image.fromarray(array)
    image.save(file, kind, **options)
    return file.getvalue()


def palette_png(indices: np.ndarray) -> bytes:
    """A palette PNG of three colours; index 0 is red, so that colours and indices have nothing in common."""
    image = Image.frombytes("P", indices.shape[::-1], indices.tobytes())
    image.putpalette([200, 0, 0, 0, 200, 0, 0, 0, 200])
    return picture(image, "PNG")


def deep_color_png(array: np.ndarray) -> bytes:
    return cv2.imencode(".png", array[..., ::-1])[1].tobytes()


EXACT = {
    "tiff-8": (tiff(GREY8), GREY8),
    "tiff-16": (tiff(GREY16), GREY16),
    "tiff-16-big-endian": (tiff(GREY16, byteorder=">"), GREY16),
    "tiff-lzw": (tiff(GREY16, compression="lzw"), GREY16),
    "tiff-zstd": (tiff(GREY16, compression="zstd"), GREY16),
    "tiff-packbits": (tiff(GREY8, compression="packbits"), GREY8),
    "tiff-deflate-tiles": (tiff(GREY16, tile=(16, 16), compression="zlib"), GREY16),
    "tiff-imagej": (tiff(GREY16, imagej=True), GREY16),
    "tiff-float32": (tiff(GREY16.astype(np.float32) / 7), GREY16.astype(np.float32) / 7),
    "tiff-float64": (tiff(GREY16 / 7), (GREY16 / 7).astype(np.float32)),
    "tiff-float16": (tiff(GREY8.astype(np.float16)), GREY8.astype(np.float32)),
    "tiff-int32": (tiff(RAMP.astype(np.int32) - 50), (RAMP - 50).astype(np.float32)),
    "tiff-int16": (tiff(RAMP.astype(np.int16) - 50), (RAMP - 50).astype(np.float32)),
    "tiff-bool": (tiff(MASK), MASK * np.uint8(255)),
    "tiff-min-is-white": (tiff(GREY8, photometric="miniswhite"), GREY8),
    "tiff-one-page-stack": (tiff(GREY16[None], photometric="minisblack"), GREY16),
    "png-8": (picture(GREY8, "PNG"), GREY8),
    "png-16": (picture(GREY16, "PNG"), GREY16),
    "png-1-bit": (picture(Image.fromarray(MASK), "PNG"), MASK * np.uint8(255)),
    "bmp": (picture(GREY8, "BMP"), GREY8),
    "pgm": (picture(GREY8, "PPM"), GREY8),
}

COLOR = {
    "tiff-8": (tiff(RGB8, photometric="rgb"), RGB8),
    "tiff-16-planes": (
        tiff(np.moveaxis(RGB8, 2, 0) * np.uint16(200), photometric="rgb", planarconfig="separate"),
        RGB8 * np.uint16(200),
    ),
    "tiff-rgba": (tiff(np.dstack([RGB8, GREY8]), photometric="rgb", extrasamples=["unassalpha"]), RGB8),
    "tiff-imagej-composite": (tiff(np.moveaxis(RGB8, 2, 0), imagej=True, metadata={"axes": "CYX"}), RGB8),
    "png-8": (picture(RGB8, "PNG"), RGB8),
    "png-rgba": (picture(np.dstack([RGB8, GREY8]), "PNG"), RGB8),
    "png-16": (deep_color_png(RGB8 * np.uint16(200)), RGB8 * np.uint16(200)),
    "png-palette": (
        palette_png(MASK.astype(np.uint8)),
        np.where(MASK[..., None], [0, 200, 0], [200, 0, 0]).astype(np.uint8),
    ),
}


def written(folder: Path, content: bytes, name: str = "7.tif") -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("kind", EXACT)
def test_grey_images_keep_their_values(kind: str, tmp_path: Path):
    content, expected = EXACT[kind]
    path = written(tmp_path, content)
    image = read_image(path)
    assert image.dtype == expected.dtype
    np.testing.assert_array_equal(image, expected)
    assert image.flags.writeable and image.flags.c_contiguous
    assert read_shape(path) == expected.shape
    np.testing.assert_array_equal(read_image(path, channels=3), np.dstack([expected] * 3))


@pytest.mark.parametrize("kind", COLOR)
def test_color_images_keep_their_values_and_lose_alpha(kind: str, tmp_path: Path):
    content, expected = COLOR[kind]
    path = written(tmp_path, content)
    image = read_image(path, channels=3)
    assert image.dtype == expected.dtype
    np.testing.assert_array_equal(image, expected)
    assert read_shape(path, channels=3) == (20, 24)


def test_color_becomes_luminance(tmp_path: Path):
    path = written(tmp_path, picture(RGB8, "PNG"))
    expected = np.rint(RGB8 @ np.array([0.299, 0.587, 0.114])).astype(np.uint8)
    np.testing.assert_array_equal(read_image(path), expected)


@pytest.mark.parametrize("values", [GREY8, GREY16])
def test_luminance_of_equal_channels_is_the_channel(values: np.ndarray, tmp_path: Path):
    path = written(tmp_path, tiff(np.dstack([values] * 3), photometric="rgb"))
    np.testing.assert_array_equal(read_image(path), values)


def test_jpeg_is_read_by_its_content_whatever_the_suffix(tmp_path: Path):
    path = written(tmp_path, picture(np.full((20, 24, 3), 130, np.uint8), "JPEG", quality=95), "7.tif")
    np.testing.assert_array_equal(read_image(path), np.full((20, 24), 130, np.uint8))


def test_a_palette_tiff_gives_the_intensities_under_its_look_up_table(tmp_path: Path):
    lookup = np.random.default_rng(0).integers(0, 2**16, (3, 256)).astype(np.uint16)
    path = written(tmp_path, tiff(GREY8, photometric="palette", colormap=lookup))
    np.testing.assert_array_equal(read_image(path), GREY8)


STACKS = {
    "pages": (tiff(np.stack([GREY8] * 5), photometric="minisblack"), "5×20×24"),
    "imagej channels": (tiff(np.stack([GREY16] * 2), imagej=True, metadata={"axes": "CYX"}), "2×20×24"),
    "several, of two channels": (tiff(np.stack([np.dstack([GREY16] * 2)] * 3)), "3×20×24×2"),
    "gif": (
        picture(Image.fromarray(GREY8), "GIF", save_all=True, append_images=[Image.fromarray(GREY8.T.copy())]),
        "2×20×24",
    ),
}


@pytest.mark.parametrize("kind", STACKS)
@pytest.mark.parametrize("read", [read_image, read_label, read_shape])
def test_a_stack_is_an_error_that_gives_its_shape(kind: str, read, tmp_path: Path):
    content, shape = STACKS[kind]
    path = written(tmp_path, content)
    with pytest.raises(UserError, match=f"7.tif is a stack of shape {shape}"):
        read(path)


@pytest.mark.parametrize("options", [{"planarconfig": "contig"}, {}, {"metadata": None}])
def test_two_channels_in_one_plane_are_an_error(options: dict, tmp_path: Path):
    path = written(tmp_path, tiff(np.dstack([GREY16] * 2), photometric="minisblack", **options))
    for read in (read_image, read_shape):
        with pytest.raises(UserError, match="7.tif has 2 channels"):
            read(path)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_pixels_that_are_no_number_are_counted(bad: float, tmp_path: Path):
    image = GREY8.astype(np.float32)
    image[3, 4:7] = bad
    path = written(tmp_path, tiff(image))
    for read in (read_image, read_label, read_scores):
        with pytest.raises(UserError, match=r"7\.tif holds NaN or infinity in 3 of 480 pixels"):
            read(path)


def test_complex_values_are_an_error(tmp_path: Path):
    with pytest.raises(UserError, match=r"7\.tif holds complex64 values"):
        read_image(written(tmp_path, tiff(GREY8.astype(np.complex64))))


@pytest.mark.parametrize("read", [read_image, read_label, read_shape, read_scores])
@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "does not exist"), (b"", "is empty"), (b"junk" * 50, "cannot be read"), ("folder", "is a folder")],
)
def test_what_is_no_image_is_named(read, content: bytes | str | None, message: str, tmp_path: Path):
    path = tmp_path / "7.tif"
    if content == "folder":
        path.mkdir()
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=rf"7\.tif {message}"):
        read(path)


@pytest.mark.parametrize("read", [read_image, read_label, read_shape])
def test_what_git_left_in_place_of_a_file_is_named(read, tmp_path: Path):
    path = written(tmp_path, b"version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 480\n")
    with pytest.raises(UserError, match=r"7\.tif is a pointer of Git LFS: fetch the file with git lfs pull"):
        read(path)


# Labels


def test_a_binary_label_alone_is_cut_half_way_between_its_values(tmp_path: Path):
    values = np.array([[0, 1, 2], [128, 254, 255]], np.uint8)
    path = written(tmp_path, picture(values, "PNG"), "7.png")
    np.testing.assert_array_equal(read_label(path), [[0, 0, 0], [1, 1, 1]])
    np.testing.assert_array_equal(read_label(path, ignore_index=128), [[0, 0, 0], [IGNORE, 1, 1]])


def test_a_mask_with_traces_of_jpeg_alone_is_empty(tmp_path: Path):
    values = np.zeros((16, 16), np.uint8)
    values[3, 4], values[5, 9] = 2, 3
    assert not read_label(written(tmp_path, picture(values, "PNG"), "7.png")).any()


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.uint16, np.int16, np.int32, np.float32, np.float64])
@pytest.mark.parametrize("foreground", [1, 100])
def test_binary_labels_of_any_type_are_the_same(dtype: type, foreground: int, tmp_path: Path):
    label = read_label(written(tmp_path, tiff((MASK * foreground).astype(dtype))))
    assert label.dtype == np.uint8
    np.testing.assert_array_equal(label, MASK)


def test_min_is_white_masks_are_not_inverted(tmp_path: Path):
    for mask in (MASK, MASK * np.uint8(255)):
        path = written(tmp_path, tiff(mask, photometric="miniswhite"))
        np.testing.assert_array_equal(read_label(path), MASK)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.float32])
def test_class_labels_are_indices_with_255_ignored(dtype: type, tmp_path: Path):
    values = np.array([[0, 1, 2], [2, 255, 0]], dtype)
    path = written(tmp_path, tiff(values))
    np.testing.assert_array_equal(read_label(path, num_classes=3), [[0, 1, 2], [2, IGNORE, 0]])
    np.testing.assert_array_equal(read_label(path, num_classes=3, ignore_index=2), [[0, 1, 255], [255, 255, 0]])


@pytest.mark.parametrize(
    ("values", "listed"),
    [
        ([0, 3, 7, 7, 255], "3, 7, in 3 pixels"),
        ([0, -1, 1], "-1, in 1 pixels"),
        ([0.5, 1, 2], "0.5, in 1 pixels"),
        (list(range(3, 20)), "3, 4, 5, 6, 7, 8, 9, 10, 11, 12 and 7 more, in 17 pixels"),
    ],
)
def test_values_that_are_no_class_are_listed(values: list[float], listed: str, tmp_path: Path):
    path = written(tmp_path, tiff(np.array([values], np.float32)))
    with pytest.raises(UserError, match=rf"7\.tif holds values that are no class: {listed}; expected 0…2"):
        read_label(path, num_classes=3)


def test_an_ignored_value_may_be_any(tmp_path: Path):
    path = written(tmp_path, tiff(np.array([[0, 1, 999]], np.uint16)))
    np.testing.assert_array_equal(read_label(path, num_classes=2, ignore_index=999), [[0, 1, IGNORE]])
    path = written(tmp_path, tiff(np.full((1, 3), 999, np.uint16)))
    np.testing.assert_array_equal(read_label(path, ignore_index=999), [[IGNORE] * 3])


def test_palette_labels_keep_their_indices(tmp_path: Path):
    indices = (RAMP % 3).astype(np.uint8)
    path = written(tmp_path, palette_png(indices), "7.png")
    np.testing.assert_array_equal(read_label(path, num_classes=3), indices)


@pytest.mark.parametrize("alpha", [None, 255, 0])
def test_color_masks_count_where_their_channels_agree(alpha: int | None, tmp_path: Path):
    planes = [MASK * np.uint8(255)] * 3 + ([] if alpha is None else [np.full(MASK.shape, alpha, np.uint8)])
    np.testing.assert_array_equal(read_label(written(tmp_path, picture(np.dstack(planes), "PNG"))), MASK)
    np.testing.assert_array_equal(read_label(written(tmp_path, tiff(np.dstack(planes), photometric="rgb"))), MASK)


def test_deep_color_masks_count_where_their_channels_agree(tmp_path: Path):
    np.testing.assert_array_equal(
        read_label(written(tmp_path, deep_color_png(np.dstack([MASK * np.uint16(65535)] * 3)))), MASK
    )


def test_color_masks_whose_channels_differ_are_an_error(tmp_path: Path):
    mask = np.dstack([MASK * np.uint8(255), np.zeros((20, 24, 2), np.uint8)])
    with pytest.raises(UserError, match=f"7.tif is a label in colours: its 3 channels differ in {MASK.sum()} pixels"):
        read_label(written(tmp_path, picture(mask, "PNG")))


def test_a_mask_in_the_alpha_channel_is_an_error(tmp_path: Path):
    mask = np.dstack([np.zeros((20, 24, 3), np.uint8), MASK * np.uint8(255)])
    with pytest.raises(UserError, match=r"7\.tif .*alpha"):
        read_label(written(tmp_path, picture(mask, "PNG")))


def test_the_manifest_beside_labels_states_the_ignored_value(tmp_path: Path):
    path = written(tmp_path, picture(np.array([[0, 128, 255]], np.uint8), "PNG"), "7.png")
    manifest = tmp_path / "manifest.json"
    for number, (content, expected) in enumerate(
        [
            (None, [0, 1, 1]),
            ({"ignore_value": 128}, [0, IGNORE, 1]),
            ({"ignore_value": None}, [0, 1, 1]),
            ([], [0, 1, 1]),
        ]
    ):
        if content is not None:
            manifest.write_text(json.dumps(content) + " " * number)
        np.testing.assert_array_equal(read_label(path), [expected])
    manifest.write_text('{"ignore_value": 128}')
    np.testing.assert_array_equal(read_label(path, ignore_index=128), [[0, IGNORE, 1]])


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"ignore_value": 128}, [0, IGNORE, 1]),
        ({"ignore_value": None}, [0, 1, 1]),  # written without ignored pixels: 255 is foreground
        ({"seed": 0}, [0, 1, IGNORE]),
    ],
)
def test_the_manifest_wins_over_a_given_ignored_value(content: dict, expected: list[int], tmp_path: Path):
    path = written(tmp_path, picture(np.array([[0, 128, 255]], np.uint8), "PNG"), "7.png")
    (tmp_path / "manifest.json").write_text(json.dumps(content))
    np.testing.assert_array_equal(read_label(path, ignore_index=255), [expected])


@pytest.mark.parametrize("content", ["{", '{"ignore_value": "grey"}'])
def test_a_broken_manifest_is_named(content: str, tmp_path: Path):
    path = written(tmp_path, picture(GREY8, "PNG"), "7.png")
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(UserError, match=r"manifest\.json"):
        read_label(path)


# Writing


def test_written_binary_labels_are_0_255_with_128_ignored(tmp_path: Path):
    write_label(tmp_path / "7.png", np.array([[0, 1, IGNORE]], np.uint8))
    stored = Image.open(tmp_path / "7.png")
    assert stored.mode == "L"
    np.testing.assert_array_equal(np.asarray(stored), [[0, 255, 128]])
    np.testing.assert_array_equal(read_label(tmp_path / "7.png", ignore_index=128), [[0, 1, IGNORE]])


@REUSED_FOLDER
@given(num_classes=st.integers(2, 254), data=st.data())
def test_written_class_labels_come_back(num_classes: int, data: st.DataObject, tmp_path: Path):
    values = st.one_of(st.integers(0, num_classes - 1), st.just(IGNORE))
    label = data.draw(hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, max_side=9), elements=values))
    write_label(tmp_path / "7.png", label, num_classes)
    np.testing.assert_array_equal(read_label(tmp_path / "7.png", num_classes), label)


@pytest.mark.parametrize("label", [np.array([[2]], np.uint8), np.array([[1]], int), np.array([1], np.uint8)])
def test_what_is_no_label_is_not_written(label: np.ndarray, tmp_path: Path):
    with pytest.raises(ValueError, match="label"):
        write_label(tmp_path / "7.png", label)


@REUSED_FOLDER
@given(
    scores=hnp.arrays(
        np.float32,
        hnp.array_shapes(min_dims=2, max_dims=3, min_side=1, max_side=7),
        elements=st.floats(width=32, allow_nan=False, allow_infinity=False),
    )
)
def test_score_maps_come_back_bit_for_bit(scores: np.ndarray, tmp_path: Path):
    write_scores(tmp_path / "7.tif", scores)
    back = read_scores(tmp_path / "7.tif")
    assert back.dtype == np.float32 and back.shape == scores.shape
    assert back.tobytes() == scores.tobytes()


def test_what_is_no_score_map_is_named(tmp_path: Path):
    with pytest.raises(UserError, match=r"7\.tif is no score map: it holds uint8 of shape 20×24"):
        read_scores(written(tmp_path, tiff(GREY8)))


@pytest.mark.parametrize(
    ("name", "image"),
    [("7.png", GREY8), ("7.png", RGB8), ("7.tif", GREY8), ("7.TIF", GREY16), ("7.tiff", RGB8 * np.uint16(9))],
)
def test_written_images_come_back(name: str, image: np.ndarray, tmp_path: Path):
    write_image(tmp_path / name, image)
    back = read_image(tmp_path / name, channels=1 if image.ndim == 2 else 3)
    assert back.dtype == image.dtype
    np.testing.assert_array_equal(back, image)
    assert [file.name for file in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(("name", "image"), [("7.png", GREY16), ("7.jpg", GREY8), ("7.tif", GREY8 / 9)])
def test_images_that_would_lose_something_are_not_written(name: str, image: np.ndarray, tmp_path: Path):
    with pytest.raises(ValueError, match="not written"):
        write_image(tmp_path / name, image)


# Broken files

WHOLE = {kind: content for kind, (content, _) in {**EXACT, **{f"{kind}-color": c for kind, c in COLOR.items()}}.items()}
WHOLE["jpeg"] = picture(RGB8, "JPEG")
WHOLE["jpeg-progressive"] = picture(GREY8, "JPEG", progressive=True)
WHOLE["tiff-jpeg"] = tiff(GREY8, compression="jpeg")


@pytest.mark.parametrize("kind", WHOLE)
def test_a_truncated_image_is_whole_or_an_error_naming_it(kind: str, tmp_path: Path):
    path = written(tmp_path, WHOLE[kind])
    image = read_image(path, channels=3)
    rng = np.random.default_rng(len(WHOLE[kind]))
    for length in {*rng.integers(0, len(WHOLE[kind]), 12).tolist(), len(WHOLE[kind]) - 1}:
        path.write_bytes(WHOLE[kind][:length])
        try:
            np.testing.assert_array_equal(read_image(path, channels=3), image)
        except UserError as error:
            assert "7.tif" in str(error)


@pytest.mark.parametrize("kind", WHOLE)
def test_damaged_files_end_in_an_error_naming_them_or_in_an_image(kind: str, tmp_path: Path):
    rng = np.random.default_rng(len(WHOLE[kind]))
    path = tmp_path / "7.tif"
    for number in range(12):
        content = np.frombuffer(WHOLE[kind], np.uint8).copy()
        reach = min(len(content), 300) if number % 2 else len(content)
        content[rng.integers(0, reach, rng.integers(1, 9))] = rng.integers(0, 256)
        path.write_bytes(content.tobytes())
        for read in (read_image, read_label, read_shape, read_scores):
            try:
                assert len(np.shape(read(path))) in (1, 2, 3)
            except UserError as error:
                assert "7.tif" in str(error)


@pytest.fixture
def server() -> Iterator[tuple[str, list[str]]]:
    """The address of a server that has an image under every name, and the names that it was asked for."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(picture(GREY8, "PNG"))

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{running.server_port}", asked
        running.shutdown()


def test_the_name_of_a_network_address_is_that_of_a_file(server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    address, asked = server
    monkeypatch.chdir(tmp_path)
    connection = http.client.HTTPConnection(address)
    connection.request("GET", "/control")
    assert connection.getresponse().read() == picture(GREY8, "PNG")
    connection.close()
    for name in ("7.png", "7.tif", "7.npy"):
        for read in (read_image, read_label, read_shape, read_scores):
            with pytest.raises(UserError, match=rf"http:/.*{name} does not exist"):
                read(f"http://{address}/{name}")
        with pytest.raises(UserError, match=rf"http:/.*{name} does not exist"):
            read_scale(Path(f"http://{address}/{name}"))
    (tmp_path / "list.txt").write_text(f"http://{address}/7.png\thttp://{address}/7.png\n")
    with pytest.raises(UserError, match=r"list\.txt:1: image http:/.*7\.png does not exist"):
        read_checked_list("list.txt", root=tmp_path)
    if os.name != "nt":  # where a colon may be part of a name
        folder = tmp_path / "http:" / address
        folder.mkdir(parents=True)
        (folder / "7.png").write_bytes(picture(GREY16, "PNG"))
        assert np.array_equal(read_image(f"http://{address}/7.png"), GREY16)
    assert asked == ["/control"]


def test_a_header_that_states_more_than_the_file_holds_is_refused(tmp_path: Path):
    content = bytearray(picture(GREY8, "GIF"))
    content[6:10] = content[content.index(b",") + 5 : content.index(b",") + 9] = b"\xff\xff\xff\xff"
    with pytest.raises(UserError, match=r"7\.tif .*65535×65535"):
        read_image(written(tmp_path, bytes(content)))


@pytest.mark.parametrize("name", ["er_ernet", "nuc", "nuc16", "vessel"])
def test_real_micrographs_are_read(name: str, real_data: Path):
    image_path = min((real_data / name / "val/images").iterdir())
    label_path = min((real_data / name / "val/labels").iterdir())
    image = read_image(image_path)
    assert image.dtype == (np.uint16 if name == "nuc16" else np.uint8)
    assert image.shape == read_shape(image_path) == (256, 256)
    assert set(np.unique(read_label(label_path))) == {0, 1}
