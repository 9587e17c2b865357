"""Who may import whom, read from the sources.

scripts, cpds/cli*.py -> nerf_plugin -> representations -> cpds <- svg.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAY_IMPORT = {  # room -> rooms that it may import, itself aside
    "cpds": set(),
    "svg": {"cpds"},
    "representations": {"cpds"},
    "nerf_plugin": {"cpds", "representations"},
}
ROOMS = set(MAY_IMPORT)
VENDORS = ("diffusers", "nerfstudio", "gsplat", "diffvg", "pydiffvg", "gradio", "ray")
HOMES = {"diffusers": {"cpds/diffusion.py", "cpds/transformer.py"}}  # others: any one or two files
PLUGIN = {"nerfstudio": "nerf_plugin"}  # whoever loads this room is nerfstudio itself
COMMANDS = {f"cpds/{file.name}" for file in (ROOT / "cpds").glob("cli*.py")}  # the composition root
SETTINGS = {"svg.config", "representations.splat_config"}  # of other rooms, that --help needs
NO_PRIOR_YET = "nerf_plugin/config.py"  # every command of nerfstudio imports it
LIGHT = (
    "cpds/__init__.py",
    "cpds/config.py",
    "cpds/presets.py",
    "cpds/errors.py",
    "cpds/stored.py",
    "cpds/terminal.py",
    "cpds/threads.py",
    *sorted(COMMANDS),
)


def sources(*rooms: str) -> list[Path]:
    return [file for room in rooms for file in sorted((ROOT / room).rglob("*.py"))]


def named(node: ast.AST) -> list[str]:
    """Modules that an import statement, or a call of import_module with a plain string, names."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        assert node.level == 0, "relative import"
        return [node.module or ""]
    if isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) == "import_module":
        return [a.value for a in node.args[:1] if isinstance(a, ast.Constant) and isinstance(a.value, str)]
    return []


def imports(tree: ast.AST, inside: bool = False) -> Iterator[tuple[str, bool]]:
    """(module, whether only a function's call imports it); what is for type checkers alone is left out."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING":
            continue
        yield from ((name, inside) for name in named(node))
        yield from imports(node, inside or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda))


def found(file: Path, lazy: bool = True) -> set[str]:
    """Top-level names of the modules that `file` imports; with lazy=False only those that importing it imports."""
    return {name.split(".")[0] for name, inside in imports(ast.parse(file.read_text())) if lazy or not inside}


def name_of(file: Path) -> str:
    return file.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("file", sources(*ROOMS), ids=name_of)
def test_arrows(file: Path) -> None:
    room = name_of(file).split("/")[0]
    allowed = MAY_IMPORT[room] | {room}
    if name_of(file) in COMMANDS:  # all rooms; when no command runs, their settings alone
        eager = {name for name, inside in imports(ast.parse(file.read_text())) if not inside}
        assert {name for name in eager if name.split(".")[0] in ROOMS - {"cpds"}} <= SETTINGS
        allowed = ROOMS
    assert found(file) & ROOMS <= allowed
    assert not found(file) & {"scripts", "tests", "benchmarks"}
    assert not found(file) & {script.stem for script in sources("scripts")}


@pytest.mark.parametrize("vendor", VENDORS)
def test_each_vendor_has_its_file(vendor: str) -> None:
    users = {name_of(file) for file in sources(*(ROOMS - {PLUGIN.get(vendor)})) if vendor in found(file)}
    if vendor in PLUGIN:
        assert not users
    assert users <= HOMES.get(vendor, users)
    assert len(users) <= 2
    for user in users:  # imported at use: the packages load without the vendor
        assert vendor not in found(ROOT / user, lazy=False), user


def test_the_plugins_methods_load_without_a_prior() -> None:
    assert not reached(NO_PRIOR_YET) & {"diffusers", "transformers"}


@pytest.mark.parametrize("name", LIGHT)
def test_light_modules_wait_with_heavy_ones(name: str) -> None:
    """Neither themselves nor through another module of ours."""
    assert not reached(name) & {"torch", "numpy", "PIL", "transformers", *VENDORS}


def reached(name: str) -> set[str]:
    """Top-level names of all that importing a file of ours imports, through other files of ours too."""
    todo, seen, modules = [name], set(), set()
    while todo:
        if (current := todo.pop()) in seen:
            continue
        seen.add(current)
        for module, inside in imports(ast.parse((ROOT / current).read_text())):
            if not inside:
                modules.add(module.split(".")[0])
                path = module.replace(".", "/")
                todo += [f for f in (f"{path}.py", f"{path}/__init__.py") if (ROOT / f).exists()]
    return modules


def test_package_roots_hold_a_docstring_alone() -> None:
    for room in ("svg", "representations"):
        tree = ast.parse((ROOT / room / "__init__.py").read_text())
        assert ast.get_docstring(tree)
        assert len(tree.body) == 1, room


def test_svg_shares_no_module_name_with_the_package_of_that_name() -> None:
    theirs = {"elements", "_types", "_mixins", "_path", "_transforms", "_filters", "_internal"}  # PyPI's svg.py
    assert not {file.stem for file in sources("svg")} & theirs


def test_the_reader_sees_every_kind_of_import() -> None:
    code = """
import a.b
from c import d
if TYPE_CHECKING:
    import e
def f():
    import g
    return import_module("h.i")
class J:
    import k
try:
    import l
except ImportError:
    pass
"""
    assert set(imports(ast.parse(code))) == {
        ("a.b", False),
        ("c", False),
        ("g", True),
        ("h.i", True),
        ("k", False),
        ("l", False),
    }
