"""The command line, `cpds …`. Nothing heavy is imported before a command really runs."""

from __future__ import annotations

import os
import re
import shlex
import sys
import warnings
from collections.abc import Sequence
from contextlib import redirect_stderr
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any, Literal

import tyro

from cpds.config import EditConfig, GuidanceConfig, require
from cpds.errors import InputError
from cpds.presets import PRESETS

BIGGER = "stable-diffusion-v1-5/stable-diffusion-v1-5"
EMBEDDED_NOTE = (
    "Using the embedded prior, which knows some 280 emoji-like things (cats, fruit, hearts, ...) on plain backgrounds; "
    f"for photos name a bigger one: --prior {BIGGER}"
)

PresetName = Literal[tuple(PRESETS)]


@dataclass(frozen=True)
class ImageArgs:
    """Edit a picture, or every picture of a folder, by prompt."""

    img_path: Path
    """Picture or folder of pictures (jpg, jpeg, png, webp, bmp)."""
    prompt: str
    """What the picture shows."""
    trg_prompt: tuple[str, ...]
    """What it should become; several prompts give one edit each."""
    save_path: Path | None = None
    """Run folder for results (with several edits: the folder of run folders). Default: a new folder in runs/."""
    preset: PresetName = "cpds"  # pyright: ignore[reportInvalidTypeForm]
    """Settings to start from; --method alone starts from that method's own. Other flags change single settings."""
    prior: str | None = None
    """Diffusion prior: a Hugging Face name or a local folder in diffusers' layout. Default: the embedded prior."""
    mask: Path | None = None
    """Picture of the source's size, white where the edit may happen."""
    resolution: int | None = None
    """Shorter side while editing, in px. Default: what the prior was trained on."""
    keep_unchanged: bool = True
    """Take pixels that the edit did not touch from the source instead of from the autoencoder."""
    resume: tyro.conf.FlagCreatePairsOff[bool] = False
    """Go on with the interrupted run(s) in --save_path."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps."""
    torch_dtype: Literal["auto", "fp32", "fp16", "bf16"] = "auto"
    """Precision of the prior. auto: fp16 on CUDA, else fp32."""
    edit: tyro.conf.OmitArgPrefixes[EditConfig] = field(default_factory=lambda: PRESETS["cpds"])


@dataclass(frozen=True)
class EvalArgs:
    """Edit a whole data set and judge the edits: emoji-edit, PIE-Bench, or a JSONL manifest of your own."""

    data: tyro.conf.Positional[str]
    """emoji-edit, a manifest.jsonl (columns: cpds/cases.py), or a folder with one or in PIE-Bench's layout."""
    out: Path = Path("runs/eval")
    """Folder for results and tables; a second setting in the same folder becomes a second line of the table."""
    label: str | None = None
    """Name of this setting's line. Default: the preset and what differs from it."""
    preset: PresetName = "cpds"  # pyright: ignore[reportInvalidTypeForm]
    """Settings to start from; --method alone starts from that method's own. Other flags change single settings."""
    split: str | None = None
    """Only this split. Default: test for emoji-edit, else everything."""
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


@dataclass(frozen=True)
class PresetsArgs:
    """List the presets with their settings."""


def slug(text: str) -> str:
    """A prompt as a folder name."""
    return re.sub(r"[^\w]+", "-", text.lower()).strip("-")[:60] or "edit"


def fresh_folder(stem: str) -> Path:
    """runs/<stem>, or runs/<stem>-2 … if that is taken."""
    candidates = (Path("runs") / (stem if i == 1 else f"{stem}-{i}") for i in range(1, 100_000))
    return next(p for p in candidates if not p.exists())


def destinations(args: ImageArgs, pictures: Sequence[Path]) -> list[tuple[Path, str, Path]]:
    """(picture, target prompt, run folder) of every edit asked for; no two share a folder."""
    first = folder_name(pictures[0], args.trg_prompt[0])
    many = len(pictures) * len(args.trg_prompt) > 1
    root = args.save_path or fresh_folder(args.img_path.stem if many else first)
    if not many:
        return [(pictures[0], args.trg_prompt[0], root)]
    jobs: list[tuple[Path, str, Path]] = []
    taken: set[Path] = set()
    for picture in pictures:
        for target in args.trg_prompt:
            name = folder_name(picture, target)
            # cat.png and cat.jpg, or prompts that differ in punctuation, must not meet in one folder
            folder = next(p for i in range(1, 10_000) if (p := root / (name if i == 1 else f"{name}-{i}")) not in taken)
            taken.add(folder)
            jobs.append((picture, target, folder))
    return jobs


def folder_name(picture: Path, target: str) -> str:
    """<picture>-<prompt>, short enough for every file system."""
    return "-".join(part.encode()[:120].decode(errors="ignore") for part in (picture.stem, slug(target)))


def run_image(args: ImageArgs) -> int:
    """Every edit of `cpds image`. All inputs are checked before the first step."""
    require(bool(args.prompt.strip()), "the prompt is empty: say in words what the picture shows")
    require(bool(args.trg_prompt), "there is no target prompt: say what the picture should become")
    require(all(t.strip() for t in args.trg_prompt), "a target prompt is empty: say what the picture should become")
    require(args.save_path is not None or not args.resume, "--resume needs --save_path: name the run to go on with")

    from cpds.pictures import find_pictures, open_mask, open_picture
    from cpds.runs import RunFolder

    jobs = destinations(args, find_pictures(args.img_path))
    root = jobs[0][2] if len(jobs) == 1 else jobs[0][2].parent
    for _, _, folder in jobs:
        if not (args.resume and RunFolder(folder).exists):
            RunFolder(folder).require_free()
            require(len(jobs) > 1 or not args.resume, f"there is no run to resume in {folder}: check --save_path")
    sizes = set()
    for path in dict.fromkeys(path for path, _, _ in jobs):  # every file is tried, none kept in memory
        image = open_picture(path)
        sizes.add(tuple(image.shape[-2:]))
        if args.mask:
            open_mask(args.mask, image)

    from cpds.prior import load_prior
    from representations.latent import LatentImage, LatentImageConfig, working_size

    config = LatentImageConfig(args.resolution, args.keep_unchanged)
    if args.prior is None:
        print(EMBEDDED_NOTE, file=sys.stderr)
    prior = load_prior(args.prior, device=args.device, dtype=args.torch_dtype)
    for height, width in sizes:
        working_size(height, width, args.resolution or prior.native_side, prior.multiple)
    for n, (path, target, folder) in enumerate(jobs, 1):
        if len(jobs) > 1:
            print(f"[{n}/{len(jobs)}] {path.name} -> {target}", file=sys.stderr)
        image = LatentImage.open(path, prior, config, args.mask)
        if (code := one_edit(args, image, prior, target, folder, f"--resume --save_path {root}")) != 0:
            return code
    return 0


def one_edit(args: ImageArgs, image: Any, prior: Any, target: str, folder: Path, again: str) -> int:
    """Start, resume or skip one run; `again` are the flags to go on with it."""
    from cpds.callbacks import Checkpoints, MetricsLog, Pictures, ProgressBar, StopBetweenSteps
    from cpds.editor import EditDiverged, run, start
    from cpds.pictures import to_pil
    from cpds.runs import GIF, RESULT, STRIP, Identity, RunFolder

    place = RunFolder(folder)
    state = start(image, prior, args.prompt, target, args.edit)
    identity = Identity(args.prompt, target, prior.identity, image.source_id(), args.edit)
    if args.resume and place.exists:
        place.check(identity)
        if place.finished:
            print(f"{folder} is already finished", file=sys.stderr)
            return 0
        if saved := place.load_checkpoint():
            try:
                state.load(saved)
            except (KeyError, ValueError, RuntimeError) as err:
                raise InputError(f"the checkpoint in {folder} is of another run: start the run anew elsewhere") from err
    else:
        place.create(identity)

    bar, checkpoints = ProgressBar(), Checkpoints(place)
    stopper = StopBetweenSteps()
    callbacks = [bar, MetricsLog(place), Pictures(place, to_pil(image.image)), checkpoints, stopper]
    try:
        run(state, callbacks)
    except KeyboardInterrupt:
        bar.close()
        if stopper.stopped:  # between two steps: the state is whole
            checkpoints.save(state)
        print(f"Stopped after step {state.step}; go on with {again}", file=sys.stderr)
        return 130
    except EditDiverged as err:
        bar.close()
        kept = int((place.load_checkpoint() or {"step": 0})["step"])  # the selector has seen the bad step: save no more
        raise InputError(f"{err}; the state after step {kept} is kept in {folder}") from err
    except OSError as err:
        bar.close()
        raise InputError(f"{folder} cannot be written ({err.strerror}): make room and go on with {again}") from err
    finally:
        stopper.restore()
    for label, name in {"result": RESULT, "before/after": STRIP, "trajectory": GIF}.items():
        print(f"{label:>12}: {folder / name}")
    return 130 if stopper.asked else 0  # Ctrl-C while the last pictures were written


def run_eval(args: EvalArgs, command: str) -> int:
    """`cpds eval`: every problem with the data is named before a network is loaded. `command` goes into the config."""
    require(args.batch >= 1, f"batch must be >= 1, got {args.batch}")
    require(args.limit is None or args.limit >= 1, f"limit must be >= 1, got {args.limit}")
    label = args.label or setting_name(args.preset, args.edit)
    named = re.fullmatch(r"[\w.,=@ +-]{1,120}", label) and not label.startswith(".")
    require(bool(named), f"label {label!r} names a folder: at most 120 letters, digits, spaces and . , = @ + -")

    from cpds.cases import load_cases

    cases = load_cases(args.data, args.split or ("test" if args.data == "emoji-edit" else None))
    if args.limit and args.limit < len(cases):
        cases = [cases[i * len(cases) // args.limit] for i in range(args.limit)]

    import torch
    from tqdm import tqdm

    from cpds.editor import EditDiverged, run, start
    from cpds.evaluation import Evaluation, Forwards, save_tables
    from cpds.prior import load_prior
    from representations.latent import LatentImage, LatentImageConfig, working_size

    if args.prior is None and args.data != "emoji-edit":
        print(EMBEDDED_NOTE, file=sys.stderr)
    prior = load_prior(args.prior, device=args.device, dtype=args.torch_dtype)
    for width, height in {case.size for case in cases}:
        working_size(height, width, args.resolution or prior.native_side, prior.multiple)
    tools, judged_by = instruments(args, prior, cases)
    latent = LatentImageConfig(args.resolution, args.keep_unchanged)
    settings = {"edit": asdict(args.edit), "latent": asdict(latent), "prior": prior.identity, "judged by": judged_by}

    def edit_batch(group: Any, sources: Any) -> tuple[Any, float]:
        image, counter = LatentImage(sources, prior, latent), Forwards()
        prompts, targets = ([getattr(case, k) for case in group] for k in ("prompt", "target_prompt"))
        try:
            run(start(image, prior, prompts, targets, args.edit), [counter])
        except EditDiverged as err:
            if len(group) > 1:  # find the one that did, and spare the others
                parts = [edit_batch([case], source) for case, source in zip(group, sources.split(1), strict=True)]
                return torch.cat([p for p, _ in parts]), sum(f for _, f in parts) / len(parts)
            print(f"cpds: warning: {group[0].id}: {err}; its last good state is judged", file=sys.stderr)
        return image.picture(prior), counter.total / len(group)

    evaluation = Evaluation(args.out / label, settings, command)
    try:
        with tqdm(desc=label, total=len(cases), unit="edit") as bar:
            evaluation.run(cases, edit_batch, tools, args.batch, lambda done: bar.update(done - bar.n))
        print(save_tables(args.out, settings, cases))
    except KeyboardInterrupt:
        print("Stopped; the same command goes on where this one ended", file=sys.stderr)
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


def instruments(args: EvalArgs, prior: Any, cases: Sequence[Any]) -> tuple[Any, dict[str, Any]]:
    """What the edits are judged by, and what tells two sets of instruments apart."""
    import hashlib

    from cpds.cases import EMOJI_EDIT
    from cpds.evaluation import Instruments
    from cpds.judge import Judge
    from cpds.metrics import torchmetrics_functional
    from cpds.perception import ClipScore, DinoStructure, Lpips, PriorStructure

    torchmetrics_functional("structural_similarity_index_measure")
    judge, judge_file = None, EMOJI_EDIT / "judge.safetensors"
    if any(case.expect for case in cases):
        judge = Judge.load(judge_file).to(prior.device)
        wrong = {f"{h} {n!r}" for case in cases for h, n in case.expect.items() if n not in judge.classes.get(h, ())}
        require(not wrong, f"expect names what the judge does not know: {', '.join(sorted(wrong))}")
    weights = args.lpips_weights or (Path(os.environ["CPDS_ALEXNET"]) if "CPDS_ALEXNET" in os.environ else None)
    tools = Instruments(
        structure=DinoStructure(args.dino, prior.device) if args.dino else PriorStructure(prior),
        judge=judge,
        lpips=Lpips.load(weights).to(prior.device) if args.lpips else None,
        clip=ClipScore(args.clip, prior.device) if args.clip else None,
        device=prior.device,
    )
    digest = hashlib.sha256(judge_file.read_bytes()).hexdigest()[:16] if judge else None
    structure = args.dino or prior.identity
    return tools, {"judge": digest, "lpips": args.lpips, "clip": args.clip, "structure": structure}


def run_presets() -> int:
    """Print every preset, one line each, with what differs from the plain defaults."""
    for name, preset in PRESETS.items():
        shown = {f.name: getattr(preset.guidance, f.name) for f in fields(GuidanceConfig)}
        shown |= {f.name: getattr(preset, f.name) for f in fields(EditConfig) if f.name != "guidance"}
        plain = {f.name: f.default for f in [*fields(GuidanceConfig), *fields(EditConfig)]}
        own = " ".join(f"{k}={v}" for k, v in shown.items() if k == "method" or (v and v != plain.get(k)))
        print(f"{name:>15}: {own}")
    return 0


def chosen_preset(argv: Sequence[str]) -> str:
    """The preset that the flags start from: --preset, else the one named like --method, else cpds."""
    found = {}
    for i, word in enumerate(argv):
        flag, _, value = word.partition("=")
        if flag in ("--preset", "--method"):
            found[flag] = value or (argv[i + 1] if i + 1 < len(argv) else "")
    name = found.get("--preset") or found.get("--method") or "cpds"
    return name if name in PRESETS else "cpds"  # tyro will say what is wrong with an unknown one


def unboxed(box: str) -> str:
    """One line from tyro's error box: without frame, title, hints and its inner names."""
    lines = [line.strip("│|╭╮╰╯ ") for line in box.splitlines()][1:]
    parts = " ".join("\n" if re.fullmatch("[-─]*", line) else line for line in lines).split("\n")
    kept = [p.strip() for p in parts if p.strip() and not re.match(r"\s*(For full|Argument) helptext", p)]
    return re.sub(r"^Error parsing __\S+: ", "", "; ".join(kept).rstrip(".!") or box.strip())


def parse(argv: Sequence[str]) -> ImageArgs | EvalArgs | PresetsArgs:
    """Arguments with the chosen preset's settings as defaults. InputError on a bad flag."""
    name = chosen_preset(argv)
    image, evaluation = (partial(args, preset=name, edit=PRESETS[name]) for args in (ImageArgs, EvalArgs))
    commands: dict[str, Any] = {"image": image, "eval": evaluation, "presets": PresetsArgs}
    box = StringIO()
    try:
        with redirect_stderr(box):
            return tyro.extras.subcommand_cli_from_dict(commands, args=list(argv), prog="cpds", description=__doc__)
    except SystemExit as stop:
        if stop.code != 2:
            raise
        command = argv[0] if argv and argv[0] in commands else "image"
        raise InputError(f"{unboxed(box.getvalue())}; see cpds {command} --help") from None


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; 2 and one sentence for anything that the user can mend."""
    warnings.showwarning = lambda message, *_args, **_kwargs: print(f"cpds: warning: {message}", file=sys.stderr)
    try:
        given = list(sys.argv[1:] if argv is None else argv)
        args = parse(given)
        if isinstance(args, ImageArgs):
            return run_image(args)
        if isinstance(args, EvalArgs):
            return run_eval(args, shlex.join(["cpds", *given]))
        return run_presets()
    except InputError as err:
        print(f"cpds: error: {err}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Stopped", file=sys.stderr)
        return 130
    except Exception as err:
        if type(err).__name__ != "OutOfMemoryError":  # torch's, which is not imported here
            raise
        print(
            "cpds: error: out of GPU memory: lower --resolution (or --batch), or take --torch_dtype fp16",
            file=sys.stderr,
        )
        return 2


if __name__ == "__main__":
    sys.exit(main())
