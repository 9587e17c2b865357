"""Settings that are not read are named, and no others."""

from dataclasses import replace

import pytest

from cpds.config import EditConfig, GuidanceConfig
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


@pytest.mark.parametrize("name", PRESETS)
def test_presets_as_they_are_say_nothing(name: str) -> None:
    assert unused_notes(PRESETS[name], PRESETS[name]) == []
