"""Where the fleet's pictures go: into the training split, and nowhere near what measures.

They were picked because a student was unsure about them. In validation or test they would make both harder than the
user's images are, and the class counts of the release, which drift is measured against, would be those of a biased
sample. So they train, without a label, and the user's images are split as if they were not there.
"""

from collections.abc import Sequence

from components.ingest_images.gather import Gathered, gather
from components.ingest_images.likeness import group
from components.ingest_images.source_feedback import MOST, Feedback
from components.ingest_images.sources import Refusal
from components.ingest_images.split import Image
from edgedistill.dataset import ImageRow
from edgedistill.progress import Progress
from edgedistill.storage import ObjectStore

Added = tuple[tuple[ImageRow, ...], list[Refusal], list[str]]  # rows, what was refused, notes


def add_feedback(
    store: ObjectStore,
    name: str,
    feedback: Feedback,
    images: Sequence[Image],
    rows: Sequence[ImageRow],
    progress: Progress,
    *,
    near_duplicates: bool,
) -> Added:
    """The fleet's pictures as training rows without a label.

    Args:
        store: has them, and gets them as images of the data set.
        name: of the data set.
        feedback: which ones.
        images: the user's.
        rows: where those were placed.
        progress: told after each picture.
        near_duplicates: leave out what looks like a held-out image.
    """
    gathered = gather(store, name, feedback, progress)
    placed = {row.image_id: row.split for row in rows}
    barred = _like_held_out(gathered, images, placed) if near_duplicates else set()
    added, refusals = [], list(gathered.refusals)
    for entry, seen in gathered.images:
        if seen.image_id in placed:
            refusals.append(Refusal(entry.name, "duplicate", "same bytes as one of your images"))
        elif seen.image_id in barred:
            refusals.append(Refusal(entry.name, "held-out", "a near duplicate of a validation or test image"))
        else:
            size = (seen.width, seen.height)
            added.append(ImageRow(seen.image_id, seen.key, None, None, "train", *size, entry.name))
    notes = [f"{len(added):,} pictures of the fleet's feedback train the student, without a label."]
    if barred:
        notes.append(f"{len(barred):,} more look like validation or test images and are left out.")
    if feedback.left_out:
        notes.append(f"{feedback.left_out:,} older ones are left out: a revision takes {MOST:,} at most.")
    return tuple(added), refusals, notes


def _like_held_out(gathered: Gathered, images: Sequence[Image], placed: dict[str, str]) -> set[str]:
    """Ids of fed-back pictures that share a group of near duplicates with an image that is not trained on."""
    ours = [image.seen for image in images]
    theirs = [seen for _, seen in gathered.images if seen.image_id not in placed]
    first = group([seen.impression for seen in (*ours, *theirs)]).tolist() if theirs else []
    held_out = {
        number for number, seen in zip(first, ours, strict=False) if placed[seen.image_id] in ("validation", "test")
    }
    return {seen.image_id for number, seen in zip(first[len(ours) :], theirs, strict=True) if number in held_out}
