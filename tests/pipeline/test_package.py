"""The compiled pipeline: what Kubeflow gets installs nothing at run time and does not use Kubeflow's cache."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from components.image import PIPELINE_IMAGE

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module", params=["distillation", "teacher"])
def package(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The compiled package of a pipeline."""
    from importlib import import_module

    from kfp import compiler

    function = getattr(import_module(f"kfp_pipelines.{request.param}"), request.param)
    path = tmp_path_factory.mktemp("package") / "pipeline.yaml"
    compiler.Compiler().compile(function, str(path))
    document: dict[str, Any] = next(iter(yaml.safe_load_all(path.read_text())))
    return document


def tasks(component: dict[str, Any]) -> list[dict[str, Any]]:
    return list(component.get("dag", {}).get("tasks", {}).values())


def test_nothing_is_installed_at_run_time(package: dict[str, Any]) -> None:
    executors = package["deploymentSpec"]["executors"].values()
    assert executors
    for executor in executors:
        container = executor["container"]
        assert container["image"] == PIPELINE_IMAGE
        text = " ".join([*container.get("command", []), *container.get("args", [])])
        assert "pip install" not in text
        assert "apt" not in text.split()
    assert ":latest" not in PIPELINE_IMAGE


def test_kubeflows_cache_is_off_everywhere(package: dict[str, Any]) -> None:
    found = [*tasks(package["root"]), *(t for c in package["components"].values() for t in tasks(c))]
    leaves = [t for t in found if not package["components"][t["componentRef"]["name"]].get("dag")]
    assert leaves
    assert not any(task.get("cachingOptions", {}).get("enableCache") for task in leaves)


def test_every_component_folder_has_the_same_three_files() -> None:
    folders = [path for path in (ROOT / "components").iterdir() if path.is_dir() and path.name != "__pycache__"]
    assert len(folders) >= 11
    for folder in folders:
        for name in ("component.py", "run.py", "README.md"):
            assert (folder / name).is_file(), folder
