"""Tokens are given out once, kept as hashes, and taken back while a server runs."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mcp_hybrid_search import token_file, tokens
from mcp_hybrid_search.commands import app
from mcp_hybrid_search.credentials import Credential
from mcp_hybrid_search.errors import ConflictError, InvalidInputError, NotFoundError
from mcp_hybrid_search.tokens import Tokens, digest

POSIX = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no modes")
ENTRY = '[[tokens]]\nname = "a"\nsha256 = "{}"\nscope = "read"\n'.format("0" * 64)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "tokens.toml"


Written = Callable[[str], Path]


@pytest.fixture
def written(file: Path) -> Written:
    """Write the file, private to its owner."""

    def write(text: str) -> Path:
        file.touch(0o600)
        file.write_text(text)
        return file

    return write


@pytest.fixture
def _looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "LOOK_SECONDS", 0.0)


def test_a_token_that_was_made_is_found_with_its_rights(file: Path) -> None:
    made = token_file.create(file, "ci", scope="read", namespace="team")
    found = Tokens(file).find(made)
    assert found is not None
    assert (found.name, found.writes, found.namespace) == ("ci", False, "team")
    assert Tokens(file).find(made + "x") is None
    assert Tokens(file).find("") is None


def test_a_token_is_random_and_only_its_hash_is_kept(file: Path) -> None:
    made = {token_file.create(file, f"t{i}", scope="write") for i in range(20)}
    text = file.read_text()
    assert len(made) == 20
    for token in made:
        assert token.startswith("hs_")
        assert len(token) == 46
        assert token not in text
        assert digest(token) in text


@POSIX
def test_the_file_is_for_its_owner_only(file: Path) -> None:
    token_file.create(file, "a", scope="read")
    assert {p.stat().st_mode & 0o777 for p in file.parent.iterdir()} == {0o600}


def test_a_second_token_keeps_what_is_written(written: Written) -> None:
    text = f"# Mine.\n{ENTRY}# The end.\n"
    path = written(text)
    token_file.create(path, "b", scope="write")
    assert path.read_text().startswith(text)
    assert [each.credential.name for each in tokens.read(path)] == ["a", "b"]


def test_a_name_is_given_once(file: Path) -> None:
    token_file.create(file, "a", scope="read")
    before = file.read_text()
    with pytest.raises(ConflictError, match="'a'"):
        token_file.create(file, "a", scope="read")
    assert file.read_text() == before


@pytest.mark.parametrize("name", ["", "a b", 'a"\nscope = "write', "../a", "ä"])
def test_a_name_cannot_be_more_than_a_name(file: Path, name: str) -> None:
    with pytest.raises(InvalidInputError):
        token_file.create(file, name, scope="read")
    assert not file.exists()


def test_a_revoked_token_is_gone_and_comments_stay(written: Written) -> None:
    path = written("# Head.\n")
    first = token_file.create(path, "a", scope="read")
    with path.open("a") as text:
        text.write("# About b.\n")
    second = token_file.create(path, "b", scope="read")
    token_file.revoke(path, "a")
    assert Tokens(path).find(first) is None
    assert Tokens(path).find(second) is not None
    assert path.read_text().count("# Head.") == 1
    assert "# About b.\n\n[[tokens]]" in path.read_text()
    token_file.revoke(path, "b")
    assert tokens.read(path) == []


def test_who_is_not_there_cannot_be_revoked(file: Path) -> None:
    token_file.create(file, "a", scope="read")
    with pytest.raises(NotFoundError, match="Tokens: a"):
        token_file.revoke(file, "b")


def test_what_is_written_in_another_way_is_left_to_its_writer(
    written: Written,
) -> None:
    sha256 = "0" * 64
    text = f'tokens = [{{name = "a", sha256 = "{sha256}", scope = "read"}}]\n'
    path = written(text)
    with pytest.raises(ConflictError, match="by hand"):
        token_file.revoke(path, "a")
    assert path.read_text() == text


@pytest.mark.usefixtures("_looked_at_once")
def test_a_running_server_takes_up_what_changes(file: Path) -> None:
    first = token_file.create(file, "a", scope="read")
    known = Tokens(file)
    credential = known.find(first)
    assert credential is not None
    second = token_file.create(file, "b", scope="read")
    assert known.find(second) is not None
    token_file.revoke(file, "a")
    assert known.find(first) is None
    assert not known.has(credential)


@pytest.mark.usefixtures("_looked_at_once")
def test_other_rights_are_another_credential(file: Path) -> None:
    token = token_file.create(file, "a", scope="write")
    known = Tokens(file)
    before = known.find(token)
    assert before is not None
    file.write_text(file.read_text().replace('"write"', '"read"'))
    after = known.find(token)
    assert after is not None
    assert not after.writes
    assert not known.has(before)
    assert before.access_token().subject != after.access_token().subject


@pytest.mark.usefixtures("_looked_at_once")
def test_a_broken_file_lets_nobody_in_until_it_is_mended(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    token = token_file.create(file, "a", scope="write")
    known = Tokens(file)
    good = file.read_text()
    file.write_text(good + "nonsense")
    for _ in range(3):
        with pytest.raises(InvalidInputError, match="log"):
            known.find(token)
    assert caplog.text.count("is not TOML") == 1
    file.write_text(good)
    assert known.find(token) is not None


@pytest.mark.usefixtures("_looked_at_once")
def test_a_file_that_is_gone_lets_nobody_in(file: Path) -> None:
    token = token_file.create(file, "a", scope="write")
    known = Tokens(file)
    file.unlink()
    with pytest.raises(InvalidInputError):
        known.find(token)


def test_an_expired_token_is_no_token(written: Written) -> None:
    made = "hs_" + "x" * 43
    text = ENTRY.replace("0" * 64, digest(made))
    assert Tokens(written(text + "expires = 2999-01-01T00:00:00Z\n")).find(made)
    assert not Tokens(written(text + "expires = 2020-01-01T00:00:00Z\n")).find(made)


def test_a_single_token_has_every_right(file: Path) -> None:
    listed = token_file.create(file, "a", scope="read")
    both = Tokens(file, "s" * 32)
    single, found = both.find("s" * 32), both.find(listed)
    assert single is not None
    assert found is not None
    assert (single.writes, found.writes) == (True, False)


def test_a_single_token_that_is_short_is_refused() -> None:
    with pytest.raises(InvalidInputError, match=r"_TOKEN has 31 characters; it needs"):
        Tokens(None, "s" * 31)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x", "not TOML"),
        ("x = 1", "nothing else"),
        ("tokens = 1", "nothing else"),
        ("tokens = [1]", "token 1: there are only the keys"),
        (ENTRY + "x = 1", "token 1: there are only the keys"),
        (ENTRY + "token = 'secret'", "token 1: there are only the keys"),
        (ENTRY.replace('"a"', '"a b"'), "token 1: name must be"),
        (ENTRY.replace('"a"', "1"), "token 1: name must be"),
        (ENTRY.replace("0" * 64, "0" * 63), r"token 1 \(a\): sha256 must be"),
        (ENTRY.replace("0" * 64, "G" * 64), r"token 1 \(a\): sha256 must be"),
        (ENTRY.replace("read", "admin"), r"token 1 \(a\): scope must be"),
        (ENTRY + 'namespace = "../x"', r"token 1 \(a\): namespace must be"),
        (ENTRY + "namespace = 1", r"token 1 \(a\): namespace must be"),
        (ENTRY + "expires = 2030-01-01", r"token 1 \(a\): expires must be"),
        (ENTRY + "expires = 2030-01-01T00:00:00", r"token 1 \(a\): expires must be"),
        (ENTRY + "expires = '2030'", r"token 1 \(a\): expires must be"),
        (ENTRY * 2, "token 2: another one has the same name"),
        (ENTRY + ENTRY.replace('"a"', '"b"'), "token 2: another one has the same sha"),
    ],
)
def test_a_mistake_in_the_file_names_the_entry(
    written: Written, text: str, message: str
) -> None:
    with pytest.raises(InvalidInputError, match=message):
        Tokens(written(text))


def test_a_file_that_is_missing_is_named(file: Path) -> None:
    with pytest.raises(
        InvalidInputError, match=r"tokens\.toml cannot be read: No such"
    ):
        Tokens(file)


@POSIX
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_a_file_that_others_can_read_is_refused(written: Written, mode: int) -> None:
    path = written(ENTRY)
    path.chmod(mode)
    with pytest.raises(InvalidInputError, match="chmod 600"):
        Tokens(path)


@POSIX
def test_a_file_behind_a_link_is_refused(written: Written, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(written(ENTRY))
    with pytest.raises(InvalidInputError, match="symbolic link"):
        Tokens(link)


@POSIX
def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    with pytest.raises(InvalidInputError, match="not a file"):
        Tokens(tmp_path / "pipe")
    with pytest.raises(InvalidInputError, match="cannot be read"):
        Tokens(tmp_path)


@POSIX
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_file_of_another_user_is_refused(written: Written) -> None:
    path = written(ENTRY)
    os.chown(path, 12_345, -1)
    with pytest.raises(InvalidInputError, match="belongs to another user"):
        Tokens(path)


def test_what_the_sdk_gets_holds_no_token_and_tells_owners_apart() -> None:
    plain = Credential("a", writes=True, subject="s")
    others = [
        Credential("a", writes=False, subject="s"),
        Credential("a", writes=True, namespace="n", subject="s"),
        Credential("a", writes=True, subject="t"),
    ]
    subjects = {each.access_token().subject for each in [plain, *others]}
    assert len(subjects) == 4
    assert plain.access_token().token == ""
    assert others[0].access_token().scopes == ["read"]
    assert others[1].access_token().claims == {"namespace": "n"}


def run(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["token", *arguments])
    return result.exit_code, result.stdout, result.stderr


def test_the_commands_make_list_and_revoke(file: Path) -> None:
    at = ("--file", str(file))
    code, out, err = run("create", "ci", "--scope", "read", "--namespace", "team", *at)
    token = out.strip()
    assert code == 0
    assert f"HYBRID_SEARCH_TOKENS_FILE={file}" in err
    assert token not in err
    assert Tokens(file).find(token) is not None
    run("create", "late", "--expires-days", "1", *at)
    code, out, _ = run("list", *at)
    assert out.startswith("ci: read, team, expires never\nlate: write, every namespace")
    assert '"namespace": "team"' in run("list", "--json", *at)[1]
    assert run("revoke", "ci", *at)[:2] == (0, "revoked: ci\n")
    assert Tokens(file).find(token) is None
    code, _, err = run("revoke", "ci", *at)
    assert (code, err) == (
        1,
        "mcp-hybrid-search: There is no token named 'ci'. Tokens: late.\n",
    )
