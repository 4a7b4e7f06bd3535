"""A store that goes away, an answer that is lost: what the callers see."""

import socket
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from edgedistill.errors import StorageError, SwapConflict
from edgedistill.history import recording
from edgedistill.storage import BLOCK
from edgedistill.storage_s3 import S3Store
from tests.minio.server import MinioServer


class Cutter:
    """A TCP proxy before MinIO. It forwards each request, and can cut the connection instead of giving the answer."""

    def __init__(self, port: int) -> None:
        self._target = port
        self.lose = 0  # so many answers, from now on; the server has done what was asked
        self.cut_after = 0  # bytes of an answer; 0: never
        self.lost = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def close(self) -> None:
        """End it."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()

    def _serve(self) -> None:
        threads = []
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                break
            server = socket.create_connection(("127.0.0.1", self._target))
            for work in ((client, server, False), (server, client, True)):
                threads.append(threading.Thread(target=self._pump, args=work))
                threads[-1].start()
        for thread in threads:
            thread.join()

    def _pump(self, source: socket.socket, sink: socket.socket, answers: bool) -> None:
        passed = 0
        with source:
            while data := _received(source):
                if answers and self.lose:
                    self.lose, self.lost = self.lose - 1, self.lost + 1
                    break
                passed += len(data)
                if answers and 0 < self.cut_after < passed:
                    self.cut_after, self.lost = 0, self.lost + 1
                    break
                try:
                    sink.sendall(data)
                except OSError:
                    break
            for one in (source, sink):
                try:
                    one.shutdown(socket.SHUT_RDWR)
                except OSError:
                    continue


def _received(source: socket.socket) -> bytes:
    try:
        return source.recv(1 << 16)
    except OSError:
        return b""


@pytest.fixture
def cutter(minio: MinioServer) -> Iterator[Cutter]:
    """The proxy; all its connections are closed behind the test."""
    proxy = Cutter(minio.port)
    yield proxy
    proxy.close()


@pytest.fixture
def store(minio: MinioServer, cutter: Cutter) -> Iterator[S3Store]:
    """A store behind the proxy."""
    store = minio.store(uuid.uuid4().hex, endpoint=cutter.endpoint)
    yield store
    store.close()


@pytest.mark.parametrize("times", [1, 3])
def test_a_put_whose_answer_is_lost_is_done_once(store: S3Store, cutter: Cutter, times: int) -> None:
    cutter.lose = times
    store.put("a/b", b"bytes")
    assert (cutter.lost, store.get("a/b")) == (times, b"bytes")
    store.put("a/c", b"bytes")
    cutter.lose = 1
    with pytest.raises(StorageError, match="already holds other bytes"):
        store.put("a/c", b"other")


@pytest.mark.parametrize("before", [None, b"0"])
def test_a_swap_whose_answer_is_lost_is_done_once(store: S3Store, cutter: Cutter, before: bytes | None) -> None:
    if before is not None:
        store.swap("HEAD", before, expected=None)
    read = store._read

    def lost_from_here(key: str) -> tuple[bytes | None, str]:
        found = read(key)
        cutter.lose = 1 if cutter.lost == 0 else 0  # the next answer is the swap's
        return found

    store._read = lost_from_here  # type: ignore[method-assign]
    store.swap("HEAD", b"1", expected=before)
    assert (cutter.lost, store.get("HEAD")) == (1, b"1")


def test_a_lost_swap_is_a_conflict_without_reading_back(
    store: S3Store, cutter: Cutter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control: the answer to the second try is taken as it is."""

    def forgetful(store: S3Store, key: str) -> tuple[bytes | None, str]:
        cutter.lose = 1
        return None, ""

    monkeypatch.setattr(S3Store, "_read", forgetful)
    with pytest.raises(SwapConflict):
        store.swap("HEAD", b"1", expected=None)
    monkeypatch.undo()
    cutter.lose = 0
    assert store.get("HEAD") == b"1"


def test_a_read_goes_on_where_it_was_cut(store: S3Store, cutter: Cutter) -> None:
    data = bytes(range(256)) * (4 * BLOCK // 256)
    store.put("big", data)
    for cut_after in (1, 100_000, 3 * BLOCK):
        cutter.cut_after = cut_after
        store.close()  # the bytes of a new connection are counted
        assert store.get("big") == data
    assert cutter.lost == 3


def test_a_store_that_comes_back_is_waited_for(minio: MinioServer) -> None:
    store = minio.store(uuid.uuid4().hex)
    store.put("before", b"1")
    minio.kill()
    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(store.put, "meanwhile", b"2")
        time.sleep(1)
        assert not writing.done()
        minio.start()
        writing.result()
    assert [store.get(key) for key in store.list("")] == [b"1", b"2"]
    store.close()


def test_a_store_that_stays_away_is_one_sentence(minio: MinioServer) -> None:
    store = minio.store(uuid.uuid4().hex, patience_s=0.5)
    minio.kill()
    began = time.monotonic()
    try:
        for call in (lambda: store.put("a", b"1"), lambda: store.get("a"), lambda: list(store.list(""))):
            with pytest.raises(StorageError, match="did not answer") as caught:
                call()
            said = str(caught.value)
            assert minio.endpoint in said
            assert "run the same command" in said
            assert not any(secret in said for secret in (minio.secret_key, minio.access_key, "X-Amz", "\n"))
        assert time.monotonic() - began < 10
    finally:
        minio.start()
        store.close()


def test_a_run_that_fails_while_the_store_is_away_says_why_it_failed(minio: MinioServer) -> None:
    """And not that its failure could not be written down."""
    store = minio.store(uuid.uuid4().hex, patience_s=0)

    def fail() -> None:
        with recording(store, run_id="20260101-000000-abcd", target="local", config={}, on_event=lambda _: None):
            minio.kill()
            raise StorageError("what the step said")

    try:
        with pytest.raises(StorageError, match="what the step said"):
            fail()
    finally:
        minio.start()
        store.close()


def test_wrong_credentials_and_a_missing_bucket_are_told_apart(minio: MinioServer) -> None:
    from edgedistill.s3_requests import S3Access

    absent = S3Store("s3://no-such-bucket", S3Access.from_environment(minio.environment))
    wrong = S3Store("s3://pipeline", S3Access.from_environment(minio.environment | {"AWS_SECRET_ACCESS_KEY": "x" * 40}))
    for store, said in ((absent, "no bucket 'no-such-bucket'"), (wrong, "SignatureDoesNotMatch|403")):
        for call in (
            lambda s: s.put("a", b"1"),
            lambda s: s.get("a"),
            lambda s: s.exists("a"),
            lambda s: list(s.list("")),
        ):
            with pytest.raises(StorageError, match=said) as caught:
                call(store)
            assert minio.secret_key not in str(caught.value)
        store.close()
