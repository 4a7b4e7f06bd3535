"""The node without its limits on clients."""

from functools import partial
from math import inf

from edge.node import http_server, server_grpc
from edge.node.__main__ import main
from edge.node.http_messages import Limits

if __name__ == "__main__":
    endless = partial(Limits, connections=1_000_000, header_s=inf, body_s=inf, idle_s=inf, stall_s=inf)
    http_server.Limits = endless  # type: ignore[misc, assignment]
    for name in ("max_allowed_incoming_connections", "server_handshake_timeout_ms", "max_connection_idle_ms"):
        del server_grpc.OPTIONS[f"grpc.{name}"]
    main()
