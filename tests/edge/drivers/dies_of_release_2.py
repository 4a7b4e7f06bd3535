"""The node on a machine where release 2 passes its trial and then ends whoever serves it, with its first answer."""

import os

import numpy as np
from numpy.typing import NDArray

from edge.node.__main__ import main
from edge.node.engine import Engine

_logits = Engine.logits


def _die(self: Engine, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    if self.release.version == 2:
        os.abort()
    return _logits(self, images)


if __name__ == "__main__":
    Engine.logits = _die  # type: ignore[method-assign]
    main()
