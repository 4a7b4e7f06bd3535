"""Container images without a registry: a Debian root by debootstrap under the name that the Containerfile asks for."""

import hashlib
import io
import json
import os
import re
import shutil
import sys
import tarfile
from functools import cache
from pathlib import Path

from tests.cluster.testbed.edge_nodes import PAUSE
from tests.cluster.testbed.processes import run
from tests.go_modules import CACHE

REPOSITORY = Path(__file__).resolve().parents[3]
CONTAINERFILE = REPOSITORY / "edge" / "Containerfile"
EDGE_IMAGE = "localhost/edgedistill-edge:testbed"
SECOND_IMAGE = f"{EDGE_IMAGE}-2"  # works as the first one does
BROKEN_IMAGE = f"{EDGE_IMAGE}-broken"  # its process ends at once with status 1
CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"
_PAUSE_SOURCE = """
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

static void ended(int number) { (void)number; _exit(0); }
static void reap(int number) { (void)number; while (waitpid(-1, 0, WNOHANG) > 0) {} }

int main(void) {
    signal(SIGINT, ended);
    signal(SIGTERM, ended);
    signal(SIGCHLD, reap);
    for (;;) pause();
}
"""


def build_images(folder: Path) -> list[Path]:
    """Archives of all images; the edge image is built from the repository's own Containerfile.

    buildah's layers are kept in the cache, so an unchanged lock file is not installed again.
    """
    folder.mkdir(parents=True, exist_ok=True)
    edge = _edge(folder)
    _add_variant(edge, SECOND_IMAGE, Labels={"edgedistill.dev/test": "second"})
    _add_variant(edge, BROKEN_IMAGE, Entrypoint=["/bin/false"])
    return [_pause(folder), edge]


def _add_variant(archive: Path, name: str, **changes: object) -> None:
    """Add an image of the same layers, with another configuration, to an archive that holds its original first."""
    with tarfile.open(archive) as tar:  # the newest member of a name counts, here and for containerd
        images = json.loads(_member(tar, "manifest.json"))
        config = json.loads(_member(tar, images[0]["Config"]))
    config["config"] |= changes
    data = json.dumps(config).encode()
    file = f"{hashlib.sha256(data).hexdigest()}.json"
    images.append({"Config": file, "RepoTags": [name], "Layers": images[0]["Layers"]})
    with tarfile.open(archive, "a") as tar:
        for member, content in ((file, data), ("manifest.json", json.dumps(images).encode())):
            header = tarfile.TarInfo(member)
            header.size = len(content)
            tar.addfile(header, io.BytesIO(content))


def _member(tar: tarfile.TarFile, name: str) -> bytes:
    found = tar.extractfile(name)
    assert found is not None, f"{name} is not a file of the archive"
    return found.read()


def _edge(folder: Path) -> Path:
    base = _base_image()
    if not _buildah("images", "--quiet", "--filter", f"reference={base}").strip():
        _make_base(base, folder)
    arguments = ["bud", "--layers", "--isolation", "chroot", "--network", "host", "--pull-never"]
    if Path(CERTIFICATES).exists():
        arguments += ["--volume", f"{CERTIFICATES}:/run/host-ca.crt:ro", "--build-arg", "PIP_CERT=/run/host-ca.crt"]
    print("building the edge image", file=sys.stderr, flush=True)
    _buildah(*arguments, "--tag", EDGE_IMAGE, "--file", str(CONTAINERFILE), str(REPOSITORY))
    return _archive(EDGE_IMAGE, folder / "edge.tar")


def _base_image() -> str:
    found = set(re.findall(r"^FROM (\S+)", CONTAINERFILE.read_text(), re.MULTILINE))
    if len(found) != 1:
        raise RuntimeError(f"{CONTAINERFILE} has base images {sorted(found)}; expected one")
    return found.pop()


def _make_base(name: str, folder: Path) -> None:
    print(f"making {name} by debootstrap", file=sys.stderr, flush=True)
    root = folder / "debian"
    shutil.rmtree(root, ignore_errors=True)
    try:
        run("debootstrap", "--variant=minbase", "bookworm", str(root))
        shutil.rmtree(root / "var/cache/apt", ignore_errors=True)
        _commit_root(root, name)
    finally:
        shutil.rmtree(root, ignore_errors=True)


def _pause(folder: Path) -> Path:
    root = folder / "pause"
    root.mkdir(exist_ok=True)
    source = folder / "pause.c"
    source.write_text(_PAUSE_SOURCE)
    run("gcc", "-static", "-Os", "-o", str(root / "pause"), str(source))
    _commit_root(root, PAUSE, entrypoint='["/pause"]')
    return _archive(PAUSE, folder / "pause.tar")


def _commit_root(root: Path, name: str, *, entrypoint: str = "[]") -> None:
    container = _buildah("from", "--pull-never", "scratch").strip()
    try:
        _buildah("copy", container, str(root), "/")
        _buildah("config", "--entrypoint", entrypoint, container)
        _buildah("commit", "--quiet", container, name)
    finally:
        _buildah("rm", container)


def _archive(image: str, path: Path) -> Path:
    path.unlink(missing_ok=True)
    _buildah("push", "--quiet", image, f"docker-archive:{path}:{image}")
    return path


def _buildah(*arguments: str) -> str:
    """buildah with a store of its own, named by the version that wrote it."""
    store = _buildah_store()
    os.environ.setdefault("BUILDAH_ISOLATION", "chroot")
    return run(
        "buildah", "--root", str(store), "--runroot", str(store / "run"), "--storage-driver", "overlay", *arguments
    )


@cache
def _buildah_store() -> Path:
    key = hashlib.sha256(run("buildah", "--version").encode()).hexdigest()[:12]
    store = CACHE / f"buildah-{key}"
    store.mkdir(parents=True, exist_ok=True)
    return store
