"""A step's key and its manifest: how a run finds what is already done.

key = the digests of its inputs + its settings + its code fingerprint. A step that finds the complete manifest of its
key has nothing to do. This is the only cache, on a laptop and in a cluster alike; Kubeflow's own is off, because it
keys on image, command and artifact ids (a commit misses everything, new bytes under an old address hit).
"""

import ast
import importlib.metadata
import json
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from edgedistill.errors import EdgeDistillError
from edgedistill.progress import FILE_VARIABLE, Progress
from edgedistill.storage import ObjectStore, canonical_json, digest, pretty_json

USED = "used"  # folder of a step's marks, one a day
SUBMITTER_VARIABLE = "EDGEDISTILL_SUBMITTER"  # pid of an embedded run's submitter; read by the entry point only

_ROOT = Path(__file__).resolve().parent.parent
_PACKAGES = ("edgedistill", "components", "serving")
# How a step is run and where its bytes lie, not what it computes: an edit here must not train a student again.
# Settings count by their values, which are part of the key.
_PLUMBING = frozenset(
    f"edgedistill.{name}"
    for name in ("ahead", "config", "errors", "progress", "s3_requests", "scratch", "steps", "storage", "storage_s3")
)


@dataclass(frozen=True)
class Manifest:
    """What a step made. Written last, after everything that it names."""

    step: str
    key: str  # of the step's inputs, settings and code
    outputs: Mapping[str, Any]  # values, and keys of objects in the store
    measured: Mapping[str, Any] = field(default_factory=dict)  # times and speeds; never part of the digest
    cached: bool = False  # there was nothing to do
    seconds: float = 0.0  # this run's own time

    @property
    def digest(self) -> str:
        """SHA-256 of the outputs: equal results give equal keys downstream, whatever code made them."""
        return digest(canonical_json(self.outputs))


@dataclass(frozen=True)
class Step:
    """One unit of work that is done at most once."""

    store: ObjectStore
    name: str
    key: str

    @staticmethod
    def of(
        store: ObjectStore,
        name: str,
        *,
        module: str,
        inputs: Mapping[str, str],
        settings: Any = None,
        libraries: Iterable[str] = (),
    ) -> "Step":
        """A step from the digests of its inputs, its settings (a dataclass) and the module that does the work."""
        values = asdict(settings) if settings else {}
        parts = {"inputs": dict(inputs), "settings": values, "code": fingerprint(module, tuple(libraries))}
        return Step(store, name, digest(canonical_json(parts))[:32])

    def find(self) -> Manifest | None:
        """The manifest, when the work was done before.

        Whoever asks is about to rely on it, or to do the work, so the step is marked before it is looked for.
        """
        self.mark()
        return self.peek()

    def mark(self) -> None:
        """Say that the step is in use today; `edgedistill gc` keeps what is marked."""
        mark = f"{self._folder}/{USED}/{datetime.now(UTC):%Y%m%d}"
        if not self.store.exists(mark):
            self.store.put(mark, b"")

    def peek(self) -> Manifest | None:
        """The manifest, for who only reads about it."""
        if not self.store.exists(self._path):
            return None
        document = json.loads(self.store.get(self._path))
        measured = json.loads(self.store.get(self._measured)) if self.store.exists(self._measured) else {}
        return Manifest(self.name, self.key, document["outputs"], measured, cached=True)

    def finish(self, outputs: Mapping[str, Any], measured: Mapping[str, Any] | None = None) -> Manifest:
        """Write the manifest; the first complete one wins, so a second worker returns what the first one wrote."""
        if not self.store.exists(self._measured):
            self.store.put(self._measured, pretty_json(measured or {}))
        if not self.store.exists(self._path):
            self.store.put(self._path, pretty_json({"step": self.name, "key": self.key, "outputs": outputs}))
        found = self.peek()
        assert found is not None  # it was just written
        return replace(found, cached=False)

    @property
    def _folder(self) -> str:
        return f"steps/{self.name}/{self.key}"

    @property
    def _path(self) -> str:
        return f"{self._folder}/manifest.json"

    @property
    def _measured(self) -> str:
        return f"{self._folder}/measured.json"


def read_manifest(path: Path) -> Manifest:
    """A manifest that came as a pipeline artifact."""
    return Manifest(**json.loads(path.read_text()))


def execute(artifact: Any, run: Callable[..., Manifest], **arguments: Any) -> None:
    """Run one step as a Kubeflow component does: artifacts in, one artifact out. The entry point of every component.

    Every argument that has a `.path` is read as a Manifest. `artifact` gets the new manifest as its content and its
    key, seconds and `cached` as metadata, where the run's report and Kubeflow's UI find them.
    """
    file, submitter = os.environ.get(FILE_VARIABLE), os.environ.get(SUBMITTER_VARIABLE)
    if submitter:
        threading.Thread(target=_end_with, args=(int(submitter),), daemon=True).start()
    name = "_".join(filter(None, (run.__module__.split(".")[-2], arguments.get("mode"))))
    progress = Progress(Path(file) if file else None, step=name)
    values = {k: read_manifest(Path(v.path)) if hasattr(v, "path") else v for k, v in arguments.items()}
    began = time.perf_counter()
    progress.started()
    try:
        made = run(**values, progress=progress)
    except EdgeDistillError as error:
        progress.failed(str(error))
        raise SystemExit(str(error)) from error
    made = replace(made, seconds=round(time.perf_counter() - began, 3))
    target = Path(artifact.path)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(pretty_json(asdict(made)))
    artifact.metadata.update(key=made.key, digest=made.digest, seconds=made.seconds, cached=made.cached)
    progress.finished(seconds=made.seconds, cached=made.cached)


def _end_with(submitter: int) -> None:
    """End this step when the process that submitted the run is gone, so that a killed run leaves nothing working."""
    while True:
        try:
            os.kill(submitter, 0)
        except ProcessLookupError:
            os._exit(1)
        time.sleep(1)


@cache
def fingerprint(module: str, libraries: tuple[str, ...] = ()) -> str:
    """SHA-256 over this repository's modules that `module` imports (itself too) and the libraries' versions.

    Comments and docstrings do not count; an import inside a function does. Found by reading, not by importing:
    a cached step never pays for torch.
    """
    seen: dict[str, str] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        path = _source(name)
        if name in seen or name in _PLUMBING or path is None:
            continue
        tree = ast.parse(path.read_text())
        waiting += _imports(tree)
        seen[name] = digest(ast.dump(_without_docstrings(tree)).encode())
    versions = {library: importlib.metadata.version(library) for library in libraries}
    return digest(canonical_json({"modules": seen, "libraries": versions}))


def _source(module: str) -> Path | None:
    if module.split(".")[0] not in _PACKAGES:
        return None
    path = _ROOT.joinpath(*module.split(".")).with_suffix(".py")
    return path if path.is_file() else None


def _imports(tree: ast.Module) -> list[str]:
    names: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.append(node.module)
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


def _without_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                node.body = node.body[1:]
    return tree
