"""The node that answers an error only after a while."""

import time

from edge.node import rest_body
from edge.node.__main__ import main

_parse = rest_body.parse


def _slowly(body, header=None):  # type: ignore[no-untyped-def]
    try:
        return _parse(body, header)
    except rest_body.ProtocolError:
        time.sleep(1.2)
        raise


if __name__ == "__main__":
    rest_body.parse = _slowly
    main()
