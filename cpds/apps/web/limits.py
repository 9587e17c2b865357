"""What one visitor of the page may ask for."""

import math
from dataclasses import dataclass
from typing import Any

from cpds.config import require


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How large, how long and how many edits may be, so that no visitor takes a device from all others."""

    max_upload: float = 20.0
    """Size of an upload, in MB."""
    max_pixels: int = 16_000_000
    """Pixels of an uploaded image."""
    max_side: int = 1024
    """Shorter side while editing, in px, where a visitor asks for one."""
    max_steps: int = 1000
    """Steps of an edit, those of an image that it follows among them."""
    max_prompt: int = 500
    """Characters of a prompt."""
    max_variants: int = 8
    """Edits that one visitor has waiting and running at a time, variants counted."""
    max_waiting: int = 32
    """Edits of all visitors that wait for a device."""
    keep_hours: float = 24.0
    """Hours after which a visitor's runs are removed; a run that is opened again counts anew."""

    def __post_init__(self) -> None:
        for name in Limits.__dataclass_fields__:
            value = getattr(self, name)
            require(0 < value < math.inf, f"{name} must be > 0 and finite, got {value}")

    @property
    def upload_bytes(self) -> int:
        return round(self.max_upload * 1e6)

    def check_upload(self, size: int) -> None:
        """InputError for an upload of so many bytes, if they are too many."""
        require(size <= self.upload_bytes, f"the file is larger than {self.max_upload:g} MB: give a smaller one")

    def check_pixels(self, width: int, height: int) -> None:
        """InputError for an image that is too large."""
        count, most = width * height / 1e6, self.max_pixels / 1e6
        require(
            width * height <= self.max_pixels,
            f"the image has {count:.3g} million pixels ({width}x{height}), more than {most:.3g} million: scale it down",
        )

    def check_edit(self, args: Any, resolution: int | None) -> None:
        """InputError for arguments of an edit that ask for too much."""
        for what, text in (("prompt", args.prompt), ("target prompt", args.target_prompt[0])):
            require(
                len(text) <= self.max_prompt,
                f"the {what} has {len(text)} characters, more than {self.max_prompt}: make it shorter",
            )
        steps = args.edit.num_inference_steps + args.edit.redraw_steps
        require(steps <= self.max_steps, f"{steps} steps are more than {self.max_steps}: take fewer")
        require(
            (resolution or 0) <= self.max_side,
            f"a resolution of {resolution} px is more than {self.max_side}: lower it",
        )
