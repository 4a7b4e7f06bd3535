"""P11: over a line that drops, refuses, breaks, waits or crawls, a node serves on, and fetches no byte twice."""

import hashlib
import random
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tuf.api.exceptions import DownloadError
from tuf.api.metadata import TargetFile

from edge.node import download
from edge.node.download import HttpFetcher, fetch_target
from tests.edge import proof
from tests.edge.bad_models import heavy, publish, spoiled
from tests.edge.conftest import Publisher, StartNode
from tests.edge.origin_server import BadLine, OriginServer
from tests.edge.whole import ask

pytestmark = pytest.mark.proof

BUNDLE_BYTES = proof.size(200_000, 4_000_000)
HEADERS_BYTES = 200  # of an answer, at most
Tell = Callable[[str, str], None]


@pytest.fixture
def origin(publisher: Publisher) -> Iterator[OriginServer]:
    server = OriginServer(publisher.releases)
    yield server
    server.close()


@pytest.fixture
def line(origin: OriginServer) -> Iterator[BadLine]:
    """A good line to the publisher's releases, which tests make bad."""
    line = BadLine(origin.server_address[1], proof.generator("P11"))
    yield line
    line.close()


def _breaks(mean_bytes: int) -> Callable[[random.Random], int]:
    return lambda generator: generator.randrange(mean_bytes // 5, 2 * mean_bytes - mean_bytes // 5)


def _fetch_over_breaks(line: BadLine, folder: Path, size_bytes: int) -> int:
    """Fetch a file over a line that breaks some ten times; the bytes that the line carried."""
    data = random.Random(size_bytes).randbytes(size_bytes)
    origin = folder / "origin"
    origin.mkdir()
    (origin / "file").write_bytes(data)
    server = OriginServer(origin)
    line.target, line.carried, line.breaks_after = server.server_address[1], 0, _breaks(size_bytes // 10)
    target = TargetFile.from_data("file", data, ["sha256"])
    try:
        fetch_target(HttpFetcher(None).read, f"{line.url}/file", target, folder / "file")
        assert hashlib.sha256((folder / "file").read_bytes()).digest() == hashlib.sha256(data).digest()
    finally:
        server.close()
    return line.carried


def test_a_line_that_breaks_again_and_again_wastes_nothing(line: BadLine, tmp_path: Path, tell: Tell) -> None:
    carried = _fetch_over_breaks(line, tmp_path, BUNDLE_BYTES)
    assert line.broken >= 4
    assert carried <= 1.05 * BUNDLE_BYTES
    tell(
        "P11", f"{line.broken} breaks in {BUNDLE_BYTES} bytes: {100 * carried / BUNDLE_BYTES - 100:.1f} % carried twice"
    )


def test_without_resuming_it_would(line: BadLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control."""
    append = download._append

    def forgetful(blocks: Iterator[bytes], part: Path, room: int) -> int:
        try:
            return append(blocks, part, room)
        except DownloadError:
            part.unlink()
            raise

    monkeypatch.setattr(download, "_append", forgetful)
    with pytest.raises(DownloadError):
        _fetch_over_breaks(line, tmp_path, BUNDLE_BYTES)
    assert not (tmp_path / "file").exists(), "each break begins it anew"


def test_torn_bytes_of_an_earlier_attempt_are_fetched_again_not_refused(line: BadLine, tmp_path: Path) -> None:
    (tmp_path / "file.part").write_bytes(b"\0" * 1000)  # a power cut: the length is right, the bytes are not
    assert _fetch_over_breaks(line, tmp_path, 50_000) > 90_000


def _partial(state: Path) -> int:
    """Bytes of unfinished downloads."""
    return sum(path.stat().st_size for path in (state / "partial").rglob("*") if path.is_file())


def _wait_partial(state: Path, size_bytes: int) -> None:
    deadline = time.monotonic() + 60
    while _partial(state) < size_bytes:
        assert time.monotonic() < deadline, f"{_partial(state)} bytes arrived"
        time.sleep(0.05)


def test_a_node_behind_a_bad_line(
    publisher: Publisher, start_node: StartNode, origin: OriginServer, line: BadLine, tmp_path: Path, tell: Tell
) -> None:
    root, state = tmp_path / "root.json", tmp_path / "state"
    shutil.copy(publisher.root, root)
    arguments = ("--releases", line.url, "--root", str(root))
    version = publisher.publish(seed=1)
    node = start_node(*arguments)
    node.wait_version(version)
    for mode in ("reject", "drop"):
        line.cut(mode)
        version = publisher.publish(seed=version + 1)
        time.sleep(1)
        assert ask(node.http)[0] == version - 1, mode
        line.cut("open")
        node.wait_version(version)
    line.delay_s = 2.0
    version = publisher.publish(seed=version + 1)
    node.wait_version(version)
    line.delay_s, line.bytes_per_s = 0.0, proof.size(8000, 1000)
    version = publisher.publish(seed=version + 1)
    node.wait(lambda s: s["active"]["version"] == version, 300)

    line.bytes_per_s, line.carried = BUNDLE_BYTES / 4, 0
    origin.asked.clear(), origin.sent.clear()
    version = publish(publisher, spoiled(heavy(BUNDLE_BYTES, version)))
    _wait_partial(state, BUNDLE_BYTES // 4)
    line.cut("half-open")
    time.sleep(1)
    assert ask(node.http)[0] == version - 1
    line.cut("open")
    _wait_partial(state, BUNDLE_BYTES // 2)
    node.kill(signal.SIGKILL)
    line.cut("open")
    assert _partial(state) >= BUNDLE_BYTES // 2, "it outlives a kill"
    line.bytes_per_s = 0.0
    assert start_node(*arguments).wait_version(version)["quarantined"] == []
    assert _partial(state) == 0
    whole = sum(path.stat().st_size for path in (publisher.folder / f"bundle-{version}").rglob("*") if path.is_file())
    others = sum(sent for path, sent in origin.sent.items() if f"/targets/tiny/{version}/" not in path)
    wasted = line.carried - whole - others - HEADERS_BYTES * origin.asked.total()
    assert wasted <= 0.05 * whole
    tell("P11", f"reject, drop, 2 s, slow, half-open and a kill: {max(0, wasted)} of {whole} bytes carried twice")


def test_a_node_that_waits_for_a_crawling_line_still_listens(
    publisher: Publisher, start_node: StartNode, line: BadLine, tmp_path: Path
) -> None:
    wanted = tmp_path / "wanted"
    wanted.write_text("1")
    publisher.publish(seed=1)
    node = start_node("--releases", line.url, "--version-file", str(wanted))
    node.wait_version(1)
    publish(publisher, spoiled(heavy(BUNDLE_BYTES, 2)))
    line.bytes_per_s = BUNDLE_BYTES / 60
    wanted.write_text("2")
    node.wait(lambda s: s["state"] == "updating")
    wanted.write_text("1")
    status = node.wait(lambda s: s["state"] in ("serving", "probation"), 10)
    assert (status["active"]["version"], status["quarantined"]) == (1, [])
    wanted.write_text("2")
    node.wait(lambda s: s["state"] == "updating")
    begun = time.monotonic()
    node.kill(signal.SIGTERM)
    assert time.monotonic() - begun < 10
    assert node.process is not None
    assert node.process.returncode == 0
