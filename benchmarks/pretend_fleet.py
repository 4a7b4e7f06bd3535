"""An API server's answers and the /status of many nodes, by one process on loopback: what a controller's look costs.

python -m benchmarks.pretend_fleet NODES SILENT_SHARE     prints the address of the API; ends with stdin

Each node has a loopback address of its own (127.1.x.y:8080), as each pod has one in a cluster: no connection of one
serves another. Silent ones accept and say nothing. Objects have the size that a real API server gave them: 3.7 kB a
node and 9.1 kB a pod, managedFields among it. Linux: elsewhere only 127.0.0.1 is loopback.
"""

import asyncio
import json
import os
import sys
from typing import Any
from urllib.parse import parse_qs

RELEASE, NAMESPACE, PORT = "student-edge", "default", 8080
NODE_BYTES, POD_BYTES = 3700, 9100
SINCE = "2026-01-01T00:00:00Z"
CONDITIONS = ("MemoryPressure", "DiskPressure", "PIDPressure", "Ready")


def name(number: int) -> str:
    """Of a node."""
    return f"edge-{number:05d}.site.example"


def address(number: int) -> str:
    """Of its pod."""
    return f"127.1.{number // 250}.{number % 250 + 1}"


def node(number: int) -> dict[str, Any]:
    """A Node as a kubelet reports it."""
    conditions = [
        {"type": kind, "status": str(kind == "Ready"), "lastHeartbeatTime": SINCE, "lastTransitionTime": SINCE}
        for kind in CONDITIONS
    ]
    labels = {"kubernetes.io/hostname": name(number), "kubernetes.io/os": "linux", "kubernetes.io/arch": "arm64"}
    if number == 0:
        labels["edgedistill.dev/wave"] = "canary"
    document = {
        "metadata": {"name": name(number), "uid": f"node-{number}", "creationTimestamp": SINCE, "labels": labels},
        "spec": {},
        "status": {"conditions": conditions, "capacity": {"cpu": "4", "memory": "8Gi", "pods": "110"}},
    }
    return _padded(document, NODE_BYTES)


def pod(number: int) -> dict[str, Any]:
    """A running pod of the chart's DaemonSet."""
    metadata = {
        "name": f"{RELEASE}-node-{number:05d}",
        "namespace": NAMESPACE,
        "uid": f"pod-{number}",
        "creationTimestamp": SINCE,
        "labels": {"app.kubernetes.io/instance": RELEASE, "app.kubernetes.io/component": "node"},
        "annotations": {"edgedistill.dev/runtime": "0123456789abcdef"},
    }
    mounts = [{"name": f"volume-{i}", "mountPath": f"/mnt/{i}"} for i in range(4)]
    container = {"name": "node", "image": "edgedistill-edge:1", "args": ["--poll-s=5"] * 10, "volumeMounts": mounts}
    state = {"running": {"startedAt": SINCE}}
    ready = {"name": "node", "ready": True, "restartCount": 0, "image": "", "imageID": "", "state": state}
    document = {
        "metadata": metadata,
        "spec": {
            "nodeName": name(number),
            "containers": [container],
            "volumes": [{"name": f"volume-{i}", "emptyDir": {}} for i in range(4)],
            "tolerations": [{"key": f"node.kubernetes.io/{i}", "operator": "Exists"} for i in range(6)],
        },
        "status": {
            "phase": "Running",
            "podIP": address(number),
            "conditions": [{"type": kind, "status": "True"} for kind in ("Initialized", "Ready", "PodScheduled")],
            "containerStatuses": [ready],
        },
    }
    return _padded(document, POD_BYTES)


def status(number: int) -> bytes:
    """What a node that serves release 1 says, with 50 events."""
    release = {"name": "demo", "version": 1, "digest": "0" * 64}
    event = {"at": SINCE, "reason": "activated", "message": "release 1 (0123456789ab) is served"}
    document = {"node": name(number), "state": "serving", "reason": "", "refused": "", "active": release}
    return json.dumps(document | {"desired": {"version": 1}, "events": [event] * 50}).encode()


def target(version: int) -> dict[str, Any]:
    """The chart's ConfigMap."""
    waves = [{"label": ["edgedistill.dev/wave", "canary"]}, {"percent": 10}, {"percent": 50}, {"percent": 100}]
    rollout = {"bake_s": 0, "failure_percent": 5, "away_percent": 50, "silence_s": 120, "deadline_s": 900}
    document = {"name": "demo", "version": version, "revision": 1, "waves": waves, "node_selector": {}, **rollout}
    document |= {"runtime": "0123456789abcdef", "is_tls": False}
    return {"metadata": {"name": f"{RELEASE}-target", "uid": "target"}, "data": {"target.json": json.dumps(document)}}


def _padded(document: dict[str, Any], size: int) -> dict[str, Any]:
    """With managedFields, which fill an object to the size that it has in a cluster."""
    fields: dict[str, Any] = {}
    left = size - len(json.dumps(document)) - 150
    while left > 0:
        key = f"f:field-{len(fields):03d}"
        fields[key] = {"f:nested": {}}
        left -= len(key) + 22
    owner = {"manager": "kubelet", "operation": "Update", "fieldsType": "FieldsV1", "fieldsV1": {"f:status": fields}}
    document["metadata"]["managedFields"] = [owner]
    return document


class Api:
    """The few answers that a controller asks for, and how many they were."""

    def __init__(self, count: int) -> None:
        self.requests, self.sent = 0, 0
        self._nodes = [json.dumps(node(number)) for number in range(count)]
        self._pods = [json.dumps(pod(number)) for number in range(count)]
        self._assignment: dict[str, Any] | None = None

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, bytes]:
        """Status and body; /counted is the benchmark's own question."""
        path, _, query = path.partition("?")
        if path == "/counted":
            stored = len(json.dumps(self._assignment, separators=(",", ":")))
            return 200, json.dumps({"requests": self.requests, "sent": self.sent, "assignment": stored}).encode()
        code, data = self._answer(method, path, body, parse_qs(query))
        self.requests, self.sent = self.requests + 1, self.sent + len(data)
        return code, data

    def _answer(self, method: str, path: str, body: bytes, query: dict[str, list[str]]) -> tuple[int, bytes]:
        if path == "/api/v1/nodes":
            return 200, _page("NodeList", self._nodes, query)
        if path.endswith("/pods"):
            return 200, _page("PodList", self._pods, query)
        if path.endswith("-target"):
            return 200, json.dumps(target(1)).encode()
        if path.endswith("/events"):
            return 201, body
        if method == "GET" and self._assignment is None:
            return 404, b'{"message": "not found"}'
        if method != "GET":
            self._assignment = json.loads(body)
            assert self._assignment is not None
            self._assignment["metadata"]["resourceVersion"] = str(self.requests)
        return 200, json.dumps(self._assignment).encode()


def _page(kind: str, items: list[str], query: dict[str, list[str]]) -> bytes:
    """As many items as were asked for, and where the next ones begin."""
    begin = int(query.get("continue", ["0"])[0])
    end = min(begin + int(query.get("limit", [str(len(items))])[0]), len(items))
    metadata = {"resourceVersion": "1"} | ({"continue": str(end)} if end < len(items) else {})
    head = json.dumps({"kind": kind, "apiVersion": "v1", "metadata": metadata})
    return f'{head[:-1]}, "items": [{", ".join(items[begin:end])}]}}'.encode()


async def serve(count: int, silent_share: float) -> None:
    """Serve until stdin ends."""
    api = Api(count)

    async def asked(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int = -1) -> None:
        try:
            while head := (await reader.readuntil(b"\r\n\r\n")).decode():
                if 0 <= number < silent_share * count:
                    await reader.read()  # until the other side has had enough
                    break
                method, path, _ = head.split(" ", 2)
                length = next((line for line in head.splitlines() if line.lower().startswith("content-length:")), ":0")
                body = await reader.readexactly(int(length.partition(":")[2]))
                code, data = (200, status(number)) if number >= 0 else api.answer(method, path, body)
                head = f"HTTP/1.1 {code} OK\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
                writer.write(head.encode() + data)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the client has gone
        finally:
            writer.close()

    server = await asyncio.start_server(asked, "127.0.0.1", 0, limit=8 << 20)
    for number in range(count):
        await asyncio.start_server(lambda r, w, n=number: asked(r, w, n), address(number), PORT)  # type: ignore[misc]
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    os._exit(0)  # thousands of open connections are nobody's any more


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), float(sys.argv[2])))
