"""Token and TLS of the gRPC port."""

from collections.abc import Awaitable, Callable
from typing import Any

import grpc

from edge.node.access import NO_TOKEN, Access


class TokenInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[misc]  # grpc has no types
    """Lets through what `access` allows; the rest is UNAUTHENTICATED before its message is read."""

    def __init__(self, access: Access) -> None:
        self._access = access

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], details: Any) -> Any:
        """What grpc calls for each call."""
        metadata = {key: value for key, value in details.invocation_metadata or () if isinstance(value, str)}
        if self._access.allows_call(details.method, metadata):
            return await continuation(details)
        # As a stream: grpc would read a single message to its end before it asks us.
        return grpc.stream_unary_rpc_method_handler(_deny)


def add_port(server: Any, address: str, access: Access) -> int:
    """Listen, with TLS if there is a certificate; each handshake takes the one that was read last."""
    if access.tls is None:
        return int(server.add_insecure_port(address))

    def current() -> Any:
        return grpc.ssl_server_certificate_configuration([access.pem])

    return int(server.add_secure_port(address, grpc.dynamic_ssl_server_credentials(current(), current, False)))


async def _deny(requests: Any, context: Any) -> Any:
    await context.abort(grpc.StatusCode.UNAUTHENTICATED, NO_TOKEN)
