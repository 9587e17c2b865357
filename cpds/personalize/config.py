"""Settings of DreamBooth. No torch here: the command line reads these to answer --help at once."""

import math
from dataclasses import dataclass, fields
from typing import Literal

from cpds.config import require, require_choices

LR_LORA, LR_FULL = 1e-4, 5e-6  # of diffusers' programs; the latter is PDS's too (Koo 2024)


@dataclass(frozen=True, kw_only=True)
class LearningConfig:
    """How a subject is learned. Steps and class images are PDS's (Koo 2024)."""

    class_images: int = 200
    """Images of the class prompt, without which there are none; made once, and kept."""
    prior_weight: float = 1.0
    """Weight of the class images' loss, where there is a class prompt."""
    full: bool = False
    """Train all weights of the denoising network, instead of a LoRA: the result is a whole prior."""
    train_text_encoder: bool = False
    """Train the text encoder(s) too, in the same manner (Stable Diffusion 1.x, 2.x and XL)."""
    rank: int = 4
    """Rank of the LoRA; not with full."""
    steps: int = 800
    """Optimizer steps."""
    lr: float | None = None
    """Learning rate of AdamW. Default: 1e-4 for a LoRA, 5e-6 for all weights."""
    batch: int = 1
    """Instance images at once on each device, and as many of the class."""
    gradient_accumulation: int = 1
    """Batches in a step."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass instead of keeping them: less memory, a third more time."""
    mixed_precision: Literal["no", "fp16", "bf16"] = "no"
    """Precision of the computation, and of weights that are not trained; trained ones stay in fp32."""
    resolution: int | None = None
    """Side of the images in px, which are cropped to squares. Default: what the prior was trained on."""
    guidance_scale: float | None = None
    """Guidance of class images and samples, where the prior takes any. Default: 7.5 where it is classifier-free, 5.5
    where the network takes it as an input (FLUX.1 dev)."""
    samples: int = 4
    """Images of the prompt in a sample sheet; 0: no sheets."""
    sample_every: int = 200
    """Steps between two sample sheets."""
    checkpoint_every: int = 100
    """Steps between two checkpoints: at most so many are lost when the run is killed."""
    seed: int = 0
    """Seeds class images, initial weights, noise and timesteps."""

    def __post_init__(self) -> None:
        require_choices(self)
        counts = ("class_images", "rank", "steps", "batch", "gradient_accumulation", "sample_every", "checkpoint_every")
        for name in counts:
            require(getattr(self, name) >= 1, f"{name} must be >= 1, got {getattr(self, name)}")
        require(self.samples >= 0, f"samples must be >= 0, got {self.samples}")
        for name in ("prior_weight", "guidance_scale"):
            value = getattr(self, name)
            require(value is None or 0 <= value < math.inf, f"{name} must be >= 0 and finite, got {value}")
        require(self.lr is None or 0 < self.lr < math.inf, f"lr must be > 0 and finite, got {self.lr}")
        require(self.resolution is None or self.resolution >= 1, f"resolution must be >= 1, got {self.resolution}")
        require(0 <= self.seed < 2**32, f"seed must be in 0 ... 4294967295, got {self.seed}")

    @property
    def learning_rate(self) -> float:
        return self.lr or (LR_FULL if self.full else LR_LORA)


@dataclass(frozen=True, kw_only=True)
class DreamBoothConfig(LearningConfig):
    """What is learned, and how."""

    prompt: str
    """What the instance images show, with a rare word for the subject: "a photo of sks dog"."""
    class_prompt: str | None = None
    """What they show without that word: "a photo of a dog". Images of it, by the prior itself, then hold the rest of
    the class as it is (prior preservation). Default: none."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(bool(self.prompt.strip()), "the prompt is empty: say in words what the instance images show")
        require(self.class_prompt is None or bool(self.class_prompt.strip()), "class_prompt is empty: leave it out")
        self._require_used()

    def _require_used(self) -> None:
        """InputError for a setting that, beside the others, nothing reads."""
        plain = {f.name: f.default for f in fields(self)}
        other = [name for name in ("class_images", "prior_weight") if getattr(self, name) != plain[name]]
        require(
            self.class_prompt is not None or not other,
            f"{' and '.join(other)} without class_prompt would do nothing: give a class_prompt, or leave it out",
        )
        require(
            self.samples > 0 or self.sample_every == plain["sample_every"],
            f"sample_every {self.sample_every} without samples would do nothing: leave one of both out",
        )
        require(
            not self.full or self.rank == plain["rank"],
            f"rank {self.rank} is of a LoRA, and full trains all weights: leave out one of both",
        )
