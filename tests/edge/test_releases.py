"""Which releases a node takes, and which it refuses: real processes, a real signed repository."""

import shutil
from pathlib import Path

import pytest

from edgedistill.signing import withdraw
from tests.edge.conftest import Publisher, StartNode


def _wrong_answers(golden: list[tuple[bytes, list[float]]]) -> None:
    golden[0] = (golden[0][0], [value + 3 for value in golden[0][1]])


def _flip_a_byte(publisher: Publisher) -> None:
    path = next((publisher.releases / "targets" / "tiny" / "2").glob("*.model.bin"))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def _truncate(publisher: Publisher) -> None:
    path = next((publisher.releases / "targets" / "tiny" / "2").glob("*.model.xml"))
    path.write_bytes(path.read_bytes()[:-10])


def _forge_metadata(publisher: Publisher) -> None:
    path = publisher.releases / "metadata" / "timestamp.json"
    path.write_bytes(path.read_bytes().replace(b'"version": 3', b'"version": 9'))


SPOILED = {
    "wrong golden answers": (_wrong_answers, None, "wrong_answer"),
    "flipped byte": (None, _flip_a_byte, "wrong_digest"),
    "truncated": (None, _truncate, "wrong_digest"),
    "forged metadata": (None, _forge_metadata, "bad_signature"),
}


@pytest.mark.parametrize("what", SPOILED)
def test_a_bad_release_is_refused_and_the_old_one_serves_on(
    what: str, publisher: Publisher, start_node: StartNode, tmp_path: Path
) -> None:
    before, after, reason = SPOILED[what]
    publisher.publish(seed=1)
    wanted = tmp_path / "wanted"
    wanted.write_text("1\n")
    node = start_node("--version-file", str(wanted))
    node.wait_version(1)
    publisher.publish(seed=2, change=before)
    if after:
        after(publisher)
    wanted.write_text("2\n")
    status = node.wait(lambda s: any(q["version"] == 2 for q in s["quarantined"]))
    assert status["active"]["version"] == 1
    assert status["desired"] == {"version": 2}
    assert status["state"] in ("serving", "probation")
    assert status["quarantined"][-1]["reason"] == reason
    assert status["refused"] == reason
    node.kill()
    assert start_node("--version-file", str(wanted)).wait_version(1)["active"]["version"] == 1


def test_the_same_spoiling_without_the_guard_would_be_served(publisher: Publisher, start_node: StartNode) -> None:
    """Negative control: the change that the guard refuses above is served when the answers are right."""
    publisher.publish(seed=1)
    node = start_node()
    node.wait_version(1)
    publisher.publish(seed=2, change=lambda golden: None)
    node.wait_version(2)


def test_an_older_list_of_releases_is_refused_even_after_the_nodes_own_was_damaged(
    publisher: Publisher, start_node: StartNode, tmp_path: Path
) -> None:
    publisher.publish(seed=1)
    shutil.copytree(publisher.releases, tmp_path / "old")
    publisher.publish(seed=2)
    node = start_node()
    node.wait_version(2)
    node.kill()
    for path in (tmp_path / "state" / "metadata").glob("*/timestamp.json"):
        path.write_bytes(path.read_bytes()[:20])
    replayed = start_node("--releases", str(tmp_path / "old"), "--version", "1")
    status = replayed.wait(lambda s: s["last_event"].get("reason") == "old_metadata")
    assert status["active"]["version"] == 2


def test_a_new_node_whose_newest_release_is_bad_serves_the_one_before(
    publisher: Publisher, start_node: StartNode
) -> None:
    publisher.publish(seed=1)
    publisher.publish(seed=2, change=_wrong_answers)
    status = start_node().wait_version(1)
    assert [refusal["version"] for refusal in status["quarantined"]] == [2]


def test_a_damaged_copy_is_taken_once_it_is_mended(publisher: Publisher, start_node: StartNode, tmp_path: Path) -> None:
    """The damage is the mirror's, not the release's. Not so a release that is bad: it stays in quarantine."""
    publisher.publish(seed=1)
    publisher.publish(seed=2)
    publisher.publish(seed=3, change=_wrong_answers)
    shutil.copytree(publisher.releases / "targets", tmp_path / "whole")
    _flip_a_byte(publisher)
    wanted = tmp_path / "wanted"
    wanted.write_text("2")
    node = start_node("--version-file", str(wanted))
    node.wait(lambda s: s["refused"] == "wrong_digest")
    wanted.write_text("3")
    node.wait(lambda s: s["refused"] == "wrong_answer")
    shutil.copytree(tmp_path / "whole", publisher.releases / "targets", dirs_exist_ok=True)
    wanted.write_text("2")
    status = node.wait_version(2)
    assert [refusal["version"] for refusal in status["quarantined"]] == [3]
    wanted.write_text("3")
    status = node.wait(lambda s: s["refused"] == "wrong_answer")
    assert status["active"]["version"] == 2


def test_a_withdrawn_release_is_not_activated(publisher: Publisher, start_node: StartNode) -> None:
    publisher.publish(seed=1)
    publisher.publish(seed=2)
    withdraw(publisher.store, publisher.keys, name="tiny", version=2)
    node = start_node()
    node.wait_version(1)
    wanting = start_node("--version", "2", state="other")
    status = wanting.wait(lambda s: bool(s["quarantined"]))
    assert status["quarantined"][0]["reason"] == "not_listed"
    assert status["state"] == "waiting"


def test_an_older_release_that_is_still_listed_is_a_legal_revert(
    publisher: Publisher, start_node: StartNode, tmp_path: Path
) -> None:
    publisher.publish(seed=1)
    publisher.publish(seed=2)
    wanted = tmp_path / "wanted"
    wanted.write_text("2")
    node = start_node("--version-file", str(wanted))
    node.wait_version(2)
    wanted.write_text("1")
    node.wait_version(1)


def test_another_root_is_refused(publisher: Publisher, start_node: StartNode, tmp_path: Path) -> None:
    publisher.publish()
    other = Publisher(tmp_path / "other", *_other_repository(tmp_path))
    node = start_node("--root", str(other.root))
    status = node.wait(lambda s: bool(s["last_event"]))
    assert status["last_event"]["reason"] == "bad_signature"
    assert status["active"] is None


def _other_repository(tmp_path: Path):  # type: ignore[no-untyped-def]
    from edgedistill import signing
    from edgedistill.storage import open_store

    store = open_store(tmp_path / "other-store")
    signing.init_repository(store, tmp_path / "other-keys")
    return store, tmp_path / "other-keys"
