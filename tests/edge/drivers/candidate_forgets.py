"""The updating child that compares with nothing that the node has seen."""

from edge.node import trust
from edge.node.candidate import main

_init = trust.Repository.__init__


def _without_trusted(self: trust.Repository, *arguments: object, trusted: object, **options: object) -> None:
    _init(self, *arguments, trusted=None, **options)  # type: ignore[arg-type]


if __name__ == "__main__":
    trust.Repository.__init__ = _without_trusted  # type: ignore[method-assign, assignment]
    trust.remember = lambda highest, now: dict(now)
    main()
