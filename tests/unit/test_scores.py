"""Score parts: their number, what is known of them, and whose they are."""

import hashlib
from pathlib import Path

import numpy as np
import pytest

from edgedistill.dataset import Dataset, ImageRow
from edgedistill.errors import DatasetError, TeacherError
from edgedistill.scores import (
    VIEWS_A_PART,
    KnownRows,
    Part,
    ViewKey,
    bucket_count,
    check_scores,
    plan_parts,
    read_logits,
    write_part,
)
from edgedistill.steps import Manifest
from edgedistill.storage import ObjectStore, open_store

TEACHER, POLICY = "a" * 64, "b" * 16


def dataset(images: int) -> Dataset:
    ids = sorted(hashlib.sha256(str(i).encode()).hexdigest() for i in range(images))
    rows = tuple(ImageRow(i, "", None, None, "train", 28, 28, "") for i in ids)
    return Dataset("d", ("0", "1"), rows)


def plan(images: int, buckets: int, views: int = 1) -> tuple[Part, ...]:
    return plan_parts(dataset(images), teacher=TEACHER, policy=POLICY, views=views, buckets=buckets)


def answer(name: ViewKey) -> np.ndarray:
    return np.array([int(name[0][:4], 16) / 64, name[1]], np.float32)


def score(store: ObjectStore, parts: tuple[Part, ...]) -> int:
    """Write the parts as the step does; gives how many views had to be asked for."""
    asked, known = 0, KnownRows(store, teacher=TEACHER, policy=POLICY)
    for part in parts:
        rows = dict(known.of(part))
        asked += len(part.views) - len(rows)
        write_part(store, part, rows | {name: answer(name) for name in part.views if name not in rows})
    return asked


@pytest.mark.parametrize(
    ("views", "buckets"), [(0, 1), (1, 1), (VIEWS_A_PART, 1), (VIEWS_A_PART + 1, 2), (1_300_000, 512)]
)
def test_the_number_of_buckets_follows_the_size(views: int, buckets: int) -> None:
    assert bucket_count(views) == buckets


@pytest.mark.parametrize(("before", "after"), [(4, 8), (8, 4), (16, 2), (6, 4), (5, 3)])
def test_one_photo_more_asks_for_one_photo_whatever_the_buckets(tmp_path: Path, before: int, after: int) -> None:
    store = open_store(tmp_path)
    assert score(store, plan(60, before)) == 120
    grown = plan(61, after)
    assert score(store, grown) == 2, "one image, two views"
    scores = Manifest("score_teacher", "", {"parts": [part.key for part in grown]})
    ids = [row.image_id for row in dataset(61).rows]
    logits = read_logits(store, scores, ids, [1, 0])
    assert isinstance(logits, np.memmap), "not in memory"
    expected = np.array([[answer((image, view)) for view in (1, 0)] for image in ids], np.float16)
    np.testing.assert_array_equal(logits, expected)


def test_without_parts_of_other_counts_everything_would_be_asked_again(tmp_path: Path) -> None:
    """The negative control: what `of` is for."""
    store = open_store(tmp_path)
    score(store, plan(60, 4))
    known = KnownRows(store, teacher=TEACHER, policy=POLICY)
    known._parts = [part for part in known._parts if part[0] == 8]
    assert not any(known.of(part) for part in plan(61, 8))


def test_every_view_is_in_exactly_one_part() -> None:
    for buckets in (1, 4, 7):
        names = [name for part in plan(50, buckets, views=3) for name in part.views]
        assert len(names) == len(set(names)) == 50 * 4


def test_scores_of_another_revision_lack_a_view(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    parts = plan(5, 1)
    score(store, parts)
    scores = Manifest("score_teacher", "", {"parts": [part.key for part in parts]})
    with pytest.raises(DatasetError, match="hold no view"):
        read_logits(store, scores, [row.image_id for row in dataset(6).rows], [0])
    with pytest.raises(DatasetError, match="empty"):
        read_logits(store, scores, [], [0])


@pytest.mark.parametrize("foreign", [{"teacher": "c" * 64}, {"policy": "other"}, {"views": 2}])
def test_foreign_scores_are_refused(foreign: dict[str, object]) -> None:
    told = {"teacher": TEACHER, "policy": POLICY, "views": 3}
    check_scores(Manifest("score_teacher", "", told), **told)  # type: ignore[arg-type]
    with pytest.raises(TeacherError, match=next(iter(foreign))):
        check_scores(Manifest("score_teacher", "", told | foreign), **told)  # type: ignore[arg-type]
