"""Start and end the testbed's processes; each is remembered by pid and start time, so another run can end them."""

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_STARTED: list["subprocess.Popen[bytes]"] = []  # they outlive what started them; Popen warns when it is dropped early
# A process runs what it shall run only after its pid is on disk: one that nobody remembers could never be ended.
GATE = ["sh", "-c", 'read -r go && exec "$@" < /dev/null', "sh"]


class Processes:
    """What was started, in a file of the testbed's folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._file = folder / "processes.json"

    def start(
        self, name: str, command: Sequence[str], *, namespace: str, environment: dict[str, str] | None = None
    ) -> int:
        """Start a process in a network namespace; its output goes to `logs/<name>.log`.

        Args:
            name: to end it by.
            command: program and arguments.
            namespace: of the network.
            environment: variables beside this process's own; they are not written to disk.
        """
        logs = self.folder / "logs"
        logs.mkdir(parents=True, exist_ok=True)
        with (logs / f"{name}.log").open("ab") as log:
            return self._start(name, list(command), namespace, environment or {}, log)

    def start_again(self, name: str, *, environment: dict[str, str] | None = None) -> int:
        """Start one that was started before and has ended, with the same command.

        Raises:
            KeyError: it never was.
            RuntimeError: it is still running.
        """
        if self.is_running(name):
            raise RuntimeError(f"{name} is running; end it first")
        known = self._read()[name]
        return self.start(name, known["command"], namespace=known["namespace"], environment=environment)

    def run_here(self, name: str, command: Sequence[str], *, namespace: str) -> int:
        """Run a command with this process's input and output, and give its exit status.

        It and all that it starts are remembered and ended like any other, also when this process is killed.
        """
        process = self._popen(list(command), namespace, {}, None)
        self._remember(name, process, list(command), namespace)
        try:
            return process.wait()
        finally:
            self.end_session(name)

    def pid(self, name: str) -> int:
        """The pid of a running process.

        Raises:
            ProcessLookupError: it does not run.
        """
        if not self.is_running(name):
            raise ProcessLookupError(f"{name} does not run: {self.log_tail(name)}")
        return int(self._read()[name]["pid"])

    def is_running(self, name: str) -> bool:
        """Whether the process is the one that was started, and lives."""
        known = self._read().get(name)
        return known is not None and bool(known["started"]) and started(known["pid"]) == known["started"]

    def end(self, name: str, *, timeout_s: float = 15, kill: bool = False) -> None:
        """SIGTERM, then SIGKILL; with `kill` SIGKILL at once. It stays known, for `start_again`."""
        known = self._read()
        if name in known:
            end_process(known[name]["pid"], known[name]["started"], timeout_s=timeout_s, kill=kill)

    def end_session(self, name: str) -> None:
        """End a process and all that it started and that did not leave its session."""
        known = self._read().get(name)
        if known is None:
            return
        self.end(name)
        if started(known["pid"]):
            return  # another's by now; while one of ours lives, nobody gets this pid
        for pid in _session(known["pid"]):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def end_all(self) -> None:
        """End them, and what they started, in the order opposite to their start."""
        for name in reversed(list(self._read())):
            self.end_session(name)

    def log_tail(self, name: str, lines: int = 15) -> str:
        """The end of a process's log, for an error message."""
        path = self.folder / "logs" / f"{name}.log"
        return "\n".join(path.read_text(errors="replace").splitlines()[-lines:]) if path.exists() else ""

    def _start(self, name: str, command: list[str], namespace: str, environment: dict[str, str], log: Any) -> int:
        process = self._popen(command, namespace, environment, log)
        self._remember(name, process, command, namespace)
        return process.pid

    def _popen(
        self, command: list[str], namespace: str, environment: dict[str, str], log: Any
    ) -> "subprocess.Popen[bytes]":
        # Not `ip netns exec`: that mounts /sys anew and hides the cgroups from the kubelet.
        process = subprocess.Popen(
            [*GATE, "nsenter", f"--net=/run/netns/{namespace}", *command],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=None if log is None else subprocess.STDOUT,
            env=os.environ | environment,
            start_new_session=True,
        )
        _STARTED.append(process)
        return process

    def _remember(self, name: str, process: "subprocess.Popen[bytes]", command: list[str], namespace: str) -> None:
        known = self._read()
        known.pop(name, None)
        known[name] = {
            "pid": process.pid,
            "started": started(process.pid),
            "namespace": namespace,
            "command": command,
        }
        temporary = self._file.with_suffix(".tmp")
        temporary.write_text(json.dumps(known))
        temporary.replace(self._file)
        assert process.stdin is not None
        process.stdin.write(b"go\n")
        process.stdin.close()

    def _read(self) -> dict[str, dict[str, Any]]:
        return json.loads(self._file.read_text()) if self._file.exists() else {}


def end_process(pid: int, start: str, *, timeout_s: float, kill: bool = False) -> None:
    """End a process, unless the pid is another's by now; see `started`."""
    for number in (signal.SIGKILL,) if kill else (signal.SIGTERM, signal.SIGKILL):
        if not start or started(pid) != start:
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
        deadline = time.monotonic() + timeout_s
        while started(pid) == start and time.monotonic() < deadline:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
            time.sleep(0.05)


def started(pid: int) -> str:
    """Start time of a process that is no zombie, in clock ticks; empty: there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    return "" if fields[0] == "Z" else fields[19]


def _session(leader: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if path.read_text().rpartition(")")[2].split()[3] == str(leader):
                found.append(int(path.parent.name))
    return found


def run(*command: str, namespace: str | None = None, text: str | None = None) -> str:
    """Run a short command, `text` is its input, and give its output; its failure shows what it said."""
    prefix = ["nsenter", f"--net=/run/netns/{namespace}"] if namespace else []
    done = subprocess.run([*prefix, *command], input=text, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr.strip()[-2000:]}")
    return done.stdout
