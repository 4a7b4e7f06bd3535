"""Ask a served teacher about many pictures: gRPC v2, bounded requests in flight, a deadline and a retry each."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import InferInput, InferRequestedOutput
from tritonclient.grpc.aio import InferenceServerClient
from tritonclient.utils import InferenceServerException

from edgedistill.errors import TeacherError
from serving.onnx_teacher import INPUT, OUTPUT

T = TypeVar("T")
ATTEMPTS = 4
DEADLINE_S = 30.0
_PASSING = ("UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED")  # a server that restarts or is full


@dataclass(frozen=True)
class Endpoint:
    """A served teacher."""

    url: str  # host:port of its gRPC
    model: str  # name in the model repository
    size: int  # pixels
    classes: int


async def check(client: InferenceServerClient, endpoint: Endpoint) -> None:
    """Refuse a served model that is not the published teacher.

    Raises:
        TeacherError: other input, output or classes.
    """
    try:
        metadata = await client.get_model_metadata(endpoint.model, as_json=True, client_timeout=DEADLINE_S)
    except InferenceServerException as error:
        raise TeacherError(
            f"no model {endpoint.model!r} at {endpoint.url}: {error.message()}; deploy it again"
        ) from error
    served = [_tensor(t) for t in (*metadata["inputs"], *metadata["outputs"])]
    size, classes = endpoint.size, endpoint.classes
    expected = [(INPUT, "UINT8", [-1, size, size, 3]), (OUTPUT, "FP32", [-1, classes])]
    if served != expected:
        raise TeacherError(
            f"the model served at {endpoint.url} is {served}, the published one {expected}; deploy it again"
        )


async def ask(
    endpoint: Endpoint, pictures: Iterable[tuple[T, NDArray[np.uint8]]], *, batch: int, in_flight: int
) -> AsyncIterator[tuple[T, NDArray[np.float32]]]:
    """The teacher's logits for each named picture.

    Args:
        endpoint: where the teacher is.
        pictures: (name, (S, S, 3) uint8); drawn in a worker thread while requests are under way, so that memory holds
            no more than the batches in flight.
        batch: pictures a request.
        in_flight: requests under way at once.

    Yields:
        (name, (K,) float32) in the pictures' order.

    Raises:
        TeacherError: another model is served, or a request failed ATTEMPTS times.
    """
    client = InferenceServerClient(endpoint.url)
    waiting: list[tuple[list[T], asyncio.Task[NDArray[np.float32]]]] = []
    source = iter(pictures)
    try:
        await check(client, endpoint)
        while chunk := await asyncio.to_thread(_draw, source, batch):
            names = [name for name, _ in chunk]
            images = np.stack([picture for _, picture in chunk])
            waiting.append((names, asyncio.create_task(_infer(client, endpoint, images))))
            if len(waiting) >= in_flight:
                for answer in await _collect(waiting.pop(0)):
                    yield answer
        while waiting:
            for answer in await _collect(waiting.pop(0)):
                yield answer
    finally:
        for _, task in waiting:
            task.cancel()
        await client.close()


async def _infer(client: InferenceServerClient, endpoint: Endpoint, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    tensor = InferInput(INPUT, list(images.shape), "UINT8")
    tensor.set_data_from_numpy(images)

    async def once() -> NDArray[np.float32]:
        result = await client.infer(
            endpoint.model, [tensor], outputs=[InferRequestedOutput(OUTPUT)], client_timeout=DEADLINE_S
        )
        logits = result.as_numpy(OUTPUT)
        if logits is None or logits.shape != (len(images), endpoint.classes):
            shape = None if logits is None else logits.shape
            raise TeacherError(
                f"the teacher answered {shape} to {len(images)} pictures; expected {endpoint.classes} each"
            )
        return np.asarray(logits, np.float32)

    return await _retry(once, endpoint)


async def _retry(once: Callable[[], Awaitable[NDArray[np.float32]]], endpoint: Endpoint) -> NDArray[np.float32]:
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return await once()
        except InferenceServerException as error:
            passing = any(code in str(error.status()) for code in _PASSING)
            if not passing or attempt == ATTEMPTS:
                raise TeacherError(
                    f"the teacher at {endpoint.url} failed {attempt} times: {error.message()}; run again"
                ) from error
            await asyncio.sleep(random.uniform(0.5, 1.5) * 2 ** (attempt - 2))
    raise AssertionError("unreachable: the last attempt returns or raises")


async def _collect(entry: tuple[list[T], "asyncio.Task[NDArray[np.float32]]"]) -> list[tuple[T, NDArray[np.float32]]]:
    names, task = entry
    return list(zip(names, await task, strict=True))


def _draw(source: Iterator[tuple[T, NDArray[np.uint8]]], batch: int) -> list[tuple[T, NDArray[np.uint8]]]:
    return list(islice(source, batch))


def _tensor(tensor: dict[str, Any]) -> tuple[str, str, list[int]]:
    return tensor["name"], tensor["datatype"], [int(n) for n in tensor["shape"]]
