"""The server of the page: its address, its workers, and how it ends."""

import os
import socket
import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from cpds.apps.web.gate import LOOPBACK, Gate
from cpds.config import require
from cpds.errors import InputError, MissingExtra
from cpds.terminal import print_result


def require_installed() -> None:
    """MissingExtra where the page's library is not installed."""
    if find_spec("gradio") is None:
        raise MissingExtra("the page needs Gradio: pip install -e '.[web]'")


def listening(host: str, port: int) -> socket.socket:
    """A socket that waits at an address of this machine. InputError where that cannot be; port 0 is any free one."""
    require(0 <= port < 2**16, f"port must be in 0 ... 65535, got {port}")
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError) as err:
        raise InputError(f"host {host!r} is no address: write 127.0.0.1, or 0.0.0.0 for all of this machine") from err
    found = socket.socket(family, kind)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind(address)
        found.listen(128)
    except OSError as err:
        found.close()
        if err.errno in (98, 48, 10048):  # EADDRINUSE of Linux, macOS and Windows
            raise InputError(f"port {port} of {host} is taken: choose another port") from err
        raise InputError(f"{host} port {port} cannot be listened at ({err.strerror}): choose another") from err
    return found


def url_of(waiting: socket.socket, host: str) -> str:
    """Where a browser finds the page."""
    name = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    return f"http://{name}:{waiting.getsockname()[1]}"


def names_of(host: str) -> tuple[str, ...]:
    """What browsers may call the page; on loopback nothing else, so that no other site's name leads here."""
    own = f"[{host}]" if ":" in host else host
    return LOOPBACK if own in LOOPBACK else ()


def serve(make: Callable[[], Any], waiting: socket.socket, host: str) -> None:
    """Serve `make`'s desk until Ctrl-C or SIGTERM; its edits are stopped and saved then. Says where the page is."""
    from PIL import Image

    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    with tempfile.TemporaryDirectory(prefix="cpds-demo-") as cache:
        os.environ["GRADIO_TEMP_DIR"] = cache
        desk = make()
        Image.MAX_IMAGE_PIXELS = desk.limits.max_pixels  # of what a page sends beside its uploads, such as masks
        try:
            server = server_of(desk, host)
            print_result(f"CPDS is at {url_of(waiting, host)}, until Ctrl-C")
            server.run(sockets=[waiting])
        finally:
            desk.workers.close()


def server_of(desk: Any, host: str) -> Any:
    """uvicorn's server of a desk's page, behind the gate."""
    import uvicorn

    from cpds.apps.web.page import mounted

    gate = Gate(mounted(desk), desk.visitors, desk.limits, names_of(host))
    return uvicorn.Server(uvicorn.Config(gate, log_level="warning", timeout_graceful_shutdown=3))


def data_folder(given: Path | None) -> Path:
    """Where visitors' files are kept. InputError where nothing can be written."""
    folder = given or Path("runs/demo")
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as err:
        raise InputError(f"{folder} cannot be written ({err.strerror}): choose another folder") from err
    return folder
