"""Train, validation and test: by a hash of the content, each class by itself, near duplicates together."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from components.ingest_images.gather import Seen
from components.ingest_images.likeness import group
from edgedistill.config import IngestConfig
from edgedistill.dataset import SPLITS, ImageRow
from edgedistill.storage import digest

SHOWN = 5  # names in a note


@dataclass(frozen=True)
class Image:
    """One image, once; its label still a name."""

    seen: Seen
    name: str
    label: str | None
    split: str | None  # what the user fixed


Members = list[Image]


def split(images: Sequence[Image], settings: IngestConfig) -> tuple[tuple[ImageRow, ...], tuple[str, ...], list[str]]:
    """Place every image.

    The same image falls on the same side in every revision, but for the few at a border that moves when images are
    added.

    Returns:
        (rows by image id, class names, notes)
    """
    images = sorted(images, key=lambda image: image.seen.image_id)
    classes = tuple(sorted({image.label for image in images if image.label is not None}))
    notes: list[str] = []
    groups = _groups(images, settings, notes)
    placed = _place(groups, settings, notes)
    trusted = _trusted(images, placed, settings)
    rows = []
    for image in images:
        seen, truth = image.seen, None if image.label is None else classes.index(image.label)
        rows.append(
            ImageRow(
                seen.image_id,
                seen.key,
                truth if seen.image_id in trusted else None,
                truth,
                placed[seen.image_id],
                seen.width,
                seen.height,
                image.name,
                seen.paired_key,
            )
        )
    return tuple(rows), classes, notes + _missing(rows, classes)


def rank(image: Image) -> str:
    """Orders the images of a class; a function of the bytes alone."""
    return digest(f"split:{image.seen.image_id}".encode())


def listed(names: Sequence[str]) -> str:
    """A few names for a note."""
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def _groups(images: Sequence[Image], settings: IngestConfig, notes: list[str]) -> list[Members]:
    if not settings.near_duplicates or not images:
        return [[image] for image in images]
    members: dict[int, Members] = defaultdict(list)
    for image, first in zip(images, group([image.seen.impression for image in images]).tolist(), strict=True):
        members[first].append(image)
    several = [group for group in members.values() if len(group) > 1]
    if several:
        count, shown = sum(map(len, several)), [image.name for image in several[0]]
        notes.append(
            f"{count:,} images are near duplicates of each other, in {len(several):,} groups (such as "
            f"{listed(shown)}); each group stays in one split."
        )
    largest = max(map(len, members.values()))
    if largest > max(10, len(images) // 10):
        notes.append(f"{largest:,} of {len(images):,} images look the same and form one group; check the images.")
    mixed = [g[0].name for g in several if len({image.label for image in g if image.label}) > 1]
    if mixed:
        notes.append(f"{len(mixed):,} groups of near duplicates have several labels (such as {listed(mixed)}).")
    return list(members.values())


def _place(groups: Sequence[Members], settings: IngestConfig, notes: list[str]) -> dict[str, str]:
    placed: dict[str, str] = {}
    strata: dict[str | None, list[Members]] = defaultdict(list)
    parted = []
    for members in groups:
        fixed = [image.split for image in members if image.split]
        if not fixed:
            strata[members[0].label].append(members)
        elif len(set(fixed)) > 1:
            parted.append(members[0].name)
        placed |= {image.seen.image_id: image.split or fixed[0] for image in members if fixed}
    if parted:
        notes.append(
            f"{len(parted):,} groups of near duplicates lie in several of the splits that you gave (such as "
            f"{listed(parted)}); the measured numbers are too good by as much."
        )
    given = bool(placed)
    for stratum in strata.values():
        total = sum(map(len, stratum))
        first = max(1, round(total * settings.train)) if settings.train > 0 else 0
        second = first + round(total * settings.validation)
        before = 0
        for members in sorted(stratum, key=_rank):
            side = "train" if before < first else "validation" if before < second else "test"
            placed |= {image.seen.image_id: side for image in members}
            before += len(members)
    _complete(groups, placed, settings, notes, given=given)
    return placed


def _complete(
    groups: Sequence[Members], placed: dict[str, str], settings: IngestConfig, notes: list[str], *, given: bool
) -> None:
    """Take a split that is empty from the training images: of each class its share; of tiny classes, of all together.

    It is empty when the user's own splits lack it, or when no class is large enough to have its share rounded to one.
    """
    shares = _shares(settings)
    for side in ("validation", "test"):
        if not shares[side] or side in placed.values():
            continue
        share = shares[side] / (shares[side] + shares["train"])
        train = _sorted_by_class(groups, placed, "train")
        taken = [members for stratum in train for members in _first(stratum, round(_size(stratum) * share))]
        if not taken:
            # All but one of each class, so that none loses its last training image; else what is held out already.
            spare = [members for stratum in train for members in stratum[1:]]
            held_out = "test" if side == "validation" else "validation"
            if not spare and not given:
                spare = [members for stratum in _sorted_by_class(groups, placed, held_out) for members in stratum]
            taken = _first(sorted(spare, key=_rank), max(1, round(_size(spare) * share)))
        placed |= {image.seen.image_id: side for members in taken for image in members}
        why = f"Your splits have no {side} images" if given else f"The classes are too small for a {side} share of each"
        notes.append(f"{why}: {_size(taken):,} images of another split were taken.")


def _sorted_by_class(groups: Sequence[Members], placed: Mapping[str, str], side: str) -> list[list[Members]]:
    """The groups that lie in a split whole, one list a class, in the order of their rank; single ones are left out."""
    strata: dict[str | None, list[Members]] = defaultdict(list)
    for members in groups:
        if all(placed[image.seen.image_id] == side for image in members):
            strata[members[0].label].append(members)
    least = 2 if side == "train" else 1
    return [sorted(stratum, key=_rank) for stratum in strata.values() if len(stratum) >= least]


def _rank(members: Members) -> str:
    return rank(members[0])


def _first(groups: Sequence[Members], wanted: int) -> list[Members]:
    """The first groups that have `wanted` images together."""
    taken: list[Members] = []
    for members in groups:
        if _size(taken) >= wanted:
            break
        taken.append(members)
    return taken


def _size(groups: Sequence[Members]) -> int:
    return sum(map(len, groups))


def _shares(settings: IngestConfig) -> Mapping[str, float]:
    return {
        "train": settings.train,
        "validation": settings.validation,
        "test": round(1 - settings.train - settings.validation, 9),
    }


def _trusted(images: Sequence[Image], placed: Mapping[str, str], settings: IngestConfig) -> set[str]:
    """Image ids whose label may be trained on: a share of each class's training images, at least one."""
    classes: dict[str, Members] = defaultdict(list)
    for image in images:
        if image.label is not None and placed[image.seen.image_id] == "train":
            classes[image.label].append(image)
    trusted: set[str] = set()
    for members in classes.values():
        count = max(1, round(len(members) * settings.labeled_fraction)) if settings.labeled_fraction > 0 else 0
        trusted |= {image.seen.image_id for image in sorted(members, key=rank)[:count]}
    return trusted


def _missing(rows: Sequence[ImageRow], classes: Sequence[str]) -> list[str]:
    """What cannot be trained or measured for lack of labels or images."""
    if not classes:
        return ["No image has a label: only the agreement with the teacher can be measured, no accuracy."]
    notes = []
    unlabeled = sum(row.truth is None for row in rows)
    if unlabeled:
        notes.append(
            f"{unlabeled:,} of {len(rows):,} images have no label; they train the student and measure nothing."
        )
    sizes = Counter(row.truth for row in rows)
    single = [name for number, name in enumerate(classes) if sizes[number] == 1]
    if single:
        notes.append(f"{len(single):,} classes have one image only, which goes to one split ({listed(single)}).")
    for side in SPLITS:
        there = {row.truth for row in rows if row.split == side}
        lacking = [name for number, name in enumerate(classes) if number not in there and sizes[number] > 1]
        if lacking and there:
            notes.append(f"{len(lacking):,} classes have no image in {side} ({listed(lacking)}).")
    return notes
