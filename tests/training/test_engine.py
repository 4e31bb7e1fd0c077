"""The step: parts change nothing, training learns, validation counts all once."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from datasets.transition_matrix import ScoreDecoder
from evaluation.scores import confusion_matrix, score_histogram
from models import build_network, to_scores
from training.engine import Step, train_one_epoch, validate
from training.losses import SegmentationLoss
from training.optimizers import build_optimizer, build_schedule

CPU = torch.device("cpu")


def small_network(num_classes: int = 1) -> nn.Module:
    """A float64 U-Net whose normalization does not look across images."""
    torch.manual_seed(0)
    return build_network("lightunet", 1, num_classes, width=4, norm="group").double()


def random_batch(count: int, num_classes: int = 1, size: int = 16) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(count, 1, size, size, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, max(num_classes, 2), (count, size, size), generator=generator).to(torch.uint8)
    labels[0, :10] = 255  # parts with unequal numbers of valid pixels
    return {"image": images, "label": labels}


def no_scaler() -> torch.amp.GradScaler:
    return torch.amp.GradScaler("cpu", enabled=False)


@pytest.mark.parametrize("spec", ["bce", "dice", "bce+0.5*dice", "iou"])
@pytest.mark.parametrize("parts", [2, 3, 5])
def test_parts_add_up_to_the_whole_batch(spec, parts):
    batch, loss = random_batch(5), SegmentationLoss(spec, 1)
    results = []
    for accumulate in (1, parts):
        network = small_network()
        step = Step(network, loss, no_scaler(), accumulate=accumulate)
        value = step.backward(batch["image"], batch["label"])
        results.append((value, [parameter.grad for parameter in network.parameters()]))
    assert torch.allclose(results[0][0], results[1][0], rtol=1e-6)
    for one, other in zip(results[0][1], results[1][1], strict=True):
        assert torch.allclose(one, other, rtol=1e-9, atol=1e-14)


def make_training(network: nn.Module, name: str = "sgd"):
    optimizer = build_optimizer(name, network.parameters(), 0.1)
    return optimizer, build_schedule("constant", optimizer, total_steps=10)


def test_training_lowers_the_loss_and_clipping_bounds_the_step():
    network, batch = small_network(), random_batch(4)
    optimizer, schedule = make_training(network, "adamw")
    arguments = (network, [batch] * 5, SegmentationLoss("bce", 1), optimizer, schedule, no_scaler())
    first, last = (train_one_epoch(*arguments, device=CPU).loss for _ in range(2))
    assert last < first
    network = small_network()
    optimizer, schedule = make_training(network)
    before = torch.cat([parameter.detach().ravel().clone() for parameter in network.parameters()])
    train_one_epoch(
        network, [batch], SegmentationLoss("bce", 1), optimizer, schedule, no_scaler(), device=CPU, clip_grad=1e-3
    )
    after = torch.cat([parameter.detach().ravel() for parameter in network.parameters()])
    assert 0 < (after - before).norm() <= 0.1 * 1e-3 * (1 + 1e-6)


@pytest.mark.parametrize("num_classes", [1, 3])
def test_validation_equals_counting_all_images_at_once(num_classes):
    network, batch = small_network(num_classes), random_batch(5, num_classes)
    pieces = [{name: value[part] for name, value in batch.items()} for part in (slice(0, 2), slice(2, 5))]
    counts = validate(network, pieces, num_classes=num_classes, device=CPU)
    network.eval()
    scores = to_scores(network(batch["image"])).detach()
    if num_classes == 1:
        expected = score_histogram(scores[:, 0], batch["label"])
    else:
        expected = confusion_matrix(scores.argmax(1), batch["label"], num_classes)
    assert np.array_equal(counts, expected.numpy())
    assert counts.sum() == (batch["label"] != 255).sum()


@pytest.mark.parametrize("num_classes", [1, 3])
def test_validation_keeps_groups_of_images_apart(num_classes):
    network, batch = small_network(num_classes), random_batch(5, num_classes)
    batch["index"] = torch.tensor([4, 0, 1, 3, 2])
    tables = validate(network, [batch], num_classes=num_classes, device=CPU, groups=[0, 1, 2, 0, 1])
    for table in range(3):
        own = [place for place, index in enumerate(batch["index"].tolist()) if index % 3 == table]
        part = {name: value[own] for name, value in batch.items()}
        assert np.array_equal(tables[table], validate(network, [part], num_classes=num_classes, device=CPU))


@pytest.mark.parametrize("num_classes", [1, 3])
def test_large_validation_images_are_counted_once_in_tiles(num_classes):
    """A pointwise network sees no tile's edge, so that tiles and whole images give the same counts."""
    network = nn.Conv2d(1, num_classes, 1)
    generator = torch.Generator().manual_seed(0)
    batch = {
        "image": torch.randn(2, 1, 150, 90, generator=generator),
        "label": torch.randint(0, 2, (2, 150, 90), generator=generator).to(torch.uint8),
        "index": torch.arange(2),
    }
    whole, tiled = (
        validate(network, [batch], num_classes=num_classes, device=CPU, groups=[0, 1], tile=tile) for tile in (512, 128)
    )
    assert np.array_equal(whole, tiled) and whole.sum() == batch["label"].numel()


def test_class_scores_are_corrected_by_the_noise_matrix():
    # A perfect learner of labels that cycle the classes predicts the wrong class until Q corrects it.
    matrix = torch.tensor([[0.1, 0.9, 0.0], [0.0, 0.1, 0.9], [0.9, 0.0, 0.1]], dtype=torch.float64)
    truth = torch.randint(0, 3, (2, 16, 16), generator=torch.Generator().manual_seed(2)).to(torch.uint8)

    class NoisyPosterior(nn.Module):
        def forward(self, images):
            return matrix[truth.long()].clamp_min(1e-9).log().movedim(-1, 1)

    batches = [{"image": torch.zeros(2, 1, 16, 16), "label": truth}]
    plain = validate(NoisyPosterior(), batches, num_classes=3, device=CPU)
    corrected = validate(NoisyPosterior(), batches, num_classes=3, device=CPU, decoder=ScoreDecoder(matrix.numpy()))
    assert np.trace(plain) == 0 and np.trace(corrected) == corrected.sum() == truth.numel()
