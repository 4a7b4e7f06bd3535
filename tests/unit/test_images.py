"""Every kind of file that people have: decoded right, or refused with its reason."""

import contextlib
import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from edgedistill.errors import RefusedImage
from edgedistill.images import INGEST_FORMATS, MAX_PIXELS, Pixels, decode, read_header

RNG = np.random.default_rng(5)
SMOOTH = np.asarray(
    Image.fromarray(RNG.integers(0, 256, (4, 6, 3), dtype=np.uint8)).resize((48, 32), Image.Resampling.BICUBIC)
)


def saved(picture: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def picture(mode: str = "RGB") -> Image.Image:
    return Image.fromarray(SMOOTH).convert(mode)


def any_format(data: bytes) -> Pixels:
    return decode(data, formats=INGEST_FORMATS)


def near(pixels: Pixels, expected: Pixels, *, levels: float) -> bool:
    return pixels.shape == expected.shape and float(np.abs(pixels.astype(int) - expected).mean()) <= levels


@pytest.mark.parametrize(
    ("kind", "levels"), [("PNG", 0), ("BMP", 0), ("TIFF", 0), ("JPEG", 12), ("WEBP", 12), ("GIF", 12)]
)
def test_every_format(kind: str, levels: float) -> None:
    assert near(any_format(saved(picture(), kind)), SMOOTH, levels=levels)
    assert read_header(saved(picture(), kind), formats=INGEST_FORMATS).format == kind


@pytest.mark.parametrize("mode", ["L", "1", "P", "CMYK", "LA"])
def test_every_mode(mode: str) -> None:
    kind = {"CMYK": "JPEG"}.get(mode, "PNG")
    given = picture(mode)
    expected = np.asarray(given.convert("L").convert("RGB") if mode in ("L", "1", "LA") else given.convert("RGB"))
    assert near(any_format(saved(given, kind, quality=95)), expected, levels=4)


def test_sixteen_bit_grey_is_scaled_and_not_clipped() -> None:
    grey = np.linspace(0, 65535, 32 * 48).reshape(32, 48).astype(np.uint16)
    for kind in ("PNG", "TIFF"):
        pixels = any_format(saved(Image.fromarray(grey), kind))
        assert np.array_equal(pixels, np.repeat((grey >> 8).astype(np.uint8)[:, :, None], 3, axis=2)), kind


def test_sixteen_bit_grey_with_eight_bits_of_content_is_kept() -> None:
    grey = np.arange(200, dtype=np.uint16).reshape(10, 20)
    assert np.array_equal(any_format(saved(Image.fromarray(grey), "PNG"))[:, :, 0], grey)


def test_sixteen_bit_rgb() -> None:
    deep = (SMOOTH.astype(">u2") << 8) | 0x12
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in deep)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 48, 32, 16, 2, 0, 0, 0))
    png += chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    assert near(any_format(png), SMOOTH, levels=0)


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def test_alpha_is_laid_over_white() -> None:
    rgba = picture("RGBA")
    rgba.putalpha(Image.new("L", rgba.size, 0))
    assert any_format(saved(rgba, "PNG")).min() == 255
    palette = picture("P")
    clear = any_format(saved(palette, "PNG", transparency=0))
    expected = np.asarray(palette.convert("RGB")).copy()
    expected[np.asarray(palette) == 0] = 255
    assert np.array_equal(clear, expected)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
def test_exif_orientation_is_applied(orientation: int, kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = saved(picture(), kind, exif=exif)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    assert np.array_equal(any_format(data), expected)


def test_of_an_animation_the_first_frame() -> None:
    second = Image.fromarray(255 - SMOOTH)
    for kind in ("GIF", "WEBP", "TIFF"):
        data = saved(picture(), kind, save_all=True, append_images=[second])
        assert near(any_format(data), SMOOTH, levels=12), kind


def test_a_large_picture_is_converted_band_by_band_without_seams() -> None:
    wide = RNG.integers(0, 256, (3, 1_000_000, 3), dtype=np.uint8)
    assert np.array_equal(any_format(saved(Image.fromarray(wide), "BMP")), wide)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"a text that is named photo.jpg", "no-picture"),
        (saved(picture(), "JPEG")[:-100], "truncated"),
        (saved(picture(), "PNG")[:400], "truncated"),
        (b"\xff\xd8\xff\xe0 nonsense", "broken"),
        (saved(picture("F"), "TIFF"), "unsupported"),
        (saved(Image.new("1", (5000, 5000)), "PNG"), "too-large"),
        (saved(Image.new("1", (20000, 20000)), "PNG"), "too-large"),
        (saved(Image.new("L", (16383, 1000)), "WEBP"), "too-large"),
        (saved(Image.new("L", (5000, 4000)), "GIF"), "too-large"),
    ],
)
def test_what_is_refused_and_why(data: bytes, reason: str) -> None:
    with pytest.raises(RefusedImage) as refused:
        any_format(data)
    assert refused.value.reason == reason
    assert str(MAX_PIXELS)[:2] in str(refused.value) or reason != "too-large"


def test_a_node_takes_jpeg_and_png_only() -> None:
    with pytest.raises(RefusedImage, match="JPEG or PNG"):
        decode(saved(picture(), "BMP"))


def test_damaged_bytes_never_raise_anything_else() -> None:
    """A flipped byte decodes to something or is refused, whatever Pillow's readers stumble over."""
    for kind in INGEST_FORMATS:
        good = saved(picture(), kind)
        for _ in range(60):
            data = bytearray(good)
            for place in RNG.integers(0, len(data), 3):
                data[place] = RNG.integers(0, 256)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                with contextlib.suppress(RefusedImage):
                    assert any_format(bytes(data)).shape[2] == 3
