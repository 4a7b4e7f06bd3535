"""Students and the demo's teacher as torch modules, and the graph that leaves torch.

Every module takes normalised float32 NCHW and gives logits; `Deployable` puts the fixed-size uint8 NHWC front on it, so
mean, std, layout and colour order travel inside the exported graph and clients send uint8.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from edgedistill.errors import ConfigError

LEAST_SIZE, MOST_SIZE = 28, 299  # pixels
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


def build(arch: str, classes: int, *, size: int | None = None) -> nn.Module:
    """A fresh module: one of ARCHITECTURES, or `torchvision:NAME` or `timm:NAME` without pretrained weights.

    Args:
        arch: its name.
        classes: K.
        size: pixels; given, the module is tried on them.

    Raises:
        ConfigError: no such architecture, or one that cannot take pictures of that size.
    """
    if size is not None and not LEAST_SIZE <= size <= MOST_SIZE:
        raise ConfigError(f"a student of {size} px; expected {LEAST_SIZE} to {MOST_SIZE}, --set distill.size=64")
    library, _, name = arch.partition(":")
    if arch in ARCHITECTURES:
        module = ARCHITECTURES[arch](classes)
    elif library in _LIBRARIES and name:
        module = _LIBRARIES[library](name, classes)
        _adapt(module)
    else:
        known = ", ".join(ARCHITECTURES)
        raise ConfigError(f"unknown architecture {arch!r}; expected one of {known}, torchvision:NAME or timm:NAME")
    if size is not None:
        _try(module, arch, classes, size)
    return module


def _torchvision(name: str, classes: int) -> nn.Module:
    from torchvision import models  # slow to import, and rarely wanted

    if name not in models.list_models(module=models):
        raise ConfigError(
            f"torchvision has no image classifier {name!r}; squeezenet1_1 and mobilenet_v3_small are small"
        )
    # These two answer from auxiliary heads too while they train, and take long to initialise.
    plain = {"aux_logits": False, "init_weights": True} if name in ("googlenet", "inception_v3") else {}
    module: nn.Module = models.get_model(name, weights=None, num_classes=classes, **plain)
    return module


def _timm(name: str, classes: int) -> nn.Module:
    import timm

    if not timm.is_model(name.partition(".")[0]):
        raise ConfigError(f"timm has no image classifier {name!r}; mobilenetv3_small_050 is small")
    module: nn.Module = timm.create_model(name, pretrained=False, num_classes=classes)
    return module


_LIBRARIES: dict[str, Callable[[str, int], nn.Module]] = {"torchvision": _torchvision, "timm": _timm}


def _adapt(module: nn.Module) -> None:
    """Make a library's net fit for a short training from nothing."""
    for part in module.modules():
        # torchvision's MobileNetV3 averages over 100 batches: after a few hundred steps its statistics are still those
        # of the start, and a net that trains to a loss of 0.01 answers at random.
        if isinstance(part, nn.BatchNorm2d) and part.momentum is not None:
            part.momentum = max(part.momentum, 0.1)
    head = getattr(module, "classifier", None)
    # SqueezeNet ends in ReLU and a mean: logits that cannot be negative cannot follow a teacher's.
    if isinstance(head, nn.Sequential) and len(head) == 4 and isinstance(head[2], nn.ReLU):
        head[2] = nn.Identity()


def _try(module: nn.Module, arch: str, classes: int, size: int) -> None:
    try:
        with torch.no_grad():
            shape = tuple(module.eval()(torch.zeros(2, 3, size, size)).shape)
    except (RuntimeError, AssertionError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(f"{arch} cannot take {size} px ({reason}); try a larger --set distill.size") from error
    if shape != (2, classes):
        raise ConfigError(f"{arch} answers {shape} to two pictures; expected (2, {classes}), take another architecture")


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
