"""P17 for P5: each guard taken away in turn; the attack that it stops is then believed, or refused otherwise."""

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tuf.api.metadata import Root, Signed, TargetFile, Targets

from edge.node import download, trust
from edge.node.state import Release
from edgedistill.bundle import MANIFEST, Manifest
from tests.edge.attacks import ATTACKS
from tests.edge.victim import World, attacked, make_world

pytestmark = pytest.mark.proof
Patch = pytest.MonkeyPatch


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


def no_digests(patch: Patch) -> None:
    """Neither the signed length and digest of a download, nor the manifest's of a file on disk."""

    def fetch(read: Callable[[str, int], Iterator[bytes]], url: str, target: TargetFile, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("wb") as handle:
            for block in read(url, 0):
                if handle.tell() > 4 << 20:
                    raise ValueError("endless")
                handle.write(block)

    patch.setattr(trust, "fetch_target", fetch)
    patch.setattr("edge.node.engine.read_bundle", lambda folder: Manifest.parse((folder / MANIFEST).read_bytes()))


def no_signatures(patch: Patch) -> None:
    for delegator in (Root, Targets):
        patch.setattr(delegator, "verify_delegate", lambda *arguments: None)


def no_expiry(patch: Patch) -> None:
    patch.setattr(Signed, "is_expired", lambda self, reference_time=None: False)


def no_memory(patch: Patch) -> None:
    """Neither the trusted copy of before nor the highest versions."""
    made = trust.Repository.__init__

    def without(self: trust.Repository, *arguments: Any, trusted: Path | None, **options: Any) -> None:
        made(self, *arguments, trusted=None, **options)

    patch.setattr(trust.Repository, "__init__", without)
    patch.setattr(trust, "remember", lambda highest, now: dict(now))


def no_limits(patch: Patch) -> None:
    patch.setattr(trust.LIMITS, "timestamp_max_length", 32 << 20)
    patch.setattr(download, "SMALL_BYTES", 32 << 20)


def any_number(patch: Patch) -> None:
    """A manifest counts as that of whatever release was asked for."""
    patch.setattr(trust, "Manifest", SimpleNamespace(parse=lambda data: replace(Manifest.parse(data), version=3)))


def any_kept_digest(patch: Patch) -> None:
    """A release on disk counts by its digest alone, whatever number it is listed under."""
    from edgedistill.bundle import read_bundle

    def is_whole(folder: Path, release: Release) -> bool:
        return folder.exists() and read_bundle(folder).digest == release.digest

    patch.setattr("edge.node.agent._is_whole", is_whole)


def any_file(patch: Patch) -> None:
    patch.setattr("edgedistill.bundle._FILE", re.compile(r".+"))


def any_size(patch: Patch) -> None:
    patch.setattr("edgedistill.bundle.MAX_SIDE", 2**31)


def any_listing(patch: Patch) -> None:
    patch.setattr(trust, "_DIGEST", re.compile(r".*"))


def any_fit(patch: Patch) -> None:
    patch.setattr("edge.node.engine.check_fits", lambda student, manifest, labels: None)


def any_format(patch: Patch) -> None:
    patch.setattr("edge.node.engine.check_is_ir", lambda model: None)


GUARDS: dict[Callable[[Patch], None], list[str]] = {
    no_digests: ["flipped bit", "truncated", "extended", "swapped file", "right length but corrupt", "endless target"],
    no_signatures: ["wrong key", "revoked key", "threshold not met"],
    no_expiry: ["expired metadata"],
    no_memory: ["older metadata"],
    no_limits: ["padded timestamp"],
    any_number: ["release 1 under another number"],
    any_kept_digest: ["another digest of a version"],
    any_file: ["extra file", "path with ..", "case collision"],
    any_size: ["huge dims in the manifest"],
    any_listing: ["digest that is a path"],
    any_fit: ["wrong labels", "wrong input shape"],
    any_format: ["a model that names files"],
}


@pytest.mark.parametrize("guard", GUARDS, ids=lambda guard: guard.__name__)
def test_without_its_guard_the_attack_is_not_refused_for_that_reason(
    guard: Callable[[Patch], None], world: World, tmp_path: Path
) -> None:
    for number, name in enumerate(GUARDS[guard]):
        with pytest.MonkeyPatch.context() as patch:
            guard(patch)
            attack = replace(ATTACKS[name], passes=False)
            outcome = attacked(world, tmp_path / str(number), attack, patch)
            assert outcome.reasons != (attack.reason,), f"{name}: {outcome}"
