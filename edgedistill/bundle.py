"""A release bundle: a folder with one student, what it needs to be checked, and where it came from.

    manifest.json model.xml model.bin labels.txt golden/000.png ...

The manifest names every other file with its digest; the release's digest is the manifest's. Nothing in a bundle is
executed or unpacked.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from edgedistill import __version__
from edgedistill.errors import RefusedRelease
from edgedistill.storage import digest, file_digest, pretty_json

FORMAT = 1
MANIFEST = "manifest.json"
MAX_FILES, MAX_BYTES, MAX_SIDE, MAX_CLASSES, MAX_COUNT = 200, 1 << 30, 4096, 100_000, 10**9
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_FILE = re.compile(r"(model\.xml|model\.bin|labels\.txt|golden/[0-9]{3}\.(png|jpg))")


@dataclass(frozen=True)
class BundleFile:
    sha256: str
    size_bytes: int


@dataclass(frozen=True)
class Golden:
    """A picture and the answer that the int8 student gave when it was made."""

    file: str
    logits: tuple[float, ...]  # (K,)


@dataclass(frozen=True)
class Manifest:
    """What a node checks before it serves a release."""

    name: str
    version: int  # rises with every release of the name
    created: str  # UTC, ISO 8601
    size: int  # the input is uint8 (B, size, size, 3), RGB, NHWC
    classes: int  # the output is float32 (B, classes) logits
    files: Mapping[str, BundleFile]
    golden: tuple[Golden, ...]
    golden_tolerance: float  # largest absolute difference of a logit; the argmax must be equal too
    metrics: Mapping[str, Any] = field(default_factory=dict)
    gates: Sequence[Mapping[str, Any]] = ()
    lineage: Mapping[str, Any] = field(default_factory=dict)
    minimum_runtime: Mapping[str, str] = field(default_factory=lambda: {"edgedistill": __version__})
    # (K,) images of the data set's test split that the int8 student gives each class, whatever their label: what a node
    # compares its own answers with. Counts, so that their chance error is known. (): released before there were any.
    class_counts: tuple[int, ...] = ()

    def to_json(self) -> bytes:
        """The bytes of manifest.json."""
        document = asdict(self) | {
            "format": FORMAT,
            "input": {"name": "image", "datatype": "UINT8", "layout": "NHWC", "size": self.size, "channels": 3},
            "output": {"name": "logits", "datatype": "FP32", "classes": self.classes},
        }
        del document["size"], document["classes"]
        if not self.class_counts:
            del document["class_counts"]  # the bytes of an older release, whose digest is signed, must come out again
        return pretty_json(document)

    @property
    def digest(self) -> str:
        """The release's digest: SHA-256 of manifest.json."""
        return digest(self.to_json())

    @staticmethod
    def parse(data: bytes) -> "Manifest":
        """Read manifest.json strictly.

        Raises:
            RefusedRelease: `bad_manifest`, with what is wrong.
        """
        try:
            document = json.loads(data)
            if document["format"] != FORMAT:
                raise ValueError(f"format {document['format']!r}, expected {FORMAT}")
            manifest = Manifest(
                name=_checked(document["name"], _NAME),
                version=_whole(document["version"], 2**31),
                created=str(document["created"]),
                size=_whole(document["input"]["size"], MAX_SIDE),
                classes=_whole(document["output"]["classes"], MAX_CLASSES),
                files={
                    _checked(name, _FILE): BundleFile(str(f["sha256"]), _whole(f["size_bytes"], MAX_BYTES, least=0))
                    for name, f in document["files"].items()
                },
                golden=tuple(
                    Golden(_checked(g["file"], _FILE), tuple(float(x) for x in g["logits"])) for g in document["golden"]
                ),
                golden_tolerance=float(document["golden_tolerance"]),
                metrics=document["metrics"],
                gates=tuple(document["gates"]),
                lineage=document["lineage"],
                minimum_runtime=document["minimum_runtime"],
                class_counts=tuple(_whole(n, MAX_COUNT, least=0) for n in document.get("class_counts", ())),
            )
            _check_whole(manifest)
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
            raise RefusedRelease(
                "bad_manifest", f"the release's manifest is refused: {error!r}; publish it again"
            ) from None
        if manifest.to_json() != data:
            raise RefusedRelease("bad_manifest", "the release's manifest has fields that this version does not know")
        return manifest


def write_bundle(
    folder: Path,
    *,
    name: str,
    version: int,
    created: str,
    model_xml: bytes,
    model_bin: bytes,
    labels: Sequence[str],
    size: int,
    golden: Sequence[tuple[bytes, Sequence[float]]],
    golden_tolerance: float = 0.5,
    metrics: Mapping[str, Any] | None = None,
    gates: Sequence[Mapping[str, Any]] = (),
    lineage: Mapping[str, Any] | None = None,
    class_counts: Sequence[int] = (),
) -> Manifest:
    """Write a bundle; the manifest last.

    Args:
        folder: made if absent; must be empty.
        name: of the student, lower case.
        version: rises with every release of the name.
        created: UTC, ISO 8601.
        model_xml: OpenVINO IR, `image` uint8 (B, size, size, 3) -> `logits` float32 (B, K).
        model_bin: its weights.
        labels: K class names.
        size: side of the input, pixels.
        golden: PNG or JPEG bytes, and the (K,) logits expected for each.
        golden_tolerance: largest absolute difference of a logit.
        metrics: of teacher, vanilla, fp32 and int8.
        gates: the gates' table.
        lineage: digests of what it was made from.
        class_counts: K counts of the int8 student's answers on the test split.
    """
    contents = {
        "model.xml": model_xml,
        "model.bin": model_bin,
        "labels.txt": "".join(f"{x}\n" for x in labels).encode(),
    }
    answers = []
    for i, (picture, logits) in enumerate(golden):
        suffix = "png" if picture.startswith(b"\x89PNG") else "jpg"
        file = f"golden/{i:03d}.{suffix}"
        contents[file] = picture
        answers.append(Golden(file, tuple(float(x) for x in logits)))
    manifest = Manifest(
        name=name,
        version=version,
        created=created,
        size=size,
        classes=len(labels),
        files={file: BundleFile(digest(data), len(data)) for file, data in contents.items()},
        golden=tuple(answers),
        golden_tolerance=golden_tolerance,
        metrics=metrics or {},
        gates=tuple(gates),
        lineage=lineage or {},
        class_counts=tuple(class_counts),
    )
    Manifest.parse(manifest.to_json())  # what we write, a node must accept
    for file, data in contents.items():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_bytes(data)
    (folder / MANIFEST).write_bytes(manifest.to_json())
    return manifest


def read_bundle(folder: Path) -> Manifest:
    """Check a bundle on disk: every file there, with its digest, and no other.

    Raises:
        RefusedRelease: `missing_file`, `extra_file`, `wrong_digest` or `bad_manifest`.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise RefusedRelease("missing_file", f"{folder} has no {MANIFEST}; publish the release again")
    manifest = Manifest.parse(path.read_bytes())
    present = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if not p.is_dir() or p.is_symlink()}
    if extra := sorted(present - set(manifest.files) - {MANIFEST}):
        raise RefusedRelease("extra_file", f"the release holds {extra[0]!r}, which its manifest does not name")
    for name, expected in manifest.files.items():
        file = folder / name
        if not file.is_file() or file.is_symlink():
            raise RefusedRelease("missing_file", f"the release lacks {name}, which its manifest names")
        if file.stat().st_size != expected.size_bytes or file_digest(file) != expected.sha256:
            raise RefusedRelease("wrong_digest", f"{name} is not the file that the manifest names; fetch it again")
    return manifest


def read_labels(folder: Path) -> tuple[str, ...]:
    """The class names of a checked bundle, in the logits' order."""
    return tuple((folder / "labels.txt").read_text().splitlines())


def _check_whole(manifest: Manifest) -> None:
    if len(manifest.files) > MAX_FILES or not {"model.xml", "model.bin", "labels.txt"} <= set(manifest.files):
        raise ValueError(f"{len(manifest.files)} files, expected model.xml, model.bin, labels.txt and golden images")
    if (total := sum(file.size_bytes for file in manifest.files.values())) > MAX_BYTES:
        raise ValueError(f"{total} bytes in all files, expected at most {MAX_BYTES}")
    if not manifest.golden:
        raise ValueError("no golden image")
    if manifest.class_counts and (len(manifest.class_counts) != manifest.classes or not any(manifest.class_counts)):
        raise ValueError(f"class_counts are not {manifest.classes} numbers of which one is above 0")
    for golden in manifest.golden:
        if golden.file not in manifest.files or len(golden.logits) != manifest.classes:
            raise ValueError(f"golden image {golden.file} is not among the files or has not {manifest.classes} logits")


def _checked(value: Any, pattern: re.Pattern[str]) -> str:
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise ValueError(f"{value!r} is not allowed here")
    return value


def _whole(value: Any, limit: int, *, least: int = 1) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= limit:
        raise ValueError(f"{value!r} is no whole number from {least} to {limit}")
    return value
