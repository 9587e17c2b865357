"""`cpds eval`: edit a data set and measure the results. Nothing heavy is imported before it runs."""

import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from cpds.apps.cli.args import EMBEDDED_NOTE, ImagePreset, PriorArgs
from cpds.config import require
from cpds.errors import InputError, MissingExtra
from cpds.terminal import print_loading, print_result, print_status

if TYPE_CHECKING:
    from cpds.evaluation.networks import Lpips


@dataclass(frozen=True, kw_only=True)
class EvalArgs(PriorArgs):
    """Edit a whole data set and measure the results: emoji-edit, PIE-Bench, or a JSONL manifest of your own."""

    data: tyro.conf.Positional[str]
    """emoji-edit (in a checkout), a manifest.jsonl (columns: cpds/evaluation/cases.py), or a folder with one, or in
    PIE-Bench's layout."""
    preset: ImagePreset = "cpds"  # pyright: ignore[reportInvalidTypeForm, reportIncompatibleVariableOverride]
    """Settings to start from; --method alone starts from that method's own. Other flags change single settings."""
    out: Path = Path("runs/eval")
    """Folder for results and tables; a second setting in the same folder becomes a second line of the table."""
    label: str | None = None
    """Name of this setting's line. Default: the preset and what differs from it."""
    split: str | None = None
    """Only this split. Default: test for emoji-edit, else everything."""
    tag: str | None = None
    """Only cases with this tag, in emoji-edit seen, held-out or a kind (animal, food, ...)."""
    limit: int | None = None
    """Only this many cases, spread evenly over the set."""
    batch: int = 8
    """Cases edited at once; the result of each is as if it were alone."""
    resolution: int | None = None
    """Shorter side while editing, in px. Default: what the prior was trained on."""
    keep_unchanged: bool = True
    """Take pixels that the edit did not touch from the source instead of from the autoencoder."""
    lpips: bool = True
    """LPIPS columns; AlexNet's weights come from --lpips_weights or by download."""
    lpips_weights: Path | None = None
    """File of torchvision's AlexNet weights (.pth or .safetensors). Default: $CPDS_ALEXNET, else downloaded once."""
    clip: str | None = None
    """CLIP for the CLIP columns: hub name (openai/clip-vit-large-patch14) or local folder."""
    dino: str | None = None
    """ViT for the structure distance: hub name (facebook/dino-vitb8) or local folder. Default: the prior's features."""


def run_eval(args: EvalArgs, command: str) -> int:
    """`cpds eval`: every problem with the data is named before a network is loaded. `command` goes into the config."""
    require(args.batch >= 1, f"batch must be >= 1, got {args.batch}")
    require(args.limit is None or args.limit >= 1, f"limit must be >= 1, got {args.limit}")
    print_loading()

    from tqdm import tqdm

    from cpds.evaluation.cases import classifier_file, load_cases, select
    from cpds.evaluation.runner import Evaluation, batch_editor, setting_name
    from cpds.evaluation.scoring import load_metrics
    from cpds.evaluation.tables import save_tables
    from cpds.images import working_size
    from cpds.priors.load import load_prior
    from cpds.threads import choose_threads
    from representations.latent import LatentImage, LatentImageConfig

    label = args.label or setting_name(args.preset, args.edit)
    named = re.fullmatch(r"[\w.,=@ +-]{1,120}", label) and not label.startswith(".")
    require(bool(named), f"label {label!r} names a folder: at most 120 letters, digits, spaces and . , = @ + -")
    cases = load_cases(args.data, args.split or ("test" if args.data == "emoji-edit" else None))
    cases = select(cases, args.tag, args.limit)
    classifier = classifier_file(args.data) if any(case.expect for case in cases) else None
    if args.prior is None and args.data != "emoji-edit":
        print_status(EMBEDDED_NOTE)
    lpips = open_lpips(args.lpips_weights) if args.lpips else None  # before the prior, which is read longer
    prior = load_prior(args.prior, device=args.device, dtype=args.torch_dtype)
    choose_threads(prior)
    for width, height in {case.size for case in cases}:
        working_size(height, width, args.resolution or prior.image_size, prior.size_multiple)
    metrics = load_metrics(prior, cases, classifier, lpips, args.clip, args.dino)
    latent = LatentImageConfig(args.resolution, args.keep_unchanged)
    settings = {"edit": asdict(args.edit), "latent": asdict(latent), "prior": prior.fingerprint}
    evaluation = Evaluation(args.out / label, {**settings, "metrics": metrics.fingerprint}, command)
    editor = batch_editor(lambda images: LatentImage(images, prior, latent), prior, args.edit)
    try:
        with tqdm(desc=label, total=len(cases), unit="edit") as bar:
            evaluation.run(cases, editor, metrics, args.batch, lambda done: bar.update(done - bar.n))
        print_result(save_tables(args.out, metrics.fingerprint, cases))
    except KeyboardInterrupt:
        print_status("Stopped; the same command goes on where this one ended")
        return 130
    except OSError as err:
        raise InputError(f"{args.out} cannot be written ({err.strerror}): make room and run it again") from err
    return 0


def open_lpips(weights: Path | None) -> "Lpips":
    """LPIPS; an InputError says what a user of the command can do."""
    from cpds.evaluation.networks import Lpips

    try:
        return Lpips.load(weights)
    except MissingExtra:
        raise
    except InputError as err:
        raise InputError(f"{err} as --lpips_weights, or leave LPIPS out with --no-lpips") from err
