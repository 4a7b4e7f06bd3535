"""Stands between the submitter and Triton: whoever of them ends, however, nothing of the server is left.

    python triton_keeper.py SUBMITTER_PID tritonserver ARGUMENT...

Triton's python back end answers from a process of its own, the stub, which looks for its server now and then. A server
that was killed while it held their shared lock leaves a stub that waits for ever; so the whole group is ended here.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys

_PR_SET_PDEATHSIG = 1
_GRACE_S = 8.0  # below the time that the submitter waits before it kills this process


def main() -> None:
    """Run the server until it ends, this process is told to end, or the submitter is gone."""
    submitter, command = int(sys.argv[1]), sys.argv[2:]

    def ended(*_: object) -> None:
        raise SystemExit(0)

    signal.signal(signal.SIGTERM, ended)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the submitter, which ends the server when it is done
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != submitter:
        sys.exit("the submitter has ended")
    server = subprocess.Popen(command, process_group=0)
    try:
        sys.exit(server.wait())
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        server.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(_GRACE_S if os.getppid() == submitter else 0)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)


if __name__ == "__main__":
    main()
