"""P6: the clock may say what it likes. A node serves whatever the date is, and takes no older list for it.

The real node process and its children see another time by libfaketime; the monotonic clock stays, as it does when
somebody sets a real one.
"""

import shutil
import threading
import time
import urllib.request
from collections.abc import Callable
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.edge import proof
from tests.edge.conftest import NodeProcess, Publisher, StartNode

pytestmark = pytest.mark.proof
LIBRARY = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)
needs_faketime = pytest.mark.skipif(LIBRARY is None, reason="needs libfaketime: apt-get install faketime")
AHEAD, BEHIND, ZERO = "+400d", "-400d", "@1970-01-01 00:10:00"


def clock(says: str) -> dict[str, str]:
    """The environment of a node whose clock says this."""
    return {
        "LD_PRELOAD": str(LIBRARY),
        "FAKETIME": says,
        "DONT_FAKE_MONOTONIC": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }


class Origin:
    """The publisher's folder and its past, of which one is shown."""

    def __init__(self, publisher: Publisher) -> None:
        self.publisher, self.shown = publisher, publisher.folder / "shown"
        publisher.publish(seed=1)
        shutil.copytree(publisher.releases, publisher.folder / "past")
        for seed in (2, 3):
            publisher.publish(seed=seed)
        self.show(publisher.releases)

    def show(self, folder: Path) -> None:
        shutil.rmtree(self.shown, ignore_errors=True)
        shutil.copytree(folder, self.shown)

    def replay(self) -> None:
        self.show(self.publisher.folder / "past")


@needs_faketime
def test_a_wrong_clock_is_no_outage_and_no_way_back(
    publisher: Publisher, start_node: StartNode, tell: Callable[[str, str], None]
) -> None:
    origin = Origin(publisher)
    wanted = publisher.folder / "wanted"
    wanted.write_text("1")
    options = ("--version-file", str(wanted), "--releases", str(origin.shown))
    node = start_node(*options)
    node.wait_version(1)
    node.kill()
    served = 1
    for says, takes in ((AHEAD, 1), (BEHIND, 2), (ZERO, 3)):
        origin.replay()
        wanted.write_text("3" if served == 2 else "2")
        node = start_node(*options, environment=clock(says))
        assert node.status()["active"]["version"] == served, "served from the first moment"
        refused = node.wait(lambda s: s["last_event"].get("reason") in ("old_metadata", "expired_metadata"))
        assert refused["active"]["version"] == served
        if says != AHEAD:
            assert refused["last_event"]["reason"] == "old_metadata"
            assert refused["last_event"]["time"] < "2026", "it believes its clock"
        origin.show(publisher.releases)
        if takes == served:
            node.wait(lambda s: s["last_event"].get("reason") == "expired_metadata" and s["refused"] != "")
            assert node.status()["active"]["version"] == served
        else:
            node.wait_version(takes)
        served = takes
        node.kill()
    tell("P6", "400 days ahead, 400 days back, 1970: served at once, older lists refused, 3 of 3")


@needs_faketime
@pytest.mark.parametrize(
    ("driver", "says", "is_replayed"), [("believes_any_date", AHEAD, False), ("forgets", ZERO, True)]
)
def test_without_the_guard_the_same_clock_is_believed(
    driver: str, says: str, is_replayed: bool, publisher: Publisher, start_node: StartNode
) -> None:
    """Negative controls: what is refused above is then taken, or no longer refused for its age."""
    origin = Origin(publisher)
    wanted = publisher.folder / "wanted"
    wanted.write_text("1")
    options = ("--version-file", str(wanted), "--releases", str(origin.shown))
    first = start_node(*options)
    first.wait_version(1)
    first.kill()
    if is_replayed:
        origin.replay()
    wanted.write_text("2")
    node = start_node(*options, environment=clock(says), module=f"tests.edge.drivers.{driver}")
    if is_replayed:
        node.wait(lambda s: s["last_event"].get("reason") == "not_listed")
    else:
        node.wait_version(2)


class _Jumping(ThreadingHTTPServer):
    """The origin over HTTP; when a file that is due is asked for, the node's clock jumps."""

    daemon_threads = True

    def __init__(self, folder: Path, dial: Path) -> None:
        self.folder, self.dial, self.due, self.says = folder, dial, "", "+0"
        self.jumps = 0
        super().__init__(("127.0.0.1", 0), _Handler)
        threading.Thread(target=self.serve_forever, args=[0.05], daemon=True).start()

    def set(self, says: str) -> None:
        """Turn the node's clock; the file is never half there."""
        fresh = self.dial.with_suffix(".tmp")
        fresh.write_text(f"{says}\n")
        fresh.replace(self.dial)


class _Handler(SimpleHTTPRequestHandler):
    server: _Jumping

    def translate_path(self, path: str) -> str:
        return str(self.server.folder / path.lstrip("/"))

    def do_GET(self) -> None:
        if self.server.due and self.path.endswith(self.server.due):
            self.server.due = ""
            self.server.jumps += 1
            self.server.set(self.server.says)
        super().do_GET()

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


@needs_faketime
def test_a_clock_that_jumps_during_an_update_costs_nothing(
    publisher: Publisher, start_node: StartNode, tell: Callable[[str, str], None]
) -> None:
    random = proof.generator("P6")
    publisher.publish(seed=1)
    dial = publisher.folder / "dial"
    origin = _Jumping(publisher.releases, dial)
    origin.set("+0")
    url = f"http://127.0.0.1:{origin.server_address[1]}"
    environment = clock("") | {"FAKETIME_TIMESTAMP_FILE": str(dial), "FAKETIME_NO_CACHE": "1"}
    del environment["FAKETIME"]
    node = start_node("--releases", url, environment=environment)
    node.wait_version(1)
    failures: list[str] = []
    stop = threading.Event()
    asking = threading.Thread(target=_ask, args=[node, stop, failures])
    asking.start()
    jumps = proof.size(3, 20)
    try:
        for number in range(2, jumps + 2):
            origin.says = random.choice([AHEAD, BEHIND, "-20000d"])
            origin.due = random.choice(["snapshot.json", "releases.json", "index.json", "manifest.json", "model.bin"])
            publisher.publish(seed=number)
            deadline = time.monotonic() + 60
            while origin.due and time.monotonic() < deadline:
                time.sleep(0.05)
            assert node.status()["active"]["version"] in (number - 1, number)
            time.sleep(0.5)
            assert node.status()["active"]["version"] in (number - 1, number)
            origin.set("+0")
            node.wait_version(number)
    finally:
        stop.set()
        asking.join()
        origin.shutdown()
        origin.server_close()
    assert not failures
    assert origin.jumps == jumps
    tell("P6", f"{jumps} jumps of the clock during an update: {jumps} updates ended, 0 failed requests")


def _ask(node: NodeProcess, stop: threading.Event, failures: list[str]) -> None:
    """Ask for an answer, again and again."""
    body = b'{"inputs":[{"name":"image","datatype":"UINT8","shape":[1,8,8,3],"data":[%s]}]}' % b",".join([b"7"] * 192)
    while not stop.wait(0.05):
        try:
            request = urllib.request.Request(f"http://{node.http}/v2/models/tiny/infer", body)
            with urllib.request.urlopen(request, timeout=10) as answer:
                answer.read()
        except OSError as error:
            failures.append(repr(error))
