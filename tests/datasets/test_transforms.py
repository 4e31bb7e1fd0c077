"""Image and label move together; normalization survives the pixel ranges of real microscopes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from datasets import image_files
from datasets.augmentation import AUGMENTATION_PRESETS, STRONG_AUGMENTATIONS, augment, strong_augmentation
from datasets.image_corrections import quantiles, without_hot_pixels
from datasets.labels import IGNORE
from datasets.transforms import (
    NORMALIZATIONS,
    TrainingTransform,
    dihedral,
    normalize,
    pad_to,
    prepare,
    sample_generator,
)


def marked_pair(height: int = 24, width: int = 24) -> tuple[torch.Tensor, torch.Tensor]:
    """An image whose pixels equal its label's, so that any disagreement of draws shows."""
    label = torch.randint(0, 2, (height, width), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    return label[None].float(), label


@pytest.mark.parametrize("crop", [16, 24, 40])
@pytest.mark.parametrize("seed", range(8))
def test_crop_and_flips_share_their_draws(crop, seed):
    image, label = TrainingTransform(crop)(*marked_pair(), np.random.default_rng(seed))
    assert image.shape == (1, crop, crop) and label.shape == (crop, crop)
    known = label != IGNORE
    assert known.sum() == min(crop, 24) ** 2
    assert torch.equal(image[0][known], label[known].float())


def test_the_eight_elements_are_distinct_and_turns_compose():
    image, label = marked_pair()
    results = [dihedral(image, label, element)[1] for element in range(8)]
    assert len({result.numpy().tobytes() for result in results}) == 8
    turned = dihedral(*dihedral(image, label, 1), 3)
    assert torch.equal(turned[0], image) and torch.equal(turned[1], label)


def test_images_that_are_not_square_keep_their_shape():
    for seed in range(8):
        image, label = TrainingTransform(None)(*marked_pair(20, 30), np.random.default_rng(seed))
        assert image.shape == (1, 20, 30) and torch.equal(image[0], label.float())


def test_padding_repeats_image_edges_and_ignores_labels():
    image, label = pad_to(*marked_pair(16, 20), 24, 24)
    assert image.shape == (1, 24, 24)
    assert (label[16:] == IGNORE).all() and (label[:, 20:] == IGNORE).all()
    assert torch.equal(image[0, 20, :20], image[0, 15, :20])


@pytest.mark.parametrize("name", ["rotate", "scale", "elastic"])
def test_strong_geometry_moves_image_and_label_together(name):
    mask = torch.zeros(64, 64, dtype=torch.uint8)
    mask[20:44, 12:30] = 1
    image, label = TrainingTransform(None, flips=False, strong=(name,))(
        mask[None].float(), mask, np.random.default_rng(3)
    )
    known = label != IGNORE
    agreement = ((image[0] > 0.5) == label.bool())[known].float().mean()
    assert agreement > 0.97 and not torch.equal(label, mask)


@pytest.mark.parametrize("name", ["brightness", "contrast", "spectrum", "blur", "noise"])
def test_intensity_changes_the_image_and_never_the_label(name):
    image, label = marked_pair(32, 32)
    changed, same = TrainingTransform(None, flips=False, strong=(name,))(image, label, np.random.default_rng(0))
    assert torch.equal(same, label) and not torch.equal(changed, image)


def test_gamma_keeps_mean_deviation_and_the_order_of_pixels(rng):
    image = torch.from_numpy(rng.gamma(1, 1, (1, 40, 30))).float()
    bent, _ = augment(image, torch.zeros(40, 30, dtype=torch.uint8), ("gamma",), rng)
    assert torch.equal(bent.flatten().argsort(), image.flatten().argsort()) and not torch.allclose(bent, image)
    assert (bent.mean().item(), bent.std().item()) == pytest.approx((image.mean().item(), image.std().item()), rel=1e-4)


def test_spectrum_changes_what_a_frequency_weighs_and_not_where_things_are(rng):
    image = torch.from_numpy(rng.normal(size=(1, 63, 40))).float()
    changed, _ = augment(image, torch.zeros(63, 40, dtype=torch.uint8), ("spectrum",), rng)
    ratio = torch.fft.rfft2(changed.double()) / torch.fft.rfft2(image.double())
    ratio = ratio.flatten()[1:]  # all but the mean
    assert ratio.angle().abs().max() < 1e-3 and ratio.abs().std() > 0.02
    assert (changed.mean().item(), changed.std().item()) == pytest.approx(
        (image.mean().item(), image.std().item()), abs=1e-4
    )


def test_robust_stands_for_its_parts_and_a_strength_beside_it_counts():
    image, label = marked_pair(32, 32)

    def drawn(*spec: str) -> torch.Tensor:
        return augment(image, label, spec, np.random.default_rng(1))[0]

    parts = AUGMENTATION_PRESETS["robust"]
    assert torch.equal(drawn("robust"), drawn(*parts)) and "noise:0.4" in parts
    assert torch.equal(drawn("noise:2", "robust"), drawn(*parts, "noise:2"))
    assert not torch.equal(drawn("robust", "noise:2"), drawn("robust"))


@pytest.mark.parametrize("strong", [(), tuple(STRONG_AUGMENTATIONS)])
def test_a_sample_is_a_function_of_seed_epoch_and_image(strong):
    def draw(epoch: int) -> torch.Tensor:
        before = torch.random.get_rng_state()
        image, _ = TrainingTransform(32, strong=strong)(*marked_pair(64, 64), sample_generator(1, epoch, "a/7.tif"))
        assert torch.equal(before, torch.random.get_rng_state())  # torch's global stream is left alone
        return image

    assert torch.equal(draw(3), draw(3)) and not torch.equal(draw(3), draw(4))


@pytest.mark.parametrize("spec", ["sharpen", "rotate:x", "blur:-1", "noise:0"])
def test_a_bad_augmentation_is_refused(spec):
    with pytest.raises(ValueError, match=spec.partition(":")[0] + "|number|float"):
        strong_augmentation([spec])


RANGES = {
    "12 bit in 16": lambda x: (x * 4095).astype(np.uint16),
    "camera offset": lambda x: (33_000 + 300 * x).astype(np.uint16),
    "8 bit": lambda x: (x * 255).astype(np.uint8),
    "photon counts": lambda x: (3 * x).astype(np.float32),
    "float offset": lambda x: (1e6 + 100 * x).astype(np.float32),
}


@pytest.mark.parametrize("make", RANGES.values(), ids=RANGES.keys())
def test_z_score_survives_pixel_ranges(make, rng):
    truth = rng.random((40, 50))
    image = normalize(make(truth))
    assert image.shape == (1, 40, 50) and image.dtype == np.float32
    assert abs(image.mean()) < 1e-3 and abs(image.std() - 1) < 1e-3
    assert np.corrcoef(image[0].ravel(), truth.ravel())[0, 1] > 0.98


@pytest.mark.parametrize("mode", NORMALIZATIONS)
@pytest.mark.parametrize("shape", [(37, 21), (37, 21, 3)])
def test_parts_of_an_image_are_scaled_as_the_whole(mode, shape, rng, monkeypatch):
    image = rng.integers(0, 60_000, shape, np.uint16)
    whole = normalize(image, mode)
    monkeypatch.setattr(image_files, "BLOCK_PIXELS", 100)
    pixels = prepare(image, mode)
    scaling = NORMALIZATIONS[mode](pixels)
    parts = [scaling(pixels[top : top + 5]) for top in range(0, 37, 5)]
    assert np.concatenate(parts, 1) == pytest.approx(whole, abs=1e-6) and whole.dtype == np.float32


@pytest.mark.parametrize("value", [0, 255, 40_000])
def test_a_constant_image_becomes_zero(value):
    assert not normalize(np.full((16, 16), value, np.uint16)).any()


def test_colour_channels_are_normalized_one_by_one(rng):
    image = normalize((rng.random((20, 20, 3)) * [255, 25, 2.5]).astype(np.uint8))
    assert image.shape == (3, 20, 20) and np.allclose(image.std((1, 2)), 1, atol=1e-4)


@pytest.mark.parametrize(("dtype", "top"), [(np.uint8, 255), (np.uint16, 65535)])
def test_unit_divides_by_the_types_maximum(dtype, top):
    assert normalize(np.full((16, 16), top, dtype), "unit").max() == 1


def test_noise_is_drawn_on_the_host_for_images_on_any_device():
    image = torch.zeros(1, 8, 8, device="meta")
    noisy, _ = augment(image, torch.zeros(8, 8, dtype=torch.uint8, device="meta"), ("noise",), np.random.default_rng(0))
    assert noisy.device.type == "meta" and noisy.shape == image.shape


def test_local_normalization_evens_out_the_background(rng):
    y, x = np.mgrid[:256, :256]
    texture = rng.normal(0, 1, (256, 256)) + 6 * ((x // 4 + y // 4) % 4 == 0)
    even, uneven = (normalize(1000 + 50 * texture + slope * x, "local")[0] for slope in (0, 20))
    assert even.dtype == np.float32 and even.shape == (256, 256)
    inside = np.s_[64:-64, 64:-64]
    assert np.corrcoef(even[inside].ravel(), uneven[inside].ravel())[0, 1] > 0.95
    plain = [normalize(1000 + 50 * texture + slope * x)[0][inside].ravel() for slope in (0, 20)]
    assert np.corrcoef(*plain)[0, 1] < 0.6
    assert not normalize(np.full((32, 32), 7, np.uint16), "local").any()
    rgb = normalize(np.stack([texture] * 3, -1), "local")
    assert rgb.shape == (3, 256, 256) and np.array_equal(rgb[0], rgb[2])


@pytest.mark.parametrize("unit", [1e-12, 1e-9, 1.0, 1e6])
def test_values_in_any_unit_get_deviation_one(unit, rng):
    image = (rng.normal(100, 10, (40, 50)) * unit).astype(np.float32)
    assert abs(normalize(image).std() - 1) < 0.01


@pytest.mark.parametrize("mode", ["zscore", "local"])
@pytest.mark.parametrize("hot", [65535, 0])
def test_a_few_hot_or_dead_pixels_change_nothing_elsewhere(mode, hot, rng):
    image = (1000 + 500 * rng.random((64, 64))).astype(np.uint16)
    places = rng.integers(0, 64, (2, 10))
    spoilt = image.copy()
    spoilt[tuple(places)] = hot
    before, after = normalize(image, mode), normalize(spoilt, mode)
    untouched = np.ones(image.shape, bool)
    untouched[tuple(places)] = False
    assert np.abs(after - before)[0][untouched].max() < 0.1 and np.abs(after).max() < 1.5 * np.abs(before).max()


def test_bright_structures_are_no_hot_pixels(rng):
    image = rng.normal(100, 10, (64, 64)).astype(np.uint16)
    image[20:23, 30:33] = 60_000
    assert without_hot_pixels(image) is image


def test_quantiles_by_counting_are_those_of_numpy(rng):
    for count in (1, 2, 3, 50, 4096):
        for largest in (1, 300, 65536):
            values = rng.integers(0, largest, count).astype(np.uint16)
            fractions = (0.0, 0.005, 0.37, 0.5, 0.995, 1.0)
            assert np.array_equal(quantiles(values, fractions), np.quantile(values, fractions))


def test_a_stronger_blur_blurs_more():
    noise = torch.randn(1, 64, 64, generator=torch.Generator().manual_seed(0))
    label = torch.zeros(64, 64, dtype=torch.uint8)

    def least_deviation(spec: str) -> float:
        return min(float(augment(noise, label, [spec], np.random.default_rng(seed))[0].std()) for seed in range(20))

    assert least_deviation("blur:5") < 0.5 * least_deviation("blur:1.5")
    assert 0 < least_deviation("blur:1000") < least_deviation("blur:5")
    small, _ = augment(noise[:, :6, :5], label[:6, :5], ["blur:5"], np.random.default_rng(0))
    assert small.shape == (1, 6, 5) and torch.isfinite(small).all()
