"""The v2 protocol over gRPC."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import grpc

from edge.node import inference
from edge.node.agent import Agent
from edge.node.inference import OUTPUT, ProtocolError, Tensor
from edge.node.metrics import Metrics
from edge.node.protocol import open_inference_pb2 as pb
from edge.node.protocol import open_inference_pb2_grpc as pb_grpc

_CONTENTS = {"UINT8": "uint_contents", "BYTES": "bytes_contents"}


class GrpcServer(pb_grpc.GRPCInferenceServiceServicer):
    """Answers GRPCInferenceService from the agent's active engine."""

    def __init__(self, agent: Agent, metrics: Metrics) -> None:
        self._serving, self._metrics = agent.serving, metrics

    async def ServerLive(self, request: Any, context: Any) -> Any:  # noqa: N802 - the protocol's names
        return pb.ServerLiveResponse(live=True)

    async def ServerReady(self, request: Any, context: Any) -> Any:  # noqa: N802
        return pb.ServerReadyResponse(ready=self._serving.engine is not None)

    async def ServerMetadata(self, request: Any, context: Any) -> Any:  # noqa: N802
        return pb.ServerMetadataResponse(**inference.server_metadata())

    async def ModelReady(self, request: Any, context: Any) -> Any:  # noqa: N802
        try:
            inference.active_engine(self._serving, request.name, request.version)
        except ProtocolError:
            return pb.ModelReadyResponse(ready=False)
        return pb.ModelReadyResponse(ready=True)

    async def ModelMetadata(self, request: Any, context: Any) -> Any:  # noqa: N802
        async def answer() -> Any:
            engine = inference.active_engine(self._serving, request.name, request.version)
            return pb.ModelMetadataResponse(**inference.metadata(engine))

        return await _typed(answer, context)

    async def ModelInfer(self, request: Any, context: Any) -> Any:  # noqa: N802
        async def answer() -> Any:
            engine = inference.active_engine(self._serving, request.model_name, request.model_version)
            logits = await inference.infer(self._serving, engine, _tensors(request))
            output = pb.ModelInferResponse.InferOutputTensor(name=OUTPUT, datatype="FP32", shape=logits.shape)
            return pb.ModelInferResponse(
                model_name=engine.release.name,
                model_version=str(engine.release.version),
                id=request.id,
                outputs=[output],
                raw_output_contents=[logits.tobytes()],
            )

        with self._metrics.seconds.labels("grpc").time():
            try:
                response = await _typed(answer, context)
            except (ProtocolError, grpc.aio.AbortError):
                self._metrics.requests.labels("grpc", "refused").inc()
                raise
        self._metrics.requests.labels("grpc", "answered").inc()
        return response


async def start(agent: Agent, metrics: Metrics, address: str) -> tuple[Any, int]:
    """Listen on host:port (0: any free one); gives the server and its port. Raises OSError when it cannot listen."""
    server = grpc.aio.server(
        options=[("grpc.max_receive_message_length", inference.MAX_BODY), ("grpc.so_reuseport", 0)]
    )
    pb_grpc.add_GRPCInferenceServiceServicer_to_server(GrpcServer(agent, metrics), server)
    try:
        port = server.add_insecure_port(address)
    except RuntimeError as error:
        raise OSError(f"cannot listen on {address}: {error}") from error
    await server.start()
    return server, port


def _tensors(request: Any) -> list[Tensor]:
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        raise ProtocolError(f"{len(raw)} raw contents for {len(request.inputs)} inputs")
    tensors = []
    for i, one in enumerate(request.inputs):
        values = () if raw else list(getattr(one.contents, _CONTENTS.get(one.datatype, "bytes_contents")))
        tensors.append(Tensor(one.name, one.datatype, tuple(one.shape), raw[i] if raw else None, values))
    return tensors


async def _typed(answer: Callable[[], Awaitable[Any]], context: Any) -> Any:
    try:
        return await answer()
    except ProtocolError as error:
        await context.abort(grpc.StatusCode[error.code], str(error))
    except asyncio.CancelledError:
        raise
