"""The node without its answer to a failing disk: what the disk refuses is one of the faults that nobody thought of."""

from edge.node import agent
from edge.node.__main__ import main


class _Never(Exception):  # noqa: N818 - stands where DiskTrouble would be caught
    pass


if __name__ == "__main__":
    agent.DiskTrouble = _Never  # type: ignore[attr-defined, misc]
    main()
