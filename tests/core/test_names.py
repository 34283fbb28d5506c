"""Safe names: labels that stand for one text each."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from siteward.names import safe_name

LABEL = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?", re.ASCII)
UNCHANGED = ["a", "0", "site-1", "a-b-c", "x" * 63]
ALIKE = [
    "site-1",
    "Site-1",
    "SITE-1",
    "site_1",
    "site 1",
    "site.1",
    "site--1",
    "-site-1",
    "site-1-",
    "site-1\n",
    "sité-1",
]
ODD = ["", "-", "..", "日本", "\ud800", "x" * 64, "a--b", "🙂" * 100]


@pytest.mark.parametrize("text", UNCHANGED)
def test_a_good_name_stays(text: str) -> None:
    """What already is a label is not touched, so that people find their jobs."""
    assert safe_name(text) == text


@pytest.mark.parametrize("text", [*ALIKE, *ODD])
@pytest.mark.parametrize("length", [11, 20, 63, 253])
def test_every_name_is_a_label(text: str, length: int) -> None:
    """a-z, 0-9 and -, alphanumeric at both ends, within the length."""
    assert LABEL.fullmatch(safe_name(text, length))
    assert len(safe_name(text, length)) <= length


def test_names_that_look_alike_stay_apart() -> None:
    """Case, punctuation and accents make a difference."""
    assert len({safe_name(text) for text in ALIKE}) == len(ALIKE)


def test_what_can_be_kept_is_kept() -> None:
    """A person sees whose name it is."""
    assert re.fullmatch(r"charit-berlin--[0-9a-f]{8}", safe_name("Charité Berlin"))
    assert re.fullmatch(r"x--[0-9a-f]{8}", safe_name("日本"))


def test_a_length_without_room_is_refused() -> None:
    """A name shorter than its digest could not stand for one text."""
    with pytest.raises(ValueError, match="at least 11"):
        safe_name("x", 10)


@given(st.text(), st.text(), st.integers(11, 80))
def test_two_texts_have_two_names(one: str, other: str, length: int) -> None:
    """Never one name for two texts, and always a label."""
    names = safe_name(one, length), safe_name(other, length)
    assert (names[0] == names[1]) == (one == other)
    assert all(LABEL.fullmatch(name) and len(name) <= length for name in names)


@given(st.text(), st.integers(11, 80))
def test_a_made_name_is_never_a_texts_own(text: str, length: int) -> None:
    """A name with a digest, given as a text, gets another name."""
    name = safe_name(text, length)
    assert (safe_name(name, length) == name) == (name == text)
