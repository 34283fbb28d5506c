"""Reading files: YAML that hides nothing, a converter that coerces nothing, and every mistake at once."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from siteward.config import Problems, build, check_argv, check_env, check_site_name, convert, describe, nearest
from siteward.errors import FileError, Problem, sentences
from siteward.yamlfile import MAX_DEPTH, MAX_SIZE, parse_yaml, read_yaml

# YAML text → the words of the one problem
BAD_YAML = {
    "an alias": ("a: &x 1\nb: *x\n", "line 2: aliases (*x) are not allowed"),
    "a billion laughs": ("a: &a [x, x]\nb: &b [*a, *a]\n", "line 2: aliases"),
    "a duplicate key": ("a: 1\nb: 2\na: 3\n", "a: line 3: the key is there twice"),
    "a nested duplicate": ("env:\n  A: x\n  A: y\n", "env.A: line 3: the key is there twice"),
    "a Python tag": ("a: !!python/object/apply:os.system [id]\n", "line 1: tags"),
    "a tag on text": ("a: !!str 3\n", "line 1: tags"),
    "a tag on a mapping": ("a: !!set {x}\n", "line 1: tags"),
    "a private tag": ("a: !mine x\n", "line 1: tags (!mine) are not allowed"),
    "binary": ("a: !!binary aGk=\n", "line 1: tags"),
    "deep lists": ("a: " + "[" * 40 + "]" * 40, "line 1: is nested deeper than 32 levels"),
    "very deep lists": ("[" * 200_000, "is nested deeper than"),
    "very deep mappings": ("{a: " * 100_000, "is nested deeper than"),
    "an empty file": ("", "expected a mapping, got nothing"),
    "only a comment": ("# nothing\n", "expected a mapping, got nothing"),
    "a list at the top": ("- a\n", "expected a mapping, got a list"),
    "text at the top": ("hello", "expected a mapping, got text 'hello'"),
    "two documents": ("a: 1\n---\nb: 2\n", "is not valid YAML"),
    "no YAML": ("a: [1\n", "is not valid YAML"),
    "a tab": ("\ta: 1\n", "is not valid YAML"),
    "a NUL": ("a: \0\n", "is not valid YAML: unacceptable character #x0000"),
    "a key that YAML reads as a boolean": ("yes: 1\n", "keys are text; quote 'yes'"),
    "a key that is a number": ("env: {1: x}\n", "env: line 1: keys are text; quote '1'"),
    "a key that is a list": ("? [a]\n: 1\n", "keys are text"),
    "infinity": ("a: .inf\n", "a: expected a finite number, got .inf"),
    "not a number": ("a: {b: .nan}\n", "a.b: expected a finite number, got .nan"),
}

# What looks like something else stays text, exactly as it is written.
SCALARS = {
    "2020-01-01": "2020-01-01",
    "2020-01-01 10:00:00": "2020-01-01 10:00:00",
    "12:30:00": "12:30:00",
    "010": "010",
    "0x1F": "0x1F",
    "1_000": "1_000",
    "1e3": "1e3",
    "=": "=",
    "99999999999999999999999": "99999999999999999999999",
    "3": 3,
    "-3": -3,
    "0": 0,
    "1.5": 1.5,
    "'3'": "3",
    "no": False,
    "On": True,
    "~": None,
    "": None,
    "'no'": "no",
    "x y": "x y",
}


@pytest.mark.parametrize("name", BAD_YAML)
def test_yaml_that_could_hide_something_is_refused(name: str) -> None:
    """Aliases, tags, duplicates, depth and what is not a mapping are problems in words, on one line each."""
    text, words = BAD_YAML[name]
    with pytest.raises(Problems) as caught:
        parse_yaml(text)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("text", "value"), SCALARS.items())
def test_scalars_mean_what_they_look_like(text: str, value: object) -> None:
    """Only plain numbers, booleans and nothing are not text; timestamps and sexagesimals do not exist."""
    read = parse_yaml(f"a: {text}\n")["a"]
    assert (read, type(read)) == (value, type(value))


def test_depth_up_to_the_limit_is_read() -> None:
    """32 levels, the top mapping included, are enough for anybody."""
    parse_yaml("a: " + "[" * (MAX_DEPTH - 1) + "]" * (MAX_DEPTH - 1))


def test_a_byte_order_mark_does_no_harm() -> None:
    """Editors on Windows write one."""
    assert parse_yaml("\ufeffa: 1\n") == {"a": 1}


def _too_large(path: Path) -> None:
    path.write_text("# " + "x" * MAX_SIZE)


UNREADABLE = {
    "missing": (lambda path: None, "cannot be read: No such file or directory"),
    "a folder": (Path.mkdir, "cannot be read: Is a directory"),
    "too large": (_too_large, "is larger than 1 MiB"),
    "not UTF-8": (lambda path: path.write_bytes(b"a: \xff\n"), "is not UTF-8 text (byte 3)"),
    "a dangling link": (lambda path: path.symlink_to("nowhere"), "cannot be read: No such file"),
    "a link to itself": (lambda path: path.symlink_to(path), "cannot be read: Too many levels"),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_a_file_that_cannot_be_read_is_named(name: str, tmp_path: Path) -> None:
    """Whatever is wrong with the file itself is a FileError that names it."""
    make, words = UNREADABLE[name]
    path = tmp_path / "job.yaml"
    make(path)
    with pytest.raises(FileError) as caught:
        read_yaml(path)
    assert caught.value.file == str(path)
    assert words in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("path", ["a\0b", "~no-such-user-here/job.yaml", "x" * 5000])
def test_a_path_that_cannot_be_one_is_a_file_error(path: str) -> None:
    """A NUL, an unknown home and a name that is too long are told like any other missing file."""
    with pytest.raises(FileError):
        read_yaml(path)


@given(st.text())
def test_no_text_shows_a_traceback(text: str) -> None:
    """Any text is a mapping, or problems in words."""
    try:
        assert isinstance(parse_yaml(text), dict)
    except Problems as error:
        assert error.problems


_pieces = st.sampled_from(
    [*"abc:-[]{}#&*!|>'\"%@?,\n\t 01", "- ", ": ", "\n  ", "!!", "&a", "*a", "<<: ", "---\n", "~"]
)


@given(st.lists(_pieces, max_size=40).map("".join))
def test_no_yaml_shows_a_traceback(text: str) -> None:
    """Nor does text that is nearly YAML."""
    try:
        assert isinstance(parse_yaml(text), dict)
    except Problems as error:
        assert error.problems


@given(st.binary(max_size=200))
def test_no_bytes_show_a_traceback(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    """Any file is read, or refused as a FileError."""
    path = tmp_path_factory.getbasetemp() / "fuzz.yaml"
    path.write_bytes(data)
    try:
        read_yaml(path)
    except FileError as error:
        assert error.problems


# type, value, what it becomes (or the words of the refusal)
COERCION = [
    (str, "x", "x"),
    (str, "", ""),
    (str, 3, "expected text, got the number 3 (quote it"),
    (str, 1.5, "expected text, got the number 1.5"),
    (str, True, "expected text, got true (quote it"),
    (str, None, "expected text, got nothing"),
    (str, ["x"], "expected text, got a list"),
    (str, {}, "expected text, got a mapping"),
    (str, b"x", "expected text"),
    (int, 3, 3),
    (int, -3, -3),
    (int, "3", "expected a whole number, got text '3'"),
    (int, 3.0, "expected a whole number, got the number 3.0"),
    (int, True, "expected a whole number, got true"),
    (int, None, "expected a whole number, got nothing"),
    (float, 1.5, 1.5),
    (float, 1, 1.0),
    (float, "1.5", "expected a number, got text '1.5'"),
    (float, False, "expected a number, got false"),
    (float, float("inf"), "expected a number"),
    (float, float("nan"), "expected a number"),
    (float, 10**400, "expected a number, got a number with more than 20 digits"),
    (bool, True, True),
    (bool, 1, "expected true or false, got the number 1"),
    (bool, "yes", "expected true or false, got text 'yes'"),
    (tuple[str, ...], ["a", "b"], ("a", "b")),
    (tuple[str, ...], [], ()),
    (tuple[str, ...], "echo hi", "expected a list, got text 'echo hi'"),
    (tuple[str, ...], {"a": 1}, "expected a list, got a mapping"),
    (tuple[str, ...], ["a", 3], "[1]: expected text, got the number 3"),
    (list[int], [1, 2], (1, 2)),
    (Mapping[str, str], {"A": "x"}, {"A": "x"}),
    (Mapping[str, str], {"A": False}, "A: expected text, got false"),
    (Mapping[str, str], ["A"], "expected a mapping, got a list"),
    (Mapping[str, str], "A=x", "expected a mapping, got text 'A=x'"),
    (Mapping[str, str], None, "expected a mapping, got nothing"),
    (Mapping[str, str], {1: "x"}, "1: expected text, got the number 1"),
    (Mapping[str, Mapping[str, int]], {"a": {"b": "1"}}, "a.b: expected a whole number, got text '1'"),
    (int | None, None, None),
    (int | None, 3, 3),
    (int | None, "3", "expected a whole number, got text '3'"),
    (int | str, 1.5, "expected a whole number or text, got the number 1.5"),
    (Literal["ro", "rw"], "ro", "ro"),
    (Literal["ro", "rw"], "row", "expected one of ro, rw, got text 'row'; did you mean"),
    (Literal["ro", "rw"], ["ro"], "expected one of ro, rw, got a list"),
    (Literal[1, 2], True, "expected one of 1, 2"),
    (float | Literal["site", "never"] | None, "soon", "expected a number or site or never, got text 'soon'"),
    (float | Literal["site"] | None, "site", "site"),
    (float | Literal["site"] | None, 5, 5.0),
    (Any, [1, "x"], [1, "x"]),
]


@pytest.mark.parametrize(("type_", "value", "expected"), COERCION, ids=lambda each: repr(each)[:30])
def test_nothing_is_coerced(type_: Any, value: object, expected: object) -> None:
    """A value is what the type says, or a problem that says what was expected and what was found."""
    try:
        read = convert(value, type_)
    except Problems as error:
        assert isinstance(expected, str)
        assert expected in str(error)
    else:
        assert (read, type(read)) == (expected, type(expected))


def test_values_are_shown_shortly() -> None:
    """A long text or a huge number does not fill the screen."""
    assert len(describe("x" * 10_000)) < 100
    assert len(describe(10**5000)) < 100


@attrs.frozen(kw_only=True)
class Inner:
    size: int
    mode: str = attrs.field(
        default="ro", metadata={"check": lambda v: None if v in ("ro", "rw") else "expected ro or rw"}
    )


@attrs.frozen(kw_only=True)
class Outer:
    image: str
    count: int = attrs.field(default=1, validator=attrs.validators.ge(0))
    mounts: Mapping[str, Inner] = attrs.field(factory=dict)
    hidden: str = attrs.field(default="", metadata={"internal": True})


def test_every_mistake_is_told_at_once() -> None:
    """Missing, unknown, wrong type, failed check and nested mistakes come together, each with its path."""
    with pytest.raises(Problems) as caught:
        build(
            Outer,
            {"imgae": "x", "count": "2", "hidden": "y", "mounts": {"a": {"size": 1, "mode": "x"}, "b": 3, "c": {}}},
        )
    told = {problem.path: problem for problem in caught.value.problems}
    assert set(told) == {"image", "imgae", "count", "hidden", "mounts.a.mode", "mounts.b", "mounts.c.size"}
    assert told["imgae"].suggestion == "image"
    assert "did you mean 'image'?" in str(told["imgae"])


def test_a_plugins_own_validator_is_a_problem_too() -> None:
    """An attrs validator that raises is told in words, not as a traceback."""
    with pytest.raises(Problems, match="must be >= 0"):
        build(Outer, {"image": "x", "count": -1})


@pytest.mark.parametrize("block", [None, [], "x", 3, True])
def test_a_block_that_is_no_mapping_is_a_problem(block: object) -> None:
    """There is no "no attribute 'keys'"."""
    with pytest.raises(Problems, match="expected a mapping"):
        build(Outer, block)


ENV = {
    "A": None,
    "_a1": None,
    "1A": "is not a name",
    "A-B": "is not a name",
    "A B": "is not a name",
    "": "is not a name",
    "Ä": "is not a name",
    "A=B": "is not a name",
    "A\n": "is not a name",
    "SITEWARD_SITE": "set by siteward itself",
    "SITEWARD_": "set by siteward itself",
    "SITEWARDEN": None,
}


@pytest.mark.parametrize(("name", "words"), ENV.items())
def test_names_of_variables_are_checked(name: str, words: str | None) -> None:
    """Only what a shell could set, and nothing of siteward's own."""
    problems = check_env({name: "x"})
    assert (problems is None) if words is None else (words in str(problems[0]))


@pytest.mark.parametrize("text", ["a\0b", "\ud800"])
def test_text_that_no_process_can_be_given_is_refused(text: str) -> None:
    """A NUL, or half a surrogate pair, would fail only when the job starts."""
    assert [problem.path for problem in check_env({"A": text})] == ["A"]
    assert [problem.path for problem in check_argv(["echo", text])] == ["[1]"]


@pytest.mark.parametrize("argv", [[], [""]])
def test_a_command_has_a_program(argv: list[str]) -> None:
    """An empty command, or an empty program, cannot be run."""
    assert check_argv(argv) == "expected at least the program to run"


NAMES = {
    "site-1": True,
    "Charité Berlin": True,
    "x" * 64: True,
    "日本": True,
    "..": True,
    "": False,
    " ": False,
    "x" * 65: False,
    "a/b": False,
    "a\nb": False,
    "a\0": False,
    "\u202e": False,
}


@pytest.mark.parametrize(("name", "fine"), NAMES.items())
def test_sites_have_any_printable_name(name: str, fine: bool) -> None:
    """1 to 64 printable characters, none of them a slash."""
    assert (check_site_name(name) is None) == fine


def test_the_nearest_word_is_suggested_and_only_if_it_is_near() -> None:
    """A suggestion is meant to help."""
    assert nearest("dokcer", ["process", "docker"]) == "docker"
    assert nearest("slurm", ["process", "docker"]) is None


def test_a_problem_knows_its_place_in_the_file() -> None:
    """Paths of nested blocks are joined as they are written."""
    assert Problem("a", "x").under("b").path == "b.a"
    assert Problem("[1]", "x").under("b").path == "b[1]"
    assert Problem("", "x").under("b").path == "b"
    assert str(Problem("a", "x", "y")) == "a: x; did you mean 'y'?"


@pytest.mark.parametrize(
    ("parts", "text"),
    [
        (["a", "b"], "a. b"),
        (["a?", "b.", "c"], "a? b. c"),
        (["a", ""], "a"),
        (["a."], "a."),
    ],
)
def test_parts_of_a_message_join_as_sentences(parts: list[str], text: str) -> None:
    """No full stop is doubled, or follows a question."""
    assert sentences(*parts) == text
