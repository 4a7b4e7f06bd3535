"""The chart as the real helm renders it: for these tests, and for those that apply it to a real API server."""

import subprocess
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "helm" / "student-edge"
CASES = sorted((CHART / "ci").glob("*-values.yaml"))  # one a feature
NAMESPACE = "edge-fleet"
IS_FREE = ("resources", "nodeSelector")  # values whose keys are the user's


def case(name: str) -> Path:
    """The values of one feature."""
    return CHART / "ci" / f"{name}-values.yaml"


def template(
    helm: str, values: Path | None, *options: str, name: str = "student-edge", namespace: str = NAMESPACE
) -> "subprocess.CompletedProcess[str]":
    """`helm template`; its failure is the caller's to judge."""
    command = [helm, "template", name, str(CHART), "-n", namespace, "--kube-version", "1.34.4", *options]
    if values is not None:
        command += ["-f", str(values)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def rendered(helm: str, values: Path, *options: str, **where: str) -> list[dict[str, Any]]:
    """Every object of the chart, hooks too."""
    done = template(helm, values, *options, **where)
    assert done.returncode == 0, done.stderr
    return [document for document in yaml.safe_load_all(done.stdout) if document]


def only(found: list[dict[str, Any]], kind: str, name: str = "") -> dict[str, Any]:
    """The one object of a kind, or of a kind and name."""
    matching = [one for one in found if one["kind"] == kind and name in ("", one["metadata"]["name"])]
    assert len(matching) == 1, f"{len(matching)} of {kind} {name}"
    return matching[0]


def pods(found: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Name of the object -> spec of the pods that it makes."""
    specs = {one["metadata"]["name"]: one["spec"] for one in found if one["kind"] == "Pod"}
    makers = [one for one in found if "template" in one.get("spec", {})]
    return specs | {one["metadata"]["name"]: one["spec"]["template"]["spec"] for one in makers}


def leaves(values: dict[str, Any], above: str = "") -> dict[str, Any]:
    """Dotted name -> value, of everything that can be set."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        path = f"{above}.{key}" if above else key
        is_section = isinstance(value, dict) and value and key not in IS_FREE
        found |= leaves(value, path) if is_section else {path: value}
    return found
