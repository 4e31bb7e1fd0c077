"""Planes, channels, orientation and file sets: which part of a file is an image, as its metadata say."""

from __future__ import annotations

import uuid
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageOps

from datasets.image_io import read_image, read_label, read_shape
from datasets.list_building import make_lists
from datasets.list_checks import Expectation, survey, tell_color, tell_copies
from datasets.lists import read_checked_list, read_list
from utils.cli import UserError
from utils.files import unique_stems

STACK = np.random.default_rng(0).integers(0, 60_000, (3, 2, 2, 20, 24)).astype(np.uint16)  # T, Z, C, Y, X
GREY = STACK[0, 0, 0]
GREY8 = (GREY >> 8).astype(np.uint8)


def write_stack(folder: Path, kind: str) -> Path:
    path = folder / "stack.tif"
    if kind == "imagej":
        tifffile.imwrite(path, STACK, imagej=True, metadata={"axes": "TZCYX"})
    elif kind == "compressed":
        tifffile.imwrite(path, STACK, metadata={"axes": "TZCYX"}, ome=True, compression="zlib")
    else:
        channels = {"Name": ["DAPI", "GFP"]}
        tifffile.imwrite(path, STACK, metadata={"axes": "TZCYX", "Channel": channels}, ome=True)
    return path


@pytest.mark.parametrize("kind", ["imagej", "ome", "compressed"])
def test_a_plane_is_numbered_over_all_axes_but_channels(kind: str, tmp_path: Path):
    path = write_stack(tmp_path, kind)
    for plane in range(6):
        expected = np.moveaxis(STACK[plane // 2, plane % 2], 0, -1)
        np.testing.assert_array_equal(read_image(f"{path}::{plane}", channels=2), expected)
        np.testing.assert_array_equal(read_image(f"{path}::{plane}", 1, ("1",)), expected[..., 1])
    assert read_shape(f"{path}::5", channels=2) == (20, 24)
    with pytest.raises(UserError, match=r"has no plane 6: .* its planes are ::0 to ::5"):
        read_image(f"{path}::6", channels=2)
    with pytest.raises(UserError, match=r"stack of shape 3×2×2×20×24 \(TZCYX\); name one of its 6 planes, .*::0"):
        read_image(path, channels=2)


def test_channels_are_chosen_by_their_ome_name(tmp_path: Path):
    path = write_stack(tmp_path, "ome")
    np.testing.assert_array_equal(read_image(f"{path}::3", 1, ("GFP",)), STACK[1, 1, 1])
    with pytest.raises(UserError, match=r"has no channel 'RFP': --channels can be 0 to 1 or DAPI, GFP"):
        read_image(f"{path}::3", 1, ("RFP",))


def test_colours_are_channels_too(tmp_path: Path):
    colors = np.dstack([GREY8, GREY8 // 2, GREY8 // 3])
    Image.fromarray(colors).save(tmp_path / "7.png")
    np.testing.assert_array_equal(read_image(tmp_path / "7.png", 2, ("2", "0")), colors[..., [2, 0]])


def test_arrays_are_read_plane_by_plane(tmp_path: Path):
    np.save(tmp_path / "7.npy", STACK[:, 0, 0])
    np.testing.assert_array_equal(read_image(f"{tmp_path}/7.npy::2"), STACK[2, 0, 0])
    np.testing.assert_array_equal(read_image(tmp_path / "7.npy", channels=3), np.moveaxis(STACK[:, 0, 0], 0, -1))
    np.save(tmp_path / "6.npy", GREY[..., None])
    np.testing.assert_array_equal(read_image(tmp_path / "6.npy"), GREY)
    np.save(tmp_path / "5.npy", np.stack([GREY] * 5, axis=-1))
    assert read_image(tmp_path / "5.npy", channels=5).shape == (*GREY.shape, 5)
    with pytest.raises(UserError, match="has 5 channels"):
        read_image(tmp_path / "5.npy")
    np.save(tmp_path / "8.npy", GREY > 30_000)
    np.testing.assert_array_equal(read_label(tmp_path / "8.npy"), GREY > 30_000)
    np.save(tmp_path / "9.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(UserError, match=r"9\.npy"):
        read_image(tmp_path / "9.npy")


@pytest.mark.parametrize("count", [2, 5])
def test_channels_of_arrays_in_tiff_stand_last_or_first(count: int, tmp_path: Path):
    channels = np.stack([GREY8 // (1 + number) for number in range(count)])
    for place, array in {"first": channels, "last": np.moveaxis(channels, 0, -1)}.items():
        path = tmp_path / f"{place}.tif"
        tifffile.imwrite(path, array, photometric="minisblack")
        np.testing.assert_array_equal(read_image(path, count), np.moveaxis(channels, 0, -1))
        assert read_shape(path, count) == GREY8.shape
    np.testing.assert_array_equal(read_image(f"{tmp_path}/first.tif::1", 1), channels[1])
    np.testing.assert_array_equal(read_image(tmp_path / "last.tif", 1, ("1",)), channels[1])


def test_planes_of_images_whose_labels_have_one_are_channels(tmp_path: Path):
    rows = []
    for number in range(3):
        rows.append((tmp_path / f"images/{number}.npy", tmp_path / f"labels/{number}.png"))
        for path in rows[-1]:
            path.parent.mkdir(exist_ok=True)
        np.save(rows[-1][0], np.stack([GREY8, GREY8 // 2 + np.uint8(number)]))
        Image.fromarray(np.uint8(GREY8 > 120)).save(rows[-1][1])
    said: list[str] = []
    lists = make_lists("own", [tmp_path], root=tmp_path, say=said.append)
    assert sorted(row for each in lists.values() for row in each) == rows
    assert "images have 2 planes and labels one: they are taken for 2 channels" in said
    assert said[-1] == "next: python main.py --dataset own --in_channels 2"


def test_two_colons_in_a_file_name_are_its_name(tmp_path: Path):
    path = tmp_path / "7.png::3"
    Image.fromarray(GREY8).save(path, "PNG")
    np.testing.assert_array_equal(read_image(path), GREY8)


def test_lists_name_planes_and_their_maps_have_names_of_their_own(tmp_path: Path):
    path = write_stack(tmp_path, "imagej")
    masks = (STACK[:, :, 0] > 30_000).astype(np.uint8) * 255
    tifffile.imwrite(tmp_path / "masks.tif", masks, imagej=True, metadata={"axes": "TZYX"})
    lines = [f"{path.name}::{plane}\tmasks.tif::{plane}\n" for plane in range(6)]
    (tmp_path / "list.txt").write_text("".join(lines))
    samples, sizes = read_checked_list(tmp_path / "list.txt", root=tmp_path, in_channels=2)
    assert [sample.image_id for sample in samples] == [f"stack.tif::{plane}" for plane in range(6)]
    assert sizes == [(20, 24)] * 6
    assert unique_stems([sample.image for sample in samples])[3] == "stack__p3"
    np.testing.assert_array_equal(read_label(samples[5].require_label()), STACK[2, 1, 0] > 30_000)
    (tmp_path / "list.txt").write_text(f"{path.name}\tmasks.tif::0\n")
    with pytest.raises(UserError, match=r"list\.txt:1: image .*stack of shape 3×2×2×20×24"):
        read_checked_list(tmp_path / "list.txt", root=tmp_path, in_channels=2)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_orientation_is_applied_to_images_and_labels(orientation: int, kind: str, tmp_path: Path):
    mask = np.zeros((20, 24), np.uint8)
    mask[2:9, 3:7] = 255
    exif = Image.Exif()
    exif[274] = orientation
    more = {"quality": 100} if kind in ("JPEG", "WEBP") else {}
    if kind == "TIFF":
        Image.fromarray(mask).save(tmp_path / "7.x", kind, tiffinfo={274: orientation})
    else:
        Image.fromarray(mask).save(tmp_path / "7.x", kind, exif=exif, **more)
    Image.fromarray(mask).save(tmp_path / "shown.png", exif=exif)
    with Image.open(tmp_path / "shown.png") as opened:
        shown = np.asarray(ImageOps.exif_transpose(opened).convert("L"))
    assert read_shape(tmp_path / "7.x") == shown.shape
    assert np.abs(read_image(tmp_path / "7.x").astype(int) - shown).max() <= 2
    np.testing.assert_array_equal(read_label(tmp_path / "7.x"), shown > 127)


@pytest.mark.parametrize("axis", ["T", "P"])
def test_each_file_of_an_ome_tiff_set_is_an_image_of_its_own(axis: str, tmp_path: Path):
    names, ids = [f"im{number}.ome.tif" for number in range(3)], [uuid.uuid4() for _ in range(3)]
    blocks = [[0], [1], [2]] if axis == "P" else [[0, 1, 2]]
    for number, name in enumerate(names):
        xml = '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" '
        xml += f'UUID="urn:uuid:{ids[number]}">'
        for block, members in enumerate(blocks):
            xml += f'<Image ID="Image:{block}"><Pixels ID="Pixels:{block}" DimensionOrder="XYCZT" Type="uint8" '
            xml += f'SizeX="24" SizeY="20" SizeC="1" SizeZ="1" SizeT="{len(members)}"><Channel ID="C:{block}:0"/>'
            for place, member in enumerate(members):
                xml += f'<TiffData FirstT="{place}" IFD="0" PlaneCount="1">'
                xml += f'<UUID FileName="{names[member]}">urn:uuid:{ids[member]}</UUID></TiffData>'
            xml += "</Pixels></Image>"
        tifffile.imwrite(tmp_path / name, GREY8 + np.uint8(number), description=xml + "</OME>", metadata=None)
    for number, name in enumerate(names):
        np.testing.assert_array_equal(read_image(tmp_path / name), GREY8 + np.uint8(number))


def test_of_a_pyramid_or_a_file_with_a_thumbnail_the_picture_itself_is_read(tmp_path: Path):
    large = np.random.default_rng(1).integers(0, 255, (128, 96)).astype(np.uint8)
    with tifffile.TiffWriter(tmp_path / "7.tif") as file:
        file.write(large[::4, ::4], photometric="minisblack")
        file.write(large, photometric="minisblack")
        file.write(large[::2, ::2], photometric="minisblack", subfiletype=1)
    np.testing.assert_array_equal(read_image(tmp_path / "7.tif"), large)
    with tifffile.TiffWriter(tmp_path / "8.tif") as file:
        file.write(large, photometric="minisblack")
        file.write(large[:100], photometric="minisblack")
    with pytest.raises(UserError, match=r"8\.tif holds 2 pictures .* save each"):
        read_image(tmp_path / "8.tif")


def test_other_formats_are_not_opened(tmp_path: Path):
    (tmp_path / "7.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 20 24\n")
    with pytest.raises(UserError, match=r"7\.png .*no format that is read"):
        read_image(tmp_path / "7.png")


def test_sizes_are_bounded_before_pixels_are_decoded(tmp_path: Path):
    Image.new("L", (64, 64)).save(tmp_path / "7.png")
    content = bytearray((tmp_path / "7.png").read_bytes())
    content[16:24] = (60_000).to_bytes(4, "big") * 2
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    (tmp_path / "7.png").write_bytes(content)
    with pytest.raises(UserError, match=r"60000×60000 is stated, 3\.4 GiB"):
        read_label(tmp_path / "7.png")


def surveyed(folder: Path, images: dict[str, np.ndarray]):
    for name, image in images.items():
        Image.fromarray(image).save(folder / name)
    (folder / "list.txt").write_text("".join(f"{name}\n" for name in images))
    samples = read_list(folder / "list.txt", root=folder, labels="optional")
    return survey(samples, folder / "list.txt", Expectation())


def test_colour_read_as_grey_is_said_once_where_there_is_colour(tmp_path: Path):
    colors, equal = np.dstack([GREY8, GREY8 // 2, GREY8]), np.dstack([GREY8] * 3)
    said: list[str] = []
    tell_color([surveyed(tmp_path, {"a.png": equal, "b.png": equal})], Expectation(), said.append)
    assert said == []
    tell_color([surveyed(tmp_path, {"a.png": colors, "b.png": colors})], Expectation(), said.append)
    assert len(said) == 1 and said[0].startswith("2 images are in colour and are read as grey")


def test_one_channel_read_as_three_is_said(tmp_path: Path):
    mixed, said = surveyed(tmp_path, {"a.png": np.dstack([GREY8] * 3), "b.png": GREY8}), []
    for expected in (Expectation(), Expectation(channels=2), Expectation(channels=3)):
        tell_color([mixed], expected, said.append)
    assert len(said) == 1 and said[0].startswith("1 of 2 images have one channel, which stands for all 3")


def test_the_same_content_in_two_places_is_said(tmp_path: Path):
    said: list[str] = []
    tell_copies([surveyed(tmp_path, {"a.png": GREY8, "b.png": GREY8 + 1})], said.append)
    assert said == []
    tell_copies([surveyed(tmp_path, {"a.png": GREY8, "b.png": GREY8, "c.png": GREY8 + 1})], said.append)
    assert len(said) == 1 and "a.png" in said[0] and "b.png" in said[0]


@pytest.mark.parametrize(
    ("line", "cause"),
    [
        (r"images\a.png" + "\t" + r"images\b.png", "backslashes, as on Windows"),
        (r"images\a.png", "backslashes, as on Windows"),
        ("images/a.png,images/b.png", "separated by a comma, as in a CSV"),
        ("images/a.png;images/b.png", "separated by a semicolon"),
        ('"images/a.png"\t"images/b.png"', "quotation marks"),
        (r"images\a.png,images\b.png", "backslashes"),
    ],
)
def test_lists_from_windows_and_spreadsheets_have_their_cause_named(line: str, cause: str, tmp_path: Path):
    (tmp_path / "images").mkdir()
    for name in "ab":
        Image.fromarray(GREY8).save(tmp_path / f"images/{name}.png")
    (tmp_path / "list.txt").write_text(f"{line}\n")
    with pytest.raises(UserError, match=cause):
        read_list(tmp_path / "list.txt", root=tmp_path)
