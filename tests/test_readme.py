"""The README is true: its code runs, its settings are all there are."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import backtest_kit_mongo as bk
from backtest_kit_mongo.embedded import Endpoints
from backtest_kit_mongo.settings import Settings

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")
CODE = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
"""A strategy, and the use of the adapters."""


def settings_rows() -> str:
    """The table of settings, from the settings themselves."""
    rows = []
    for name, field in Settings.model_fields.items():
        default = field.default_factory() if field.default_factory else field.get_default()  # type: ignore[call-arg]
        if hasattr(default, "get_secret_value"):
            default = default.get_secret_value()
        if isinstance(default, frozenset):
            default = ",".join(sorted(default))
        shown = (
            {None: "", "": "empty", (): "empty"}.get(default, f"`{default}`")
            if not isinstance(default, Path)
            else "user data directory"
        )
        rows.append(f"| `CC_{name.upper()}` | {shown} | {field.description} |")
    return "\n".join(rows)


def test_the_table_of_settings_is_complete() -> None:
    missing = [row for row in settings_rows().splitlines() if row not in README]
    assert not missing, "\n".join(missing)


def test_the_strategy_runs(tmp_path: Path) -> None:
    (tmp_path / "ema.py").write_text(CODE[0])
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    arguments = ["run", "ema.py", "--backtest", "--symbol", "BTCUSDT", "--report", "ema.html"]
    main = "from backtest_kit_mongo.cli.main import main; main()"
    found = subprocess.run(
        [sys.executable, "-c", main, *arguments], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert re.search(r"trades +1\b", found.stdout), found.stdout + found.stderr
    assert "crossed" in (tmp_path / "ema.html").read_text("utf-8")


@pytest.mark.live
def test_the_code_runs(servers: Endpoints, new_database: Callable[[], str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC_MONGO_CONNECTION_STRING", servers.mongo_connection_string(f"{new_database()}_readme"))
    monkeypatch.setenv("CC_REDIS_HOST", servers.redis_host)
    monkeypatch.setenv("CC_REDIS_PORT", str(servers.redis_port))
    _, code = CODE
    found: dict[str, object] = {}
    try:
        exec(code, found)
        assert found["signal"] == found["row"]
        assert found["early"] is None
    finally:
        bk.shutdown()


def test_its_two_commands_install_what_ci_was_green_with_and_ci_takes_them_from_here() -> None:
    commands = re.findall(r"^pip install .*$", README, re.MULTILINE)
    assert [command.split(" && ")[1] for command in commands] == ["bkm demo", "pytest"]
    assert all(command.startswith("pip install -c ops/constraints.txt '.[") for command in commands)
    ci = (Path(__file__).parent.parent / ".ci" / "run").read_text("utf-8")
    assert 'eval "$test_it"' in ci
    assert 'eval "$run_it"' in ci
    assert "constraints.txt" not in ci


def test_the_readme_names_every_adapter_family_that_exists() -> None:
    for name in re.findall(r"`(Persist\w+Adapter)`", README):
        assert name in bk.__all__
