"""Find what the Python packages miss from the system, and install it where that can be done without asking.

    python scripts/system_packages.py venv                  # what `python -m venv` needs
    python scripts/system_packages.py compiler GAPS         # what packages without a wheel need; fails without
    python scripts/system_packages.py libraries GAPS        # load what needs system libraries; write what stays missing
    python scripts/system_packages.py report GAPS           # what could not run for that; fails where CI=true

Nothing is guessed from a list of systems: packages are imported in a process of their own, and the library that the
loader names is traced to its package. As root, or where sudo asks for no password, apt-get installs it; else the one
command that does is printed. Only the standard library is used, so that this runs before anything is installed.
"""

import ctypes
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

SCENES = "editing scenes in nerfstudio"
HEADERS = "a C++ compiler and Python.h"
VERSION = f"python{sys.version_info.major}.{sys.version_info.minor}"
NO_QUESTIONS = {"DEBIAN_FRONTEND": "noninteractive"}

# what is imported -> what it is needed for
PROBES = {
    "resvg_py, lxml.etree": "editing SVGs",
    # the first two load most of the system's libraries: a gap shows at once
    "cv2, open3d, nerfstudio.engine.trainer, nerfstudio.scripts.exporter": SCENES,
}
# what else these may want: the loader names one library at a time, and people shall get one command
OFTEN = ("libxcb.so.1", "libGL.so.1", "libEGL.so.1", "libgthread-2.0.so.0", "libusb-1.0.so.0")
# what is missing -> the packages that hold it in Debian and Ubuntu, where Debian's rule for names does not tell
DEBIAN = {
    HEADERS: f"g++ {VERSION}-dev",
    "libgthread-2.0.so.0": "libglib2.0-0",
    "libglib-2.0.so.0": "libglib2.0-0",
}


def debian(missing: str) -> str:
    """Packages for something missing: libEGL.so.1 is in libegl1, libX11.so.6 in libx11-6 (Debian Policy, 8.1)."""
    if missing in DEBIAN:
        return DEBIAN[missing]
    name, _, version = missing.lower().partition(".so")
    return name + ("-" if name[-1].isdigit() else "") + version.strip(".").partition(".")[0]


def missing_library(modules: str) -> str | None:
    """The shared library that the import of `modules` misses; None where it loads, or fails for another reason."""
    present = [m for m in modules.split(", ") if find_spec(m.partition(".")[0])]
    if not present:
        return None
    code = f"import {', '.join(present)}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd="/", check=False)
    found = re.search(r"(lib[\w.+-]*\.so[.\d]*): cannot open shared object file", done.stderr)
    return found[1] if done.returncode and found else None


def loads(library: str) -> bool:
    """Whether the loader finds a shared library."""
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def missing_libraries(modules: str) -> list[str]:
    """What the import of `modules` misses, and, if anything, what it may miss next."""
    first = missing_library(modules)
    return list(dict.fromkeys([first, *(name for name in OFTEN if not loads(name))])) if first else []


def installer(packages: str) -> list[str]:
    """The command that installs Debian packages, for whoever runs this."""
    words = ["apt-get", "install", "-y", "--no-install-recommends", *packages.split()]
    return words if getattr(os, "geteuid", int)() == 0 else ["sudo", *words]


def install(packages: str) -> bool:
    """Whether the system's package manager installed them, without asking anybody."""
    command = installer(packages)
    if any(shutil.which(word) is None for word in {command[0], "apt-get"}):
        return False
    if command[0] == "sudo":
        command.insert(1, "--non-interactive")
    print(f"installing {packages} with apt-get", flush=True)
    quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "env": {**os.environ, **NO_QUESTIONS}}
    if subprocess.run(command, stderr=subprocess.DEVNULL, check=False, **quiet).returncode == 0:
        return True
    update = [*command[: command.index("apt-get") + 1], "update"]  # a machine that never fetched the lists
    return all(subprocess.run(c, check=False, **quiet).returncode == 0 for c in (update, command))


def sentence(left: dict[str, str]) -> str:
    """What is not possible, for want of what, and the one command that helps."""
    packages = " ".join(dict.fromkeys(" ".join(map(debian, left)).split()))
    known = shutil.which("apt-get")
    how = " ".join(installer(packages)) if known else f"install what Debian and Ubuntu have in {packages}"
    return f"{', '.join(dict.fromkeys(left.values()))}, for want of {', '.join(left)}: {how}"


def read(gaps: Path) -> dict[str, str]:
    """What is missing -> what it is needed for."""
    return json.loads(gaps.read_text()) if gaps.exists() else {}


def venv() -> int:
    """Make `python -m venv` possible; 1 where it is not."""
    package = f"{VERSION}-venv"
    if (find_spec("ensurepip") and find_spec("venv")) or install(package):
        return 0
    print(f"Python's venv module is missing: {' '.join(installer(package))}", file=sys.stderr)
    return 1


def compiler(gaps: Path) -> int:
    """Make it possible to build Python's extensions; 1, and a gap, where it is not."""
    header = Path(sysconfig.get_path("include")) / "Python.h"
    found = header.exists() and any(shutil.which(name) for name in ("c++", "g++", "clang++"))
    missing = not found and not install(DEBIAN[HEADERS])
    gaps.write_text(json.dumps({HEADERS: SCENES} if missing else {}))
    return int(missing)


def libraries(gaps: Path) -> int:
    """Load every probe, install what it misses, and add to `gaps` what is still missing."""
    left = {missing: purpose for missing, purpose in read(gaps).items() if missing == HEADERS}
    for modules, purpose in PROBES.items():
        tried: set[str] = set()
        while (missing := missing_libraries(modules)) and not tried.issuperset(missing):
            tried.update(missing)
            if not install(" ".join(map(debian, missing))):
                break
        left |= dict.fromkeys(missing, purpose)
    gaps.write_text(json.dumps(left))
    if left:
        print(f"missing: {sentence(left)}", file=sys.stderr)
    return 0


def report(gaps: Path) -> int:
    """Name what could not be checked, with the remedy; 1 where there is something and CI=true."""
    left = read(gaps)
    if left:
        print(f"NOT CHECKED: {sentence(left)}", file=sys.stderr)
    return int(bool(left) and os.environ.get("CI") == "true")


def main(words: Sequence[str]) -> int:
    match words:
        case ["venv"]:
            return venv()
        case ["compiler", gaps]:
            return compiler(Path(gaps))
        case ["libraries", gaps]:
            return libraries(Path(gaps))
        case ["report", gaps]:
            return report(Path(gaps))
    print(__doc__, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
