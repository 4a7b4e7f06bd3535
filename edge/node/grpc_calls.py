"""The calls of the gRPC service: a message that cannot be read, or a fault of ours, is a typed error like any other.

grpc's generated registration would answer both with UNKNOWN and the text of the exception.
"""

import logging
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass

from edge.node.protocol import open_inference_pb2 as pb
from edge.node.tensors import ProtocolError
from edge.node.wire import is_modest

MAX_SMALL = 64 << 10  # bytes of a request that only names something
SERVICE = "GRPCInferenceService"
NO_MESSAGE = "the request is no message of this call, or has too many fields; send tensors in raw_input_contents"
_log = logging.getLogger("edge.node")


def handlers(servicer: Any) -> Any:
    """Every method of the service, answered by the servicer's method of the same name."""
    service = pb.DESCRIPTOR.services_by_name[SERVICE]
    methods = {
        method.name: grpc.unary_unary_rpc_method_handler(
            _typed(getattr(servicer, method.name)),
            request_deserializer=_reader(GetMessageClass(method.input_type)),
            response_serializer=GetMessageClass(method.output_type).SerializeToString,
        )
        for method in service.methods
    }
    return grpc.method_handlers_generic_handler(service.full_name, methods)


def _reader(kind: Any) -> Callable[[bytes], Any]:
    """Bytes -> message; None: they are none, or would grow too much."""
    is_infer = kind.DESCRIPTOR.name == "ModelInferRequest"

    def read(data: bytes) -> Any:
        try:
            is_sound = is_modest(data) if is_infer else len(data) <= MAX_SMALL
            return kind.FromString(data) if is_sound else None
        except DecodeError:
            return None

    return read


def _typed(call: Callable[[Any, Any], Awaitable[Any]]) -> Callable[[Any, Any], Awaitable[Any]]:
    async def answer(request: Any, context: Any) -> Any:
        if request is None:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, NO_MESSAGE)
        try:
            return await call(request, context)
        except ProtocolError as error:
            await context.abort(grpc.StatusCode[error.code], str(error))
        except grpc.aio.AbortError:
            raise
        except Exception:
            _log.exception("a call ended in a fault of the node")
            await context.abort(grpc.StatusCode.INTERNAL, "a fault of this node; its log says more")

    return answer
