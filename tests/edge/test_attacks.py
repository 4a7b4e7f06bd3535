"""P5: whatever an origin offers, a node never runs what was not signed for it, and goes on with what it serves.

Attacks by who only has the origin, and by who has keys too and signs properly; each against a node that runs, one whose
stored metadata a power cut truncated, and one that booted offline. The node is the real agent, engine and child; the
child's code runs in this process, but for the sample over HTTP.
"""

import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from types import SimpleNamespace

import pytest

from edgedistill import signing
from edgedistill.signing_rotate import rotate_key
from edgedistill.storage import open_store
from tests.edge import proof
from tests.edge.attacks import ATTACKS, Attack
from tests.edge.victim import Node, World, attacked, make_world, spoil_model, truncate, victim

pytestmark = pytest.mark.proof
CONDITIONS = ("running", "after a power cut", "after an offline boot")
GROWTH_MB, DECIDED_S = 64, 5.0


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.mark.parametrize("condition", CONDITIONS)
def test_the_old_release_serves_on_with_one_reason(
    condition: str, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tell: Callable[[str, str], None]
) -> None:
    wrong = {}
    worst_s = worst_mb = 0.0
    names = list(ATTACKS)
    if condition != CONDITIONS[0]:
        names = proof.generator(f"P5 {condition}").sample(names, proof.size(12, len(names)))
    for number, name in enumerate(names):
        attack = ATTACKS[name]
        outcome = attacked(world, tmp_path / str(number), attack, monkeypatch, condition)
        worst_s, worst_mb = max(worst_s, outcome.seconds), max(worst_mb, outcome.grown_mb)
        is_quick = outcome.seconds <= DECIDED_S and outcome.grown_mb <= GROWTH_MB
        if not is_quick or (outcome.version, outcome.reasons) != (1, (attack.reason,)):
            wrong[name] = outcome
        shutil.rmtree(tmp_path / str(number))
    assert not wrong
    told = f"{len(names)} of {len(ATTACKS)} attacks on a node {condition}, each refused with its reason"
    tell("P5", f"{told} in <= {worst_s:.1f} s, memory +{worst_mb:.0f} MB")


def test_inflated_versions_bar_nothing_once_the_stolen_key_is_changed(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thief of the timestamp's key signs version 1,000,000: nodes believe it, until the root names another key."""
    forger, node = victim(world, tmp_path, monkeypatch, wanted=7)
    honest = tmp_path / "honest"
    shutil.copytree(forger.origin, honest / "releases")
    forger.sign_timestamp(forger.key("timestamp"), change=lambda content: setattr(content, "version", 1_000_000))
    node.look(lambda: "not_listed" in node.events)
    assert node.highest("timestamp") == 1_000_000
    store = open_store(honest)
    signing.refresh(store, forger.keys)
    forger.replace(honest / "releases")
    node.events.clear()
    node.wanted.write_text("2")
    node.look(lambda: "old_metadata" in node.events)
    assert node.version == 1
    rotate_key(store, forger.keys, "timestamp")
    forger.replace(honest / "releases")
    node.look(lambda: node.version == 2)
    assert node.highest("timestamp") < 1_000_000
    node.close()


@pytest.mark.parametrize("is_torn", [False, True])
def test_what_was_only_looked_at_is_not_taken_back(
    is_torn: bool, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node that did not activate anything still refuses lists older than the newest it read; also when the copy
    that python-tuf compares with is gone."""
    forger, node = victim(world, tmp_path, monkeypatch, wanted=7)
    now = tmp_path / "now"
    shutil.copytree(forger.origin, now)
    signing.refresh(forger.store, forger.keys)
    node.look(lambda: "not_listed" in node.events)
    forger.replace(now)
    if is_torn:
        truncate(tmp_path / "state")
    node.events.clear()
    node.wanted.write_text("2")
    node.look(lambda: "old_metadata" in node.events)
    assert node.version == 1
    node.close()


def test_a_frozen_list_ends_with_its_expiry(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who keeps showing the same list hides releases for a week at most; what is served is not touched by it."""
    _, node = victim(world, tmp_path, monkeypatch, wanted=7)
    node.look(lambda: "not_listed" in node.events)
    later = datetime.now(UTC) + timedelta(days=8)
    monkeypatch.setattr(
        "tuf.ngclient._internal.trusted_metadata_set.datetime",
        SimpleNamespace(datetime=SimpleNamespace(now=lambda zone: later), timezone=timezone),
    )
    node.events.clear()
    node.wanted.write_text("2")
    node.look(lambda: "expired_metadata" in node.events)
    assert node.version == 1
    node.close()


def test_another_digest_of_the_release_that_is_served_is_said(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node that follows the newest: release 1 cannot become something else."""
    forger, node = victim(world, tmp_path, monkeypatch, wanted=0)
    forger.publish({}, index=lambda index: index | {"latest": 1, "releases": {"1": "0" * 64}})
    node.look(lambda: "changed_release" in node.events)
    assert node.version == 1
    assert node.agent.describe()["refused"] == "changed_release"
    node.close()


def test_a_release_that_the_disk_spoiled_is_fetched_again(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not the release's fault: not served as it is, not put in quarantine."""
    _, node = victim(world, tmp_path, monkeypatch, wanted=1, spoil=spoil_model)
    assert node.version == 0
    assert node.events == ["wrong_digest"] * len(node.events)
    node.look(lambda: node.version == 1)
    assert not node.agent.describe()["quarantined"]
    node.close()


def test_an_honest_origin_is_believed(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control of the whole table: the same node, told the same, with nothing done to the origin."""
    for number, condition in enumerate(CONDITIONS):
        nothing = Attack(lambda forger: None, "")
        outcome = attacked(world, tmp_path / str(number), nothing, monkeypatch, condition)
        assert outcome.version == 2
        assert outcome.reasons == ("activated",)


def test_a_new_root_from_the_operator_starts_anew(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The root keys are gone: another repository, its 1.root.json by the operator's hand, the same state folder."""
    _, node = victim(world, tmp_path, monkeypatch, wanted=1)
    assert node.version == 1
    node.close()
    root = (world.stranger / "metadata" / "1.root.json").read_bytes()
    anew = Node(world, tmp_path / "state", world.stranger, wanted=1, root=root)
    assert anew.version == 0, "nothing vouches for it"
    assert set(anew.events) == {"bad_signature"}
    anew.look(lambda: anew.version == 1)
    anew.wanted.write_text("2")
    anew.look(lambda: anew.version == 2)
    anew.close()
