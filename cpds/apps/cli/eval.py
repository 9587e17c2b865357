"""`cpds eval`: edit a data set and judge the edits. Nothing heavy is imported before it runs."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import tyro

from cpds.apps.cli.args import EMBEDDED_NOTE, ImagePreset
from cpds.config import EditConfig, GuidanceConfig, require
from cpds.errors import InputError, MissingExtra
from cpds.presets import PRESETS
from cpds.terminal import print_loading, print_result, print_status, warn


@dataclass(frozen=True)
class EvalArgs:
    """Edit a whole data set and judge the edits: emoji-edit, PIE-Bench, or a JSONL manifest of your own."""

    data: tyro.conf.Positional[str]
    """emoji-edit, a manifest.jsonl (columns: cpds/evaluation/cases.py), or a folder with one, or in PIE-Bench's
    layout."""
    out: Path = Path("runs/eval")
    """Folder for results and tables; a second setting in the same folder becomes a second line of the table."""
    label: str | None = None
    """Name of this setting's line. Default: the preset and what differs from it."""
    preset: ImagePreset = "cpds"  # pyright: ignore[reportInvalidTypeForm]
    """Settings to start from; --method alone starts from that method's own. Other flags change single settings."""
    split: str | None = None
    """Only this split. Default: test for emoji-edit, else everything."""
    tag: str | None = None
    """Only cases with this tag, in emoji-edit seen, held-out or a kind (animal, food, ...)."""
    limit: int | None = None
    """Only this many cases, spread evenly over the set."""
    batch: int = 8
    """Cases edited at once; each comes out as if alone."""
    prior: str | None = None
    """Diffusion prior: a Hugging Face name or a local folder in diffusers' layout. Default: the embedded prior."""
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
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps."""
    torch_dtype: Literal["auto", "fp32", "fp16", "bf16"] = "auto"
    """Precision of the prior. auto: fp16 on CUDA, else fp32."""
    edit: tyro.conf.OmitArgPrefixes[EditConfig] = field(default_factory=lambda: PRESETS["cpds"])


def run_eval(args: EvalArgs, command: str) -> int:
    """`cpds eval`: every problem with the data is named before a network is loaded. `command` goes into the config."""
    require(args.batch >= 1, f"batch must be >= 1, got {args.batch}")
    require(args.limit is None or args.limit >= 1, f"limit must be >= 1, got {args.limit}")
    label = args.label or setting_name(args.preset, args.edit)
    named = re.fullmatch(r"[\w.,=@ +-]{1,120}", label) and not label.startswith(".")
    require(bool(named), f"label {label!r} names a folder: at most 120 letters, digits, spaces and . , = @ + -")

    print_loading()
    from cpds.evaluation.cases import load_cases

    cases = load_cases(args.data, args.split or ("test" if args.data == "emoji-edit" else None))
    tags = sorted({tag for case in cases for tag in case.tags})
    cases = [case for case in cases if args.tag is None or args.tag in case.tags]
    require(bool(cases), f"no case has the tag {args.tag!r}: there are {', '.join(tags) or 'none'}")
    if args.limit and args.limit < len(cases):
        cases = [cases[i * len(cases) // args.limit] for i in range(args.limit)]

    import torch
    from tqdm import tqdm

    from cpds.editor import EditDiverged, run, start
    from cpds.evaluation.runner import Evaluation, Forwards, save_tables
    from cpds.images import working_size
    from cpds.priors.load import load_prior
    from cpds.threads import choose_threads
    from representations.latent import LatentImage, LatentImageConfig

    if args.prior is None and args.data != "emoji-edit":
        print_status(EMBEDDED_NOTE)
    lpips = open_lpips(args)  # first: it may be missing, and is read sooner than a prior
    prior = load_prior(args.prior, device=args.device, dtype=args.torch_dtype)
    choose_threads(prior)
    for width, height in {case.size for case in cases}:
        working_size(height, width, args.resolution or prior.image_size, prior.size_multiple)
    tools, judged_by = instruments(args, prior, cases, lpips)
    latent = LatentImageConfig(args.resolution, args.keep_unchanged)
    settings = {"edit": asdict(args.edit), "latent": asdict(latent), "prior": prior.fingerprint, "judged by": judged_by}

    def edit_batch(group: Any, sources: Any) -> tuple[Any, float]:
        image, counter = LatentImage(sources, prior, latent), Forwards()
        prompts, targets = ([getattr(case, k) for case in group] for k in ("prompt", "target_prompt"))
        try:
            run(start(image, prior, prompts, targets, args.edit), [counter])
        except EditDiverged as err:
            if len(group) > 1:  # find the one that did, and spare the others
                parts = [edit_batch([case], source) for case, source in zip(group, sources.split(1), strict=True)]
                return torch.cat([p for p, _ in parts]), sum(f for _, f in parts) / len(parts)
            warn(f"{group[0].id}: {err}; its last good state is judged")
        return image.preview(), counter.total / len(group)

    evaluation = Evaluation(args.out / label, settings, command)
    try:
        with tqdm(desc=label, total=len(cases), unit="edit") as bar:
            evaluation.run(cases, edit_batch, tools, args.batch, lambda done: bar.update(done - bar.n))
        print_result(save_tables(args.out, settings, cases))
    except KeyboardInterrupt:
        print_status("Stopped; the same command goes on where this one ended")
        return 130
    except OSError as err:
        raise InputError(f"{args.out} cannot be written ({err.strerror}): make room and run it again") from err
    return 0


def setting_name(preset: str, config: EditConfig) -> str:
    """'cpds' or 'cpds guidance_scale=10 lr=0.2': a preset, and what differs from it; at most 120 letters."""
    base = PRESETS[preset]
    pairs = [(f.name, base.guidance, config.guidance) for f in fields(GuidanceConfig)]
    pairs += [(f.name, base, config) for f in fields(EditConfig) if f.name != "guidance"]
    own = [f"{n}={getattr(new, n)}" for n, old, new in pairs if getattr(old, n) != getattr(new, n)]
    return re.sub(r"[^\w.,=@ +-]+", "", " ".join([preset, *own]))[:120]


def open_lpips(args: EvalArgs) -> Any:
    """LPIPS, or None where it is not asked for."""
    from cpds.evaluation.networks import Lpips

    weights = args.lpips_weights or (Path(os.environ["CPDS_ALEXNET"]) if "CPDS_ALEXNET" in os.environ else None)
    try:
        return Lpips.load(weights) if args.lpips else None
    except MissingExtra:
        raise
    except InputError as err:
        raise InputError(f"{err} as --lpips_weights, or leave LPIPS out with --no-lpips") from err


def instruments(args: EvalArgs, prior: Any, cases: Sequence[Any], lpips: Any) -> tuple[Any, dict[str, Any]]:
    """What the edits are judged by, and what tells two sets of instruments apart."""
    import hashlib

    from cpds.evaluation.cases import EMOJI_EDIT
    from cpds.evaluation.classifier import IconClassifier
    from cpds.evaluation.metrics import torchmetrics_functional
    from cpds.evaluation.networks import ClipScore, DinoStructure, PriorStructure
    from cpds.evaluation.runner import Instruments

    torchmetrics_functional("structural_similarity_index_measure")
    judge, judge_file = None, EMOJI_EDIT / "classifier.safetensors"
    if any(case.expect for case in cases):
        judge = IconClassifier.load(judge_file).to(prior.device)
        wrong = {f"{h} {n!r}" for case in cases for h, n in case.expect.items() if n not in judge.classes.get(h, ())}
        require(not wrong, f"expect names what the judge does not know: {', '.join(sorted(wrong))}")
    tools = Instruments(
        structure=DinoStructure(args.dino, prior.device) if args.dino else PriorStructure(prior),
        judge=judge,
        lpips=lpips and lpips.to(prior.device),
        clip=ClipScore(args.clip, prior.device) if args.clip else None,
        device=prior.device,
    )
    digest = hashlib.sha256(judge_file.read_bytes()).hexdigest()[:16] if judge else None
    structure = args.dino or prior.fingerprint
    return tools, {"judge": digest, "lpips": args.lpips, "clip": args.clip, "structure": structure}
