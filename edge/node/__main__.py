"""An edge node: it fetches, verifies, tries and serves the student, and keeps serving whatever happens.

python -m edge.node --releases URL-or-folder --root root.json --state DIR --name demo
"""

import argparse
import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path

if __name__ == "__main__":
    # OpenVINO imports its model converter where it can, and TensorFlow's front end with it: 6 MB and 0.1 s.
    sys.modules["openvino.tools.ovc"] = None  # type: ignore[assignment]

import uvloop

from edge.node.access import access_of, add_options, address
from edge.node.agent import Agent, Settings
from edge.node.feedback import add_options as add_feedback_options
from edge.node.feedback import from_options as feedback_from
from edge.node.http_server import HttpServer
from edge.node.inference import Inference
from edge.node.metrics import Metrics
from edge.node.pictures import Decoder
from edge.node.server_rest import build_app, gate
from edge.node.serving import Serving
from edge.node.state import State
from edgedistill.errors import EdgeDistillError, NodeError


def main() -> None:
    """Run a node until SIGTERM or SIGINT."""
    options = _parser().parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_run(options))
    except EdgeDistillError as error:
        sys.exit(f"edge.node: {error}")
    except OSError as error:
        sys.exit(f"edge.node: {error}; choose other ports with --http-port and --grpc-port")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m edge.node", description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--releases", required=True, help="folder or URL that holds metadata/ and targets/")
    add("--root", type=Path, help="the operator's 1.root.json: the root of trust, never fetched")
    add("--state", type=Path, required=True, help="folder of this node's own")
    add("--name", required=True, help="of the releases, for example demo")
    add("--version-file", type=Path, help="file that holds the version to serve; absent: wait")
    add("--version", type=int, default=0, help="version to serve; 0: the newest")
    add("--http-port", type=int, default=8080, help="0: any free one")
    add("--grpc-port", type=int, default=8081, help="0: any free one")
    add("--node-name", default=socket.gethostname(), help="shown in /status")
    add("--poll-s", type=float, default=5.0, help="seconds between looks at the wanted version, on average")
    add("--forget", type=int, metavar="VERSION", help="try this version again, though it was refused; for one start")
    add("--ca", type=Path, help="certificates that an https origin may be signed by; absent: the system's")
    add_feedback_options(add)
    add("--update-memory-mb", type=int, default=1024, help="the most that fetching and trying a release may allocate")
    add_options(parser)
    return parser


async def _run(options: argparse.Namespace) -> None:
    access = access_of(options)
    if options.root is None:
        raise NodeError("no root of trust is given; copy the operator's 1.root.json here and give --root FILE")
    try:
        root = options.root.read_bytes()
    except OSError as error:
        raise NodeError(
            f"the root of trust {options.root} cannot be read: {error.strerror}; give --root FILE"
        ) from error
    settings = Settings(
        *(options.node_name, options.name, options.releases, root, options.version_file, options.version),
        poll_s=options.poll_s,
        ca=options.ca,
        memory_bytes=options.update_memory_mb << 20,
    )
    serving, metrics, decoder = Serving(), Metrics(), Decoder()
    inference = Inference(serving, decoder)
    failpoint = _failpoint(os.environ.get("EDGEDISTILL_FAILPOINT", ""))
    state = State(options.state, failpoint)
    if options.forget is not None:
        state.forget(options.forget)
    agent = Agent(settings, state, serving, failpoint)
    metrics.watch(agent)
    booting = asyncio.create_task(asyncio.to_thread(agent.boot))
    await asyncio.sleep(0)
    from edge.node.server_grpc import start as start_grpc  # 0.15 s of imports, while the student is compiled

    await booting
    feedback = feedback_from(options, serving, agent.status.event)
    agent.also = feedback.shown
    metrics.registry.register(feedback)
    serving.observers.append(feedback.observe)
    feedback.start()
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, _stop, agent, stopping)
    listener = _listen(options.listen, options.http_port)
    grpc_server, grpc_port = await start_grpc(inference, metrics, access, address(options.listen, options.grpc_port))
    http = HttpServer(build_app(agent, inference, access, metrics), gate=gate(access))
    await http.start(listener, access.tls)
    watching = asyncio.create_task(access.watch(options.poll_s))
    http_port = listener.getsockname()[1]
    secure = "s" if access.tls else ""
    print(
        f"serving on http{secure}://{address(options.listen, http_port)}"
        f" grpc{secure}://{address(options.listen, grpc_port)}",
        flush=True,
    )
    try:
        await _rounds(agent, stopping)
    finally:
        watching.cancel()
        await http.stop()
        await grpc_server.stop(5)
        feedback.stop()
        serving.close()
        agent.active.close()
        decoder.close()


def _stop(agent: Agent, stopping: asyncio.Event) -> None:
    agent.stopping.set()  # a round that waits for its child
    stopping.set()


async def _rounds(agent: Agent, stopping: asyncio.Event) -> None:
    pause_s = agent.origin.first_pause_s()
    while not stopping.is_set():
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stopping.wait(), pause_s)
            break
        await asyncio.to_thread(agent.step)
        pause_s = agent.pause_s()


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # The protocol is named: asyncio sets TCP_NODELAY only then, and without it each answer waits 40 ms for an ACK.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((host, port))
    return listener


def _failpoint(name: str) -> Callable[[str], None]:
    """Tests end the process between two steps of an update; nobody else sets the variable."""

    def reached(point: str) -> None:
        if point == name:
            os.kill(os.getpid(), signal.SIGKILL)

    return reached


if __name__ == "__main__":
    main()
