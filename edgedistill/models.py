"""Students and the demo's teacher as torch modules, and the graph that leaves torch.

Every module takes normalised float32 NCHW and gives logits; `Deployable` puts the fixed-size uint8 NHWC front on it, so
mean, std, layout and colour order travel inside the exported graph and clients send uint8.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from edgedistill.errors import ConfigError

MEAN, STD = 0.5, 0.5  # of our own students, on a 0-1 scale; the graph holds them


def edge_cnn(classes: int, width: int = 16) -> nn.Module:
    """Five convolutions and a linear layer: 70 k parameters at 10 classes. For 28-64 px."""
    return nn.Sequential(
        _conv(3, width),
        _conv(width, 2 * width, stride=2),
        _conv(2 * width, 2 * width),
        _conv(2 * width, 4 * width, stride=2),
        _conv(4 * width, 4 * width),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4 * width, classes),
    )


def wide_cnn(classes: int, width: int = 20) -> nn.Module:
    """A residual net of 0.5 M parameters at 10 classes: the demo's teacher."""
    return nn.Sequential(
        _conv(3, width),
        _conv(width, 2 * width, stride=2),
        _Residual(2 * width),
        _conv(2 * width, 4 * width, stride=2),
        _Residual(4 * width),
        _Residual(4 * width),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(0.2),
        nn.Linear(4 * width, classes),
    )


ARCHITECTURES: dict[str, Callable[[int], nn.Module]] = {"edge_cnn": edge_cnn, "wide_cnn": wide_cnn}


def build(arch: str, classes: int) -> nn.Module:
    """A fresh module: one of ARCHITECTURES, or `torchvision:NAME` without pretrained weights.

    Raises:
        ConfigError: no such architecture.
    """
    if arch in ARCHITECTURES:
        return ARCHITECTURES[arch](classes)
    if arch.startswith("torchvision:"):
        from torchvision.models import get_model, list_models  # slow to import, and rarely wanted

        name = arch.removeprefix("torchvision:")
        if name in list_models():
            module: nn.Module = get_model(name, weights=None, num_classes=classes)
            return module
    known = ", ".join(ARCHITECTURES)
    raise ConfigError(f"unknown architecture {arch!r}; expected one of {known}, or torchvision:NAME")


def normalise(pixels: Tensor) -> Tensor:
    """(B, H, W, 3) uint8 -> (B, 3, H, W) float32, channels last in memory."""
    scaled = (pixels.to(torch.float32) / 255.0 - MEAN) / STD
    return scaled.permute(0, 3, 1, 2)


class Deployable(nn.Module):
    """The module with its uint8 NHWC front: what is exported, converted and served."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, image: Tensor) -> Tensor:
        """(B, S, S, 3) uint8 -> (B, K) float32 logits."""
        logits: Tensor = self.module(normalise(image))
        return logits


def parameters(module: nn.Module) -> int:
    """Number of trainable parameters."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def _conv(inputs: int, outputs: int, stride: int = 1) -> nn.Module:
    layer = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            _conv(width, width), nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.body(x))
