"""The node with the child of candidate_forgets.py."""

from edge.node import child
from edge.node.__main__ import main

if __name__ == "__main__":
    child.MODULE = "tests.edge.drivers.candidate_forgets"
    main()
