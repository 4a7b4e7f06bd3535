"""Constant load on every node, and what it noticed."""

import base64
import http.client
import json
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType

PAUSE_S = 0.03


def ask(address: str, name: str, picture: bytes, *, port: int = 8080, timeout_s: float = 10) -> tuple[int, list[float]]:
    """One picture to a node over REST: the version that answered, and its logits.

    Raises:
        OSError, http.client.HTTPException: nobody answers.
        AssertionError: no answer but an error.
    """
    connection = http.client.HTTPConnection(address, port, timeout=timeout_s)
    try:
        return _ask(connection, name, picture)
    finally:
        connection.close()


def _ask(connection: http.client.HTTPConnection, name: str, picture: bytes) -> tuple[int, list[float]]:
    tensor = {"name": "image", "datatype": "BYTES", "shape": [1], "data": [base64.b64encode(picture).decode()]}
    body = json.dumps({"inputs": [tensor], "outputs": [{"name": "logits"}]})
    connection.request("POST", f"/v2/models/{name}/infer", body, {"Content-Type": "application/json"})
    response = connection.getresponse()
    answer = response.read()
    assert response.status == 200, f"{response.status}: {answer[:200]!r}"
    document = json.loads(answer)
    return int(document["model_version"]), document["outputs"][0]["data"]


@dataclass
class Seen:
    """What the load saw of one node."""

    versions: list[int] = field(default_factory=list)  # in the order of the answers
    failures: list[str] = field(default_factory=list)
    longest_gap_s: float = 0.0  # between two answers


class Load:
    """Some thirty requests a second to each node, one after another, on a connection that stays open.

    A context manager; `seen` is complete when it has ended.

    Args:
        addresses: node -> address of its pod.
        name: of the releases.
        picture: JPEG or PNG.
    """

    def __init__(self, addresses: Mapping[str, str], name: str, picture: bytes) -> None:
        self._addresses, self._name, self._picture = dict(addresses), name, picture
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self.seen = {node: Seen() for node in addresses}

    def __enter__(self) -> "Load":
        for node, address in self._addresses.items():
            thread = threading.Thread(target=self._run, args=(address, self.seen[node]), daemon=True)
            self._threads.append(thread)
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    @property
    def answered(self) -> int:
        """Requests that were answered."""
        return sum(len(one.versions) for one in self.seen.values())

    @property
    def longest_gap_s(self) -> float:
        """The longest time without an answer, of any node."""
        return max(one.longest_gap_s for one in self.seen.values())

    def check(self) -> None:
        """Raises AssertionError when a request failed, or a node answered nothing."""
        failures = {node: one.failures for node, one in self.seen.items() if one.failures}
        first = {node: f"{len(lost)} failed, the first: {lost[0]}" for node, lost in failures.items()}
        assert not first, first
        assert all(one.versions for one in self.seen.values())

    def _run(self, address: str, seen: Seen) -> None:
        connection, last = http.client.HTTPConnection(address, 8080, timeout=10), time.monotonic()
        while not self._stop.wait(PAUSE_S):
            try:
                seen.versions.append(_ask(connection, self._name, self._picture)[0])
                seen.longest_gap_s, last = max(seen.longest_gap_s, time.monotonic() - last), time.monotonic()
            except (OSError, http.client.HTTPException, AssertionError, ValueError) as error:
                seen.failures.append(repr(error))
                connection.close()  # the next request opens it anew
        connection.close()
