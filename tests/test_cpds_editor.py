"""The edit loop under a prior whose score is known in closed form, and its optimizers, learning rates and resuming."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from conftest import Plain, Recorder, randn
from safetensors.torch import load, save
from torch import Tensor

from cpds.config import EditConfig, GuidanceConfig
from cpds.editor import edit, require_texts, run, start
from cpds.errors import EditDiverged, InputError
from cpds.priors.base import Conditioning, Prediction
from cpds.priors.unet import UNetPrior
from cpds.schedule import NoiseSchedule

SHAPE = (1, 2, 3, 4)
MEANS = {"source": [1.0, -0.5], "target": [-0.5, 2.0], "": [0.3, 0.1], "blurry": [4.0, 4.0]}
SHIFT = torch.tensor(MEANS["target"]) - torch.tensor(MEANS["source"])
SCHEDULES = {"diffusion": NoiseSchedule.scaled_linear(), "flow": NoiseSchedule.flow(shift=3.0)}


class GaussianPrior:
    """Latents of a prompt are N(mean, std² I) with one mean per channel; the noise prediction is the exact one.

    x_t = alpha z + sigma eps  =>  E[eps | x_t] = sigma (x_t - alpha mean) / (alpha² std² + sigma²)
    """

    device, image_size, size_multiple, feature_width, fingerprint = torch.device("cpu"), 4, 1, 2, "gaussian"
    parameters, guidance = 0, "classifier-free"

    def __init__(self, schedule: str = "diffusion", std: float = 0.5, broken_from: int = 1 << 62) -> None:
        self.schedule, self.std, self.calls_left = SCHEDULES[schedule], std, broken_from

    def gain(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """(alpha, factor of E[eps | x_t])."""
        alpha, sigma = self.schedule.at(t)
        return alpha, sigma / (alpha**2 * self.std**2 + sigma**2)

    def encode(self, images: Tensor) -> Tensor:
        return images[:, :2]

    def decode(self, latents: Tensor) -> Tensor:
        return latents[:, [0, 1, 1]].clamp(0, 1)

    def embed(self, prompts: Sequence[str]) -> Conditioning:
        return Conditioning({"embeds": torch.tensor([[MEANS[p]] for p in prompts])})

    def denoise(self, x_t: Tensor, t: Tensor, conditioning: Conditioning, *, tap: int = 0) -> Prediction:
        alpha, factor = (x.float().view(-1, 1, 1, 1) for x in self.gain(t))
        self.calls_left -= 1
        broken = torch.nan if self.calls_left < 0 else 1.0
        features = (torch.tanh(x_t), torch.sin(3 * x_t[..., 1:])) if tap else ()
        return Prediction(broken * factor * (x_t - alpha * conditioning["embeds"][:, 0, :, None, None]), features)


def moved(picture: Plain) -> Tensor:
    """Δz = z_tgt - z_src."""
    return (picture.latents() - picture.source).detach()


def pull_and_rest(prior: GaussianPrior, config: GuidanceConfig, time: float) -> tuple[float, Tensor]:
    """(k, r) with direction = k (Δz - r): where the edit goes and how fast.

    Guided means differ by ω (mean_tgt - mean_src) = ω SHIFT, so Δε̂ = factor alpha (Δz - ω SHIFT) = g (Δz - ω SHIFT);
    DDS: k = g, r = ω SHIFT.   PDS: k = ψ + χ g, r = χ g ω SHIFT / k.
    """
    t = torch.tensor([time], dtype=torch.long if prior.schedule.shift is None else torch.float64)
    alpha, factor = prior.gain(t)
    g, goal = float(alpha * factor), config.guidance_scale * SHIFT.view(1, -1, 1, 1)
    if config.method == "dds":
        return g, goal
    psi, chi = (float(w) for w in prior.schedule.posterior_weights(t, config.stride))
    k = config.w_identity * psi + chi * g
    return k, chi * g / k * goal


@pytest.mark.parametrize("timesteps", ["uniform", "non-increasing"])
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("dds", {}),
        ("dds", {"negative_prompt": "blurry"}),  # the same on both sides: it cancels
        ("pds", {}),
        ("pds", {"w_identity": 3.0, "stride": 5}),  # a strong pull back
        ("pds", {"stride": 1}),  # none
    ],
)
def test_every_step_moves_by_the_known_amount(
    method: Any, settings: dict[str, Any], schedule: str, timesteps: Any
) -> None:
    prior, picture, lr = GaussianPrior(schedule), Plain(randn(0, *SHAPE)), 0.1
    guidance = GuidanceConfig(method, guidance_scale=2.0, timesteps=timesteps, **settings)
    recorder = Recorder(lambda _, result: (result.metrics["timestep"], moved(picture)))
    edit(picture, prior, "source", "target", EditConfig(guidance, 12, lr=lr, lr_scaling="none"), [recorder])
    expected = torch.zeros(SHAPE)
    for t, got in recorder.notes:
        k, rest = pull_and_rest(prior, guidance, t)
        expected = expected - lr * k * (expected - rest)
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
    assert float(moved(picture).abs().max()) > 0.1


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("dds", {}),  # rests at ω SHIFT
        ("pds", {}),  # rests earlier
        ("pds", {"w_identity": 0.0}),  # where dds rests
        ("pds", {"w_identity": 10.0}),  # much earlier
    ],
)
def test_edit_converges_to_the_known_fixed_point(method: Any, settings: dict[str, Any], optimizer: Any) -> None:
    prior, picture = GaussianPrior(), Plain(randn(0, *SHAPE))
    guidance = GuidanceConfig(method, guidance_scale=2.0, t_min=0.3, t_max=0.3, **settings)
    k, rest = pull_and_rest(prior, guidance, 300)
    lr, decay = (0.3 / k, 1.0) if optimizer == "sgd" else (0.5, 2e-4)
    edit(picture, prior, "source", "target", EditConfig(guidance, 350, optimizer, lr, "none", decay))
    torch.testing.assert_close(moved(picture), rest.expand(SHAPE), rtol=1e-3, atol=2e-3)


def test_sds_forgets_the_source() -> None:
    """E[direction] = (1 - ā) g (z - mean of the guided Gaussian): small steps over many draws go there."""
    prior, picture = GaussianPrior(), Plain(randn(0, *SHAPE))
    guidance = GuidanceConfig("sds", guidance_scale=2.0, t_min=0.5, t_max=0.5)
    edit(picture, prior, "source", "target", EditConfig(guidance, 400, lr=0.3, lr_decay=1 / 30))
    uncond = torch.tensor(MEANS[""])
    mean = uncond + 2 * (torch.tensor(MEANS["target"]) - uncond)
    torch.testing.assert_close(picture.parts["latent"].detach(), mean.view(1, -1, 1, 1).expand(SHAPE), rtol=0, atol=0.4)


@pytest.mark.parametrize(
    ("lr_scaling", "factor"),
    [
        ("none", 1.0),
        ("area", 2000 / 12),  # 3 x 4 latents
    ],
)
@pytest.mark.parametrize(
    ("lr", "lr_decay", "steps"),
    [
        (1e-3, 1.0, 4),
        (1e-3, 0.01, 9),  # falls
        (1e-5, 100.0, 3),  # rises
        (1e-3, 0.01, 1),  # a single step takes lr
        (None, 0.5, 4),  # the group's own
    ],
)
def test_learning_rates_follow_the_closed_form(
    lr_scaling: Any, factor: float, lr: float | None, lr_decay: float, steps: int
) -> None:
    ratio = 1.0 if steps == 1 else lr_decay ** (1 / (steps - 1))
    recorder = Recorder(lambda state, _: state.optimizer.param_groups[0]["lr"])
    config = EditConfig(GuidanceConfig("dds"), steps, lr=lr, lr_decay=lr_decay, lr_scaling=lr_scaling)
    edit(Plain(randn(0, *SHAPE)), GaussianPrior(), "source", "target", config, [recorder])
    assert recorder.notes == pytest.approx([factor * (lr or 0.1) * ratio**i for i in range(steps)])


def test_groups_have_their_own_learning_rates() -> None:
    z = randn(0, *SHAPE)
    picture = Plain(z, points=z / 2, colors=z / 4, rest=z / 4)
    before = {k: v.detach().clone() for k, v in picture.parts.items()}
    group_lrs = {"colors": 0.05, "points": 0.002}
    config = EditConfig(GuidanceConfig("dds"), 1, lr=0.01, lr_scaling="none", group_lrs=group_lrs)
    edit(picture, GaussianPrior(), "source", "target", config)
    step = {k: v.detach() - before[k] for k, v in picture.parts.items()}
    assert float(step["rest"].abs().min()) > 0
    # the latent is their sum, so that all three have one gradient
    torch.testing.assert_close(step["colors"], 5 * step["rest"], rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(step["points"], 0.2 * step["rest"], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_a_group_whose_learning_rate_is_0_stays(optimizer: Any) -> None:
    z = randn(0, *SHAPE)
    picture = Plain(z, points=z / 2, rest=z / 2)
    config = EditConfig(GuidanceConfig("dds"), 3, optimizer, 0.01, group_lrs={"points": 0.0})
    edit(picture, GaussianPrior(), "source", "target", config)
    assert torch.equal(picture.parts["points"].detach(), z / 2)
    assert float((picture.parts["rest"].detach() - z / 2).abs().min()) > 0


@pytest.mark.parametrize("method", ["dds", "cds"])
@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_divergence_leaves_the_last_good_parameters(method: Any, optimizer: Any) -> None:
    config = EditConfig(GuidanceConfig(method), 5, optimizer, 0.01, "none")
    calls = 2 if method == "cds" else 1  # of the network, each step
    broken, recorder = Plain(randn(0, *SHAPE)), Recorder(lambda state, _: state.step)
    with pytest.raises(
        EditDiverged,
        match=r"step 4 gave NaN .* \(first in its direction loss\) and was not applied: lower lr",
    ):
        edit(broken, GaussianPrior(broken_from=3 * calls), "source", "target", config, [recorder])
    good, states = Plain(randn(0, *SHAPE)), []
    keep = Recorder(lambda _state, _result: states.append(good.parts["latent"].detach().clone()))
    edit(good, GaussianPrior(), "source", "target", config, [keep])
    assert recorder.notes == [1, 2, 3]
    assert torch.equal(broken.parts["latent"].detach(), states[2])


def test_overflow_leaves_the_last_good_parameters() -> None:
    """A finite loss and gradient, but a second step that is not."""
    picture, seen = Plain(randn(0, *SHAPE)), []
    keep = Recorder(lambda _state, _result: seen.append(picture.parts["latent"].detach().clone()))
    config = EditConfig(GuidanceConfig("dds", w_direction=1e9), 2, lr=1e26, lr_decay=1e6, lr_scaling="none")
    with pytest.raises(EditDiverged, match="step 2 gave NaN or infinite values"):
        edit(picture, GaussianPrior(), "source", "target", config, [keep])
    assert torch.equal(picture.parts["latent"].detach(), seen[0])
    assert bool(torch.isfinite(seen[0]).all())


def test_learning_rates_of_groups_that_are_not_there_are_refused() -> None:
    config = EditConfig(GuidanceConfig("dds"), 1, group_lrs={"latent": 0.1, "points": 0.1})
    with pytest.raises(InputError, match="group_lrs names points, but what is edited has latent"):
        edit(Plain(randn(0, *SHAPE)), GaussianPrior(), "source", "target", config)


class Stop(Exception):
    pass


def stop_after(step: int) -> Recorder:
    def note(state: Any, _result: object) -> None:
        if state.step == step:
            raise Stop

    return Recorder(note)


@pytest.mark.parametrize(
    ("optimizer", "selector"),
    [
        ("sgd", "random"),
        ("adam", "random"),
        ("adamw", "random"),
        ("sgd", "learned"),  # the Meta-Learner with its Adam
        ("adam", "learned"),
        ("sgd", "knn"),
    ],
)
@pytest.mark.parametrize("stop", [1, 5])  # before the selector's first update, between two
def test_resumed_edit_ends_with_identical_parameters(
    prior: UNetPrior, optimizer: Any, selector: Any, stop: int
) -> None:
    if selector == "knn":
        pytest.importorskip("sklearn")
    guidance = GuidanceConfig(
        "cpds", w_cut=3.0, n_patches=6, patch_selector=selector, selector_every=2, timesteps="non-increasing"
    )
    config = EditConfig(guidance, 7, optimizer, 0.02, "none", lr_decay=0.5, group_lrs={"colors": 0.03}, seed=3)
    z = randn(0, 1, 4, 8, 8)

    def fresh() -> Plain:
        return Plain(z, points=z / 2, colors=z / 2)

    unbroken, resumed, log, log_resumed = fresh(), fresh(), *(Recorder(lambda _, result: result.metrics) for _ in "ab")
    edit(unbroken, prior, "a bird", "a fish", config, [log])
    state = start(fresh(), prior, "a bird", "a fish", config)
    with pytest.raises(Stop):
        run(state, [stop_after(stop)])
    saved = load(save(state.tensors()))
    again = start(resumed, prior, "a bird", "a fish", config)
    again.load(saved)
    assert again.step == stop
    run(again, [log_resumed])
    assert log_resumed.notes == log.notes[stop:]
    assert all(torch.equal(unbroken.parts[k], resumed.parts[k]) for k in unbroken.parts)
    assert not torch.equal(resumed.parts["points"], z / 2)


def test_the_seed_decides() -> None:
    ends = []
    for seed in (0, 0, 1):
        torch.manual_seed(len(ends))  # the global state must not matter
        picture = Plain(randn(0, *SHAPE))
        edit(picture, GaussianPrior(), "source", "target", EditConfig(GuidanceConfig("cpds"), 3, lr=0.001, seed=seed))
        ends.append(picture.parts["latent"].detach())
    assert torch.equal(ends[0], ends[1])
    assert not torch.equal(ends[0], ends[2])


def test_parameters_are_projected_after_every_step() -> None:
    class Boxed(Plain):
        def project(self) -> None:
            with torch.no_grad():
                self.parts["latent"].clamp_(-0.1, 0.1)

    picture = Boxed(torch.zeros(SHAPE))
    largest = Recorder(lambda _state, _result: float(picture.parts["latent"].detach().abs().max()))
    config = EditConfig(GuidanceConfig("dds"), 3, lr=1.0, lr_scaling="none")
    edit(picture, GaussianPrior(), "source", "target", config, [largest])
    assert largest.notes == pytest.approx([0.1, 0.1, 0.1])


@pytest.mark.parametrize("given", [None, 3, [], ["a cat", None]])
def test_prompts_that_are_no_texts(given: Any) -> None:
    with pytest.raises(InputError, match=r"the prompt must be a text, or a list of texts, .* got"):
        require_texts(given, "prompt")


def test_an_edit_looks_at_both_prompts() -> None:
    for prompts, what in (([], "a dog"), "prompt"), (("a cat", []), "target prompt"):
        with pytest.raises(InputError, match=rf"^the {what} must be a text, .* got \[\]"):
            edit(Plain(randn(0, *SHAPE)), GaussianPrior(), *prompts)
