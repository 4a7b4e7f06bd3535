"""Images in, a revision out: content addresses, a deterministic split, a reject list with reasons."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from components.ingest_images.fleet import add_feedback
from components.ingest_images.gather import Gathered, gather
from components.ingest_images.source_feedback import Feedback
from components.ingest_images.sources import FORMS, Refusal, open_source
from components.ingest_images.split import Image, listed, split
from edgedistill.config import IngestConfig, load
from edgedistill.dataset import Dataset, to_parquet
from edgedistill.errors import DatasetError
from edgedistill.progress import Progress
from edgedistill.steps import Manifest, Step
from edgedistill.storage import ObjectStore, canonical_json, digest, open_store


def run(*, store: str, data: str, config: dict[str, object], progress: Progress) -> Manifest:
    """Ingest images from a folder, a tar, a table of paths or a data set of torchvision.

    Args:
        store: address of the object store.
        data: what the user gave; docs/data.md has the forms.
        config: an IngestConfig as a mapping.
        progress: told after each image.

    Returns:
        outputs: name, revision, table, rejects (a key or null), rejected, reject_reasons (kind -> count), classes
        (none: no image has a label), counts, notes (sentences).

    Raises:
        DatasetError: nothing there, no image that decodes, one class, or too few images for the splits.
    """
    settings = load(IngestConfig, config)
    objects = open_store(store)
    source = open_source(data)
    inputs = {"data": source.digest()}
    feedback = Feedback(objects, settings.name) if settings.feedback else None
    if feedback:
        inputs["feedback"] = feedback.digest()
    step = Step.of(
        objects,
        "ingest_images",
        module="components.ingest_images.run",
        inputs=inputs,
        settings=settings,
        libraries=("pillow", "pyarrow"),
    )
    if done := step.find():
        return done
    gathered = gather(objects, settings.name, source, progress)
    images, refusals, notes = _once(gathered)
    rows, classes, more = split(images, settings)
    _check(Dataset(settings.name, classes, rows), settings, refusals)
    notes = source.notes + notes + _lost(gathered, classes) + more
    if feedback:
        alike = settings.near_duplicates
        fed, refused, said = add_feedback(
            objects, settings.name, feedback, images, rows, progress, near_duplicates=alike
        )
        rows, refusals, notes = (*rows, *fed), refusals + refused, notes + said
    dataset = Dataset(settings.name, classes, tuple(sorted(rows, key=lambda row: row.image_id)))
    return step.finish(_register(objects, dataset, refusals, notes))


def _once(gathered: Gathered) -> tuple[list[Image], list[Refusal], list[str]]:
    """Every image once: of exact duplicates the first, with the first label that one of them has."""
    images: dict[str, Image] = {}
    refusals = list(gathered.refusals)
    relabeled, resplit = [], []
    for entry, seen in gathered.images:
        kept = images.get(seen.image_id)
        if kept is None:
            images[seen.image_id] = Image(seen, entry.name, entry.label, entry.split)
            continue
        refusals.append(Refusal(entry.name, "duplicate", f"same bytes as {kept.name}"))
        if None not in (kept.label, entry.label) and kept.label != entry.label:
            relabeled.append(f"{entry.name} as {entry.label!r} and {kept.name} as {kept.label!r}")
        if None not in (kept.split, entry.split) and kept.split != entry.split:
            resplit.append(f"{entry.name} in {entry.split} and {kept.name} in {kept.split}")
        images[seen.image_id] = replace(kept, label=kept.label or entry.label, split=kept.split or entry.split)
    notes = []
    if relabeled:
        notes.append(f"{len(relabeled):,} images occur with two labels, the first is used: {listed(relabeled)}.")
    if resplit:
        notes.append(
            f"{len(resplit):,} images occur in two of the splits that you gave, the first is used: {listed(resplit)}."
        )
    return list(images.values()), refusals, notes


def _lost(gathered: Gathered, classes: Sequence[str]) -> list[str]:
    """A folder without a usable image is no class, and the user should know."""
    lost = sorted({entry.label for entry in gathered.broken if entry.label} - set(classes))
    return [f"{len(lost):,} labels have no usable image and are no classes: {listed(lost)}."] if lost else []


def _check(dataset: Dataset, settings: IngestConfig, refusals: Sequence[Refusal]) -> None:
    if not dataset.rows:
        example = f", such as {refusals[0].name!r}: {refusals[0].message}" if refusals else ""
        raise DatasetError(f"no image that can be used ({len(refusals)} refused{example}); --data takes {FORMS}")
    if len(dataset.classes) == 1:
        raise DatasetError(
            f"a classifier needs two classes or more, found only {dataset.classes[0]!r}; make one sub-folder a class, "
            "or give no labels at all (the sub-folder 'unlabeled')"
        )
    if broken := [name for name in dataset.classes if "\n" in name or "\r" in name]:
        raise DatasetError(f"the class {broken[0]!r} has a line break in its name; rename it")
    counts = dataset.counts()
    shares = {"train": settings.train, "validation": settings.validation}
    shares["test"] = round(1 - sum(shares.values()), 9)
    if any(share > 0 and not counts[side] for side, share in shares.items()):
        raise DatasetError(f"{len(dataset.rows)} images are too few for three splits ({counts}); add images")


def _register(
    store: ObjectStore, dataset: Dataset, refusals: Sequence[Refusal], notes: Sequence[str]
) -> dict[str, object]:
    table = to_parquet(dataset.rows)
    revision = digest(table + canonical_json(dataset.classes))
    key = f"datasets/{dataset.name}/revisions/{revision}.parquet"
    store.put(key, table)
    rejects = None
    if refusals:
        lines = [{"file": one.name, "kind": one.reason, "reason": one.message} for one in refusals]
        text = "".join(json.dumps(line, sort_keys=True) + "\n" for line in lines).encode()
        rejects = f"datasets/{dataset.name}/rejects/{digest(text)}.jsonl"
        store.put(rejects, text)
    return {
        "name": dataset.name,
        "revision": revision,
        "table": key,
        "rejects": rejects,
        "rejected": len(refusals),
        "reject_reasons": dict(Counter(one.reason for one in refusals)),
        "classes": list(dataset.classes),
        "counts": dataset.counts(),
        "notes": list(notes),
    }
