"""What every model said to each test image: one Parquet object, from which a report draws pairs and pictures."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from edgedistill.dataset import ImageRow, read_parquet
from edgedistill.metrics import MODELS, softmax
from edgedistill.storage import ObjectStore, digest

SAMPLE = 256  # images whose teacher logits are kept whole; the ids are hashes, so the first ones are a fair sample
TOP = 5  # of the teacher's choices, kept for every image

Logits = NDArray[np.float32]


@dataclass(frozen=True)
class Answers:
    """The test split in the order of image ids. A model that was not trained is in neither mapping."""

    keys: tuple[str, ...]  # where each picture lies in the store
    sources: tuple[str, ...]  # the names that the user gave
    truth: NDArray[np.int64]  # (N,), -1 where unknown
    said: Mapping[str, NDArray[np.int64]]  # model -> (N,) class
    sure: Mapping[str, NDArray[np.float32]]  # model -> (N,) its probability of that class
    teacher_top: NDArray[np.int64]  # (N, <= TOP) classes, the likeliest first
    teacher_top_p: NDArray[np.float32]  # (N, <= TOP) their probabilities at temperature 1
    teacher_logits: Logits  # (<= SAMPLE, K) of the first images

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def known(self) -> NDArray[np.bool_]:
        """(N,) where the truth is known."""
        return self.truth >= 0


def write_answers(
    store: ObjectStore, rows: Sequence[ImageRow], truth: NDArray[np.int64], logits: Mapping[str, Logits]
) -> str:
    """Write the table of one evaluation; gives its key.

    Args:
        store: the object store.
        rows: the N images of the test split.
        truth: (N,), -1 where unknown.
        logits: model -> (N, K); the teacher must be in it.
    """
    columns: dict[str, pa.Array] = {
        "image_id": pa.array([row.image_id for row in rows], pa.string()),
        "key": pa.array([row.key for row in rows], pa.string()),
        "source": pa.array([row.source for row in rows], pa.string()),
        "truth": pa.array(truth, pa.int32()),
    }
    for name, values in logits.items():
        columns[name] = pa.array(values.argmax(axis=1), pa.int32())
        columns[f"{name}_p"] = pa.array(softmax(values).max(axis=1), pa.float32())
    teacher = logits["teacher"]
    top = np.argsort(-teacher, axis=1, kind="stable")[:, :TOP]
    columns["teacher_top"] = pa.array(top.tolist(), pa.list_(pa.int32()))
    columns["teacher_top_p"] = pa.array(np.take_along_axis(softmax(teacher), top, 1).tolist(), pa.list_(pa.float32()))
    kept = [row.tolist() if i < SAMPLE else None for i, row in enumerate(teacher)]
    columns["teacher_logits"] = pa.array(kept, pa.list_(pa.float32()))
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer, compression="zstd")
    key = f"evaluations/{digest(buffer.getvalue())}.parquet"
    store.put(key, buffer.getvalue())
    return key


def read_answers(store: ObjectStore, key: str) -> Answers:
    """The table that `write_answers` wrote. Raises StorageError when it is gone."""
    table = read_parquet(store.get(key))
    names = [name for name in MODELS if name in table.column_names]

    def column(name: str) -> list[object]:
        values: list[object] = table.column(name).to_pylist()
        return values

    return Answers(
        keys=tuple(str(one) for one in column("key")),
        sources=tuple(str(one) for one in column("source")),
        truth=np.array(column("truth"), np.int64),
        said={name: np.array(column(name), np.int64) for name in names},
        sure={name: np.array(column(f"{name}_p"), np.float32) for name in names},
        teacher_top=np.array(column("teacher_top"), np.int64),
        teacher_top_p=np.array(column("teacher_top_p"), np.float32),
        teacher_logits=np.array([row for row in column("teacher_logits") if row is not None], np.float32),
    )
