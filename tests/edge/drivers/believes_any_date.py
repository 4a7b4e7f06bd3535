"""The node with the child of candidate_believes_any_date.py."""

from edge.node import child
from edge.node.__main__ import main

if __name__ == "__main__":
    child.MODULE = "tests.edge.drivers.candidate_believes_any_date"
    main()
