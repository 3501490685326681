"""The Dockerfile and compose.yaml, read as Docker reads them.

`make image-steps` takes the steps; here nothing needs a network.
"""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command

from mcp_hybrid_search.commands import app
from mcp_hybrid_search.errors import InvalidInputError
from mcp_hybrid_search.http_listening import check_exposure
from mcp_hybrid_search.settings import PREFIX, Settings, load_settings, settings_from
from tests.image import Instruction, dockerfile, instructions
from tests.packages import ROOT

STEPS = dockerfile()
IMAGE = {step.word: step for step in STEPS if step.stage == 1}
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text("utf-8"))
SERVER = COMPOSE["services"]["server"]
VARIABLES = {PREFIX + name.upper() for name in Settings.model_fields}


def test_a_line_that_goes_on_is_one_instruction() -> None:
    text = '# FROM x\nFROM a AS b\n\nRUN one \\\n    && two\nFROM c\nCMD ["d"]\n'
    assert instructions(text) == [
        Instruction(0, "FROM", "a AS b"),
        Instruction(0, "RUN", "one && two"),
        Instruction(1, "FROM", "c"),
        Instruction(1, "CMD", '["d"]'),
    ]
    assert instructions(text)[-1].listed == ["d"]


@pytest.mark.parametrize("file", ["Dockerfile", "compose.yaml"])
def test_every_variable_that_is_named_is_a_setting(file: str) -> None:
    text = (ROOT / file).read_text(encoding="utf-8")
    named = set(re.findall(rf"{PREFIX}[A-Z_]+", text))
    assert named
    assert named <= VARIABLES


def test_the_image_is_slim_and_of_a_python_that_is_tested() -> None:
    bases = [step.rest.split()[0] for step in STEPS if step.word == "FROM"]
    assert len(bases) == 2
    for base in bases:
        version = re.fullmatch(r"python:3\.(\d+)-slim", base)
        assert version is not None
        assert 10 <= int(version[1]) <= 13
    # The environment is copied from one to the other.
    assert len(set(bases)) == 1


def test_the_server_is_nobody_special_and_writes_only_its_data() -> None:
    user = IMAGE["USER"].rest
    assert user not in {"root", "0"}
    added = IMAGE["RUN"].rest
    assert re.search(rf"useradd --system --uid [1-9]\d+ .* {user} ", added)
    assert f"install --directory --owner {user} --group {user} --mode 0700" in added
    words = [step.word for step in STEPS if step.stage == 1]
    assert words.index("USER") > words.index("RUN")
    data = IMAGE["VOLUME"].rest
    assert added.endswith(data)
    assert f"{PREFIX}DATA_DIR={data}" in IMAGE["ENV"].rest
    assert SERVER["volumes"] == [f"memory:{data}"]
    assert SERVER["read_only"] is True
    assert SERVER["cap_drop"] == ["ALL"]


def test_the_settings_of_the_image_fit() -> None:
    values = dict(re.findall(rf"({PREFIX}\w+)=(\S+)", IMAGE["ENV"].rest))
    settings = settings_from(values)
    assert settings.offline
    assert settings.data_dir == Path("/data")
    assert settings.models == "bundled"


def test_the_image_is_built_from_what_is_here_and_a_package_index() -> None:
    assert "ADD" not in {step.word for step in STEPS}
    assert not [step for step in STEPS if step.word == "RUN" and "://" in step.rest]
    (download,) = [step.rest for step in STEPS if "pip download" in step.rest]
    assert "--require-hashes" in download
    assert "--only-binary :all:" in download
    others = [
        step.rest
        for step in STEPS
        if " pip " in step.rest and "pip download" not in step.rest
    ]
    assert len(others) == 3
    assert all("--no-index" in step for step in others)


def test_what_is_copied_is_there_and_not_ignored() -> None:
    ignore = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    patterns = [line for line in ignore if line and not line.startswith("#")]
    assert patterns[0] == "*"
    copied = set()
    for step in STEPS:
        if step.word == "COPY" and not step.rest.startswith("--from=build "):
            copied |= set(step.rest.split()[:-1])
    assert copied == {line[1:] for line in patterns if line.startswith("!")}
    assert all((ROOT / name).exists() for name in copied)


def test_the_server_stops_cleanly_and_tells_how_it_is() -> None:
    assert IMAGE["STOPSIGNAL"].rest == "SIGTERM"
    health = IMAGE["HEALTHCHECK"].listed
    port = IMAGE["EXPOSE"].rest
    assert f"http://127.0.0.1:{port}/healthz" in health[-1]
    command = IMAGE["CMD"].listed
    assert command[command.index("--port") + 1] == port
    assert SERVER["ports"] == [f"127.0.0.1:{port}:{port}"]
    # Draining takes up to ten seconds.
    assert int(SERVER["stop_grace_period"].removesuffix("s")) > 10


def options(arguments: list[str]) -> dict[str, Any]:
    """Return what the command reads from its arguments, without doing it."""
    group: Any = get_command(app)
    context = group.make_context("mcp-hybrid-search", arguments)
    name, command, rest = group.resolve_command(context, arguments)
    found: dict[str, Any] = command.make_context(name, rest).params
    return found


def test_the_image_serves_http_to_everybody_who_has_a_token() -> None:
    found = options(IMAGE["CMD"].listed)
    assert (found["transport"], found["host"]) == ("http", "0.0.0.0")  # noqa: S104
    settings = load_settings(host=found["host"])
    with pytest.raises(InvalidInputError, match="callers need tokens"):
        check_exposure(settings)
    check_exposure(load_settings(host=found["host"], token="t" * 32))


def test_the_registry_names_arguments_that_the_command_takes() -> None:
    server = json.loads((ROOT / "server.json").read_text(encoding="utf-8"))
    (arguments,) = (
        package["packageArguments"]
        for package in server["packages"]
        if "packageArguments" in package
    )
    words = [
        word
        for argument in arguments
        for word in (argument.get("name"), argument["value"])
        if word is not None
    ]
    assert options(words)["transport"] == "streamable-http"


def test_whoever_starts_it_with_compose_must_choose_a_token() -> None:
    assert SERVER["environment"][f"{PREFIX}TOKEN"].startswith(f"${{{PREFIX}TOKEN:?")


def test_compose_runs_qdrant_if_there_is_a_setting_for_it() -> None:
    assert ("qdrant" in COMPOSE["services"]) == ("qdrant_url" in Settings.model_fields)
