"""Start and end the testbed's processes; each is remembered by pid and start time, so another run can end them."""

import contextlib
import json
import os
import signal
import subprocess
import time
from pathlib import Path


class Processes:
    """What was started, in a file of the testbed's folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._file = folder / "processes.json"

    def start(self, name: str, command: list[str], *, namespace: str, environment: dict[str, str] | None = None) -> int:
        """Start a process in a network namespace; its output goes to `logs/<name>.log`."""
        logs = self.folder / "logs"
        logs.mkdir(parents=True, exist_ok=True)
        with (logs / f"{name}.log").open("ab") as log:
            # Not `ip netns exec`: that mounts /sys anew and hides the cgroups from the kubelet.
            process = subprocess.Popen(
                ["nsenter", f"--net=/run/netns/{namespace}", *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=os.environ | (environment or {}),
                start_new_session=True,
            )
        known = self._read()
        known[name] = [process.pid, _started(process.pid)]
        self._file.write_text(json.dumps(known))
        return process.pid

    def is_running(self, name: str) -> bool:
        """Whether the process is the one that was started, and lives."""
        pid, started = self._read().get(name, (0, ""))
        return bool(pid) and _started(pid) == started

    def end(self, name: str, *, timeout_s: float = 15) -> None:
        """SIGTERM, then SIGKILL."""
        known = self._read()
        if name not in known:
            return
        pid, started = known.pop(name)
        for number in (signal.SIGTERM, signal.SIGKILL):
            if _started(pid) != started:
                break
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
            deadline = time.monotonic() + timeout_s
            while _started(pid) == started and time.monotonic() < deadline:
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(pid, os.WNOHANG)
                time.sleep(0.05)
        self._file.write_text(json.dumps(known))

    def end_all(self) -> None:
        """End them in the order opposite to their start."""
        for name in reversed(list(self._read())):
            self.end(name)

    def log_tail(self, name: str, lines: int = 15) -> str:
        """The end of a process's log, for an error message."""
        path = self.folder / "logs" / f"{name}.log"
        return "\n".join(path.read_text(errors="replace").splitlines()[-lines:]) if path.exists() else ""

    def _read(self) -> dict[str, tuple[int, str]]:
        return json.loads(self._file.read_text()) if self._file.exists() else {}


def _started(pid: int) -> str:
    """Start time of a process that is no zombie, in clock ticks; empty: there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    return "" if fields[0] == "Z" else fields[19]


def run(*command: str, namespace: str | None = None, text: str | None = None) -> str:
    """Run a short command, `text` is its input, and give its output; its failure shows what it said."""
    prefix = ["nsenter", f"--net=/run/netns/{namespace}"] if namespace else []
    done = subprocess.run([*prefix, *command], input=text, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr.strip()[-2000:]}")
    return done.stdout
