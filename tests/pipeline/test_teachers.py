"""The user's own images with every kind of teacher, end to end: Triton, student, signed release, node."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgedistill.images import encode_png
from tests.pipeline.conftest import Home
from tests.unit.teachers import channel_teacher

COLOURS = {"blue": 2, "green": 1, "red": 0}
QUICK = (
    "--set",
    "distill.size=28",
    "--set",
    "distill.arch=edge_cnn",
    "--set",
    "score.views=1",
    "--set",
    "score.buckets=2",
)
LABELLED = 20  # images a class


def picture(channel: int, seed: int) -> np.ndarray:  # type: ignore[type-arg]
    """(32, 32, 3) uint8: noise, with one channel brighter."""
    draw = np.random.default_rng([channel, seed])
    noise = draw.integers(0, 120, (32, 32, 3), dtype=np.uint8)
    noise[..., channel] += draw.integers(90, 130, dtype=np.uint8)
    return noise


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 colour pictures of three classes."""
    folder = tmp_path_factory.mktemp("photos")
    for name, channel in COLOURS.items():
        (folder / name).mkdir()
        for seed in range(LABELLED):
            (folder / name / f"{seed:02d}.png").write_bytes(encode_png(picture(channel, seed)))
    return folder


@pytest.fixture(scope="module")
def unlabelled(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same pictures without a class."""
    folder = tmp_path_factory.mktemp("unlabelled")
    for path in sorted(photos.rglob("*.png")):
        (folder / f"{path.parent.name}-{path.name}").write_bytes(path.read_bytes())
    return folder


def colour_teacher(**options: Any) -> bytes:
    """Five classes that are not the user's: two reds, a green, a blue, and one that nobody wants."""
    weights = np.array([[9, 7, 0, 0, 3], [0, 0, 9, 0, 3], [0, 0, 0, 9, 3]], np.float32)
    return channel_teacher(weights, size=24, **options)


def refused(home: Home, *options: str) -> str:
    done = home.call("run", "--preset", "tiny", *options)
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    return done.stderr.strip().splitlines()[-1]


def test_a_teacher_of_other_classes(photos: Path, tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    (tmp_path / "teacher.onnx").write_bytes(colour_teacher(metadata={"labels": "crimson\nscarlet\nlime\nnavy\ngrey"}))
    (tmp_path / "map.csv").write_text("teacher,class\ncrimson,red\n1,red\nlime,green\n3,blue\n")
    record = home.run(
        *("--data", str(photos), "--teacher", str(tmp_path / "teacher.onnx")),
        *("--teacher-labels", str(tmp_path / "map.csv"), *QUICK),
    )
    assert record["labels"] == ["blue", "green", "red"]
    assert any("4 of the teacher's 5 classes" in note for note in record["notes"])
    assert record["metrics"]["teacher"]["top1"] == 1.0, "red is crimson or scarlet, merged"
    assert record["metrics"]["vanilla"] is not None
    assert record["teacher"]["server"].startswith("tritonserver")
    assert record["dataset"]["labeled"] == record["dataset"]["train"], "all of the user's labels may be used"
    assert record["release"]["version"] == 1


def test_no_label_at_all(unlabelled: Path, tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    (tmp_path / "teacher.onnx").write_bytes(colour_teacher())
    options = ("--data", str(unlabelled), "--teacher", str(tmp_path / "teacher.onnx"))
    done = home.call("run", "--preset", "tiny", *options, *QUICK)
    assert done.returncode == 0, done.stderr
    record = home.record()
    assert record["labels"] == ["0", "1", "2", "3", "4"]
    assert record["metrics"]["vanilla"] is None
    assert record["kd_gap_closed"] is None
    assert record["metrics"]["student_int8"]["top1"] is None
    assert 0 <= record["metrics"]["student_int8"]["agreement_with_teacher"] <= 1
    assert any("no image has a label" in note for note in record["notes"])
    assert "no image has a label" in " ".join(done.stdout.split())
    assert record["release"]["version"] == 1
    assert home.call("runs", "show", "latest").returncode == 0
    assert "no labels to train a teacher on" in refused(home, "--data", str(unlabelled), *QUICK)


def test_no_teacher(photos: Path, tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    done = home.call("run", "--preset", "tiny", "--data", str(photos), "--set", "train_teacher.size=28", *QUICK)
    assert done.returncode == 0, done.stderr
    record = home.record()
    train = record["dataset"]["train"]
    assert record["teacher"]["labels_used"] == train < 3 * LABELLED, "training images alone"
    note = f"the teacher was trained here on {train} labelled images: it knows no more than your labels"
    assert note in record["notes"]
    assert note in " ".join(done.stdout.split())
    assert note in (home.store / "runs" / record["run_id"] / "report.html").read_text()


def test_a_teacher_that_answers_nan(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "teacher.onnx").write_bytes(channel_teacher(np.full((3, 3), np.nan, np.float32)))
    said = refused(Home(tmp_path / "home"), "--data", str(photos), "--teacher", str(tmp_path / "teacher.onnx"))
    assert "the teacher answered [nan, nan, nan] to a real image; expected finite logits" in said
