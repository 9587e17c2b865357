"""Who may import whom, read from the sources.

scripts, benchmarks, integrations, cpds.apps -> nerf_plugin, svg -> representations -> cpds, and inside of cpds:
cpds.apps -> cpds.evaluation -> the core -> cpds.priors. No circles anywhere, not even through a function's own imports.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("cpds", "svg", "representations", "nerf_plugin")
MAY_IMPORT = {  # package -> packages that it may import, itself aside
    "cpds": {"cpds.priors"},
    "cpds.priors": {"cpds"},
    "cpds.evaluation": {"cpds", "cpds.priors"},
    "cpds.apps": {"cpds", "cpds.priors", "cpds.evaluation", "representations", "svg", "nerf_plugin"},
    "svg": {"cpds", "cpds.priors", "representations", "svg.parse", "svg.raster"},
    "svg.parse": {"cpds", "svg"},
    "svg.raster": {"cpds", "svg"},
    "representations": {"cpds", "cpds.priors"},
    "nerf_plugin": {"cpds", "cpds.priors", "representations"},
}
SHARED = {  # all that these may take of svg itself
    "svg.parse": {"svg.model"},
    "svg.raster": {"svg.model", "svg.numbers"},
}
VENDORS = ("diffusers", "nerfstudio", "gsplat", "diffvg", "pydiffvg", "gradio", "ray")
HOMES = {"diffusers": {"cpds/priors/source.py", "cpds/priors/memory.py"}}  # others: any one or two files
PLUGIN = {"nerfstudio": "nerf_plugin"}  # whoever loads this package is nerfstudio itself
SETTINGS = {
    "svg.config",
    "representations.splats.config",
    "cpds.evaluation.settings",
    "cpds.evaluation.sweep",
    "cpds.priors.options",
}  # of other packages, that --help needs
NO_PRIOR_YET = "nerf_plugin.config"  # every command of nerfstudio imports it


def sources(*packages: str) -> list[Path]:
    return [file for package in packages for file in sorted((ROOT / package).rglob("*.py"))]


def module_of(file: Path) -> str:
    """Its dotted name."""
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_of(file): file for file in sources(*PACKAGES)}
COMMANDS = sorted(name for name in MODULES if name.startswith("cpds.apps"))
LIGHT = (
    "cpds",
    "cpds.config",
    "cpds.presets",
    "cpds.errors",
    "cpds.profiling",
    "cpds.stored",
    "cpds.terminal",
    "cpds.threads",
    *COMMANDS,
)


def package_of(module: str) -> str:
    return max((p for p in MAY_IMPORT if f"{module}.".startswith(f"{p}.")), key=len, default=module.split(".")[0])


def named(node: ast.AST) -> list[str]:
    """Modules that an import statement, or a call of import_module with a plain string, names."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        assert node.level == 0, "relative import"
        inner = [f"{node.module}.{alias.name}" for alias in node.names]
        return [*(name for name in inner if name in MODULES), node.module or ""]
    if isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) == "import_module":
        return [a.value for a in node.args[:1] if isinstance(a, ast.Constant) and isinstance(a.value, str)]
    return []


def imports(tree: ast.AST, when: str = "eager") -> Iterator[tuple[str, str]]:
    """(module, when it is imported): eager, lazy (by a function's call), or types (for type checkers alone)."""
    for node in ast.iter_child_nodes(tree):
        inside = when
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING":
            inside = "types"
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) and when == "eager":
            inside = "lazy"
        yield from ((name, when) for name in named(node))
        yield from imports(node, inside)


def found(module: str, *when: str) -> set[str]:
    """Modules that this one imports at these times; a package's root does not count where a module of it is taken."""
    names = {name for name, at in imports(ast.parse(MODULES[module].read_text())) if at in when}
    return names - {p for p in names if any(n.startswith(f"{p}.") for n in names) and p in MAY_IMPORT}


def tops(modules: set[str]) -> set[str]:
    return {module.split(".")[0] for module in modules}


@pytest.mark.parametrize("module", MODULES)
def test_arrows(module: str) -> None:
    package = package_of(module)
    imported = found(module, "eager", "lazy")
    ours = {name for name in imported | found(module, "types") if name.split(".")[0] in PACKAGES}
    assert {package_of(name) for name in ours} <= MAY_IMPORT[package] | {package}
    if package in SHARED:
        assert {name for name in ours if package_of(name) == "svg"} <= SHARED[package]
    if package == "cpds.apps":  # when no command runs, of other packages their settings alone
        eager = {name for name in found(module, "eager") if name.split(".")[0] in PACKAGES}
        assert {name for name in eager if package_of(name) not in ("cpds", "cpds.apps")} <= SETTINGS
    assert not tops(imported) & {"scripts", "tests", "benchmarks", "integrations"}


def test_there_are_no_circles() -> None:
    """Imports of every kind counted: a module can be read after those that it imports."""
    after = {module: found(module, "eager", "lazy", "types") & MODULES.keys() for module in MODULES}
    after["cpds"] = set()  # the public names, loaded by name at first use
    while free := {module for module, waits in after.items() if not waits & after.keys()}:
        after = {module: waits for module, waits in after.items() if module not in free}
    assert not after, {module: sorted(waits & after.keys()) for module, waits in after.items()}


@pytest.mark.parametrize("vendor", VENDORS)
def test_each_vendor_has_its_file(vendor: str) -> None:
    others = [m for m in MODULES if package_of(m) != PLUGIN.get(vendor)]
    users = {m for m in others if vendor in tops(found(m, "eager", "lazy"))}
    if vendor in PLUGIN:
        assert not users
    files = {MODULES[m].relative_to(ROOT).as_posix() for m in users}
    assert files <= HOMES.get(vendor, files)
    assert len(users) <= 2
    for user in users:  # imported at use: the packages load without the vendor
        assert vendor not in tops(found(user, "eager")), user


def test_the_plugins_methods_load_without_a_prior() -> None:
    assert not reached(NO_PRIOR_YET) & {"diffusers", "transformers"}


@pytest.mark.parametrize("module", LIGHT)
def test_light_modules_wait_with_heavy_ones(module: str) -> None:
    """Neither themselves nor through another module of ours."""
    assert not reached(module) & {"torch", "numpy", "PIL", "transformers", *VENDORS}


def reached(module: str) -> set[str]:
    """Top-level names of all that importing a module of ours imports, through other modules of ours too."""
    todo, seen, names = [module], set(), set()
    while todo:
        if (current := todo.pop()) in seen:
            continue
        seen.add(current)
        eager = {name for name, at in imports(ast.parse(MODULES[current].read_text())) if at == "eager"}
        names |= tops(eager)
        parents = {".".join(m.split(".")[:i]) for m in eager for i in range(1, m.count(".") + 1)}
        todo += sorted((eager | parents) & MODULES.keys())
    return names


def test_package_roots_hold_a_docstring_alone() -> None:
    for file in sources(*PACKAGES):
        if file.name == "__init__.py" and module_of(file) != "cpds":
            tree = ast.parse(file.read_text())
            assert ast.get_docstring(tree), file
            assert len(tree.body) == 1, file


def test_svg_shares_no_module_name_with_the_package_of_that_name() -> None:
    theirs = {"elements", "_types", "_mixins", "_path", "_transforms", "_filters", "_internal"}  # PyPI's svg.py
    assert not {file.stem for file in sources("svg")} & theirs


def test_the_reader_sees_every_kind_of_import() -> None:
    code = """
import a.b
from c import d
from svg import model
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
        ("a.b", "eager"),
        ("c", "eager"),
        ("svg", "eager"),
        ("svg.model", "eager"),
        ("e", "types"),
        ("g", "lazy"),
        ("h.i", "lazy"),
        ("k", "eager"),
        ("l", "eager"),
    }
