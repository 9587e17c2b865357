"""`cpds demo` before it serves: what cannot be is one sentence and exit code 2, and --help needs no Gradio."""

import importlib.util
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cpds.apps.cli.main import main
from cpds.apps.web.server import LOOPBACK, listening, names_of, url_of
from cpds.errors import InputError

Sentence = Callable[[], str]


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if Gradio were there: nothing of it is reached."""
    found = importlib.util.find_spec
    monkeypatch.setattr("cpds.apps.web.server.find_spec", lambda name: name == "gradio" or found(name))


def test_without_gradio_the_remedy_is_named(
    monkeypatch: pytest.MonkeyPatch, sentence: Sentence, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("cpds.apps.web.server.find_spec", lambda name: None)
    assert main(["demo"]) == 2
    assert "pip install -e '.[web]'" in sentence()
    assert not any(tmp_path.iterdir())


@pytest.mark.usefixtures("installed")
def test_a_port_that_is_taken(sentence: Sentence, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["demo", "--port", str(port), "--save_path", str(tmp_path)]) == 2
    assert f"port {port} of 127.0.0.1 is taken: choose another port" in sentence()


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--port", "70000"], "port must be in 0 ... 65535, got 70000"),
        (["--host", "no such host"], "host 'no such host' is no address"),
        (["--host", "192.0.2.1"], "192.0.2.1 port 7860 cannot be listened at"),  # of documentation, no machine's
        (["--max_upload", "0"], "max_upload must be > 0 and finite, got 0"),
    ],
)
def test_bad_addresses_and_limits(sentence: Sentence, tmp_path: Path, words: list[str], told: str) -> None:
    assert main(["demo", "--save_path", str(tmp_path), *words]) == 2
    assert told in sentence()


@pytest.mark.usefixtures("installed")
def test_a_folder_that_cannot_be_written(sentence: Sentence, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert main(["demo", "--save_path", str(tmp_path / "file")]) == 2
    assert "cannot be written" in sentence()


def test_any_free_port_and_what_the_page_is_called() -> None:
    with listening("127.0.0.1", 0) as waiting:
        assert url_of(waiting, "127.0.0.1") == f"http://127.0.0.1:{waiting.getsockname()[1]}"
        with pytest.raises(InputError, match="is taken"):
            listening("127.0.0.1", waiting.getsockname()[1])
    assert names_of("127.0.0.1") == names_of("::1") == LOOPBACK
    assert names_of("0.0.0.0") == ()


def test_help_comes_without_gradio() -> None:
    code = (
        "import sys\nfrom cpds.apps.cli.main import main\n"
        "main(['demo', '--help'])\nprint('heavy', [m for m in ('torch', 'gradio', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=True)
    assert done.stdout.rstrip().endswith("heavy []")
    assert "share" not in done.stdout
