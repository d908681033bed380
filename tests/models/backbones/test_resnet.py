"""The folded ResNet against torchvision's, value and gradient."""

import pytest
import torch
import torchvision

from models.backbones.resnet import ResNet, ResNetConfig


def randomized(net: torch.nn.Module) -> dict[str, torch.Tensor]:
    """State of torchvision's net with normalisations that do something."""
    generator = torch.Generator().manual_seed(0)
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.weight.data.uniform_(0.3, 0.6, generator=generator)
            module.bias.data.normal_(0, 0.1, generator=generator)
            module.running_mean.normal_(0, 0.1, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
    return {name: value for name, value in net.state_dict().items() if "num_batches" not in name}


@pytest.fixture(scope="module")
def pair() -> tuple[torch.nn.Module, ResNet]:
    torch.manual_seed(0)
    reference = torchvision.models.resnet50(weights=None).double()
    state = randomized(reference)
    ours = ResNet("resnet50", frozen=0).double()
    ours.load_state_dict({name: value for name, value in state.items() if not name.startswith("fc.")})
    return reference.eval(), ours.train()


def reference_features(net: torch.nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    x = net.maxpool(net.relu(net.bn1(net.conv1(x))))
    levels = []
    for layer in (net.layer1, net.layer2, net.layer3, net.layer4):
        x = layer(x)
        levels.append(x)
    return levels


def test_features_and_gradients_are_torchvisions_with_fixed_statistics(pair):
    reference, ours = pair
    images = torch.randn(2, 3, 37, 50, dtype=torch.float64)
    expected, found = reference_features(reference, images), ours(images)
    for left, right, info in zip(found, expected, ours.feature_info, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-9, atol=1e-9)
        assert left.shape[1:] == (info.channels, -(-37 // info.stride), -(-50 // info.stride))
    for levels in (expected, found):
        sum(level.square().mean() for level in levels).backward()
    gradients = dict(reference.named_parameters())
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name].grad, rtol=1e-7, atol=1e-10)


def test_statistics_stay_in_training(pair):
    _, ours = pair
    before = {name: buffer.clone() for name, buffer in ours.named_buffers()}
    ours.train()(torch.randn(1, 3, 64, 64, dtype=torch.float64))
    assert all(torch.equal(buffer, before[name]) for name, buffer in ours.named_buffers())


@pytest.mark.parametrize(
    ("name", "total", "frozen"), [("resnet50", 23_508_032, 225_344), ("resnet101", 42_500_160, 225_344)]
)
def test_counts(name, total, frozen):
    with torch.device("meta"):
        net = ResNetConfig(name=name).build()
    assert sum(parameter.numel() for parameter in net.parameters()) == total
    assert sum(parameter.numel() for parameter in net.parameters() if not parameter.requires_grad) == frozen


@pytest.mark.parametrize("frozen", [0, 1, 5])
def test_frozen_parts_come_from_the_input_on(frozen):
    with torch.device("meta"):
        net = ResNet("resnet50", frozen)
    fixed = {name.split(".")[0] for name, parameter in net.named_parameters() if not parameter.requires_grad}
    parts = [["conv1", "bn1"], ["layer1"], ["layer2"], ["layer3"], ["layer4"]]
    assert fixed == {name for part in parts[:frozen] for name in part}
