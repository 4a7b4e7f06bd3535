"""The rollout controller, the hook that waits for it, and the question that `helm test` asks a node.

python -m edge.rollout run --release student-edge --namespace default
"""

import argparse
import logging
import signal
import sys
import threading
from pathlib import Path

from edgedistill.errors import EdgeDistillError

_PATIENCE_S = 60.0  # a pod's network policy may be in force only moments after its start


def main() -> None:
    """`run` goes on until SIGTERM; `wait` and `ask` end non-zero when it did not go well, with the reason."""
    options = _parser().parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        options.run(options)
    except EdgeDistillError as error:
        sys.exit(f"edge.rollout: {error}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m edge.rollout", description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(required=True, metavar="run|wait|ask")
    run = commands.add_parser("run", help="control the rollout until SIGTERM")
    run.set_defaults(run=_run)
    wait = commands.add_parser("wait", help="until the target is out; 1 when it was stopped")
    wait.set_defaults(run=_wait)
    for one in (run, wait):
        one.add_argument("--release", required=True, help="name of the chart's release")
        one.add_argument("--namespace", required=True)
    run.add_argument("--poll-s", type=float, default=3.0, help="seconds between two looks")
    run.add_argument("--listen", default="127.0.0.1", help="address of /healthz and /metrics")
    run.add_argument("--port", type=int, default=8082, help="of /healthz and /metrics; 0: any free one")
    run.add_argument("--node-certificate", type=Path, help="PEM: the nodes' TLS certificate, or who signed it")
    wait.add_argument("--timeout-s", type=float, default=0.0, help="0: as long as the waves can take")
    ask = commands.add_parser("ask", help="ask a node for a real answer, and check it")
    ask.set_defaults(run=_ask)
    ask.add_argument("--url", required=True, help="of the node, for example http://student-edge:8080")
    ask.add_argument("--name", required=True, help="of the releases")
    ask.add_argument("--token-file", type=Path, help="file with the nodes' token")
    ask.add_argument("--certificate", type=Path, help="PEM: the node's TLS certificate, or who signed it")
    ask.add_argument("--timeout-s", type=float, default=60.0, help="a right answer is waited for so long")
    return parser


def _run(options: argparse.Namespace) -> None:
    from edge.rollout.controller import control
    from edge.rollout.fleet import Fleet
    from edge.rollout.metrics import Metrics, Server

    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    metrics = Metrics(poll_s=options.poll_s)
    fleet = Fleet(options.release, options.namespace, certificate=options.node_certificate)
    server = Server(metrics, options.listen, options.port)
    try:
        control(fleet, metrics, poll_s=options.poll_s, stopping=stopping)
    finally:
        server.close()


def _wait(options: argparse.Namespace) -> None:
    from edge.rollout.fleet import Fleet
    from edge.rollout.watch import wait

    fleet = Fleet(options.release, options.namespace)
    sys.stdout.write(wait(fleet, timeout_s=options.timeout_s, patience_s=_PATIENCE_S) + "\n")


def _ask(options: argparse.Namespace) -> None:
    from edge.rollout.ask import ask

    said = ask(
        options.url,
        options.name,
        token_file=options.token_file,
        certificate=options.certificate,
        timeout_s=options.timeout_s,
    )
    sys.stdout.write(said + "\n")


if __name__ == "__main__":
    main()
