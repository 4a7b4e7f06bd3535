"""The node without its eye on the answers of a release on probation."""

from edge.node import active
from edge.node.__main__ import main

if __name__ == "__main__":
    active.PROBATION_FAILURES = 10**9
    main()
