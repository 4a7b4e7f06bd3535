"""The node with its order spoiled: the pointer names a release before the release lies in its place."""

from dataclasses import replace
from pathlib import Path

from edge.node.__main__ import main
from edge.node.state import Release, State
from edgedistill.bundle import MANIFEST, Manifest

_keep = State.keep


def _flip_then_keep(self: State, source: Path, target: Path) -> None:
    if target.parent.name == "releases":
        manifest = Manifest.parse((source / MANIFEST).read_bytes())
        active = Release(manifest.name, manifest.version, manifest.digest)
        self.flip(replace(self.pointer(), active=active, previous=self.pointer().active))
    _keep(self, source, target)


if __name__ == "__main__":
    State.keep = _flip_then_keep  # type: ignore[method-assign]
    main()
