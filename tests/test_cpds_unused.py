"""Settings that are not read are named, and no others."""

from dataclasses import replace

import pytest
import torch
from test_cpds_guidance_family import NULL, SOURCE, TARGET, Points
from test_cpds_polish import Writable

from cpds.config import EditConfig, GuidanceConfig
from cpds.editor import edit
from cpds.objectives.table import OBJECTIVES
from cpds.presets import PRESETS
from cpds.unused import unused_notes

PLAIN = EditConfig(GuidanceConfig("dds"))


@pytest.mark.parametrize(
    ("guidance", "edit", "words"),
    [
        ({}, {"redraw_lr": 0.4}, ["redraw_lr has no effect here: redraw_steps is 0"]),
        ({}, {"redraw_lr": 0.4, "redraw_steps": 3}, []),
        (
            {"w_cut": 4.0, "patch_selector": "svm"},
            {},
            ["w_cut, patch_selector have no effect here: method dds has no contrastive loss"],
        ),
        ({"method": "cds", "w_cut": 4.0, "patch_selector": "svm"}, {}, []),
        ({"method": "cds", "w_cut": 0.0}, {}, []),
        ({"method": "cds", "w_cut": 0.0, "n_patches": 3}, {}, ["n_patches has no effect here: w_cut is 0"]),
        ({"w_identity": 0.5}, {}, ["w_identity has no effect here: method dds does not read the posterior"]),
        ({"method": "pds", "w_identity": 0.5}, {}, []),
        (
            {"guidance_interval": (0.1, 0.3)},
            {},
            ["guidance_interval has no effect here: guidance_schedule is constant"],
        ),
        ({"guidance_interval": (0.1, 0.3), "guidance_schedule": "interval"}, {}, []),
        ({"method": "own:thing", "w_cut": 4.0, "w_identity": 0.5}, {}, []),  # who knows
    ],
)
def test_what_has_no_effect_is_named(guidance: dict[str, object], edit: dict[str, object], words: list[str]) -> None:
    changed = replace(PLAIN, guidance=replace(PLAIN.guidance, **guidance), **edit)
    notes = unused_notes(changed, PLAIN)
    assert len(notes) == len(words)
    assert all(note.startswith(said) for note, said in zip(notes, words, strict=True))


@pytest.mark.parametrize("omega", [1.0, 4.0])
@pytest.mark.parametrize("polish", [0.0, 0.1])
@pytest.mark.parametrize("method", sorted(name for name, it in OBJECTIVES.items() if not it.contrast))
def test_settings_of_guidance_are_named_when_and_only_when_an_edit_is_the_same_with_and_without(
    method: str, polish: float, omega: float
) -> None:
    plain = EditConfig(GuidanceConfig(method, guidance_scale=omega, t_min=0.3), 2, "sgd", lr=0.5, polish=polish)
    settings = {
        "guidance_scale": omega + 1,
        "source_guidance_scale": 3.0,
        "guidance_schedule": "rising",
        "guidance_parallel": 0.5,
        "guidance_rescale": 0.5,
        "negative_prompt": "pig",
    }

    def edited(config: EditConfig) -> torch.Tensor:
        shown, known = Writable(SOURCE), {"source": SOURCE, "target": TARGET, "": NULL, "pig": 2 * NULL}
        edit(shown, Points(clean=known), "source", "target", config)
        return shown.latents().detach()

    before = edited(plain)
    for name, value in settings.items():
        changed = replace(plain, guidance=replace(plain.guidance, **{name: value}))
        notes = unused_notes(changed, plain, "classifier-free")
        assert [note.split()[0] for note in notes] == [name] * torch.equal(edited(changed), before), name
        assert unused_notes(changed, plain) == []  # by a network that takes it as an input it may be read


@pytest.mark.parametrize("name", PRESETS)
def test_presets_as_they_are_say_nothing(name: str) -> None:
    assert unused_notes(PRESETS[name], PRESETS[name], "classifier-free") == []
