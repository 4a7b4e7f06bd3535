"""SqueezeNet 1.1 at 224 px as int8, with weights of chance: a student's speed without its training.

python -m benchmarks.student FOLDER     writes model.xml and model.bin (about half a minute)
"""

import sys
from pathlib import Path

import numpy as np

SIZE, CLASSES = 224, 257


def main() -> None:
    """Build, quantise, write."""
    import torch

    from components.quantize_student.run import compressed, quantized
    from edgedistill.conversion import to_bytes, to_openvino
    from edgedistill.models import build

    torch.manual_seed(0)
    pictures = np.random.default_rng(0).integers(0, 256, (32, SIZE, SIZE, 3), dtype=np.uint8)
    module = build("torchvision:squeezenet1_1", CLASSES, size=SIZE).eval()
    xml, weights = to_bytes(compressed(quantized(to_openvino(module, SIZE), pictures, full=False)))
    folder = Path(sys.argv[1])
    (folder / "model.xml").write_bytes(xml)
    (folder / "model.bin").write_bytes(weights)


if __name__ == "__main__":
    main()
