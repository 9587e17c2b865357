"""Settings of the embedded prior's training."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from cpds.config import require
from scripts.emoji_prior.networks import Sizes


@dataclass(frozen=True)
class TrainConfig(Sizes):
    """Settings of the training run; step counts may change on resume."""

    out: Path = Path("runs/prior")
    """Folder for checkpoints and samples."""
    start: Path | None = None
    """Begin with the networks of this finished run, or of this prior in diffusers' layout, of the same sizes. Token
    embeddings are carried over by the text that they stand for."""
    keep_encoder: bool = False
    """With `start`: train the autoencoder's decoder alone, so that latents stay what they were."""
    export: Path | None = None
    """Write the finished pipeline and its model card here."""
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    """Torch device."""
    seed: int = 0
    """Seeds images, initial weights and batches."""
    renders_per_icon: int = 32
    """Images drawn of each icon alone on a plain background."""
    shares: Path | None = None
    """JSON of `python -m scripts.emoji_prior.evaluate --shares`: images are drawn the more often the less often their
    concepts' samples are right, up to four times. Default: all equally often."""
    collages: float = 0.3
    """Share of images with other backgrounds, or with two or three icons."""
    solids: float = 0.1
    """Share of images that show an icon made solid from a side, as scripts.toy_scene draws it."""
    autoencoder_steps: int = 3000
    """Optimizer steps of the autoencoder."""
    autoencoder_batch: int = 32
    """Random crops of 64 px in one of its steps."""
    denoiser_steps: int = 10000
    """Optimizer steps of denoiser and text encoder."""
    batch: int = 48
    """Images in a step."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """Of the denoiser: AdamW; or, on weights of hidden layers, Muon, which learns more in a step."""
    lr: float = 1e-3
    """Learning rate of the denoiser; linear warm-up, constant, then linear to zero."""
    autoencoder_lr: float = 1e-3
    """The same of the autoencoder."""
    decay: float = 0.3
    """Share of the steps over which the learning rate falls to zero."""
    middle: float = 0.0
    """How much more often timesteps of the middle are drawn, where details are decided, in [0, 1): their density is
    1 / (1 - middle) of the uniform one there, 1 / (1 + middle) at both ends."""
    caption_dropout: float = 0.1
    """Share of captions replaced by the empty one, for classifier-free guidance."""
    save_every: int = 500
    """Steps between checkpoints."""
    save_minutes: float = 10
    """Minutes after which a checkpoint is written all the same."""
    compile: bool = True
    """Compile the denoiser (needs a C compiler on CPU)."""

    def __post_init__(self) -> None:
        require(0 <= self.middle < 1, f"middle must be at least 0 and less than 1, got {self.middle}")
        shares = self.collages, self.solids
        room = min(shares) >= 0 and sum(shares) < 1
        require(room, f"collages and solids must be shares of less than 1 together, got {shares[0]} and {shares[1]}")
        known = self.optimizer == "adamw" or hasattr(torch.optim, "Muon")
        require(known, f"optimizer muon needs torch 2.9, this is {torch.__version__}: update torch, or take adamw")
