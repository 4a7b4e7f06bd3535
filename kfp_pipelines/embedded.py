"""The whole way on one machine: a folder or a bucket as store, Triton on loopback, kfp's local runner, a local node."""

import fcntl
import re
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from components.deploy_teacher.run import LOCAL
from components.ingest_images.sources import absolute
from components.publish_teacher.run import absolute_teacher, read_map_file
from edgedistill.config import IngestConfig, RunConfig
from edgedistill.dataset import read_dataset, read_pixels
from edgedistill.demo import write_demo
from edgedistill.errors import NodeError
from edgedistill.history import recording
from edgedistill.images import encode_png
from edgedistill.local_copy import local_releases
from edgedistill.place import Place
from edgedistill.runs import new_run_id, now, read_record
from edgedistill.signing import TIMESTAMP
from edgedistill.steps import Manifest, Step, fingerprint, read_manifest
from edgedistill.storage import STORED, ObjectStore, canonical_json, digest
from kfp_pipelines.submit import Event, Workplace, run_local
from serving.host import hosting

NODE_S = 60.0


@dataclass(frozen=True)
class Answer:
    """What the local node said to a test image."""

    source: str
    expected: str | None
    label: str
    version: int


def run_embedded(
    place: Place,
    config: RunConfig,
    *,
    data: str | None,
    teacher: str | None,
    teacher_labels: Path | None = None,
    demo_share: float,
    on_event: Callable[[Event], None],
) -> dict[str, Any]:
    """Run the distillation pipeline and give its record.

    Args:
        place: folder of the embedded runs.
        config: the run's settings.
        data: the user's images, in one of the forms of docs/data.md; None: the built-in demo.
        teacher: path of an ONNX file, or timm:NAME[@FILE] or torchvision:NAME[@FILE]; None: the demo's teacher, trained
            on somebody else's images, or one trained on the labelled part of the user's.
        teacher_labels: CSV of teacher,class; None: the teacher's classes are the data set's.
        demo_share: share of the demo's images, for tests.
        on_event: called with each line of progress.

    Raises:
        EdgeDistillError: a step failed, or a gate was missed.
    """
    place.open().exists(TIMESTAMP)  # what is wrong with the address or the credentials is said before any work
    if teacher_labels:
        config = _with_map(place, config, teacher_labels)
    run_id = new_run_id()
    with recording(place.open(), run_id=run_id, target="local", config=asdict(config), on_event=on_event) as seen:
        return _run(place, config, run_id, data=data, teacher=teacher, demo_share=demo_share, on_event=seen)


def _run(
    place: Place,
    config: RunConfig,
    run_id: str,
    *,
    data: str | None,
    teacher: str | None,
    demo_share: float,
    on_event: Callable[[Event], None],
) -> dict[str, Any]:
    images = absolute(data) if data else ""
    work = Workplace((place.folder / "work" / run_id).resolve())
    demo = None if data else write_demo(place.folder / "demo" / f"{demo_share:g}", share=demo_share)
    labels_used = 0
    if teacher is None:
        if demo:
            made = _demo_teacher(place, config, demo.theirs, work, on_event)
        else:
            made = _own_teacher(place, config, images, work, on_event)
        teacher, labels_used = f"{STORED}{made.outputs['onnx']}", made.outputs["labels_used"]
    with work.occupied(), hosting(work.scratch) as (_, socket):
        arguments = {
            "store": place.store,
            "data": images or (str(demo.ours.resolve()) if demo else ""),
            "teacher": absolute_teacher(teacher),
            "host": f"{LOCAL}{socket}",
            "keys": str(place.keys),
            "run_id": run_id,
            "started": now(),
            "target": "local",
            "labels_used": labels_used,
            "config": asdict(config),
            "ingest": asdict(config.ingest),
            "teaching": asdict(config.teacher),
            "score": asdict(config.score),
            "distill": asdict(config.distill),
            "quantize": asdict(config.quantize),
        }
        run_local("distillation", arguments, work, on_event=on_event)
    return read_record(place.open(), run_id)


def ask_local_node(place: Place, record: dict[str, Any]) -> Answer:
    """Start a node on the releases, let it activate the run's release, and ask it about one test image over gRPC.

    A state folder belongs to one node: of two runs that end together, the second one waits for the first one's node.

    Raises:
        NodeError: it does not serve the release in time.
    """
    store = place.open()
    release = record["release"]
    name, version = release["name"], release["version"]
    releases = local_releases(store, place.folder / "releases", name=name, version=version)
    state = place.folder / "node" / f"{name}-{digest(place.store.encode())[:8]}"  # one repository's, one name's
    command = [sys.executable, "-m", "edge.node", "--releases", str(releases)]
    command += ["--root", str(releases / "metadata" / "1.root.json"), "--state", str(state)]
    command += ["--name", name, "--version", str(version), "--node-name", "local"]
    command += ["--http-port", "0", "--grpc-port", "0", "--poll-s", "0.2"]
    log = place.folder / "node.log"
    with (place.folder / "node.lock").open("w") as lock, log.open("ab") as sink:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=sink, text=True) as node:
            try:
                return _ask(node, store, record, log)
            finally:
                node.terminate()


def _ask(node: "subprocess.Popen[str]", store: ObjectStore, record: dict[str, Any], log: Path) -> Answer:
    from tritonclient.grpc import InferenceServerClient, InferInput
    from tritonclient.utils import InferenceServerException

    release = record["release"]
    row = read_dataset(store, _ingested(store, record)).split("test")[0]
    picture = store.get(row.key) if row.key.endswith((".jpg", ".png")) else encode_png(read_pixels(store, row))
    tensor = InferInput("image", [1], "BYTES")
    tensor.set_data_from_numpy(np.array([picture], dtype=np.object_))
    assert node.stdout is not None
    found = re.search(r"grpc://(\S+)", node.stdout.readline())
    if found is None:
        raise NodeError(f"the local node did not start; the reason is in {log}")
    try:
        with InferenceServerClient(found[1]) as client:
            deadline = time.monotonic() + NODE_S
            while not client.is_model_ready(release["name"], str(release["version"])):
                if time.monotonic() > deadline:
                    raise NodeError(
                        f"the local node does not serve release {release['version']}; the reason is in {log}"
                    )
                time.sleep(0.1)
            answer = client.infer(release["name"], [tensor])
    except InferenceServerException as error:
        raise NodeError(f"the local node does not answer: {error.message()}; the reason is in {log}") from error
    classes = record["labels"]
    label = classes[int(answer.as_numpy("logits").argmax())]
    truth = None if row.truth is None else classes[row.truth]
    return Answer(row.source, truth, label, int(answer.get_response().model_version))


def _ingested(store: ObjectStore, record: dict[str, Any]) -> Manifest:
    """The manifest of the run's ingest step, by the key that the record names."""
    key = next(step["key"] for step in record["steps"] if step["name"] == "ingest_images")
    if found := Step(store, "ingest_images", key).peek():
        return found
    raise NodeError(f"revision {record['dataset']['revision'][:12]} is not in the store; run the pipeline again")


def _with_map(place: Place, config: RunConfig, path: Path) -> RunConfig:
    """The map goes into the store: a step elsewhere reads it, and the run's settings name its content."""
    text = read_map_file(path).encode()
    key = f"teachers/maps/{digest(text)}.csv"
    place.open().put(key, text)
    return replace(config, teacher=replace(config.teacher, labels=f"{STORED}{key}"))


def _own_teacher(
    place: Place, config: RunConfig, images: str, work: Workplace, on_event: Callable[[Event], None]
) -> Manifest:
    """A teacher of the user's own labels, of the very revision that the distillation then uses."""
    arguments = {
        "store": place.store,
        "data": images,
        "policy": config.score.policy,
        "ingest": asdict(config.ingest),
        "train": asdict(config.train_teacher),
    }
    with work.occupied():
        run_local("teacher", arguments, work, on_event=on_event)
    return read_manifest(max(work.outputs.glob("edgedistill-teacher-*/train-teacher/model")))


def _demo_teacher(
    place: Place, config: RunConfig, images: Path, work: Workplace, on_event: Callable[[Event], None]
) -> Manifest:
    """The demo's teacher: somebody else's images, all labelled, nothing held out.

    Its pipeline is not even started when the same teacher was made before: kfp alone takes seconds to load.
    """
    theirs = IngestConfig(name="demo-theirs", labeled_fraction=1.0, train=1.0, validation=0.0)
    arguments = {
        "store": place.store,
        "data": str(images.resolve()),
        "policy": config.score.policy,
        "ingest": asdict(theirs),
        "train": asdict(config.train_teacher),
    }
    code = fingerprint("components.train_teacher.run", ("torch", "onnx", "onnxscript"))
    memo = images.parent / f"teacher-{digest(canonical_json([arguments, code]))[:32]}.json"
    # The store may have been emptied, or be another one of the same name, since the memo was written.
    if not memo.exists() or not place.open().exists(read_manifest(memo).outputs["onnx"]):
        with work.occupied():
            run_local("teacher", arguments, work, on_event=on_event)
        made = max(work.outputs.glob("edgedistill-teacher-*/train-teacher/model"))
        made.replace(memo)
    return read_manifest(memo)
