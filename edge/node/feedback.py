"""What goes back from the node to the pipeline: unsure pictures, and the request for a run when answers drift.

Drift is always measured; pictures are kept and sent only with --feedback TARGET. Hangs onto Serving.observers, so it
sees answers after they were given; encoding, disk and network are other threads' and a child's.
"""

import argparse
import hashlib
import logging
import os
import queue
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from edge.node import forward
from edge.node.drift import Drift
from edge.node.engine import Engine
from edge.node.reencode import reencoded
from edge.node.sender import Sender, Sending
from edge.node.spool import Limits, Spool
from edgedistill.errors import DatasetError
from edgedistill.metrics import softmax

LARGEST = 16 << 20  # bytes of a client's picture that is looked at again
LOOK_EVERY = 100  # answers
SHOWN = 50  # classes in /status
_log = logging.getLogger("edge.node")


class HasEngine(Protocol):
    """Of Serving, what this module needs."""

    @property
    def engine(self) -> Engine | None:
        """The active one."""


@dataclass(frozen=True)
class _Unsure:
    view: NDArray[np.uint8]  # (S, S, 3)
    picture: bytes | None  # as the client sent it
    about: dict[str, Any]


def add_options(add: Callable[..., Any]) -> None:
    """The node's options."""
    add("--feedback", metavar="TARGET", help="folder or s3://bucket[/prefix] for unsure pictures; else none are kept")
    add("--feedback-margin", type=float, default=0.2, help="between the two largest probabilities; below it: unsure")
    add("--feedback-per-day", type=int, default=50, help="pictures a day")
    add("--feedback-every-s", type=float, default=300.0, help="seconds between two rounds of sending")
    add("--drift-limit", type=float, default=0.0, help="bits from the release's class shares that count; 0: none do")


def from_options(options: argparse.Namespace, serving: HasEngine, on_drift: Callable[[str, str], None]) -> "Feedback":
    """Raises NodeError: the target is none, a variable is missing, or the node's name can be no part of a key."""
    drift = Drift(options.drift_limit)
    if not options.feedback:
        return Feedback(serving, drift, on_drift)
    forward.check_node(options.node_name)
    forward.open_target(options.feedback, os.environ)
    spool = Spool(options.state / "feedback", Limits(per_day=options.feedback_per_day))
    sending = Sending(options.feedback, options.node_name, options.feedback_margin, options.feedback_every_s)
    return Feedback(serving, drift, on_drift, spool, sending)


class Feedback(Collector):
    """Observes every answer; also a collector of prometheus-client."""

    def __init__(
        self,
        serving: HasEngine,
        drift: Drift,
        on_drift: Callable[[str, str], None],
        spool: Spool | None = None,
        sending: Sending | None = None,
    ) -> None:
        self._serving, self.drift, self._on_drift = serving, drift, on_drift
        self.spool, self._sending = spool, sending
        self.outcomes: Counter[str] = Counter()  # unsure pictures by what became of them
        self.sender = Sender(spool, sending) if spool and sending else None
        self._engine: Callable[[], Engine | None] = lambda: None  # weak: one that was swapped out must not stay
        self._labels: tuple[str, ...] = ()
        self._release: dict[str, Any] = {}
        self._since_look = 0
        self._lock = threading.Lock()
        self._waiting: queue.Queue[_Unsure | None] = queue.Queue(2)  # pictures in memory; None: look at the drift

    def start(self) -> None:
        """Begin to keep and to send."""
        if self.spool is None and not self.drift.limit:
            return
        threading.Thread(target=self._work, name="feedback", daemon=True).start()
        if self.sender:
            self.sender.start()

    def stop(self) -> None:
        """End sending; what waits stays."""
        if self.sender:
            self.sender.stop()

    def observe(
        self,
        engine: Engine,
        pictures: Sequence[bytes] | None,
        images: NDArray[np.uint8],
        logits: NDArray[np.float32],
    ) -> None:
        """An observer of Serving: (B, S, S, 3) images and the (B, K) finite logits that were answered. Never raises.

        On the event loop: some 10 microseconds without feedback, 50 with it.
        """
        try:
            with self._lock:
                self._observe(engine, pictures, images, logits)
        except Exception:  # an answer must never suffer from what is done with it afterwards
            _log.exception("an answer could not be observed")

    def shown(self) -> dict[str, Any]:
        """What /status says. On the event loop: from memory only, since a disk may be slow or fail."""
        with self._lock:
            engine = self._serving.engine
            if engine is not None and engine is not self._engine():
                self._begin(engine)  # nothing was answered since the swap
        value, counts = self.drift.value(), self.drift.counts()
        drift: dict[str, Any] = {
            "bits": None if value is None else round(value, 4),
            "limit": self.drift.limit or None,
            "over": self.drift.is_over,
            "answers": int(counts.sum()),
            "classes": dict(self._histogram()[:SHOWN]),
        }
        if self.spool is None or self._sending is None or self.sender is None:
            return {"drift": drift, "feedback": None}
        state = {"target": self._sending.target, "spent_today": self.spool.spent(), "outcomes": dict(self.outcomes)}
        state |= {"waiting": self.spool.waits, "sent": self.sender.sent, "problem": self.sender.problem}
        return {"drift": drift, "feedback": state}

    def collect(self) -> Iterator[Metric]:
        """What /metrics says; from memory only, too."""
        value = self.drift.value()
        if value is not None:
            yield GaugeMetricFamily("edgedistill_drift_bits", "Answers against the release's class shares", value)
        yield GaugeMetricFamily("edgedistill_drift_over", "1: over the limit", float(self.drift.is_over))
        window = GaugeMetricFamily("edgedistill_window_answers", "Last answers by class", labels=["class"])
        for label, count in self._histogram():
            window.add_metric([label], count)
        yield window
        kept = CounterMetricFamily("edgedistill_feedback_pictures", "Unsure pictures", labels=["outcome"])
        for outcome, count in sorted(self.outcomes.items()):
            kept.add_metric([outcome], count)
        yield kept
        if self.spool and self.sender:
            sent, failures = self.sender.sent, self.sender.failures
            yield CounterMetricFamily("edgedistill_feedback_sent", "Pictures and requests sent", value=sent)
            yield CounterMetricFamily("edgedistill_feedback_failures", "Rounds of sending that failed", value=failures)
            waits = float(self.spool.waits)
            yield GaugeMetricFamily("edgedistill_feedback_waiting", "Pictures and requests to send", waits)

    def _histogram(self) -> list[tuple[str, int]]:
        """Classes that occur in the window, the most frequent first."""
        counts, labels = self.drift.counts(), self._labels
        if len(labels) != len(counts):
            return []
        return [(labels[i], int(counts[i])) for i in np.argsort(-counts, kind="stable") if counts[i]]

    def _observe(
        self,
        engine: Engine,
        pictures: Sequence[bytes] | None,
        images: NDArray[np.uint8],
        logits: NDArray[np.float32],
    ) -> None:
        if engine is not self._engine():
            if engine is not self._serving.engine:
                return  # begun before a swap
            self._begin(engine)
        self.drift.add(logits.argmax(axis=1).tolist())
        self._since_look += len(logits)
        if self.drift.limit and self._since_look >= LOOK_EVERY and not self._waiting.full():
            self._waiting.put_nowait(None)
            self._since_look = 0
        if self.spool and self._sending and logits.shape[1] > 1:
            two = np.partition(softmax(logits), -2, axis=1)[:, -2:]
            for row, (second, first) in enumerate(two):
                if first - second < self._sending.margin:
                    picture = pictures[row] if pictures is not None else None
                    self._offer(engine, picture, images[row], logits[row], float(first), float(first - second))

    def _begin(self, engine: Engine) -> None:
        self._engine, self._labels, self._release = weakref.ref(engine), engine.labels, asdict(engine.release)
        self.drift.reset(engine.manifest.class_counts, engine.manifest.classes)

    def _offer(
        self,
        engine: Engine,
        picture: bytes | None,
        view: NDArray[np.uint8],
        logits: NDArray[np.float32],
        probability: float,
        margin: float,
    ) -> None:
        assert self.spool is not None
        assert self._sending is not None
        if self.spool.is_spent():
            self.outcomes["over_budget"] += 1
        elif self._waiting.full() or (picture is not None and len(picture) > LARGEST):
            self.outcomes["busy" if self._waiting.full() else "too_big"] += 1
        else:
            answer = int(logits.argmax())
            about = {
                "format": 1,
                "node": self._sending.node,
                "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                "release": asdict(engine.release),
                "class": answer,
                "label": engine.labels[answer],
                "probability": round(probability, 6),
                "margin": round(margin, 6),
            }
            self._waiting.put_nowait(_Unsure(view.copy(), picture, about))

    def _work(self) -> None:
        """The thread that encodes and writes."""
        if self.spool:
            try:
                self.spool.sweep()
            except OSError as error:
                _log.warning("the feedback folder %s cannot be swept: %s", self.spool.folder, error)
        while True:
            one = self._waiting.get()
            try:
                if one is None:
                    self._look()
                else:
                    self.outcomes[self._keep(one)] += 1
            except Exception:
                self.outcomes["failed"] += 1
                _log.exception("an unsure picture could not be kept")

    def _keep(self, one: _Unsure) -> str:
        assert self.spool is not None
        # Its name is what the student saw: the same scene under other metadata is the same picture.
        name = hashlib.sha256(one.view.tobytes()).hexdigest()[:32]
        if refused := self.spool.claim(name):
            return refused
        try:
            return self.spool.keep(*reencoded(one.picture, one.view), one.about)
        except DatasetError:
            return "broken"

    def _look(self) -> None:
        if not self.drift.look():
            return
        value = self.drift.value()
        said = f"the last answers are {value or 0:.3f} bits from the release's class shares, over {self.drift.limit:g}"
        self._on_drift("drift", said)
        if self.spool and self._sending:
            about = {"format": 1, "node": self._sending.node, "reason": "drift", "bits": round(value or 0, 4)}
            about |= {"limit": self.drift.limit, "release": self._release, "classes": dict(self._histogram())}
            about |= {"time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
            _log.info("a run is asked for: %s", self.spool.ask_for_a_run(about))
