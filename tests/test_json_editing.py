"""What an edit of a JSON text changes, and that it changes nothing else."""

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_hybrid_search.errors import ConflictError, InvalidInputError
from mcp_hybrid_search.json_editing import drop, put, value_at

PATH = ("servers", "ours")
ENTRY = {"command": "/bin/ours", "args": []}
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
)
TEXTS = st.text(max_size=8) | st.sampled_from(["//", "/*", ",}", '"', "\\"])
VALUES = st.recursive(
    SCALARS | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner),
    max_leaves=8,
)


def test_a_member_is_added_behind_the_last_one_in_its_indentation() -> None:
    before = '{\n    "servers": {\n        "a": {"x": 1}\n    },\n    "z": [1,2]\n}\n'
    assert put(before, PATH, ENTRY, comments=False) == (
        '{\n    "servers": {\n        "a": {"x": 1},\n        "ours": {\n'
        '            "command": "/bin/ours",\n            "args": []\n        }\n'
        '    },\n    "z": [1,2]\n}\n'
    )


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", '{\n  "a": 1\n}\n'),
        (" \n", ' \n{\n  "a": 1\n}\n'),
        ("{}", '{\n  "a": 1\n}'),
        ("{\r\n}\r\n", '{\r\n  "a": 1\r\n}\r\n'),
        ('{"b":2}', '{"b":2, "a": 1}'),
        ('{"b":2 }', '{"b":2, "a": 1 }'),
        ('{\n\t"b": 2\n}', '{\n\t"b": 2,\n\t"a": 1\n}'),
        ('{"b": 2,\n "c": 3}', '{"b": 2,\n "c": 3,\n "a": 1\n}'),
        ('{ "a" : 2 }', '{ "a" : 1 }'),
        ('{"a": 1}', '{"a": 1}'),
    ],
)
def test_the_form_of_the_file_is_kept(before: str, after: str) -> None:
    assert put(before, ["a"], 1, comments=False) == after


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('{"b": 2,}', '{"b": 2, "a": 1}'),
        ('{"b": 2 /* , */}', '{"b": 2, /* , */ "a": 1}'),
        ("// alone", '// alone\n{\n  "a": 1\n}\n'),
        ("{ // none\n}", '{ // none\n  "a": 1\n}'),
        (
            '{\n  "b": "//", // two\n  // "c": 3\n}',
            '{\n  "b": "//", // two\n  // "c": 3\n  "a": 1\n}',
        ),
        (
            '{\n  "b": 2 // two\n  /* c,\n} */\n}\n',
            '{\n  "b": 2, // two\n  /* c,\n} */\n  "a": 1\n}\n',
        ),
    ],
)
def test_comments_and_trailing_commas_are_kept(before: str, after: str) -> None:
    assert put(before, ["a"], 1, comments=True) == after


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('{\n  "a": 1,\n  "b": 2\n}', '{\n  "b": 2\n}'),
        ('{\n  "b": 2,\n  "a": 1\n}', '{\n  "b": 2\n}'),
        ('{\n  "b": 2,\n  "a": 1,\n}', '{\n  "b": 2\n}'),
        ('{\n  "a": 1\n}', "{}"),
        ('{"a": 1, "b": 2}', '{"b": 2}'),
        ('{"b": 2, "a": 1}', '{"b": 2}'),
        (
            '{\n  // of a\n  "a": 1, // one\n  "b": 2\n}',
            '{\n  // of a\n  // one\n  "b": 2\n}',
        ),
        ('{\n  // none\n  "a": 1\n}', "{\n  // none\n}"),
        ('{"b": 2}', '{"b": 2}'),
    ],
)
def test_a_member_is_taken_out_and_comments_stay(before: str, after: str) -> None:
    assert drop(before, ["a"], comments=True) == after


@given(
    st.dictionaries(TEXTS.filter(lambda key: key != "servers"), VALUES),
    st.dictionaries(TEXTS.filter(lambda key: key != "ours"), VALUES),
    st.sampled_from([None, 1, 4, "\t"]),
    st.booleans(),
)
def test_whatever_else_is_in_a_file_stays(
    around: dict[str, Any], servers: dict[str, Any], indent: Any, comments: Any
) -> None:
    document = {**around, "servers": servers}
    text = json.dumps(document, indent=indent)
    edited = put(text, PATH, ENTRY, comments=comments)
    assert list(json.loads(edited)) == list(document)
    assert json.loads(edited) == {**document, "servers": {**servers, "ours": ENTRY}}
    assert put(edited, PATH, ENTRY, comments=comments) == edited
    assert json.loads(drop(edited, PATH, comments=comments)) == document


@pytest.mark.parametrize(
    ("text", "comments", "message"),
    [
        ('{\n  "a": 1\n  "b": 2\n}', True, "line 3, column 3: Expecting ',' delim"),
        ("{\n// note\n}", False, "line 2, column 1"),
        ('{"a": 1,}', False, "line 1, column"),
        ("{,}", True, "line 1, column 2"),
        ('{"a": [,]}', True, "line 1, column 8"),
        ("{\n/* open\n}", True, "line 2, column 1"),
        ('{\n"a": "open\n}', True, "line 2, column"),
        ('{"a": NaN}', False, "NaN is no JSON number"),
        ("[" * 100_000, False, "nested too deep"),
    ],
)
def test_what_is_not_json_is_refused_with_its_line(
    text: str, comments: Any, message: str
) -> None:
    with pytest.raises(InvalidInputError, match=re.escape(message)):
        put(text, ["a"], 1, comments=comments)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "something else than an object"),
        ('{"servers": []}', '"servers", but not as an object'),
        ('{"servers": null}', '"servers", but not as an object'),
        ('{"servers": {}, "servers": {}}', '"servers" twice'),
    ],
)
def test_a_form_that_nobody_expects_is_left_alone(text: str, message: str) -> None:
    with pytest.raises(ConflictError, match=re.escape(message)):
        value_at(text, PATH, comments=False)
    with pytest.raises(ConflictError):
        put(text, PATH, ENTRY, comments=False)


def test_an_edit_that_would_change_something_else_is_refused() -> None:
    with pytest.raises(ConflictError, match="without changing something else"):
        drop('{"b": 2, // two\n "a": 1}', ["a"], comments=True)
