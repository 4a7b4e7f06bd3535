"""`python -m tests.cluster.testbed up|down`."""

from tests.cluster.testbed.testbed import main

main()
