"""P16 on a node: what kinds of pictures it takes, what it refuses and by which reason, and what decoding may hold."""

import io
import re
import struct
import urllib.request
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.http as http_client
from numpy.typing import NDArray
from PIL import Image
from tritonclient.utils import InferenceServerException

from edgedistill.images import MAX_PIXELS, center_view, decode
from edgedistill.inference import Student
from tests.edge.conftest import CLASSES, SIZE, NodeProcess, Publisher, StartNode, tiny_model
from tests.edge.proof import generator, size

pytestmark = pytest.mark.proof
ALLOWED = 3 * 4 * MAX_PIXELS  # bytes that decoding may hold: three times the budget, at Pillow's 4 bytes a pixel
BESIDE = 8 << 20  # bytes of everything else that answering may take


def saved(picture: Image.Image, form: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, form, **options)
    return buffer.getvalue()


def gradient(width: int, height: int) -> Image.Image:
    row = np.linspace(0, 255, width, dtype=np.uint8)
    pixels = np.repeat(np.broadcast_to(row, (height, width))[:, :, None], 3, axis=2).copy()
    pixels[: height // 2, :, 1] = 20
    return Image.fromarray(pixels)


def turned(picture: Image.Image, orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return saved(picture, "JPEG", exif=exif)


def bomb(width: int, height: int) -> bytes:
    """A whole PNG of a few hundred kilobytes that claims, and holds, width x height black pixels."""
    deflate = zlib.compressobj(9)
    rows = b"".join([deflate.compress(bytes(width + 1)) for _ in range(height)] + [deflate.flush()])
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)), (b"IDAT", rows), (b"IEND", b"")]
    packed = [struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def accepted() -> dict[str, bytes]:
    wide = Image.fromarray((np.arange(40 * 30, dtype=np.uint32) * 50 % 65536).astype(np.uint16).reshape(30, 40))
    alpha = gradient(40, 30).convert("RGBA")
    alpha.putalpha(Image.linear_gradient("L").resize((40, 30)))
    grey = gradient(40, 30).convert("L")
    kinds = {
        "RGB JPEG": saved(gradient(40, 30), "JPEG"),
        "progressive": saved(gradient(40, 30), "JPEG", progressive=True),
        "CMYK": saved(gradient(40, 30).convert("CMYK"), "JPEG"),
        "grey": saved(grey, "PNG"),
        "16 bit": saved(wide, "PNG"),
        "alpha": saved(alpha, "PNG"),
        "palette": saved(gradient(40, 30).convert("P"), "PNG"),
        "one bit": saved(grey.convert("1"), "PNG"),
        "one pixel": saved(gradient(1, 1), "PNG"),
        "thin": saved(gradient(1, 3000), "PNG"),
    }
    return kinds | {f"EXIF {number}": turned(gradient(40, 30), number) for number in range(1, 9)}


def refused() -> dict[str, tuple[bytes, str]]:
    right = saved(gradient(400, 300), "JPEG")
    png = saved(gradient(400, 300), "PNG")
    return {
        "truncated JPEG": (right[: len(right) // 2], "picture_truncated"),
        "truncated PNG": (png[: len(png) // 2], "picture_(truncated|broken)"),
        "bomb": (bomb(20_000, 20_000), "picture_too_large"),
        "over 16 MP": (bomb(4001, 4000), "picture_too_large"),
        "GIF": (saved(gradient(40, 30), "GIF"), "picture_no_picture"),
        "WebP": (saved(gradient(40, 30), "WEBP"), "picture_no_picture"),
        "TIFF": (saved(gradient(40, 30), "TIFF"), "picture_no_picture"),
        "SVG": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "picture_no_picture"),
        "empty": (b"", "picture_empty"),
        "text": (b"no picture", "picture_no_picture"),
    }


def infer(address: str, pictures: list[bytes]) -> NDArray[np.float32]:
    client = http_client.InferenceServerClient(address, network_timeout=120)
    try:
        tensor = http_client.InferInput("image", [len(pictures)], "BYTES")
        tensor.set_data_from_numpy(np.array([*pictures, None], dtype=np.object_)[:-1])
        answer = client.infer("tiny", [tensor]).as_numpy("logits")
        assert isinstance(answer, np.ndarray)
        return answer
    finally:
        client.close()


def peak(node: NodeProcess) -> int:
    """Bytes that the node has held at most."""
    assert node.process is not None
    return int(re.findall(r"VmHWM:\s+(\d+)", Path(f"/proc/{node.process.pid}/status").read_text())[0]) * 1024


@pytest.fixture
def node(publisher: Publisher, start_node: StartNode) -> NodeProcess:
    publisher.publish(seed=1)
    made = start_node()
    made.wait_version(1)
    return made


def test_every_kind_is_answered_rightly_or_refused_by_name(node: NodeProcess, tell: Callable[[str, str], None]) -> None:
    student = Student(tiny_model(1))
    for name, data in accepted().items():
        expected = student.logits(center_view(decode(data), SIZE)[None])
        np.testing.assert_allclose(infer(node.http, [data]), expected, rtol=1e-4, atol=1e-4, err_msg=name)
    right = saved(gradient(40, 30), "JPEG")
    for name, (data, _) in refused().items():
        with pytest.raises(InferenceServerException) as caught:
            infer(node.http, [right, data])
        assert "picture 2 of 2" in str(caught.value), name
    with urllib.request.urlopen(f"http://{node.http}/metrics", timeout=10) as answer:
        told = answer.read().decode()
    for name, (_, reason) in refused().items():
        assert re.search(rf'edgedistill_rejected_total{{protocol="rest",reason="{reason}"}} [1-9]', told), name
    rng, right = generator("P16"), saved(gradient(200, 150), "JPEG", progressive=True)
    outcomes = {"answered": 0, "refused": 0}
    for _ in range(size(60, 2000)):
        data = bytearray(right)
        for _ in range(rng.randrange(1, 8)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        try:
            assert np.isfinite(infer(node.http, [bytes(data)])).all()
            outcomes["answered"] += 1
        except InferenceServerException:
            outcomes["refused"] += 1
    tell("P16", f"{len(accepted())} kinds answered, {len(refused())} refused; of spoiled JPEGs {outcomes}")
    assert "Traceback" not in node.kill()


def held_by_big_pictures(node: NodeProcess) -> int:
    """Bytes that four requests at once take, beside their own, of the worst picture that is allowed: nearly 16
    megapixels, CMYK and progressive."""
    infer(node.http, [saved(gradient(40, 30), "JPEG")])
    big = saved(gradient(3999, 4000).convert("CMYK"), "JPEG", progressive=True, quality=20)
    before, counts = peak(node), [size(2, 32), 1, 1, 1]

    def ask(count: int) -> int:
        try:
            return infer(node.http, [big] * count).shape[1]
        except InferenceServerException as error:
            return CLASSES if "under way" in str(error) else 0  # overloaded: right, too

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(ask, counts)) == [CLASSES] * 4
    return peak(node) - before - 3 * sum(counts) * len(big)  # as received, as an element, as Pillow's input


def test_several_big_pictures_at_once_stay_within_the_budget(
    node: NodeProcess, tell: Callable[[str, str], None]
) -> None:
    held = held_by_big_pictures(node)
    tell("P16", f"pictures of 16 megapixels, from 4 clients at once: {held >> 20} MiB held of {ALLOWED >> 20}")
    assert held < ALLOWED + BESIDE


def test_negative_control_without_the_budget_they_do_not(publisher: Publisher, start_node: StartNode) -> None:
    publisher.publish(seed=1)
    careless = start_node(module="tests.edge.drivers.no_budget")
    careless.wait_version(1)
    assert held_by_big_pictures(careless) > ALLOWED + BESIDE


def test_negative_control_without_the_header_a_bomb_goes_off(publisher: Publisher, start_node: StartNode) -> None:
    publisher.publish(seed=1)
    careless = start_node(module="tests.edge.drivers.no_header")
    careless.wait_version(1)
    before = peak(careless)
    infer(careless.http, [bomb(12_000, 6_000)])
    assert peak(careless) - before > ALLOWED + BESIDE
