"""The int8 student as a signed release; with a missed gate, nothing."""

import contextlib
import fcntl
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from edgedistill import __version__
from edgedistill.bundle import write_bundle
from edgedistill.images import encode_png
from edgedistill.progress import Progress
from edgedistill.signing import init_repository, list_releases, next_version, publish
from edgedistill.steps import Manifest, Step, fingerprint
from edgedistill.storage import ObjectStore, canonical_json, digest, open_store, pretty_json


def run(
    *,
    store: str,
    keys: str,
    config: dict[str, Any],
    images: Manifest,
    teacher: Manifest,
    scores: Manifest,
    student: Manifest,
    models: Manifest,
    evaluation: Manifest,
    progress: Progress,
) -> Manifest:
    """Bundle and publish.

    Args:
        store: address of the object store; the TUF repository is in it.
        keys: folder of the signing keys; made with a new repository.
        config: the whole RunConfig as a mapping; its digest goes into the lineage.
        images, teacher, scores, student, models, evaluation: what the steps made; the lineage names them.
        progress: unused; the step takes a second.

    Returns:
        outputs: name, version and digest of the release (version and digest null when a gate was missed), gates.

    Raises:
        SigningError: a key is missing or of another repository.
        SwapConflict: somebody else published meanwhile.
    """
    objects = open_store(store)
    gates = models.outputs["gates"]
    name = images.outputs["name"]
    if not all(one["passed"] for one in gates):
        return Manifest("publish_release", "", {"name": name, "version": None, "digest": None, "gates": gates})
    step = Step.of(
        objects,
        "publish_release",
        module="components.publish_release.run",
        inputs={"images": images.digest, "models": models.digest, "evaluation": evaluation.digest},
    )
    if done := step.find():
        return done
    lineage = {
        "dataset": images.outputs["revision"],
        "teacher": teacher.outputs["digest"],
        "scores": scores.digest,
        "student": student.outputs["weights"],
        "config": digest(canonical_json(config)),
        "code": fingerprint("components.distill_student.run"),
        "edgedistill": __version__,
    }

    def bundle(folder: Path, plan: Mapping[str, Any]) -> str:
        """Write the bundle of one planned release into the folder, and give its digest."""
        manifest = write_bundle(
            folder,
            name=name,
            version=plan["version"],
            created=plan["created"],
            model_xml=objects.get(models.outputs["int8"]["xml"]),
            model_bin=objects.get(models.outputs["int8"]["bin"]),
            labels=teacher.outputs["labels"],
            size=models.outputs["size"],
            golden=_golden(objects, evaluation),
            metrics=evaluation.outputs["metrics"],
            gates=gates,
            lineage=lineage,
            class_counts=evaluation.outputs["class_counts"],
        )
        return manifest.digest

    with _alone(Path(keys)):
        if done := step.find():  # by a run beside this one
            return done
        init_repository(objects, Path(keys))
        version, released = _publish(step, Path(keys), name, bundle)
        return step.finish({"name": name, "version": version, "digest": released, "gates": gates})


def _publish(step: Step, keys: Path, name: str, bundle: Callable[[Path, Mapping[str, Any]], str]) -> tuple[int, str]:
    """Version and digest of the release of this step's key.

    Version and time are written down before: a run that was killed after it published finds its own release again,
    and does not make a second one of the same student.
    """
    prefix = f"steps/{step.name}/{step.key}/planned-"
    for key in step.store.list(prefix):
        plan = json.loads(step.store.get(key))
        index = list_releases(step.store, name)
        with tempfile.TemporaryDirectory() as folder:
            made = bundle(Path(folder), plan)
            there = index["releases"].get(str(plan["version"]))
            if there == made or plan["version"] > index["latest"]:
                publish(step.store, keys, Path(folder))
                return plan["version"], made
    plan = {"version": next_version(step.store, name), "created": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")}
    step.store.put(f"{prefix}{plan['version']:06d}.json", pretty_json(plan))
    with tempfile.TemporaryDirectory() as folder:
        made = bundle(Path(folder), plan)
        publish(step.store, keys, Path(folder))
    return plan["version"], made


@contextlib.contextmanager
def _alone(keys: Path) -> Iterator[None]:
    """One publisher at a time with these keys on this machine: two runs on one store then make one sequence of
    releases, and neither fails. Publishers on several machines are kept apart by the swap of the timestamp."""
    keys.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor = os.open(keys, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _golden(store: ObjectStore, evaluation: Manifest) -> list[tuple[bytes, list[float]]]:
    """The golden pictures as PNG (a node reads JPEG and PNG only) and their expected answers."""
    from edgedistill.images import INGEST_FORMATS, decode

    golden = []
    for one in json.loads(store.get(evaluation.outputs["golden"]["key"])):
        data = store.get(one["key"])
        picture = data if data.startswith(b"\x89PNG") else encode_png(decode(data, formats=INGEST_FORMATS))
        golden.append((picture, one["logits"]))
    return golden
