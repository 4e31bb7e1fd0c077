"""Every network: shapes at any size, gradients, saving, memory formats; and the published parameter counts."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from datasets.image_corrections import above_local_background
from models import NETWORKS, build_network, network_options, start_from_shares, to_scores
from models.blocks import LOCAL_FLOOR, LocalContrast, fold_batch_norms, initialize, split_padding
from utils.cli import UserError

SIZES = [(64, 64), (16, 16), (33, 47)]
# Settings that change the shape of a network, beside each network as it is.
VARIANTS = [
    ("unet", {"norm": "group"}),
    ("unet", {"local_contrast": 16}),
    ("deeplabv3plus", {"output_stride": 8}),
    ("deeplabv3plus", {"norm": "group", "backbone": "resnet101"}),
    ("hrnet", {"stem_stride": 2}),
    ("hrnet", {"stem_stride": 4, "norm": "group"}),
    ("unet_resnet18", {"norm": "group"}),
]
ALL = [(name, {}) for name in NETWORKS] + VARIANTS


@pytest.fixture(autouse=True)
def fixed_seed() -> None:
    torch.manual_seed(0)


def small(name: str, **options) -> nn.Module:
    return build_network(name, options.pop("in_channels", 1), options.pop("num_classes", 1), width=4, **options)


def count_parameters(name: str, *channels: int, **options) -> int:
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in build_network(name, *channels, **options).parameters())


def backward(network: nn.Module, images: Tensor) -> Tensor:
    """One backward pass of a loss that is no symmetric function of the logits; returns the logits."""
    logits = network(images)
    target = torch.linspace(-1, 1, logits.numel(), dtype=logits.dtype).view(logits.shape)
    (logits - target).square().mean().backward()
    return logits.detach()


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize(("name", "options"), ALL, ids=str)
def test_one_image_of_any_size_trains(name: str, options: dict, size: tuple[int, int]) -> None:
    network = small(name, **options).train()
    logits = backward(network, torch.randn(1, 1, *size))
    assert logits.shape == (1, 1, *size)
    assert logits.dtype == torch.float32
    for key, parameter in network.named_parameters():
        assert parameter.grad is not None, f"{key} is not used"
        assert parameter.grad.isfinite().all(), key
    assert all(buffer.isfinite().all() for buffer in network.buffers())


@pytest.mark.parametrize("name", NETWORKS)
def test_every_parameter_matters(name: str) -> None:
    network = small(name, in_channels=3, num_classes=5, init="kaiming")
    logits = backward(network, torch.randn(2, 3, 64, 64))
    assert logits.shape == (2, 5, 64, 64)
    for key, parameter in network.named_parameters():
        assert parameter.grad.abs().max() > 0, f"{key} has no gradient"


@pytest.mark.parametrize("name", NETWORKS)
def test_saved_and_loaded_network_gives_equal_logits(name: str, tmp_path: Path) -> None:
    network, other = small(name), small(name)
    network(torch.randn(4, 1, 40, 40))  # running statistics that differ from fresh ones
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    other.load_state_dict(torch.load(tmp_path / "weights.pth", weights_only=True))
    images = torch.randn(1, 1, 40, 33)
    with torch.no_grad():
        assert torch.equal(network.eval()(images), other.eval()(images))


@pytest.mark.parametrize("name", NETWORKS)
def test_prediction_does_not_depend_on_the_batch(name: str) -> None:
    network = small(name).double().eval()
    images = torch.randn(3, 1, 32, 47, dtype=torch.float64)
    with torch.no_grad():
        together, alone = network(images), torch.cat([network(image[None]) for image in images])
    torch.testing.assert_close(together, alone)


@pytest.mark.parametrize("name", NETWORKS)
def test_channels_last_equals_channels_first(name: str) -> None:
    network = small(name, in_channels=3).double()
    other = copy.deepcopy(network).to(memory_format=torch.channels_last)
    images = torch.randn(2, 3, 48, 40, dtype=torch.float64)
    expected, found = backward(network, images), backward(other, images.to(memory_format=torch.channels_last))
    torch.testing.assert_close(found, expected)
    for mine, reference in zip(other.parameters(), network.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, reference.grad, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", NETWORKS)
def test_activation_checkpointing_changes_nothing(name: str) -> None:
    network, saving = small(name), small(name, activation_checkpointing=True)
    saving.load_state_dict(network.state_dict())
    images = torch.randn(2, 1, 32, 41)
    assert torch.equal(backward(saving, images), backward(network, images))
    for mine, reference in zip(saving.parameters(), network.parameters(), strict=True):
        assert torch.equal(mine.grad, reference.grad)
    for (key, mine), reference in zip(saving.state_dict().items(), network.state_dict().values(), strict=True):
        assert torch.equal(mine, reference), f"{key} was updated twice"


@pytest.mark.parametrize("name", NETWORKS)
def test_half_precision_autocast_stays_near_full_precision(name: str) -> None:
    network = small(name, init="kaiming")
    for _ in range(3):
        network(torch.randn(4, 1, 64, 64))
    network.eval()
    images = torch.randn(1, 1, 64, 64)
    with torch.no_grad():
        expected = to_scores(network(images))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = to_scores(network(images))
    assert found.dtype == torch.float32
    assert (found - expected).abs().mean() < 0.02


@pytest.mark.parametrize("name", NETWORKS)
def test_folded_batch_norms_change_no_logit(name: str) -> None:
    network = small(name, init="kaiming").double()
    images = torch.randn(2, 1, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        for _ in range(3):
            network(3 + 2 * images)
        expected = network.eval()(images)
        folded = fold_batch_norms(copy.deepcopy(network))
        torch.testing.assert_close(folded(images), expected)
    assert expected.std() > 1e-3
    if name == "unet":
        assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in folded.modules())


@pytest.mark.slow
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("name", ["unet", "deeplabv3plus", "unet_resnet18"])
def test_compiled_graph_is_whole_and_equal(name: str, checkpointing: bool) -> None:
    torch._dynamo.reset()
    network = small(name, activation_checkpointing=checkpointing)
    compiled = torch.compile(copy.deepcopy(network), backend="aot_eager", fullgraph=True)
    images = torch.randn(2, 1, 48, 40)
    torch.testing.assert_close(backward(compiled, images), backward(network, images), rtol=1e-4, atol=1e-4)
    for mine, reference in zip(compiled.buffers(), network.buffers(), strict=True):
        torch.testing.assert_close(mine, reference, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_network_learns_a_disk(name: str) -> None:
    y, x = torch.meshgrid(torch.arange(48), torch.arange(48), indexing="ij")
    label = ((y - 22) ** 2 + (x - 26) ** 2 <= 12**2).float().expand(2, 1, 48, 48)
    images = label + 0.5 * torch.randn(2, 1, 48, 48)
    network = build_network(name, width=8)
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    for _ in range(60):
        loss = F.binary_cross_entropy_with_logits(network(images), label)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    mask = to_scores(network(images)) > 0.5
    iou = (mask & label.bool()).sum() / (mask | label.bool()).sum()
    assert iou > 0.9


# Padding


@pytest.mark.parametrize("multiple", [8, 16, 32])
def test_padded_sides_are_the_next_multiple(multiple: int) -> None:
    for size in range(1, 200):
        before, after = split_padding(size, multiple)
        padded = before + size + after
        assert padded % multiple == 0
        assert padded == max(2 * multiple, size + -size % multiple)
        assert before >= 0
        assert after - before in (0, 1)


@pytest.mark.parametrize(("size", "mode"), [((33, 47), "reflect"), ((40, 9), "replicate")])
def test_images_are_padded_by_reflection_where_that_fits(size: tuple[int, int], mode: str) -> None:
    network = small("unet").eval()
    images = torch.randn(1, 1, *size)
    (top, bottom), (left, right) = (split_padding(side, 16) for side in size)
    padded = F.pad(images, (left, right, top, bottom), mode=mode)
    with torch.no_grad():
        expected = network(padded)[..., top : top + size[0], left : left + size[1]]
        assert torch.equal(network(images), expected)


# Parameters: published architectures and our own sums


def unet_count(levels: list[int], biases: bool) -> int:
    """Sum over the layers of a U-Net with one input channel and one logit."""

    def double(before: int, after: int) -> int:
        return 9 * before * after + 9 * after * after + 2 * 2 * after + 2 * after * biases

    down = sum(double(before, after) for before, after in zip([1, *levels], levels, strict=False))
    up = sum(4 * 2 * c * c + c + double(2 * c, c) for c in levels[:-1])
    return down + up + levels[0] + 1


def test_unet_has_the_published_size() -> None:
    levels = [64, 128, 256, 512, 1024]
    assert count_parameters("unet") == unet_count(levels, biases=False) == 31_036_481
    assert unet_count(levels, biases=True) == 31_042_369  # the published 31.04 M
    assert count_parameters("lightunet") == unet_count(levels[:-1], biases=False) == 7_699_009


@pytest.mark.parametrize(
    ("name", "channels", "options", "expected"),
    [
        # Wang et al. report 65.8 M for segmentation; their code prints 65,859,379, which includes the 720 biases of
        # the convolution before the last batch norm.
        ("hrnet", (3, 19), {"width": 48, "stem_stride": 4}, 65_859_379 - 720),
        ("hrnet", (3, 19), {"width": 32, "stem_stride": 4}, 29_546_035),
        ("hrnet", (3, 19), {"width": 18, "stem_stride": 4}, 9_640_849),
        # Unet("resnet18" | "resnet34" | "resnet50") of segmentation_models.pytorch
        ("unet_resnet18", (3, 1), {}, 14_328_209),
        ("unet_resnet34", (3, 1), {}, 24_436_369),
        ("unet_resnet50", (3, 1), {}, 32_521_105),
        # ResNet-50 and -101 without classifier, pyramid, decoder, head (plain convolutions, no norm on the mean)
        ("deeplabv3plus", (3, 21), {"backbone": "resnet50"}, 23_508_032 + 15_534_592 + 1_303_904 + 5_397),
        ("deeplabv3plus", (3, 21), {"backbone": "resnet101"}, 42_500_160 + 15_534_592 + 1_303_904 + 5_397),
    ],
)
def test_size_of_published_networks(name: str, channels: tuple[int, int], options: dict, expected: int) -> None:
    assert count_parameters(name, *channels, **options) == expected


def test_dilation_and_stem_stride_cost_no_parameters() -> None:
    assert count_parameters("deeplabv3plus", output_stride=8) == count_parameters("deeplabv3plus")
    assert count_parameters("hrnet", stem_stride=4) == count_parameters("hrnet")


@pytest.mark.parametrize(
    ("init", "std"), [("normal", 0.02), ("kaiming", (2 / (9 * 64)) ** 0.5), ("xavier", (2 / (9 * 96)) ** 0.5)]
)
def test_initialization(init: str, std: float) -> None:
    network = nn.Sequential(nn.Conv2d(64, 32, 3), nn.BatchNorm2d(32))
    initialize(network, init)
    assert network[0].weight.std().item() == pytest.approx(std, rel=0.03)
    assert network[0].bias.abs().max() == 0
    assert (network[1].weight == 1).all() and (network[1].bias == 0).all()


def test_same_seed_same_weights() -> None:
    torch.manual_seed(3)
    first = small("unet_resnet18").state_dict()
    torch.manual_seed(3)
    second = small("unet_resnet18").state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)


# The builder


def test_unknown_network_lists_those_that_exist() -> None:
    with pytest.raises(UserError, match="'unett' is unknown; choose from: " + ", ".join(NETWORKS)):
        build_network("unett")


@pytest.mark.parametrize(
    ("name", "options", "named"),
    [
        ("unet", {"output_stride": 16}, "'unet' has no option output_stride; its options are: width, norm"),
        ("hrnet", {"pretrained": "imagenet"}, "'hrnet' has no option pretrained"),
        ("unet", {"width": 0}, "width must be a whole number of at least 1, not 0"),
        ("hrnet", {"width": 2.5}, "width must be a whole number"),
        ("unet", {"norm": "layer"}, "norm 'layer' is unknown; choose from: batch, group"),
        ("lightunet", {"init": "zeros"}, "init 'zeros' is unknown; choose from: normal, kaiming, xavier, default"),
        ("hrnet", {"stem_stride": 3}, "stem_stride must be 1, 2 or 4, not 3"),
        ("unet", {"local_contrast": -2}, "local_contrast must be 0 or from 1 to 64 pixels, not -2"),
        ("unet", {"local_contrast": True}, "local_contrast must be 0 or from 1 to 64 pixels, not True"),
        ("deeplabv3plus", {"output_stride": 32}, "output_stride must be 16 or 8, not 32"),
        ("deeplabv3plus", {"backbone": "resnet18"}, "backbone 'resnet18' is unknown"),
    ],
)
def test_options_a_network_does_not_take_are_named(name: str, options: dict, named: str) -> None:
    with pytest.raises(UserError) as error:
        build_network(name, **options)
    assert named in str(error.value)


@pytest.mark.parametrize("name", NETWORKS)
def test_defaults_are_what_network_options_says(name: str) -> None:
    options = network_options(name)
    assert {"width", "norm", "init", "activation_checkpointing"} <= set(options)
    assert count_parameters(name, **options) == count_parameters(name)


# Local contrast


@pytest.mark.parametrize(("sigma", "near"), [(4, 0.01), (16, 0.08)])  # 16: on every fourth pixel
def test_local_contrast_is_what_opencv_finds_away_from_the_border(sigma: float, near: float) -> None:
    rng, scales = np.random.default_rng(0), np.array([1, 5])[:, None, None]
    image = np.cumsum(scales * rng.normal(size=(2, 192, 160)), axis=1).astype(np.float32)
    both = LocalContrast(sigma, stride=16)(torch.from_numpy(image)[None])[0].numpy()
    expected = [above_local_background(plane, sigma, LOCAL_FLOOR) for plane in image]
    inner = np.s_[:, 64:-64, 64:-64]
    assert both.shape == (4, 192, 160) and np.array_equal(both[:2], image)
    assert np.abs(both[2:] - expected)[inner].max() < near  # OpenCV's windows reach to 4 σ, these to 3


def test_local_contrast_of_even_images_is_nothing_up_to_the_border() -> None:
    slope = torch.linspace(0, 1, 64).repeat(64, 1)
    even, steps = (LocalContrast(8, 8)(image[None, None])[0, 1] for image in (torch.full((24, 16), 7.0), slope))
    assert even.abs().max() < 1e-4
    assert steps[32, 32].abs() < 0.05  # an even slope has none either


@pytest.mark.parametrize("name", ["unet", "lightunet"])
def test_a_network_with_local_contrast_sees_dim_places_as_bright_ones(name: str) -> None:
    torch.manual_seed(0)
    network = build_network(name, width=4, init="kaiming", local_contrast=4).eval()
    assert "local_contrast.kernel" not in network.state_dict()  # follows from the option
    assert network.down[0][0].in_channels == 2
    with torch.no_grad():
        network.down[0][0].weight[:, 0] = 0  # it looks at contrast alone
        texture = torch.randn(1, 1, 48, 48)
        logits, dimmer = (network(image) for image in (texture, texture * 0.5 + 3))
    torch.testing.assert_close(logits, dimmer, rtol=0.1, atol=0.02)


def test_local_contrast_is_computed_in_full_precision() -> None:
    images = 100 + torch.randn(1, 1, 32, 32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = LocalContrast(4, 16)(images)
    assert mixed.dtype == torch.float32 and torch.equal(mixed, LocalContrast(4, 16)(images))


# Scores


def test_scores_of_known_logits() -> None:
    binary = to_scores(torch.tensor([0.0, 3.0**0.5, -100.0, 100.0]).view(1, 1, 2, 2))
    assert binary.flatten().tolist() == pytest.approx([0.5, 1 / (1 + 2.718281828 ** -(3**0.5)), 0.0, 1.0])
    classes = to_scores(torch.tensor([1.0, 2.0, 5.0]).log().view(1, 3, 1, 1))
    assert classes.flatten().tolist() == pytest.approx([1 / 8, 2 / 8, 5 / 8])


@pytest.mark.parametrize("channels", [1, 2, 5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_scores_are_float32_shares(channels: int, dtype: torch.dtype) -> None:
    scores = to_scores((30 * torch.randn(2, channels, 8, 8)).to(dtype))
    assert scores.dtype == torch.float32
    assert scores.min() >= 0 and scores.max() <= 1
    if channels > 1:
        torch.testing.assert_close(scores.sum(dim=1), torch.ones(2, 8, 8))


@pytest.mark.parametrize("classes", [1, 3])
@pytest.mark.parametrize("name", NETWORKS)
def test_fresh_scores_start_at_the_given_shares(name, classes):
    network = small(name, num_classes=classes).eval()
    shares = [0.9, 0.1] if classes == 1 else [0.7, 0.2, 0.1]
    start_from_shares(network, shares)
    nn.init.zeros_(network.head.weight)
    scores = to_scores(network(torch.randn(1, 1, 64, 64))).mean((0, 2, 3))
    assert torch.allclose(scores, torch.tensor(shares[1:] if classes == 1 else shares), atol=1e-5)


def test_a_class_that_no_label_shows_keeps_a_finite_bias():
    network = small("unet", num_classes=3)
    start_from_shares(network, [0.5, 0.5, 0.0])
    assert torch.isfinite(network.head.bias).all()
