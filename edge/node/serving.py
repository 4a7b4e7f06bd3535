"""Requests in front of the active engine: a short queue, one thread that infers, a count of answers that failed."""

import asyncio
import contextlib
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from queue import SimpleQueue

import numpy as np
from numpy.typing import NDArray

from edge.node.engine import Engine

BURST = 64  # requests that may be under way: clients that ask all at once are answered all
STANDING = 8  # requests that may be under way once a burst has become overload: who is let in is answered soon
IMAGES = 256  # of all requests under way: their pixels are in memory
OVERLOAD_S = 1.0  # more than STANDING for so long is overload

Images = NDArray[np.uint8]
Logits = NDArray[np.float32]
Observer = Callable[[Engine, Sequence[bytes] | None, Images, Logits], None]


class Overloaded(Exception):  # noqa: N818 - what happened, not what failed
    """The queue is full; the client may ask again at once or elsewhere."""


class InferenceFailed(Exception):  # noqa: N818
    """The release raised, or answered numbers that are not finite."""


@dataclass
class _Active:
    """An engine since it was swapped in."""

    engine: Engine | None = None
    answers: int = 0
    failures: int = 0


@dataclass(frozen=True)
class _Job:
    engine: Engine
    images: Images
    loop: asyncio.AbstractEventLoop
    future: "asyncio.Future[Logits]"


class Serving:
    """The active engine, if any, behind one thread that infers.

    `observers` are called on the event loop after an answer went out, as (engine, encoded pictures or None, images,
    logits); they must be cheap and must not raise.
    """

    def __init__(self) -> None:
        self.observers: list[Observer] = []
        self.swaps = 0
        self.requests = 0  # that were let in and are not answered yet
        self.waiting = 0  # their images
        self._crowded_since: float | None = None
        self._active = _Active()
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        threading.Thread(target=self._work, name="infer", daemon=True).start()

    @property
    def engine(self) -> Engine | None:
        """The engine that new requests begin with."""
        return self._active.engine

    def swap(self, engine: Engine | None) -> None:
        """New requests go to `engine` (None: there is none); those under way end on the one they began with."""
        self._active = _Active(engine)
        self.swaps += 1

    def answers_since(self, engine: Engine) -> int:
        """Answers of this engine since it was swapped in, failed ones too; 0 when it is not the active one."""
        active = self._active
        return active.answers if active.engine is engine else 0

    def failures_since(self, engine: Engine) -> int:
        """Those of them that raised or were not finite."""
        active = self._active
        return active.failures if active.engine is engine else 0

    async def infer(self, engine: Engine, images: Images) -> Logits:
        """(B, S, S, 3) uint8 -> (B, K) float32, off the event loop.

        Raises:
            Overloaded: too many images wait.
            InferenceFailed: the engine raised, or its answer is not finite.
        """
        with self._let_in(len(images)):
            logits = await self._answer(engine, images)
        self._observe(engine, None, images, logits)
        return logits

    async def infer_encoded(
        self, engine: Engine, pictures: Sequence[bytes], decode: Callable[[Sequence[bytes]], Awaitable[Images]]
    ) -> Logits:
        """As `infer`, for pictures that `decode` makes (B, S, S, 3) uint8 of; it is not asked when too many wait."""
        with self._let_in(len(pictures)):
            images = await decode(pictures)
            logits = await self._answer(engine, images)
        self._observe(engine, pictures, images, logits)
        return logits

    def close(self) -> None:
        """End the thread; what waits is not answered."""
        self._jobs.put(None)

    @property
    def limit(self) -> int:
        """How many requests may be under way now."""
        crowded = self._crowded_since
        return BURST if crowded is None or time.monotonic() - crowded < OVERLOAD_S else STANDING

    @contextlib.contextmanager
    def _let_in(self, images: int) -> Iterator[None]:
        if self.requests >= self.limit:
            raise Overloaded(f"{self.requests} requests are under way, {self.limit} may be; ask again later")
        if self.waiting + images > IMAGES:
            raise Overloaded(f"{self.waiting} images are under way, {IMAGES} may be; ask again later")
        self.waiting += images
        self.requests += 1
        if self.requests > STANDING and self._crowded_since is None:
            self._crowded_since = time.monotonic()
        try:
            yield
        finally:
            self.waiting -= images
            self.requests -= 1
            # Overload ends when the queue has emptied: at the short limit itself it would begin anew each second.
            if self.requests <= (STANDING if self.limit == BURST else 1):
                self._crowded_since = None

    async def _answer(self, engine: Engine, images: Images) -> Logits:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Logits] = loop.create_future()
        self._jobs.put(_Job(engine, images, loop, future))
        active = self._active
        try:
            logits = await future
            failure = None if np.isfinite(logits).all() else "its answer is not finite"
        except RuntimeError as error:
            failure = str(error).strip().splitlines()[-1]
        if active.engine is engine:
            active.answers += 1
            active.failures += failure is not None
        if failure is not None:
            raise InferenceFailed(f"release {engine.release.version} failed: {failure}")
        return logits

    def _observe(self, engine: Engine, pictures: Sequence[bytes] | None, images: Images, logits: Logits) -> None:
        loop = asyncio.get_running_loop()
        for observer in self.observers:  # the next turn of the loop: the answer is written in this one
            loop.call_soon(observer, engine, pictures, images, logits)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            if job.future.cancelled():  # its client has gone
                continue
            try:
                logits = job.engine.logits(job.images)
            except Exception as error:
                _tell(job, _fail, job.future, RuntimeError(str(error) or type(error).__name__))
            else:
                _tell(job, _succeed, job.future, logits)
            del job  # an engine that was swapped out must not live until the next request


def _tell(job: _Job, call: Callable[..., None], *arguments: object) -> None:
    with contextlib.suppress(RuntimeError):  # the loop has ended: nobody waits any more
        job.loop.call_soon_threadsafe(call, *arguments)


def _succeed(future: "asyncio.Future[Logits]", logits: Logits) -> None:
    if not future.done():
        future.set_result(logits)


def _fail(future: "asyncio.Future[Logits]", error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
