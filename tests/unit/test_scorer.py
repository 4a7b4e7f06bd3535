"""The scorer against a server that misbehaves on demand: real gRPC, v2 protocol, on loopback."""

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from itertools import islice
from typing import Any

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from components.score_teacher.run import _check_finite
from edgedistill.dataset import Dataset, ImageRow
from edgedistill.errors import TeacherError
from serving import scorer
from serving.scorer import Endpoint, Probe, ask

SIZE, CLASSES = 4, 3
WEIGHTS = np.random.default_rng(0).normal(size=(SIZE * SIZE * 3, CLASSES)).astype(np.float32)
Fault = Callable[[int, Any], None]  # (number of the request, grpc context)


def logits(images: np.ndarray, weights: np.ndarray = WEIGHTS) -> np.ndarray:
    return images.reshape(len(images), -1).astype(np.float32) @ weights


class Server(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    """A linear teacher."""

    def __init__(self) -> None:
        self.weights, self.classes = WEIGHTS, CLASSES
        self.fault: Fault = lambda number, context: None
        self.requests = self.under_way = self.most = 0
        self._lock = threading.Lock()

    def ModelMetadata(self, request: Any, context: Any) -> Any:  # noqa: N802 - the protocol's name
        kind = service_pb2.ModelMetadataResponse
        tensor = kind.TensorMetadata
        return kind(
            name=request.name,
            inputs=[tensor(name="image", datatype="UINT8", shape=[-1, SIZE, SIZE, 3])],
            outputs=[tensor(name="logits", datatype="FP32", shape=[-1, self.classes])],
        )

    def ModelInfer(self, request: Any, context: Any) -> Any:  # noqa: N802 - the protocol's name
        with self._lock:
            self.requests += 1
            self.under_way += 1
            self.most, number = max(self.most, self.under_way), self.requests
        try:
            self.fault(number, context)
            time.sleep(0.005)
            images = np.frombuffer(request.raw_input_contents[0], np.uint8).reshape(list(request.inputs[0].shape))
            answer = service_pb2.ModelInferResponse(model_name=request.model_name)
            answer.outputs.add(name="logits", datatype="FP32", shape=[len(images), self.classes])
            answer.raw_output_contents.append(logits(images, self.weights).astype("<f4").tobytes())
            return answer
        finally:
            with self._lock:
                self.under_way -= 1


@pytest.fixture
def served() -> Iterator[tuple[Server, str]]:
    with contextlib.ExitStack() as stack:
        pool = stack.enter_context(futures.ThreadPoolExecutor(16))
        server = grpc.server(pool)
        teacher = Server()
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(teacher, server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        stack.callback(lambda: server.stop(0).wait())
        yield teacher, f"127.0.0.1:{port}"


def pictures(count: int) -> Iterator[tuple[int, np.ndarray]]:
    for number in range(count):
        yield number, np.full((SIZE, SIZE, 3), number % 256, np.uint8)


def everything(
    url: str, count: int, *, batch: int = 4, in_flight: int = 3, source: Any = None, **times: float
) -> dict[int, np.ndarray]:
    endpoint = Endpoint(url, "teacher", SIZE, CLASSES, **{"deadline_s": 5.0, "patience_s": 20.0} | times)
    probe = np.random.default_rng(1).integers(0, 256, (2, SIZE, SIZE, 3), dtype=np.uint8)

    async def collect() -> dict[int, np.ndarray]:
        views = iter(source or pictures(count))
        batches = iter(lambda: list(islice(views, batch)), [])
        asked = ask(endpoint, Probe(probe, logits(probe)), batches, in_flight=in_flight)
        return {name: row async for name, row in asked}

    return asyncio.run(collect())


def test_every_picture_is_answered_in_order_and_requests_are_bounded(served: tuple[Server, str]) -> None:
    teacher, url = served
    found = everything(url, 50, in_flight=3)
    assert list(found) == list(range(50))
    for number, picture in pictures(50):
        np.testing.assert_allclose(found[number], logits(picture[None])[0], rtol=1e-5)
    assert 1 < teacher.most <= 3


def test_no_picture_is_drawn_long_before_it_is_asked_about(served: tuple[Server, str]) -> None:
    """Back-pressure: a slow server slows the drawing, so memory does not grow with the data set."""
    teacher, url = served
    drawn, ahead = 0, []

    def counted() -> Iterator[tuple[int, np.ndarray]]:
        nonlocal drawn
        for one in pictures(200):
            drawn += 1
            ahead.append(drawn - 4 * max(0, teacher.requests - 2))  # the probe is asked twice
            yield one

    assert len(everything(url, 200, source=counted())) == 200
    assert max(ahead) <= 4 * (3 + 2), "the batches in flight, and one more"


@pytest.mark.parametrize("code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED])
def test_a_passing_failure_is_tried_again(served: tuple[Server, str], code: grpc.StatusCode) -> None:
    teacher, url = served

    def fault(number: int, context: Any) -> None:
        if number % 3 == 0:
            context.abort(code, "later")

    teacher.fault = fault
    assert list(everything(url, 30)) == list(range(30))


def test_a_server_that_never_answers_ends_with_one_sentence_in_time(served: tuple[Server, str]) -> None:
    teacher, url = served
    release = threading.Event()
    teacher.fault = lambda number, context: release.wait(30) if number > 4 else None
    began = time.monotonic()
    try:
        with pytest.raises(TeacherError, match=r"gave no answer in .* tries .* run the same command again"):
            everything(url, 100, deadline_s=0.5, patience_s=1.0)
        assert time.monotonic() - began < 10
    finally:
        release.set()


def test_a_server_that_accepts_and_says_nothing_ends_too() -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as silent:
        began = time.monotonic()
        with pytest.raises(TeacherError, match="gave no answer"):
            everything(f"127.0.0.1:{silent.getsockname()[1]}", 4, deadline_s=0.5, patience_s=1.0)
        assert time.monotonic() - began < 10


def test_a_slow_teacher_is_given_more_time(served: tuple[Server, str], monkeypatch: pytest.MonkeyPatch) -> None:
    teacher, url = served
    teacher.fault = lambda number, context: time.sleep(0.2 if number <= 2 else 0.6)
    assert len(everything(url, 8, deadline_s=0.4, patience_s=0.5)) == 8
    teacher.requests = 0
    monkeypatch.setattr(scorer, "_SLACK", 0)
    with pytest.raises(TeacherError, match="gave no answer"):
        everything(url, 8, deadline_s=0.4, patience_s=0.5)


def test_what_is_refused_is_not_tried_again(served: tuple[Server, str]) -> None:
    teacher, url = served
    teacher.fault = lambda number, context: context.abort(grpc.StatusCode.INVALID_ARGUMENT, "no") if number > 2 else 0
    with pytest.raises(TeacherError, match="refused a request"):
        everything(url, 4)
    assert teacher.requests == 3


def test_another_model_is_refused_before_anything_is_asked(served: tuple[Server, str]) -> None:
    teacher, url = served
    teacher.classes = CLASSES + 1
    with pytest.raises(TeacherError, match=r"the published one .* deploy it again"):
        everything(url, 4)
    assert teacher.requests == 0


def test_the_same_shape_with_other_weights_is_refused(
    served: tuple[Server, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher, url = served
    teacher.weights = WEIGHTS + 0.05 * np.random.default_rng(2).normal(size=WEIGHTS.shape).astype(np.float32)
    with pytest.raises(TeacherError, match="other weights"):
        everything(url, 4)
    assert teacher.requests == 1, "the probe alone"
    monkeypatch.setattr(scorer, "TOLERANCE", 1e9)
    assert len(everything(url, 4)) == 4, "without the guard it would be asked"


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -70_000.0])
def test_an_answer_that_is_not_finite_names_the_image(bad: float) -> None:
    row = ImageRow("ab" * 32, "", None, None, "train", 4, 4, "3/cat.jpg")
    dataset = Dataset("d", ("0",), (row,))
    _check_finite(dataset, (row.image_id, 2), np.array([1.0, 65_504.0], np.float32))
    with pytest.raises(TeacherError, match=r"view 2 of 3/cat\.jpg"):
        _check_finite(dataset, (row.image_id, 2), np.array([1.0, bad], np.float32))
