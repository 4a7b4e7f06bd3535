"""The node; at its end it writes the names of the modules that it has loaded to the file $MODULES."""

import os
import sys
from pathlib import Path

from edge.node.__main__ import main

if __name__ == "__main__":
    try:
        main()
    finally:
        Path(os.environ["MODULES"]).write_text("\n".join(sys.modules))
