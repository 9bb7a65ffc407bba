"""`smoothscore dashboard` saves one page in the right project, and asks no server before its input is known good."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import wandb
from wandb_workspaces.reports.v2 import interface
from wandb_workspaces.workspaces import internal

from smoothscore.cli import main
from smoothscore.report.dashboard import GROUPS


class Server:
    """The boundary of the library: what it knows of an account, and what would be sent."""

    def __init__(self):
        self.asked = 0
        self.sent = []
        self.error = None
        self.default_entity = "me"

    def api(self):
        self.asked += 1
        return SimpleNamespace(
            default_entity=self.default_entity,
            projects=lambda entity: [SimpleNamespace(name=name) for name in ("other", f"of-{entity}")],
            client=SimpleNamespace(app_url="https://wandb.test"),
        )

    def execute(self, api, query, variables):
        assert "mutation" in query
        self.sent.append(variables)
        if self.error:
            raise self.error
        view = {"id": "id", "name": "nw-name-v", "displayName": "", "description": "", "spec": variables["spec"]}
        project = {"id": "1", "name": variables["projectName"], "entityName": variables["entityName"]}
        return {"upsertView": {"view": view | {"project": project}}}


@pytest.fixture
def server(monkeypatch):
    server = Server()
    monkeypatch.setattr(wandb, "Api", server.api)
    for module in (interface, internal):
        monkeypatch.setattr(module, "execute_graphql", server.execute)
    return server


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("options", "entity", "kind", "url"),
    [
        ([], "me", "runs", "https://wandb.test/me/of-me/reports/smoothscore--id"),
        (["--entity", "team", "--title", "All"], "team", "runs", "https://wandb.test/team/of-team/reports/All--id"),
        (["--kind", "view"], "me", "project-view", "https://wandb.test/me/of-me?nw=name"),
        (["--kind=view", "--entity=team"], "team", "project-view", "https://wandb.test/team/of-team?nw=name"),
    ],
)
def test_one_page_is_saved_in_the_project_of_the_entity(server, capsys, options, entity, kind, url):
    main(["dashboard", "--project", f"of-{entity}", *options])
    (sent,) = server.sent
    assert (sent["entityName"], sent["projectName"], sent["type"]) == (entity, f"of-{entity}", kind)
    assert sent.get("id") is None  # a new page, and no other one replaced
    assert all(group.title in sent["spec"] for group in GROUPS)
    assert capsys.readouterr().out.strip() == url


@pytest.mark.parametrize("kind", ["report", "view"])
def test_a_file_is_written_without_a_server(server, capsys, kind):
    main(["dashboard", "--project", "p", "--group", "σ", "--kind", kind, "--out", "new/dashboard.json"])
    assert server.asked == 0
    assert capsys.readouterr().out.strip() == "new/dashboard.json"
    content = json.loads(Path("new/dashboard.json").read_text())
    assert content["displayName"] == "smoothscore, σ"
    assert "σ" in Path("new/dashboard.json").read_text()


LONG = "x" * 129


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--project", ""], "--project is empty"),
        (["--project", "  "], "--project is empty"),
        (["--project", "me/p"], "--entity ENTITY --project PROJECT"),
        (["--project", LONG], "exceeded 128 characters"),
        (["--project", "p", "--group", ""], "--group is empty"),
        (["--project", "p", "--entity", "me/p"], "one user or team"),
        (["--project", "p", "--title", LONG], "at most 128"),
        (["--project", "p", "--group", LONG], "give a --title"),
        (["--project", "p", "--kind", "view", "--title", "a 🙂"], "without symbols"),
        (["--project", "p", "--out", "."], "is a folder"),
    ],
)
def test_bad_input_is_refused_before_a_server_is_asked(server, capsys, options, message):
    with pytest.raises(SystemExit) as stopped:
        main(["dashboard", *options])
    assert stopped.value.code == 1
    assert message in capsys.readouterr().err
    assert server.asked == 0


def test_a_misspelt_project_is_not_made(server, capsys):
    with pytest.raises(SystemExit):
        main(["dashboard", "--project", "of-mee"])
    assert "There is no W&B project me/of-mee" in capsys.readouterr().err
    assert not server.sent


def test_an_account_without_entity_has_to_name_one(server, capsys):
    server.default_entity = None
    with pytest.raises(SystemExit):
        main(["dashboard", "--project", "of-me"])
    assert "with --entity" in capsys.readouterr().err
    assert not server.sent


def test_a_refusal_is_passed_on(server, capsys):
    server.error = wandb.errors.CommError("permission denied")
    with pytest.raises(SystemExit):
        main(["dashboard", "--project", "of-me"])
    assert "W&B could not save the page: permission denied" in capsys.readouterr().err


@pytest.mark.parametrize("package", ["wandb", "wandb_workspaces.reports.v2"])
def test_a_missing_package_is_named(server, monkeypatch, capsys, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(SystemExit):
        main(["dashboard", "--project", "p", "--out", "d.json"])
    said = capsys.readouterr().err
    assert f"needs {package.split('.')[0].replace('_', '-')} (" in said
    assert "pip install 'smoothscore[wandb]'" in said


def test_without_a_login_the_error_says_how(tmp_path):
    clean = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    done = subprocess.run(
        [Path(sys.executable).with_name("smoothscore"), "dashboard", "--project", "p"],
        env=clean | {"HOME": str(tmp_path), "NETRC": str(tmp_path / "netrc")},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1
    assert "wandb login" in done.stderr
    assert "Traceback" not in done.stderr
