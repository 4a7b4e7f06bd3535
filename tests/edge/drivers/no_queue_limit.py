"""The node of slow_student with a queue without end."""

from edge.node import serving
from edge.node.__main__ import main
from edge.node.engine import Engine
from tests.edge.drivers import slow_student

if __name__ == "__main__":
    Engine.logits = slow_student._slow  # type: ignore[method-assign]
    serving.BURST = serving.STANDING = 1_000_000
    main()
