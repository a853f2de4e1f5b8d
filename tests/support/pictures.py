"""Image files to convert: small, of any mode, their pixels given by a seed."""

from pathlib import Path

import numpy as np
from PIL import Image


def picture(width, height, mode="RGB", seed=0):
    """Smooth noise, which JPEG keeps to a few levels."""
    channels = len(Image.new(mode, (1, 1)).getbands())
    values = np.random.default_rng(seed).integers(0, 256, 16 * channels, dtype=np.uint8)
    return Image.frombytes(mode, (4, 4), values.tobytes()).resize((width, height), Image.Resampling.BILINEAR)


def save(image: Image.Image, path: Path) -> Path:
    """``image`` at ``path``, its folders made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
    return path
