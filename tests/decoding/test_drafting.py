"""Drafting: the target reads the plug-in's text in its own tokens, and may leave it."""

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import byte_level_tokenizer

from onceedit_jax.decoding.drafting import Draft, Drafter, DraftReader
from onceedit_jax.fusion.mixing import drafted_token


class Script:
    """A drafter that says what it is told to, and counts how often it is asked."""

    def __init__(self, lines):
        self.lines, self.asked = lines, []

    def drafts(self, texts, *, whole):
        self.asked += texts
        return [self.lines[text] for text in texts]


def draft(text, end=0.9):
    data = text.encode()
    return Draft(data, tuple(range(1, len(data) + 1)), (0.5,) * len(data), end)


@pytest.fixture(scope="module")
def target():
    return byte_level_tokenizer(80)


def test_the_draft_is_read_in_the_targets_own_tokens_up_to_its_end_token(target):
    reader = DraftReader(Script({b"Q": draft(" the capital Vinterby")}), target, ["Q"])
    wanted = target.encode_bytes(b" the capital Vinterby", continuation=True)
    answer = []
    for token in [*wanted, target.end_id]:
        assert reader.view([answer])["drafted"].tolist() == [token]
        answer.append(token)


def test_a_draft_is_drawn_once_while_it_is_followed_and_anew_when_it_is_left(target):
    away = target.encode_bytes(b" river", continuation=True)
    script = Script({b"Q": draft(" the cat"), b"Q river": draft(" runs")})
    reader = DraftReader(script, target, ["Q"])
    reader.view([[]])
    found = reader.view([away])["drafted"].tolist()
    assert script.asked == [b"Q", b"Q river"]
    assert found == target.encode_bytes(b" runs", continuation=True)[:1]


def test_a_draft_cut_short_is_drawn_anew_when_it_is_used_up(target):
    script = Script({b"Q": draft(" cat", end=None), b"Q cat": draft(" sat")})
    reader = DraftReader(script, target, ["Q"])
    reader.view([target.encode_bytes(b" cat", continuation=True)])
    reader.view([target.encode_bytes(b" cat", continuation=True)])
    assert script.asked[-1] == b"Q cat"


def test_the_probability_of_text_is_that_of_the_tokens_that_begin_in_it():
    found = Draft(b" Vinterby", (4, 9), (0.5, 0.25), 0.9)
    assert found.probability(0, 9) == 0.125
    assert found.probability(0, 4) == 0.5
    assert found.probability(4, 9) == 0.25
    assert found.probability(6, 9) == 1.0  # its token has begun before: nothing more to doubt


def test_drafts_of_a_real_decoder_are_its_greedy_text(tiny_model):
    model, tokenizer = tiny_model()
    drafter = Drafter(model.params, model.config, tokenizer)
    alone = drafter.drafts([b"the cat"], whole=True)[0]
    together = Drafter(model.params, model.config, tokenizer).drafts(
        [b"Who wrote", b"the cat"], whole=True
    )[1]
    assert alone.data == together.data
    assert len(alone.ends) == len(alone.probabilities)
    assert all(0 < p <= 1 for p in alone.probabilities)
    drafter.params = None  # what is known is not written again
    assert drafter.drafts([b"the cat"], whole=True) == [alone]


def test_a_draft_drawn_in_two_parts_is_the_draft_drawn_at_once(tiny_model):
    model, tokenizer = tiny_model()
    texts = [b"the cat", b"Who wrote", b"the capital of"]
    parts, once = (Drafter(model.params, model.config, tokenizer) for _ in range(2))
    for first, second, whole in zip(
        parts.drafts(texts, whole=False),
        parts.drafts(texts, whole=True),
        once.drafts(texts, whole=True),
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


def test_drafts_drawn_in_parts_propose_what_whole_drafts_do(tiny_model, target):
    model, tokenizer = tiny_model()
    drafter = Drafter(model.params, model.config, tokenizer)
    (draft,) = drafter.drafts([b"the cat"], whole=True)
    followed = target.encode_bytes(draft.data, continuation=True)
    views = []
    for whole in (True, False):
        drafter.forget()
        reader = DraftReader(drafter, target, ["the cat"], whole=whole)
        views.append([reader.view([followed[:n]]) for n in range(len(followed) + 1)])
    drafter.forget()
    # All at once: what is accepted may go past the part that is drawn.
    reader = DraftReader(drafter, target, ["the cat"], whole=False)
    reader.view([[]])
    views.append([*views[0][:-1], reader.view([followed])])
    for seen in views[1:]:
        for one, other in zip(views[0], seen, strict=True):
            assert one["drafted"].tolist() == other["drafted"].tolist()
            np.testing.assert_allclose(one["probability"], other["probability"], rtol=1e-4)


def scores(drafted, pi, target_probs, alpha):
    """`alpha * pi * [v = d] + (1 - alpha) * p_l(v)` as it is written, in float64."""
    found = (1 - alpha.astype(float))[:, None] * target_probs.astype(float)
    rows = np.flatnonzero(drafted >= 0)
    found[rows, drafted[rows]] += alpha[rows].astype(float) * pi[rows]
    return found


@given(st.integers(0, 2**32 - 1))
def test_the_drafts_token_wins_where_it_has_the_largest_score(seed):
    rng = np.random.default_rng(seed)
    logits = 2 * rng.normal(size=(8, 6)).astype(np.float32)
    drafted = rng.integers(-1, 6, 8)
    pi, alpha = rng.random(8).astype(np.float32), rng.random(8).astype(np.float32)
    wanted = np.argmax(scores(drafted, pi, np.asarray(jax.nn.softmax(logits)), alpha), axis=-1)
    np.testing.assert_array_equal(drafted_token(drafted, pi, logits, alpha), wanted)


def test_equal_scores_go_to_the_lower_token():
    logits, half = np.log(np.array([[0.5, 0.5], [0.5, 0.5]], np.float32)), np.full(2, 0.5)
    found = drafted_token(np.array([0, 1]), np.zeros(2), logits, half)
    assert found.tolist() == [0, 0]


def test_what_lies_ahead_is_what_would_be_proposed_token_by_token(target):
    lines = {b"Q": draft(" the capital Vinterby"), b"P": draft(" the cat sat", end=None)}
    reader = DraftReader(Script(lines), target, ["Q", "P"])
    slow = DraftReader(Script(lines), target, ["Q", "P"])
    ahead = reader.ahead([[], []], [0, 1])
    assert ahead[0][-1] == (target.end_id, 0.9)
    assert ahead[1][-1][0] != target.end_id
    for i, steps in enumerate(ahead):
        answers = [[], []]
        for token, probability in steps:
            view = slow.view(answers)
            assert view["drafted"][i] == token
            np.testing.assert_allclose(view["probability"][i], probability, rtol=1e-6)
            answers[i] = [*answers[i], token]
        slow = DraftReader(Script(lines), target, ["Q", "P"])


def test_rows_that_are_not_asked_about_draw_no_draft(target):
    script = Script({b"P": draft(" cat")})
    found = DraftReader(script, target, ["Q", "P"]).ahead([[], []], [1])
    assert script.asked == [b"P"] and len(found) == 1
