"""The teacher's answers: logits of every view of every image, in parts that are written once.

A part holds one hash bucket of image ids and is named by the ids (and views) in it, so a revision owns no scores, only
a manifest of parts: one photo more gives one new part, whose known rows are copied from the parts before it, also when
the data set has grown so far that the number of buckets grew with it.
Logits, not probabilities: the temperature stays a setting of the student.
"""

import io
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from edgedistill.dataset import Dataset, read_parquet
from edgedistill.errors import DatasetError, TeacherError
from edgedistill.scratch import scratch_array
from edgedistill.steps import Manifest
from edgedistill.storage import ObjectStore, digest

Logits = NDArray[np.float16]
ViewKey = tuple[str, int]  # image id, view number
VIEWS_A_PART = 4096  # what a killed scoring may lose, and, times the classes, what it holds in memory
_NAME = re.compile(r"(\d+)\.(\d+)-[0-9a-f]+\.parquet")  # of a part: number of buckets, bucket, ids


@dataclass(frozen=True)
class Part:
    """One score file: what it must hold."""

    key: str  # in the store
    buckets: int  # of the data set
    bucket: int
    views: tuple[ViewKey, ...]  # sorted


def bucket_count(views: int) -> int:
    """The least power of two that leaves a part about VIEWS_A_PART of `views`: doubling splits each bucket in two."""
    return 1 << max(0, math.ceil(math.log2(max(1, views) / VIEWS_A_PART)))


def plan_parts(dataset: Dataset, *, teacher: str, policy: str, views: int, buckets: int) -> tuple[Part, ...]:
    """The parts of a revision.

    Args:
        dataset: training images get the centre view and `views` random ones, the others the centre view only.
        teacher: digest of the published teacher.
        policy: digest of the view policy.
        views: random views a training image.
        buckets: number of hash buckets; 0: by the number of views.
    """
    wanted = {row.image_id: 1 + (views if row.split == "train" else 0) for row in dataset.rows}
    buckets = buckets or bucket_count(sum(wanted.values()))
    members: dict[int, list[ViewKey]] = {}
    for image_id, count in wanted.items():
        members.setdefault(bucket_of(image_id, buckets), []).extend((image_id, view) for view in range(count))
    parts = []
    for bucket in sorted(members):
        names = tuple(sorted(members[bucket]))
        name = digest("\n".join(f"{image}:{view}" for image, view in names).encode())[:32]
        parts.append(Part(f"{_folder(teacher, policy)}{buckets}.{bucket:04d}-{name}.parquet", buckets, bucket, names))
    return tuple(parts)


class KnownRows:
    """What older revisions' parts of the same teacher and policy hold already, whatever number of buckets they had."""

    def __init__(self, store: ObjectStore, *, teacher: str, policy: str) -> None:
        self._store = store
        self._parts: list[tuple[int, int, str]] = []
        for key in store.list(_folder(teacher, policy)):
            if found := _NAME.fullmatch(key.rpartition("/")[2]):
                self._parts.append((int(found[1]), int(found[2]), key))

    def of(self, part: Part) -> dict[ViewKey, NDArray[np.float16]]:
        """The wanted views of a part that are known, read from as few older parts as hold them."""
        wanted, found = set(part.views), dict[ViewKey, NDArray[np.float16]]()
        for buckets, bucket, key in sorted(self._parts, key=lambda old: abs(old[0] - part.buckets)):
            # id = part.bucket (mod part.buckets) and id = bucket (mod buckets) have a solution only then.
            if (bucket - part.bucket) % math.gcd(buckets, part.buckets) == 0:
                found |= {view: row for view, row in read_part(self._store, key) if view in wanted}
                if len(found) == len(wanted):
                    break
        return found


def bucket_of(image_id: str, buckets: int) -> int:
    """The hash bucket of an image: a function of its id alone."""
    return int(image_id[:8], 16) % buckets


def _folder(teacher: str, policy: str) -> str:
    return f"scores/{teacher[:16]}/{policy}/"


def check_scores(scores: Manifest, *, teacher: str, policy: str, views: int) -> None:
    """Refuse scores that are not what a step was told to learn from.

    Args:
        scores: what score_teacher made.
        teacher: digest of the published teacher.
        policy: digest of the view policy.
        views: random views a training image.

    Raises:
        TeacherError: they are another teacher's, of another policy, or of fewer or more views.
    """
    for name, expected in {"teacher": teacher, "policy": policy, "views": views}.items():
        if (found := scores.outputs.get(name)) != expected:
            raise TeacherError(
                f"the scores are of {name} {_short(found)}, this step was told {_short(expected)}; "
                "score with the same settings first: edgedistill run does"
            )


def _short(value: object) -> str:
    return value[:16] if isinstance(value, str) else str(value)


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
        (N, V, K) float16 for N image ids and V view numbers, in a scratch file: memory holds one part at a time.

    Raises:
        DatasetError: the scores lack a view, so they are of another revision.
    """
    numbers = {view: column for column, view in enumerate(views)}
    places = {image: row for row, image in enumerate(image_ids)}
    found = np.zeros((len(places), len(numbers)), bool)
    result: Logits | None = None
    for key in scores.outputs["parts"]:
        for (image, view), row in read_part(store, key):
            if image in places and view in numbers:
                if result is None:
                    result = scratch_array((*found.shape, len(row)), np.float16)
                result[places[image], numbers[view]] = row
                found[places[image], numbers[view]] = True
    if not found.size:
        raise DatasetError("there is no image to read scores of; the split is empty, add images")
    if result is None or not found.all():
        row, column = np.argwhere(~found)[0]
        image, view = list(places)[row], list(numbers)[column]
        raise DatasetError(f"the scores hold no view {view} of image {image[:12]}; score this revision first")
    return result
