"""Teacher and student see the same picture."""

import io

import numpy as np
import pytest
from PIL import Image

from edgedistill.errors import DatasetError
from edgedistill.images import center_view, decode, encode_png
from edgedistill.views import POLICIES, render

PICTURE = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
ID = "ab" * 32


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
def test_a_view_is_a_pure_function_of_its_name(policy) -> None:  # type: ignore[no-untyped-def]
    first = render(PICTURE, policy, image_id=ID, view=3, size=24)
    assert first.shape == (24, 24, 3)
    assert first.dtype == np.uint8
    np.testing.assert_array_equal(first, render(PICTURE, policy, image_id=ID, view=3, size=24))
    assert (first != render(PICTURE, policy, image_id=ID, view=4, size=24)).any()
    assert (first != render(PICTURE, policy, image_id="cd" * 32, view=3, size=24)).any()


def test_view_zero_is_the_centre() -> None:
    view = render(PICTURE, POLICIES["photos"], image_id=ID, view=0, size=24)
    np.testing.assert_array_equal(view, center_view(PICTURE, 24))


def test_a_view_is_the_same_picture_at_two_sizes() -> None:
    smooth = np.asarray(Image.fromarray(PICTURE).resize((6, 4)).resize((600, 400), Image.Resampling.BICUBIC))
    big = render(smooth, POLICIES["photos"], image_id=ID, view=5, size=96).astype(float)
    small = render(smooth, POLICIES["photos"], image_id=ID, view=5, size=32).astype(float)
    shrunk = big.reshape(32, 3, 32, 3, 3).mean(axis=(1, 3))
    assert np.abs(shrunk - small).mean() < 2.0
    other = render(smooth, POLICIES["photos"], image_id=ID, view=6, size=32).astype(float)
    assert np.abs(other - small).mean() > 6.0


def test_decode_takes_every_kind_of_picture_to_rgb() -> None:
    assert decode(encode_png(PICTURE)).tolist() == PICTURE.tolist()
    for mode in ("L", "LA", "P", "RGBA", "CMYK", "I;16"):
        grey = Image.fromarray(PICTURE[:, :, 0].astype(np.uint16) << 8)
        picture = grey if mode == "I;16" else Image.fromarray(PICTURE).convert(mode)
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG" if mode == "CMYK" else "PNG")
        assert decode(buffer.getvalue()).shape == PICTURE.shape, mode


@pytest.mark.parametrize("data", [b"", b"no picture", encode_png(PICTURE)[:-200], b"\x89PNG\r\n\x1a\n"])
def test_what_is_no_picture_is_refused_with_a_sentence(data: bytes) -> None:
    with pytest.raises(DatasetError):
        decode(data)


@pytest.mark.parametrize(("side", "said"), [(4_500, "4500 x 4500"), (20_000, "decompression bomb")])
def test_the_size_is_read_from_the_header(side: int, said: str) -> None:
    buffer = io.BytesIO()
    Image.new("1", (side, side)).save(buffer, "PNG")
    with pytest.raises(DatasetError, match=said):
        decode(buffer.getvalue())
