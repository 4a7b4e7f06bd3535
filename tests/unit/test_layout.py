"""What the repository promises of itself: one-way dependencies, an edge without torch, no pickle, one home a fact."""

import ast
import re
import subprocess
import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("edgedistill", "components", "kfp_pipelines", "serving", "edge")
ALLOWED = {
    "edgedistill": {"edgedistill"},
    "serving": {"serving", "edgedistill"},
    "edge": {"edge", "edgedistill"},
    "components": {"components", "serving", "edgedistill"},
    "kfp_pipelines": {"kfp_pipelines", "components", "serving", "edgedistill"},
}
LISTS = ("build_app", "distillation")  # routes, and steps: long and flat
COMMAND = set((ROOT / "edgedistill").glob("cli*.py"))  # the command line may start everything


def sources(package: str) -> list[Path]:
    return [path for path in (ROOT / package).rglob("*.py") if not path.stem.endswith(("_pb2", "_pb2_grpc"))]


def imports(path: Path) -> set[str]:
    """Every module that a file imports, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


@pytest.mark.parametrize("package", PACKAGES)
def test_dependencies_point_one_way(package: str) -> None:
    for path in sources(package):
        if path not in COMMAND:
            ours = {name.partition(".")[0] for name in imports(path)} & set(PACKAGES)
            assert ours <= ALLOWED[package], path


def test_kfp_is_imported_in_two_places_only() -> None:
    for package in PACKAGES:
        for path in sources(package):
            if any(name.partition(".")[0] == "kfp" for name in imports(path)):
                assert package == "kfp_pipelines" or path.name == "component.py", path


@pytest.mark.parametrize("module", ["edge.node.__main__", "edge.rollout.__main__", "edgedistill.cli", "edgedistill"])
def test_light_modules_load_nothing_heavy(module: str) -> None:
    code = (
        f"import sys, {module}; print([m for m in ('torch', 'kfp', 'nncf', 'pyarrow', 'mlxtend') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_nothing_unpickles() -> None:
    for package in PACKAGES:
        for path in sources(package):
            assert not {"pickle", "cloudpickle", "dill", "joblib", "shelve"} & imports(path), path
            text = path.read_text()
            assert "allow_pickle=True" not in text
            assert all("weights_only=True" in line for line in text.splitlines() if "torch.load(" in line), path


def test_files_and_functions_stay_small() -> None:
    for package in PACKAGES:
        for path in sources(package):
            assert len(path.read_text().splitlines()) <= 310, path
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name not in LISTS:
                    length = (node.end_lineno or 0) - node.lineno + 1
                    spoken = ast.get_docstring(node) or ""
                    assert length - len(spoken.splitlines()) <= 70, f"{path}: {node.name} has {length} lines"


def test_the_edges_versions_are_the_locked_ones() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    locked = (ROOT / "requirements-edge.lock").read_text()
    for requirement in extras["edge"]:
        assert re.search(rf"^{re.escape(requirement)}\b", locked, re.MULTILINE), requirement
    assert not re.search(r"^(torch|kfp|nncf|kserve)==", locked, re.MULTILINE)


@pytest.mark.parametrize("lock", sorted(path.name for path in ROOT.glob("requirements*.lock")))
def test_lock_files_hold_hashes_and_no_address(lock: str) -> None:
    text = (ROOT / lock).read_text()
    names = re.findall(r"^[a-zA-Z0-9][^\s=]*==", text, re.MULTILINE)
    assert names
    assert text.count("--hash=sha256:") >= len(names)
    assert "://" not in text
    assert not re.search(r"^--?(index|extra|find)", text, re.MULTILINE)


def test_nothing_reports_home() -> None:
    assert find_spec("openvino_telemetry") is None, "OpenVINO would report every import: run make install"
    for path in ROOT.glob("requirements*.lock"):
        assert "openvino-telemetry==" not in path.read_text(), path


def test_one_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    from edgedistill import __version__

    chart = (ROOT / "helm" / "student-edge" / "Chart.yaml").read_text()
    assert __version__ == version
    assert f"appVersion: {version}\n" in chart
    assert f"edgedistill-edge:{version}" in (ROOT / "edge" / "Containerfile").read_text()
