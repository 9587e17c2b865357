"""Edit the selection by prompt: `cpds svg --only` on the document, whose result takes the document's place.

Inkscape's Python runs this, which has neither torch nor cpds: cpds is another program, with an environment of its own.
"""

import os
import shlex
import shutil
import signal
import subprocess
import sys
from argparse import ArgumentParser
from itertools import takewhile
from pathlib import Path
from tempfile import TemporaryDirectory

import inkex

ERROR = "cpds: error: "


class EditByPrompt(inkex.EffectExtension):
    """The document with the selection edited; where that fails, a sentence, and the document as it was."""

    def add_arguments(self, pars: ArgumentParser) -> None:
        for name in ("prompt", "target_prompt", "preset", "prior", "command", "options"):
            pars.add_argument(f"--{name}", default="")
        pars.add_argument("--guidance_scale", type=float, default=0.0)
        pars.add_argument("--steps", type=int, default=0)
        pars.add_argument("--seed", type=int, default=0)

    def effect(self) -> None:
        ids = [element.get_id() for element in self.svg.selection]
        if not ids:
            raise inkex.AbortExtension("Nothing is selected: select what may change.")
        with TemporaryDirectory(prefix="cpds-") as folder:
            source, run = Path(folder, "drawing.svg"), Path(folder, "run")
            self.document.write(str(source))
            only = ["--only", *(f"#{name}" for name in ids)]
            call([found(self.options.command), "svg", *only, *self.flags(svg_path=source, save_path=run)])
            try:
                self.document = inkex.load_svg((run / "result.svg").read_bytes())
            except OSError as err:
                raise inkex.AbortExtension("cpds made no result: take out what stops it from More options.") from err

    def flags(self, **paths: Path) -> list[str]:
        """What the fields say; nothing of what they leave to the preset or to cpds."""
        options = self.options
        prompts = {"prompt": options.prompt, "target_prompt": options.target_prompt, "svg_every": 0}
        others = {"preset": options.preset, "prior": options.prior, "seed": options.seed}
        others |= {"guidance_scale": options.guidance_scale, "num_inference_steps": options.steps}
        given = paths | prompts | {name: value for name, value in others.items() if value}
        try:
            return [*(f"--{name}={value}" for name, value in given.items()), *shlex.split(options.options)]
        except ValueError as err:
            raise inkex.AbortExtension(f"More options cannot be read ({err}): close the quotation.") from err


def found(command: str) -> str:
    """The program's path. AbortExtension where there is none."""
    path = shutil.which(os.path.expanduser(command.strip() or "cpds"))
    if path is None:
        raise inkex.AbortExtension(
            f"The command {command!r} is not found: install cpds, or give the full path of its command in Command."
        )
    return path


def call(words: list[str]) -> None:
    """Run cpds to its end, and end it where this is ended. AbortExtension, with its own sentence, where it fails."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # subprocess.run then kills what it runs
    # Inkscape's settings for its own Python are none for another
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    window = getattr(subprocess, "CREATE_NO_WINDOW", 0)  # of a terminal, on Windows
    try:
        done = subprocess.run(
            words,
            env=environment | {"PYTHONUTF8": "1"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            creationflags=window,
        )
    except OSError as err:
        raise inkex.AbortExtension(f"{words[0]} cannot be run ({err.strerror}): give the path of cpds.") from err
    if done.returncode:
        said = sentence(done.stderr.decode("utf-8", "replace").splitlines())
        raise inkex.AbortExtension(said or f"cpds ended with exit code {done.returncode} and said nothing.")


def sentence(lines: list[str]) -> str:
    """What a failed command says last: its error, or the text in the box that its parser draws around one."""
    for line in lines:
        if line.startswith(ERROR):
            return line.removeprefix(ERROR)
    boxed = [line.strip("│ ") for line in lines if line.startswith("│")]
    return " ".join(takewhile(lambda line: set(line) != {"─"}, boxed)) or (lines[-1] if lines else "")


if __name__ == "__main__":
    EditByPrompt().run()
