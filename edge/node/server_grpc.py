"""The v2 protocol over gRPC."""

import json
from typing import Any

import grpc

from edge.node.access import Access
from edge.node.grpc_access import TokenInterceptor, add_port
from edge.node.grpc_calls import handlers
from edge.node.inference import (
    MAX_BODY,
    MAX_OUTPUTS,
    Answer,
    Inference,
    InferRequest,
    Wanted,
    server_metadata,
)
from edge.node.metrics import Metrics
from edge.node.protocol import open_inference_pb2 as pb
from edge.node.tensors import ProtocolError, Tensor

_CONTENTS = {"UINT8": "uint_contents", "BYTES": "bytes_contents"}
OPTIONS = {
    "grpc.so_reuseport": 0,
    "grpc.max_receive_message_length": MAX_BODY,
    "grpc.max_metadata_size": 16 << 10,
    "grpc.max_allowed_incoming_connections": 256,  # more are closed at once
    "grpc.max_concurrent_streams": 64,  # of one connection
    "grpc.server_handshake_timeout_ms": 10_000,  # TLS, and the client's first frame
    "grpc.max_connection_idle_ms": 75_000,  # without a call
    "grpc.max_connection_age_ms": 600_000,  # then the client is asked to open another: ends messages that never end
    "grpc.max_connection_age_grace_ms": 30_000,
    "grpc.keepalive_time_ms": 60_000,  # a peer that is gone is noticed
    "grpc.keepalive_timeout_ms": 20_000,
}


class GrpcServer:
    """Answers GRPCInferenceService."""

    def __init__(self, inference: Inference, metrics: Metrics) -> None:
        self._inference, self._metrics = inference, metrics

    async def ServerLive(self, request: Any, context: Any) -> Any:  # noqa: N802 - the protocol's names
        return pb.ServerLiveResponse(live=True)

    async def ServerReady(self, request: Any, context: Any) -> Any:  # noqa: N802
        return pb.ServerReadyResponse(ready=self._inference.serving.engine is not None)

    async def ServerMetadata(self, request: Any, context: Any) -> Any:  # noqa: N802
        return pb.ServerMetadataResponse(**server_metadata())

    async def ModelReady(self, request: Any, context: Any) -> Any:  # noqa: N802
        try:
            self._inference.engine(request.name, request.version)
        except ProtocolError:
            return pb.ModelReadyResponse(ready=False)
        return pb.ModelReadyResponse(ready=True)

    async def ModelMetadata(self, request: Any, context: Any) -> Any:  # noqa: N802
        told = self._inference.metadata(request.name, request.version)
        parameters = {name: _parameter(value) for name, value in told.pop("parameters").items()}
        return pb.ModelMetadataResponse(**told, parameters=parameters)

    async def RepositoryIndex(self, request: Any, context: Any) -> Any:  # noqa: N802
        models = [pb.RepositoryIndexResponse.ModelIndex(**one) for one in self._inference.index()]
        return pb.RepositoryIndexResponse(models=models)

    async def ModelInfer(self, request: Any, context: Any) -> Any:  # noqa: N802
        with self._metrics.request("grpc"):
            engine = self._inference.engine(request.model_name, request.model_version)
            return _response(await self._inference.infer(engine, _asked(request)))


async def start(inference: Inference, metrics: Metrics, access: Access, address: str) -> tuple[Any, int]:
    """Listen on host:port (0: any free one); gives the server and its port. Raises OSError when it cannot listen."""
    guards = [TokenInterceptor(access)] if access.needs_token else []
    server = grpc.aio.server(interceptors=guards, options=list(OPTIONS.items()))
    server.add_generic_rpc_handlers([handlers(GrpcServer(inference, metrics))])
    try:
        port = add_port(server, address, access)
    except RuntimeError as error:
        raise OSError(f"cannot listen on {address}: {error}") from error
    await server.start()
    return server, port


def _asked(request: Any) -> InferRequest:
    outputs = [Wanted(one.name, _values(one.parameters).get("classification")) for one in request.outputs[:MAX_OUTPUTS]]
    return InferRequest(_tensors(request), outputs, _values(request.parameters), request.id)


def _tensors(request: Any) -> list[Tensor]:
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        raise ProtocolError("bad_length", f"{len(raw)} raw contents for {len(request.inputs)} inputs")
    tensors = []
    for i, one in enumerate(request.inputs[:2]):  # a second one is refused anyway
        values = () if raw else getattr(one.contents, _CONTENTS.get(one.datatype, "bytes_contents"))
        tensors.append(Tensor(one.name, one.datatype, tuple(one.shape), raw[i] if raw else None, values))
    return tensors


def _response(answer: Answer) -> Any:
    tensor = pb.ModelInferResponse.InferOutputTensor
    return pb.ModelInferResponse(
        model_name=answer.engine.release.name,
        model_version=str(answer.engine.release.version),
        id=answer.id,
        parameters={name: _parameter(value) for name, value in answer.parameters.items()},
        outputs=[tensor(name=one.name, datatype=one.datatype, shape=one.shape) for one in answer.outputs],
        raw_output_contents=[one.raw() for one in answer.outputs],
    )


def _values(parameters: Any) -> dict[str, Any]:
    return {
        name: getattr(value, value.WhichOneof("parameter_choice") or "", None) for name, value in parameters.items()
    }


def _parameter(value: Any) -> Any:
    """Text as it is, a list as JSON: the protocol has no list."""
    return pb.InferParameter(string_param=value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
