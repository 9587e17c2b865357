"""Find what the installed Python packages miss from the system, and install it where that can be done.

    python scripts/system_packages.py venv                  # what `python -m venv` needs
    python scripts/system_packages.py libraries GAPS        # load what needs system libraries; write what stays missing
    python scripts/system_packages.py report GAPS           # say what could not run for that; fails where CI=true

Nothing is guessed from a list of systems: each package is imported in a process of its own, and the library that the
loader names is looked up in DEBIAN. As root, or where sudo asks for no password, apt-get installs it; else the one
command that does is printed. Only the standard library is used, so that this runs before anything is installed.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

# what is imported -> what it is needed for
PROBES = {
    "resvg_py, lxml.etree": "editing SVGs",
    # the first two load most of the system's libraries: a gap shows at once
    "cv2, open3d, nerfstudio.engine.trainer, nerfstudio.scripts.exporter": "editing scenes in nerfstudio",
}
# library -> the package that holds it in Debian and Ubuntu
DEBIAN = {
    "libusb-1.0.so.0": "libusb-1.0-0",
    "libGL.so.1": "libgl1",
    "libEGL.so.1": "libegl1",
    "libgthread-2.0.so.0": "libglib2.0-0",
    "libglib-2.0.so.0": "libglib2.0-0",
    "libgomp.so.1": "libgomp1",
    "libX11.so.6": "libx11-6",
    "libXext.so.6": "libxext6",
    "libSM.so.6": "libsm6",
    "libICE.so.6": "libice6",
    "libXrender.so.1": "libxrender1",
    "libatomic.so.1": "libatomic1",
    "libstdc++.so.6": "libstdc++6",
}


def missing_library(modules: str) -> str | None:
    """The shared library that the import of `modules` misses; None where it loads, or fails for another reason."""
    present = [m for m in modules.split(", ") if find_spec(m.partition(".")[0])]
    if not present:
        return None
    code = f"import {', '.join(present)}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd="/", check=False)
    found = re.search(r"(lib[\w.+-]*\.so[.\d]*): cannot open shared object file", done.stderr)
    return found[1] if done.returncode and found else None


def installer(packages: Sequence[str]) -> list[str]:
    """The command that installs Debian packages, for whoever runs this."""
    words = ["apt-get", "install", "-y", "--no-install-recommends", *packages]
    return words if getattr(os, "geteuid", int)() == 0 else ["sudo", *words]


def install(packages: Sequence[str]) -> bool:
    """Whether the system's package manager installed them, without asking anybody."""
    if shutil.which("apt-get") is None:
        return False
    command = installer(packages)
    if command[0] == "sudo":
        if shutil.which("sudo") is None:
            return False
        command.insert(1, "--non-interactive")
    print(f"installing {' '.join(packages)} with apt-get", flush=True)
    quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "env": {**os.environ, **NO_QUESTIONS}}
    if subprocess.run(command, stderr=subprocess.DEVNULL, check=False, **quiet).returncode == 0:
        return True
    update = [*command[: command.index("apt-get") + 1], "update"]  # a machine that never fetched the lists
    return all(subprocess.run(c, check=False, **quiet).returncode == 0 for c in (update, command))


NO_QUESTIONS = {"DEBIAN_FRONTEND": "noninteractive"}


def remedy(packages: Sequence[str]) -> str:
    """One command to type."""
    return " ".join(installer(packages))


def libraries(gaps: Path) -> int:
    """Load every probe, install what it misses, and write to `gaps` what is still missing: library -> what it serves.

    Where an earlier call found nothing missing, nothing is loaded again.
    """
    if gaps.exists() and not json.loads(gaps.read_text()):
        return 0
    left: dict[str, str] = {}
    for modules, purpose in PROBES.items():
        tried: set[str] = set()
        while (library := missing_library(modules)) and library not in tried:
            tried.add(library)
            if library not in DEBIAN or not install([DEBIAN[library]]):
                break
        if library:
            left[library] = purpose
    gaps.write_text(json.dumps(left))
    return report(gaps, final=False)


def report(gaps: Path, final: bool = True) -> int:
    """Name every gap with its remedy; with `final`, 1 where there is one and CI=true."""
    left: dict[str, str] = json.loads(gaps.read_text()) if gaps.exists() else {}
    for library, purpose in left.items():
        how = remedy([DEBIAN[library]]) if library in DEBIAN else "install the package of your system that holds it"
        print(f"{'NOT RUN' if final else 'missing'}: {purpose} needs {library}: {how}", file=sys.stderr)
    return int(final and bool(left) and os.environ.get("CI") == "true")


def venv() -> int:
    """Make `python -m venv` possible; 1 where it is not."""
    if find_spec("ensurepip") and find_spec("venv"):
        return 0
    package = f"python{sys.version_info.major}.{sys.version_info.minor}-venv"
    if install([package]):
        return 0
    print(f"Python's venv module is missing: {remedy([package])}", file=sys.stderr)
    return 1


def main(words: Sequence[str]) -> int:
    match words:
        case ["venv"]:
            return venv()
        case ["libraries", gaps]:
            return libraries(Path(gaps))
        case ["report", gaps]:
            return report(Path(gaps))
    print(__doc__, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
