"""The one place where bytes become pixels: ingest, scorer, trainer, node and golden images all decode and resize here.

Pillow's antialiased bilinear is the reference (torchvision's `antialias=True` equals it; OpenVINO's RESIZE_LINEAR does
not, by 12 grey levels on a large picture), so a student never sees a picture that its teacher or its node would not.
"""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from edgedistill.errors import DatasetError

MAX_PIXELS = 16_000_000  # read from the header, before any pixel is decoded
FORMATS = ("JPEG", "PNG")  # what a node takes; ingest may pass more

Pixels = NDArray[np.uint8]


def decode(data: bytes, *, formats: tuple[str, ...] = FORMATS, max_pixels: int = MAX_PIXELS) -> Pixels:
    """Decode one picture to RGB.

    Args:
        data: the file's bytes.
        formats: Pillow format names that are allowed.
        max_pixels: width x height that the header may claim.

    Returns:
        (H, W, 3) uint8, EXIF orientation applied; grey is repeated, alpha laid over white.

    Raises:
        DatasetError: no picture of these formats, larger than the budget, or broken.
    """
    try:
        with Image.open(io.BytesIO(data), formats=formats) as picture:
            width, height = picture.size
            if width * height > max_pixels:
                raise DatasetError(
                    f"a picture of {width} x {height} pixels is over the budget of {max_pixels:,}; make it smaller"
                )
            return np.asarray(_to_rgb(ImageOps.exif_transpose(picture)))
    except UnidentifiedImageError:
        expected = " or ".join(formats)
        raise DatasetError(f"{len(data)} bytes starting {data[:8].hex() or 'empty'} are no {expected}") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DatasetError(f"a picture of {len(data)} bytes cannot be decoded: {error}") from error


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


def _to_rgb(picture: Image.Image) -> Image.Image:
    if picture.mode in ("I;16", "I;16B", "I;16L", "I"):  # 16-bit grey: Pillow's convert clips instead of scaling
        grey = np.asarray(picture).astype(np.uint32)
        scaled = np.minimum(grey >> 8 if grey.max(initial=0) > 255 else grey, 255)
        return Image.fromarray(scaled.astype(np.uint8)).convert("RGB")
    if "A" in picture.getbands() or "transparency" in picture.info:
        rgba = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, (255, 255, 255, 255)), rgba).convert("RGB")
    return picture.convert("RGB")
