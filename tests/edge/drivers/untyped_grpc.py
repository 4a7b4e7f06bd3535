"""The node that reads gRPC messages as grpc's generated code does: what is none raises."""

from edge.node import grpc_calls
from edge.node.__main__ import main

if __name__ == "__main__":
    grpc_calls._reader = lambda kind: kind.FromString
    main()
