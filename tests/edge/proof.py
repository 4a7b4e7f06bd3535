"""The proofs of what the node promises: sized for CI or whole, seeded, and their counts said at the end.

EDGEDISTILL_PROVE=1 (`make prove`) runs them whole; EDGEDISTILL_SEED=N runs the random moments of an earlier run again.
"""

import os
import random

WHOLE = os.environ.get("EDGEDISTILL_PROVE") == "1"
SEED = int(os.environ.get("EDGEDISTILL_SEED", "0")) or random.SystemRandom().randrange(1, 100_000)


def size(in_ci: int, whole: int) -> int:
    """How many faults, seconds or connections this run tries."""
    return whole if WHOLE else in_ci


def generator(promise: str) -> random.Random:
    """Random moments of one promise, the same for the same seed."""
    return random.Random(f"{SEED}-{promise}")
