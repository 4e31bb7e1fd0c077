"""ResNet encoders and their pretrained weights, held against torchvision's own networks."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
import torchvision
from torch import Tensor, nn

from models import build_network
from models.resnet import ResNetEncoder
from utils.cli import UserError


@pytest.fixture(autouse=True)
def fixed_seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("output_stride", [8, 16, 32])
def test_encoder_resolutions(output_stride: int) -> None:
    encoder = ResNetEncoder("resnet50", 1, width=4, output_stride=output_stride)
    features = encoder(torch.randn(1, 1, 64, 96), lambda stage, *inputs: stage(*inputs))
    assert [each.shape[1] for each in features] == encoder.channels == [4, 16, 32, 64, 128]
    strides = [min(stride, output_stride) for stride in (2, 4, 8, 16, 32)]
    assert [each.shape[2:] for each in features] == [(64 // stride, 96 // stride) for stride in strides]


@pytest.fixture(scope="module")
def resnet18_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of torchvision's ResNet-18, drawn at random, with running statistics of their own."""
    torch.manual_seed(1)
    network = torchvision.models.resnet18()
    network(torch.randn(4, 3, 64, 64))
    path = tmp_path_factory.mktemp("weights") / "resnet18.pth"
    torch.save(network.state_dict(), path)
    return path


def reference_features(network: nn.Module, images: Tensor) -> Tensor:
    """The last feature map of torchvision's ResNet."""
    images = network.maxpool(network.relu(network.bn1(network.conv1(images))))
    return network.layer4(network.layer3(network.layer2(network.layer1(images))))


@pytest.mark.parametrize("in_channels", [1, 3])
def test_pretrained_encoder_is_torchvision_s(in_channels: int, resnet18_file: Path) -> None:
    reference = torchvision.models.resnet18()
    reference.load_state_dict(torch.load(resnet18_file, weights_only=True))
    network = build_network("unet_resnet18", in_channels, pretrained=resnet18_file).eval()
    images = torch.randn(1, in_channels, 64, 64)
    with torch.no_grad():
        found = network.encoder(images, network.run_stage)[-1]
        expected = reference_features(reference.eval(), images.expand(-1, 3, -1, -1))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_dilated_encoder_is_torchvision_s(tmp_path: Path) -> None:
    reference = torchvision.models.resnet50(replace_stride_with_dilation=[False, True, True]).eval()
    torch.save({"state_dict": reference.state_dict()}, tmp_path / "resnet50.pth")
    network = build_network("deeplabv3plus", 3, output_stride=8, pretrained=str(tmp_path / "resnet50.pth")).eval()
    images = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        found = network.encoder(images, network.run_stage)[-1]
        expected = reference_features(reference, images)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_imagenet_weights_come_from_the_cache(
    resnet18_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    os.link(resnet18_file, tmp_path / "hub" / "checkpoints" / "resnet18-f37072fd.pth")
    network = build_network("unet_resnet18", 3, pretrained="imagenet")
    expected = torch.load(resnet18_file, weights_only=True)["layer3.0.conv1.weight"]
    assert torch.equal(network.encoder.state_dict()["layers.2.0.conv1.weight"], expected)


def test_imagenet_weights_without_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # the discard port: the connection is refused
    with pytest.raises(UserError, match=r"resnet18-f37072fd\.pth.*--pretrained FILE"):
        build_network("unet_resnet18", pretrained="imagenet")


class Malicious:
    def __reduce__(self):
        return os.mkdir, ("owned",)


def test_unfit_files_are_refused(resnet18_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    whole = resnet18_file.read_bytes()
    Path("cut.pth").write_bytes(whole[: len(whole) // 2])
    Path("empty.pth").touch()
    Path("text.pth").write_text("layer1.0.conv1.weight")
    torch.save([1, 2], "list.pth")
    torch.save({"conv1.weight": Malicious()}, "malicious.pth")
    for name in ("absent.pth", "cut.pth", "empty.pth", "text.pth", "list.pth", "malicious.pth"):
        with pytest.raises(UserError, match=name.replace(".", r"\.")):
            build_network("unet_resnet18", pretrained=name)
    assert not Path("owned").exists()


def test_weights_of_another_network_are_listed(resnet18_file: Path) -> None:
    with pytest.raises(UserError, match=r"does not fit resnet34; weights \d+ missing: layers\.0\.2\.conv1\.weight"):
        build_network("unet_resnet34", pretrained=resnet18_file)
    with pytest.raises(UserError, match=r"1 of another shape: stem\.conv1\.weight \(64, 3, 7, 7\) instead of"):
        build_network("unet_resnet18", in_channels=4, pretrained=resnet18_file)
    for options in ({"width": 16}, {"norm": "group"}):
        with pytest.raises(UserError, match="width 64 and batch norm"):
            build_network("unet_resnet18", pretrained=resnet18_file, **options)
