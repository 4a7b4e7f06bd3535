"""Views: teacher and student see the same picture.

A view is a pure function of (policy, image id, view number). View 0 is the centre view; the others crop, rotate, flip
and change the light, drawn from a counter-based generator (Philox), so that nobody has to store or order them: the
scorer renders a view at the teacher's size, the trainer renders the same view at the student's.
"""

from dataclasses import asdict, dataclass

import numpy as np
from PIL import Image

from edgedistill.errors import ConfigError
from edgedistill.images import Pixels, center_view, crop_resize
from edgedistill.steps import fingerprint
from edgedistill.storage import canonical_json, digest


@dataclass(frozen=True)
class ViewPolicy:
    """How far views may stray. The policy is data: digits are never flipped."""

    min_scale: float  # smallest side of the crop, as a share of the centred square's side
    max_scale: float  # largest; above 1 the crop reaches over the edge, and the picture's border colour fills it
    shift: float  # how far the crop's centre moves, as a share of the side
    degrees: float  # rotation, either way
    flip: bool  # left-right
    light: float  # brightness and contrast factors lie in 1 +- light

    @property
    def digest(self) -> str:
        """Names the policy together with the code that renders it."""
        parts = {"policy": asdict(self), "code": fingerprint("edgedistill.views", ("pillow", "numpy"))}
        return digest(canonical_json(parts))[:16]


POLICIES = {
    "digits": ViewPolicy(min_scale=0.85, max_scale=1.2, shift=0.1, degrees=15, flip=False, light=0.1),
    "photos": ViewPolicy(min_scale=0.4, max_scale=1.0, shift=0.25, degrees=0, flip=True, light=0.3),
}


def policy_named(name: str) -> ViewPolicy:
    """Raises ConfigError when there is no such policy."""
    if name not in POLICIES:
        raise ConfigError(f"unknown view policy {name!r}; expected one of {', '.join(POLICIES)}")
    return POLICIES[name]


def render(pixels: Pixels, policy: ViewPolicy, *, image_id: str, view: int, size: int) -> Pixels:
    """One view of a picture.

    Args:
        pixels: (H, W, 3) uint8.
        policy: how far the view may stray.
        image_id: SHA-256 of the image's bytes, hexadecimal; seeds the generator.
        view: 0 is the centre view, the others are random.
        size: side of the result, pixels.

    Returns:
        (size, size, 3) uint8.
    """
    if view == 0:
        return center_view(pixels, size)
    draw = np.random.Generator(np.random.Philox(key=int(image_id[:32], 16), counter=view))
    scale, dx, dy, turn, brightness, contrast, flip = draw.random(7)
    height, width = pixels.shape[:2]
    side = min(height, width)
    edge = side * (policy.min_scale + scale * (policy.max_scale - policy.min_scale))
    pad = int(np.ceil(max(0.0, edge / 2 + policy.shift * side - side / 2))) + 1
    padded = _extend(pixels, pad)
    if policy.degrees:
        angle = (2 * turn - 1) * policy.degrees
        turned = Image.fromarray(padded).rotate(angle, Image.Resampling.BILINEAR)
        padded = np.asarray(turned)
    center_x = width / 2 + pad + (2 * dx - 1) * policy.shift * side
    center_y = height / 2 + pad + (2 * dy - 1) * policy.shift * side
    box = _inside((center_x - edge / 2, center_y - edge / 2, center_x + edge / 2, center_y + edge / 2), padded)
    result = crop_resize(padded, box, size)
    if policy.flip and flip < 0.5:
        result = result[:, ::-1]
    return _relight(result, policy.light, brightness=brightness, contrast=contrast)


def _extend(pixels: Pixels, pad: int) -> Pixels:
    """Repeat the border; np.pad does the same ten times slower on small pictures."""
    height, width = pixels.shape[:2]
    down = np.clip(np.arange(-pad, height + pad), 0, height - 1)
    across = np.clip(np.arange(-pad, width + pad), 0, width - 1)
    extended: Pixels = pixels[down][:, across]
    return extended


def _inside(box: tuple[float, float, float, float], pixels: Pixels) -> tuple[float, float, float, float]:
    height, width = pixels.shape[:2]
    return max(box[0], 0.0), max(box[1], 0.0), min(box[2], float(width)), min(box[3], float(height))


def _relight(pixels: Pixels, strength: float, *, brightness: float, contrast: float) -> Pixels:
    """Brightness and contrast as one table of 256 levels: exact, and the same on every machine."""
    if not strength:
        return pixels
    gain = 1 + (2 * contrast - 1) * strength
    shift = 127.5 * (1 - gain) + 255 * (2 * brightness - 1) * strength / 2
    table = np.clip(np.rint(np.arange(256) * gain + shift), 0, 255).astype(np.uint8)
    relit: Pixels = table[pixels]
    return relit
