"""The node with its limits on clients a tenth as long, so that a test need not wait for them."""

from functools import partial

from edge.node import http_server, server_grpc
from edge.node.__main__ import main
from edge.node.http_messages import Limits

if __name__ == "__main__":
    http_server.Limits = partial(Limits, connections=60, header_s=1, body_s=1, idle_s=2, stall_s=1)  # type: ignore[misc, assignment]
    server_grpc.OPTIONS |= {
        "grpc.max_allowed_incoming_connections": 60,
        "grpc.server_handshake_timeout_ms": 1000,
        "grpc.max_connection_idle_ms": 2000,
    }
    main()
