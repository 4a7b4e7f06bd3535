"""What the controller tells Prometheus and its kubelet."""

import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge.rollout.controller import Look
from edge.rollout.metrics import Metrics, Server
from edge.rollout.model import Decision, Progress
from edgedistill.errors import RolloutError
from tests.unit.test_rollout import TARGET


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(poll_s=1)


@pytest.fixture
def address(metrics: Metrics) -> Iterator[str]:
    server = Server(metrics, "127.0.0.1", 0)
    yield f"http://127.0.0.1:{server.port}"
    server.close()


def get(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_it_is_well_as_long_as_looks_end_however_they_end(metrics: Metrics, address: str) -> None:
    assert get(f"{address}/healthz")[0] == 200
    metrics._finished -= 80  # over 10 polls and 60 s
    assert get(f"{address}/healthz")[0] == 503
    with pytest.raises(RolloutError), metrics.look():
        raise RolloutError("the API server does not answer")
    assert get(f"{address}/healthz")[0] == 200


def test_what_a_look_saw_is_counted(metrics: Metrics, address: str) -> None:
    progress, waves = Progress(2, 7, 1, 1, 0.0, None, "rolling", ""), {"a": 0, "b": 1, "c": 2, "d": 2}
    verdicts = {"a": "confirmed", "b": "pending", "c": "waiting", "d": "waiting"}
    with metrics.look():
        metrics.show(Look(TARGET, Decision(progress, {}, waves=waves, verdicts=verdicts), replaced=3, statuses={}))
    status, text = get(f"{address}/metrics")
    assert status == 200
    for line in (
        'edgedistill_rollout_nodes{verdict="confirmed",wave="1"} 1.0',
        'edgedistill_rollout_nodes{verdict="waiting",wave="3"} 2.0',
        "edgedistill_rollout_wave 2.0",
        "edgedistill_rollout_waves 3.0",
        'edgedistill_rollout_state{state="rolling"} 1.0',
        'edgedistill_rollout_state{state="done"} 0.0',
        "edgedistill_rollout_target_version 2.0",
        'edgedistill_rollout_looks_total{outcome="done"} 1.0',
        "edgedistill_rollout_look_seconds_count 1.0",
        "edgedistill_rollout_replaced_pods_total 3.0",
    ):
        assert line in text.splitlines()


def test_the_manual_lists_every_metric(metrics: Metrics, address: str) -> None:
    progress = Progress(2, 7, 1, 1, 0.0, None, "rolling", "")
    with metrics.look():
        decision = Decision(progress, {}, waves={"a": 0}, verdicts={"a": "confirmed"})
        metrics.show(Look(TARGET, decision, replaced=0, statuses={}))
    kinds = re.findall(r"# TYPE (edgedistill_\S+) (\w+)", get(f"{address}/metrics")[1])
    shown = {name for name, _ in kinds if not name.endswith("_created")}
    manual = (Path(__file__).resolve().parents[2] / "docs" / "rollout.md").read_text()
    listed = {
        name
        for row in re.findall(r"^\| (`edgedistill_.*?) \|", manual, re.MULTILINE)
        for name in re.findall(r"`(\S+)`", row)
    }
    assert listed == shown


def test_nothing_else_is_there(address: str, metrics: Metrics) -> None:
    assert get(f"{address}/")[0] == 404
    with pytest.raises(RolloutError, match="cannot be listened on"):
        Server(metrics, "127.0.0.1", int(address.rpartition(":")[2]))
