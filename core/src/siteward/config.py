"""From plain data to attrs classes, strictly: a converter that coerces nothing and reports every mistake at once.

The core reads the envelope of a file, a backend's own option classes read its blocks; both come through here.
A field's ``metadata`` may hold ``help`` (a sentence for people) and ``check`` (a function that returns what is
wrong with a value, or None).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache, lru_cache
from types import UnionType
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import attrs

from siteward.errors import Problem

if TYPE_CHECKING:
    from cattrs import Converter

T = TypeVar("T")
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_SURROGATE = re.compile("[\ud800-\udfff]")


class Problems(ValueError):
    """Several mistakes in one value; their paths are relative to it."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = list(problems)
        super().__init__("\n".join(map(str, self.problems)))


def nearest(word: str, known: Iterable[str]) -> str | None:
    """Return the known word that ``word`` was probably meant to be, or None."""
    import difflib

    return next(iter(difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)), None)


def describe(value: object) -> str:
    """Say what a value is, in a file author's words: ``text '3'``, ``the number 3``, ``a list``."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return f"{str(value).lower()} (quote it if it is meant as text: yes, no, on and off are booleans in YAML)"
    if isinstance(value, int) and abs(value) >= 10**20:
        return "a number with more than 20 digits"
    if isinstance(value, (int, float)):
        return f'the number {value} (quote it if it is meant as text: "{value}")'
    if isinstance(value, str):
        return f"text {value if len(value) < 60 else value[:57] + '...'!r}"
    if isinstance(value, (Sequence, Mapping)):
        return "a list" if isinstance(value, Sequence) else "a mapping"
    return type(value).__name__


def _strict(kind: type, words: str, *accepted: type) -> Any:
    def structure(value: Any, _type: Any) -> Any:
        try:
            if type(value) in accepted and (kind is not float or math.isfinite(value)):
                return kind(value)
        except OverflowError:
            pass
        raise Problems([Problem("", f"expected {words}, got {describe(value)}")])

    return structure


def _structure_sequence(value: Any, type_: Any) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)):
        raise Problems([Problem("", f"expected a list, got {describe(value)}")])
    item_type = (get_args(type_) or (Any,))[0]
    results, problems = [], []
    for index, item in enumerate(value):
        try:
            results.append(convert(item, item_type))
        except Problems as error:
            problems += [p.under(f"[{index}]") for p in error.problems]
    if problems:
        raise Problems(problems)
    return tuple(results)


def _structure_mapping(value: Any, type_: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise Problems([Problem("", f"expected a mapping, got {describe(value)}")])
    value_type = (get_args(type_) or (Any, Any))[1]
    results, problems = {}, []
    for key, item in value.items():
        try:
            results[convert(key, str)] = convert(item, value_type)
        except Problems as error:
            problems += [p.under(str(key)) for p in error.problems]
    if problems:
        raise Problems(problems)
    return results


def _structure_union(value: Any, type_: Any) -> Any:
    members = get_args(type_)
    if value is None and type(None) in members:
        return None
    wanted = [member for member in members if member is not type(None)]
    errors: list[Problem] = []
    for member in wanted:
        try:
            return convert(value, member)
        except Problems as error:
            errors = error.problems
    if len(wanted) > 1:
        words = " or ".join(type_words(member) for member in wanted)
        errors = [Problem("", f"expected {words}, got {describe(value)}")]
    raise Problems(errors)


def _structure_literal(value: Any, type_: Any) -> Any:
    choices = get_args(type_)
    if value not in choices or type(value) is not type(choices[0]):
        words = ", ".join(map(str, choices))
        hint = nearest(value, choices) if isinstance(value, str) else None
        raise Problems([Problem("", f"expected one of {words}, got {describe(value)}", hint)])
    return value


def _structure_class(value: Any, type_: Any) -> Any:
    return build(type_, value)


def _made_of(*origins: Any) -> Callable[[Any], bool]:
    return lambda type_: get_origin(type_) in origins


@cache
def _converter() -> Converter:
    from cattrs import Converter  # imported with the first file: what reads none, like `siteward plugins`, is quick

    converter = Converter()
    for kind, words, accepted in (
        (str, "text", (str,)),
        (bool, "true or false", (bool,)),
        (int, "a whole number", (int,)),
        (float, "a number", (int, float)),
    ):
        converter.register_structure_hook(kind, _strict(kind, words, *accepted))
    hooks: list[tuple[Any, Any]] = [
        (attrs.has, _structure_class),
        (_made_of(tuple, list, Sequence), _structure_sequence),
        (_made_of(dict, Mapping), _structure_mapping),
        (_made_of(Union, UnionType), _structure_union),
        (_made_of(Literal), _structure_literal),
    ]
    for predicate, hook in hooks:
        converter.register_structure_hook_func(predicate, hook)
    return converter


def type_words(type_: Any) -> str:
    """Say what a type expects: ``text``, ``a whole number``, ``a list``, ``Always or Never``."""
    words = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}
    if type_ in words:
        return words[type_]
    if get_origin(type_) is Literal:
        return " or ".join(map(str, get_args(type_)))
    return "a list" if get_origin(type_) in (tuple, list, Sequence) else "a mapping"


def convert(value: Any, type_: Any) -> Any:
    """Read plain data as ``type_`` without coercing anything; raise :class:`Problems` with all that is wrong."""
    return value if type_ is Any else _converter().structure(value, type_)


@lru_cache
def _readable(cls: type[Any]) -> tuple[dict[str, attrs.Attribute[Any]], dict[str, Any]]:
    """Return the fields that a file may set, and their types."""
    fields = {field.name: field for field in attrs.fields(cls) if field.init and not field.metadata.get("internal")}
    return fields, get_type_hints(cls)


def read_block(
    cls: type[Any], block: Any, others: Mapping[str, type[Any]] | None = None
) -> tuple[dict[str, Any], list[Problem]]:
    """Return the fields of ``cls`` that could be read from a mapping, and every problem with the rest.

    Unknown keys are problems with the nearest right word, or where they belong: ``others`` has the classes of other
    blocks, by where those are. Missing keys that have no default are problems too.
    """
    if not isinstance(block, Mapping):
        return {}, [Problem("", f"expected a mapping, got {describe(block)}")]
    fields, hints = _readable(cls)  # type: ignore[arg-type]  # a type is hashable; mypy does not see it
    values: dict[str, Any] = {}
    problems = [_unknown(str(key), fields, others or {}) for key in block if key not in fields]
    for name, field in fields.items():
        if name not in block:
            if field.default is attrs.NOTHING:
                problems.append(Problem(name, "is missing"))
            continue
        try:
            value = convert(block[name], hints[name])
        except Problems as error:
            problems += [_with_form(p, field).under(name) for p in error.problems]
            continue
        check = field.metadata.get("check")
        complaint = check(value) if check and value is not None else None
        if complaint:
            found = complaint if isinstance(complaint, list) else [Problem("", complaint)]
            problems += [p.under(name) for p in found]
        else:
            values[name] = value
    return values, problems


def _unknown(key: str, fields: Iterable[str], others: Mapping[str, type[Any]]) -> Problem:
    """Say of an unknown key which one was meant, where else it is known, or which ones are."""
    near = nearest(key, fields)
    known = {place: cls for place, cls in others.items() if attrs.has(cls)}
    places = [place for place, cls in known.items() if key in _readable(cls)[0]]
    if places:
        return Problem(key, f"unknown key here; it belongs in {' or '.join(places)}", near)
    return Problem(key, "unknown key" if near else f"unknown key; expected one of {', '.join(fields) or 'none'}", near)


def _with_form(problem: Problem, field: attrs.Attribute[Any]) -> Problem:
    """Say of a field that is to be a mapping what of what: its help does."""
    words = field.metadata.get("help")
    if problem.path or not words or not problem.message.startswith("expected a mapping"):
        return problem
    return attrs.evolve(problem, message=f"{problem.message} ({words})")


def build(cls: type[T], block: Any, others: Mapping[str, type[Any]] | None = None) -> T:
    """Build an attrs class from a mapping, ``others`` as in :func:`read_block`; Problems with every mistake in it."""
    values, problems = read_block(cls, block, others)
    if problems:
        raise Problems(problems)
    try:
        return cls(**values)
    except (TypeError, ValueError) as error:
        raise error if isinstance(error, Problems) else Problems([Problem("", _first_words(error))]) from error


def _first_words(error: Exception) -> str:
    """Return what an attrs validator says; it puts the attribute and its options behind its sentence."""
    return str(error.args[0]) if error.args else type(error).__name__


# --- checks that several files share ------------------------------------------------------------------------


def check_env(env: Mapping[str, Any]) -> list[Problem] | None:
    """Refuse names that are not environment variables, ``SITEWARD_*``, and values with a NUL."""
    problems = []
    for name, value in env.items():
        if not _ENV_NAME.fullmatch(name):
            problems.append(Problem(name, "is not a name for an environment variable"))
        elif name.startswith("SITEWARD_"):
            problems.append(Problem(name, "names that begin with SITEWARD_ are set by siteward itself"))
        elif isinstance(value, str) and (words := check_text(value)):
            problems.append(Problem(name, words))
    return problems or None


def check_text(text: str) -> str | None:
    """Refuse what no argument or environment variable can hold: NUL, and half a surrogate pair."""
    if "\0" in text:
        return "expected text without a NUL character"
    return None if text.isascii() or not _SURROGATE.search(text) else "expected text that UTF-8 can encode"


def check_argv(argv: Sequence[str]) -> list[Problem] | str | None:
    """Refuse an empty argv, an empty program name, and arguments that cannot be passed."""
    if not argv or not argv[0]:
        return "expected at least the program to run"
    return check_args(argv)


def check_args(args: Sequence[str]) -> list[Problem] | None:
    """Refuse arguments that cannot be passed to a program."""
    return [Problem(f"[{i}]", words) for i, arg in enumerate(args) if (words := check_text(arg))] or None


def check_positive(value: float) -> str | None:
    """Refuse zero and less."""
    return None if value > 0 else f"expected a number above 0, got {value}"


def check_not_negative(value: float) -> str | None:
    """Refuse less than zero."""
    return None if value >= 0 else f"expected 0 or more, got {value}"


def check_site_name(name: str) -> str | None:
    """Refuse what is not 1 to 64 printable characters without ``/``."""
    if 1 <= len(name) <= 64 and name.isprintable() and "/" not in name and name.strip():
        return None
    return "expected 1 to 64 printable characters without /"
