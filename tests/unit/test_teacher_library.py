"""timm's and torchvision's nets as teachers: filled from files that the tests make, exported, compared with torch."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from edgedistill.errors import TeacherError
from edgedistill.inference import Student
from serving.onnx_teacher import fold_preprocessing
from serving.teacher_library import LibraryTeacher, export, parse_library
from tests.unit.teachers import pictures

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]
TIMM = "mobilenetv3_small_050"
SIZE = 32
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def timm_net(classes: int = 3) -> torch.nn.Module:
    import timm

    torch.manual_seed(1)
    net: torch.nn.Module = timm.create_model(TIMM, num_classes=classes)
    return net.eval()


def squeezenet(classes: int = 4) -> torch.nn.Module:
    from torchvision.models import squeezenet1_1

    torch.manual_seed(2)
    net: torch.nn.Module = squeezenet1_1(num_classes=classes)
    return net.eval()


def library(text: str) -> LibraryTeacher:
    found = parse_library(text)
    assert found is not None
    return found


@pytest.mark.parametrize("kind", ["timm", "torchvision"])
def test_a_weights_file_answers_as_torch_does(kind: str, tmp_path: Path) -> None:
    net, classes = (timm_net(), 3) if kind == "timm" else (squeezenet(), 4)
    path = tmp_path / ("net.safetensors" if kind == "timm" else "net.pt")
    if kind == "timm":
        save_file(net.state_dict(), path)
    else:  # as a training script in DataParallel leaves it
        torch.save({"epoch": 3, "state_dict": {f"module.{k}": v for k, v in net.state_dict().items()}}, path)
    name = TIMM if kind == "timm" else "squeezenet1_1"
    made = export(library(f"{kind}:{name}@{path}"), size=SIZE)
    assert (made.mean, made.std) == IMAGENET
    assert "87.5%" in made.notes[0]
    teacher = fold_preprocessing(made.model, mean=made.mean, std=made.std)
    assert (teacher.size, teacher.classes) == (SIZE, classes)
    images = pictures(5, SIZE)
    scaled = (images / 255 - np.array(made.mean)) / np.array(made.std)
    with torch.inference_mode():
        wanted = net(torch.from_numpy(scaled.transpose(0, 3, 1, 2).astype(np.float32))).numpy()
    np.testing.assert_allclose(Student.from_bytes(teacher.model).logits(images), wanted, atol=1e-3, rtol=1e-3)


def test_the_same_weights_give_the_same_bytes(tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    torch.save(squeezenet().state_dict(), path)
    code = (
        "import sys; from serving.teacher_library import *; from edgedistill.storage import digest; "
        f"print(digest(export(parse_library('torchvision:squeezenet1_1@{path}'), size={SIZE}).model))"
    )
    command = [sys.executable, "-W", "ignore", "-c", code]
    runs = [subprocess.run(command, capture_output=True, text=True, check=True) for _ in range(2)]
    digests = {run.stdout.strip().splitlines()[-1] for run in runs}
    assert len(digests) == 1
    made = export(library(f"torchvision:squeezenet1_1@{path}"), size=SIZE)
    assert str(Path(torch.__file__).parent).encode() not in made.model, "a path of this machine"


def test_what_is_no_library_is_a_path() -> None:
    assert parse_library("teacher.onnx") is None
    assert parse_library("store:models/a.onnx") is None
    assert parse_library("timm") is None


@pytest.mark.parametrize("name", ["timm:nothing_at_all", "torchvision:fasterrcnn_resnet50_fpn"])
def test_an_unknown_net(name: str) -> None:
    with pytest.raises(TeacherError, match="no image classifier"):
        export(library(name))


def test_other_nets_weights(tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    torch.save(squeezenet().state_dict(), path)
    with pytest.raises(TeacherError, match=r"timm:mobilenetv3_small_050"):
        export(library(f"timm:{TIMM}@{path}"))
    state = squeezenet().state_dict()
    del state["features.0.bias"]
    torch.save(state, path)
    with pytest.raises(TeacherError, match=r"features\.0\.bias is missing \(1 of"):
        export(library(f"torchvision:squeezenet1_1@{path}"))


class _Code:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, ("raise SystemExit('code in a weights file ran')",)


def test_a_file_that_holds_code_runs_none(tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    torch.save({"state_dict": _Code()}, path)
    with pytest.raises(TeacherError, match="no file of tensors alone"):
        export(library(f"timm:{TIMM}@{path}"))
    with pytest.raises(SystemExit, match="ran"):  # without the guard it would have
        torch.load(path, weights_only=False)


def test_no_file_of_weights(tmp_path: Path) -> None:
    with pytest.raises(TeacherError, match="no weights file at"):
        parse_library("timm:resnet18@nowhere.pt")
    path = tmp_path / "net.safetensors"
    path.write_bytes(b"nothing")
    with pytest.raises(TeacherError, match="no file of tensors alone"):
        export(library(f"timm:{TIMM}@{path}"))


@pytest.mark.parametrize("name", ["torchvision:squeezenet1_1", f"timm:{TIMM}"])
def test_weights_that_cannot_be_downloaded(name: str, tmp_path: Path) -> None:
    """In a process of its own: the hub's libraries read their settings as they are imported."""
    code = (
        "from serving.teacher_library import *; from edgedistill.errors import TeacherError\n"
        f"try: export(parse_library({name!r}))\n"
        "except TeacherError as error: print('SAID', error)"
    )
    blocked = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
    places = {"TORCH_HOME": str(tmp_path), "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), **blocked, **places}
    command = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=Path.cwd())
    said = [line for line in done.stdout.splitlines() if line.startswith("SAID")]
    assert len(said) == 1, done.stderr
    assert "cannot be downloaded" in said[0]
    assert f"--teacher {name}@FILE" in said[0]
