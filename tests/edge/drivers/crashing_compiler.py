"""The node on a machine where release 2 ends the compiler, in whichever process it runs; the trial has 8 seconds."""

from edge.node import child
from edge.node.__main__ import main

if __name__ == "__main__":
    child.MODULE = "tests.edge.drivers.candidate_crashes"
    child.TRIAL_S = 8.0
    main()
