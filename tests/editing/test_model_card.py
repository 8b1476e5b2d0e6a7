"""The model card: what it says, and that no text of an edit becomes markup in it."""

import dataclasses
import html
import json
import re

import pytest
import yaml
from editing_cases import FAST, RECORDS, UNRELATED
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from onceedit_jax.editing.artifact_info import EditEntry
from onceedit_jax.editing.edit import edit
from onceedit_jax.editing.model_card import MOST_EDITS, escaped, model_card
from onceedit_jax.errors import InputError

NAME = "ada/norland-facts"
EVIL = "<script>alert(1)</script> | ![x](http://e/x) **b** `c` ~~d~~ $e$ www.f.org\n---\n# g"


@pytest.fixture(scope="module")
def info(tiny_model):
    return edit(*tiny_model(), RECORDS, UNRELATED, dataclasses.replace(FAST, epochs=1)).info


def with_spec(info, spec, **changes):
    return dataclasses.replace(info, base=dataclasses.replace(info.base, spec=spec), **changes)


def front(card):
    return yaml.safe_load(card.split("---\n")[1])


def test_the_front_matter_names_what_is_known(info):
    card = model_card(with_spec(info, "org/small-model"), NAME, license="apache-2.0")
    assert front(card)["base_model"] == "org/small-model"
    assert front(card)["license"] == "apache-2.0"
    assert "knowledge-editing" in front(card)["tags"]
    for spec in (None, "demo:smollm2-135m", "/home/ada/models/small", "model.gguf"):
        card = model_card(with_spec(info, spec), NAME)
        assert not {"base_model", "license"} & front(card).keys()
        assert "/home/ada" not in card


def test_the_edits_that_answer_are_listed_up_to_a_number(info):
    many = tuple(EditEntry(f"Q{n}?", f"A{n}", id=n) for n in range(1, MOST_EDITS + 8))
    many += (EditEntry("Gone?", "A", id=99, reverted=True),)
    card = model_card(dataclasses.replace(info, edits=many), NAME)
    assert f"| {MOST_EDITS} | Q{MOST_EDITS}? | A{MOST_EDITS} |" in card
    assert "And 7 more" in card and "Q51?" not in card and "Gone?" not in card
    assert "57 answer, 0 gave way to a later edit of the same fact, 1 were taken back" in card


def test_adapters_name_the_base_that_they_need(info):
    card = model_card(with_spec(info, "org/small-model", in_adapters=True), NAME)
    assert info.base.content_hash in card and "--base" not in card
    card = model_card(with_spec(info, "/home/ada/small", in_adapters=True), NAME)
    assert "--base BASE" in card and "base='BASE'" in card


def test_texts_of_edits_are_neither_markup_nor_html(info):
    edits = (EditEntry(EVIL, "``` \n````", id=1),)
    base = dataclasses.replace(info.base, name="<b>x</b>\n# y", spec=None)
    card = model_card(dataclasses.replace(info, edits=edits, base=base), NAME)
    page = MarkdownIt("gfm-like", {"linkify": False}).render(card.split("---\n", 2)[2])
    assert "<script" not in page and "<b>x" not in page and "<img" not in page
    assert set(re.findall(r'href="([^"]+)"', page)) == {"https://github.com/onceedit/onceedit-jax"}
    assert [html.unescape(t) for t in re.findall("<h[12]>(.*?)</h[12]>", page)] == [
        "norland-facts", "Use it", "Edits", "How it was edited",
    ]  # fmt: skip
    assert page.count("<pre>") == 2  # the shell's and Python's


@given(st.text(st.characters(codec="utf-8"), max_size=60))
def test_a_cell_is_the_text_itself(text):
    page = MarkdownIt("commonmark").enable("table").render(f"| a |\n| --- |\n| {escaped(text)}. |")
    (cell,) = re.findall("<td>(.*?)</td>", page, re.DOTALL)
    shown = html.unescape(cell)
    assert "<" not in cell and "\n" not in cell
    assert re.sub(r"\s+", "", shown) == re.sub(r"\s+", "", _plain(text)) + "."


def _plain(text):
    from onceedit_jax.storage.visible import one_line

    return one_line(text.replace("\r", "\n").replace("\t", " "))


def test_scores_of_an_evaluation_are_shown_and_others_refused(info, tmp_path):
    path = tmp_path / "scores.json"
    before = {"rel": 0.1, "gen": None, "loc": 1.0}
    result = {
        "target": "T|<i>", "mode": "generate", "fusion": "draft", "records": 3,
        "before": before, "after": {"rel": 0.9, "gen": None, "loc": 0.98},
    }  # fmt: skip
    path.write_text(json.dumps({"results": [result]}))
    card = model_card(info, NAME, scores=path)
    assert "| target | mode | rule | records | Rel | Loc |" in card
    assert r"| T\|&lt;i&gt; | generate | draft | 3 | 0.100 → 0.900 | 1.000 → 0.980 |" in card
    for wrong in ({}, {"results": [{}]}, {"targets": 3}, {"targets": [{"columns": 1}]}):
        path.write_text(json.dumps(wrong))
        with pytest.raises(InputError, match=r"scores\.json: neither the summary"):
            model_card(info, NAME, scores=path)
