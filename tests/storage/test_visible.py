"""What is printed is shown and not obeyed by a terminal."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onceedit_jax.storage.visible import one_line, visible


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b]0;title\x07", r"\x1b]0;title\x07"),
        ("a\rb\x9b2J", r"a\rb\x9b2J"),
        ("\u202eabc\u2028", r"\u202eabc\u2028"),
        ("\ud83d", r"\ud83d"),
        ("tab\tand\nline", "tab\tand\nline"),
        (
            "\u0645\u06cc\u200c\u062e 👩\u200d🔬 straße",
            "\u0645\u06cc\u200c\u062e 👩\u200d🔬 straße",
        ),
    ],
)
def test_what_a_terminal_would_obey_is_escaped_and_nothing_else(text, shown):
    assert visible(text) == shown


@given(st.text())
def test_what_is_visible_is_so_again_and_can_be_printed(text):
    shown = visible(text)
    assert visible(shown) == shown
    assert not {each for each in shown if each < " " or "\x7f" <= each <= "\x9f"} - {"\t", "\n"}
    shown.encode()
    assert "\n" not in one_line(text)


def test_a_message_that_nobody_would_read_keeps_its_begin_and_its_end():
    text = "begin " + "x" * 10_000_000 + " end"
    assert one_line(text).startswith("begin x") and one_line(text).endswith("x end")
    assert len(one_line(text)) < 5000


@given(st.text(st.characters(categories=["L", "N", "P", "S", "Zs"])))
def test_letters_and_signs_are_left_alone(text):
    assert visible(text) == text
