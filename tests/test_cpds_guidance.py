"""Edit steps on the tiny pipeline, against the plain formula: whole UNet passes, one sample each, all with gradient."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from conftest import Plain, Recorder, randn
from torch import Tensor

from cpds.config import EditConfig, GuidanceConfig
from cpds.editor import edit
from cpds.errors import InputError
from cpds.guidance import Guidance, StepResult
from cpds.priors.unet import UNetPrior

SOURCE, TARGET = "a red bird", "a blue fish"
ALL = 10_000  # more patches than there are: every one is chosen
METHODS = ("sds", "dds", "cds", "pds", "cpds")


def step(
    prior: UNetPrior, config: GuidanceConfig, z_src: Tensor, z_tgt: Tensor, seed: int = 0
) -> tuple[StepResult, Tensor]:
    """One step's result, and its gradient."""
    guidance = Guidance(prior, SOURCE, TARGET, config, steps=10)
    result = guidance.step(z_src, z_tgt, 0, torch.Generator().manual_seed(seed))
    return result, result.gradient


def naive_gradient(prior: UNetPrior, config: GuidanceConfig, z_src: Tensor, z_tgt: Tensor, seed: int = 0) -> Tensor:
    """The gradient at z_tgt by the book, image by image; shares no code with the package but its networks."""
    generator = torch.Generator().manual_seed(seed)
    omega = config.default_guidance[0] if config.guidance_scale is None else config.guidance_scale
    low, high = round(config.t_min * 1000), round(config.t_max * 1000)
    t = int(torch.randint(low, high + 1, (1,), generator=generator))
    eps = torch.randn(z_src.shape, generator=generator)
    beta = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    alpha_bar = (1 - beta).cumprod(0)
    a, s = float(alpha_bar[t]), float(alpha_bar[t - config.stride])
    b = 1 - a / float(alpha_bar[t - 1])
    c0, c1, sigma = s**0.5 * b / (1 - a), (1 - b) ** 0.5 * (1 - s) / (1 - a), ((1 - s) / (1 - a) * b) ** 0.5
    psi, chi = (s**0.5 - c0 - c1 * a**0.5) / sigma, c0 * ((1 - a) / a) ** 0.5 / sigma

    def text(prompt: str) -> Tensor:
        ids = prior.tokenizer(prompt, padding="max_length", truncation=True, return_tensors="pt").input_ids
        return prior.text_encoder(ids).last_hidden_state

    def unet(z: Tensor, i: int, prompt: str) -> tuple[Tensor, list[Tensor]]:
        taps: list[Tensor] = []
        handles = [
            module.register_forward_hook(lambda _m, _a, out: taps.append(out))
            for name, module in prior.unet.named_modules()
            if name.startswith("up_blocks") and name.endswith("attn1")
        ]
        noised = a**0.5 * z + (1 - a) ** 0.5 * eps[i : i + 1]
        out = prior.unet(noised, torch.tensor([t]), encoder_hidden_states=text(prompt), return_dict=False)[0]
        for handle in handles:
            handle.remove()
        return out, taps

    def nce(tap_src: Tensor, tap_tgt: Tensor, p: int) -> Tensor:
        (h, w), rows = z_src.shape[-2:], []
        scale = round((h * w / tap_src.shape[1]) ** 0.5)
        for tap in (tap_src.detach(), tap_tgt):
            cells = tap[0].reshape(h // scale, w // scale, -1)
            cells = sum(cells[i::p, j::p] for i in range(p) for j in range(p)) / p**2
            rows.append((cells / cells.norm(dim=-1, keepdim=True)).flatten(0, 1))
        similar = (rows[0] @ rows[1].T / config.temperature).exp()
        return -(similar.diagonal() / similar.sum(1)).log().mean()

    gradients = []
    for i in range(len(z_src)):
        before, after = z_src[i : i + 1], z_tgt[i : i + 1].clone().requires_grad_()
        (src, taps_src), (tgt, taps_tgt) = unet(before, i, SOURCE), unet(after, i, TARGET)
        src_un, tgt_un = (unet(z, i, config.negative_prompt)[0] for z in (before, after))
        guided_src, guided_tgt = ((1 - omega) * un + omega * c for un, c in ((src_un, src), (tgt_un, tgt)))
        direction = {
            "sds": (1 - a) * (guided_tgt - eps[i : i + 1]),
            "dds": guided_tgt - guided_src,
            "pds": config.w_identity * psi * (after - before) + chi * (guided_tgt - guided_src),
        }[config.method.replace("cds", "dds").replace("cpds", "pds")]
        loss = config.w_direction * (after * direction.detach()).sum()
        if config.method in ("cds", "cpds"):
            pairs = list(zip(taps_src, taps_tgt, strict=True))
            loss = loss + config.w_cut * sum(nce(*pair, p) for pair in pairs for p in config.patch_size)
        gradients += torch.autograd.grad(loss, after)
    return torch.cat(gradients)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("settings", "shape"),
    [
        ({}, (1, 4, 8, 8)),  # the native size
        ({"guidance_scale": 30.0, "negative_prompt": "blurry"}, (1, 4, 8, 8)),  # negative prompt
        ({"guidance_scale": 0.0}, (1, 4, 8, 8)),  # no prompt at all
        ({"guidance_scale": 1.0, "w_identity": 0.3, "stride": 20, "w_direction": 0.2}, (1, 4, 8, 12)),  # not square
        ({"w_direction": 0.0, "temperature": 0.5, "patch_size": (2,)}, (1, 4, 12, 8)),  # the contrastive loss alone
        ({"w_cut": 300.0}, (2, 4, 8, 8)),  # a batch
    ],
)
def test_gradient_is_that_of_the_plain_formula(
    prior: UNetPrior, method: Any, settings: dict[str, Any], shape: tuple[int, ...]
) -> None:
    config = GuidanceConfig(method, n_patches=ALL, **settings)
    z_src = randn(0, *shape)
    z_tgt = z_src + 0.3 * randn(1, *shape)
    _, gradient = step(prior, config, z_src, z_tgt)
    expected = naive_gradient(prior, config, z_src, z_tgt)
    assert float((gradient - expected).norm()) <= 1e-4 * float(expected.norm())
    assert (float(expected.norm()) > 0) == (config.w_direction > 0 or config.method in ("cds", "cpds"))


@pytest.mark.parametrize("patch_selector", ["random", "learned"])
@pytest.mark.parametrize(
    ("method", "same"),
    [
        ("cpds", "pds"),
        ("cds", "dds"),
    ],
)
def test_without_the_contrastive_loss_bit_for_bit_the_same_edit(
    prior: UNetPrior, method: Any, same: Any, patch_selector: Any
) -> None:
    ends = []
    for name, seed in ((method, 7), (same, 7), (same, 8)):
        picture = Plain(randn(0, 1, 4, 8, 8))
        guidance = GuidanceConfig(name, w_cut=0.0, patch_selector=patch_selector, selector_every=2)
        edit(picture, prior, SOURCE, TARGET, EditConfig(guidance, 5, lr=0.01, seed=seed))
        ends.append(picture.parts["latent"].detach())
    assert torch.equal(ends[0], ends[1])
    assert not torch.equal(ends[1], ends[2])
    assert not torch.equal(ends[0], randn(0, 1, 4, 8, 8))


@pytest.mark.parametrize("method", ["dds", "pds", "cds", "cpds"])
def test_nothing_to_change_has_no_direction(prior: UNetPrior, method: Any) -> None:
    z = randn(0, 1, 4, 8, 8)
    guidance = Guidance(prior, SOURCE, SOURCE, GuidanceConfig(method), steps=10)
    result = guidance.step(z, z, 0, torch.Generator().manual_seed(0))
    assert result.metrics["direction"] < 1e-5  # to rounding: the branches run in differently shaped batches


def watch(prior: UNetPrior, note: Callable[..., None], name: str, run: Callable[[], Any], *, before: bool) -> None:
    """Call `note` with the hook's arguments at every call of the UNet's module `name`."""
    module = prior.unet.get_submodule(name)
    handle = (module.register_forward_pre_hook if before else module.register_forward_hook)(note)
    try:
        run()
    finally:
        handle.remove()


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize(
    ("method", "settings", "without", "with_gradient"),
    [
        ("sds", {}, 2, 0),  # no source branch
        ("dds", {}, 4, 0),
        ("pds", {}, 4, 0),
        ("cds", {}, 3, 1),  # the edited latent under the target prompt alone needs a gradient
        ("cpds", {}, 3, 1),
        ("cpds", {"patch_selector": "learned", "selector_every": 1}, 3, 1),  # learning costs no pass
        ("cds", {"w_cut": 0.0}, 4, 0),
        ("cpds", {"w_cut": 0.0}, 4, 0),
        ("dds", {"guidance_scale": 1.0}, 2, 0),  # where guidance is 1, the prompt alone counts
        ("dds", {"guidance_scale": 1.0, "source_guidance_scale": 2.0}, 3, 0),
        ("cpds", {"source_guidance_scale": 1.0}, 2, 1),
        ("cpds", {"guidance_schedule": "interval", "t_max": 0.2}, 1, 1),
        ("csd", {"guidance_scale": 1.0}, 3, 0),  # whose formula reads the unconditional prediction
    ],
)
def test_samples_through_the_network(
    prior: UNetPrior, method: Any, settings: dict[str, Any], without: int, with_gradient: int, batch: int
) -> None:
    counts = {False: 0, True: 0}

    def count(_module: object, args: tuple[Tensor, ...]) -> None:
        counts[torch.is_grad_enabled() and args[0].requires_grad] += len(args[0])

    z = randn(0, batch, 4, 8, 8)
    watch(prior, count, "", lambda: step(prior, GuidanceConfig(method, **settings), z, z), before=True)
    assert counts == {False: without * batch, True: with_gradient * batch}


def test_the_networks_stay_frozen(prior: UNetPrior) -> None:
    networks = (prior.unet, prior.vae, prior.text_encoder)
    before = [p.clone() for network in networks for p in network.parameters()]
    picture = Plain(randn(0, 1, 4, 8, 8))
    edit(picture, prior, SOURCE, TARGET, EditConfig(GuidanceConfig("cpds"), 3))
    after = [p for network in networks for p in network.parameters()]
    assert all(p.grad is None and not p.requires_grad for p in after)
    assert all(torch.equal(p, q) for p, q in zip(before, after, strict=True))
    assert not any(network.training for network in networks)


@pytest.mark.parametrize(
    ("module", "recorded"),
    [
        ("conv_in", True),  # on the way to the taps
        ("up_blocks.1.attentions.0.transformer_blocks.0.attn1", True),
        ("up_blocks.1.attentions.0.transformer_blocks.0.ff", True),
        ("up_blocks.1.attentions.1.transformer_blocks.0.attn1", True),  # the last tap
        ("up_blocks.1.attentions.1.transformer_blocks.0.attn2", False),  # right behind it
        ("up_blocks.1.attentions.1", False),
        ("conv_out", False),
    ],
)
def test_nothing_behind_the_last_tap_is_recorded(prior: UNetPrior, module: str, recorded: bool) -> None:
    seen = []

    def note(_module: object, _args: object, output: Any) -> None:
        output = output[0] if isinstance(output, tuple) else output
        seen.append(output.grad_fn is not None)

    z = randn(0, 1, 4, 8, 8)
    watch(prior, note, module, lambda: step(prior, GuidanceConfig("cpds"), z, z), before=False)
    assert seen == [False, recorded]  # first the constant branches, then the live one


def test_gradient_mode_and_hooks_are_left_as_they_were(prior: UNetPrior) -> None:
    z = randn(0, 1, 4, 8, 8)

    def hooks() -> int:
        return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in prior.unet.modules())

    assert hooks() == 0
    step(prior, GuidanceConfig("cpds"), z, z)
    assert torch.is_grad_enabled()
    text = prior.embed([SOURCE])
    with pytest.raises(RuntimeError, match="channels"):  # fails inside the network
        prior.denoise(randn(0, 1, 5, 8, 8), torch.tensor([500]), text, tap=1)
    assert torch.is_grad_enabled()
    assert hooks() == 0


def test_prediction_without_taps_is_not_recorded(prior: UNetPrior) -> None:
    z = randn(0, 1, 4, 8, 8).requires_grad_()
    assert not prior.denoise(z, torch.tensor([500]), prior.embed([SOURCE])).eps.requires_grad


@pytest.mark.parametrize("method", METHODS)
def test_the_gradient_is_data(prior: UNetPrior, method: Any) -> None:
    """No graph hangs on a step's result: the prior's is gone before a renderer's backward pass begins."""
    z_src, z_tgt = randn(0, 1, 4, 8, 8).requires_grad_(), randn(1, 1, 4, 8, 8).requires_grad_()
    with torch.no_grad():  # nor does it ask what the caller records
        blind, _ = step(prior, GuidanceConfig(method, w_proximity=1.0), z_src, z_tgt)
    result, gradient = step(prior, GuidanceConfig(method, w_proximity=1.0), z_src, z_tgt)
    assert not any(x.requires_grad for x in (gradient, *result.losses.values()))
    assert z_src.grad is None
    assert z_tgt.grad is None
    assert torch.equal(blind.gradient, gradient)


@pytest.mark.parametrize("selector_every", [1, 3])
def test_the_selector_learns_every_few_steps(prior: UNetPrior, selector_every: int) -> None:
    guidance = GuidanceConfig("cpds", patch_selector="learned", selector_every=selector_every)
    recorder = Recorder(lambda _, result: "selector_loss" in result.metrics)
    edit(Plain(randn(0, 1, 4, 8, 8)), prior, SOURCE, TARGET, EditConfig(guidance, 6, lr=0.01), [recorder])
    assert recorder.notes == [(i + 1) % selector_every == 0 for i in range(6)]


def test_the_log_says_what_is_applied(prior: UNetPrior) -> None:
    z_src, z_tgt = randn(0, 1, 4, 8, 8), randn(1, 1, 4, 8, 8)
    result, _ = step(prior, GuidanceConfig("cpds", w_cut=3.0, w_direction=0.5), z_src, z_tgt)
    alone, gradient = step(prior, GuidanceConfig("pds", w_direction=0.5), z_src, z_tgt)
    assert set(result.losses) == {"direction", "cut"}
    assert float(result.losses["cut"]) == pytest.approx(3 * float(result.metrics["cut"]), rel=1e-6)
    assert float(result.losses["direction"]) == pytest.approx(float((z_tgt * gradient).sum()), rel=1e-4)
    assert 0.5 * float(alone.metrics["direction"]) == pytest.approx(float(gradient.square().mean().sqrt()), rel=1e-5)


@pytest.mark.parametrize(
    ("prompts", "settings", "message"),
    [
        (("", TARGET), {}, "the prompt is empty"),
        ((SOURCE, "  "), {}, "the target prompt is empty"),
        (
            (SOURCE, TARGET),
            {"t_min": 0.0501, "t_max": 0.0509},
            "no timestep lies between t_min 0.0501 and t_max 0.0509",
        ),
        ((SOURCE, TARGET), {"stride": 50}, "stride 50 reaches below timestep 1 from the lowest timestep 50"),
    ],
)
def test_guidance_rejects(prior: UNetPrior, prompts: tuple[str, str], settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Guidance(prior, *prompts, GuidanceConfig("cpds", **settings), steps=10)


@pytest.mark.parametrize("method", ["sds", "dds", "cds", "pds", "cpds"])
@pytest.mark.parametrize("edits", [1, 2])
def test_normalised_gradient_points_where_the_plain_one_does(prior: UNetPrior, method: str, edits: int) -> None:
    z_src, z_tgt = randn(0, 4, 4, 8, 8), randn(1, 4, 4, 8, 8)  # four views, shared out among the edits
    gradients = []
    for normalize in (False, True):
        config = GuidanceConfig(method, w_cut=3.0, n_patches=8, normalize_gradient=normalize)
        guidance = Guidance(prior, [SOURCE] * edits, [TARGET] * edits, config, steps=10)
        gradients.append(guidance.step(z_src, z_tgt, 0, torch.Generator().manual_seed(0)).gradient)
    plain, unit = gradients
    for a, b in zip(plain.chunk(edits), unit.chunk(edits), strict=True):
        torch.testing.assert_close(b, a / a.square().mean().sqrt(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("scale", [1e-12, 1e25])
def test_normalised_gradient_survives_sizes_whose_squares_do_not(prior: UNetPrior, scale: float) -> None:
    z_src, z_tgt = randn(0, 1, 4, 8, 8), randn(1, 1, 4, 8, 8)
    gradients = []
    for w_direction in (1.0, scale):
        config = GuidanceConfig("pds", w_direction=w_direction, normalize_gradient=True)
        gradients.append(step(prior, config, z_src, z_tgt)[1])
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-4, atol=1e-5)


def test_normalised_zero_gradient_stays_zero(prior: UNetPrior) -> None:
    z = randn(0, 1, 4, 8, 8)
    guidance = Guidance(prior, SOURCE, SOURCE, GuidanceConfig("dds", normalize_gradient=True), steps=10)
    assert guidance.step(z, z, 0, torch.Generator().manual_seed(0)).gradient.abs().max() == 0


@pytest.mark.parametrize("normalize", [False, True])
def test_the_proximity_loss_is_added_to_the_edit(prior: UNetPrior, normalize: bool) -> None:
    """Beside a gradient of unit size, and not as a part of it."""
    z_src, z_tgt = randn(0, 2, 4, 8, 8), randn(1, 2, 4, 8, 8)
    plain = GuidanceConfig("cpds", n_patches=8, normalize_gradient=normalize)
    result, with_proximity = step(prior, replace(plain, w_proximity=3.0), z_src, z_tgt)
    _, without = step(prior, plain, z_src, z_tgt)
    moved = z_tgt - z_src
    wanted = 3.0 * moved / (1 + moved.square().sum(1, keepdim=True)) ** 2
    torch.testing.assert_close(with_proximity - without, wanted, rtol=1e-4, atol=1e-4)
    assert set(result.losses) == {"proximity", "direction", "cut"}


@pytest.mark.parametrize("method", METHODS)
def test_priors_without_features(prior: UNetPrior, monkeypatch: pytest.MonkeyPatch, method: Any) -> None:
    monkeypatch.setattr(prior, "feature_width", 0)
    if method in ("cds", "cpds"):
        with pytest.raises(InputError, match=f"method {method} needs self-attention features"):
            Guidance(prior, SOURCE, TARGET, GuidanceConfig(method), steps=10)
    assert Guidance(prior, SOURCE, TARGET, GuidanceConfig(method, w_cut=0.0), steps=10).contrast is False


def test_other_prompts_from_the_next_step_on(prior: UNetPrior) -> None:
    z_src, z_tgt = randn(0, 1, 4, 8, 8), randn(1, 1, 4, 8, 8)
    guidance = Guidance(prior, "a", "b", GuidanceConfig("dds"), steps=10)
    guidance.set_prompts([SOURCE], [TARGET])
    found = guidance.step(z_src, z_tgt, 0, torch.Generator().manual_seed(0)).gradient
    assert torch.equal(found, step(prior, GuidanceConfig("dds"), z_src, z_tgt)[1])
    with pytest.raises(InputError, match="the target prompt is empty"):
        guidance.set_prompts([SOURCE], [" "])
