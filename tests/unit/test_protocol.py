"""The node's protocol code is what its .proto file gives."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SOURCE = "edge/node/protocol/open_inference.proto"


def test_the_generated_code_is_fresh(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "grpc_tools.protoc", "-I.", f"--python_out={tmp_path}"]
    subprocess.run([*command, f"--grpc_python_out={tmp_path}", SOURCE], cwd=ROOT, check=True)
    for name in ("open_inference_pb2.py", "open_inference_pb2_grpc.py"):
        path = f"edge/node/protocol/{name}"
        assert (tmp_path / path).read_text() == (ROOT / path).read_text(), "run: make proto"
