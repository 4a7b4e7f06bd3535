"""Work ahead in threads: ordered, bounded, and its errors come out; scratch arrays: no name, no memory."""

import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from edgedistill.ahead import ahead
from edgedistill.errors import StorageError
from edgedistill.scratch import scratch_array


def test_results_come_in_order_and_no_more_than_depth_are_drawn() -> None:
    drawn = 0

    def items() -> Iterator[int]:
        nonlocal drawn
        for item in range(100):
            drawn += 1
            yield item

    def work(item: int) -> int:
        time.sleep(0.001 * (item % 3))
        return item

    taken = 0
    for result in ahead(work, items(), depth=5, threads=3):
        assert result == taken
        taken += 1
        assert drawn <= taken + 5
    assert taken == 100


def test_an_error_comes_out_at_its_item_and_the_threads_end() -> None:
    def work(item: int) -> int:
        return 1 // (3 - item)

    done = []
    with pytest.raises(ZeroDivisionError):
        done.extend(ahead(work, range(100), depth=8, threads=2))
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("ahead")]


def test_a_scratch_array_has_no_name_and_takes_its_space_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    array = scratch_array((3, 5), np.float16)
    array[1] = 7
    assert array.sum() == 35
    assert not list(tmp_path.iterdir()), "a killed process leaves nothing"
    assert scratch_array((0, 5), np.uint8).shape == (0, 5)
    with pytest.raises(StorageError, match="scratch space"):
        scratch_array((1 << 50,), np.uint8)


LIMITED = """
import resource, sys
import numpy as np
from edgedistill import scratch
if sys.argv[1] == "memory":
    scratch.scratch_array = np.zeros  # the negative control
scratch.scratch_array((1,), np.uint8)
size = int(open("/proc/self/statm").read().split()[5]) * resource.getpagesize() + (32 << 20)
resource.setrlimit(resource.RLIMIT_DATA, (size, size))
array = scratch.scratch_array((96 << 20,), np.uint8)
array[::4096] = 1
print(int(array[::4096].sum()))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA counts mappings on Linux only")
@pytest.mark.parametrize(("where", "fits"), [("file", True), ("memory", False)])
def test_a_scratch_array_is_no_memory(where: str, fits: bool) -> None:
    done = subprocess.run([sys.executable, "-c", LIMITED, where], capture_output=True, text=True, check=False)
    assert (done.returncode == 0) == fits, done.stderr
    assert ("MemoryError" in done.stderr) != fits
