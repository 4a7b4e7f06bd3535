"""Bring the testbed up, run the cluster tests inside its network, remove it whatever happened.

python -m tests.cluster.run [pytest options]      (root; ten minutes when everything is built)
"""

import signal
import subprocess
import sys

from tests.cluster.testbed.network import CLOUD
from tests.cluster.testbed.testbed import Testbed, leftovers


def main() -> int:
    """Exit status of pytest; 1 when something was left behind."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("tests.cluster: ended"))
    testbed = Testbed()
    try:
        testbed.up()
        command = ["nsenter", f"--net=/run/netns/{CLOUD}", sys.executable, "-m", "pytest", "-m", "cluster"]
        status = subprocess.run([*command, "tests/cluster", *sys.argv[1:]], check=False).returncode
    except (PermissionError, FileNotFoundError, TimeoutError, RuntimeError) as error:
        sys.exit(f"tests.cluster: {error}")
    finally:
        testbed.down()
    if left := leftovers():
        sys.exit(f"tests.cluster: left behind: {', '.join(left)}")
    return status


if __name__ == "__main__":
    sys.exit(main())
