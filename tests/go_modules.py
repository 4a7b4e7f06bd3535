"""Programs built from published Go modules and kept in the cache; the sums in go.sum are checked by Go.

The cache's key is what decides the result: the module files and the compiler. What is found there is checked against
the digests that were written when it was built.

    python -m tests.go_modules helm helm3 minio

builds ahead of the tests, whose time limits are not meant for a compiler.
"""

import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
CACHE = Path.home() / ".cache" / "edgedistill"
MODULES = {
    "kubernetes": HERE / "cluster",
    "helm": HERE / "cluster" / "helm",
    "helm3": HERE / "cluster" / "helm3",
    "storage": HERE / "cluster" / "storage",
    "minio": HERE / "minio",
}


def built(module: str) -> Path:
    """Folder with the programs that the `tool` lines of one go.mod name; builds them unless the cache has them whole.

    Raises:
        FileNotFoundError: no Go here.
        subprocess.CalledProcessError: the build failed.
    """
    if shutil.which("go") is None:
        raise FileNotFoundError(f"no go on PATH; the tests build {module} with it: install Go")
    source = MODULES[module]
    compiler = subprocess.run(["go", "env", "GOVERSION"], check=True, capture_output=True, text=True).stdout.strip()
    digest = hashlib.sha256()
    flags = _linker_flags((source / "go.mod").read_text())
    for part in ((source / "go.mod").read_bytes(), (source / "go.sum").read_bytes(), f"{compiler} {flags}".encode()):
        digest.update(part)
    folder = CACHE / f"{module}-{digest.hexdigest()[:16]}"
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / f"{module}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not _is_whole(folder):
            _build(source, folder, flags)
    return folder


def _is_whole(folder: Path) -> bool:
    try:
        digests = json.loads((folder / "digests.json").read_text())
        return bool(digests) and all(_sha256(folder / name) == value for name, value in digests.items())
    except (OSError, ValueError):
        return False


def _build(source: Path, folder: Path, flags: str) -> None:
    print(f"building {folder.name} from Go modules; minutes the first time", file=sys.stderr, flush=True)
    temporary = folder.with_name(f"{folder.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    command = ["go", "build", "-trimpath", f"-ldflags={flags}", "-o", f"{temporary}/", "tool"]
    environment = os.environ | {"CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly", "GOTOOLCHAIN": "local"}
    try:
        subprocess.run(command, cwd=source, env=environment, check=True)
        digests = {path.name: _sha256(path) for path in sorted(temporary.iterdir())}
        (temporary / "digests.json").write_text(json.dumps(digests, indent=2))
        shutil.rmtree(folder, ignore_errors=True)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _linker_flags(modules: str) -> str:
    """Kubernetes learns its version from the linker; without it the chart's kubeVersion refuses the server."""
    found = re.search(r"k8s.io/kubernetes v((\d+)\.(\d+)\.\d+)", modules)
    if not found:
        return "-s -w"
    values = {"gitVersion": f"v{found[1]}", "gitMajor": found[2], "gitMinor": found[3]}
    return "-s -w " + " ".join(f"-X k8s.io/component-base/version.{name}={value}" for name, value in values.items())


def _sha256(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


if __name__ == "__main__":
    if shutil.which("go") is None:
        print("no Go here: the tests of helm and MinIO are skipped", file=sys.stderr)
    else:
        for wanted in sys.argv[1:]:
            built(wanted)
