"""DreamBooth: its loss by hand, what it trains, resuming, and results that load as LoRA or prior."""

import json
import re
import shutil
import signal
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import randn, snapshot
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file
from tiny_priors import Family
from torch import Tensor

from cpds.apps.cli.main import main
from cpds.errors import InputError
from cpds.locks import held
from cpds.personalize import run, training
from cpds.personalize.config import DreamBoothConfig
from cpds.personalize.loss import Subject, total_loss
from cpds.personalize.run import dreambooth
from cpds.personalize.training import Batches
from cpds.priors.adapters import LORA_NAME
from cpds.priors.load import load_prior
from cpds.priors.options import PriorOptions
from cpds.schedule import NoiseSchedule
from cpds.session import EditStopped

Get = Callable[[str], Family]
PLAIN = DreamBoothConfig(
    prompt="a qx cat", class_prompt="a cat", class_images=2, steps=3, lr=0.01, batch=2, rank=2, samples=0
)


def plain(**changes: Any) -> DreamBoothConfig:
    """The plain settings with others, and without those of its own that these leave no meaning to."""
    if changes.get("full"):
        changes = {"rank": 4, **changes}
    if changes.get("class_prompt", "") is None:
        changes = {"class_images": 200, **changes}
    return replace(PLAIN, **changes)


def loaded(family: Family, **options: Any) -> Any:
    return load_prior(family.folder, device="cpu", options=PriorOptions(**options))


@pytest.fixture
def instances(tmp_path: Path) -> Path:
    folder = tmp_path / "instances"
    folder.mkdir()
    for i in range(3):
        pixels = (randn(i, 3, 40, 36).sigmoid() * 255).byte().permute(1, 2, 0)
        Image.fromarray(pixels.numpy()).save(folder / f"{i}.png")
    return folder


@pytest.fixture
def train(families: Get, instances: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """A short run on a tiny prior; the result's path."""
    monkeypatch.setattr("cpds.personalize.pictures.SAMPLING_STEPS", 2)

    def start(out: str = "out", name: str = "sd", resume: bool = False, **changes: Any) -> Path:
        options = {f.name: changes.pop(f.name) for f in fields(PriorOptions) if f.name in changes}
        folder, config = families(name).folder, plain(**changes)
        where: dict[str, Any] = {"prior": str(folder), "device": "cpu"}
        where["class_folder"] = tmp_path / f"class-{name}" if config.class_prompt else None
        where["options"] = PriorOptions(**options)
        return dreambooth(instances, tmp_path / out, config, **where, resume=resume)

    return start


def denoised(prior: Any, prompt: str = "a qx cat") -> Tensor:
    x = randn(0, 1, prior.vae.config.latent_channels, 8, 8)
    return prior.denoise(x, torch.tensor([400]), prior.embed([prompt])).eps


# ---- the loss


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "flow"])
def test_targets_are_what_gives_the_noise_back(kind: str) -> None:
    schedule = NoiseSchedule.flow() if kind == "flow" else NoiseSchedule.scaled_linear(parameterization=kind)  # pyright: ignore
    z, eps, t = randn(0, 2, 4, 3, 3), randn(1, 2, 4, 3, 3), torch.tensor([10, 900])
    x_t = schedule.add_noise(z, eps, t)
    torch.testing.assert_close(schedule.to_epsilon(schedule.target(z, eps, t), x_t, t), eps)


@pytest.mark.parametrize("name", ["sd", "sdxl", "sd3", "flux-dev", "z-image"])
def test_loss_is_the_error_of_each_prediction(families: Get, name: str) -> None:
    """Through the prior's own epsilon: for a flow the error of v is that of epsilon over alpha squared."""
    family = families(name)
    prior = loaded(family)
    z, eps, t = randn(0, 3, 4, 8, 8), randn(1, 3, 4, 8, 8), torch.tensor([100, 500, 700])
    prompts = ["a qx cat", "a qx cat", "a cat"]
    subject = Subject(prior, PLAIN)  # LoRA layers begin as zeros
    errors = subject(z, eps, t, prompts)
    expected = []
    for i in range(3):
        alpha, sigma = (float(x) for x in family.prior.schedule.at(t[i : i + 1]))
        x_t = alpha * z[i : i + 1] + sigma * eps[i : i + 1]
        found = family.prior.denoise(x_t, t[i : i + 1], family.prior.embed([prompts[i]])).eps
        scale = 1 if name in ("sd", "sdxl") else alpha
        expected.append((((found - eps[i : i + 1]) / scale) ** 2).sum() / z[i].numel())
    torch.testing.assert_close(errors, torch.stack(expected), rtol=1e-4, atol=1e-5)
    by_hand = (expected[0] + expected[1]) / 2 + 0.3 * expected[2]
    torch.testing.assert_close(total_loss(errors, 2, 0.3), by_hand, rtol=1e-4, atol=1e-5)
    assert total_loss(errors[:2], 2, 0.3) == errors[:2].mean()


def test_a_step_is_that_of_adamw_on_the_loss(families: Get, train: Callable[..., Path], tmp_path: Path) -> None:
    """The first step's logged loss, of the batch that its seed gives, by predictions of the prior itself."""
    train(steps=1, batch=1, prior_weight=0.25)
    prior = families("sd").prior
    with torch.no_grad():
        images = [tmp_path / "instances" / f"{i}.png" for i in range(3)]
        classes = sorted((tmp_path / "class-sd").glob("*.png"))
        z = [run.encoded(prior, files, prior.image_size) for files in (images, classes)]
    z, eps, t = Batches(replace(PLAIN, batch=1), *z).draw(0, 0, 1, prior.schedule)
    x_t = prior.schedule.add_noise(z, eps, t)
    found = prior.denoise(x_t, t, prior.embed(["a qx cat", "a cat"])).eps
    first, second = ((found - eps) ** 2).mean((1, 2, 3)).tolist()
    logged = json.loads((tmp_path / "out" / "metrics.jsonl").read_text())
    assert logged["loss"] == pytest.approx(first + 0.25 * second, rel=1e-5)


def test_batches_go_round_the_instances_and_differ_by_device() -> None:
    config = replace(PLAIN, batch=2)
    z = torch.arange(4.0).view(4, 1, 1, 1)
    schedule, flow = NoiseSchedule.scaled_linear(), NoiseSchedule.flow(shift=3.0)
    seen = [Batches(config, z).draw(0, rank, 2, schedule) for rank in range(2)]
    assert sorted(torch.cat([batch[0] for batch in seen]).flatten().tolist()) == [0, 1, 2, 3]
    assert not torch.equal(seen[0][1], seen[1][1])
    drawn = torch.cat([Batches(config, z).draw(i, 0, 1, flow)[2] for i in range(200)])
    assert -1 <= float(drawn.min()) < 20 < 980 < float(drawn.max()) < 999
    assert abs(float(drawn.mean()) - 499) < 60


# ---- what is trained


@pytest.mark.parametrize("name", ["sd", "sdxl"])
@pytest.mark.parametrize("text", [False, True])
@pytest.mark.parametrize("full", [False, True])
def test_only_the_asked_parameters_change(families: Get, name: str, text: bool, full: bool) -> None:
    prior = loaded(families(name), keep_text_encoders=True)
    before = {k: x.clone() for part in ("unet", "text_encoder", "vae") for k, x in parameters(prior, part)}
    subject = Subject(prior, plain(full=full, train_text_encoder=text))
    optimizer = torch.optim.AdamW(subject.trained.values(), 0.1)
    shape = (2, 4, 8, 8)
    subject(randn(0, *shape), randn(1, *shape), torch.tensor([100, 500]), ["a qx cat", "a cat"]).mean().backward()
    optimizer.step()
    after = {k: x for part in ("unet", "text_encoder", "vae") for k, x in parameters(prior, part)}
    changed = {k for k, x in after.items() if k not in before or not torch.equal(x, before[k])}
    parts = {"unet", "text_encoder"} if text else {"unet"}
    assert {k.split(".")[0] for k in changed} == parts
    assert full or all("lora_" in k for k in changed)
    assert {k.split(".")[0] for k in before if k not in changed} >= {"vae", *({"text_encoder"} - parts)}


def parameters(prior: Any, part: str) -> list[tuple[str, Tensor]]:
    return [(f"{part}.{k}".replace(".base_layer", ""), x) for k, x in getattr(prior.pipeline, part).named_parameters()]


def test_checkpointing_computes_the_same(families: Get) -> None:
    gradients = []
    for saved in (False, True):
        subject = Subject(loaded(families("sd")), plain(gradient_checkpointing=saved, full=True)).train()
        subject(randn(0, 1, 4, 8, 8), randn(1, 1, 4, 8, 8), torch.tensor([100]), ["a cat"]).sum().backward()
        assert subject.net.is_gradient_checkpointing == saved
        gradients.append(next(x.grad for x in subject.trained.values()))
    torch.testing.assert_close(*gradients)


# ---- a run


@pytest.mark.parametrize("text", [False, True])
@pytest.mark.parametrize("name", ["sd", "sd3"])
def test_a_lora_loads_back_as_what_was_trained(
    families: Get, train: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, name: str, text: bool
) -> None:
    if name == "sd3" and text:
        with pytest.raises(InputError, match=r"train_text_encoder is for Stable Diffusion 1\.x"):
            train(name=name, train_text_encoder=True)
        return
    kept: list[Any] = []
    save = training.save_result
    monkeypatch.setattr(training, "save_result", lambda out, subject: [kept.append(subject), save(out, subject)][1])
    result = train(name=name, train_text_encoder=text)
    subject = kept[0]
    with torch.no_grad():
        x = randn(0, 1, 4, 8, 8)
        expected = subject.prior.denoise(x, torch.tensor([400]), subject.read(["a qx cat"])).eps
    actual = denoised(loaded(families(name), lora=(str(result),)))
    torch.testing.assert_close(actual, expected)
    assert (actual - denoised(families(name).prior)).abs().max() > 1e-4
    files = [result.with_name(file) for file in (LORA_NAME, "checkpoint.safetensors", "metrics.jsonl")]
    assert len({file.stat().st_mode for file in files}) == 1
    with safe_open(result, "pt") as file:
        assert "lora_adapter_metadata" in file.metadata()


def test_a_subject_is_learned_on_top_of_a_lora(families: Get, train: Callable[..., Path]) -> None:
    """Both together give what was trained: the same LoRA as on a prior that the first one is part of."""
    first = str(train("first", lr=0.1))
    second = str(train("second", steps=1, lora=(first,)))
    alone = str(train("alone", steps=1))
    learned, without = (
        load_file(result)["unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q.lora_B.weight"]
        for result in (second, alone)
    )
    assert not torch.equal(learned, without)
    both, one = (denoised(loaded(families("sd"), lora=each)) for each in ((first, second), (first,)))
    assert (both - one).abs().max() > 1e-6


def test_a_whole_prior_loads_as_one(families: Get, train: Callable[..., Path]) -> None:
    for name, text in (("sd", False), ("sdxl", True)):
        result = train(out=name, name=name, full=True, train_text_encoder=text, gradient_accumulation=2)
        assert result.name == "prior"
        trained = load_prior(result, device="cpu")
        assert (denoised(trained) - denoised(families(name).prior)).abs().max() > 1e-4
        same = torch.equal(trained.embed(["a cat"])["embeds"], families(name).prior.embed(["a cat"])["embeds"])
        assert same != text


def contents(folder: Path) -> dict[str, Any]:
    """A run's files: digests, and of the LoRA its tensors, as the order of a header's metadata is chance."""
    files: dict[str, Any] = snapshot(folder)
    if LORA_NAME in files:
        files[LORA_NAME] = {k: x.tolist() for k, x in load_file(folder / LORA_NAME).items()}
    return files


@pytest.mark.parametrize("kind", [{"full": False}, {"full": True}, {"mixed_precision": "fp16"}])
def test_resumed_is_uninterrupted(train: Callable[..., Path], tmp_path: Path, kind: dict[str, Any]) -> None:
    """Checkpoints too, which in fp16 hold the loss's scale and for how many steps it has been good."""
    changes = {**kind, "steps": 4, "checkpoint_every": 2, "sample_every": 2, "samples": 1}
    train("whole", **changes)
    train("parts", **{**changes, "steps": 2})
    train("parts", **changes, resume=True)
    whole, parts = contents(tmp_path / "whole"), contents(tmp_path / "parts")
    assert whole == parts
    assert {"samples/000002.png", "samples/000004.png", "metrics.jsonl"} <= whole.keys()
    if kind.get("mixed_precision") == "fp16":
        saved = load_file(tmp_path / "parts" / "checkpoint.safetensors")
        assert saved["scaler.scale"] > 1
        assert saved["scaler._growth_tracker"] > 2


@pytest.mark.parametrize("kind", ["bf16", "no"])
def test_precision_is_each_runs_own(train: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """Of two runs in one program, too."""
    seen, forward = [], Subject.forward
    monkeypatch.setattr(
        Subject, "forward", lambda self, *args: (seen.append(torch.is_autocast_enabled("cpu")), forward(self, *args))[1]
    )
    for i, precision in enumerate((kind, "fp16", kind)):
        train(str(i), steps=1, mixed_precision=precision)
    assert seen == [kind != "no", True, kind != "no"]


def test_killed_after_a_checkpoint(train: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps after the last checkpoint are made again, and logged once."""
    changes = {"steps": 5, "checkpoint_every": 2}
    train("whole", **changes)
    step = training.Training.step

    def killed(self: Any, number: int, *rest: Any) -> float:
        if number == 4:
            raise KeyboardInterrupt
        return step(self, number, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(training.Training, "step", killed)
        with pytest.raises(KeyboardInterrupt):
            train("killed", **changes)
    train("killed", **changes, resume=True)
    assert contents(tmp_path / "whole") == contents(tmp_path / "killed")


def test_stopped_while_a_sheet_is_drawn(
    train: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The step after it is finished and kept."""
    changes = {"steps": 4, "class_prompt": None, "samples": 1, "sample_every": 2}
    whole = load_file(train("whole", **changes))
    sheet = training.Training.write_sheet

    def signaled(self: Any, step: int) -> None:
        signal.raise_signal(signal.SIGINT)
        sheet(self, step)

    with monkeypatch.context() as patch:
        patch.setattr(training.Training, "write_sheet", signaled)
        with pytest.raises(EditStopped) as stopped:
            train("parts", **changes)
    assert stopped.value.after == "step 3"
    parts = load_file(train("parts", **changes, resume=True))
    metrics = (tmp_path / "parts/metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in metrics] == [1, 2, 3, 4]
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_stopped_between_steps(
    train: Callable[..., Path],
    families: Get,
    instances: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    sent: int,
    code: int,
) -> None:
    """A step that runs is finished and kept; the same command with --resume goes on from there."""
    changes: dict[str, Any] = {"steps": 4, "class_prompt": None}
    whole = load_file(train("whole", **changes))
    step = training.Training.step

    def signaled(self: Any, number: int, *rest: Any) -> float:
        if number == 2:
            signal.raise_signal(sent)
        return step(self, number, *rest)

    config = plain(**changes)
    words = ["dreambooth", "--instances", str(instances), "--save_path", str(tmp_path / "parts"), "--device", "cpu"]
    words += [
        "--prompt",
        config.prompt,
        "--steps",
        "4",
        "--lr",
        "0.01",
        "--batch",
        "2",
        "--rank",
        "2",
        "--samples",
        "0",
    ]
    words += ["--prior", str(families("sd").folder)]
    before = signal.getsignal(sent)
    with monkeypatch.context() as patch:
        patch.setattr(training.Training, "step", signaled)
        assert main(words) == code
    assert signal.getsignal(sent) is before
    assert "Stopped after step 2; the same command with --resume goes on where" in capsys.readouterr().err
    assert main([*words, "--resume"]) == 0
    parts = load_file(tmp_path / "parts" / LORA_NAME)
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_class_images_are_made_once(train: Callable[..., Path], tmp_path: Path) -> None:
    train("one", steps=1)
    files = sorted((tmp_path / "class-sd").iterdir())
    first = [file.read_bytes() for file in files]
    assert len(set(first)) == len(first) == 2
    files[1].unlink()
    files[0].write_bytes(first[1])  # another image, which is to be kept
    train("two", steps=1, class_images=3)
    again = [file.read_bytes() for file in sorted((tmp_path / "class-sd").iterdir())]
    assert again[:2] == [first[1], first[1]]
    assert len(again) == 3


def test_class_images_follow_the_seed(train: Callable[..., Path], tmp_path: Path) -> None:
    made = []
    for out, seed in (("one", 1), ("other", 2), ("again", 1)):
        train(out, steps=1, seed=seed)
        made.append(snapshot(tmp_path / "class-sd"))
        shutil.rmtree(tmp_path / "class-sd")
    assert made[0] == made[2]
    assert not set(made[0].values()) & set(made[1].values())


# ---- every setting is read, and bad ones are refused

OTHER: dict[str, Any] = {
    "prompt": "a qx dog",
    "class_prompt": None,
    "class_images": 1,
    "prior_weight": 0.1,
    "full": True,
    "train_text_encoder": True,
    "rank": 3,
    "steps": 2,
    "lr": 0.02,
    "batch": 1,
    "gradient_accumulation": 2,
    "mixed_precision": "bf16",
    "resolution": 24,
    "guidance_scale": 1.0,
    "seed": 1,
    "samples": 1,
    "sample_every": 1,
    "checkpoint_every": 1,
    "gradient_checkpointing": True,
}


def test_every_setting_has_another_value_here() -> None:
    assert OTHER.keys() == {f.name for f in fields(DreamBoothConfig)}


@pytest.mark.parametrize("name", [k for k in OTHER if k not in ("checkpoint_every", "gradient_checkpointing")])
def test_settings_change_the_run(train: Callable[..., Path], tmp_path: Path, name: str) -> None:
    sampled = name in ("sample_every", "guidance_scale")  # the last step is always sampled
    base = {"steps": 2, "samples": 1, "sample_every": 2} if sampled else {"steps": 1}
    outputs = []
    for out, changes in (("a", base), ("b", {**base, name: OTHER[name]})):
        train(out, **changes)
        files = snapshot(tmp_path / out)
        del files["dreambooth.json"]
        if "pytorch_lora_weights.safetensors" in files:  # the order of metadata in its header is chance
            weights = load_file(tmp_path / out / "pytorch_lora_weights.safetensors")
            files["pytorch_lora_weights.safetensors"] = str({k: x.double().sum() for k, x in sorted(weights.items())})
        outputs.append(files)
    assert outputs[0] != outputs[1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompt": " "}, "the prompt is empty"),
        ({"class_prompt": ""}, "class_prompt is empty"),
        ({"rank": 0}, "rank must be >= 1, got 0"),
        ({"lr": 0.0}, "lr must be > 0"),
        ({"prior_weight": -1.0}, "prior_weight must be >= 0"),
        ({"seed": -1}, "seed must be in"),
        ({"samples": -1}, "samples must be >= 0"),
        ({"class_prompt": None, "class_images": 7}, "class_images without class_prompt would do nothing"),
        ({"class_prompt": None, "prior_weight": 3.0}, "prior_weight without class_prompt would do nothing"),
        ({"samples": 0, "sample_every": 7}, "sample_every 7 without samples would do nothing"),
        ({"full": True, "rank": 16}, "rank 16 is of a LoRA, and full trains all weights"),
        ({"resolution": 33}, "resolution must be a multiple of 8 for this prior, got 33"),
        ({"name": "pixart"}, "DreamBooth is not for a PixArtSigmaPipeline"),
        ({"resume": True}, "there is no run to resume in"),
        ({"low_memory": True}, r"low_memory cannot be had while a prior is trained: leave it out; gradient_chec"),
        ({"offload": "group", "quantize": "bnb_4bit"}, "offload, quantize cannot be had"),
        ({"torch_dtype": "bf16"}, "torch_dtype cannot be had"),
        ({"lr": 1e30}, "the loss is (nan|inf) at step 2: lower lr"),
    ],
)
def test_what_cannot_be_trained(
    train: Callable[..., Path], tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        train(**changes)
    assert (tmp_path / "out").exists() == ("lr" in changes and changes["lr"] > 1)  # it had begun


def test_a_run_goes_on_as_it_began(train: Callable[..., Path], tmp_path: Path) -> None:
    train(steps=1)
    with pytest.raises(InputError, match=r"already holds dreambooth\.json"):
        train(steps=1)
    with pytest.raises(InputError, match=r"with changed settings \(rank was 2, is now 3\)"):
        train(rank=3, resume=True)
    (tmp_path / "out" / "checkpoint.safetensors").write_bytes(b"x")
    with pytest.raises(InputError, match="is damaged or of another run"):
        train(steps=2, resume=True)


def test_a_finished_run_is_not_trained_again(
    train: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says so; with fewer steps it is refused."""
    result = train(steps=2)
    before = snapshot(tmp_path / "out")
    with monkeypatch.context() as patch:
        patch.setattr(training.Training, "run", lambda *_, **__: pytest.fail("it is trained"))
        assert train(steps=2, resume=True) == result
        assert f"{tmp_path / 'out'} is already finished" in capsys.readouterr().err
        with pytest.raises(InputError, match="steps was 2, is now 1: a run can be made longer, not shorter"):
            train(steps=1, resume=True)
    assert snapshot(tmp_path / "out") == before


@pytest.mark.parametrize(
    "name", ["config.json", "plan.json", "checkpoint.safetensors", "metrics.jsonl", LORA_NAME, "prior", "samples"]
)
def test_what_is_there_already_is_left_alone(
    train: Callable[..., Path], tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of another command or of nobody known; told before the prior is loaded."""
    monkeypatch.setattr(run, "load_prior", lambda *_, **__: pytest.fail("the prior is loaded"))
    out = tmp_path / "out"
    out.mkdir()
    (out / name).mkdir() if name in ("prior", "samples") else (out / name).write_text("mine")
    with pytest.raises(InputError, match=f"already holds {re.escape(name)}"):
        train(steps=1)
    assert [file.name for file in out.iterdir()] == [name]
    assert not (out / name).is_file() or (out / name).read_text() == "mine"


def test_two_processes_do_not_train_in_one_folder(train: Callable[..., Path], tmp_path: Path) -> None:
    with held(tmp_path / "out"), pytest.raises(InputError, match="another process is at work in"):
        train(steps=1)


@pytest.mark.parametrize("damaged", ["instances/1.png", "class-sd/000001.png"])
def test_a_damaged_image_is_told_before_anything_is_written(
    train: Callable[..., Path], tmp_path: Path, damaged: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "class-sd").mkdir()
    whole = (tmp_path / "instances/1.png").read_bytes()
    (tmp_path / damaged).write_bytes(whole[:60])
    with monkeypatch.context() as patch:
        patch.setattr(run, "load_prior", lambda *_, **__: pytest.fail("the prior is loaded"))
        with pytest.raises(InputError, match=Path(damaged).name):
            train(steps=1)
    assert not (tmp_path / "out").exists()
    (tmp_path / damaged).write_bytes(whole)
    assert train(steps=1).is_file()


def test_a_folder_of_class_images_needs_a_class_prompt(families: Get, instances: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="class_folder without class_prompt would do nothing"):
        dreambooth(instances, tmp_path / "out", plain(class_prompt=None), class_folder=tmp_path, device="cpu")
    assert not (tmp_path / "out").exists()


def test_the_command(families: Get, instances: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = f"dreambooth --instances {instances} --save_path {tmp_path / 'run'} --prior {families('sd').folder}"
    flags = f"{words} --device cpu --steps 1 --samples 0 --rank 2".split()
    assert main([*flags, "--prompt", "a qx cat"]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "run" / "pytorch_lora_weights.safetensors")
    assert main([*flags, "--prompt", "a qx cat"]) == 2
    assert re.search("cpds: error: .* already holds dreambooth.json", capsys.readouterr().err)
