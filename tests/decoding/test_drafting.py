"""Drafting: the target reads the plug-in's text in its own tokens, and may differ from it."""

from collections import defaultdict

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import byte_level_tokenizer

from onceedit_jax.decoding import drafting
from onceedit_jax.decoding.checked_drafts import trusted_answers
from onceedit_jax.decoding.draft_reading import DraftReader, proposed_along
from onceedit_jax.decoding.drafting import Draft, Drafter, Start
from onceedit_jax.decoding.stopping import ends_word, glued_tokens
from onceedit_jax.fusion.mixing import drafted_token
from onceedit_jax.text.prompts import PromptFormat


class Script(Drafter):
    """A drafter with given drafts; `texts` and `opens` list what it was called with."""

    def __init__(self, lines):
        self.lines, self.texts, self.opens = lines, [], []

    def drafts(self, starts, *, whole):
        self.texts += [start.text for start in starts]
        self.opens += [start.opens for start in starts]
        return [self.lines[start.text] for start in starts]


def draft(text, end=0.9):
    data = text.encode()
    return Draft(data, tuple(range(1, len(data) + 1)), (0.5,) * len(data), end)


@pytest.fixture(scope="module")
def target():
    return byte_level_tokenizer(80)


def test_a_draft_is_read_in_the_targets_own_tokens_up_to_its_end_token(target):
    reader = DraftReader(Script({b"Q": draft(" the capital Vinterby")}), target, ["Q"])
    tokens = target.encode_bytes(b" the capital Vinterby", continuation=True)
    answer = []
    for token in [*tokens, target.end_id]:
        assert reader.view([answer])["drafted"].tolist() == [token]
        answer.append(token)


def test_a_row_gets_a_new_draft_only_when_its_tokens_differ_from_the_draft(target):
    other = target.encode_bytes(b" river", continuation=True)
    script = Script({b"Q": draft(" the cat"), b"Q river": draft(" runs")})
    reader = DraftReader(script, target, ["Q"])
    reader.view([[]])
    drafted = reader.view([other])["drafted"].tolist()
    assert script.texts == [b"Q", b"Q river"]
    assert drafted == target.encode_bytes(b" runs", continuation=True)[:1]


def test_a_row_gets_a_new_draft_when_a_draft_that_was_cut_short_is_used_up(target):
    script = Script({b"Q": draft(" cat", end=None), b"Q cat": draft(" sat")})
    reader = DraftReader(script, target, ["Q"])
    reader.view([target.encode_bytes(b" cat", continuation=True)])
    reader.view([target.encode_bytes(b" cat", continuation=True)])
    assert script.texts[-1] == b"Q cat"


def test_the_probability_of_text_is_that_of_the_tokens_that_begin_in_it():
    draft = Draft(b" Vinterby", (4, 9), (0.5, 0.25), 0.9)
    assert draft.probability(0, 9) == 0.125
    assert draft.probability(0, 4) == 0.5
    assert draft.probability(4, 9) == 0.25
    assert draft.probability(6, 9) == 1.0  # its token begins before byte 6


def test_drafts_of_a_real_decoder_are_its_greedy_text(tiny_model):
    model, tokenizer = tiny_model()
    drafter = Drafter(model.params, model.config, tokenizer)
    alone = drafter.drafts([Start(b"the cat", False)], whole=True)[0]
    together = Drafter(model.params, model.config, tokenizer).drafts(
        [Start(b"Who wrote", False), Start(b"the cat", False)], whole=True
    )[1]
    assert alone.data == together.data
    assert len(alone.ends) == len(alone.probabilities)
    assert all(0 < p <= 1 for p in alone.probabilities)
    drafter.params = None  # a draft that is remembered is not written again
    assert drafter.drafts([Start(b"the cat", False)], whole=True) == [alone]


def test_many_drafts_are_those_that_are_written_one_by_one(tiny_model):
    model, tokenizer = tiny_model()
    words = ["the cat", "Who wrote", "the capital of", "a river", "", "Where is Norland "]
    texts = [f"{word}{' it' * (n % 5)}".encode() for n, word in enumerate(words * 4)]
    starts = [Start(text, opens) for text in texts for opens in (True, False) if text]
    together, alone = (Drafter(model.params, model.config, tokenizer) for _ in range(2))
    for whole in (False, True):
        for ours, start in zip(together.drafts(starts, whole=whole), starts, strict=True):
            (theirs,) = alone.drafts([start], whole=whole)
            assert (ours.data, ours.ends, ours.whole) == (theirs.data, theirs.ends, theirs.whole)
            np.testing.assert_allclose(ours.probabilities, theirs.probabilities, rtol=1e-4)
            assert (ours.end is None) == (theirs.end is None)


def test_a_draft_written_in_two_parts_is_the_draft_written_at_once(tiny_model):
    model, tokenizer = tiny_model()
    texts = [Start(b"the cat", True), Start(b"Who wrote", False), Start(b"the capital of", True)]
    in_parts, at_once = (Drafter(model.params, model.config, tokenizer) for _ in range(2))
    for first, second, whole in zip(
        in_parts.drafts(texts, whole=False),
        in_parts.drafts(texts, whole=True),
        at_once.drafts(texts, whole=True),
        strict=True,
    ):
        assert not first.whole and whole.data.startswith(first.data)
        assert whole.data == second.data
        assert (whole.ends, whole.end is None, whole.whole) == (
            second.ends,
            second.end is None,
            second.whole,
        )
        np.testing.assert_allclose(whole.probabilities, second.probabilities, rtol=1e-4)


def test_drafts_written_in_parts_propose_the_tokens_of_whole_drafts(tiny_model, target):
    model, tokenizer = tiny_model()
    drafter = Drafter(model.params, model.config, tokenizer)
    (draft,) = drafter.drafts([Start(b"the cat", True)], whole=True)
    tokens = target.encode_bytes(draft.data, continuation=True)
    views = []
    for whole in (True, False):
        drafter.forget()
        reader = DraftReader(drafter, target, ["the cat"], whole=whole)
        views.append([reader.view([tokens[:n]]) for n in range(len(tokens) + 1)])
    drafter.forget()
    # All at once: the accepted tokens may go past the first part.
    reader = DraftReader(drafter, target, ["the cat"], whole=False)
    reader.view([[]])
    views.append([*views[0][:-1], reader.view([tokens])])
    for others in views[1:]:
        for view, other in zip(views[0], others, strict=True):
            assert view["drafted"].tolist() == other["drafted"].tolist()
            np.testing.assert_allclose(view["probability"], other["probability"], rtol=1e-4)


@pytest.mark.parametrize("spaced", [True, False])
@pytest.mark.parametrize("whole", [True, False])
def test_known_answers_are_read_along_as_step_by_step(tiny_model, target, spaced, whole):
    model, tokenizer = tiny_model()
    drafter = Drafter(model.params, model.config, tokenizer)
    prompts = ["the cat", "Who wrote", "Where is"]
    (draft, *_) = drafter.drafts([Start(b"the cat", True)], whole=True)
    texts = [draft.data + b" on", b" the river", b" it"]
    answers = [
        [coding.encode_bytes(text, continuation=True) for text in texts]
        for coding in (target, tokenizer)
    ]
    drafter.forget()
    readers = [
        DraftReader(drafter, coding, prompts, spaced=spaced, whole=whole)
        for coding in (target, tokenizer)
    ]
    found = proposed_along(readers, answers)
    for coding, rows, ours in zip((target, tokenizer), answers, found, strict=True):
        stepwise = DraftReader(drafter, coding, prompts, spaced=spaced, whole=True)
        for step in range(max(map(len, rows))):
            view = stepwise.view([row[: min(step, len(row) - 1)] for row in rows])
            for i, row in enumerate(rows):
                if step < len(row):
                    assert ours[i][step][0] == view["drafted"][i]
                    np.testing.assert_allclose(ours[i][step][1], view["probability"][i], rtol=1e-4)
        assert [len(row) for row in ours] == [len(row) for row in rows]


def test_drafts_of_all_targets_are_written_together(target):
    script = Script(defaultdict(lambda: draft(" ran"), {b"Q": draft(" cat")}))
    calls = []
    plain = script.drafts
    script.drafts = lambda starts, *, whole: calls.append(len(starts)) or plain(starts, whole=whole)
    readers = [DraftReader(script, target, ["Q", "P"]) for _ in range(2)]
    rows = [target.encode_bytes(text, continuation=True) for text in (b" cat", b" dog ran")]
    proposed_along(readers, [rows, rows])
    assert calls[0] == 4  # one call for both rows of both readers, before those of each reader
    assert max(calls[1:]) >= 2  # and so later, for rows whose draft is used up


def scores(drafted, pi, target_probs, alpha):
    """`alpha * pi * [v = d] + (1 - alpha) * p_l(v)`, literally, in float64."""
    scores = (1 - alpha.astype(float))[:, None] * target_probs.astype(float)
    rows = np.flatnonzero(drafted >= 0)
    scores[rows, drafted[rows]] += alpha[rows].astype(float) * pi[rows]
    return scores


def token(*arrays):
    return drafted_token(*map(jnp.asarray, arrays))


@given(st.integers(0, 2**32 - 1))
def test_the_token_with_the_largest_score_wins(seed):
    rng = np.random.default_rng(seed)
    logits = 2 * rng.normal(size=(8, 6)).astype(np.float32)
    drafted = rng.integers(-1, 6, 8)
    pi, alpha = rng.random(8).astype(np.float32), rng.random(8).astype(np.float32)
    expected = np.argmax(scores(drafted, pi, np.asarray(jax.nn.softmax(logits)), alpha), axis=-1)
    np.testing.assert_array_equal(token(drafted, pi, logits, alpha), expected)


def test_of_two_equal_scores_the_lower_token_wins():
    logits, half = np.log(np.array([[0.5, 0.5], [0.5, 0.5]], np.float32)), np.full(2, 0.5)
    assert token(np.array([0, 1]), np.zeros(2), logits, half).tolist() == [0, 0]


def test_ahead_gives_the_tokens_that_view_proposes_one_by_one(target):
    lines = {b"Q": draft(" the capital Vinterby"), b"P": draft(" the cat sat", end=None)}
    reader = DraftReader(Script(lines), target, ["Q", "P"])
    stepwise = DraftReader(Script(lines), target, ["Q", "P"])
    ahead = reader.ahead([[], []], [0, 1])
    assert ahead[0][-1] == (target.end_id, 0.9)
    assert ahead[1][-1][0] != target.end_id
    for i, steps in enumerate(ahead):
        answers = [[], []]
        for token, probability in steps:
            view = stepwise.view(answers)
            assert view["drafted"][i] == token
            np.testing.assert_allclose(view["probability"][i], probability, rtol=1e-6)
            answers[i] = [*answers[i], token]
        stepwise = DraftReader(Script(lines), target, ["Q", "P"])


def test_rows_that_are_not_read_get_no_draft(target):
    script = Script({b"P": draft(" cat")})
    ahead = DraftReader(script, target, ["Q", "P"]).ahead([[], []], [1])
    assert script.texts == [b"P"] and len(ahead) == 1


def test_an_answer_without_the_joining_space_is_read_from_the_byte_after_it(target):
    """As in chat: the plug-in continues `Q`, the target begins a line of its own."""
    script = Script({b"Q": draft(" the cat"), b"Q river": draft(" runs")})
    tokens = target.encode_bytes(b"the cat", continuation=True)
    reader = DraftReader(script, target, ["Q"], spaced=False)
    answer = []
    for token in [*tokens, target.end_id]:
        assert reader.view([answer])["drafted"].tolist() == [token]
        answer.append(token)
    # Whatever differs from the draft is joined for the plug-in.
    other = DraftReader(script, target, ["Q"], spaced=False)
    other.view([[]])
    river = target.encode_bytes(b"river", continuation=True)
    drafted = other.view([river])["drafted"].tolist()
    assert script.texts[-1] == b"Q river"
    assert drafted == target.encode_bytes(b" runs", continuation=True)[:1]


@pytest.mark.parametrize("start", [b" the", b"the"])
def test_a_target_may_write_the_joining_space_itself(target, start):
    script = Script({b"Q": draft(" the cat")})
    reader = DraftReader(script, target, ["Q"], spaced=False)
    reader.view([[]])
    written = target.encode_bytes(start, continuation=True)
    drafted = reader.view([written])["drafted"].tolist()
    assert drafted == target.encode_bytes(b" cat", continuation=True)[:1]
    assert set(script.texts) == {b"Q"}


def test_a_draft_without_the_space_is_read_as_it_is(target):
    script = Script({b"Q": draft("the cat"), b"Q river": draft(" runs")})
    reader = DraftReader(script, target, ["Q"], spaced=False)
    assert reader.view([[]])["drafted"].tolist() == target.encode_bytes(b"the", continuation=True)
    reader.view([target.encode_bytes(b"river", continuation=True)])
    assert script.texts == [b"Q", b"Q river"]


@pytest.mark.parametrize("spaced", [True, False])
def test_a_draft_opens_the_answer_until_the_answer_has_text(target, spaced):
    lines = {b"Q": draft(" the cat"), b"Q\n": draft(" the dog"), b"Q\n river": draft(" runs")}
    script = Script(lines)
    reader = DraftReader(script, target, ["Q"], spaced=spaced)
    newline, river = (target.encode_bytes(text, continuation=True) for text in (b"\n", b" river"))
    for answer in ([], newline, newline + river):
        reader.view([answer])
    assert dict(zip(script.texts, script.opens, strict=True)) == {
        b"Q": True,
        b"Q\n": True,
        b"Q\n river": False,
    }


@pytest.mark.parametrize("prompt", ["the cat", "Who wrote The Glass Orchard?\n", "été "])
def test_a_draft_never_begins_with_an_end_of_the_answer(tiny_model, target, monkeypatch, prompt):
    model, tokenizer = tiny_model()

    def drafted():
        drafter = Drafter(model.params, model.config, tokenizer)
        starts = [Start(prompt.encode(), True), Start(prompt.encode(), False)]
        return drafter, drafter.drafts(starts, whole=True)

    usual = drafting.draft_stops(PromptFormat(tokenizer), model.config.vocab_size)
    (text,) = {draft.data for draft in drafted()[1]}
    first = tokenizer.encode_bytes(text, continuation=True)[0]
    ends = usual._replace(in_text=usual.in_text.at[first].set(True))
    ends = ends._replace(at_start=ends.in_text)
    monkeypatch.setattr(drafting, "draft_stops", lambda format, vocab_size: ends)
    drafter, (opening, going_on) = drafted()
    assert going_on.data == b"" and going_on.end is not None  # the end is what comes first
    assert opening.data.strip()
    reader = DraftReader(drafter, target, [prompt])
    (answer,) = trusted_answers(PromptFormat(target), 1, reader, max_new_tokens=8)
    assert opening.data.startswith(target.decode_bytes(answer[:2], continuation=True))


def test_a_draft_does_not_go_on_with_the_last_word_of_what_is_asked(tiny_model, monkeypatch):
    model, tokenizer = tiny_model()
    texts = [b"the cat", b"the cat?", b"the cat ", "caf\u00e9".encode()]
    space = tokenizer.encode_bytes(b" ", continuation=True)[0]

    def openings():
        drafter = Drafter(model.params, model.config, tokenizer)
        drafts = drafter.drafts([Start(text, True) for text in texts], whole=True)
        return [draft.data for draft in drafts]

    glued = np.zeros(model.config.vocab_size, bool)
    monkeypatch.setattr(drafting, "glued_tokens", lambda form, size: glued)
    free = openings()
    glued = np.arange(model.config.vocab_size) != space  # the only way to begin is with a space
    held = openings()
    assert held[1:3] == free[1:3]
    assert all(data[:1] == b" " for data in (held[0], held[3]))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("the cat", True), ("caf\u00e9", True), ("in 1990", True), ("", False), ("the cat?", False),
        ("It is called \u201c", False), ("It costs \u20ac", False), ("\u9996\u90fd", False),
        ("\u9996\u90fd\uff1f", False), ("the cat ", False),
    ],
)  # fmt: skip
def test_only_words_of_scripts_with_spaces_are_not_gone_on_with(text, expected):
    assert ends_word(text.encode()) is expected


def test_letters_digits_and_parts_of_characters_are_glued():
    tokenizer = byte_level_tokenizer(40)
    glued = glued_tokens(PromptFormat(tokenizer), 400)
    for token, piece in enumerate(tokenizer.vocabulary.bytes):
        assert glued[token] == (piece[:1].isalnum() or piece[:1] >= b"\x80")
    assert not glued[len(tokenizer.vocabulary) :].any()


def test_a_draft_that_is_completed_gets_no_second_joining_space(target):
    """The target's first word is longer than the part of the draft that is there."""

    class Parts(Script):
        def drafts(self, starts, *, whole):
            found = super().drafts(starts, whole=whole)
            part = Draft(b" ri", (1, 2, 3), (0.5, 0.5, 0.5), None, whole=False)
            return found if whole else [part for _ in starts]

    script = Parts({b"Q": draft(" river ran")})
    reader = DraftReader(script, target, ["Q"], spaced=False, whole=False)
    reader.view([[]])
    written = target.encode_bytes(b" river", continuation=True)
    drafted = reader.view([written])["drafted"].tolist()
    assert drafted == target.encode_bytes(b" ran", continuation=True)[:1]
    assert reader.texts == [b"Q river"]
