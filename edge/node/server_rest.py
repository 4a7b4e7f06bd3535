"""The v2 protocol over HTTP: JSON and the binary tensor extension; /status and /metrics beside it."""

import re
from collections.abc import Awaitable, Callable, Mapping

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from edge.node import rest_body, status_page
from edge.node.access import NO_TOKEN, Access
from edge.node.agent import Agent
from edge.node.http_messages import Gate, Handler, Request, Response
from edge.node.inference import Inference, server_metadata
from edge.node.metrics import Metrics
from edge.node.tensors import ProtocolError

_MODEL = re.compile(r"/v2/models/(?P<name>[^/]+)(?:/versions/(?P<version>[^/]+))?(?P<what>/ready|/infer)?")
Named = tuple[str, str]  # model and version in the path; empty: not there
Answer = Callable[[Request, Named], Awaitable[Response]]


def gate(access: Access) -> Gate:
    """Refuses a request without the token before its body is read."""

    def refuse(path: str, headers: Mapping[str, str]) -> Response | None:
        if access.allows(path, headers):
            return None
        return Response.json({"error": NO_TOKEN}, 401, {"WWW-Authenticate": "Bearer"})

    return refuse


def build_app(agent: Agent, inference: Inference, access: Access, metrics: Metrics) -> Handler:
    """The HTTP application of one node."""
    serving, guard = agent.serving, gate(access)

    async def live(request: Request, named: Named) -> Response:
        return Response.json({"live": True})

    async def ready(request: Request, named: Named) -> Response:
        is_ready = serving.engine is not None
        return Response.json({"ready": is_ready}, 200 if is_ready else 503)

    async def server(request: Request, named: Named) -> Response:
        return Response.json(server_metadata())

    async def model(request: Request, named: Named) -> Response:
        return Response.json(inference.metadata(*named))

    async def model_ready(request: Request, named: Named) -> Response:
        inference.engine(*named)
        return Response.json({"ready": True})

    async def index(request: Request, named: Named) -> Response:
        return Response.json(inference.index())

    async def infer(request: Request, named: Named) -> Response:
        with metrics.request("rest"):
            return await _infer(request, named)

    async def status(request: Request, named: Named) -> Response:
        if status_page.prefers_page(request.headers.get("accept")):
            headers = {"Content-Type": "text/html; charset=utf-8"} | status_page.HEADERS
            return Response(status_page.render(agent.describe()).encode(), headers=headers)
        return Response.json(agent.describe(), headers={"Vary": "Accept"})

    async def scrape(request: Request, named: Named) -> Response:
        return Response(generate_latest(metrics.registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def _infer(request: Request, named: Named) -> Response:
        engine = inference.engine(*named)
        if request.headers.get("content-encoding", "identity") != "identity":
            raise ProtocolError("bad_header", "the body is compressed; send it as it is", 415)
        asked = rest_body.parse(request.body, request.headers.get(rest_body.HEADER.lower()))
        body, headers = rest_body.encode(await inference.infer(engine, asked), asked)
        return Response(body, headers=headers)

    routes: dict[str, tuple[str, Answer]] = {
        "/v2": ("GET", server),
        "/v2/models": ("GET", index),
        "/v2/repository/index": ("POST", index),
        "/v2/health/live": ("GET", live),
        "/v2/health/ready": ("GET", ready),
        "/status": ("GET", status),
        "/metrics": ("GET", scrape),
    }
    of_model = {None: ("GET", model), "/ready": ("GET", model_ready), "/infer": ("POST", infer)}

    async def handle(request: Request) -> Response:
        if (refusal := guard(request.path, request.headers)) is not None:  # one that came behind another
            return refusal
        found = _MODEL.fullmatch(request.path)
        route = of_model[found["what"]] if found else routes.get(request.path)
        if route is None:
            return Response.json({"error": "there is nothing at this path; the protocol begins at /v2"}, 404)
        method, answer = route
        if request.method != method and (request.method, method) != ("HEAD", "GET"):
            return Response.json({"error": f"the method here is {method}"}, 405, {"Allow": method})
        try:
            return await answer(request, (found["name"], found["version"] or "") if found else ("", ""))
        except ProtocolError as error:
            headers = {"Retry-After": "1"} if error.status == 429 else {}
            return Response.json({"error": str(error)}, error.status, headers)

    return handle
