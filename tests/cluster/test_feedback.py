"""Unsure pictures go from a pod into the store, by a user who may put below feedback/ and do nothing else."""

import json
import secrets
from collections.abc import Iterator

import pytest
from minio.credentials import StaticProvider
from minio.minioadmin import MinioAdmin

from tests.cluster.conftest import eventually
from tests.cluster.fleet import ONE_WAVE, Fleet, fleet_values, namespace
from tests.cluster.load import ask
from tests.cluster.origin import Origin, Press, Releases
from tests.cluster.testbed.images import REPOSITORY
from tests.cluster.testbed.minio import BUCKET
from tests.cluster.testbed.testbed import Testbed

pytestmark = pytest.mark.cluster
NODE = "edge-3"
POLICY = REPOSITORY / "manifests" / "feedback" / "node-policy.json"


def make_user(testbed: Testbed) -> tuple[str, str]:
    """A new user of the store with the policy that the documentation gives; name and secret."""
    known, name, secret = testbed.releases.environment, f"shop{secrets.token_hex(4)}", secrets.token_hex(20)
    admin = MinioAdmin(
        endpoint=testbed.releases.endpoint.removeprefix("http://"),
        credentials=StaticProvider(known["AWS_ACCESS_KEY_ID"], known["AWS_SECRET_ACCESS_KEY"]),
        region=known["AWS_REGION"],
        secure=False,
    )
    admin.user_add(name, secret)
    admin.policy_add("edge-feedback", policy=json.loads(POLICY.read_text()))
    admin.attach_policy(["edge-feedback"], user=name)
    return name, secret


@pytest.fixture(scope="module")
def asking(testbed: Testbed, releases: Releases, origin: Origin) -> Iterator[Fleet]:
    """A fleet of one node to which every answer is unsure."""
    values = fleet_values(releases.name, origin.url, releases.root.read_text()) | {
        "nodeSelector": {"kubernetes.io/hostname": NODE},
        "feedback": {
            "target": f"s3://{BUCKET}",
            "endpoint": testbed.releases.endpoint,
            "credentialsSecret": "edge-feedback",
            "margin": 1,
            "everySeconds": 2,
        },
    }
    found = Fleet(testbed, namespace("feedback"), values, testbed.folder / "bin" / "helm")
    found.make_namespace()
    name, secret = make_user(testbed)
    keys = [f"--from-literal=access-key={name}", f"--from-literal=secret-key={secret}"]
    found.kubectl("create", "secret", "generic", "edge-feedback", *keys)
    done = found.call("install", version=1, change=ONE_WAVE)
    assert done.returncode == 0, done.stderr
    found.ended("done")
    yield found
    found.call("uninstall", "--wait")
    testbed.kubectl("delete", "namespace", found.namespace)


def test_an_unsure_picture_comes_back(asking: Fleet, press: Press, releases: Releases) -> None:
    ask(asking.addresses()[NODE], releases.name, press.picture())
    eventually(lambda: len(list(releases.store.list(f"feedback/{NODE}/"))) == 2, "a picture and its document", 60)
    document = next(key for key in releases.store.list(f"feedback/{NODE}/") if key.endswith(".json"))
    said = json.loads(releases.store.get(document))
    assert said["node"] == NODE
    assert said["release"]["version"] == 1
