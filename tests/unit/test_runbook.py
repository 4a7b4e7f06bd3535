"""docs/keys.md: every command in it is typed as it stands there."""

import re
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from edgedistill.cli import cli
from edgedistill.signing import root_bytes
from edgedistill.signing_keys import KEY_FILES, read_key
from edgedistill.signing_metadata import read_head
from edgedistill.storage import open_store
from tests.unit.test_signing import bundle

PAGE = Path(__file__).parents[2] / "docs" / "keys.md"
COMMANDS = sorted(set(re.findall(r"edgedistill (release [^`\n|]*[^`\n| ])", PAGE.read_text())))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which somebody has published two releases, with two of three root keys."""
    folder = tmp_path_factory.mktemp("made")
    place = ("--home", str(folder / ".edgedistill"))
    for number in (1, 2):
        bundle(folder / f"b{number}", number)
    for command in ("init --root-keys 3 --root-threshold 2", "publish b1", "publish b2"):
        words = command.replace("b1", str(folder / "b1")).replace("b2", str(folder / "b2")).split()
        assert CliRunner().invoke(cli, ["release", *words, *place]).exit_code == 0
    bundle(folder / "bundle", 3)
    return folder


def test_the_page_has_commands() -> None:
    assert len(COMMANDS) >= 15


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_runbook_does_what_it_says(
    command: str, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "place"
    shutil.copytree(made, place)
    monkeypatch.chdir(place)
    words = command.split(" >> ")[0].replace("--store s3://bucket/prefix", "").split()
    if words[1] == "init":
        shutil.rmtree(".edgedistill")
    keys, store = Path(".edgedistill/keys"), open_store(".edgedistill/store")
    role = words[2] if words[1] == "rotate-key" else ""
    if "--lost" in words:
        (keys / KEY_FILES[role]).unlink()
    elif role == "root":
        words[-1] = read_key(keys / KEY_FILES["root"]).public_key.keyid[:6]
    if "--minimum" in words:
        assert CliRunner().invoke(cli, ["release", "publish", "bundle"]).exit_code == 0
    before = read_head(store).keyids(role) if role else []
    done = CliRunner().invoke(cli, words)
    assert done.exception is None, f"{done.output} {done.exception}"
    assert role == "" or read_head(store).keyids(role) != before
    assert root_bytes(store)
