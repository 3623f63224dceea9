"""JSON held to a schema: one line says what is wrong and what is allowed."""

import json

import pytest

from nid_jax import json_files
from nid_jax.json_files import Key

SCHEMA = {
    "shape": Key("list", each=Key("whole number", least=1), shortest=2),
    "title": Key("text"),
    "rate": Key("number or null", needed=False),
    "on": Key("truth value", needed=False),
}
GOOD = {"shape": [3, 4], "title": "a", "rate": 0.5, "on": True, "more": {}}


def test_what_fits_comes_back(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps(GOOD))
    assert json_files.read(path, SCHEMA) == GOOD
    assert json_files.read(path) == GOOD
    assert json_files.parsed('{"shape": [1, 2], "title": ""}', "x", SCHEMA)["title"] == ""


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"title": None}, "title: null; allowed: text"),
        ({"title": ...}, "has no 'title'; allowed: text"),
        ({"shape": [3]}, "shape: a JSON list of 1; allowed: list of 2 or more entries, each a "),
        ({"shape": [3, 0]}, "shape[1]: 0; allowed: whole number of 1 or more"),
        ({"shape": [3, True]}, "shape[1]: true; allowed: whole number of 1 or more"),
        ({"shape": [3, 2.0]}, "shape[1]: 2.0; allowed: whole number of 1 or more"),
        ({"rate": "fast"}, 'rate: "fast"; allowed: number or null'),
        ({"rate": True}, "rate: true; allowed: number or null"),
        ({"on": 1}, "on: 1; allowed: truth value"),
        ({"title": {"a": 1}}, "title: a JSON object of 1; allowed: text"),
    ],
)
def test_what_does_not_is_one_line(tmp_path, changes, line):
    path = tmp_path / "a.json"
    value = {name: one for name, one in (GOOD | changes).items() if one is not ...}
    path.write_text(json.dumps(value))
    with pytest.raises(ValueError, match="a.json: ") as caught:
        json_files.read(path, SCHEMA)
    assert str(caught.value).startswith(f"{path}: {line}")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"", "is not valid JSON"),
        (b"\xff\xfe{", "is not valid JSON"),
        (b"[" * 10**5, "is not valid JSON: nested too deeply"),
        (b"9" * 5000, "is not valid JSON: Exceeds the limit"),
        (b"[1]", "a JSON list of 1; allowed: a JSON object"),
    ],
)
def test_what_is_no_object_is_one_line(tmp_path, text, words):
    path = tmp_path / "a.json"
    path.write_bytes(text)
    with pytest.raises(ValueError, match="a.json: ") as caught:
        json_files.read(path, SCHEMA)
    assert str(caught.value).startswith(f"{path}: {words}")
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="a.json: no such file"):
        json_files.read(tmp_path / "a.json")
