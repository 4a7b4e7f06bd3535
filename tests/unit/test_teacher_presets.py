"""Students: presets as documented, learning rates, nets of the libraries, sizes."""

import re
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from torch import nn

from edgedistill.config import LEARNING_RATES, OWN, PRESETS, learning_rate
from edgedistill.errors import ConfigError
from edgedistill.models import build

DOCUMENTS = Path(__file__).resolve().parents[2] / "docs"
DOCUMENT = (DOCUMENTS / "students.md").read_text()


def table(header: str) -> dict[str, list[str]]:
    """First cell -> the other cells, of the Markdown table with that first header cell."""
    lines = DOCUMENT[DOCUMENT.index(f"| {header} |") :].split("\n\n")[0].splitlines()[2:]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {row[0].strip("`"): row[1:] for row in rows}


def test_the_presets_are_what_the_document_says() -> None:
    assert list(PRESETS) == list(OWN) == ["tiny", "cpu", "full"]
    values = [
        {f"{step}.{name}": str(value) for step, section in asdict(config).items() for name, value in section.items()}
        for config in (*PRESETS.values(), *OWN.values())
    ]
    differing = {name: [one[name] for one in values] for name in values[0] if len({one[name] for one in values}) > 1}
    assert table("setting") == differing


def test_the_learning_rates_are_what_the_document_says() -> None:
    told = {name.replace("any other", ""): float(cells[0]) for name, cells in table("architecture").items()}
    assert told == LEARNING_RATES
    assert learning_rate("torchvision:squeezenet1_0") == LEARNING_RATES["torchvision:squeezenet"]
    assert learning_rate("timm:resnet18") == LEARNING_RATES[""]
    assert learning_rate("edge_cnn", 0.5) == 0.5
    assert re.search("one sentence", DOCUMENT)


def test_no_step_takes_the_setting_for_the_rate() -> None:
    """`lr` is 0 by default: a schedule made from the bare setting would train nothing."""
    for path in (DOCUMENTS.parent / "components").glob("*/*.py"):
        for line in path.read_text().splitlines():
            assert "settings.lr" not in line or "learning_rate(settings.arch, settings.lr)" in line, path


@pytest.mark.parametrize(
    ("arch", "size"), [("torchvision:squeezenet1_1", 28), ("torchvision:mobilenet_v3_small", 28), ("edge_cnn", 64)]
)
def test_a_net_of_a_library_fits(arch: str, size: int) -> None:
    module = build(arch, 5, size=size)
    assert all(part.momentum == 0.1 for part in module.modules() if isinstance(part, nn.BatchNorm2d))
    module.eval()
    with torch.inference_mode():
        answers = module(torch.randn(8, 3, size, size))
    assert answers.shape == (8, 5)
    if "squeezenet" in arch:
        assert answers.min() < 0, "logits may be negative"


@pytest.mark.parametrize(
    ("arch", "size", "said"),
    [
        ("torchvision:alexnet", 28, "cannot take 28 px"),
        ("torchvision:fasterrcnn_resnet50_fpn", 64, "no image classifier"),
        ("timm:nothing", 64, "no image classifier"),
        ("resnet18", 64, "torchvision:NAME or timm:NAME"),
        ("edge_cnn", 27, "expected 28 to 299"),
        ("edge_cnn", 300, "expected 28 to 299"),
    ],
)
def test_a_net_that_does_not_fit(arch: str, size: int, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as raised:
        build(arch, 5, size=size)
    assert "\n" not in str(raised.value)
