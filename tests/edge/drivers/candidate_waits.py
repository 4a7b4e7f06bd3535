"""The updating child that stands still where $STANDS says: in `fetch` or in `try_release`."""

import os
import time
from typing import Any

from edge.node.candidate import Candidate, main


def _stand(self: Candidate, **question: Any) -> dict[str, Any]:
    time.sleep(600)
    return {}


if __name__ == "__main__":
    if os.environ["STANDS"]:
        setattr(Candidate, os.environ["STANDS"], _stand)
    main()
