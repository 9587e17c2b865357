"""Whole edits by every kind of objective, with priors whose predictions are known in closed form."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from conftest import Plain, Recorder, randn
from torch import Tensor

from cpds.config import EditConfig, GuidanceConfig
from cpds.editor import edit
from cpds.errors import InputError
from cpds.guidance import Guidance
from cpds.priors.base import Conditioning, Prediction
from cpds.relevance import FLOW_TIMES, changes
from cpds.schedule import NoiseSchedule

SHAPE = (1, 4, 4, 5)
SCHEDULES = (NoiseSchedule.scaled_linear(), NoiseSchedule.flow())
SOURCE, TARGET, NULL = (randn(seed, *SHAPE) for seed in (1, 2, 3))
CPU = torch.device("cpu")


@dataclass
class Points:
    """Knows one clean latent for each prompt, and that every x_t is that one, noised."""

    schedule: NoiseSchedule = field(default_factory=NoiseSchedule.scaled_linear)
    clean: dict[str, Tensor] = field(default_factory=lambda: {"source": SOURCE, "target": TARGET, "": NULL})
    asked: list[tuple[int, str, Tensor]] = field(default_factory=list)  # timestep, prompt, x_t
    device: torch.device = CPU
    image_size: int = 8
    size_multiple: int = 1
    feature_width: int = 0
    parameters: int = 0
    guidance: str = "classifier-free"
    fingerprint: str = "points"

    def encode(self, images: Tensor) -> Tensor:
        raise NotImplementedError

    decode = encode

    def embed(self, prompts: Sequence[str]) -> Conditioning:
        return Conditioning({"prompt": torch.tensor([list(self.clean).index(p) for p in prompts])})

    def denoise(self, x_t: Tensor, t: Tensor, conditioning: Conditioning, *, tap: int = 0) -> Prediction:
        names = [list(self.clean)[i] for i in conditioning["prompt"].tolist()]
        self.asked += list(zip(t.tolist(), names, x_t.split(1), strict=True))
        clean = torch.cat([self.clean[name] for name in names])
        alpha, sigma = (table.to(x_t).view(-1, 1, 1, 1) for table in self.schedule.at(t))
        return Prediction((x_t - alpha * clean) / sigma)


def edited(prior: Points, config: EditConfig, source: Tensor = SOURCE, notes: Recorder | None = None) -> Tensor:
    shown = Plain(source)
    edit(shown, prior, "source", "target", config, [notes] if notes else [])
    return shown.latents().detach()


def config(method: Any, steps: int = 7, **settings: Any) -> EditConfig:
    plain = {"guidance_scale": 1.0, "timesteps": "descending", "t_max": 0.9} | settings
    return EditConfig(GuidanceConfig(method, **plain), steps, "sgd", lr=1.0)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=["vp", "flow"])
@pytest.mark.parametrize("method", ["flowedit", "flowalign"])
@pytest.mark.parametrize("steps", [1, 7])
def test_transport_carries_a_point_to_where_the_prior_knows_it(
    schedule: NoiseSchedule, method: str, steps: int
) -> None:
    """dv = (dz - (c_tgt - c_src)) / s: the last of any steps down to s = 0 arrives."""
    options = {"method_options": {"zeta": 0.0}} if method == "flowalign" else {}
    found = edited(Points(schedule), config(method, steps, **options), source=NULL)
    torch.testing.assert_close(found, NULL + TARGET - SOURCE, rtol=1e-4, atol=2e-4)


class Drift(Points):
    """Of a flow: every prompt has one velocity everywhere."""

    def denoise(self, x_t: Tensor, t: Tensor, conditioning: Conditioning, *, tap: int = 0) -> Prediction:
        eps = super().denoise(x_t, t, conditioning).eps  # of the clean latent c: (x - alpha c) / sigma
        sigma = self.schedule.at(t)[1].to(x_t).view(-1, 1, 1, 1)
        return Prediction(x_t + x_t - sigma * eps)  # x + alpha c


def test_flowalign_goes_as_far_in_more_steps() -> None:
    short, long = (edited(Drift(SCHEDULES[1]), config("flowalign", n), source=NULL) - NULL for n in (40, 400))
    assert float(short.norm()) > 0.5 * float((TARGET - SOURCE).norm())
    torch.testing.assert_close(long, short, rtol=0.02, atol=0.02)


def test_flowedit_with_guidance_goes_past_it() -> None:
    settings = {"guidance_scale": 5.5, "source_guidance_scale": 1.5}
    found = edited(Points(), config("flowedit", **settings))
    wanted = SOURCE + (NULL + 5.5 * (TARGET - NULL)) - (NULL + 1.5 * (SOURCE - NULL))
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=2e-4)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=["vp", "flow"])
def test_chordedit_needs_one_step(schedule: NoiseSchedule) -> None:
    found = edited(Points(schedule), config("chordedit", 1, t_min=0.9), source=NULL)
    torch.testing.assert_close(found, NULL + TARGET - SOURCE, rtol=1e-4, atol=2e-4)


def test_each_branch_is_asked_at_its_own_timestep() -> None:
    prior = Points()
    edited(prior, config("chordedit", 1, t_min=0.9))
    assert sorted((t, prompt) for t, prompt, _ in prior.asked) == [
        *((750, prompt) for prompt in ("source", "target")),
        *((900, prompt) for prompt in ("source", "target")),
    ]


@pytest.mark.parametrize("steps", [1, 4])
def test_dvrf_couples_the_noises_more_and_more(steps: int) -> None:
    """Of both halves x_t is alpha z + sigma eps, and eta sigma dz more of the target's: eta = k / K at step k."""
    prior = Points()
    edited(prior, config("dvrf", steps))
    branches = [prior.asked[i : i + 2] for i in range(0, len(prior.asked), 2)]
    z = SOURCE
    for k, branch in enumerate(branches):
        t, by_prompt = branch[0][0], {(name, i): x for i, (_, name, x) in enumerate(branch)}
        alpha, sigma = float(prior.schedule.alpha[t]), float(prior.schedule.sigma[t])
        source = next(x for (name, _), x in by_prompt.items() if name == "source")
        target = next(x for (name, _), x in by_prompt.items() if name == "target")
        torch.testing.assert_close(target - source, (alpha + k / steps * sigma) * (z - SOURCE), rtol=1e-3, atol=1e-3)
        s = sigma / (alpha + sigma)
        grid = [round(900 - 850 * i / max(1, steps - 1)) for i in range(steps)]
        after = float(prior.schedule.flow_time[grid[k + 1]]) if k + 1 < steps else 0.0
        # dv = d eps - d clean, and dv + (1 - eta) dz is (dz - dc) / s for points, whatever eta
        z = z - (s - after) * ((z - SOURCE) - (TARGET - SOURCE)) / s
    found = edited(Points(), config("dvrf", steps))
    torch.testing.assert_close(found, z, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("method", ["csd", "lusd"])
def test_scores_alone_point_to_the_target(method: str) -> None:
    """eps(T, tgt) - eps(T, src) = alpha / sigma (c_src - c_tgt)."""
    options = {"w1": 1.0, "w2": 1.0} if method == "csd" else {"pull": 0.0}
    found = edited(Points(), config(method, 1, t_min=0.5, t_max=0.5, method_options=options))
    alpha, sigma = float(SCHEDULES[0].alpha[500]), float(SCHEDULES[0].sigma[500])
    torch.testing.assert_close(found - SOURCE, alpha / sigma * (TARGET - SOURCE), rtol=1e-4, atol=1e-4)


def test_reestimated_noise_is_what_the_prior_sees_in_the_source() -> None:
    """Where the prior knows the source that is the drawn noise; else eps + (1 - s) (v + z - eps)."""
    plain = config("dds", 3)
    again = replace(plain, guidance=replace(plain.guidance, reestimate_noise=True))
    torch.testing.assert_close(edited(Points(), again), edited(Points(), plain), rtol=1e-4, atol=1e-4)
    prior = Points()
    edited(prior, config("dds", 1, reestimate_noise=True, t_min=0.5, t_max=0.5), source=NULL)
    alpha, sigma = float(prior.schedule.alpha[500]), float(prior.schedule.sigma[500])
    (_, name, first), (_, _, second) = prior.asked[:2]
    assert name == "source"
    drawn = (first - alpha * NULL) / sigma
    seen = (first - alpha * SOURCE) / sigma - SOURCE + NULL  # v + z
    s = sigma / (alpha + sigma)
    torch.testing.assert_close((second - alpha * NULL) / sigma, drawn + (1 - s) * (seen - drawn), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("method", "settings", "samples"),
    [
        ("flowedit", {}, [2, 2]),  # without guidance
        ("flowedit", {"guidance_scale": 2.0}, [4, 4]),
        ("flowalign", {}, [3, 3]),
        ("csd", {}, [3, 3]),
        ("lusd", {}, [2, 2]),
        ("chordedit", {"t_min": 0.9}, [4, 4]),
        ("dds", {"reestimate_noise": True, "guidance_scale": 2.0}, [5, 5]),
    ],
)
def test_the_samples_that_are_counted_are_those_that_are_taken(
    method: str, settings: dict[str, Any], samples: list[int]
) -> None:
    prior, taken = Points(), []
    counted = Recorder(lambda _, result: (taken.append(len(prior.asked)), int(result.metrics["samples"]))[1])
    edited(prior, config(method, 2, **settings), notes=counted)
    assert counted.notes == samples
    assert taken == [samples[0], sum(samples)]


def test_steps_without_a_signal_are_left_out() -> None:
    strength = float((TARGET - SOURCE).square().mean().sqrt())
    for least, moves in ((0.9 * strength, True), (1.1 * strength, False)):
        schedule = NoiseSchedule.flow()  # alpha / sigma is 1 at half time
        found = edited(Points(schedule), config("dds", 1, t_min=0.5, t_max=0.5, min_direction=least))
        assert torch.equal(found, SOURCE) != moves


def test_each_edit_of_a_batch_is_left_out_by_itself() -> None:
    prior = Points(clean={"source": SOURCE, "target": TARGET, "": NULL, "near": SOURCE + 1e-3})
    shown = Plain(SOURCE.repeat(2, 1, 1, 1))
    settings = config("dds", 2, min_direction=0.01).guidance
    edit(shown, prior, ["source"] * 2, ["near", "target"], EditConfig(settings, 2, lr=1.0))
    moved = (shown.latents() - shown.source).detach().abs().amax((1, 2, 3))
    assert float(moved[0]) == 0 < float(moved[1])


def one_corner() -> dict[str, Tensor]:
    """Prompts that differ in the first two columns alone."""
    target = SOURCE.clone()
    target[..., :2] += torch.tensor([3.0, -3.0]).view(2, 1).repeat(2, 2)[None, :, None]
    return {"source": SOURCE, "target": target, "": NULL}


@pytest.mark.parametrize("method", ["dds", "pds", "csd", "lusd", "flowedit"])
def test_localized_edits_stay_where_the_prompts_differ(method: str) -> None:
    prior = Points(clean={**one_corner(), "": SOURCE + 0.1 * NULL})
    settings: dict[str, Any] = {"t_max": 0.7, "method_options": {"w1": 1.0, "w2": 0.0} if method == "csd" else {}}
    ends = [edited(prior, config(method, 3, localize=local, **settings)) for local in (False, True)]
    outside = [float((end - SOURCE)[..., 2:].abs().max()) for end in ends]
    inside = [float((end - SOURCE)[..., :2].abs().mean()) for end in ends]
    assert outside[1] < 1e-3
    assert inside[1] > 0.5 * inside[0] > 0
    if method == "csd":  # the others' scores are local by themselves here
        assert outside[0] > 0.01


def test_the_map_is_made_once_for_each_source_from_the_seed_alone() -> None:
    prior = Points(clean=one_corner())
    guidance = Guidance(prior, "source", "target", config("dds", localize=True).guidance, steps=3, seed=4)
    views = SOURCE, SOURCE + 1
    for step, view in enumerate((*views, *views)):
        guidance.step(view, view, step % 3, torch.Generator().manual_seed(step))
    asked = [t for t, _, _ in prior.asked]
    assert len(asked) == 4 * 2 + 2 * 12  # branches; maps
    expected = {prior.schedule.timestep_at(s) for s in FLOW_TIMES}
    assert expected <= set(asked[:12])
    noises = [
        [x - prior.schedule.alpha[t] * view for t, _, x in prior.asked[i : i + 12]]
        for i, view in ((0, views[0]), (14, views[1]))
    ]
    for a, b in zip(*noises, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
    guidance.set_prompts(["target"], ["source"])  # another edit: another map
    before = len(prior.asked)
    guidance.step(views[0], views[0], 0, torch.Generator().manual_seed(0))
    assert len(prior.asked) == before + 14


def test_relevance_is_one_where_the_prompts_differ_most() -> None:
    prior = Points(clean=one_corner())
    guidance = Guidance(prior, "source", "target", config("dds", localize=True).guidance, steps=3)
    found = guidance.relevance(SOURCE)
    assert found is not None
    torch.testing.assert_close(found[..., :2], torch.ones(1, 1, 4, 2))
    assert float(found[..., 2:].max()) < 1e-5
    ramp = changes(torch.tensor([[[[0.0, 0.2, 0.325, 0.45, 2.0]]]]))
    torch.testing.assert_close(ramp, torch.tensor([[[[0.0, 0.0, 0.5, 1.0, 1.0]]]]))


@pytest.mark.parametrize(
    ("method", "settings", "message"),
    [
        ("chordedit", {}, "asks the prior at other timesteps too, from -0.15 to .0 of the schedule: t_min 0.05 and"),
        ("dds", {"method_options": {"zeta": 1.0}}, "method dds has no option zeta: it has none"),
        ("flowalign", {"method_options": {"eta": 1.0}}, "method flowalign has no option eta: it has zeta"),
    ],
)
def test_settings_that_an_objective_cannot_take(method: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        edited(Points(), config(method, **settings))


@pytest.mark.parametrize("method", ["flowedit", "dvrf", "flowalign", "chordedit", "pds"])
def test_pure_noise_says_nothing_of_clean_latents(method: str) -> None:
    with pytest.raises(InputError, match=f"t_max 0.9995 reaches pure noise, where {method} has no weights: lower it"):
        edited(Points(NoiseSchedule.flow(1000)), config(method, t_max=0.9995, t_min=0.2))
