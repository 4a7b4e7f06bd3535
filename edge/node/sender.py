"""The thread that sends what waits, in a child now and then: later after failures, and never in step with others."""

import json
import random
import subprocess
import sys
import threading
from dataclasses import dataclass

from edge.node import forward
from edge.node.spool import Spool

LONGEST_PAUSE_S = 3600.0


@dataclass(frozen=True)
class Sending:
    """Where pictures go, and which."""

    target: str
    node: str
    margin: float  # between the two largest probabilities, below which an answer is unsure
    every_s: float  # between two rounds of sending


class Sender:
    """Empties one spool. The child holds connections and memory for as long as it lives; this process none."""

    def __init__(self, spool: Spool, sending: Sending) -> None:
        self._spool, self._sending = spool, sending
        self.sent, self.failures, self.problem = 0, 0, ""  # files' pairs, rounds, a sentence about the last one
        self._stopping = threading.Event()
        self._child: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Begin."""
        threading.Thread(target=self._rounds, name="forward", daemon=True).start()

    def stop(self) -> None:
        """End sending; what waits stays."""
        self._stopping.set()
        if child := self._child:
            child.kill()

    def _rounds(self) -> None:
        failed, pause = 0, self._sending.every_s
        while not self._stopping.wait(pause * random.uniform(0.5, 1.5)):
            problem = self._round()
            failed = failed + 1 if problem else 0
            self.failures += bool(problem)
            self.problem = problem
            pause = pause_after(failed, self._sending.every_s)

    def _round(self) -> str:
        """Send when something waits, and count what is left; gives what went wrong."""
        problem = ""
        try:
            if self._spool.count():
                problem = self._send()
                self._spool.count()
        except OSError as error:  # this thread must not end: nothing would be sent until a restart
            return problem or f"the feedback folder cannot be read: {error}"
        return problem

    def _send(self) -> str:
        """One child; gives what went wrong."""
        command = [sys.executable, "-m", "edge.node.forward", str(self._spool.folder)]
        command += [self._sending.target, self._sending.node]
        try:
            with subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
            ) as child:
                self._child = child
                try:
                    said = json.loads(child.communicate(timeout=forward.LIMIT_S + 60)[0])
                finally:
                    child.kill()
            self.sent += int(said["sent"])
            return str(said["error"])
        except (OSError, ValueError, KeyError, subprocess.TimeoutExpired) as error:
            return f"sending ended early: {error}"


def pause_after(failures: int, every_s: float) -> float:
    """Seconds to the next round, before jitter: doubled by each failure in a row, at most an hour or `every_s`."""
    return min(max(LONGEST_PAUSE_S, every_s), every_s * 2.0 ** min(failures, 20))
