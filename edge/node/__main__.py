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
from edge.node.active import PROBATION_S
from edge.node.agent import Agent, Settings
from edge.node.feedback import Feedback
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
    add("--probation-s", type=float, default=PROBATION_S, help="a new release must hold out so long to be trusted")
    add("--forget", type=int, metavar="VERSION", help="try this version again, though it was refused; for one start")
    add("--ca", type=Path, help="certificates that an https origin may be signed by; absent: the system's")
    add_feedback_options(add)
    add("--update-memory-mb", type=int, default=1024, help="the most that fetching and trying a release may allocate")
    add_options(parser)
    return parser


async def _run(options: argparse.Namespace) -> None:
    access, settings = access_of(options), _settings(options)
    serving, metrics, decoder = Serving(), Metrics(), Decoder()
    failpoint = _failpoint(os.environ.get("EDGEDISTILL_FAILPOINT", ""))
    state = State(options.state, failpoint)
    if options.forget is not None:
        state.forget(options.forget)
    agent = Agent(settings, state, serving, failpoint)
    metrics.watch(agent)
    feedback = _feedback(options, agent, metrics)
    # All that can fail by itself comes before the boot, which is counted until the release has proven itself.
    listener = _listen(options.listen, options.http_port)
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, _stop, agent, stopping)
    async with contextlib.AsyncExitStack() as ending:  # the last one first
        ending.callback(decoder.close)
        booting = asyncio.create_task(asyncio.to_thread(agent.boot))
        ending.push_async_callback(_close, agent, booting)
        ending.callback(serving.close)
        await asyncio.sleep(0)
        from edge.node.server_grpc import start as start_grpc  # 0.15 s of imports, while the student is compiled

        await booting
        if stopping.is_set():
            return
        feedback.start()
        ending.callback(feedback.stop)
        inference = Inference(serving, decoder)
        grpc_address = address(options.listen, options.grpc_port)
        grpc_server, grpc_port = await start_grpc(inference, metrics, access, grpc_address)
        ending.push_async_callback(grpc_server.stop, 5)
        http = HttpServer(build_app(agent, inference, access, metrics), gate=gate(access))
        await http.start(listener, access.tls)
        ending.push_async_callback(http.stop)
        ending.callback(asyncio.create_task(access.watch(options.poll_s)).cancel)
        _tell(options.listen, listener.getsockname()[1], grpc_port, is_secure=access.tls is not None)
        await _rounds(agent, stopping)


def _settings(options: argparse.Namespace) -> Settings:
    if options.root is None:
        raise NodeError("no root of trust is given; copy the operator's 1.root.json here and give --root FILE")
    try:
        root = options.root.read_bytes()
    except OSError as error:
        raise NodeError(
            f"the root of trust {options.root} cannot be read: {error.strerror}; give --root FILE"
        ) from error
    return Settings(
        *(options.node_name, options.name, options.releases, root, options.version_file, options.version),
        poll_s=options.poll_s,
        ca=options.ca,
        memory_bytes=options.update_memory_mb << 20,
        probation_s=options.probation_s,
    )


def _feedback(options: argparse.Namespace, agent: Agent, metrics: Metrics) -> Feedback:
    feedback = feedback_from(options, agent.serving, agent.status.event)
    agent.also = feedback.shown
    metrics.registry.register(feedback)
    agent.serving.observers.append(feedback.observe)
    return feedback


async def _close(agent: Agent, booting: "asyncio.Task[None]") -> None:
    """Who is told to end, or finds its port taken, has not died; a boot that raised may be the release's fault."""
    await asyncio.wait([booting])  # it writes the pointer, too
    if booting.exception() is None:
        agent.active.close()


def _tell(host: str, http_port: int, grpc_port: int, *, is_secure: bool) -> None:
    secure = "s" if is_secure else ""
    http, grpc = address(host, http_port), address(host, grpc_port)
    print(f"serving on http{secure}://{http} grpc{secure}://{grpc}", flush=True)


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
