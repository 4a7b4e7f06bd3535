"""Which objects nobody needs any more, and their removal in an order that a kill cannot spoil.

Roots are the records of the kept runs, the releases that are published and not withdrawn, and the manifests that the
caller adds. A root names steps' manifests by key, by digest or by what they made; a manifest names objects; a revision,
golden answers and an evaluation name pictures. `runs/` and `releases/` are never touched: the history and a TUF
repository are whole or worth nothing.

What is younger than `min_age_s`, and all that it names, is kept. A step says each day that it is in use, before it
looks for its manifest (`Step.find`): a manifest used lately is kept, and while a step was begun lately and is not
finished, nothing at all is removed, because that step may be about to rely on an object that it found in place.
"""

import json
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from edgedistill.dataset import read_parquet
from edgedistill.errors import CollectError
from edgedistill.runs import list_runs, read_record
from edgedistill.steps import USED, Manifest
from edgedistill.storage import STORED, Entry, ObjectStore, canonical_json, digest

DAY_S = 24 * 3600.0
BATCH = 200  # objects removed between two looks at whether a step has begun
_TARGETS = "releases/targets/"
# Prefix of what may be removed -> why it is, when nothing that is kept names it. The order is the order of removal:
# what names other objects goes before them, so that a kill in between leaves nothing that names what is gone.
KINDS = {
    "steps/": "steps that no kept run or release names",
    "evaluations/": "evaluations of such steps",
    "golden/": "golden answers of such steps",
    "datasets/*/revisions/": "revisions that no kept step names",
    "datasets/*/rejects/": "reject lists of such revisions",
    "datasets/*/images/": "images that no kept revision names",
    "checkpoints/": "checkpoints of finished or dead runs",
    "scores/": "score parts that no kept step names",
    "students/": "weights that no kept step or release names",
    "models/": "models that no kept step names",
    "teachers/": "teachers that no kept step names",
    "steps/*/used/": "marks that a step was in use long ago",
}


@dataclass(frozen=True)
class Removal:
    """One object that nobody needs."""

    kind: str  # a key of KINDS
    entry: Entry


@dataclass(frozen=True)
class Plan:
    """What a collection would remove; empty of removals while `busy`."""

    removals: tuple[Removal, ...]  # in the order of removal
    kept: int  # objects that stay
    busy: str | None  # a sentence about a step that is being worked on
    seen: frozenset[str]  # keys below steps/ when the plan was made

    def by_kind(self) -> dict[str, tuple[int, int]]:
        """Kind -> number of objects, bytes; only kinds that have any."""
        counts: Counter[str] = Counter()
        sizes: Counter[str] = Counter()
        for one in self.removals:
            counts[one.kind] += 1
            sizes[one.kind] += one.entry.size
        return {kind: (counts[kind], sizes[kind]) for kind in KINDS if counts[kind]}


@dataclass(frozen=True)
class _Made:
    """One step's manifest as it lies in the store."""

    key: str  # of the step
    outputs: Mapping[str, Any]

    def is_named(self, names: set[str]) -> bool:
        """By its key, by its digest, or by the revision, teacher, weights or release that it made."""
        if self.key in names or digest(canonical_json(self.outputs)) in names:
            return True
        return any(isinstance(value, str) and value in names for value in self.outputs.values())


def plan(
    store: ObjectStore,
    *,
    keep_runs: int | None,
    min_age_s: float,
    idle: bool = False,
    roots: Iterable[Manifest] = (),
) -> Plan:
    """Look at everything and decide; nothing is changed.

    Args:
        store: the object store.
        keep_runs: newest runs whose objects stay; None: all of them. Records and reports of all runs stay.
        min_age_s: what was written or used within these seconds stays.
        idle: no run goes on, so a step that was begun and not finished has failed or was killed.
        roots: manifests that lie outside the store, and that somebody relies on.
    """
    now = time.time()
    entries = {entry.key: entry for entry in store.entries("")}
    young = {key for key, entry in entries.items() if min(_last_use(entry), now) > now - min_age_s}
    steps = _steps(entries)
    seen = frozenset(key for key in entries if key.startswith("steps/"))
    if not idle and (busy := _busy(steps, young)):
        return Plan((), len(entries), busy, seen)
    outside = list(roots)
    names = _names_of_runs(store, keep_runs) | _names_of_releases(store, entries) | {one.key for one in outside}
    kept = set(young)
    texts = {text for one in outside for text in _texts(one.outputs)} | names
    for folder, files in steps.items():
        if "manifest.json" in files:
            outputs = json.loads(store.get(f"{folder}/manifest.json"))["outputs"]
            if any(f"{folder}/{file}" in young for file in files) or _Made(folder.split("/")[2], outputs).is_named(
                names
            ):
                kept |= {f"{folder}/manifest.json", f"{folder}/measured.json"}
                texts |= set(_texts(outputs))
    kept |= _named(texts, entries)
    kept |= _named_inside(store, kept, entries)
    removals = [
        Removal(kind, entry) for key, entry in entries.items() if key not in kept and (kind := _kind(key)) is not None
    ]
    order = list(KINDS)
    # Of a step, the manifest first: measured.json and marks mean nothing without it.
    removals.sort(key=lambda one: (order.index(one.kind), not one.entry.key.endswith("/manifest.json"), one.entry.key))
    return Plan(tuple(removals), len(entries) - len(removals), None, seen)


def remove(store: ObjectStore, made: Plan) -> int:
    """Remove what the plan says; gives the number of objects.

    Raises:
        CollectError: a step is being worked on, or one began meanwhile; what was removed until then nobody needs.
    """
    if made.busy:
        raise CollectError(made.busy)
    for start in range(0, len(made.removals), BATCH):
        _look(store, made, start)
        for one in made.removals[start : start + BATCH]:
            store.delete(one.entry.key)
    _look(store, made, len(made.removals))
    return len(made.removals)


def _look(store: ObjectStore, made: Plan, done: int) -> None:
    """Stop when a step has begun since the plan was made."""
    new = next((key for key in store.list("steps/") if key not in made.seen), None)
    if new is not None:
        folder = "/".join(new.split("/")[:3])
        raise CollectError(
            f"step {folder} began while {done} of {len(made.removals)} objects were removed; run gc again when its "
            f"run has ended, and should that run miss an object, remove {folder}/manifest.json and run it again"
        )


def _kind(key: str) -> str | None:
    """The kind of an object that may be removed; None for all others, known or not."""
    parts = key.split("/")
    if parts[0] == "datasets" and len(parts) > 3:
        parts[1] = "*"
    if parts[0] == "steps" and parts[-2] == USED:
        return "steps/*/used/"
    return next((kind for kind in KINDS if "/".join(parts).startswith(kind)), None)


def _last_use(entry: Entry) -> float:
    """When the object was written; a mark stands for the whole of its day."""
    parts = entry.key.split("/")
    if parts[0] == "steps" and parts[-2] == USED:
        return datetime.strptime(parts[-1], "%Y%m%d").replace(tzinfo=UTC).timestamp() + DAY_S
    return entry.modified


def _steps(entries: Iterable[str]) -> dict[str, set[str]]:
    """`steps/<step>/<key>` -> names of the files in it."""
    found: dict[str, set[str]] = {}
    for key in entries:
        parts = key.split("/", 3)
        if parts[0] == "steps" and len(parts) == 4:
            found.setdefault("/".join(parts[:3]), set()).add(parts[3])
    return found


def _busy(steps: Mapping[str, set[str]], young: set[str]) -> str | None:
    for folder, files in sorted(steps.items()):
        if "manifest.json" not in files and any(f"{folder}/{file}" in young for file in files):
            name = folder.split("/")[1]
            return (
                f"step {name} was begun lately and is not finished, so nothing is removed; wait for its run, "
                "or, when it failed or was killed and no run goes on, add --idle"
            )
    return None


def _names_of_runs(store: ObjectStore, keep: int | None) -> set[str]:
    """Keys and digests of the steps of the newest runs."""
    runs = list_runs(store)
    names: set[str] = set()
    for run_id in runs if keep is None else runs[max(0, len(runs) - keep) :]:
        record = read_record(store, run_id)
        names |= {step["key"] for step in record["steps"] if step.get("key")}
        names |= set(record["lineage"].values())
        names |= {record["dataset"]["revision"], record["teacher"]["digest"]}
        # A setting may name an object, a teacher's map of classes for one; other texts of settings are no names.
        names |= {text.removeprefix(STORED) for text in _texts(record["config"]) if text.startswith(STORED)}
    return names


def _names_of_releases(store: ObjectStore, entries: Iterable[str]) -> set[str]:
    """What the published releases that were not withdrawn were made from, and their own digests."""
    from edgedistill.signing import TIMESTAMP, list_releases

    names: set[str] = set()
    manifests = [key for key in entries if key.startswith(_TARGETS) and key.endswith(".manifest.json")]
    if not manifests or not store.exists(TIMESTAMP):
        return names
    for name in {key.removeprefix(_TARGETS).split("/")[0] for key in manifests}:
        for version, release_digest in list_releases(store, name)["releases"].items():
            names.add(release_digest)
            for key in manifests:
                if key.startswith(f"{_TARGETS}{name}/{version}/"):
                    names |= {str(value) for value in json.loads(store.get(key))["lineage"].values()}
    return names


def _texts(value: Any) -> Iterable[str]:
    """Every text inside a manifest's outputs."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for one in value.values():
            yield from _texts(one)
    elif isinstance(value, list):
        for one in value:
            yield from _texts(one)


def _named(texts: set[str], entries: Mapping[str, Entry]) -> set[str]:
    """Objects whose key, or a folder above it, is among the texts."""
    return {key for key in entries if key in texts or any(key[:i] in texts for i, c in enumerate(key) if c == "/")}


def _named_inside(store: ObjectStore, kept: set[str], entries: Mapping[str, Entry]) -> set[str]:
    """Pictures that the kept revisions, golden answers and evaluations name."""
    found: set[str] = set()
    for key in kept:
        if _kind(key) in ("datasets/*/revisions/", "evaluations/"):
            table = read_parquet(store.get(key))
            for column in {"key", "paired_key"} & set(table.column_names):
                found |= set(table.column(column).to_pylist())
        elif _kind(key) == "golden/":
            found |= {one["key"] for one in json.loads(store.get(key))}
    return found & set(entries)
