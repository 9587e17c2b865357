"""Settings refuse what is not among their choices, from Python as from the command line; the package's public names."""

from collections.abc import Iterator
from dataclasses import fields
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest

import cpds
from cpds.config import EditConfig, GuidanceConfig, is_import_path
from cpds.errors import InputError
from representations.latent import LatentImageConfig
from representations.splats.config import SplatConfig
from svg.config import SvgConfig

CONFIGS = (GuidanceConfig, EditConfig, LatentImageConfig, SvgConfig, SplatConfig)


def choices(hint: Any) -> set[Any]:
    """All that the Literals in a type name."""
    if get_origin(hint) is Literal:
        return set(get_args(hint))
    return set().union(*map(choices, get_args(hint)))


def literals() -> Iterator[tuple[type, str, set[Any], bool]]:
    """(config, field, its choices, whether it takes several) for every field with a Literal in its type."""
    for config in CONFIGS:
        for name, hint in get_type_hints(config).items():
            if found := choices(hint):
                yield config, name, found, get_origin(hint) is tuple


LITERALS = list(literals())


def test_the_fields_with_choices_are_found() -> None:
    found = {(config.__name__, name) for config, name, _, _ in LITERALS}
    assert found >= {
        *(("GuidanceConfig", name) for name in ("method", "patch_selector", "timesteps", "guidance_schedule")),
        *(("EditConfig", name) for name in ("optimizer", "lr_scaling")),
        *(("SvgConfig", name) for name in ("style", "optimize")),
        *(("SplatConfig", name) for name in ("optimize", "shown")),
    }
    odd = {f.name for c in CONFIGS for f in fields(c) if "Literal" in str(f.type)} - {name for _, name in found}
    assert not odd


@pytest.mark.parametrize(("config", "name", "known", "several"), LITERALS, ids=lambda x: getattr(x, "__name__", None))
def test_every_choice_is_taken_and_nothing_else(config: Any, name: str, known: set[Any], several: bool) -> None:
    needed = {"table": {"guidance_table": ((0.0, 1.0), (1.0, 2.0))}}
    for choice in known:
        config(**{name: (choice,) if several else choice}, **needed.get(choice, {}))
    made = config()
    for wrong in ("magic", "", 17, *([] if getattr(made, name) is None else [None])):
        made = config()
        object.__setattr__(made, name, (wrong,) if several else wrong)  # the suite's type checker would be first
        with pytest.raises(InputError, match=rf"^{name} must ") as refused:
            made.__post_init__()
        assert str(wrong) in str(refused.value)
        assert "\n" not in str(refused.value)
        assert any(str(choice) in str(refused.value) for choice in known)


@pytest.mark.parametrize(
    ("text", "is_path"),
    [
        ("mine:objective", True),
        ("a.b.c:d", True),
        ("mine", False),
        ("mine:", False),
        (":objective", False),
        ("a..b:c", False),
        ("a.b:c.d", False),
        ("C:\\mine:x", False),
    ],
)
def test_import_paths(text: str, is_path: bool) -> None:
    assert is_import_path(text) == is_path
    for name in ("method", "patch_selector"):
        if is_path:
            assert getattr(GuidanceConfig(**{name: text}), name) == text
        else:
            with pytest.raises(InputError, match="or the import path of your own, module:name, got"):
                GuidanceConfig(**{name: text})


@pytest.mark.parametrize("lr", [0.0, -1.0, float("nan"), float("inf"), 1e300])
def test_learning_rates(lr: float) -> None:
    with pytest.raises(InputError, match="learning rate lr must be > 0"):
        EditConfig(lr=lr)


@pytest.mark.parametrize("lr", [-1.0, float("nan"), float("inf"), 1e300])
def test_learning_rates_of_groups(lr: float) -> None:
    with pytest.raises(InputError, match="learning rate points must be >= 0"):
        EditConfig(group_lrs={"points": lr})


def test_the_public_names_are_shown_and_load() -> None:
    names = dir(cpds)
    assert names == sorted(cpds.__all__)
    assert {"edit", "edit_in_folder", "load_prior", "Prior", "Representation", "Objective", "InputError"} <= set(names)
    for name in names:
        assert getattr(cpds, name) is not None
    assert cpds.EditConfig is EditConfig
    assert not hasattr(cpds, "nothing")


def test_the_version_is_the_packages() -> None:
    from importlib.metadata import version

    assert cpds.__version__ == version("cpds")
    assert cpds.__version__[0].isdecimal()
