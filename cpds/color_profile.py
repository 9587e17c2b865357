"""ICC color profiles: images are edited in sRGB, and an RGB image's result goes back into its own profile."""

from __future__ import annotations

from functools import cached_property
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image, ImageCms

MODES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}  # ICC color space -> Pillow mode
SRGB_TOLERANCE = 2  # of 255: sRGB profiles of different makers differ by rounding


class ColorProfile:
    """An ICC profile by its bytes. ValueError where it is damaged or is for something else than RGB, gray or CMYK."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        try:
            self._profile = ImageCms.ImageCmsProfile(BytesIO(data))
            described: Any = self._profile.profile
            self.mode = MODES[described.xcolor_space.strip()]  # Pillow mode of the images it is for
            self._to_srgb = ImageCms.buildTransform(self._profile, ImageCms.createProfile("sRGB"), self.mode, "RGB")
        except (ImageCms.PyCMSError, OSError, ImportError, KeyError) as err:  # ImportError: Pillow without LittleCMS
            raise ValueError(f"ICC profile cannot be used: {err}") from err

    @cached_property
    def is_srgb(self) -> bool:
        """Whether conversion to sRGB changes no color by more than rounding: it is left out then."""
        if self.mode != "RGB":
            return False
        steps = np.linspace(0, 255, 9).astype(np.uint8)
        colors = np.stack(np.meshgrid(steps, steps, steps), -1).reshape(27, 27, 3)
        converted = np.asarray(apply(self._to_srgb, Image.fromarray(colors)))
        return int(np.abs(converted.astype(int) - colors).max()) <= SRGB_TOLERANCE

    @cached_property
    def _from_srgb(self) -> ImageCms.ImageCmsTransform | None:
        try:
            return ImageCms.buildTransform(ImageCms.createProfile("sRGB"), self._profile, "RGB", "RGB")
        except ImageCms.PyCMSError:
            return None

    @property
    def works_both_ways(self) -> bool:
        """Whether an RGB image can be written in this profile; a scanner's, for instance, is only for reading."""
        return self.mode == "RGB" and (self.is_srgb or self._from_srgb is not None)

    def to_srgb(self, image: Image.Image) -> Image.Image:
        """An image of this profile in sRGB. ValueError unless it has the mode."""
        if image.mode != self.mode:
            raise ValueError(f"ICC profile is for {self.mode} images, not for {image.mode}")
        return image if self.is_srgb else apply(self._to_srgb, image)

    def from_srgb(self, image: Image.Image) -> Image.Image:
        """An sRGB image in this profile, which `works_both_ways`."""
        assert self.works_both_ways
        return image if self._from_srgb is None or self.is_srgb else apply(self._from_srgb, image)


def apply(transform: ImageCms.ImageCmsTransform, image: Image.Image) -> Image.Image:
    """A converted copy."""
    converted = ImageCms.applyTransform(image, transform)
    assert converted is not None  # it is only where the image is changed in place
    return converted
