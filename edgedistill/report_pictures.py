"""Small pictures for a report, as data: addresses, so that the page needs nothing but itself."""

import base64
import io

import numpy as np
from PIL import Image

from edgedistill.errors import EdgeDistillError
from edgedistill.images import INGEST_FORMATS, Pixels, decode, encode_png
from edgedistill.storage import ObjectStore

SIDE = 112  # pixels of the longer side at most; a smaller picture is left as it is
SHARP = 64  # a picture up to this size is kept lossless and drawn without smoothing


def thumbnail(store: ObjectStore, key: str) -> str | None:
    """The picture as a data: address of a few kB; None when it is gone or no longer decodes.

    A report must not fail for a picture: it is written after the work is done.
    """
    try:
        pixels = decode(store.get(key), formats=INGEST_FORMATS)
    except EdgeDistillError:
        return None
    return data_address(pixels)


def data_address(pixels: Pixels) -> str:
    """(H, W, 3) uint8, shrunk to SIDE, as `data:image/...;base64,...`."""
    picture = Image.fromarray(pixels)
    picture.thumbnail((SIDE, SIDE))
    if max(picture.size) <= SHARP:
        return _address("png", encode_png(np.asarray(picture)))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=80)
    return _address("jpeg", buffer.getvalue())


def _address(kind: str, data: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
