"""Noise schedules: oracles are plain float arithmetic, and latents whose z and noise are known."""

import math

import pytest
import torch

from cpds.schedule import TIMESTEP_SAMPLERS, NoiseSchedule

SD = NoiseSchedule.scaled_linear()
SHAPE = (3, 4, 5, 6)
FALLING = ("non-increasing", "descending")
# stride 2 of Stable Diffusion's schedule: t, psi, chi
GOLDEN = [
    (21, 1.61332, 0.23170),
    (51, 0.65074, 0.15297),
    (101, 0.31432, 0.11547),
    (201, 0.13959, 0.09181),
    (401, 0.04938, 0.08139),
    (501, 0.03211, 0.08214),
    (701, 0.01445, 0.09002),
    (901, 0.00619, 0.10346),
    (981, 0.00416, 0.10970),
]
SCHEDULES = {
    "epsilon": SD,
    "v_prediction": NoiseSchedule.scaled_linear(parameterization="v_prediction"),
    "flow": NoiseSchedule.flow(),
    "flow, shifted": NoiseSchedule.flow(shift=3.0),
    "short": NoiseSchedule.from_alpha_bar([0.99, 0.9, 0.7, 0.4, 0.1], "epsilon"),
}


def alpha_bars() -> list[float]:
    """Stable Diffusion's alpha-bar in plain floats."""
    low, high, product, table = math.sqrt(0.00085), math.sqrt(0.012), 1.0, []
    for i in range(1000):
        product *= 1 - (low + (high - low) * i / 999) ** 2
        table.append(product)
    return table


def posterior(a_t: float, a_s: float, beta: float) -> tuple[float, float, float, float, float]:
    """(c0, c1, sigma, psi, chi) of the posterior from t to s with `beta`, in plain floats."""
    c0 = math.sqrt(a_s) * beta / (1 - a_t)
    c1 = math.sqrt(1 - beta) * (1 - a_s) / (1 - a_t)
    sigma = math.sqrt((1 - a_s) / (1 - a_t) * beta)
    psi = (math.sqrt(a_s) - c0 - c1 * math.sqrt(a_t)) / sigma
    return c0, c1, sigma, psi, c0 * math.sqrt((1 - a_t) / a_t) / sigma


def noise(seed: int) -> torch.Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def at(table: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    return table[t].view(-1, 1, 1, 1)


def test_tables_are_stable_diffusions() -> None:
    torch.testing.assert_close(SD.alpha_bar, torch.tensor(alpha_bars(), dtype=torch.float64))
    torch.testing.assert_close(SD.alpha**2 + SD.sigma**2, torch.ones(1000, dtype=torch.float64))


@pytest.mark.parametrize(("t", "psi", "chi"), GOLDEN)
def test_posterior_weights_are_the_published_ones(t: int, psi: float, chi: float) -> None:
    got = SD.posterior_weights(torch.tensor([t]), stride=2)
    assert [float(w) for w in got] == pytest.approx([psi, chi], abs=1e-4)


@pytest.mark.parametrize("stride", [1, 2, 5, 20])
def test_posterior_weights_are_the_formula_with_the_one_step_beta(stride: int) -> None:
    a, ts = alpha_bars(), [21, 50, 333, 777, 999]
    expected = [posterior(a[t], a[t - stride], 1 - a[t] / a[t - 1])[3:] for t in ts]
    psi, chi = SD.posterior_weights(torch.tensor(ts), stride)
    torch.testing.assert_close(
        torch.stack([psi, chi], 1), torch.tensor(expected, dtype=torch.float64), rtol=1e-8, atol=1e-9
    )


@pytest.mark.parametrize("name", SCHEDULES)
def test_stride_one_leaves_no_pull_back(name: str) -> None:
    schedule = SCHEDULES[name]
    ts = torch.arange(2, len(schedule) - 1)
    psi, chi = schedule.posterior_weights(ts, stride=1)
    assert torch.equal(psi, torch.zeros_like(psi))
    assert bool((chi > 0).all())


@pytest.mark.parametrize("stride", [1, 2, 7, 20])
def test_a_beta_consistent_with_the_stride_has_psi_zero(stride: int) -> None:
    a = alpha_bars()
    for t in range(stride + 1, 1000, 37):
        assert abs(posterior(a[t], a[t - stride], 1 - a[t] / a[t - stride])[3]) < 1e-9
    # seen from the code: leaving out all but every stride-th timestep makes the one-step beta the consistent one
    thinned = NoiseSchedule.from_alpha_bar(a[::stride], "epsilon")
    psi, _ = thinned.posterior_weights(torch.tensor([2, 30]), stride=1)
    assert psi.tolist() == [0, 0]


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("stride", [1, 2])
def test_closed_form_equals_the_difference_of_stochastic_latents(name: str, stride: int) -> None:
    schedule = SCHEDULES[name]
    length = len(schedule)
    t = torch.tensor([stride + 1, length // 2 + 1, length - 2])
    z_src, z_tgt, eps_t, eps_s, hat_src, hat_tgt = map(noise, range(6))
    a_t, a_s, a_prev = (at(schedule.alpha_bar, s) for s in (t, t - stride, t - 1))
    rows = [posterior(*map(float, x))[:3] for x in zip(a_t, a_s, 1 - a_t / a_prev, strict=True)]
    c0, c1, sigma = torch.tensor(rows, dtype=torch.float64).T.reshape(3, -1, 1, 1, 1)

    def stochastic(z: torch.Tensor, predicted: torch.Tensor) -> torch.Tensor:
        """z~_t = (x_s - mu(x_t)) / sigma (Koo 2024, Eq. 9 and 10) with noises that both halves share."""
        x_t, x_s = a_t.sqrt() * z + (1 - a_t).sqrt() * eps_t, a_s.sqrt() * z + (1 - a_s).sqrt() * eps_s
        mean = c0 * (x_t - (1 - a_t).sqrt() * predicted) / a_t.sqrt() + c1 * x_t
        return (x_s - mean) / sigma

    psi, chi = (w.view(-1, 1, 1, 1) for w in schedule.posterior_weights(t, stride))
    closed = psi * (z_tgt - z_src) + chi * (hat_tgt - hat_src)
    torch.testing.assert_close(closed, stochastic(z_tgt, hat_tgt) - stochastic(z_src, hat_src), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", SCHEDULES)
def test_every_parametrisation_gives_back_the_noise(name: str, dtype: torch.dtype) -> None:
    schedule = SCHEDULES[name]
    t = torch.tensor([0, len(schedule) // 2, len(schedule) - 1])
    z, eps = noise(0), noise(1)
    alpha, sigma = at(schedule.alpha, t), at(schedule.sigma, t)
    raw = {"epsilon": eps, "v_prediction": alpha * eps - sigma * z, "flow": eps - z}[schedule.parameterization]
    x_t = schedule.add_noise(z.to(dtype), eps.to(dtype), t)
    assert x_t.dtype == dtype
    torch.testing.assert_close(x_t, (alpha * z + sigma * eps).to(dtype))
    torch.testing.assert_close(schedule.to_epsilon(raw.to(dtype), x_t, t), eps.to(dtype), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_flow_is_a_rescaled_variance_preserving_process(shift: float) -> None:
    schedule, z, eps = NoiseSchedule.flow(shift=shift), noise(0), noise(1)
    t = torch.tensor([0, 400, 999])
    s = (t + 1).double().view(-1, 1, 1, 1) / 1000
    s = shift * s / (1 + (shift - 1) * s)
    x_t = schedule.add_noise(z, eps, t)
    torch.testing.assert_close(x_t, (1 - s) * z + s * eps)
    a = at(schedule.alpha_bar, t)
    torch.testing.assert_close(x_t / ((1 - s) ** 2 + s**2).sqrt(), a.sqrt() * z + (1 - a).sqrt() * eps)


def draws(name: str, low: int, high: int, steps: int, seed: int) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return [int(TIMESTEP_SAMPLERS[name](low, high, i, steps, generator)) for i in range(steps)]


@pytest.mark.parametrize("name", TIMESTEP_SAMPLERS)
@pytest.mark.parametrize(
    ("low", "high", "steps"),
    [
        (50, 950, 200),  # the usual range
        (3, 6, 64),  # more steps than timesteps
        (7, 7, 5),  # one timestep
        (50, 950, 1),  # one step
    ],
)
def test_timesteps_stay_in_range_and_follow_the_seed(name: str, low: int, high: int, steps: int) -> None:
    runs = [draws(name, low, high, steps, seed) for seed in range(4)]
    assert all(low <= t <= high for run in runs for t in run)
    assert runs[0] == draws(name, low, high, steps, 0)
    fixed = name == "descending" or steps == 64  # nothing is drawn; 64 sorted draws of 4 values may agree
    assert low == high or runs[0] != runs[1] or fixed
    if name in FALLING:
        assert all(run == sorted(run, reverse=True) for run in runs)


@pytest.mark.parametrize("name", TIMESTEP_SAMPLERS)
def test_every_timestep_can_be_drawn(name: str) -> None:
    assert set(draws(name, 11, 14, 200, 0)) == {11, 12, 13, 14}


def test_non_increasing_draws_one_timestep_from_each_slice() -> None:
    for seed in range(3):
        for i, t in enumerate(draws("non-increasing", 100, 900, 8, seed)):
            assert 900 - 100 * (i + 1) <= t <= 900 - 100 * i


def largest_gap(timesteps: list[int], low: int, high: int) -> float:
    """Between neighbors on a circle from low to high, as a fraction of it."""
    at = sorted((t - low) / (high - low) for t in timesteps)
    return max(b - a for a, b in zip(at, [*at[1:], at[0] + 1], strict=True))


@pytest.mark.parametrize("steps", [10, 20, 40, 500])
@pytest.mark.parametrize("stretch", [3, 5, 8, 10])
def test_low_discrepancy_covers_the_range_over_every_stretch(steps: int, stretch: int) -> None:
    most = 1.9 / stretch + 1 / steps + 1 / 9000
    for seed in range(3):
        run = draws("low-discrepancy", 0, 9000, steps, seed)
        assert max(largest_gap(run[i : i + stretch], 0, 9000) for i in range(steps - stretch + 1)) <= most


def test_low_discrepancy_draws_every_timestep_equally_often() -> None:
    run = draws("low-discrepancy", 0, 9000, 1000, 0)
    assert [sum(900 * i <= t < 900 * (i + 1) for t in run) for i in range(10)] == pytest.approx([100] * 10, abs=4)


@pytest.mark.parametrize(
    ("t", "stride", "message"),
    [
        (500, 0, "stride must be >= 1, got 0"),
        (500, -2, "stride must be >= 1, got -2"),
        (2, 2, "timestep 2 has no posterior at stride 2: use timesteps > 2"),
        (0, 1, "timestep 0 has no posterior"),
    ],
)
def test_posterior_weights_reject(t: int, stride: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SD.posterior_weights(torch.tensor([999, t]), stride)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_a_flow_takes_any_real_timestep(shift: float) -> None:
    schedule, whole = NoiseSchedule.flow(shift=shift), torch.arange(1000)
    alpha, sigma = schedule.at(whole)
    assert torch.equal(alpha, schedule.alpha)
    assert torch.equal(sigma, schedule.sigma)
    t = torch.tensor([0.25, 123.456, 990.75], dtype=torch.float64)
    u = (t + 1) / 1000
    torch.testing.assert_close(schedule.at(t)[1], shift * u / (1 + (shift - 1) * u), rtol=1e-14, atol=0)
    torch.testing.assert_close(schedule.at(t)[0] + schedule.at(t)[1], torch.ones(3, dtype=torch.float64))
    torch.testing.assert_close(schedule.flow_time_at(t), schedule.at(t)[1])
    psi, chi = schedule.posterior_weights(t[1:], 2)
    near_psi, near_chi = (
        torch.stack(w) for w in zip(*(schedule.posterior_weights(t[1:].round() + d, 2) for d in (-1, 1)), strict=True)
    )
    for w, near in ((psi, near_psi), (chi, near_chi)):
        assert bool((near.amin(0) <= w).all() and (w <= near.amax(0)).all())


@pytest.mark.parametrize("name", TIMESTEP_SAMPLERS)
def test_a_flows_timesteps_are_drawn_between_the_whole_ones(name: str) -> None:
    schedule, generator = NoiseSchedule.flow(), torch.Generator().manual_seed(0)
    drawn = [float(schedule.draw(name, 50, 954, i, 64, generator)) for i in range(64)]
    assert all(50 <= t <= 954 for t in drawn)
    assert sum(t != round(t) for t in drawn) > 50
    if name in FALLING:
        assert drawn == sorted(drawn, reverse=True)
    again = torch.Generator().manual_seed(0)
    tables = [SD.draw(name, 50, 954, i, 64, again) for i in range(64)]
    assert all(not t.is_floating_point() for t in tables)
