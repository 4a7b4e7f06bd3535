"""P9: a signed release that is bad is refused or left within 60 s, once, and the old one answers all the while."""

import contextlib
import http.client
import json
import threading
import time
import urllib.error
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import openvino as ov
import pytest

from tests.edge.bad_models import good_answers, greedy, not_finite_above, publish, slow, spoiled
from tests.edge.conftest import SIZE, NodeProcess, Publisher, StartNode, tiny_model
from tests.edge.origin_server import OriginServer
from tests.edge.whole import ask

pytestmark = pytest.mark.proof

LIMIT_S = 60.0
HANGS = 2_000_000_000  # turns of a loop: a day
Tell = Callable[[str, str], None]


@contextlib.contextmanager
def light_load(node: NodeProcess) -> Iterator[list[int]]:
    """Some ten requests a second; the versions that answered. Every failure is raised at the end."""
    versions: list[int] = []
    failures: list[BaseException] = []
    stop = threading.Event()

    def load() -> None:
        while not stop.wait(0.1):
            try:
                versions.append(ask(node.http)[0])
            except Exception as error:
                failures.append(error)

    thread = threading.Thread(target=load)
    thread.start()
    try:
        yield versions
    finally:
        stop.set()
        thread.join()
    assert not failures, failures[0]


@pytest.fixture
def origin(publisher: Publisher) -> Iterator[OriginServer]:
    server = OriginServer(publisher.releases)
    yield server
    server.close()


def _refused(node: NodeProcess, version: int) -> dict[str, Any]:
    status = node.wait(lambda s: any(q["version"] == version for q in s["quarantined"]), LIMIT_S)
    entry: dict[str, Any] = next(q for q in status["quarantined"] if q["version"] == version)
    return entry | {"active": status["active"]["version"]}


def test_bad_releases_are_refused_once_and_the_old_one_answers(
    publisher: Publisher, start_node: StartNode, origin: OriginServer, tell: Tell
) -> None:
    publish(publisher, tiny_model(1))
    node = start_node("--releases", origin.url, "--update-memory-mb", "600")
    node.wait_version(1)
    bad: list[tuple[str, ov.Model, Any, str]] = [
        ("NaN", spoiled(not_finite_above(0)), good_answers(), "wrong_answer"),
        ("wrong golden answers", tiny_model(2), good_answers(), "wrong_answer"),
        ("10x slower", spoiled(slow(20_000)), None, "too_slow"),
        ("eats memory while compiling", spoiled(greedy(900)), good_answers(), ""),
    ]
    slowest = 0.0
    with light_load(node) as versions:
        for what, model, answers, reason in bad:
            version = publish(publisher, model, answers)
            begun = time.monotonic()
            entry = _refused(node, version)
            slowest = max(slowest, time.monotonic() - begun)
            assert entry["active"] == 1, what
            assert entry["digest"], what
            assert entry["reason"] == reason if reason else entry["reason"] in ("crashed", "cannot_compile"), entry
        time.sleep(1)
        before = origin.asked.total() - origin.asked["/metadata/timestamp.json"]
        hints = origin.asked["/metadata/timestamp.json"]
        time.sleep(2)
        assert origin.asked["/metadata/timestamp.json"] > hints
        assert origin.asked.total() - origin.asked["/metadata/timestamp.json"] == before, "no retry loop"
    assert set(versions) == {1}
    tell(
        "P9", f"{len(bad)} bad releases refused, the slowest in {slowest:.1f} s; {len(versions)} answers of the old one"
    )
    node.kill()
    again = start_node("--releases", origin.url, "--update-memory-mb", "600")
    again.wait(lambda s: s["state"] == "serving" and s["refused"] != "")
    assert again.status()["active"]["version"] == 1, "a restart tries none of them again"
    assert origin.asked.total() - origin.asked["/metadata/timestamp.json"] <= before + 10


def test_without_a_trial_each_of_them_would_be_served(publisher: Publisher, start_node: StartNode) -> None:
    """Negative control."""
    publish(publisher, tiny_model(1))
    node = start_node(module="tests.edge.drivers.tries_nothing")
    node.wait_version(1)
    publish(publisher, spoiled(not_finite_above(0)), good_answers())
    node.wait_version(2)
    publish(publisher, spoiled(slow(20_000)))
    node.wait_version(3)


def test_a_release_that_crashes_the_compiler_or_hangs_ends_its_child_only(
    publisher: Publisher, start_node: StartNode, tell: Tell
) -> None:
    publish(publisher, tiny_model(1))
    node = start_node(module="tests.edge.drivers.crashing_compiler")
    node.wait_version(1)
    with light_load(node) as versions:
        publish(publisher, tiny_model(2))
        assert _refused(node, 2)["reason"] == "crashed"
        publish(publisher, spoiled(slow(HANGS)), good_answers())
        assert _refused(node, 3)["reason"] == "too_slow"
    assert set(versions) == {1}
    tell("P9", f"a segmentation fault and a hang ended a child; {len(versions)} answers of the old release meanwhile")


def test_without_a_child_a_release_that_crashes_the_compiler_ends_the_node(
    publisher: Publisher, start_node: StartNode
) -> None:
    """Negative control."""
    publish(publisher, tiny_model(1))
    node = start_node(module="tests.edge.drivers.tries_itself")
    node.wait_version(1)
    publish(publisher, tiny_model(2))
    assert node.process is not None
    assert node.process.wait(LIMIT_S) < 0


def _ask_white(node: NodeProcess, times: int) -> list[int]:
    """HTTP statuses of that many requests with a white picture."""
    tensor = {"name": "image", "datatype": "UINT8", "shape": [1, SIZE, SIZE, 3], "data": [255] * (SIZE * SIZE * 3)}
    host, _, port = node.http.partition(":")
    statuses = []
    for _ in range(times):
        connection = http.client.HTTPConnection(host, int(port), timeout=20)
        connection.request("POST", "/v2/models/tiny/infer", json.dumps({"inputs": [tensor]}))
        statuses.append(connection.getresponse().status)
        connection.close()
    return statuses


def test_answers_that_fail_on_probation_bring_the_previous_release_back_at_once(
    publisher: Publisher, start_node: StartNode, tell: Tell
) -> None:
    publish(publisher, tiny_model(1))
    node = start_node()
    node.wait_version(1)
    publish(publisher, spoiled(not_finite_above(250)))
    node.wait_version(2)
    before = node.process.pid if node.process else 0
    begun = time.monotonic()
    assert 200 not in _ask_white(node, 20)
    status = node.wait_version(1)
    assert status["quarantined"][-1]["reason"] == "failing"
    assert status["previous"] is None
    assert node.process is not None
    assert (node.process.pid, node.process.poll()) == (before, None), "in the running process"
    tell("P9", f"failing answers: the previous release back in {time.monotonic() - begun:.1f} s")
    assert set(_ask_white(node, 3)) == {200}
    node.wait(lambda s: s["refused"] == "failing")


def test_without_an_eye_on_its_answers_a_failing_release_stays(publisher: Publisher, start_node: StartNode) -> None:
    """Negative control."""
    publish(publisher, tiny_model(1))
    node = start_node(module="tests.edge.drivers.forgives_failures")
    node.wait_version(1)
    publish(publisher, spoiled(not_finite_above(250)))
    node.wait_version(2)
    assert 200 not in _ask_white(node, 20)
    time.sleep(3)
    assert node.status()["active"]["version"] == 2


def test_a_release_that_ends_whoever_serves_it_is_left_after_three_starts(
    publisher: Publisher, start_node: StartNode, tell: Tell
) -> None:
    publish(publisher, tiny_model(1))
    driver = "tests.edge.drivers.dies_of_release_2"
    node = start_node(module=driver)
    node.wait_version(1)
    publish(publisher, tiny_model(2))
    node.wait_version(2)
    begun, deaths = time.monotonic(), 0
    while True:
        assert deaths < 10
        try:
            version, logits = ask(node.http)
        except (urllib.error.URLError, http.client.HTTPException, OSError):
            assert node.process is not None
            node.process.wait(30)
            deaths += 1
            node = start_node(module=driver)
            continue
        if version == 1:
            break
    assert np.isfinite(logits).all()
    assert time.monotonic() - begun < LIMIT_S
    assert node.status()["quarantined"][-1]["reason"] == "died"
    tell("P9", f"a release that ends its process: the previous one back after {deaths} deaths")
