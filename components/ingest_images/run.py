"""Images in, a revision out: content addresses, a deterministic split, a reject list with reasons."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edgedistill.config import IngestConfig, load
from edgedistill.dataset import INGEST_FORMATS, Dataset, ImageRow, to_parquet
from edgedistill.errors import DatasetError
from edgedistill.images import decode
from edgedistill.progress import Progress
from edgedistill.steps import Manifest, Step
from edgedistill.storage import ObjectStore, canonical_json, digest, file_digest, open_store

UNLABELED = "unlabeled"  # the sub-folder of images without a class


@dataclass(frozen=True)
class _Source:
    path: Path
    image_id: str
    label: str | None


def run(*, store: str, data: str, config: dict[str, object], progress: Progress) -> Manifest:
    """Ingest an image folder: one sub-folder a class, `unlabeled/` for the rest.

    Args:
        store: address of the object store.
        data: the folder.
        config: an IngestConfig as a mapping.
        progress: told after each image.

    Returns:
        outputs: name, revision, table, rejects (a key or null), rejected, classes, counts.

    Raises:
        DatasetError: no such folder, no image that decodes, or fewer than two classes.
    """
    settings = load(IngestConfig, config)
    objects = open_store(store)
    sources = list(_find(Path(data)))
    content = digest(canonical_json([(s.image_id, s.label, s.path.name) for s in sources]))
    step = Step.of(
        objects,
        "ingest_images",
        module="components.ingest_images.run",
        inputs={"data": content},
        settings=settings,
        libraries=("pillow", "pyarrow"),
    )
    if done := step.find():
        return done
    classes = tuple(sorted({s.label for s in sources if s.label is not None}))
    rows, rejects = _ingest(objects, settings, sources, classes, progress)
    return step.finish(_register(objects, settings, Dataset(settings.name, classes, rows), rejects))


def _find(folder: Path) -> Iterator[_Source]:
    if not folder.is_dir():
        raise DatasetError(f"{str(folder)!r} is no folder; give one with a sub-folder a class, --data FOLDER")
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and not p.name.startswith(".")):
        label = path.relative_to(folder).parts[0] if path.parent != folder else UNLABELED
        yield _Source(path, file_digest(path), None if label == UNLABELED else label)


def _ingest(
    store: ObjectStore,
    settings: IngestConfig,
    sources: list[_Source],
    classes: tuple[str, ...],
    progress: Progress,
) -> tuple[tuple[ImageRow, ...], list[dict[str, str]]]:
    rows: dict[str, ImageRow] = {}
    rejects: list[dict[str, str]] = []
    for done, source in enumerate(sources, 1):
        name = f"{source.label or UNLABELED}/{source.path.name}"
        truth = None if source.label is None else classes.index(source.label)
        if source.image_id in rows:
            rejects.append({"file": name, "reason": f"same bytes as {rows[source.image_id].source}"})
            continue
        try:
            data = source.path.read_bytes()
            height, width = decode(data, formats=INGEST_FORMATS).shape[:2]
        except DatasetError as error:
            rejects.append({"file": name, "reason": str(error)})
            continue
        key = f"datasets/{settings.name}/images/{source.image_id}{source.path.suffix.lower()}"
        store.put(key, data)
        rows[source.image_id] = ImageRow(source.image_id, key, None, truth, "train", width, height, name)
        progress.update(done, total=len(sources), note="images")
    return _split(tuple(rows[image_id] for image_id in sorted(rows)), settings), rejects


def _split(rows: tuple[ImageRow, ...], settings: IngestConfig) -> tuple[ImageRow, ...]:
    """Each class by itself, in the order of a hash: the same image falls on the same side in every revision,
    but for the few at a border that moves when images are added."""
    placed: list[ImageRow] = []
    for truth in sorted({row.truth for row in rows}, key=lambda t: -1 if t is None else t):
        members = sorted((r for r in rows if r.truth == truth), key=lambda r: digest(f"split:{r.image_id}".encode()))
        first = round(len(members) * settings.train)
        second = first + round(len(members) * settings.validation)
        labeled = round(first * settings.labeled_fraction)
        for rank, row in enumerate(members):
            split = "train" if rank < first else "validation" if rank < second else "test"
            label = row.truth if rank < labeled else None
            values = vars(row) | {"split": split, "label": label}
            placed.append(ImageRow(**values))
    return tuple(sorted(placed, key=lambda row: row.image_id))


def _register(
    store: ObjectStore, settings: IngestConfig, dataset: Dataset, rejects: list[dict[str, str]]
) -> dict[str, object]:
    if not dataset.rows:
        raise DatasetError(f"no image that can be used ({len(rejects)} refused); give a folder of JPEG or PNG files")
    if len(dataset.classes) < 2:
        found = dataset.classes[0] if dataset.classes else "none"
        raise DatasetError(f"a classifier needs two classes or more, found {found}; make one sub-folder a class")
    counts = dataset.counts()
    shares = {"train": settings.train, "validation": settings.validation}
    shares["test"] = 1 - sum(shares.values())
    if any(share > 0 and not counts[split] for split, share in shares.items()):
        raise DatasetError(f"{len(dataset.rows)} images are too few for three splits ({counts}); add images")
    table = to_parquet(dataset.rows)
    revision = digest(table + canonical_json(dataset.classes))
    key = f"datasets/{dataset.name}/revisions/{revision}.parquet"
    store.put(key, table)
    refused = None
    if rejects:
        lines = "".join(json.dumps(reject, sort_keys=True) + "\n" for reject in rejects).encode()
        refused = f"datasets/{dataset.name}/rejects/{digest(lines)}.jsonl"
        store.put(refused, lines)
    return {
        "name": dataset.name,
        "revision": revision,
        "table": key,
        "rejects": refused,
        "rejected": len(rejects),
        "classes": list(dataset.classes),
        "counts": counts,
    }
