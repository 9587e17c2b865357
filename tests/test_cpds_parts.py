"""Parts of one's own, by import path."""

from pathlib import Path

import pytest

from cpds.errors import InputError
from cpds.parts import imported


@pytest.mark.parametrize("fault", ["undefined", "1 / 0", "def"])
def test_a_module_that_fails_is_told_in_a_sentence(fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_part.py").write_text(fault)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError, match=r"method broken_part:thing cannot be imported \(.+\): correct it"):
        imported("broken_part:thing", "method")
