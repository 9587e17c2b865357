"""What is typed after `cpds`: the papers' flags, presets, help, and words about what cannot be read."""

import subprocess
import sys
from pathlib import Path

import pytest

import cpds
from cpds.apps.cli.image import ImageArgs
from cpds.apps.cli.main import main, parse
from cpds.config import EditConfig, GuidanceConfig
from cpds.evaluation.settings import BASELINES
from cpds.presets import PRESETS, PRESETS_FOR


def settings(*flags: str) -> EditConfig:
    args = parse(["image", "--img_path", "x", "--prompt", "a", "--trg_prompt", "b", *flags])
    assert isinstance(args, ImageArgs)
    return args.edit


def test_the_papers_flag_names() -> None:
    flags = (
        "--num_inference_steps 7 --w_cut 3 --w_direction 2 --patch_size 1 2 4 --n_patches 9 --seed 5 --guidance_scale 4"
    )
    words = ["--negative_prompt", "a pig", "--patch_selector", "svm", "--save_path", "o", "--torch_dtype", "bf16"]
    paths = ["--mask", "m.png", "--resolution", "64", "--prior", "p", "--device", "cpu"]
    needed = ["image", "--img_path", "x.png", "--prompt", "a", "--trg_prompt", "b", "c d"]
    for spell in (lambda f: f, lambda f: f.replace("_", "-")):  # as in the papers' scripts; with dashes
        args = parse([spell(w) if w.startswith("--") else w for w in [*needed, *flags.split(), *words, *paths]])
        assert isinstance(args, ImageArgs)
        assert args.img_path == Path("x.png")
        assert (args.prompt, args.target_prompt) == ("a", ("b", "c d"))
        assert (args.save_path, args.mask, args.prior) == (Path("o"), Path("m.png"), "p")
        assert (args.torch_dtype, args.device, args.resolution) == ("bf16", "cpu", 64)
        edit, guidance = args.edit, args.edit.guidance
        assert (edit.num_inference_steps, edit.seed) == (7, 5)
        assert (guidance.w_cut, guidance.w_direction, guidance.guidance_scale) == (3, 2, 4)
        assert (guidance.patch_size, guidance.n_patches) == ((1, 2, 4), 9)
        assert (guidance.negative_prompt, guidance.patch_selector) == ("a pig", "svm")


@pytest.mark.parametrize(
    ("flags", "preset"),
    [
        ([], "cpds"),  # the default
        *[(["--method", m], m) for m in ("sds", "dds", "cds", "pds", "cpds")],  # a method alone brings its own preset
        (["--method=dds"], "dds"),  # with an equals sign
        *[(["--preset", p], p) for p in PRESETS_FOR["image"]],  # every one for images by name
    ],
)
def test_settings_start_from_the_preset(flags: list[str], preset: str) -> None:
    assert settings(*flags) == PRESETS[preset]


def test_explicit_flags_beat_the_preset() -> None:
    both = settings("--preset", "cds-paper", "--method", "dds", "--w_cut", "0.5", "--lr", "3")
    assert (both.guidance.method, both.guidance.w_cut, both.lr) == ("dds", 0.5, 3)
    assert both.num_inference_steps == PRESETS["cds-paper"].num_inference_steps
    assert settings("--lr", "3", "--method", "sds").lr == 3


def test_help_and_presets_come_without_torch() -> None:
    code = (
        "import sys\nfrom cpds.apps.cli.main import main\n"
        "try: main(sys.argv[1:])\n"
        "finally: print('heavy', [m for m in ('torch', 'diffusers', 'numpy') if m in sys.modules])"
    )
    for words in (["--help"], ["image", "--help"], ["eval", "--help"], ["presets"]):
        done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        assert done.stdout.rstrip().endswith("heavy []")


def test_help_explains_every_flag(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["image", "--help"]) == 0
    shown = capsys.readouterr().out.replace("-", "_")
    for name in (
        *GuidanceConfig.__dataclass_fields__,
        *EditConfig.__dataclass_fields__,
        *ImageArgs.__dataclass_fields__,
    ):
        assert name in ("guidance", "edit") or f"__{name}" in shown, name


def test_presets_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["presets"]) == 0
    assert [line.split(":")[0].strip() for line in capsys.readouterr().out.splitlines()] == list(PRESETS)


# ---- words about flags


@pytest.mark.parametrize(
    ("flags", "hint"),
    [
        (["--prompt", "-cat", "--trg_prompt", "b"], "--prompt=-cat"),
        (["--prompt", "a", "--trg_prompt", "-b c"], "--trg_prompt='-b c'"),
        (["--prompt", "a", "--trg_prompt", "b", "-c"], "--trg_prompt=-c"),
        (["--prompt", "a", "--trg_prompt", "b", "--nothing", "c"], ""),
        (["--trg_prompt", "b", "--prompt", "--seed", "3"], ""),
    ],
)
def test_a_value_that_begins_with_a_dash(flags: list[str], hint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["image", "--img_path", "x", *flags]) == 2
    message = capsys.readouterr().err
    assert ("a value that begins with a dash is given as" in message) == bool(hint)
    assert hint in message


def test_every_preset_is_for_something() -> None:
    names = [name for group in PRESETS_FOR.values() for name in group]
    for_renderers_of_ones_own = [name for name in PRESETS if name.endswith("-render")]
    assert sorted([*names, *for_renderers_of_ones_own]) == sorted(PRESETS)


@pytest.mark.parametrize("command", ["image", "svg", "splats", "eval"])
def test_help_offers_the_presets_that_fit(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    shown = "".join(line.strip("│ ") for line in capsys.readouterr().out.splitlines())
    offered = shown.split("--preset {", 1)[1].split("}", 1)[0].replace(" ", "").split(",")
    wanted = (*PRESETS_FOR["image"], *BASELINES) if command == "eval" else PRESETS_FOR[command]
    assert offered == list(wanted)
    assert "pyright" not in shown  # a comment beside a field would be taken for its help


@pytest.mark.parametrize(
    ("command", "preset", "kind"),
    [
        ("image", "cpds-svg", "svg"),
        ("image", "pds-splats-paper", "splats"),
        ("image", "pds-nerf-paper", "nerf"),
        ("svg", "chordedit", "image"),
        ("splats", "dds-svg", "svg"),
        ("eval", "cpds-splats", "splats"),
    ],
)
def test_a_preset_that_does_not_fit_is_refused(
    command: str, preset: str, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for flags in (["--preset", preset], [f"--preset={preset}"]):
        assert main([command, *flags]) == 2
        assert f"preset '{preset}' is for {kind}, not for {command}: take one of " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("second", "flag"),
    [
        ("--trg_prompt=-wolf", "trg_prompt"),
        ("--trg-prompt", "trg_prompt"),
        ("--target_prompt", "target_prompt"),  # an alias
    ],
)
def test_a_list_that_is_given_twice_is_refused(second: str, flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["image", "--img_path", "a.png", "--prompt", "a cat", "--trg_prompt", "a dog", second]
    assert main([*argv, "a wolf"]) == 2
    message = capsys.readouterr().err
    assert f"--{flag} is given twice" in message
    assert len(message.splitlines()) == 1


def test_help_is_shown_whatever_else_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["--resume", "nowhere"], ["--preset", "dds"], ["--method", "magic"]):
        assert main(["image", *words, "--help"]) == 0
        out, err = capsys.readouterr()
        assert "--img-path" in out
        assert err == ""


def test_the_target_prompt_has_pythons_name_too() -> None:
    argv = ["image", "--img_path", "x", "--prompt", "a", "b", "c d"]
    for flag in ("--target_prompt", "--target-prompt", "--trg_prompt"):
        assert parse([*argv[:5], flag, *argv[5:]]).target_prompt == ("b", "c d")


def test_learning_rates_of_groups_that_are_given_twice_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["svg", "--svg_path", "a.svg", "--prompt", "a", "--trg_prompt", "b"]
    assert main([*argv, "--group_lrs", "points", "1", "--group-lrs", "fills", "2"]) == 2
    assert "--group_lrs is given twice" in capsys.readouterr().err


def test_of_a_setting_that_is_given_twice_the_last_counts() -> None:
    args = parse(["image", "--img_path", "a.png", "--prompt", "a", "--trg_prompt", "b", "--seed", "2", "--seed", "3"])
    assert isinstance(args, ImageArgs)
    assert args.edit.seed == 3


def test_a_prompt_that_begins_with_a_dash_may_stand_among_others() -> None:
    argv = ["image", "--img_path", "a.png", "--prompt", "a cat", "--trg_prompt", "a dog", " -wolf"]
    args = parse(argv)
    assert isinstance(args, ImageArgs)
    assert args.target_prompt == ("a dog", " -wolf")


@pytest.mark.parametrize("argv", [[], ["imge"]])
def test_without_a_command_the_commands_are_named(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == 2
    message = capsys.readouterr().err
    assert all(command in message for command in ("image", "svg", "splats", "eval", "presets", "cpds --help"))


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"cpds {cpds.__version__}\n"


@pytest.mark.parametrize("words", [["image", "--help"], ["presets"]])
def test_a_reader_that_has_had_enough(words: list[str]) -> None:
    """As `cpds … | head -1`: no traceback."""
    program = subprocess.Popen(
        [sys.executable, "-m", "cpds.apps.cli.main", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert program.stdout is not None
    assert program.stderr is not None
    program.stdout.close()  # before anything is written
    assert program.stderr.read() == b""
    assert program.wait() == 141
