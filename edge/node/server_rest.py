"""The v2 protocol over HTTP: JSON and the binary tensor extension; /status and /metrics beside it."""

import json
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from edge.node import inference
from edge.node.agent import Agent
from edge.node.inference import OUTPUT, ProtocolError, Tensor
from edge.node.metrics import Metrics

HEADER = "Inference-Header-Content-Length"
Handler = Callable[[Request], Awaitable[Response]]


def build_app(agent: Agent, metrics: Metrics) -> Starlette:
    """The HTTP application of one node."""
    serving = agent.serving

    async def live(request: Request) -> Response:
        return JSONResponse({"live": True})

    async def ready(request: Request) -> Response:
        is_ready = serving.engine is not None
        return JSONResponse({"ready": is_ready}, 200 if is_ready else 503)

    async def server(request: Request) -> Response:
        return JSONResponse(inference.server_metadata())

    async def model(request: Request) -> Response:
        return JSONResponse(inference.metadata(_engine(request)))

    async def model_ready(request: Request) -> Response:
        _engine(request)
        return JSONResponse({"ready": True})

    async def infer(request: Request) -> Response:
        with metrics.seconds.labels("rest").time():
            try:
                response = await _infer(request)
            except ProtocolError:
                metrics.requests.labels("rest", "refused").inc()
                raise
        metrics.requests.labels("rest", "answered").inc()
        return response

    async def status(request: Request) -> Response:
        return JSONResponse(agent.describe())

    async def scrape(request: Request) -> Response:
        metrics.release.set(serving.engine.release.version if serving.engine else 0)
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    def _engine(request: Request) -> Any:
        return inference.active_engine(
            serving, request.path_params["name"], str(request.path_params.get("version", ""))
        )

    async def _infer(request: Request) -> Response:
        engine = _engine(request)
        document, tensors = _parse(await _body(request), request.headers.get(HEADER))
        logits = await inference.infer(serving, engine, tensors)
        head = {"model_name": engine.release.name, "model_version": str(engine.release.version)}
        if isinstance(document.get("id"), str):
            head["id"] = document["id"]
        return _answer(head, logits, binary=_wants_binary(document))

    async def refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, ProtocolError)
        return JSONResponse({"error": str(error)}, error.status)

    one = "/v2/models/{name}"
    routes = [
        Route("/v2", server),
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


async def _body(request: Request) -> bytes:
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > inference.MAX_BODY:
            raise ProtocolError(f"the body is over {inference.MAX_BODY} bytes", status=413, code="RESOURCE_EXHAUSTED")
        parts.append(part)
    return b"".join(parts)


def _parse(body: bytes, header: str | None) -> tuple[dict[str, Any], list[Tensor]]:
    """The JSON part, and the inputs with the binary data that follow it."""
    length = len(body)
    if header is not None:
        if not header.isdecimal() or int(header) > len(body):
            raise ProtocolError(f"{HEADER} is {header!r}, the body has {len(body)} bytes")
        length = int(header)
    try:
        document = json.loads(body[:length])
        inputs = document["inputs"]
        tensors, at = [], length
        for one in inputs:
            size = one.get("parameters", {}).get("binary_data_size")
            raw = None
            if size is not None:
                if not isinstance(size, int) or size < 0 or at + size > len(body):
                    raise ProtocolError(f"binary_data_size is {size!r}, {len(body) - at} bytes are left")
                raw, at = body[at : at + size], at + size
            shape = tuple(int(n) for n in one["shape"])
            tensors.append(Tensor(str(one["name"]), str(one["datatype"]), shape, raw, _flat(one.get("data", ()))))
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError, OverflowError):
        raise ProtocolError("the request is no v2 inference request; expected JSON with inputs") from None
    return document, tensors


def _flat(data: Any) -> Any:
    """v2 allows nested lists; pictures in them are flattened by numpy, strings are left alone."""
    if isinstance(data, list) and data and isinstance(data[0], list):
        return np.asarray(data).reshape(-1)
    return data


def _wants_binary(document: dict[str, Any]) -> bool:
    outputs = document.get("outputs") or [{}]
    asked = [one.get("parameters", {}).get("binary_data") for one in outputs if isinstance(one, dict)]
    default = (document.get("parameters") or {}).get("binary_data_output", False)
    return bool(asked[0]) if asked and asked[0] is not None else bool(default)


def _answer(head: dict[str, Any], logits: NDArray[np.float32], *, binary: bool) -> Response:
    output: dict[str, Any] = {"name": OUTPUT, "datatype": "FP32", "shape": list(logits.shape)}
    if not binary:
        return JSONResponse(head | {"outputs": [output | {"data": logits.ravel().tolist()}]})
    raw = logits.tobytes()
    text = json.dumps(head | {"outputs": [output | {"parameters": {"binary_data_size": len(raw)}}]}).encode()
    return Response(text + raw, media_type="application/octet-stream", headers={HEADER: str(len(text))})
