"""The int8 student as a signed release; with a missed gate, nothing."""

import json
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from edgedistill import __version__
from edgedistill.bundle import write_bundle
from edgedistill.images import encode_png
from edgedistill.progress import Progress
from edgedistill.signing import init_repository, next_version, publish
from edgedistill.steps import Manifest, Step, fingerprint
from edgedistill.storage import ObjectStore, canonical_json, digest, open_store


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
    init_repository(objects, Path(keys))
    lineage = {
        "dataset": images.outputs["revision"],
        "teacher": teacher.outputs["digest"],
        "scores": scores.digest,
        "student": student.outputs["weights"],
        "config": digest(canonical_json(config)),
        "code": fingerprint("components.distill_student.run"),
        "edgedistill": __version__,
    }
    version = next_version(objects, name)
    with tempfile.TemporaryDirectory() as folder:
        manifest = write_bundle(
            Path(folder),
            name=name,
            version=version,
            created=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            model_xml=objects.get(models.outputs["int8"]["xml"]),
            model_bin=objects.get(models.outputs["int8"]["bin"]),
            labels=images.outputs["classes"],
            size=models.outputs["size"],
            golden=_golden(objects, evaluation),
            metrics=evaluation.outputs["metrics"],
            gates=gates,
            lineage=lineage,
        )
        publish(objects, Path(keys), Path(folder))
    return step.finish({"name": name, "version": version, "digest": manifest.digest, "gates": gates})


def _golden(store: ObjectStore, evaluation: Manifest) -> list[tuple[bytes, list[float]]]:
    """The golden pictures as PNG (a node reads JPEG and PNG only) and their expected answers."""
    from edgedistill.images import INGEST_FORMATS, decode

    golden = []
    for one in json.loads(store.get(evaluation.outputs["golden"]["key"])):
        data = store.get(one["key"])
        picture = data if data.startswith(b"\x89PNG") else encode_png(decode(data, formats=INGEST_FORMATS))
        golden.append((picture, one["logits"]))
    return golden
