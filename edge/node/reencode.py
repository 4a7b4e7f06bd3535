"""A picture from its pixels alone, as it is kept for the pipeline."""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgedistill.images import decode, encode_png, read_header

MAX_PIXELS = 1 << 20  # of a picture that is kept: more than a student of this project ever sees
QUALITY = 95  # of JPEG


def reencoded(picture: bytes | None, view: NDArray[np.uint8]) -> tuple[bytes, str]:
    """A client's picture, or the (S, S, 3) tensor that it sent, from its pixels alone: (bytes, extension).

    Nothing of the client's bytes is copied, so no place, time, device, thumbnail, profile or trailer can be in it,
    whatever format hides it where; EXIF orientation is applied. At most MAX_PIXELS: no more than a training can use.

    Raises:
        RefusedImage: it does not decode.
    """
    if picture is None:
        return encode_png(view), "png"
    kind = read_header(picture).format
    pixels = decode(picture)
    height, width = pixels.shape[:2]
    if (share := MAX_PIXELS / (height * width)) < 1:
        size = (max(1, int(width * share**0.5)), max(1, int(height * share**0.5)))
        pixels = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR))
    if kind == "PNG":
        return encode_png(pixels), "png"
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue(), "jpg"
