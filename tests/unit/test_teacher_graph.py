"""The front and the back of a teacher's graph, and the probe: each against what numpy says."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from edgedistill.errors import TeacherError
from edgedistill.inference import Student
from edgedistill.metrics import softmax
from serving.onnx_teacher import Teacher, fold_preprocessing, read_onnx
from serving.teacher_answers import are_probabilities, with_classes, with_log, without_softmax
from serving.teacher_probe import probe, to_logits
from tests.unit.teachers import channel_teacher, colour_means, pictures

WEIGHTS = np.array([[3, 0, 0, 1], [0, 3, 0, 1], [0, 0, 3, 1]], np.float32)  # (3, 4)
SOFTMAX = [helper.make_node("Softmax", ["scores"], ["answer"], axis=1)]


def fold(model: bytes, **options: float) -> Teacher:
    return fold_preprocessing(model, mean=(0.5,) * 3, std=(0.5,) * 3, **options)  # type: ignore[arg-type]


def answers(teacher: Teacher, images: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
    return Student.from_bytes(teacher.model).logits(images)


def expected() -> np.ndarray:  # type: ignore[type-arg]
    return (colour_means(pictures()) @ WEIGHTS).astype(np.float32)


def test_the_front_takes_pixels() -> None:
    np.testing.assert_allclose(answers(fold(channel_teacher(WEIGHTS)), pictures()), expected(), atol=1e-5)


def test_a_crop_cuts_the_middle() -> None:
    teacher = fold(channel_teacher(WEIGHTS, size=8), crop=0.5)
    assert teacher.size == 16
    images = pictures(size=16)
    wanted = colour_means(images[:, 4:12, 4:12]) @ WEIGHTS
    np.testing.assert_allclose(answers(teacher, images), wanted, atol=1e-5)


def test_an_open_size_is_asked_for() -> None:
    model = channel_teacher(WEIGHTS, pixels=0)
    with pytest.raises(TeacherError, match=r"--set teacher\.size"):
        fold(model)
    assert fold(model, size=8).size == 8
    with pytest.raises(TeacherError, match="takes 8 px"):
        fold(channel_teacher(WEIGHTS), size=9)


def test_weights_in_a_file_beside_it_come_along(tmp_path: Path) -> None:
    path = tmp_path / "teacher.onnx"
    model = onnx.load_from_string(channel_teacher(WEIGHTS))
    onnx.save(model, path, save_as_external_data=True, location="teacher.onnx.data", size_threshold=0)
    np.testing.assert_allclose(answers(fold(read_onnx(path)), pictures()), expected(), atol=1e-5)
    (tmp_path / "teacher.onnx.data").unlink()
    with pytest.raises(TeacherError, match="no whole ONNX model"):
        read_onnx(path)


def test_names_in_the_file_are_read() -> None:
    for text in (
        '["a", "b", "c", "d"]',
        "{0: 'a', 1: 'b', 2: 'c', 3: 'd'}",
        "a\nb\nc\nd\n",
        '{"0": "a", "3": "d", "1": "b", "2": "c"}',
    ):
        assert fold(channel_teacher(WEIGHTS, metadata={"names": text})).names == ("a", "b", "c", "d")
    assert fold(channel_teacher(WEIGHTS)).names == ()


@pytest.mark.parametrize("opset", [11, 13, 17, 18])
@pytest.mark.parametrize("scale", [1.0, 300.0])
def test_merged_classes_are_a_logsumexp(opset: int, scale: float) -> None:
    teacher = with_classes(fold(channel_teacher(WEIGHTS * scale, opset=opset)), [[3, 0], [1]])
    got, logits = answers(teacher, pictures()), (expected() * scale).astype(np.float64)
    wanted = np.stack([np.logaddexp(logits[:, 3], logits[:, 0]), logits[:, 1]], axis=1)
    assert teacher.classes == 2
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-4)


def test_picked_classes_keep_their_logits() -> None:
    teacher = with_classes(fold(channel_teacher(WEIGHTS)), [[2], [0]])
    np.testing.assert_allclose(answers(teacher, pictures()), expected()[:, [2, 0]], atol=1e-5)


def test_a_last_softmax_is_taken_off() -> None:
    teacher = fold(channel_teacher(WEIGHTS * 50, tail=SOFTMAX))
    seen = probe(teacher, pictures())
    assert are_probabilities(seen)
    bare, notes = to_logits(teacher, seen)
    assert "softmax" in notes[0]
    np.testing.assert_allclose(answers(bare, pictures()), expected() * 50, rtol=1e-4, atol=1e-3)
    assert to_logits(bare, probe(bare, pictures())) == (bare, [])


def test_probabilities_without_a_softmax_get_a_logarithm() -> None:
    parts = [
        helper.make_node("Exp", ["scores"], ["powers"]),
        helper.make_node("ReduceSum", ["powers", "axis"], ["sum"], keepdims=1),
        helper.make_node("Div", ["powers", "sum"], ["answer"]),
    ]
    teacher = fold(channel_teacher(WEIGHTS, tail=parts, extra=[numpy_helper.from_array(np.array([1]), "axis")]))
    assert without_softmax(teacher) is None
    logged, notes = to_logits(teacher, probe(teacher, pictures()))
    assert "logarithm" in notes[0]
    np.testing.assert_allclose(softmax(answers(logged, pictures())), softmax(expected()), atol=1e-5)
    merged = with_classes(logged, [[0, 1], [2, 3]])
    wanted = softmax(expected())
    np.testing.assert_allclose(
        softmax(answers(merged, pictures())), np.stack([wanted[:, :2].sum(1), wanted[:, 2:].sum(1)], 1), atol=1e-5
    )


def test_a_probability_of_zero_stays_finite() -> None:
    tail = [helper.make_node("Clip", ["scores", "zero", "zero"], ["answer"])]
    zero = numpy_helper.from_array(np.float32(0), "zero")
    logged = with_log(fold(channel_teacher(WEIGHTS, tail=tail, extra=[zero])))
    np.testing.assert_allclose(answers(logged, pictures()), np.log(1e-12), rtol=1e-5)


def test_a_good_teacher_passes() -> None:
    np.testing.assert_allclose(
        probe(fold(channel_teacher(WEIGHTS)), pictures(9)), expected_of(pictures(9)[:4]), atol=1e-5
    )
    probe(fold(channel_teacher(WEIGHTS, batch=1)), pictures())  # only its declaration is fixed


def expected_of(images: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
    return (colour_means(images) @ WEIGHTS).astype(np.float32)


def reshape(*shape: int) -> dict[str, list[onnx.NodeProto] | list[onnx.TensorProto]]:
    return {
        "tail": [helper.make_node("Reshape", ["scores", "shape"], ["answer"])],
        "extra": [numpy_helper.from_array(np.array(shape), "shape")],
    }


def normed() -> dict[str, list[onnx.NodeProto] | list[onnx.TensorProto]]:
    """Answers less the batch's mean: what a graph in training mode does."""
    nodes = [helper.make_node("ReduceMean", ["scores"], ["mean"], axes=[0], keepdims=1)]
    return {"tail": [*nodes, helper.make_node("Sub", ["scores", "mean"], ["answer"])], "extra": []}


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (channel_teacher(WEIGHTS, **reshape(1, 4)), "export it with a dynamic batch"),
        (channel_teacher(WEIGHTS, **normed()), "another answer to the same image among others"),
        (channel_teacher(WEIGHTS * 0), "same answer to 4 different images"),
        (channel_teacher(WEIGHTS * np.nan), "expected finite logits"),
        (channel_teacher(WEIGHTS + np.inf), "expected finite logits"),
        (channel_teacher(WEIGHTS * 1e7), "logits beyond 60000 cannot be kept"),
    ],
)
def test_a_teacher_that_cannot_be_relied_on(model: bytes, said: str) -> None:
    with pytest.raises(TeacherError, match=said) as raised:
        probe(fold(model), pictures())
    assert "\n" not in str(raised.value)


def test_the_same_picture_twice_proves_nothing() -> None:
    """The guard against constant answers looks at different pictures only."""
    probe(fold(channel_teacher(WEIGHTS)), np.repeat(pictures(1), 4, axis=0))
