"""The prior's training on made-up icons: resumable to the bit, and what it exports loads like any other prior."""

import copy
import os
import random
import socket
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Literal

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file

from cpds.errors import InputError
from cpds.priors.load import load_prior
from scripts.emoji_prior import denoiser, export, icons, networks, packages, pool, train
from scripts.emoji_prior.checkpoints import load_trained
from scripts.emoji_prior.collages import Collage
from scripts.emoji_prior.export import ExportConfig
from scripts.emoji_prior.icons import Icons, Scene
from scripts.emoji_prior.loop import lr_factor
from scripts.emoji_prior.processes import Processes
from scripts.emoji_prior.settings import TrainConfig
from scripts.emoji_prior.solids import Solid


def make_icons() -> Icons:
    """Discs and squares in two styles under names that concepts.txt knows."""
    side = icons.MASTER
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    disc = ((x - side / 2) ** 2 + (y - side / 2) ** 2 < (side / 3) ** 2) * 255
    square = (torch.maximum((x - side / 2).abs(), (y - side / 2).abs()) < side / 3) * 255
    shapes = [(disc, "red-circle"), (square, "wrapped-gift")]
    rgba = [
        torch.stack([torch.full_like(alpha, shade), alpha // 2, alpha // 3, alpha])
        for shade in (255, 120)
        for alpha, _ in shapes
    ]
    return Icons(torch.stack(rgba).byte(), [n for _ in range(2) for _, n in shapes], ["flat", "flat", "3d", "3d"])


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrainConfig:
    monkeypatch.setattr(train, "load_icons", lambda names: make_icons())
    return TrainConfig(
        out=tmp_path / "run",
        device="cpu",
        renders_per_icon=2,
        autoencoder_channels=(8, 8, 8, 8),
        autoencoder_steps=4,
        autoencoder_batch=2,
        channels=(32, 32),
        layers=1,
        text_width=32,
        denoiser_steps=4,
        batch=4,
        save_every=2,
        compile=False,
    )


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_resumed_training_ends_with_the_weights_of_an_uninterrupted_one(
    config: TrainConfig, tmp_path: Path, optimizer: Literal["adamw", "muon"]
):
    config = replace(config, optimizer=optimizer)
    train.main(config)

    class Stop(Exception):
        pass

    def stop_at_two(line: str, *args: object, **kwargs: object) -> None:
        raise Stop

    broken = replace(config, out=tmp_path / "broken")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(denoiser, "sample_sheet", stop_at_two)  # reached after the denoiser's first checkpoint
        with pytest.raises(Stop):
            train.main(broken)
    left = torch.load(broken.out / "denoiser.pt")
    assert left["step"] == 2
    assert left.keys() == {"module", "optimiser", "average", "step"}  # names that runs begun earlier have
    train.main(broken)
    uninterrupted, resumed = (torch.load(c.out / "denoiser.pt")["module"] for c in (config, broken))
    assert all(torch.equal(uninterrupted[k], resumed[k]) for k in uninterrupted)


def train_in_processes(rank: int, count: int, port: int, config: TrainConfig) -> None:
    """One process of a run, in an environment as accelerate's launcher makes it."""
    about = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "MASTER_ADDR": "localhost", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in about.items()})
    torch.set_num_threads(1)
    train.load_icons = lambda names: make_icons()
    train.main(config)


def test_two_processes_take_the_steps_of_one(config: TrainConfig, tmp_path: Path):
    config = replace(config, autoencoder_steps=2, denoiser_steps=1)
    train.main(config)
    several = replace(config, out=tmp_path / "several")
    train.main(replace(several, autoencoder_steps=1, denoiser_steps=0))  # which both go on with
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(train_in_processes, (2, port, several), nprocs=2)
    one, two = (torch.load(c.out / "denoiser.pt")["optimiser"]["state"] for c in (config, several))
    mean = [torch.cat([state[i]["exp_avg"].flatten() for i in sorted(state)]) for state in (one, two)]  # of gradients
    assert mean[0].norm() > 0
    assert (mean[0] - mean[1]).norm() < 0.05 * mean[0].norm()  # bf16's rounding; half a batch differs by far more


def test_processes_share_a_batch_or_say_that_they_cannot():
    alone = Processes("cpu")
    assert list(range(5))[alone.share(5)] == [0, 1, 2, 3, 4]
    two = copy.copy(alone)
    two.count, two.state = 2, SimpleNamespace(process_index=1)  # pyright: ignore[reportAttributeAccessIssue]
    assert list(range(6))[two.share(6)] == [1, 3, 5]
    with pytest.raises(InputError, match="a batch of 5 cannot be shared by 2 processes: take a multiple"):
        two.share(5)


def test_export_loads_as_a_prior_and_as_a_pipeline(config: TrainConfig, tmp_path: Path):
    folder, shares = tmp_path / "prior", tmp_path / "shares.json"
    shares.write_text('{"fox": 0.5, "wolf": 1}')
    train.main(replace(config, export=folder, optimizer="muon", shares=shares))
    prior = load_prior(folder, device="cpu")
    assert prior.image_size == networks.SIDE
    image = torch.rand(1, 3, 64, 64)
    assert prior.encode(image).shape == (1, 8, 8, 8)
    pipeline = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    sample = pipeline("a red circle", height=64, width=64, num_inference_steps=2, output_type="np").images
    assert sample.shape == (1, 64, 64, 3)
    card = (folder / "README.md").read_text()
    assert all(p.authors.split(" (")[0].split(",")[0] in card for p in packages.PACKAGES.values())
    assert f", Muon {config.lr} |" in card
    assert "| drawn up to four times as often | fox face |" in card


def test_a_finished_run_is_exported_as_at_its_end(config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    train.main(replace(config, export=tmp_path / "at the end"))
    monkeypatch.setattr(export, "load_icons", lambda names: make_icons())
    sizes = {f.name: getattr(config, f.name) for f in fields(networks.Sizes)}
    export.main(ExportConfig(**sizes, run=config.out, out=tmp_path / "later"))
    for file in ("unet/diffusion_pytorch_model", "vae/diffusion_pytorch_model", "text_encoder/model"):
        one, other = (load_file(tmp_path / folder / f"{file}.safetensors") for folder in ("at the end", "later"))
        assert one.keys() == other.keys()
        assert all(torch.equal(one[k], other[k]) for k in one)
    for file in ("vae/config.json", "unet/config.json", "scheduler/scheduler_config.json", "samples.png"):
        assert (tmp_path / "at the end" / file).read_bytes() == (tmp_path / "later" / file).read_bytes()
    with pytest.raises(InputError, match=r"later/unet holds no finished training run, as autoencoder\.pt is missing"):
        export.main(ExportConfig(run=tmp_path / "later/unet", out=tmp_path / "third"))


def test_a_run_that_starts_from_another_begins_where_that_ended(config: TrainConfig, tmp_path: Path):
    train.main(config)
    wider = replace(
        config, out=tmp_path / "wider", start=config.out, keep_encoder=True, autoencoder_steps=1, denoiser_steps=0
    )
    train.main(wider)
    ended, began = (torch.load(c.out / "autoencoder.pt") for c in (config, wider))
    encoder = [k for k in ended["average"] if k.startswith(("encoder", "quant_conv"))]
    assert all(torch.equal(ended["average"][k], began["average"][k]) for k in encoder)
    assert not torch.equal(ended["average"]["decoder.conv_in.weight"], began["module"]["decoder.conv_in.weight"])
    factors = {torch.load(c.out / "latents.pt")["scaling_factor"] for c in (config, wider)}
    assert len(factors) == 1


def test_a_run_may_start_from_a_prior_in_diffusers_layout(config: TrainConfig, tmp_path: Path):
    shipped = tmp_path / "prior"
    train.main(replace(config, export=shipped))
    train.main(replace(config, out=tmp_path / "next", start=shipped, autoencoder_steps=0, denoiser_steps=1))
    for name in ("autoencoder", "denoiser"):
        ended = torch.load(config.out / f"{name}.pt")["average"]
        began = load_trained(shipped)._asdict()[name]
        assert ended.keys() - began.keys() <= {"text_encoder.embeddings.position_ids"}
        assert all(torch.allclose(ended[k], began[k], atol=1e-3, rtol=1e-3) for k in began)  # stored in half precision
    factors = [torch.load(out / "latents.pt")["scaling_factor"] for out in (config.out, tmp_path / "next")]
    assert factors[0] == factors[1]
    one, other = (torch.load(out / "denoiser.pt")["module"] for out in (config.out, tmp_path / "next"))
    moved = [(one[k] - other[k]).abs().max().item() for k in one if k.startswith("unet")]
    assert 0 < max(moved) < 0.05  # one step from there, not from new weights


@pytest.mark.parametrize("layers", [2, 3])
def test_a_deeper_denoiser_begins_as_the_one_that_it_comes_from(config: TrainConfig, tmp_path: Path, layers: int):
    tokenizer = networks.build_tokenizer(["a cat"], tmp_path)
    one, two = networks.Denoiser(config, tokenizer).eval(), replace(config, layers=layers)
    deeper = networks.Denoiser(two, tokenizer).eval()
    deeper.load_state_dict(networks.deepen(one.state_dict(), deeper))
    x, t, ids = torch.randn(2, 8, 16, 16), torch.tensor([3, 700]), torch.arange(64).view(2, 32)
    assert torch.equal(deeper(x, t, ids), one(x, t, ids))
    deeper(x, t, ids).square().sum().backward()
    assert deeper.unet.up_blocks[0].resnets[1].conv2.weight.grad.abs().max() > 0
    deepest = networks.Denoiser(replace(config, layers=4), tokenizer).eval()
    deepest.load_state_dict(networks.deepen(deeper.state_dict(), deepest))
    assert torch.equal(deepest(x, t, ids), one(x, t, ids))
    with pytest.raises(InputError, match=f"a denoiser of {layers} layers cannot become one of 1"):
        networks.deepen(deeper.state_dict(), one)


def test_timesteps_of_the_middle_are_drawn_more_often():
    u = (torch.arange(100_000) + 0.5) / 100_000
    assert torch.equal(denoiser.warp(u, 0), u)
    with pytest.raises(InputError, match="middle must be at least 0 and less than 1, got 1"):
        TrainConfig(middle=1)
    t = denoiser.warp(u, 0.5)
    density = torch.histc(t, 101, 0, 1) * 101 / 100_000
    assert density[[0, 50, 100]].tolist() == pytest.approx([1 / 1.5, 1 / 0.5, 1 / 1.5], rel=0.01)
    assert torch.allclose(t + t.flip(0), torch.tensor(1.0), atol=1e-5)


def test_a_run_goes_on_with_its_own_optimizer(config: TrainConfig, monkeypatch: pytest.MonkeyPatch):
    begun = replace(config, autoencoder_steps=0, denoiser_steps=1)
    train.main(begun)
    with pytest.raises(InputError, match=r"denoiser\.pt was trained by another optimizer than muon"):
        train.main(replace(begun, optimizer="muon", denoiser_steps=2))
    monkeypatch.delattr(torch.optim, "Muon")
    with pytest.raises(InputError, match=r"needs torch 2\.9"):
        replace(begun, optimizer="muon")


def test_shares_of_images_leave_room_for_icons_alone():
    for collages, solids in ((0.6, 0.4), (-0.1, 0.1)):
        with pytest.raises(InputError, match=f"of less than 1 together, got {collages} and {solids}"):
            TrainConfig(collages=collages, solids=solids)


def test_learning_rates_warm_up_stay_and_fall():
    found = [lr_factor(step, 1000, decay=0.2) for step in (0, 49, 100, 799, 900, 1000)]
    assert found == pytest.approx([0.01, 0.5, 1, 1, 0.5, 0])


def test_carried_embeddings_spell_new_words_with_old_pieces(tmp_path: Path):
    old = networks.build_tokenizer(["a cat", "a cart"] * 9, tmp_path / "old")
    new = networks.build_tokenizer(["a cat", "a zebra"] * 9, tmp_path / "new")
    rows = torch.randn(len(old), 3)
    carried = networks.carry_embeddings(rows, old, new)
    assert carried.shape == (len(new), 3)
    assert torch.equal(carried[new.get_vocab()["cat</w>"]], rows[old.get_vocab()["cat</w>"]])
    pieces = [old.get_vocab()[piece] for piece in ("z", "e", "b", "r", "a</w>")]
    assert torch.allclose(carried[new.get_vocab()["zebra</w>"]], rows[pieces].mean(0))


def test_held_out_pairs_are_not_drawn(config: TrainConfig, monkeypatch: pytest.MonkeyPatch):
    config.out.mkdir()
    monkeypatch.setattr(pool, "held_out_pairs", lambda: {("red-circle", "3d")})
    made = make_icons()
    images, shown = pool.draw_pool(replace(config, renders_per_icon=20), made)
    assert len(images) == len(shown)
    several = [drawn.scenes for drawn in shown if isinstance(drawn, Collage)]
    assert {len(scenes) for scenes in several} == {1, 2, 3}
    assert len(several) / len(shown) == pytest.approx(config.collages, abs=0.02)
    solids = [drawn.scene for drawn in shown if isinstance(drawn, Solid)]
    assert len(solids) / len(shown) == pytest.approx(config.solids, abs=0.02)
    scenes = [drawn for drawn in shown if isinstance(drawn, Scene)] + [scene for group in several for scene in group]
    assert {(made.concept[s.icon], made.style[s.icon]) for s in [*scenes, *solids]} == {
        ("red-circle", "flat"),
        ("wrapped-gift", "flat"),
        ("wrapped-gift", "3d"),
    }


def test_a_scene_and_its_counterpart_differ_in_the_icon_alone():
    made = make_icons()
    scene = Scene(0, 0.5, 0.25, 0.25, "white", (250, 250, 250))
    (a, over), (b, under) = (icons.draw(made, s, 64) for s in (scene, scene.counterpart(1)))
    outside = (torch.maximum(over, under) == 0).expand_as(a)
    assert outside.any()
    assert torch.equal(a[outside], b[outside])
    assert not torch.equal(a, b)


def test_captions_name_the_concept_and_only_what_is_true():
    made, words, rng = make_icons(), icons.concepts(), random.Random(0)
    for _ in range(200):
        scene = icons.random_scene(rng.randrange(4), rng)
        text = icons.caption(made, scene, words, rng)
        assert any(w in text for w in words[made.concept[scene.icon]])
        others = set(icons.BACKGROUNDS) - {scene.colour, "blue" if scene.colour == "light blue" else ""}
        assert not any(f" {c} background" in text for c in others)
        assert ("small" in text) <= (scene.size < 0.7)
        assert ("large" in text) <= (scene.size > 0.85)


def test_images_of_concepts_that_fail_are_drawn_more_often(config: TrainConfig):
    made = make_icons()
    drawn = pool.random_pool(replace(config, collages=0.5), made)
    weights = pool.image_weights(made, drawn, {"red-circle": 0.5, "wrapped-gift": 0.0})
    for image, weight in zip(drawn, weights, strict=True):
        names = {made.concept[scene.icon] for scene in pool.scenes_of(image)}
        assert weight == (4 if "wrapped-gift" in names else 2.5)
    assert pool.image_weights(made, drawn, {}).eq(1).all()


def test_shares_must_be_of_known_concepts(config: TrainConfig, tmp_path: Path):
    file = tmp_path / "shares.json"
    for text, message in (('{"yeti": 0.5}', "yeti"), ('{"red-circle": 2}', "2"), ("[", "JSON")):
        file.write_text(text)
        with pytest.raises(InputError, match=message):
            train.main(replace(config, shares=file))
    with pytest.raises(InputError, match="cannot read"):
        train.main(replace(config, shares=tmp_path / "missing.json"))
