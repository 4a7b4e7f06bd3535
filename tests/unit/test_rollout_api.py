"""The API server's failures, page by page and in one sentence. The real one is in tests/cluster."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
from click.testing import CliRunner
from kubernetes import config

from edge.rollout import api, fleet, watch
from edge.rollout.controller import Controller, control
from edge.rollout.decide import decide
from edge.rollout.fleet import PROGRESS, STOP, Fleet, parse_target, stop_mark
from edge.rollout.metrics import Metrics
from edge.rollout.model import Decision, Progress
from edgedistill.cli_fleet import fleet as command
from edgedistill.errors import RolloutError
from tests.unit.test_rollout import TARGET, at
from tests.unit.test_rollout_nodes import SERVING, a_node, a_pod

TEXT = json.dumps(
    {
        **{"name": "demo", "version": 2, "revision": 7, "waves": [{"percent": 100}], "bake_s": 0, "node_selector": {}},
        **{
            "failure_percent": 5,
            "away_percent": 20,
            "silence_s": 60,
            "deadline_s": 600,
            "runtime": "",
            "is_tls": False,
        },
    }
)
MAPS = "/api/v1/namespaces/default/configmaps"
Answer = tuple[int, Any]


class Server:
    """An API server of a few objects; `answers` (method and path -> status and document) come before what is here."""

    def __init__(self) -> None:
        self.answers: dict[str, Answer | Callable[[dict[str, list[str]]], Answer]] = {
            f"GET {MAPS}/student-edge-target": (200, {"metadata": {"uid": "u"}, "data": {"target.json": TEXT}}),
            "GET /api/v1/nodes": (200, {"items": [a_node("edge-1")]}),
            "GET /api/v1/namespaces/default/pods": (200, {"items": []}),
        }
        self.calls: list[tuple[str, Any]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                url = urlsplit(self.path)
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                key = f"{self.command} {unquote(url.path)}"
                outer.calls.append((key, json.loads(body) if body else None))
                found = outer.answers.get(key, (404, {"message": f"{url.path} not found"}))
                status, document = found(parse_qs(url.query)) if callable(found) else found
                text = json.dumps(document).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(text)))
                with contextlib.suppress(OSError):  # a client that did not wait
                    self.end_headers()
                    self.wfile.write(text)

            do_POST = do_PUT = do_PATCH = do_DELETE = do_GET  # noqa: N815

            def log_message(self, *_: object) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.address = f"http://127.0.0.1:{self._http.server_port}"
        self._thread = threading.Thread(target=self._http.serve_forever)
        self._thread.start()

    def close(self) -> None:
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()

    def keep(self, progress: Progress | None, stop: str = "") -> None:
        """An assignment stands there, and can be replaced."""
        notes = {PROGRESS: json.dumps(vars(progress))} if progress else {}
        notes |= {STOP: stop} if stop else {}
        metadata = {"annotations": notes, "resourceVersion": "5"}
        self.answers[f"GET {MAPS}/student-edge-assignment"] = (200, {"metadata": metadata, "data": {}})
        self.answers[f"PUT {MAPS}/student-edge-assignment"] = (200, {})

    def bodies(self, key: str) -> list[Any]:
        return [body for name, body in self.calls if name == key]


def kubeconfig(path: Path, address: str) -> None:
    cluster = {"name": "c", "cluster": {"server": address}}
    context = {"name": "c", "context": {"cluster": "c", "user": "u"}}
    users = [{"name": "u", "user": {}}]
    path.write_text(json.dumps({"clusters": [cluster], "contexts": [context], "users": users, "current-context": "c"}))


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    found = Server()
    path = tmp_path / "kubeconfig"
    kubeconfig(path, found.address)
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(path))
    yield found
    found.close()


def run(*arguments: str) -> str:
    """What `edgedistill fleet` says; the sentence of its error."""
    done = CliRunner().invoke(command, arguments, catch_exceptions=True)
    if isinstance(done.exception, RolloutError):
        return str(done.exception)
    assert done.exception is None, done.output
    return done.output


def test_lists_are_read_page_by_page(server: Server) -> None:
    names = [f"edge-{i}" for i in range(7)]

    def page(query: dict[str, list[str]]) -> Answer:
        begin = int(query.get("continue", ["0"])[0])
        assert query["limit"] == [str(api.PAGE)]
        more = {"continue": str(begin + 3)} if begin + 3 < len(names) else {}
        return 200, {"items": [a_node(name) for name in names[begin : begin + 3]], "metadata": more}

    server.answers["GET /api/v1/nodes"] = page
    assert [view.name for view in Fleet("student-edge", "default").nodes({})] == names
    assert len(server.bodies("GET /api/v1/nodes")) == 3


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (401, "the API server answered 401: told; log in again, or check KUBECONFIG"),
        (403, "the API server answered 403: told; ask for a role that may do this, or check KUBECONFIG"),
        (500, "the API server answered 500: told"),
    ],
)
def test_a_refusal_in_one_sentence(server: Server, status: int, words: str) -> None:
    server.answers["GET /api/v1/nodes"] = (status, {"message": "told"})
    assert run("status") == words


def test_an_unknown_release_is_told_with_those_that_are_there(server: Server) -> None:
    there = {"metadata": {"name": "shop-target", "namespace": "berlin"}}
    server.answers["GET /api/v1/configmaps"] = (200, {"items": [there, {"metadata": {"name": "shop-trust"}}]})
    said = run("--release", "shop", "status")
    assert said == "the chart has no release 'shop' in the namespace 'default'; give --release shop -n berlin"
    server.answers["GET /api/v1/configmaps"] = (403, {"message": "no"})
    server.answers[f"GET {MAPS}"] = (200, {"items": [{"metadata": {"name": "x-target", "namespace": "default"}}]})
    assert run("--release", "shop", "wait").endswith("give --release x -n default")
    server.answers[f"GET {MAPS}"] = (403, {"message": "no"})
    assert run("--release", "shop", "stop").endswith("see: helm list --all-namespaces")


def test_without_a_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "kubeconfig"
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(path))
    for text in ("", "{", "[1]", "clusters: []"):
        path.write_text(text)
        said = run("status")
        assert said.startswith("no cluster is configured: "), said
        assert said.endswith("; set KUBECONFIG=FILE")
        assert "\n" not in said
    kubeconfig(path, "http://127.0.0.1:9")
    said = run("status")
    assert said.startswith("the API server does not answer: ")
    assert said.endswith("; check KUBECONFIG and the network")


def test_an_api_server_that_hangs_is_left_in_time(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "TIMEOUT_S", 0.3)
    release = threading.Event()

    def hang(query: dict[str, list[str]]) -> Answer:
        release.wait(20)
        return 200, {}

    server.answers["GET /api/v1/nodes"] = hang
    began = time.monotonic()
    assert "does not answer" in run("status")
    assert time.monotonic() - began < 5
    release.set()


def test_a_write_that_somebody_else_was_before_is_no_write(server: Server) -> None:
    server.keep(None)
    server.answers[f"PUT {MAPS}/student-edge-assignment"] = (409, {"message": "the object has been modified"})
    controller = Controller(Fleet("student-edge", "default"))
    with pytest.raises(RolloutError, match="409: the object has been modified"):
        controller.step()
    server.keep(None)
    assert controller.step().decision.progress.state == "rolling"
    written = server.bodies(f"PUT {MAPS}/student-edge-assignment")[-1]
    assert written["metadata"]["resourceVersion"] == "5"
    assert written["data"] == {"edge-1": "2"}


def test_an_event_that_cannot_be_written_hides_no_write(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    server.keep(None)
    server.answers["POST /api/v1/namespaces/default/events"] = (403, {"message": "no events"})
    assert Controller(Fleet("student-edge", "default")).step().decision.progress.state == "rolling"
    assert "the Event WaveOpened could not be written" in caplog.text


def test_a_pod_is_deleted_only_if_it_is_the_one_that_was_seen(server: Server) -> None:
    pod = {"metadata": {"name": "p", "uid": "u1", "creationTimestamp": ""}, "spec": {"nodeName": "edge-1"}}
    server.answers["GET /api/v1/namespaces/default/pods"] = (200, {"items": [pod | {"status": {}}]})
    server.answers["DELETE /api/v1/namespaces/default/pods/p"] = (200, {})
    found = Fleet("student-edge", "default")
    assert found.replace_pod("edge-1") == "", "it has not looked yet"
    found.nodes({})
    assert found.replace_pod("edge-1") == "p"
    assert server.bodies("DELETE /api/v1/namespaces/default/pods/p")[0]["preconditions"] == {"uid": "u1"}
    server.answers["DELETE /api/v1/namespaces/default/pods/p"] = (409, {"message": "another uid"})
    assert found.replace_pod("edge-1") == ""
    server.answers["DELETE /api/v1/namespaces/default/pods/p"] = (403, {"message": "no"})
    with pytest.raises(RolloutError, match="403"):
        found.replace_pod("edge-1")


def test_a_stop_is_about_one_target_and_forgotten_when_it_is_obeyed(server: Server) -> None:
    target, _ = parse_target(TEXT)
    of_it = at(runtime="")
    for progress, mark, state, kept in (
        (of_it, stop_mark(target), "stopped", False),
        (of_it, "7/9/another", "rolling", False),
        (of_it, "7", "rolling", False),
    ):
        server.keep(progress, mark)
        seen = Fleet("student-edge", "default")
        decision = Controller(seen).step().decision
        assert decision.progress.state == state
        written = server.bodies(f"PUT {MAPS}/student-edge-assignment")
        assert (STOP in written[-1]["metadata"]["annotations"]) == kept
    pending = Decision(of_it, {})
    seen.write(pending, fleet.Assignment({}, of_it, stop_mark(target), "5"), target)
    assert STOP in server.bodies(f"PUT {MAPS}/student-edge-assignment")[-1]["metadata"]["annotations"]


def test_the_progress_of_another_version_of_the_controller_is_read(server: Server) -> None:
    server.keep(at())
    _, document = server.answers[f"GET {MAPS}/student-edge-assignment"]  # type: ignore[misc]
    notes = document["metadata"]["annotations"]
    newer = json.loads(notes[PROGRESS]) | {"what_comes_later": 1}
    older = {key: value for key, value in newer.items() if "runtime" not in key}
    found = Fleet("student-edge", "default")
    for text in (newer, older):
        notes[PROGRESS] = json.dumps(text)
        progress = found.assignment().progress
        assert progress is not None
        assert progress.version == 2


@pytest.mark.parametrize(
    "change",
    [
        {"version": "2"},
        {"version": True},
        {"wave": -1},
        {"wave": 1.5},
        {"since": None},
        {"since": float("inf")},
        {"baking_since": "now"},
        {"state": "dancing"},
        {"reason": None},
        {"settled": "1"},
        {"deletions": None},
    ],
)
def test_a_progress_that_makes_no_sense_is_told_and_not_followed(server: Server, change: dict[str, Any]) -> None:
    server.keep(at())
    _, document = server.answers[f"GET {MAPS}/student-edge-assignment"]  # type: ignore[misc]
    notes = document["metadata"]["annotations"]
    for text in (json.dumps(json.loads(notes[PROGRESS]) | change), "[]", "null", "{}", "1e999", "[" * 100_000, "x"):
        notes[PROGRESS] = text
        with pytest.raises(RolloutError, match="not as the controller wrote it"):
            Fleet("student-edge", "default").assignment()


@pytest.mark.parametrize("change", [{"version": 1e999}, {"waves": []}, {"waves": [1]}, {"node_selector": []}])
def test_a_target_that_makes_no_sense_is_told(change: dict[str, Any]) -> None:
    with pytest.raises(RolloutError, match="the chart's target makes no sense"):
        parse_target(json.dumps(json.loads(TEXT) | change))


def test_a_fault_of_its_own_ends_a_look_and_not_the_controller(
    server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    server.keep(None)
    faults, metrics, stopping = iter([KeyError("a fault")]), Metrics(poll_s=0), threading.Event()
    step = Controller.step

    def faulty(self: Controller) -> Any:
        for fault in faults:
            raise fault
        stopping.set()
        return step(self)

    monkeypatch.setattr(Controller, "step", faulty)
    control(Fleet("student-edge", "default"), metrics, poll_s=0.01, stopping=stopping)
    assert "a fault of the controller" in caplog.text
    assert metrics.looks.labels("failed")._value.get() == 1
    assert metrics.looks.labels("done")._value.get() == 1


def test_the_first_answer_is_waited_for_where_a_policy_may_be_late(server: Server, tmp_path: Path) -> None:
    server.keep(at(runtime="", state="done", reason="it is there"))
    found = Fleet("student-edge", "default")
    there, found._core = found._core, found._core.__class__(_nowhere(tmp_path))
    with pytest.raises(RolloutError, match="does not answer"):
        watch.wait(found, poll_s=0.01)
    threading.Timer(0.5, lambda: setattr(found, "_core", there)).start()
    assert watch.wait(found, poll_s=0.05, patience_s=20) == "it is there"


def _nowhere(folder: Path) -> Any:
    kubeconfig(folder / "nowhere", "http://127.0.0.1:9")
    return config.new_client_from_config(str(folder / "nowhere"))


def test_progress_survives_the_controller_at_any_moment(server: Server) -> None:
    """A controller that is killed after each look gets as far as one that lives."""
    server.keep(None)
    states = []
    for _ in range(3):
        decision = Controller(Fleet("student-edge", "default")).step().decision
        states.append(decision.progress)
        server.keep(decision.progress)
    lived = decide(parse_target(TEXT)[0], None, [], now=1.0, assigned={}).progress
    assert {state.settled for state in states} == {lived.settled}
    assert states[0].since == states[1].since == states[2].since


def test_waiting_goes_on_while_the_api_server_is_away(server: Server) -> None:
    server.keep(at(runtime="", state="rolling"))
    looks = iter([(503, {"message": "starting"}), (429, {"message": "slowly"})])
    target = server.answers[f"GET {MAPS}/student-edge-target"]
    found = Fleet("student-edge", "default")

    def away(query: dict[str, list[str]]) -> Answer:
        answer = next(looks, None)
        if answer is None:
            server.keep(at(runtime="", state="done", reason="it is there"))
        return answer or target  # type: ignore[return-value]

    def then_away(query: dict[str, list[str]]) -> Answer:
        server.answers[f"GET {MAPS}/student-edge-target"] = away
        return target  # type: ignore[return-value]

    server.answers[f"GET {MAPS}/student-edge-target"] = then_away
    assert watch.wait(found, timeout_s=20, poll_s=0.01) == "it is there"
    server.answers[f"GET {MAPS}/student-edge-target"] = (500, {"message": "broken"})
    with pytest.raises(RolloutError, match="500: broken"):
        watch.wait(found, poll_s=0.01)


def test_waiting_ends_with_the_reason(server: Server) -> None:
    server.keep(at(runtime="", state="stopped", reason="node a failed: died"))
    assert run("wait") == "release 2 was stopped: node a failed: died; see: edgedistill fleet status"
    server.keep(at(runtime="", reason="wave 1 is open"))
    assert run("wait", "--timeout", "0.1") == "release 2 is not out after 0.1 s: wave 1 is open"
    server.keep(at(runtime="other"))
    assert "the controller has not seen this target" in run("wait", "--timeout", "0.1")


def test_the_time_to_wait_follows_from_the_target() -> None:
    assert watch.longest_s(TARGET) == 3 * (600 + 10) + 60


def test_stopping_what_has_ended_or_never_began(server: Server) -> None:
    assert run("stop") == "the controller has sent nothing out yet; see its pod's log"
    server.keep(at(runtime="", state="done"))
    assert run("stop") == "release 2 is done; to leave it, upgrade the chart to another"
    server.keep(at(runtime=""))
    server.answers[f"PATCH {MAPS}/student-edge-assignment"] = (200, {})
    assert run("stop") == "release 2 is being stopped\n"
    patch = server.bodies(f"PATCH {MAPS}/student-edge-assignment")[-1]
    assert patch == {"metadata": {"annotations": {STOP: "7/2/"}}}


LEASES = "GET /apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
POD = "/api/v1/namespaces/default/pods/https:p-edge-1:8080/proxy/status"


def two_nodes(server: Server) -> None:
    """edge-1 serves behind TLS, edge-2 is away."""
    moment = (datetime.now(UTC) - timedelta(minutes=7)).isoformat()
    away = a_node("edge-2", ready="Unknown")
    away["status"]["conditions"][0]["lastHeartbeatTime"] = moment
    server.answers["GET /api/v1/nodes"] = (200, {"items": [away, a_node("edge-1")]})
    pods = [a_pod("edge-1"), a_pod("edge-2", uid="2")]
    for pod in pods:
        pod["metadata"]["name"] = f"p-{pod['spec']['nodeName']}"

    def listed(query: dict[str, list[str]]) -> Answer:
        return 200, {"items": pods if "component=node" in query["labelSelector"][0] else []}

    server.answers["GET /api/v1/namespaces/default/pods"] = listed
    server.answers[f"GET {POD}"] = (200, SERVING | {"refused": "[red]odd[/red]"})
    text = TEXT.replace('"is_tls": false', '"is_tls": true')
    target = {"metadata": {"uid": "u"}, "data": {"target.json": text}}
    server.answers[f"GET {MAPS}/student-edge-target"] = (200, target)
    server.keep(at(runtime="", reason="wave 1 is open"))
    _, document = server.answers[f"GET {MAPS}/student-edge-assignment"]  # type: ignore[misc]
    document["data"] = {"edge-1": "2", "edge-2": "2"}


def test_status_shows_every_node_and_when_it_was_last_seen(server: Server) -> None:
    two_nodes(server)
    server.answers[LEASES] = (403, {"message": "no"})
    lines = run("status").splitlines()
    assert lines[0].split("  ")[0] == "node"
    assert lines[1].split() == ["edge-1", "1", "2", "2", "serving", "[red]odd[/red]", "now"]
    assert lines[2].split() == ["edge-2", "1", "2", "away", "7", "min", "ago"]
    assert lines[3] == "release 2: rolling, wave 1 of 1, 0 of 2 nodes have it: wave 1 is open"
    moment = (datetime.now(UTC) - timedelta(seconds=50)).isoformat()
    server.answers[LEASES] = (200, {"items": [{"metadata": {"name": "edge-2"}, "spec": {"renewTime": moment}}]})
    assert "50 s ago" in run("status") or "51 s ago" in run("status")


def test_status_as_json_keeps_its_keys(server: Server) -> None:
    two_nodes(server)
    server.answers[LEASES] = (403, {"message": "no"})
    document = json.loads(run("status", "--json"))
    first, second = document["nodes"]
    assert {"name", "wave", "assigned", "active", "state", "refused", "reason", "last_seen_s"} == set(first)
    assert (first["name"], first["active"], first["last_seen_s"]) == ("edge-1", 2, 0.0)
    assert (second["state"], second["active"]) == ("away", None)
    assert 420 <= second["last_seen_s"] < 430
    assert document["target"]["version"] == 2
    assert document["rollout"]["state"] == "rolling"
    assert document["is_current"]


def test_watching_without_a_terminal_tells_what_changes(server: Server, tmp_path: Path) -> None:
    two_nodes(server)
    server.answers[LEASES] = (403, {"message": "no"})
    environment = os.environ | {"KUBECONFIG": str(tmp_path / "kubeconfig"), "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "edgedistill.cli", "fleet", "status", "--watch"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        # A shell that starts the tests in its background has them ignore Ctrl-C, and what they start.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdout is not None
    try:
        lines = [process.stdout.readline()[9:].strip() for _ in range(3)]
        assert lines[1:] == [
            "edge-1: serving, serves 2, told 2 ([red]odd[/red])",
            "edge-2: away, serves nothing, told 2",
        ]
        server.answers[f"GET {POD}"] = (200, SERVING | {"state": "probation"})
        assert process.stdout.readline()[9:].strip() == "edge-1: probation, serves 2, told 2"
        server.answers["GET /api/v1/nodes"] = (503, {"message": "starting"})
        assert process.stdout.readline()[9:].strip() == "the API server answered 503: starting"
    finally:
        process.send_signal(signal.SIGINT)
        rest, errors = process.communicate(timeout=20)
    assert (process.returncode, rest, errors) == (0, "", "")
