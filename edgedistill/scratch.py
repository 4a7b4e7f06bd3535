"""Arrays that lie in a file instead of memory, for what grows with the data set.

The file is below TMPDIR (an embedded run sets it to the run's own folder) and has no name: it is gone with the array,
and with the process however that ends.
"""

import os
import tempfile
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from edgedistill.errors import StorageError

Kind = TypeVar("Kind", bound=np.generic)


def scratch_array(shape: tuple[int, ...], dtype: type[Kind]) -> NDArray[Kind]:
    """A zeroed array backed by an unlinked file.

    Raises:
        StorageError: the disk is full. Its space is taken now: a full disk under a mapping would end the process with
            SIGBUS in the middle of the work.
    """
    size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
    if not size:
        return np.zeros(shape, dtype)
    with tempfile.TemporaryFile(prefix="edgedistill-") as file:
        try:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)
            return np.memmap(file, dtype=dtype, mode="r+" if hasattr(os, "posix_fallocate") else "w+", shape=shape)
        except OSError as error:
            raise StorageError(
                f"no {size / 1e6:,.0f} MB of scratch space in {tempfile.gettempdir()} ({error.strerror}); "
                "free some, or set TMPDIR to a folder on a larger disk"
            ) from error
