"""The rollout controller, and the hook that waits for it.

python -m edge.rollout run --release student-edge --namespace default
"""

import argparse
import logging
import signal
import sys
import threading

from edge.rollout.controller import control
from edge.rollout.fleet import Fleet
from edge.rollout.watch import wait
from edgedistill.errors import EdgeDistillError


def main() -> None:
    """`run` controls until SIGTERM; `wait` ends when the target is out, non-zero when it was stopped."""
    parser = argparse.ArgumentParser(prog="python -m edge.rollout", description="The rollout controller.")
    parser.add_argument("command", choices=("run", "wait"))
    parser.add_argument("--release", required=True, help="name of the chart's release")
    parser.add_argument("--namespace", required=True)
    parser.add_argument("--poll-s", type=float, default=3.0, help="seconds between two looks")
    parser.add_argument("--timeout-s", type=float, default=1800.0, help="of wait")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        fleet = Fleet(options.release, options.namespace)
        if options.command == "wait":
            sys.stdout.write(wait(fleet, timeout_s=options.timeout_s) + "\n")
            return
        stopping = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stopping.set())
        control(fleet, poll_s=options.poll_s, stopping=stopping)
    except EdgeDistillError as error:
        sys.exit(f"edge.rollout: {error}")


if __name__ == "__main__":
    main()
