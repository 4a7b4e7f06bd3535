"""When to look at the origin, and whether anything changed there: one small unsigned file tells.

timestamp.json is only a hint whether to start the child that verifies. An origin that lies about it can delay an
update by FULL_CHECK_S; it cannot make a node believe anything.
"""

import contextlib
import http.client
import random
import socket
import ssl
import threading
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from edge.node.catalog import Unreachable

FULL_CHECK_S = 600.0  # the child verifies at least this often, hint or not
LONGEST_PAUSE_S = 300.0  # between two questions to an origin that does not answer
SPREAD = (0.5, 1.5)  # a pause is its nominal length times a random number: nodes that start together drift apart
# A full check costs the origin three to six questions more. After a start or an outage, which nodes share, it waits for
# a random part of so many polls; so the origin's peak stays below twice what it is asked day by day.
RETURN_POLLS = 20.0
LIMIT_BYTES = 64 << 10
TIMEOUT_S = 10.0  # to connect to one address, to agree on TLS, and again for the whole answer


class Origin:
    """The origin's hint, and the pace at which one node asks for it."""

    def __init__(
        self,
        releases: str,
        poll_s: float,
        *,
        ca: Path | None = None,
        clock: Callable[[], float] = time.monotonic,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._releases, self._poll_s, self._ca, self._clock, self._uniform = releases, poll_s, ca, clock, uniform
        self._failures = 0  # in a row
        self._quiet_until = 0.0
        self._full_check_at = 0.0
        self._checked: bytes | None = None  # the hint at the last full check that came to an end
        self._seen: bytes | None = None  # the hint at the last look; None: it was not to be had
        self._calm_until = 0.0  # no full check before, unless somebody asks

    def first_pause_s(self) -> float:
        """Before the first look: when a site's power comes back, all its nodes start at once."""
        return self._uniform(0.0, self._poll_s)

    def pause_s(self) -> float:
        """Until the next round."""
        return self._poll_s * self._uniform(*SPREAD)

    def has_news(self, *, is_asked: bool) -> bool:
        """Whether a full check is due. An origin that just failed is left alone for a while, unless somebody asks.

        Args:
            is_asked: the operator wants something else than at the last check.

        Raises:
            Unreachable: the origin does not answer.
        """
        if self._clock() < self._quiet_until and not is_asked:
            return False
        if is_asked:
            self._checked = None  # it was not checked for this
        is_back, self._seen = self._seen is None, None
        self._seen = self._timestamp()
        if is_asked:
            return True
        if is_back:
            self._calm_until = self._clock() + self._uniform(0.0, RETURN_POLLS * self._poll_s)
        if self._seen == self._checked:
            self._failures = 0  # only the way to the origin failed, and it is there again
        is_due = self._seen != self._checked or self._clock() >= self._full_check_at
        return is_due and self._clock() >= self._calm_until

    def answered(self) -> None:
        """The full check came to an end, and so did what it gave rise to, whatever became of that."""
        self._failures, self._quiet_until, self._checked = 0, 0.0, self._seen
        self._full_check_at = self._clock() + FULL_CHECK_S * self._uniform(*SPREAD)

    def failed(self, *, longest_s: float = LONGEST_PAUSE_S) -> None:
        """No answer, or none to believe: ask again later, and later each time."""
        pause = min(self._poll_s * 2.0 ** min(self._failures, 30), max(longest_s, self._poll_s))
        self._failures += 1
        if self._seen is not None:  # the hint came, what followed failed
            self._checked = None
        self._quiet_until = self._clock() + pause * self._uniform(*SPREAD)

    def _timestamp(self) -> bytes:
        """The bytes of timestamp.json, unverified."""
        try:
            if self._releases.startswith(("http://", "https://")):
                return self._get(f"{self._releases.rstrip('/')}/metadata/timestamp.json")
            path = Path(self._releases) / "metadata" / "timestamp.json"
            if not path.is_file():  # a pipe would hold us up for ever
                raise Unreachable(f"the origin does not answer: no file {path}")
            with path.open("rb") as handle:
                return handle.read(LIMIT_BYTES)
        except (OSError, http.client.HTTPException) as error:
            why = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise Unreachable(f"the origin does not answer: {why}") from error

    def _get(self, url: str) -> bytes:
        """One GET that follows no redirect."""
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
        connection: http.client.HTTPConnection
        if parts.scheme == "https":
            context = ssl.create_default_context(cafile=self._ca)
            connection = http.client.HTTPSConnection(host, port, timeout=TIMEOUT_S, context=context)
        else:
            connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT_S)
        try:
            connection.connect()
            return _ask(connection, parts.path)
        finally:
            connection.close()


def _ask(connection: http.client.HTTPConnection, path: str) -> bytes:
    """The answer on an open connection. A thread ends it in time, however slowly the other side drips."""
    is_late = threading.Event()
    # The socket itself: the connection lets go of it with the header of the answer, and changes it for TLS before.
    deadline = threading.Timer(TIMEOUT_S, _cut, [connection.sock, is_late])
    deadline.daemon = True
    deadline.start()
    try:
        connection.request("GET", path, headers={"Connection": "close"})
        answer = connection.getresponse()
        if 300 <= answer.status < 400:
            raise Unreachable("the origin redirects, which is not followed", "redirected")
        if answer.status != 200:
            raise Unreachable(f"the origin answered {answer.status} for {path}")
        data = answer.read(LIMIT_BYTES)
    finally:
        deadline.cancel()
    if is_late.is_set():  # what arrived looks like an answer that ended
        raise TimeoutError(f"its answer took more than {TIMEOUT_S:.0f} s")
    return data


def _cut(line: socket.socket, is_late: threading.Event) -> None:
    is_late.set()
    with contextlib.suppress(OSError):  # it has just ended by itself
        # The socket's own method: TLS's would take the encryption away from under the thread that reads.
        socket.socket.shutdown(line, socket.SHUT_RDWR)
