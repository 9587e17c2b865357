"""`cpds demo`: edits in a browser. Nothing heavy is imported before it runs."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cpds.apps.cli.args import EMBEDDED_NOTE, ChosenPrior, part
from cpds.apps.cli.workers import places
from cpds.apps.web.limits import Limits
from cpds.terminal import print_loading, print_status, warn

if TYPE_CHECKING:
    from cpds.apps.web.desk import Desk


@dataclass(frozen=True, kw_only=True)
class DemoArgs(ChosenPrior, Limits):
    """Edit in a browser: images, SVGs and splat scenes, each visitor's own.

    Ctrl-C ends it; edits that run are saved and can be gone on with."""

    port: int = 7860
    """Port of the page; 0: any free one."""
    host: str = "127.0.0.1"
    """Address to listen at: 127.0.0.1 is this machine alone, 0.0.0.0 all that can reach it. There are no passwords."""
    devices: tuple[str, ...] = ()
    """Where edits are computed, one at a time on each: cpu, cuda:0, cuda:1, mps. Default: every CUDA device, else the
    one there is."""
    save_path: Path = Path("runs/demo")
    """Folder for visitors' runs."""


def run_demo(args: DemoArgs) -> int:
    """Serve the page until it is stopped."""
    from cpds.apps.web.server import data_folder, listening, names_of, require_installed, serve

    limits = part(Limits, args)
    require_installed()
    folder = data_folder(args.save_path)
    with listening(args.host, args.port) as waiting:
        print_loading()
        if args.prior is None:
            print_status(EMBEDDED_NOTE)
        if not names_of(args.host):
            warn(f"{args.host} can be reached from other machines, and the page asks for no password")
        serve(lambda: desk_of(args, limits, folder, args.devices), waiting, args.host)
    return 0


def desk_of(args: ChosenPrior, limits: Limits, folder: Path, devices: Sequence[str] = ()) -> "Desk":
    """The desk of a page, its priors loaded. InputError where one cannot be."""
    from cpds.apps.web.desk import Desk
    from cpds.apps.web.edits import edit_job
    from cpds.apps.web.visitors import Visitors
    from cpds.apps.web.workers import Workers
    from cpds.priors.load import load_prior
    from cpds.threads import choose_threads

    def load(device: str) -> Any:
        prior = load_prior(args.prior, device=device, options=args.prior_options)
        choose_threads(prior)
        return prior

    visitors = Visitors(folder, limits.keep_hours)
    visitors.forget_uploads()
    visitors.remove_old()
    workers = Workers(places(devices, None), load, edit_job, limits)
    workers.start()
    return Desk(workers, visitors, limits, args.prior, args.prior_options)
