"""Text that grows never shows half a character, nor what a stop leaves out."""

from hypothesis import given
from hypothesis import strategies as st

from onceedit_jax.decoding.text_writer import TextWriter

letters = st.text("abé🙂 ", max_size=12)


def pieces_of(data, cuts):
    places = sorted({cut % (len(data) + 1) for cut in cuts})
    return [data[a:b] for a, b in zip([0, *places], [*places, len(data)], strict=True)]


@given(letters, st.lists(st.text("abé ", min_size=1, max_size=3), max_size=3),
       st.lists(st.integers(0, 50), max_size=6))  # fmt: skip
def test_pieces_join_to_the_text_before_the_first_stop(text, stops, cuts):
    writer = TextWriter(stops)
    parts = [writer.add(piece) for piece in pieces_of(text.encode(), cuts)]
    parts.append(writer.add(b"", final=True))
    ends = [text.find(stop) for stop in stops if stop in text]
    # A stop may be seen before an earlier one that is longer has come whole.
    joined = "".join(parts)
    assert writer.stopped == bool(ends)
    assert text.startswith(joined) and not any(stop in joined for stop in stops)
    if not ends:
        assert joined == text
    else:
        assert len(joined) >= min(ends)


def test_what_may_be_a_stop_is_held_back():
    writer = TextWriter(["END"])
    assert [writer.add(b"one E"), writer.add(b"N"), writer.add(b"d")] == ["one ", "", "ENd"]
    assert [writer.add(b" EN"), writer.add(b"D more")] == [" ", ""]
    assert writer.stopped and writer.add(b"x") == ""


def test_blanks_at_the_beginning_are_left_out():
    writer = TextWriter(strip=True)
    assert [writer.add(b" \n"), writer.add(b" a"), writer.add(b" b ")] == ["", "a", " b "]


def test_bytes_that_are_no_text_are_marked():
    writer = TextWriter()
    assert writer.add("é".encode()[:1]) == ""
    assert writer.add(b"", final=True) == "\N{REPLACEMENT CHARACTER}"
