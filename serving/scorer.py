"""Ask a served teacher about many pictures: gRPC v2, bounded requests in flight, a deadline and retries each."""

import asyncio
import random
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import InferInput, InferRequestedOutput
from tritonclient.grpc.aio import InferenceServerClient
from tritonclient.utils import InferenceServerException

from edgedistill.errors import TeacherError
from serving.onnx_teacher import INPUT, OUTPUT

T = TypeVar("T")
R = TypeVar("R")
_PASSING = ("UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED")  # a server that restarts, hangs or is full
_LONGEST_WAIT_S = 8.0  # between two tries
_SLACK = 10  # times the probe's pace that a request may take
# Another back end, or a GPU's TF32, moves a logit by less; other weights move it by far more (a twin that was trained
# on the same data with another seed: by 20 % and more).
TOLERANCE = 0.02  # of the spread of a picture's logits


@dataclass(frozen=True)
class Endpoint:
    """A served teacher, and how long to wait for it."""

    url: str  # host:port of its gRPC
    model: str  # name in the model repository
    size: int  # pixels
    classes: int
    deadline_s: float = 30.0  # a try; more where the probe shows that a teacher is slow
    patience_s: float = 60.0  # a request with all its tries; none begins later


@dataclass(frozen=True)
class Probe:
    """What the published teacher itself answers, in this process, to pictures that the served one is asked first."""

    images: NDArray[np.uint8]  # (N, S, S, 3)
    logits: NDArray[np.float32]  # (N, K)


async def check(client: InferenceServerClient, endpoint: Endpoint, probe: Probe) -> None:
    """Refuse a served model that is not the published teacher: by its metadata, then by its answers.

    Raises:
        TeacherError: other input, output or classes, or the same ones with other weights.
    """
    metadata = await _retry(
        lambda: client.get_model_metadata(endpoint.model, as_json=True, client_timeout=endpoint.deadline_s), endpoint
    )
    served = [_tensor(t) for t in (*metadata["inputs"], *metadata["outputs"])]
    size, classes = endpoint.size, endpoint.classes
    expected = [(INPUT, "UINT8", [-1, size, size, 3]), (OUTPUT, "FP32", [-1, classes])]
    if served != expected:
        raise TeacherError(
            f"the model served at {endpoint.url} is {served}, the published one {expected}; deploy it again"
        )
    answer = await _infer(client, endpoint, probe.images)
    spread = np.ptp(probe.logits, axis=1).clip(min=1e-6)
    off = float((np.abs(answer - probe.logits).max(axis=1) / spread).max())
    if not off <= TOLERANCE:  # NaN is off as well
        raise TeacherError(
            f"the model served at {endpoint.url} has the published teacher's shape but other weights (a probe's logits "
            f"are off by {off:.1%} of their spread, expected at most {TOLERANCE:.0%}); deploy it again"
        )


async def ask(
    endpoint: Endpoint,
    probe: Probe,
    batches: Iterable[Sequence[tuple[T, NDArray[np.uint8]]]],
    *,
    in_flight: int,
) -> AsyncIterator[tuple[T, NDArray[np.float32]]]:
    """The teacher's logits for each named picture.

    Args:
        endpoint: where the teacher is.
        probe: proves that it is the published one.
        batches: of (name, (S, S, 3) uint8), one a request; drawn in a worker thread while requests are under way, so
            that memory holds no more than the batches in flight.
        in_flight: requests under way at once.

    Yields:
        (name, (K,) float32) in the pictures' order.

    Raises:
        TeacherError: another model is served, a request was refused, or it failed for `endpoint.patience_s`.
    """
    client = InferenceServerClient(endpoint.url)
    waiting: deque[tuple[list[T], asyncio.Task[NDArray[np.float32]]]] = deque()
    source = iter(batches)
    try:
        await check(client, endpoint, probe)
        pace = await _pace(client, endpoint, probe)
        while drawn := await asyncio.to_thread(_draw, source):
            names, images = drawn
            # The last of the requests in flight waits for all of them.
            expected = pace * len(images) * in_flight
            endpoint = replace(endpoint, deadline_s=max(endpoint.deadline_s, _SLACK * expected))
            waiting.append((names, asyncio.create_task(_infer(client, endpoint, images))))
            if len(waiting) >= in_flight:
                for answer in await _collect(*waiting.popleft()):
                    yield answer
        while waiting:
            for answer in await _collect(*waiting.popleft()):
                yield answer
    finally:
        for _, task in waiting:
            task.cancel()
        await asyncio.gather(*(task for _, task in waiting), return_exceptions=True)
        await client.close()


async def _pace(client: InferenceServerClient, endpoint: Endpoint, probe: Probe) -> float:
    """Seconds a picture: the probe again, now that the server is warm."""
    began = time.perf_counter()
    await _infer(client, endpoint, probe.images)
    return (time.perf_counter() - began) / len(probe.images)


async def _infer(client: InferenceServerClient, endpoint: Endpoint, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    tensor = InferInput(INPUT, list(images.shape), "UINT8")
    tensor.set_data_from_numpy(images)

    async def once() -> NDArray[np.float32]:
        result = await client.infer(
            endpoint.model, [tensor], outputs=[InferRequestedOutput(OUTPUT)], client_timeout=endpoint.deadline_s
        )
        logits = result.as_numpy(OUTPUT)
        if logits is None or logits.shape != (len(images), endpoint.classes):
            shape = None if logits is None else logits.shape
            raise TeacherError(
                f"the teacher answered {shape} to {len(images)} pictures; expected {endpoint.classes} each"
            )
        return np.asarray(logits, np.float32)

    return await _retry(once, endpoint)


async def _retry(once: Callable[[], Awaitable[R]], endpoint: Endpoint) -> R:
    """Try until it answers, is refused, or `patience_s` is over: a server that never answers ends within
    `patience_s + deadline_s`."""
    began, attempt, pause = time.monotonic(), 0, 0.25
    while True:
        attempt += 1
        try:
            return await once()
        except InferenceServerException as error:
            wait = pause * random.uniform(0.5, 1.5)
            waited = time.monotonic() - began
            if not any(code in str(error.status()) for code in _PASSING):
                reason = f"refused a request for model {endpoint.model!r} ({error.message()}); deploy it again"
                raise TeacherError(f"the teacher at {endpoint.url} {reason}") from error
            if waited + wait >= endpoint.patience_s:
                raise TeacherError(
                    f"the teacher at {endpoint.url} gave no answer in {waited:.0f} s and {attempt} tries "
                    f"({error.message()}); run the same command again, it goes on at the first missing part"
                ) from error
            await asyncio.sleep(wait)
            pause = min(2 * pause, _LONGEST_WAIT_S)


async def _collect(
    names: list[T], task: "asyncio.Task[NDArray[np.float32]]"
) -> Iterable[tuple[T, NDArray[np.float32]]]:
    return zip(names, await task, strict=True)


def _draw(source: Iterator[Sequence[tuple[T, NDArray[np.uint8]]]]) -> tuple[list[T], NDArray[np.uint8]] | None:
    """The next batch, (B, S, S, 3); None at the end."""
    chunk = next(source, None)
    return ([name for name, _ in chunk], np.stack([picture for _, picture in chunk])) if chunk else None


def _tensor(tensor: dict[str, Any]) -> tuple[str, str, list[int]]:
    return tensor["name"], tensor["datatype"], [int(n) for n in tensor["shape"]]
