"""The GitOps examples: the chart takes their values, and what decides about a fleet's life is as it must be."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.chart.rendering import CHART, ROOT, case, only, rendered, template

GITOPS = ROOT / "manifests" / "gitops"
# Names of fields, from the types of k3s-io/helm-controller (HelmChartSpec) and rancher/fleet (FleetYAML, GitRepoSpec).
HELM_CHART = {"chart", "version", "targetNamespace", "failurePolicy", "valuesContent"}
FLEET = {"defaultNamespace", "namespaceLabels", "helm", "targetCustomizations", "rolloutStrategy"}
FLEET_HELM = {"releaseName", "chart", "version", "atomic", "timeoutSeconds", "values"}
TARGET = {"name", "clusterSelector", "helm"}
STRATEGY = {"maxUnavailablePartitions", "partitions"}
PARTITION = {"name", "maxUnavailable", "clusterSelector"}
GIT_REPO = {"repo", "branch", "paths", "targets"}


def documents(path: str) -> list[dict[str, Any]]:
    """Of one file."""
    return list(yaml.safe_load_all((GITOPS / path).read_text()))


def render(helm: str, values: dict[str, Any], folder: Path) -> list[dict[str, Any]]:
    """The chart with these values and a root; without one it says what is missing, and nothing else."""
    path = folder / "values.yaml"
    path.write_text(yaml.safe_dump(values))
    said = [line for line in template(helm, path).stderr.splitlines() if line and "Error" not in line]
    assert said[0].startswith("trust.root is empty: ")
    assert [line for line in said[1:] if "--debug" not in line] == []
    root = yaml.safe_load(case("two-nodes").read_text())["trust"]
    path.write_text(yaml.safe_dump(values | {"trust": root}))
    return rendered(helm, path)


def chart_version() -> str:
    """Of the chart in this repository."""
    return str(yaml.safe_load((CHART / "Chart.yaml").read_text())["version"])


def test_k3s_never_uninstalls_the_fleet_by_itself(helm: str, tmp_path: Path) -> None:
    namespace, chart = documents("k3s/student-edge.yaml")
    assert namespace["metadata"]["labels"] == {"pod-security.kubernetes.io/enforce": "restricted"}
    assert (chart["apiVersion"], chart["kind"]) == ("helm.cattle.io/v1", "HelmChart")
    spec = chart["spec"]
    assert set(spec) == HELM_CHART
    assert spec["failurePolicy"] == "abort"
    assert spec["targetNamespace"] == namespace["metadata"]["name"]
    assert spec["version"] == chart_version()
    found = render(helm, yaml.safe_load(spec["valuesContent"]), tmp_path)
    assert only(found, "DaemonSet")
    assert "Job" not in {one["kind"] for one in found}


def test_fleet_goes_site_by_site(helm: str, tmp_path: Path) -> None:
    (bundle,) = documents("fleet/fleet.yaml")
    assert set(bundle) == FLEET
    assert "namespace" not in bundle, "Fleet would refuse the ClusterRole"
    assert set(bundle["helm"]) == FLEET_HELM
    assert bundle["helm"]["atomic"] is False
    assert bundle["helm"]["version"] == chart_version()
    strategy = bundle["rolloutStrategy"]
    assert set(strategy) == STRATEGY
    assert strategy["maxUnavailablePartitions"] == 0
    assert [one["name"] for one in strategy["partitions"]] == ["canary", "early", "everyone"]
    for one in strategy["partitions"]:
        assert set(one) == PARTITION
        assert one["maxUnavailable"] not in (0, "0%"), "nothing would ever start"
    for one in bundle["targetCustomizations"]:
        assert set(one) <= TARGET
    job = only(render(helm, bundle["helm"]["values"], tmp_path), "Job")
    assert job["spec"]["activeDeadlineSeconds"] < bundle["helm"]["timeoutSeconds"]


def test_each_site_is_in_one_partition_and_may_have_its_own_store(helm: str, tmp_path: Path) -> None:
    (bundle,) = documents("fleet/fleet.yaml")
    selectors = [one["clusterSelector"] for one in bundle["rolloutStrategy"]["partitions"]]
    for labels in ({"edgedistill.dev/ring": "canary"}, {"edgedistill.dev/ring": "early"}, {}):
        assert sum(selects(selector, labels) for selector in selectors) == 1, labels
    values = bundle["helm"]["values"] | bundle["targetCustomizations"][0]["helm"]["values"]
    pod = only(render(helm, values, tmp_path), "DaemonSet")["spec"]["template"]["spec"]
    assert "--releases=https://store.north.example/edge/releases" in pod["containers"][0]["args"]


def selects(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    """Whether a label selector of the examples takes a cluster."""
    for one in selector.get("matchExpressions", []):
        assert one["operator"] == "NotIn"
        if labels.get(one["key"]) in one["values"]:
            return False
    return all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items())


def test_the_git_repo_names_the_sites() -> None:
    (repository,) = documents("fleet/gitrepo.yaml")
    assert (repository["apiVersion"], repository["kind"]) == ("fleet.cattle.io/v1alpha1", "GitRepo")
    assert set(repository["spec"]) == GIT_REPO
    assert repository["spec"]["targets"][0]["clusterSelector"]["matchExpressions"][0]["operator"] == "Exists"


@pytest.mark.parametrize("path", sorted(str(one.relative_to(GITOPS)) for one in GITOPS.rglob("*.yaml")))
def test_no_secret_stands_in_an_example(path: str) -> None:
    text = (GITOPS / path).read_text()
    assert "PRIVATE KEY" not in text
    assert not [word for word in ("password", "token:", "secretKey") if word in text]
