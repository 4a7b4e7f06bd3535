"""Releases that are signed but bad, or not what was signed: the canary refuses, nobody else gets them, all serve on."""

from collections.abc import Callable

import pytest

from edgedistill.images import encode_png
from tests.cluster.fleet import ONE_WAVE, Fleet
from tests.cluster.load import Load, ask
from tests.cluster.origin import Origin, Press, Releases
from tests.cluster.testbed.network import NODES
from tests.edge.bad_models import good_answers, greedy, not_finite_above, slow, spoiled
from tests.edge.conftest import pictures

pytestmark = pytest.mark.cluster
Tell = Callable[[str, str], None]
NAMES = [node.name for node in NODES]
OTHERS = ["edge-2", "edge-3"]
EVERY_NODE = ONE_WAVE["rollout"] | {"failurePercent": 100}  # it stops when the last of them has failed


def _assert_only_the_canary_saw(fleet: Fleet, version: int, reason: str, settled: int) -> None:
    assert f"node edge-1 failed: {reason}" in fleet.ended("stopped")
    assert fleet.assigned() == dict.fromkeys(NAMES, settled)
    fleet.until(lambda: fleet.active() == dict.fromkeys(NAMES, settled), "all serve the old release")
    entry = next(one for one in fleet.said("edge-1")["quarantined"] if one["version"] == version)
    assert entry["reason"] == reason
    for node in OTHERS:
        assert version not in [one["version"] for one in fleet.said(node)["quarantined"]]
    waited = fleet.cli("wait", "--timeout", "10")
    assert waited.returncode != 0
    assert f"release {version} was stopped: node edge-1 failed: {reason}" in waited.stderr
    assert any(f"release {version}" in message and reason in message for message in fleet.events("RolloutStopped"))


@pytest.mark.case("refused release")
def test_bad_releases_stop_at_the_canary(fleet: Fleet, press: Press, releases: Releases, tell: Tell) -> None:
    settled = fleet.settled()
    bad = [
        ("wrong_answer", press.again(is_wrong=True)),
        ("cannot_compile", press.model(spoiled(greedy(3000)), good_answers())),  # its compiler asks for 3 GB
        ("too_slow", press.model(spoiled(slow(20_000)))),
    ]
    with Load(fleet.addresses(), releases.name, press.picture()) as load:
        for reason, version in bad:
            fleet.upgrade(version)
            _assert_only_the_canary_saw(fleet, version, reason, settled)
    load.check()
    assert {v for seen in load.seen.values() for v in seen.versions} == {settled}
    tell(
        "bad releases", f"{len(bad)} refused by the canary alone; {load.answered} answers of the old release meanwhile"
    )


@pytest.mark.case("refused release")
def test_a_release_that_fails_after_its_activation_goes_no_further(
    fleet: Fleet, press: Press, releases: Releases, tell: Tell
) -> None:
    settled = fleet.settled()
    version = press.model(spoiled(not_finite_above(250)))
    white = encode_png(pictures(1)[0] * 0 + 255)
    address = fleet.addresses()["edge-1"]
    with Load({n: a for n, a in fleet.addresses().items() if n in OTHERS}, releases.name, press.picture()) as load:
        fleet.upgrade(version)
        fleet.until(lambda: fleet.serves_at(address) == version, "the canary serves it, on probation")
        failed = 0
        while fleet.serves_at(address) == version and failed < 50:
            try:
                ask(address, releases.name, white)
            except AssertionError:
                failed += 1
        _assert_only_the_canary_saw(fleet, version, "failing", settled)
    load.check()
    assert {v for seen in load.seen.values() for v in seen.versions} == {settled}
    tell("bad releases", f"one failed on probation: left after {failed} wrong answers, and went no further")


@pytest.mark.case("refused release")
def test_helm_itself_fails_and_says_why(fleet: Fleet, press: Press) -> None:
    version = press.again(is_wrong=True)
    done = fleet.call("upgrade", version=version, change={"rollout": {"wait": True}})
    assert done.returncode != 0
    assert "node edge-1 failed: wrong_answer" in done.stdout + done.stderr
    assert fleet.ended("stopped")


@pytest.mark.case("over budget")
def test_a_tampered_release_is_refused_by_every_node(
    fleet: Fleet, press: Press, releases: Releases, tell: Tell
) -> None:
    settled = fleet.settled()
    version = press.again()
    key = releases.key(version, "model.bin")
    good = releases.store.get(key)
    releases.overwrite(key, good[:100] + bytes([good[100] ^ 1]) + good[101:])
    fleet.upgrade(version, {"rollout": EVERY_NODE})
    assert "failed: wrong_digest" in fleet.ended("stopped")
    fleet.until(lambda: fleet.active() == dict.fromkeys(NAMES, settled), "all serve the old release")
    for node in NAMES:
        assert (version, "wrong_digest") in [(q["version"], q["reason"]) for q in fleet.said(node)["quarantined"]]
    releases.overwrite(key, good)
    tell("tampered release", "one bit of the weights: refused by 3 of 3 nodes")


def test_an_old_metadata_set_is_refused_by_every_node(
    fleet: Fleet, origin: Origin, press: Press, releases: Releases, tell: Tell
) -> None:
    """A replay: what the origin offered before the last releases; every other file of the set still lies there."""
    timestamp = "releases/metadata/timestamp.json"
    settled, old = fleet.settled(), releases.store.get(timestamp)
    version = press.again()
    new = releases.store.get(timestamp)
    # The nodes see the newer set, and one digest of it that none of them has.
    fleet.upgrade(version + 1, {"rollout": EVERY_NODE})
    assert "failed: not_listed" in fleet.ended("stopped")
    releases.overwrite(timestamp, old)
    try:
        fleet.upgrade(version, {"rollout": EVERY_NODE})
        assert "failed: old_metadata" in fleet.ended("stopped")
        for node in NAMES:
            assert "old_metadata" in [event["reason"] for event in fleet.said(node)["events"]]
    finally:
        releases.overwrite(timestamp, new)
    # Whoever still wanted it when the set was whole again may have taken it for a moment.
    fleet.until(lambda: fleet.active() == dict.fromkeys(NAMES, settled), "all serve the old release")
    tell("replayed metadata", "refused by 3 of 3 nodes")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"release": {"version": "three"}}, "want integer"),
        ({"release": {"versoin": 3}}, "versoin"),
        ({"trust": {"root": ""}}, "trust"),
        ({"image": {"tag": "latest"}}, "tag"),
    ],
)
def test_wrong_values_are_refused_before_anything_changes(
    fleet: Fleet, change: dict[str, dict[str, object]], sentence: str
) -> None:
    before = fleet.rollout()
    done = fleet.call("upgrade", version=change.get("release", {}).get("version", 1), change=change)
    assert done.returncode != 0
    assert sentence in done.stderr
    assert "panic" not in done.stderr
    assert fleet.rollout() == before
