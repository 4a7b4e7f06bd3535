"""The teacher as a KServe InferenceService on Triton, with a ServingRuntime of our own.

python -m serving.inference_service --name demo-teacher --storage-uri s3://bucket/teachers/... --service-account teacher

prints the YAML for `kubectl apply`. Never import this beside tritonclient's gRPC in one process: kserve registers the
protocol's messages under the same names, and protobuf takes each name once.
"""

import argparse
import re
import sys
from typing import Any

import yaml
from kserve import (
    V1alpha1ServingRuntime,
    V1alpha1ServingRuntimeSpec,
    V1alpha1SupportedModelFormat,
    V1beta1InferenceService,
    V1beta1InferenceServiceSpec,
    V1beta1ModelFormat,
    V1beta1ModelSpec,
    V1beta1PredictorSpec,
)
from kubernetes import client

from edgedistill.errors import ConfigError

RUNTIME = "edgedistill-triton"
# KServe's stock runtime names a Triton of 2023, older than known holes: docs.nvidia.com lists this one.
TRITON_IMAGE = "nvcr.io/nvidia/tritonserver:26.06-py3"
STANDARD = {"serving.kserve.io/deploymentMode": "Standard"}
HTTP_PORT, GRPC_PORT = 8080, 9000
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,51}[a-z0-9])?")
TRITON_USER = 1000  # triton-server, in its image


def serving_runtime(namespace: str) -> dict[str, Any]:
    """The ServingRuntime: Triton with REST on 8080 and gRPC on 9000, without a shell's or root's rights."""
    container = client.V1Container(
        name="kserve-container",
        image=TRITON_IMAGE,
        command=["tritonserver"],
        args=[
            "--model-repository=/mnt/models",
            f"--http-port={HTTP_PORT}",
            f"--grpc-port={GRPC_PORT}",
            "--allow-metrics=true",
            "--exit-on-error=true",
        ],
        ports=[client.V1ContainerPort(container_port=HTTP_PORT, name="http1", protocol="TCP")],
        resources=client.V1ResourceRequirements(
            requests={"cpu": "1", "memory": "2Gi"}, limits={"cpu": "4", "memory": "4Gi"}
        ),
        security_context=client.V1SecurityContext(
            allow_privilege_escalation=False,
            read_only_root_filesystem=True,
            run_as_non_root=True,
            run_as_user=TRITON_USER,
            capabilities=client.V1Capabilities(drop=["ALL"]),
            seccomp_profile=client.V1SeccompProfile(type="RuntimeDefault"),
        ),
        volume_mounts=[
            client.V1VolumeMount(name="tmp", mount_path="/tmp"),
            client.V1VolumeMount(name="shm", mount_path="/dev/shm"),
        ],
    )
    runtime = V1alpha1ServingRuntime(
        api_version="serving.kserve.io/v1alpha1",
        kind="ServingRuntime",
        metadata=client.V1ObjectMeta(name=RUNTIME, namespace=namespace),
        spec=V1alpha1ServingRuntimeSpec(
            supported_model_formats=[V1alpha1SupportedModelFormat(name="triton", version="2", auto_select=False)],
            protocol_versions=["v2", "grpc-v2"],
            multi_model=False,
            containers=[container],
            volumes=[
                client.V1Volume(name="tmp", empty_dir=client.V1EmptyDirVolumeSource(size_limit="1Gi")),
                client.V1Volume(
                    name="shm", empty_dir=client.V1EmptyDirVolumeSource(medium="Memory", size_limit="256Mi")
                ),
            ],
        ),
    )
    return _document(runtime)


def inference_service(
    name: str, namespace: str, *, storage_uri: str, service_account: str, replicas: int = 1
) -> dict[str, Any]:
    """The InferenceService of one teacher.

    Args:
        name: of the teacher; a DNS label.
        namespace: where it runs.
        storage_uri: root of the Triton model repository, s3://bucket/teachers/<name>/<digest>.
        service_account: carries the S3 secret; the secret itself is never written here.
        replicas: pods, neither fewer nor more.

    Raises:
        ConfigError: the address is none of an S3 bucket, or the name is no DNS label.
    """
    if not storage_uri.startswith("s3://"):
        raise ConfigError(f"storage URI {storage_uri!r} is none; expected s3://BUCKET/teachers/NAME/DIGEST")
    if not _NAME.fullmatch(name):
        raise ConfigError(f"teacher name {name!r} is no DNS label; expected a-z, 0-9 and -, at most 53 of them")
    model = V1beta1ModelSpec(
        model_format=V1beta1ModelFormat(name="triton", version="2"),
        runtime=RUNTIME,
        protocol_version="grpc-v2",
        storage_uri=storage_uri,
        # The Service gets only port 80, to REST, unless both are named.
        ports=[
            client.V1ContainerPort(container_port=HTTP_PORT, name="http1", protocol="TCP"),
            client.V1ContainerPort(container_port=GRPC_PORT, name="h2c", protocol="TCP"),
        ],
    )
    service = V1beta1InferenceService(
        api_version="serving.kserve.io/v1beta1",
        kind="InferenceService",
        metadata=client.V1ObjectMeta(name=name, namespace=namespace, annotations=dict(STANDARD)),
        spec=V1beta1InferenceServiceSpec(
            predictor=V1beta1PredictorSpec(
                min_replicas=replicas, max_replicas=replicas, service_account_name=service_account, model=model
            )
        ),
    )
    document = _document(service)
    document["spec"]["predictor"]["model"].pop("name")  # the SDK's default is empty, which no API server takes
    return document


def _document(resource: Any) -> dict[str, Any]:
    document: dict[str, Any] = client.ApiClient().sanitize_for_serialization(resource)
    return document


def main() -> None:
    """Print both documents."""
    parser = argparse.ArgumentParser(prog="python -m serving.inference_service", description="The teacher's manifests.")
    parser.add_argument("--name", required=True)
    parser.add_argument("--namespace", default="default")
    parser.add_argument("--storage-uri", required=True)
    parser.add_argument("--service-account", required=True, help="carries the S3 secret")
    parser.add_argument("--replicas", type=int, default=1)
    options = parser.parse_args()
    try:
        service = inference_service(
            options.name,
            options.namespace,
            storage_uri=options.storage_uri,
            service_account=options.service_account,
            replicas=options.replicas,
        )
    except ConfigError as error:
        sys.exit(f"serving: {error}")
    yaml.safe_dump_all([serving_runtime(options.namespace), service], sys.stdout, sort_keys=False)


if __name__ == "__main__":
    main()
