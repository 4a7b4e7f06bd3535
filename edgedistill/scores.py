"""The teacher's answers: logits of every view of every image, in parts that are written once.

A part holds one hash bucket of image ids and is named by the ids (and views) in it, so a revision owns no scores, only
a manifest of parts: one photo more gives one new part, whose known rows are copied from the part before it.
Logits, not probabilities: the temperature stays a setting of the student.
"""

import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from edgedistill.dataset import Dataset, read_parquet
from edgedistill.errors import DatasetError, TeacherError
from edgedistill.steps import Manifest
from edgedistill.storage import ObjectStore, digest

Logits = NDArray[np.float32]
ViewKey = tuple[str, int]  # image id, view number


@dataclass(frozen=True)
class Part:
    """One score file: what it must hold."""

    key: str  # in the store
    prefix: str  # of every part of the same bucket, older revisions' too
    views: tuple[ViewKey, ...]  # sorted


def plan_parts(dataset: Dataset, *, teacher: str, policy: str, views: int, buckets: int) -> tuple[Part, ...]:
    """The parts of a revision.

    Args:
        dataset: training images get the centre view and `views` random ones, the others the centre view only.
        teacher: digest of the published teacher.
        policy: digest of the view policy.
        views: random views a training image.
        buckets: number of hash buckets.
    """
    members: dict[int, list[ViewKey]] = {}
    for row in dataset.rows:
        count = 1 + (views if row.split == "train" else 0)
        bucket = int(row.image_id[:8], 16) % buckets
        members.setdefault(bucket, []).extend((row.image_id, view) for view in range(count))
    parts = []
    for bucket in sorted(members):
        wanted = tuple(sorted(members[bucket]))
        prefix = f"scores/{teacher[:16]}/{policy}/{buckets}.{bucket:04d}-"
        name = digest("\n".join(f"{image}:{view}" for image, view in wanted).encode())[:32]
        parts.append(Part(f"{prefix}{name}.parquet", prefix, wanted))
    return tuple(parts)


def known_rows(store: ObjectStore, part: Part) -> dict[ViewKey, NDArray[np.float16]]:
    """Answers that older parts of the same bucket already hold."""
    wanted = set(part.views)
    found: dict[ViewKey, NDArray[np.float16]] = {}
    for key in store.list(part.prefix):
        found |= {view: row for view, row in read_part(store, key) if view in wanted}
    return found


def write_part(store: ObjectStore, part: Part, rows: Mapping[ViewKey, NDArray[np.floating]]) -> None:
    """Write one part: every wanted view exactly once.

    Raises:
        TeacherError: a view without an answer, or an answer that is no finite float16.
    """
    absent = [view for view in part.views if view not in rows]
    if absent:
        raise TeacherError(f"{len(absent)} of {len(part.views)} views of {part.key} have no answer; run again")
    logits = np.stack([rows[view] for view in part.views]).astype(np.float16)  # (N, K)
    if not np.isfinite(logits).all():
        raise TeacherError("the teacher answered a logit that is not finite in float16; check its last layer")
    table = pa.table(
        {
            "image_id": pa.array([image for image, _ in part.views], pa.string()),
            "view": pa.array([view for _, view in part.views], pa.int16()),
            "logits": pa.FixedSizeListArray.from_arrays(pa.array(logits.reshape(-1)), logits.shape[1]),
        }
    )
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    store.put(part.key, buffer.getvalue())


def read_part(store: ObjectStore, key: str) -> Iterator[tuple[ViewKey, NDArray[np.float16]]]:
    """The views of a part and their (K,) float16 logits."""
    table = read_parquet(store.get(key))
    column = table.column("logits").combine_chunks()
    logits = column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), -1)
    names = zip(table.column("image_id").to_pylist(), table.column("view").to_pylist(), strict=True)
    return iter(list(zip(names, logits, strict=True)))


def read_logits(store: ObjectStore, scores: Manifest, image_ids: Sequence[str], views: Iterable[int]) -> Logits:
    """The teacher's logits, in the order asked for.

    Returns:
        (N, V, K) float32 for N image ids and V view numbers.

    Raises:
        DatasetError: the scores lack a view, so they are of another revision.
    """
    numbers = list(views)
    wanted = {(image, view) for image in image_ids for view in numbers}
    found: dict[ViewKey, NDArray[np.float16]] = {}
    for key in scores.outputs["parts"]:
        found |= {view: row for view, row in read_part(store, key) if view in wanted}
    if len(found) < len(wanted):
        missing = sorted(wanted - set(found))[0]
        raise DatasetError(
            f"the scores hold no view {missing[1]} of image {missing[0][:12]}; score this revision first"
        )
    return np.stack([[found[(image, view)] for view in numbers] for image in image_ids]).astype(np.float32)
