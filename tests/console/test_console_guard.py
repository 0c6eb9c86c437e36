"""Who may ask, and what a form of another site can do: nothing."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pymongo.errors import OperationFailure
from typer.testing import CliRunner

from backtest_kit_console import actions
from backtest_kit_console.guard import Access, inside
from backtest_kit_mongo.cli.main import app
from backtest_kit_mongo.feed.opened import open_servers
from tests.console.conftest import TOKEN, Shown
from tests.console.support import ask


def test_nobody_without_the_token_is_shown_anything(shown: Shown) -> None:
    for address in ("/", "/positions", "/positions/live?since=x-1", "/nowhere", "/?token=another"):
        answer = ask(shown.guarded, address)
        assert (answer.status, "database" in answer.text) == (401, False), address
        assert 'name="token"' in answer.text
    assert ask(shown.guarded, "/static/console.css").status == 200
    assert ask(shown.guarded, "/login", form={"token": "another"}).status == 401
    assert ask(shown.guarded, "/letters/act", form={"act": "drop", "id": "audit/1-1", "why": "x"}).status == 401


def test_the_token_opens_a_session_and_leaves_the_address(shown: Shown) -> None:
    answer = ask(shown.guarded, f"/audit?domain=state&token={TOKEN.replace(' ', '%20')}")
    assert (answer.status, answer.headers["location"]) == (303, "/audit?domain=state")
    cookie = answer.headers["set-cookie"]
    assert {"HttpOnly", "SameSite=strict"} <= set(cookie.split("; "))
    assert ask(shown.guarded, "/", {"cookie": cookie.partition(";")[0]}).status == 200
    by_form = ask(shown.guarded, "/login", form={"token": TOKEN, "next": "//elsewhere.example"})
    assert (by_form.status, by_form.headers["location"]) == (303, "/elsewhere.example")
    assert TOKEN not in cookie + ask(shown.guarded, "/", {"cookie": cookie.partition(";")[0]}).text


def test_a_session_ends_and_cannot_be_made_up() -> None:
    access = Access(TOKEN)
    cookie = access.session(1_000.0)
    assert access.is_session(cookie, 1_001.0)
    assert not access.is_session(cookie, 1_000.0 + 13 * 3600)
    assert not access.is_session(cookie.replace("4", "9", 1), 1_001.0)
    assert not any(access.is_session(made, 1.0) for made in ("", ".", "9999999999.", "9999999999.\u00e9"))
    assert not Access("another token of letters").is_session(cookie, 1_001.0)
    assert TOKEN not in repr(access)


@pytest.mark.parametrize(
    ("host", "status"),
    [("localhost:8321", 200), ("127.0.0.1:8321", 200), ("[::1]:8321", 200), ("evil.example", 421), ("", 421)],
)
def test_a_name_that_somebody_points_here_is_refused(shown: Shown, host: str, status: int) -> None:
    assert ask(shown.app, "/static/console.css", {"host": host}).status == status


def test_a_path_stays_on_this_server() -> None:
    assert [inside(path) for path in ("//x.example", "/\\x.example", "/a?b=c", "https://x")] == [
        "/x.example", "/", "/a?b=c", "/https://x",
    ]  # fmt: skip


def _refused(_: object) -> None:
    raise OperationFailure("not authorized", 13)


def test_a_dead_letter_is_dropped_only_from_its_own_form_and_on_record(
    shown: Shown, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ask(shown.app, "/letters/act", form={"act": "drop"}).status == 404  # Without --allow-actions.
    cookie = Access(TOKEN).session(4e9)
    given = {"act": "drop", "id": "audit/2-2", "why": "nobody can read it"}
    mine = {"cookie": f"bkm-console={cookie}"}
    found = re.search(r'name="form" value="(\w+)"', ask(shown.guarded, "/letters/one?id=audit/2-2", mine).text)
    assert found is not None
    given["form"] = found[1]
    assert ask(shown.guarded, "/letters/act", mine, given | {"form": "0" * 64}).status == 403
    for header in ({"origin": "http://elsewhere.example"}, {"sec-fetch-site": "cross-site"}):
        assert ask(shown.guarded, "/letters/act", mine | header, given).status == 403
    assert ask(shown.guarded, "/letters/act", mine, given | {"why": " "}).status == 400
    with monkeypatch.context() as patch:
        patch.setattr(actions, "make_store", _refused)
        unrecorded = ask(shown.guarded, "/letters/act", mine, given)
    assert (unrecorded.status, "so nothing was done" in unrecorded.text) == (503, True)
    with open_servers(shown.settings) as servers:
        assert servers.parked.find("audit/2-2").state == "parked"
        done = ask(shown.guarded, "/letters/act", mine | {"origin": "http://localhost"}, given)
        assert (done.status, servers.parked.find("audit/2-2").state) == (303, "dropped")
        rows = list(servers.database["log-items"].find({}))
    assert [(row["payload"]["topic"], row["payload"]["args"][0]["why"]) for row in rows] == [
        ("console.drop", given["why"])
    ]
    assert ask(shown.guarded, "/letters/act", mine, given).status == 400


@pytest.mark.parametrize(("given", "said"), [("short", "can be guessed"), ("", "belong together")])
def test_a_server_that_would_be_unsafe_is_not_started(tmp_path: Path, given: str, said: str) -> None:
    file = tmp_path / "token"
    file.write_text(given or TOKEN)
    options = ["console", "--token-file", str(file), *(() if given else ("--tls-cert", "c.pem"))]
    done = CliRunner().invoke(app, options)
    assert (done.exit_code, said in " ".join(done.output.split())) == (2, True), done.output
