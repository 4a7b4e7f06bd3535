"""The pinned helm 3 and helm 4, built from their Go modules when the cache has none."""

import shutil

import pytest

from tests.go_modules import built


def _program(module: str) -> str:
    if shutil.which("go") is None:
        pytest.skip("no Go here to build helm with")
    return str(built(module) / "helm")


@pytest.fixture(scope="session")
def helm() -> str:
    """Helm 4."""
    return _program("helm")


@pytest.fixture(scope="session")
def helm3() -> str:
    """Helm 3."""
    return _program("helm3")
