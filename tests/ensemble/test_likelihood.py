"""How likely answers are: against the formulas, computed in NumPy from whole passes."""

import numpy as np
import pytest
from editing_cases import RECORDS, UNRELATED

from onceedit_jax import fusion, gates
from onceedit_jax.decoding.draft_reading import DraftReader
from onceedit_jax.ensemble import Ensemble
from onceedit_jax.ensemble.likelihood import fused_likelihoods, own_likelihoods
from onceedit_jax.ensemble.scoring import Text
from onceedit_jax.errors import InputError
from onceedit_jax.fusion.draft_rule import new_fact
from onceedit_jax.models.decoder import forward

PROMPTS = [RECORDS[0].prompt, UNRELATED[0].prompt, "", RECORDS[2].prompt]
ANSWERS = [" Vinterby", " the cat", "the Ask", " the Ask"]


def texts_of(target, prompts=PROMPTS):
    """Contexts with continuations; an empty one is the end token."""
    encode = target.tokenizer.encode
    heads = [encode(prompt) if prompt else [target.tokenizer.end_id] for prompt in prompts]
    pairs = zip(heads, ANSWERS, strict=True)
    return [
        Text([*head, *target.tokenizer.encode_bytes(answer.encode(), continuation=True)], len(head))
        for head, answer in pairs
    ]


def distributions(target, text):
    """`[T, V]` float64: the target's probabilities before every token of the answer."""
    row = np.array([text.tokens], np.int32)
    positions = np.arange(row.shape[1], dtype=np.int32)[None]
    logits = np.asarray(forward(target.model.params, target.model.config, row, positions)[0][0])
    shares = np.exp(logits - logits.max(-1, keepdims=True), dtype=np.float64)
    return (shares / shares.sum(-1, keepdims=True))[text.start - 1 : -1]


def of(shares, text):
    chosen = shares[np.arange(len(text.answer)), text.answer]
    return np.log(chosen).sum(), shares.argmax(-1).tolist() == text.answer


def test_a_model_by_itself_has_the_likelihood_of_its_distribution(targets):
    for target in targets:
        texts = texts_of(target)
        texts.append(Text([*texts[0].tokens, *texts[1].tokens * 5], 3))  # more than one chunk
        found = own_likelihoods(target.model.params, target.model.config, texts)
        for one, text in zip(found, texts, strict=True):
            expected, greedy = of(distributions(target, text), text)
            assert one.log_probability == pytest.approx(expected, rel=1e-4)
            assert one.greedy == greedy
        best = Text([*texts[0].tokens[: texts[0].start]], texts[0].start)
        token = int(distributions(target, texts[0])[0].argmax())
        (greedy,) = own_likelihoods(
            target.model.params, target.model.config, [Text([*best.tokens, token], best.start)]
        )
        assert greedy.greedy


@pytest.mark.parametrize("rule", [fusion.draft(), fusion.vocabulary(), fusion.context()])
def test_prompts_out_of_reach_have_the_targets_own_numbers(plugin, targets, rule):
    ensemble = Ensemble(plugin, targets, rule=rule)
    for target in ensemble.prepared:
        model = target.target.model
        texts = texts_of(target.target)
        found = fused_likelihoods(ensemble.prepared_plugin, target, PROMPTS, texts)
        alone = own_likelihoods(model.params, model.config, texts)
        same = [one == other for one, other in zip(found, alone, strict=True)]
        assert same == [False, True, True, False]  # to the last bit


def test_a_draft_is_mixed_in_by_its_formula(plugin, targets):
    ensemble = Ensemble(plugin, targets[:1], gate=gates.fixed(0.3))
    (target,) = ensemble.prepared
    text = texts_of(target.target)[0]
    (found,) = fused_likelihoods(ensemble.prepared_plugin, target, PROMPTS[:1], [text])
    reader = DraftReader(
        ensemble.prepared_plugin.drafter, target.target.tokenizer, PROMPTS[:1], adapters=[-1]
    )
    shares = distributions(target.target, text)
    for step in range(len(text.answer)):
        view = reader.view([text.answer[:step]])
        drafted, sure = int(view["drafted"][0]), float(view["probability"][0])
        if drafted >= 0:
            shares[step] *= 0.7
            shares[step, drafted] += 0.3 * sure
            shares[step] /= shares[step].sum()
    expected, greedy = of(shares, text)
    assert found.log_probability == pytest.approx(expected, rel=1e-4)
    assert found.greedy == greedy


def test_the_rule_context_is_the_target_after_the_fact(plugin, targets):
    ensemble = Ensemble(plugin, targets[:1], rule=fusion.context())
    (target,) = ensemble.prepared
    text = texts_of(target.target)[0]
    (found,) = fused_likelihoods(ensemble.prepared_plugin, target, PROMPTS[:1], [text])
    told = f"{new_fact(RECORDS[0].prompt, RECORDS[0].target)}\n{PROMPTS[0]}"
    head = target.target.tokenizer.encode(told)
    after = Text([*head, *text.answer], len(head))
    (expected,) = own_likelihoods(target.target.model.params, target.target.model.config, [after])
    assert found.log_probability == pytest.approx(expected.log_probability, rel=1e-5)


def test_the_new_answer_becomes_likely_and_greedy(plugin, tiny_model):
    from onceedit_jax.ensemble import Target

    target = Target(*tiny_model(40, 2))  # the plug-in's tokenizer
    for rule, gate in ((fusion.draft(), None), (fusion.vocabulary(), None)):
        ensemble = Ensemble(plugin, [target], rule=rule, gate=gate)
        (prepared,) = ensemble.prepared
        texts = [text for i, text in enumerate(texts_of(target)) if i in (0, 3)]
        prompts = [PROMPTS[0], PROMPTS[3]]
        found = fused_likelihoods(ensemble.prepared_plugin, prepared, prompts, texts)
        alone = own_likelihoods(target.model.params, target.model.config, texts)
        for after, before in zip(found, alone, strict=True):
            assert after.greedy and not before.greedy
            assert after.log_probability > before.log_probability


def test_a_rule_without_a_distribution_is_refused(plugin, targets):
    rule = fusion.relative(search="gradient", allow_lossy=True)
    ensemble = Ensemble(plugin, targets[:1], rule=rule)
    text = texts_of(targets[0])[0]
    with pytest.raises(InputError, match="has no probability for a given text"):
        fused_likelihoods(ensemble.prepared_plugin, ensemble.prepared[0], PROMPTS[:1], [text])
