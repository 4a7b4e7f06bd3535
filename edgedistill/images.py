"""The one place where bytes become pixels: ingest, scorer, trainer, node and golden images all decode and resize here.

Pillow's antialiased bilinear is the reference (torchvision's `antialias=True` equals it; OpenVINO's RESIZE_LINEAR does
not, by 12 grey levels on a large picture), so a student never sees a picture that its teacher or its node would not.
"""

import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from edgedistill.errors import DatasetError, RefusedImage

MAX_PIXELS = 16_000_000  # read from the header, before any pixel is decoded
WEBP_PIXELS = 11_500_000  # of WebP, whose reader holds four copies of the picture
FORMATS = ("JPEG", "PNG")  # what a node takes
INGEST_FORMATS = (*FORMATS, "BMP", "GIF", "TIFF", "WEBP")

_BAND = 1 << 20  # pixels that are converted at once: beside the decoded picture and the result, nothing large is held
_ORIENTATION = 0x0112  # EXIF tag

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Header:
    """What a file claims, before any pixel is decoded."""

    format: str  # Pillow's name
    width: int  # pixels, as stored: EXIF may turn them
    height: int


def read_header(data: bytes, *, formats: tuple[str, ...] = FORMATS, max_pixels: int = MAX_PIXELS) -> Header:
    """The header of a picture. Raises RefusedImage as `decode` does, but for what only the pixels show."""
    with _opened(data, formats, max_pixels) as picture:
        return Header(picture.format or "", *picture.size)


def decode(data: bytes, *, formats: tuple[str, ...] = FORMATS, max_pixels: int = MAX_PIXELS) -> Pixels:
    """Decode one picture, of several frames the first, to RGB.

    Never holds more than three times MAX_PIXELS at Pillow's 4 bytes a pixel: the worst is a progressive CMYK JPEG,
    whose reader keeps 8 bytes a pixel beside the picture.

    Args:
        data: the file's bytes.
        formats: Pillow format names that are allowed.
        max_pixels: width x height that the header may claim.

    Returns:
        (H, W, 3) uint8, EXIF orientation applied; grey is repeated, alpha laid over white.

    Raises:
        RefusedImage: no picture of these formats, larger than the budget, broken, or of a kind without a scale.
    """
    try:
        with _opened(data, formats, max_pixels) as picture:
            picture.load()
            rgb = _to_rgb(picture)
            orientation = picture.getexif().get(_ORIENTATION, 1)
            picture.close()  # its pixels too, before the result is turned
    except DatasetError:
        raise
    except Exception as error:  # Pillow's readers fail with whatever a broken file leads them to
        reason = "truncated" if "truncated" in str(error).lower() else "broken"
        raise RefusedImage(reason, f"a picture of {len(data)} bytes cannot be decoded: {error}") from error
    return _upright(rgb, orientation)


def _opened(data: bytes, formats: tuple[str, ...], max_pixels: int) -> Image.Image:
    if not data:
        raise RefusedImage("empty", "the file is empty")
    try:
        picture = Image.open(io.BytesIO(data), formats=formats)
    except UnidentifiedImageError:
        expected = " or ".join(formats)
        raise RefusedImage("no-picture", f"{len(data)} bytes starting {data[:8].hex()} are no {expected}") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise RefusedImage("too-large", f"over the budget of {max_pixels:,} pixels: {error}") from error
    except Exception as error:
        raise RefusedImage("broken", f"a picture of {len(data)} bytes has a broken header: {error}") from error
    width, height = picture.size
    if picture.format == "WEBP":
        max_pixels = min(max_pixels, WEBP_PIXELS)
    if width * height > max_pixels:
        raise RefusedImage(
            "too-large", f"a picture of {width} x {height} pixels is over the budget of {max_pixels:,}; make it smaller"
        )
    return picture


def center_view(pixels: Pixels, size: int) -> Pixels:
    """The largest centred square, resized to (size, size, 3) uint8. View 0 of every policy, and what a node does."""
    height, width = pixels.shape[:2]
    side = min(height, width)
    left, top = (width - side) / 2, (height - side) / 2
    return crop_resize(pixels, (left, top, left + side, top + side), size)


def crop_resize(pixels: Pixels, box: tuple[float, float, float, float], size: int) -> Pixels:
    """Resize the box (left, top, right, bottom; pixels, fractions allowed) to (size, size, 3) uint8, antialiased."""
    if (size, size) == pixels.shape[:2] and box == (0.0, 0.0, float(size), float(size)):
        return pixels
    picture = Image.fromarray(pixels)
    return np.asarray(picture.resize((size, size), Image.Resampling.BILINEAR, box=box))


def encode_png(pixels: Pixels) -> bytes:
    """(H, W, 3) uint8 as PNG bytes."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def _to_rgb(picture: Image.Image) -> Pixels:
    """(H, W, 3) uint8 of a loaded picture, converted band by band."""
    if picture.mode == "F":
        raise RefusedImage("unsupported", "a picture of floating-point values has no scale; save it with 8 or 16 bits")
    width, height = picture.size
    rgb = np.empty((height, width, 3), np.uint8)
    wide = picture.mode == "I" or picture.mode.startswith("I;16")
    scale = _grey_scale(picture) if wide else 1
    rows = max(1, _BAND // width)
    for top in range(0, height, rows):
        band = picture.crop((0, top, width, min(top + rows, height)))
        rgb[top : top + rows] = _grey_band(band, scale) if wide else np.asarray(_rgb_band(band))
    return rgb


def _grey_scale(picture: Image.Image) -> int:
    """What 16-bit grey is divided by. Pillow's own conversion clips; a picture without a bright pixel is 8-bit."""
    low, high = picture.getextrema()
    if int(low) < 0 or int(high) >= 1 << 16:  # type: ignore[arg-type]  # one band: two numbers
        raise RefusedImage("unsupported", f"grey values from {low} to {high} have no scale; save it with 8 or 16 bits")
    return 256 if int(high) > 255 else 1  # type: ignore[arg-type]


def _grey_band(band: Image.Image, scale: int) -> NDArray[np.uint8]:
    grey = (np.asarray(band).astype(np.uint32) // scale).astype(np.uint8)
    return np.repeat(grey[:, :, None], 3, axis=2)


def _rgb_band(band: Image.Image) -> Image.Image:
    if "A" in band.getbands() or "transparency" in band.info:
        rgba = band.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, (255, 255, 255, 255)), rgba).convert("RGB")
    return band.convert("RGB")


def _upright(pixels: Pixels, orientation: int) -> Pixels:
    """Turn and mirror as EXIF says; an unknown orientation is none."""
    turned = {
        2: lambda: pixels[:, ::-1],
        3: lambda: pixels[::-1, ::-1],
        4: lambda: pixels[::-1],
        5: lambda: pixels.swapaxes(0, 1),
        6: lambda: np.rot90(pixels, -1),
        7: lambda: pixels[::-1, ::-1].swapaxes(0, 1),
        8: lambda: np.rot90(pixels, 1),
    }
    return np.ascontiguousarray(turned[orientation]()) if orientation in turned else pixels
