"""`cpds eval`: edit a data set and measure the results. Nothing heavy is imported before it runs."""

import re
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tyro

from cpds.apps.cli.args import EMBEDDED_NOTE, PresetArgs
from cpds.apps.cli.presets import edit_as_typed, offered_to
from cpds.apps.cli.workers import WorkerArgs, located_prior
from cpds.config import EditConfig, require
from cpds.errors import InputError, MissingExtra
from cpds.evaluation.settings import (
    BASELINES,
    OWN,
    EvaluatedEdit,
    Setting,
    baseline_of,
    document,
    evaluated,
    starting_edit,
)
from cpds.evaluation.sweep import grid, read_axes
from cpds.presets import PRESETS
from cpds.terminal import print_loading, print_result, print_status

if TYPE_CHECKING:
    from cpds.apps.batch.executor import Outcome
    from cpds.evaluation.networks import Lpips
    from cpds.priors.base import Prior
    from cpds.types import Images

EvalPreset = Literal[offered_to("eval")]


@dataclass(frozen=True, kw_only=True)
class EvalArgs(PresetArgs, WorkerArgs):
    """Edit a whole data set and measure the results: emoji-edit, PIE-Bench, or a JSONL manifest of your own."""

    data: tyro.conf.Positional[str]
    """emoji-edit or emoji-edit-v2 (in a checkout), a manifest.jsonl (columns: cpds/evaluation/cases.py), or a folder
    with one, or in PIE-Bench's layout."""
    preset: EvalPreset = "cpds"  # pyright: ignore[reportInvalidTypeForm, reportIncompatibleVariableOverride]
    """Settings to start from; --method alone starts from that method's own. Other flags change single settings. sdedit,
    ddim-inversion and ddpm-inversion are baselines: of the edit options they have guidance_scale,
    source_guidance_scale (of the inversion), negative_prompt, num_inference_steps and seed."""
    edit: tyro.conf.OmitArgPrefixes[EvaluatedEdit] = field(  # pyright: ignore[reportIncompatibleVariableOverride]
        default_factory=lambda: evaluated(PRESETS["cpds"])
    )
    """A whole edit: guidance, optimizer and length."""
    strength: float | None = None
    """Baselines: how far up the schedule the source is noised or inverted, as a fraction of it. Default: 0.8."""
    sweep: tuple[str, ...] = ()
    """Evaluate every combination of these, e.g. --sweep preset=pds,cpds guidance_scale=3,5,7.5 seed=0,1,2. Any field of
    a setting may be swept; settings that differ by seed alone share a line of the table."""
    out: Path = Path("runs/eval")
    """Folder for results and tables; a second setting in the same folder becomes a second line of the table."""
    label: str | None = None
    """Name of this setting's line. Default: the preset and what differs from it."""
    split: str | None = None
    """Only this split. Default: test for emoji-edit and emoji-edit-v2, else everything."""
    tag: str | None = None
    """Only cases with this tag, in emoji-edit seen, held-out or a kind (animal, food, ...)."""
    limit: int | None = None
    """Only this many cases, spread evenly over the set."""
    there_and_back: bool = False
    """Edit every result back, with the prompts exchanged, and measure how near that comes to the source. Look at LPIPS
    to the source too: an edit that does nothing comes back perfectly."""
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
    """`cpds eval`: every problem with the data or a setting is named before the first edit.

    `command`, as it was typed, goes into the config.
    """
    args.check()
    require(args.batch >= 1, f"batch must be >= 1, got {args.batch}")
    require(args.limit is None or args.limit >= 1, f"limit must be >= 1, got {args.limit}")
    chosen = settings(args, shlex.split(command)[2:])
    for label in chosen:
        named = re.fullmatch(r"[\w.,=@ +-]{1,120}", label) and not label.startswith(".")
        require(bool(named), f"label {label!r} names a folder: at most 120 letters, digits, spaces and . , = @ + -")
    settling = [label for label, setting in chosen.items() if getattr(setting, "stop_below", 0)]
    require(
        args.batch == 1 or not settling,
        f"{', '.join(settling)}: stop_below is for one edit at a time: set batch to 1, not {args.batch}",
    )
    print_loading()

    from tqdm import tqdm

    from cpds.evaluation.cases import DATA_SETS, classifier_file, load_cases, select
    from cpds.evaluation.editors import batch_editor, check, settled
    from cpds.evaluation.runner import Evaluation, require_own
    from cpds.evaluation.scoring import load_metrics
    from cpds.evaluation.tables import require_own_tables, save_tables
    from cpds.guidance_scale import guidance_note
    from cpds.images import working_size
    from cpds.priors.load import load_prior
    from cpds.threads import choose_threads
    from representations.latent import LatentImage, LatentImageConfig

    args.require_devices()
    require_own_tables(args.out)
    for label in chosen:
        require_own(args.out / label)
    cases = load_cases(args.data, args.split or ("test" if args.data in DATA_SETS else None))
    cases = select(cases, args.tag, args.limit)
    classifier = classifier_file(args.data) if any(case.expect for case in cases) else None
    if args.prior is None and args.data not in DATA_SETS:
        print_status(EMBEDDED_NOTE)
    lpips = open_lpips(args.lpips_weights) if args.lpips else None  # before the prior, which is read longer
    prior = load_prior(args.prior, device=args.device, options=args.prior_options)
    choose_threads(prior)
    for note in (guidance_note(args.edit.guidance, prior), *notes(args, chosen, prior)):
        if note:
            print_status(f"cpds: note: {note}")
    chosen = {label: settled(setting, prior) for label, setting in chosen.items()}
    for width, height in {case.size for case in cases}:
        working_size(height, width, args.resolution or prior.image_size, prior.size_multiple)
    metrics = load_metrics(prior, cases, classifier, lpips, args.clip, args.dino)
    latent = LatentImageConfig(args.resolution, args.keep_unchanged)

    def represent(images: "Images") -> LatentImage:
        return LatentImage(images, prior, latent)

    check(represent, prior, cases, chosen.values())
    same: dict[str, Any] = {"latent": asdict(latent), "prior": prior.fingerprint, "metrics": metrics.fingerprint}
    if args.there_and_back:  # else config.json is as it was before there was such a thing
        same["there_and_back"] = True
    evaluations = {
        label: Evaluation(args.out / label, {**document(setting), **same}, command) for label, setting in chosen.items()
    }
    try:
        with tqdm(total=len(cases) * len(chosen), unit="edit") as bar:
            if args.elsewhere:
                from cpds.apps.batch.evaluating import EvalSetup, EvalWorker, evaluate

                setup = EvalSetup(*located_prior(args), args.out.absolute(), chosen, latent, args.there_and_back)
                workers = args.executor(partial(EvalWorker, setup))
                failed = evaluate(
                    evaluations, cases, workers, prior, metrics, args.batch, lambda n: bar.update(n - bar.n)
                )
                if failed:
                    bar.close()
                    return told(failed)
            else:
                for number, (label, setting) in enumerate(chosen.items()):
                    bar.set_description(label)
                    editor, before = batch_editor(represent, prior, setting), number * len(cases)
                    evaluations[label].run(
                        cases,
                        editor,
                        metrics,
                        args.batch,
                        lambda done, before=before: bar.update(before + done - bar.n),
                        args.there_and_back,
                    )
        print_result(save_tables(args.out, metrics.fingerprint, cases))
    except KeyboardInterrupt:
        print_status("Stopped; the same command goes on where this one ended")
        return 130
    except OSError as err:
        raise InputError(f"{args.out} cannot be written ({err.strerror}): make room and run it again") from err
    return 0


def told(failed: "Sequence[Outcome]") -> int:
    """Name what failed, and how to go on."""
    for outcome in failed:
        print_status(f"cpds: failed: {outcome.id}: {outcome.error}")
    print_status("The same command tries these again; the tables are made when all are done")
    return 1


def settings(args: EvalArgs, argv: Sequence[str]) -> dict[str, Setting]:
    """What to evaluate, by name: one setting, or those of a sweep. `argv`: the command's arguments as typed."""
    axes = read_axes(args.sweep)
    flags = {word.partition("=")[0].removeprefix("--").replace("-", "_") for word in argv if word.startswith("--")}
    require(args.label is None or not axes, "label names one setting: leave it out of a sweep")
    for name in axes:
        require(name not in flags, f"{name} is given and swept: leave one of them out")

    def start(preset: str) -> Setting:
        require(preset in offered_to("eval"), f"preset must be one of {', '.join(offered_to('eval'))}, got {preset!r}")
        edit = args.edit if preset == args.preset else edit_as_typed(argv, evaluated(starting_edit(preset)))
        own = {name: getattr(args, name) for name in OWN if getattr(args, name) is not None}
        if preset in BASELINES:
            return baseline_of(preset, edit, own)
        require(not own, f"{', '.join(own)} is for the baselines ({', '.join(BASELINES)}), not for preset {preset}")
        return edit

    found = grid(axes, args.preset, start)
    if args.label is not None:
        return dict.fromkeys([args.label], *found.values())
    return {f"{label} there and back" if args.there_and_back else label: found[label] for label in found}


def notes(args: EvalArgs, chosen: dict[str, Setting], prior: "Prior") -> list[str]:
    """What is changed in vain in any of the settings, each once."""
    from cpds.unused import unused_notes

    found = []
    for label, setting in chosen.items():
        preset = label.split()[0] if args.sweep else args.preset  # a sweep's labels begin with it
        if preset in PRESETS and isinstance(setting, EditConfig):
            found += unused_notes(setting, PRESETS[preset], prior.guidance)
    return list(dict.fromkeys(found))


def open_lpips(weights: Path | None) -> "Lpips":
    """LPIPS; an InputError says what a user of the command can do."""
    from cpds.evaluation.networks import Lpips

    try:
        return Lpips.load(weights)
    except MissingExtra:
        raise
    except InputError as err:
        raise InputError(f"{err} as --lpips_weights, or leave LPIPS out with --no-lpips") from err
