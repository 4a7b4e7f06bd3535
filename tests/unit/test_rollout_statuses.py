"""`fleet status` asks the controller what the pods told it."""

import io
import json
import socket
from collections.abc import Iterator
from typing import Any

import pytest
import urllib3
from kubernetes import client

from edge.rollout.api import ApiError
from edge.rollout.controller import Look
from edge.rollout.metrics import Metrics, Server
from edge.rollout.model import Decision, Progress
from edge.rollout.nodes import FarAsker
from edge.rollout.statuses import STALE_S, Statuses
from tests.unit.test_rollout import TARGET

POD = {"metadata": {"uid": "u1", "name": "node-1"}}
LOOK = Look(
    TARGET,
    Decision(Progress(2, 7, 1, 1, 0.0, None, "rolling", ""), {}, waves={}, verdicts={}),
    replaced=0,
    statuses={"u1": {"state": "serving", "active": {"version": 2}}, "u2": None},
)


class Api:
    """A cluster with one controller, and a proxy that counts what it is asked."""

    def __init__(self, *, is_ready: bool = True) -> None:
        self.asked: list[str] = []
        condition = {"type": "Ready", "status": "True" if is_ready else "False"}
        self._pod = {"metadata": {"name": "controller"}, "status": {"conditions": [condition]}}

    def list_namespaced_pod(self, *_: object, **__: object) -> Any:
        return type("Answer", (), {"data": json.dumps({"items": [self._pod], "metadata": {}})})

    def connect_get_namespaced_pod_proxy_with_path(self, name: str, *_: object, **__: object) -> Any:
        self.asked.append(name)
        return urllib3.HTTPResponse(io.BytesIO(b'{"state": "asked directly"}'), preload_content=False)


class Way:
    """A connection, as a port-forward gives one."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port))

    def socket(self, port: int) -> socket.socket:
        return self._socket

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(poll_s=1)


@pytest.fixture
def port(metrics: Metrics) -> Iterator[int]:
    server = Server(metrics, "127.0.0.1", 0)
    yield server.port
    server.close()


def asker(api: Api, port: int) -> FarAsker:
    found = FarAsker(api, "edge", Statuses(api, "student-edge", "edge", forward=lambda *_: Way(port)))
    found.refresh()
    return found


def test_one_question_to_the_controller_tells_of_all_pods(metrics: Metrics, port: int) -> None:
    metrics.show(LOOK)
    api = Api()
    found = asker(api, port)
    assert found.ask(POD, is_tls=False) == LOOK.statuses["u1"]
    assert found.ask({"metadata": {"uid": "u2", "name": "silent"}}, is_tls=False) is None
    assert api.asked == []


def test_a_pod_that_the_controller_has_not_asked_yet_is_asked(metrics: Metrics, port: int) -> None:
    metrics.show(LOOK)
    api = Api()
    assert asker(api, port).ask({"metadata": {"uid": "u9", "name": "new"}}, is_tls=False) == {"state": "asked directly"}


def test_without_a_controller_that_knows_the_pods_are_asked(metrics: Metrics, port: int) -> None:
    def asked(api: Api) -> list[str]:
        asker(api, port).ask(POD, is_tls=True)
        return api.asked

    assert asked(Api()) == ["https:node-1:8080"], "it has not looked yet"
    metrics.show(LOOK)
    assert asked(Api()) == []
    assert asked(Api(is_ready=False)) == ["https:node-1:8080"]
    metrics._shown = (metrics._shown[0] - STALE_S, LOOK.statuses)  # type: ignore[index]
    assert asked(Api()) == ["https:node-1:8080"], "what it knows is old"


@pytest.mark.parametrize("error", [ConnectionRefusedError(), ApiError("forbidden", 403)])
def test_who_may_not_forward_a_port_asks_the_pods(error: Exception) -> None:
    def refuse(*_: object) -> Way:
        raise error

    assert Statuses(Api(), "student-edge", "edge", forward=refuse).fetch() is None


def test_ctrl_c_while_the_way_is_made_is_ctrl_c(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt as error:
            raise client.ApiException(status=0, reason=str(error))  # noqa: B904 as the client does it

    monkeypatch.setattr("kubernetes.stream.portforward", interrupted)
    core = Api()
    core.connect_get_namespaced_pod_portforward = None  # type: ignore[attr-defined]
    with pytest.raises(KeyboardInterrupt):
        Statuses(core, "student-edge", "edge").fetch()
