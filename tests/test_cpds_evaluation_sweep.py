"""Sweeps: every combination once, each value as its field has it, and one sentence for what cannot be."""

from typing import Any

import pytest

from cpds import PRESETS
from cpds.errors import InputError
from cpds.evaluation.settings import BASELINES, Setting, fields_of
from cpds.evaluation.sweep import grid, read_axes


def start(preset: str) -> Setting:
    return BASELINES[preset] if preset in BASELINES else PRESETS[preset]


def test_every_combination_has_its_setting_and_name() -> None:
    axes = read_axes(["preset=pds,sdedit", "guidance_scale=3,7.5", "seed=0,1"])
    found = grid(axes, "cpds", start)
    wanted = {(p, g, s) for p in ("pds", "sdedit") for g in (3.0, 7.5) for s in (0, 1)}
    fields = {label: fields_of(setting) for label, setting in found.items()}
    assert {(label.split()[0], f["guidance_scale"], f["seed"]) for label, f in fields.items()} == wanted
    assert list(found)[:4] == [
        "pds guidance_scale=3.0",
        "pds guidance_scale=3.0 seed=1",
        "pds guidance_scale=7.5",
        "pds guidance_scale=7.5 seed=1",
    ]
    assert "sdedit guidance_scale=3.0" in found  # its own seed


def test_without_axes_there_is_the_preset_alone() -> None:
    assert grid({}, "pds", start) == {"pds": PRESETS["pds"]}


@pytest.mark.parametrize(
    ("word", "values"),
    [
        ("num_inference_steps=20,40", [20, 40]),
        ("lr=0.1,none", [0.1, None]),
        ("normalize_gradient=true,False", [True, False]),
        ("patch_size=1 2,1,4", [(1, 2), (1,), (4,)]),
        ("optimizer=adam,sgd", ["adam", "sgd"]),
        ("negative_prompt=blurry,a cat", ["blurry", "a cat"]),
        ("patch_selector=random,my.module:Selector", ["random", "my.module:Selector"]),
        ("t_min=0.1,0.2", [0.1, 0.2]),
    ],
)
def test_values_have_their_fields_types(word: str, values: list[Any]) -> None:
    found = [fields_of(setting)[word.split("=")[0]] for setting in grid(read_axes([word]), "cpds", start).values()]
    assert found == values
    assert [type(v) for v in found] == [type(v) for v in values]


def test_values_that_only_go_together_are_set_together() -> None:
    (setting,) = grid(read_axes(["t_min=0.97", "t_max=0.99"]), "cpds", start).values()
    assert fields_of(setting)["t_min"] == 0.97


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["guidance"], "sweep takes words such as guidance_scale=3,5,7.5, got 'guidance'"),
        (["seed=1,,2"], "sweep takes words such as guidance_scale=3,5,7.5, got 'seed=1,,2'"),
        (["seed=1", "seed=2"], "sweep has seed twice"),
        (["seed=1,1"], "sweep has a value of seed twice: 1,1"),
        (["lr=1,1.0"], "two combinations of the sweep have one name, 'cpds lr=1.0'"),
        (["sede=1"], "sweep: an edit has no field 'sede'; there are preset, "),
        (["preset=sdedit", "w_cut=1"], "sweep: sdedit has no field 'w_cut'; there are preset, guidance_scale, "),
        (["preset=sdedit", "baseline=ddim-inversion"], "sweep: sdedit has no field 'baseline'"),
        (["seed=x"], "sweep: seed cannot be 'x': it is a whole number"),
        (["guidance_scale=high"], "sweep: guidance_scale cannot be 'high': it is a number"),
        (["normalize_gradient=7"], "sweep: normalize_gradient cannot be '7': it is true or false"),
        (["group_lrs=latent"], "sweep: group_lrs cannot be 'latent'"),
        (["optimizer=adma"], "optimizer must be one of sgd, adam, adamw, got 'adma'"),
        (["patch_selector=rondom"], "patch_selector must be one of random, "),
        (["guidance_scale=3,-1"], "guidance_scale must be >= 0 and finite, got -1"),
        (["preset=sdedit", "strength=2"], "strength must be > 0 and at most 1, got 2"),
    ],
)
def test_what_cannot_be_swept_is_named(words: list[str], message: str) -> None:
    with pytest.raises(InputError) as refused:
        grid(read_axes(words), "cpds", start)
    assert str(refused.value).startswith(message)
    assert "\n" not in str(refused.value)
