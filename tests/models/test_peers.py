"""The U-Nets with ResNet encoders, held against those of segmentation_models.pytorch."""

from __future__ import annotations

import pytest
import torch

from models import build_network


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["resnet18", "resnet34", "resnet50"])
def test_weights_of_the_peer_give_the_peer_s_logits(backbone: str) -> None:
    peers = pytest.importorskip("segmentation_models_pytorch")
    torch.manual_seed(0)
    peer = peers.Unet(backbone, encoder_weights=None, in_channels=3, classes=4).train()
    images = torch.randn(2, 3, 64, 96)
    peer(images)  # running statistics that differ from fresh ones
    network = build_network(f"unet_{backbone}", 3, 4)
    weights = [value for name, value in peer.state_dict().items() if not name.startswith("encoder.fc.")]
    network.load_state_dict(dict(zip(network.state_dict(), weights, strict=True)))
    with torch.no_grad():
        torch.testing.assert_close(network.eval()(images), peer.eval()(images), rtol=1e-4, atol=1e-5)
