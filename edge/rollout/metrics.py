"""What Prometheus scrapes from the controller, and whether it is well; served by a thread of its own."""

import asyncio
import socket
import threading
import time
from collections import Counter as Count
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from edge.node.http_messages import Limits, Request, Response
from edge.node.http_server import HttpServer
from edge.rollout.controller import Look
from edge.rollout.model import STATES
from edge.rollout.statuses import PATH
from edgedistill.errors import RolloutError

_SECONDS = (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60)


class Metrics:
    """The controller's measures, in a registry of its own.

    Args:
        poll_s: seconds between two looks.
    """

    def __init__(self, *, poll_s: float) -> None:
        self._limit_s = 10 * poll_s + 60
        self._finished = time.monotonic()  # the last look, whatever came of it
        self._shown: tuple[float, Mapping[str, Any]] | None = None  # when the pods said what
        self.registry = registry = CollectorRegistry()
        self.looks = Counter("edgedistill_rollout_looks", "Looks at the fleet", ["outcome"], registry=registry)
        self.seconds = Histogram(
            "edgedistill_rollout_look_seconds", "Time of a look", registry=registry, buckets=_SECONDS
        )
        self.replaced = Counter(
            "edgedistill_rollout_replaced_pods", "Pods deleted for another image", registry=registry
        )
        self._last = _LastLook()
        registry.register(self._last)
        ProcessCollector(registry=registry)

    @property
    def is_well(self) -> bool:
        """Whether a look was finished lately. One that the API server refused counts: a restart would not mend it."""
        return time.monotonic() - self._finished < self._limit_s

    @property
    def statuses(self) -> dict[str, Any]:
        """What the pods said at the last look that came to an end, and how old that is."""
        if self._shown is None:
            return {}
        return {"age_s": time.monotonic() - self._shown[0], "statuses": self._shown[1]}

    @contextmanager
    def look(self) -> Iterator[None]:
        """Count and time one look; a RolloutError is its outcome, and goes on."""
        began, outcome = time.monotonic(), "failed"
        try:
            yield
            outcome = "done"
        finally:
            self._finished = time.monotonic()
            self.looks.labels(outcome).inc()
            self.seconds.observe(self._finished - began)

    def show(self, look: Look) -> None:
        """Take over what a look saw."""
        self._shown = time.monotonic(), look.statuses
        self.replaced.inc(look.replaced)
        self._last.families = _families(look, time.time())


class _LastLook(Collector):
    """What the last look saw, swapped in whole: a scrape in between sees the one before."""

    def __init__(self) -> None:
        self.families: tuple[Metric, ...] = ()

    def collect(self) -> Iterator[Metric]:
        """The metrics of the last look; none before the first one."""
        yield from self.families


def _families(look: Look, now: float) -> tuple[Metric, ...]:
    decision, progress = look.decision, look.decision.progress
    nodes = GaugeMetricFamily(
        "edgedistill_rollout_nodes", "Nodes, by wave (from 1) and verdict", labels=["wave", "verdict"]
    )
    counted = Count((decision.waves[name] + 1, one) for name, one in decision.verdicts.items())
    for (wave, verdict), number in sorted(counted.items()):
        nodes.add_metric([str(wave), verdict], number)
    state = GaugeMetricFamily("edgedistill_rollout_state", "1 for the rollout's state", labels=["state"])
    for name in STATES:
        state.add_metric([name], float(name == progress.state))
    single = {
        "wave": ("The wave that is open, from 1", progress.wave + 1),
        "waves": ("Waves of the target", len(look.target.waves)),
        "target_version": ("Version that is wanted", progress.version),
        "last_look_timestamp_seconds": ("When the last look that came to an end did; the rest is as old", now),
    }
    gauges = (
        GaugeMetricFamily(f"edgedistill_rollout_{name}", text, value=value) for name, (text, value) in single.items()
    )
    return (nodes, state, *gauges)


class Server:
    """GET /healthz, /metrics, and what the pods said, until it is closed.

    Raises:
        RolloutError: the address cannot be listened on.
    """

    def __init__(self, metrics: Metrics, listen: str, port: int) -> None:
        self._metrics = metrics
        family = socket.AF_INET6 if ":" in listen else socket.AF_INET
        try:
            self._socket = socket.create_server((listen, port), family=family)
        except OSError as error:
            message = f"{listen}:{port} cannot be listened on: {error.strerror or error}; choose another --port"
            raise RolloutError(message) from error
        self.port: int = self._socket.getsockname()[1]
        self._loop = asyncio.new_event_loop()
        self._stopping = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="metrics", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Answer no more."""
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join()
        self._loop.close()

    def _run(self) -> None:
        self._loop.run_until_complete(self._serve())

    async def _serve(self) -> None:
        server = HttpServer(self._answer, Limits(connections=32, body_bytes=1 << 10, held_bytes=1 << 16))
        await server.start(self._socket)
        await self._stopping.wait()
        await server.stop(grace_s=1.0)

    async def _answer(self, request: Request) -> Response:
        if request.method not in ("GET", "HEAD"):
            return Response.json({"error": "the method here is GET"}, 405, {"Allow": "GET"})
        if request.path == "/healthz":
            is_well = self._metrics.is_well
            return Response.json({"well": is_well}, 200 if is_well else 503)
        if request.path == "/metrics":
            return Response(generate_latest(self._metrics.registry), headers={"Content-Type": CONTENT_TYPE_LATEST})
        if request.path == PATH:
            return Response.json(self._metrics.statuses)
        return Response.json({"error": "there is /healthz, and /metrics"}, 404)
