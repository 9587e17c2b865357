"""Arguments that commands share. Nothing heavy is imported here."""

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import tyro

from cpds.config import EditConfig, require
from cpds.presets import PRESETS, PRESETS_FOR
from cpds.priors.options import PriorOptions

EMBEDDED_NOTE = (
    "Using the embedded prior, which knows some 280 emoji-like things (cats, fruit, hearts, ...) on plain backgrounds; "
    "for photos name a bigger one: --prior stable-diffusion-v1-5/stable-diffusion-v1-5"
)

ImagePreset = Literal[PRESETS_FOR["image"]]
SvgPreset = Literal[PRESETS_FOR["svg"]]
SplatPreset = Literal[PRESETS_FOR["splats"]]
Part = TypeVar("Part")


def part(kind: type[Part], args: Any) -> Part:
    """Those of a command's arguments that are the settings of type `kind`, from which it inherits."""
    return kind(**{f.name: getattr(args, f.name) for f in fields(kind)})  # pyright: ignore[reportArgumentType]


@dataclass(frozen=True, kw_only=True)
class ChosenPrior(PriorOptions):
    """Which prior, and how it is loaded."""

    prior: str | None = None
    """Diffusion prior: a Hugging Face name, a local folder in diffusers' layout or a single .safetensors checkpoint;
    `cpds priors` lists some. Default: the embedded prior."""

    @property
    def prior_options(self) -> PriorOptions:
        """How the prior is to be loaded."""
        return part(PriorOptions, self)


@dataclass(frozen=True, kw_only=True)
class PriorArgs(ChosenPrior):
    """What every command with a prior takes that runs on one device."""

    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps."""


@dataclass(frozen=True, kw_only=True)
class PresetArgs(PriorArgs):
    """What every command takes that edits in any way; one names its presets by giving `preset` a type of its own."""

    preset: str = "cpds"
    """Settings to start from; --method alone starts from that method's own. Other flags change single settings."""
    edit: tyro.conf.OmitArgPrefixes[EditConfig] = field(default_factory=lambda: PRESETS["cpds"])


@dataclass(frozen=True, kw_only=True)
class EditArgs(PresetArgs):
    """What every command that edits takes beside its source."""

    prompt: str
    """What the source shows. (A text that begins with a dash is given as --prompt="-...".)"""
    target_prompt: Annotated[tuple[str, ...], tyro.conf.arg(aliases=["--trg-prompt"])]
    """What it should become; several prompts give one edit each."""
    save_path: Path | None = None
    """Run folder for results (with several edits: the folder of run folders). Default: a new folder in runs/."""
    resume: Path | None = None
    """Go on with the run(s) in this folder, which hold all other flags; --num_inference_steps may make them longer."""
    checkpoint_every: int = 10
    """Steps between two checkpoints: at most so many are lost when the run is killed."""
    profile: bool = False
    """Write profile.txt into the run folder: how long loading, encoding, the prior's forwards, the contrastive loss,
    rendering, the optimizer and the files took."""

    def check(self, what: str) -> None:
        """InputError for an empty prompt or an impossible interval; `what` is what is edited."""
        require(bool(self.prompt.strip()), f"the prompt is empty: say in words what the {what} shows")
        require(bool(self.target_prompt), f"there is no target prompt: say what the {what} should become")
        require(
            all(t.strip() for t in self.target_prompt), f"a target prompt is empty: say what the {what} should become"
        )
        require(self.checkpoint_every >= 1, f"checkpoint_every must be >= 1, got {self.checkpoint_every}")
