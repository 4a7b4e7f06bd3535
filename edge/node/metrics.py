"""What Prometheus scrapes from a node. docs/node.md explains each of them, and a test compares the two."""

import asyncio
import time
from collections import Counter as Count
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from edge.node.advice import STATES
from edge.node.engine import Engine
from edge.node.tensors import MAX_BATCH, ProtocolError

if TYPE_CHECKING:
    from edge.node.agent import Agent

_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)
_IMAGES = (1, 2, 4, 8, 16, MAX_BATCH)


class Metrics:
    """The node's measures, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        by_outcome = ["protocol", "outcome"]
        self.requests = Counter("edgedistill_requests", "Inference requests", by_outcome, registry=self.registry)
        self.seconds = Histogram(
            "edgedistill_request_seconds", "Time to answer", by_outcome, registry=self.registry, buckets=_SECONDS
        )
        by_reason = ["protocol", "reason"]
        self.rejected = Counter("edgedistill_rejected", "Rejected requests", by_reason, registry=self.registry)
        self.batch = Histogram(
            "edgedistill_batch_images", "Images of an answered request", registry=self.registry, buckets=_IMAGES
        )
        ProcessCollector(registry=self.registry)

    def watch(self, agent: "Agent") -> None:
        """Tell of the agent's release and state, and of what is answered."""
        self.registry.register(_NodeCollector(agent))
        agent.serving.observers.append(self._answered)

    @contextmanager
    def request(self, protocol: str) -> Iterator[None]:
        """Count and time one inference request; a ProtocolError is its outcome, and goes on."""
        began, outcome = time.perf_counter(), "failed"
        try:
            yield
            outcome = "answered"
        except ProtocolError as error:
            outcome = "failed" if error.status == 500 else "rejected"
            if outcome == "rejected":
                self.rejected.labels(protocol, error.reason).inc()
            raise
        except asyncio.CancelledError:  # its client has gone
            outcome = "abandoned"
            raise
        finally:
            self.requests.labels(protocol, outcome).inc()
            self.seconds.labels(protocol, outcome).observe(time.perf_counter() - began)

    def _answered(
        self,
        engine: Engine,
        encoded: Sequence[bytes] | None,
        images: NDArray[np.uint8],
        logits: NDArray[np.float32],
    ) -> None:
        self.batch.observe(len(images))


class _NodeCollector(Collector):
    """What the agent knows, read when it is asked for."""

    def __init__(self, agent: "Agent") -> None:
        self._agent = agent

    def collect(self) -> Iterator[Metric]:
        """The metrics of now."""
        agent, told = self._agent, self._agent.describe()
        active = told["active"] or {"name": "", "version": 0, "digest": ""}
        version, desired = active["version"], (told["desired"] or {"version": 0})["version"]
        yield GaugeMetricFamily("edgedistill_release_version", "Version of the active release; 0: none", value=version)
        info = {"name": active["name"], "digest": active["digest"]}
        yield InfoMetricFamily("edgedistill_release", "The active release", value=info)
        yield GaugeMetricFamily("edgedistill_desired_version", "Version that is wanted; 0: none said", value=desired)
        yield CounterMetricFamily("edgedistill_swaps", "Releases taken into service", value=agent.serving.swaps)
        yield GaugeMetricFamily("edgedistill_queue_images", "Images under way", value=agent.serving.waiting)
        state = GaugeMetricFamily("edgedistill_state", "1 for the state that the node is in", labels=["state"])
        for name in STATES:
            state.add_metric([name], float(name == told["state"]))
        yield state
        refused = GaugeMetricFamily("edgedistill_refused_releases", "Releases in quarantine", labels=["reason"])
        for reason, number in Count(one["reason"] for one in told["quarantined"]).items():
            refused.add_metric([reason], number)
        yield refused
