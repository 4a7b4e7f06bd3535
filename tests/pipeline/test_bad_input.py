"""Wrong input: one sentence, a non-zero exit, and nothing published."""

import shutil
from pathlib import Path

import onnx
import pytest

from tests.pipeline.conftest import Home


def refused(home: Home, *options: str) -> str:
    """The last line that the command says, after it failed."""
    done = home.call("run", "--preset", "tiny", *options)
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    assert not done.stdout, "no table of a run that did not end"
    return done.stderr.strip().splitlines()[-1]


@pytest.fixture
def images(finished: Home, tmp_path: Path) -> Path:
    """A copy of the user's images."""
    folder = tmp_path / "images"
    shutil.copytree(finished.folder / "demo" / "0.1" / "ours", folder)
    return folder


@pytest.fixture(scope="module")
def teacher(finished: Home) -> Path:
    """The demo's teacher as an ONNX file."""
    return next((finished.store / "models").glob("*.onnx"))


def test_too_few_labels_for_a_teacher(copied: Home, images: Path) -> None:
    said = refused(copied, "--data", str(images), "--labeled-fraction", "0.05")
    assert "1 labelled training images" in said
    assert "--teacher FILE" in said


def test_a_folder_that_is_not_there(copied: Home, teacher: Path, tmp_path: Path) -> None:
    said = refused(copied, "--data", str(tmp_path / "nowhere"), "--teacher", str(teacher))
    assert "nowhere" in said


def test_no_images(copied: Home, teacher: Path, tmp_path: Path) -> None:
    (tmp_path / "empty" / "0").mkdir(parents=True)
    (tmp_path / "empty" / "0" / "notes.txt").write_text("no picture")
    assert "no " in refused(copied, "--data", str(tmp_path / "empty"), "--teacher", str(teacher))


def test_one_class(copied: Home, images: Path, teacher: Path) -> None:
    for folder in images.iterdir():
        if folder.name != "0":
            shutil.rmtree(folder)
    assert "class" in refused(copied, "--data", str(images), "--teacher", str(teacher))


def test_a_teacher_that_is_no_model(copied: Home, images: Path, tmp_path: Path) -> None:
    (tmp_path / "teacher.onnx").write_bytes(b"not a model")
    said = refused(copied, "--data", str(images), "--teacher", str(tmp_path / "teacher.onnx"))
    assert "ONNX" in said


def test_a_teacher_of_other_classes(copied: Home, images: Path, teacher: Path) -> None:
    shutil.rmtree(images / "9")
    (images / "8").rename(images / "eight")
    said = refused(copied, "--data", str(images), "--teacher", str(teacher))
    assert "10" in said
    assert "9" in said


def test_a_teacher_with_two_outputs(copied: Home, images: Path, teacher: Path, tmp_path: Path) -> None:
    model = onnx.load(str(teacher))
    extra = onnx.helper.make_tensor_value_info("second", onnx.TensorProto.FLOAT, [None, 10])
    model.graph.node.append(onnx.helper.make_node("Identity", [model.graph.output[0].name], ["second"]))
    model.graph.output.append(extra)
    onnx.save(model, str(tmp_path / "two.onnx"))
    assert "output" in refused(copied, "--data", str(images), "--teacher", str(tmp_path / "two.onnx"))


def test_a_missed_gate_publishes_nothing(copied: Home) -> None:
    done = copied.call("run", "--preset", "tiny", "--set", "quantize.last_rung=ptq", "--set", "quantize.max_size_kb=1")
    assert done.returncode != 0
    assert "int8 size in kB" in done.stderr
    assert copied.releases()["latest"] == 1, "the release of the run before"


@pytest.mark.parametrize("setting", ["distill.epochs=many", "distill.epoch=3", "nothing", "train.epochs=2"])
def test_a_setting_that_is_none(copied: Home, setting: str) -> None:
    said = refused(copied, "--set", setting)
    assert setting.partition("=")[2] in said or "expected" in said
