"""The v2 protocol over HTTP: JSON and the binary tensor extension; /status and /metrics beside it."""

from collections.abc import Awaitable, Callable

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from edge.node import rest_body
from edge.node.agent import Agent
from edge.node.inference import MAX_BODY, Inference, server_metadata
from edge.node.metrics import Metrics
from edge.node.tensors import ProtocolError

Handler = Callable[[Request], Awaitable[Response]]


def build_app(agent: Agent, inference: Inference, metrics: Metrics) -> Starlette:
    """The HTTP application of one node."""
    serving = agent.serving

    async def live(request: Request) -> Response:
        return JSONResponse({"live": True})

    async def ready(request: Request) -> Response:
        is_ready = serving.engine is not None
        return JSONResponse({"ready": is_ready}, 200 if is_ready else 503)

    async def server(request: Request) -> Response:
        return JSONResponse(server_metadata())

    async def model(request: Request) -> Response:
        return JSONResponse(inference.metadata(*_named(request)))

    async def model_ready(request: Request) -> Response:
        inference.engine(*_named(request))
        return JSONResponse({"ready": True})

    async def index(request: Request) -> Response:
        return JSONResponse(inference.index())

    async def infer(request: Request) -> Response:
        with metrics.seconds.labels("rest").time():
            try:
                response = await _infer(request)
            except ProtocolError as error:
                metrics.refused("rest", error.reason)
                raise
        metrics.requests.labels("rest", "answered").inc()
        return response

    async def status(request: Request) -> Response:
        return JSONResponse(agent.describe())

    async def scrape(request: Request) -> Response:
        metrics.release.set(serving.engine.release.version if serving.engine else 0)
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    async def _infer(request: Request) -> Response:
        engine = inference.engine(*_named(request))
        encoding = request.headers.get("Content-Encoding", "identity")
        if encoding != "identity":
            raise ProtocolError("bad_header", "the body is compressed; send it as it is", 415)
        asked = rest_body.parse(await _body(request), request.headers.get(rest_body.HEADER))
        body, headers = rest_body.encode(await inference.infer(engine, asked), asked)
        return Response(body, headers=headers)

    async def refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, ProtocolError)
        return JSONResponse({"error": str(error)}, error.status)

    one = "/v2/models/{name}"
    routes = [
        Route("/v2", server),
        Route("/v2/models", index),
        Route("/v2/repository/index", index, methods=["POST"]),
        Route("/v2/health/live", live),
        Route("/v2/health/ready", ready),
        Route("/status", status),
        Route("/metrics", scrape),
    ]
    for prefix in (one, one + "/versions/{version}"):
        routes += [
            Route(prefix, model),
            Route(f"{prefix}/ready", model_ready),
            Route(f"{prefix}/infer", infer, methods=["POST"]),
        ]
    return Starlette(routes=routes, exception_handlers={ProtocolError: refused})


def _named(request: Request) -> tuple[str, str]:
    return request.path_params["name"], request.path_params.get("version", "")


async def _body(request: Request) -> bytes:
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > MAX_BODY:
            raise ProtocolError("too_large", f"the body is over {MAX_BODY} bytes", 413, "RESOURCE_EXHAUSTED")
        parts.append(part)
    return b"".join(parts)
