"""Bring the testbed up, run the cluster tests inside its network, remove it whatever happened.

python -m tests.cluster.run [pytest options]      (root; with CLUSTER=kind or CLUSTER=current on another cluster)
"""

import os
import signal
import subprocess
import sys

from tests.cluster.testbed.network import CLOUD
from tests.cluster.testbed.testbed import TESTS, Testbed, leftovers, phase


def main() -> int:
    """Exit status of pytest; 1 when something was left behind or nothing could begin."""
    command = [sys.executable, "-m", "pytest", "-m", "cluster", "tests/cluster", *sys.argv[1:]]
    if os.environ.get("CLUSTER", "testbed") != "testbed":
        # What only the testbed can do is skipped there, whatever REQUIRE_ALL says.
        environment = {name: value for name, value in os.environ.items() if name != "REQUIRE_ALL"}
        return subprocess.run(command, env=environment, check=False).returncode
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit("tests.cluster: ended"))
    testbed = Testbed()
    try:
        testbed.up()
        with phase("tests"):
            status = testbed.processes.run_here(TESTS, command, namespace=CLOUD)
    except (PermissionError, FileNotFoundError, TimeoutError, RuntimeError) as error:
        sys.exit(f"tests.cluster: {error}")
    finally:
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)  # half a removal helps nobody
        with phase("removal"):
            testbed.down()
    if left := leftovers():
        sys.exit(f"tests.cluster: left behind: {', '.join(left)}")
    return status


if __name__ == "__main__":
    sys.exit(main())
