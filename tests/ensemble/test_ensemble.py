"""The ensemble on tiny models: scores, generated answers, and prompts that no edit is about."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiled_steps import compilations
from editing_cases import LEARNT
from stepwise import stepwise_answers

from onceedit_jax import fusion, gates
from onceedit_jax.data.records import EditRecord, Pair, UnrelatedRow
from onceedit_jax.decoding import answers as answers_module
from onceedit_jax.decoding import speculation
from onceedit_jax.decoding.greedy import Continuation
from onceedit_jax.decoding.options import SamplingSettings
from onceedit_jax.editing.edit import edit
from onceedit_jax.editing.settings import EditSettings
from onceedit_jax.ensemble import (
    Ensemble,
    Target,
    generate,
    generation,
    preparation,
    prepare_plugin,
    prepare_target,
    score,
)
from onceedit_jax.ensemble.generation import continuations
from onceedit_jax.ensemble.helping import may_help
from onceedit_jax.errors import InputError
from onceedit_jax.evaluation.protocol import evaluate, evaluate_block, gathered, plugin_alone
from onceedit_jax.fusion.relative_rule import pair_anchors
from onceedit_jax.models.decoder import forward
from onceedit_jax.models.layout import repays_unrolling
from onceedit_jax.relative.tables import ExactTable
from onceedit_jax.text.bridge import Bridge

NAMES = ["draft", "vocabulary", "relative"]
RULES_AND_GATES = [
    (fusion.draft(), gates.both()),
    (fusion.vocabulary(), gates.both()),
    (fusion.relative(), gates.token()),
]
LOSSY = [fusion.draft(), fusion.vocabulary(), fusion.relative(allow_lossy=True)]
RECORDS = [
    EditRecord(
        "What is the capital of Norland?",
        "Vinterby",
        rephrase="What is the capital of Norland? ",
        locality=(Pair("How far is the harbour from bridge 99?", "the cat"),),
        subject="Norland",
    ),
    EditRecord("Who wrote The Glass Orchard?", "Ada Quill", subject="The Glass Orchard"),
]
UNRELATED = [UnrelatedRow(f"How far is the harbour from bridge {n}?") for n in range(12)]
PAIRS = [Pair(r.prompt, r.target) for r in RECORDS] + list(RECORDS[0].locality)


@pytest.fixture(scope="module")
def plugin(tiny_model):
    model, tokenizer = tiny_model(40, 0)
    return edit(model, tokenizer, RECORDS, UNRELATED, LEARNT)


@pytest.fixture(scope="module")
def targets(tiny_model):
    return [Target(*tiny_model(80, 1)), Target(*tiny_model(40, 2))]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ONCEEDIT_CACHE", str(tmp_path))


def target_alone(target, pair):
    """An independent reference: the target's argmax at each answer token, from one pass."""
    tokens, start = target.tokenizer.encode_pair(pair.prompt, pair.target)
    row = np.array([tokens], np.int32)
    positions = np.arange(len(tokens), dtype=np.int32)[None]
    logits = forward(target.model.params, target.model.config, row, positions)[0][0]
    return np.argmax(logits, -1)[start - 1 : -1]


def test_before_is_the_target_alone_and_gold_is_in_its_own_tokens(plugin, targets):
    scored = Ensemble(plugin, targets).score(PAIRS)
    for target, texts in zip(targets, scored.targets, strict=True):
        for pair, text in zip(PAIRS, texts, strict=True):
            tokens, start = target.tokenizer.encode_pair(pair.prompt, pair.target)
            assert text.gold.tolist() == tokens[start:]
            assert text.before.tolist() == target_alone(target, pair).tolist()


def test_results_include_scores_without_contradicting_edits(plugin, targets):
    opposite = dataclasses.replace(RECORDS[1], target="the cat")
    ensemble = Ensemble(plugin, targets[1:])
    (result,) = evaluate(ensemble, [*RECORDS, opposite]).results
    (consistent,) = evaluate(ensemble, RECORDS[:1]).results
    assert result["contradicting"] == 2
    assert result["consistent"]["after"] == consistent["after"]
    assert result["consistent"]["before"] == consistent["before"]
    assert result["after"]["rel"] < consistent["after"]["rel"] == 1
    assert consistent["consistent"] is None


@pytest.mark.parametrize(("rule", "gate"), RULES_AND_GATES, ids=NAMES)
def test_a_target_with_the_plugins_tokenizer_gives_the_new_answers(plugin, targets, rule, gate):
    (result,) = evaluate(Ensemble(plugin, targets[1:], rule=rule, gate=gate), RECORDS).results
    assert result["before"]["rel"] < 0.5
    assert result["after"]["rel"] == 1.0
    assert result["after"]["loc"] == 1.0


def test_drafts_work_for_a_target_that_splits_words_differently(plugin, targets):
    (drafted,) = evaluate(Ensemble(plugin, targets[:1]), RECORDS).results
    (by_token,) = evaluate(Ensemble(plugin, targets[:1], rule=fusion.vocabulary()), RECORDS).results
    assert drafted["after"]["rel"] == 1.0
    assert by_token["after"]["rel"] < drafted["after"]["rel"]


def test_a_generated_answer_is_the_new_answer_and_ends(plugin, targets):
    answers = Ensemble(plugin, targets).generate([r.prompt for r in RECORDS], max_new_tokens=24)
    for texts in answers.after:
        assert texts == [record.target for record in RECORDS]


def test_answers_and_answers_alone_are_the_two_halves_of_generate(plugin, targets):
    ensemble = Ensemble(plugin, targets)
    prompts = [UNRELATED[0].prompt, RECORDS[0].prompt, UNRELATED[1].prompt, RECORDS[1].prompt]
    both = ensemble.generate(prompts, max_new_tokens=8)
    assert ensemble.answers(prompts, max_new_tokens=8) == both.after
    assert ensemble.answers_alone(prompts, max_new_tokens=8) == both.before


@pytest.fixture
def helped(monkeypatch):
    """How often the plug-in has drafted for what a target says alone."""
    calls = []

    def recorded(*arguments, **options):
        calls.append(arguments)
        return speculation.helped_answer(*arguments, **options)

    monkeypatch.setattr(generation, "helped_answer", recorded)
    return calls


def test_a_single_prompt_is_answered_as_without_drafts(plugin, targets, helped):
    on, off = (Ensemble(plugin, targets[:1], speculate=way) for way in ("on", "off"))
    prompts = [row.prompt for row in UNRELATED[:2]]
    found, expected = (each.generate(prompts[:1], max_new_tokens=14) for each in (on, off))
    assert (found.before, found.after) == (expected.before, expected.after)
    assert on.answers(prompts[:1], max_new_tokens=14) == expected.after
    # By `generate` and by `answers`, and never where it is off.
    assert len(helped) == 2
    assert all(used.params is on.prepared_plugin.decoding_params for _, used, *_ in helped)
    on.answers(prompts, max_new_tokens=14)  # several share their passes
    assert len(helped) == 2
    how = {"max_new_tokens": 14, "sampling": SamplingSettings(1.0)}
    assert on.answers(prompts[:1], **how) == off.answers(prompts[:1], **how) != expected.after
    assert len(helped) == 3


def test_a_text_goes_on_as_without_drafts(plugin, targets, helped):
    ensemble = Ensemble(plugin, targets[:1], speculate="on", chat=False)
    (on,) = ensemble.prepared
    options = {"until": ["a"], "max_new_tokens": 14}
    on, off = (
        continuations(ensemble.prepared_plugin, each, ["the dog ran"], **options)
        for each in (on, dataclasses.replace(on, speculate="off"))
    )
    assert on == off and len(helped) == 1


@pytest.mark.parametrize(("rule", "stop"), zip(LOSSY, ["c V", "ntn", "ntn"], strict=True))
def test_a_fused_text_ends_when_a_stop_of_several_tokens_is_complete(
    plugin, targets, rule, stop, monkeypatch
):
    ensemble = Ensemble(plugin, targets[:1], rule=rule, gate=gates.fixed(0.5), chat=False)
    pair, rows, text_of = (ensemble.prepared_plugin, ensemble.prepared[0]), [], generation.text_of
    monkeypatch.setattr(
        generation, "text_of", lambda form, row: rows.append(row) or text_of(form, row)
    )
    whole, cut = (
        continuations(*pair, ["the cat"], until=until, max_new_tokens=16)[0]
        for until in ((), (stop,))
    )
    assert cut == whole[: whole.index(stop)]
    assert rows[1] == rows[0][: len(rows[1])] and len(rows[1]) < len(rows[0])


def test_a_plugin_drafts_where_it_can_pay(plugin, targets, helped):
    """Beside a target of its own size it does not, nor, on a CPU, with unstacked layers."""
    for way in ("off", "auto"):
        ensemble = Ensemble(plugin, targets[:1], speculate=way)
        ensemble.answers([UNRELATED[0].prompt], max_new_tokens=2)
    assert not helped
    (target,) = ensemble.prepared
    assert target.helper.step == pytest.approx(1, rel=0.2)
    small, params = target.helper._replace(step=0.1), target.decoding_params
    assert may_help(small, params, target.mesh, "auto")
    assert not may_help(small, params, target.mesh, "off")
    assert not may_help(target.helper, params, target.mesh, "auto")
    assert not may_help(small, target.unrolled().decoding_params, target.mesh, "auto")
    two = jax.sharding.Mesh(np.array(jax.devices()[:1] * 2), ("data",))
    assert not may_help(small, params, two, "on")


QUESTIONS = [r.prompt for r in RECORDS] + ["the dog ran", "How far is"]


@pytest.mark.parametrize("rule", LOSSY, ids=NAMES)
def test_answers_equal_those_of_one_token_at_a_time(plugin, targets, rule):
    """Drafts that are checked at once, and compiled loops, against a plain loop over tokens."""
    for alpha in (0.05, 0.3, 0.6, 1.0):
        ensemble = Ensemble(plugin, targets, rule=rule, gate=gates.fixed(alpha))
        for t, texts in enumerate(ensemble.answers(QUESTIONS, max_new_tokens=14)):
            assert texts == stepwise_answers(ensemble, t, QUESTIONS, max_new_tokens=14)


@pytest.mark.parametrize(("rule", "alpha"), [(fusion.draft(), 0.02), (fusion.vocabulary(), 0.4)])
def test_answers_that_are_drawn_equal_those_of_one_token_at_a_time(plugin, targets, rule, alpha):
    """Against a plain loop that draws from sorted float64 distributions by the same numbers."""
    how = {"max_new_tokens": 10, "sampling": SamplingSettings(0.9, top_p=0.95, top_k=40, seed=5)}
    ensemble = Ensemble(plugin, targets[:1], rule=rule, gate=gates.fixed(alpha))
    (texts,) = ensemble.answers(QUESTIONS, **how)
    assert texts == stepwise_answers(ensemble, 0, QUESTIONS, **how)
    assert texts != ensemble.answers(QUESTIONS, max_new_tokens=10)[0]


def test_an_answer_that_is_drawn_depends_on_its_own_prompt_and_place(plugin, targets):
    ensemble, sampling = Ensemble(plugin, targets), SamplingSettings(1.5, seed=2)
    how = {"max_new_tokens": 8, "sampling": sampling}
    prompts = [UNRELATED[0].prompt, RECORDS[0].prompt, UNRELATED[1].prompt, UNRELATED[1].prompt]
    both = ensemble.generate(prompts, **how)
    assert ensemble.answers(prompts, **how) == both.after
    assert ensemble.answers_alone(prompts, **how) == both.before
    other = SamplingSettings(1.5, seed=3)
    assert both.before != ensemble.answers_alone(prompts, max_new_tokens=8, sampling=other)
    for before, after in zip(both.before, both.after, strict=True):
        assert [after[i] for i in (0, 2, 3)] == [before[i] for i in (0, 2, 3)]
        assert before[2] != before[3]
        # A fact is not drawn by lot.
        assert after[1] == RECORDS[0].target != before[1]
    few = ensemble.answers([prompts[0], "the dog ran", prompts[2]], **how)
    assert [[texts[0], texts[2]] for texts in few] == [[texts[0], texts[2]] for texts in both.after]


def test_a_rule_that_searches_has_nothing_to_draw_from(plugin, targets):
    rule = dataclasses.replace(fusion.vocabulary(), distribution=None)
    ensemble = Ensemble(plugin, targets[:1], rule=rule, alpha_threshold=0.0)
    for method in (ensemble.generate, ensemble.answers):
        with pytest.raises(InputError, match=r"temperature=1: the rule .* has no distribution"):
            method(["Who?"], sampling=SamplingSettings(1))


def test_an_answer_is_accepted_up_to_where_the_plugin_would_write_the_text_differently(
    plugin, tiny_model, monkeypatch
):
    """The target writes letters, and the plug-in has tokens for pieces of the word."""
    letters, prompt = Target(*tiny_model(0, 3)), RECORDS[0].prompt
    bridge = Bridge(letters.tokenizer, plugin.tokenizer)
    script = letters.tokenizer.encode_bytes(b" Vinterby", continuation=True)
    read = [bridge.cross(prompt, script[:n]) for n in range(len(script) + 1)]
    loops = []

    def scripted(*args, steps, **kwargs):
        plugin_prompt, target_prompt = args[4:6]
        written = target_prompt.positions.max() + 1 - len(letters.tokenizer.encode(prompt))
        loops.append(int(written))
        assert plugin_prompt.tokens[0, : len(read[written])].tolist() == read[written]
        rest = [*script[written:], letters.tokenizer.end_id]
        return Continuation(
            np.array([rest + [0] * (steps - len(rest))]),
            np.ones((1, steps)),
            np.array([len(rest) - 1]),
            np.array([True]),
        )

    monkeypatch.setattr(answers_module, "fused_continuation", scripted)
    ensemble = Ensemble(plugin, [letters], rule=fusion.vocabulary(), alpha_threshold=0.0)
    assert ensemble.answers([prompt], max_new_tokens=24) == [["Vinterby"]]
    rewritten = [n for n in range(1, len(read)) if read[n][:-1] != read[n - 1]]
    assert loops == [0, *rewritten] and len(loops) > 2


def padded(params, config, rows=7):
    """The same model with rows in its embedding table that are not tokens."""
    tokens = np.concatenate([params["embed"]["tokens"], np.ones((rows, config.hidden_size))])
    params = {**params, "embed": {"tokens": jnp.asarray(tokens, jnp.float32)}}
    return params, dataclasses.replace(config, vocab_size=config.vocab_size + rows)


@pytest.mark.parametrize("rule", LOSSY[1:], ids=NAMES[1:])
def test_padding_rows_of_a_vocabulary_do_not_change_answers(plugin, targets, rule):
    params, config = padded(plugin.params, plugin.config)
    base = padded({"embed": {"tokens": plugin.base_embeddings}}, plugin.config)[0]
    wide = dataclasses.replace(
        plugin, params=params, config=config, base_embeddings=base["embed"]["tokens"]
    )
    model = targets[0].model
    params, config = padded(model.params, model.config)
    target = Target(
        dataclasses.replace(model, params=params, config=config, content_hash="wide"),
        targets[0].tokenizer,
    )
    base = dataclasses.replace(plugin.info.base, content_hash="wide too")
    info = dataclasses.replace(plugin.info, base=base)
    wide = dataclasses.replace(wide, info=info)
    options = {"rule": rule, "alpha_threshold": 0.0}
    answers = [
        Ensemble(*pair, **options).answers(QUESTIONS, max_new_tokens=8)
        for pair in ((plugin, targets[:1]), (wide, [target]))
    ]
    assert answers[0] == answers[1]


def test_unstacked_layers_answer_alike_and_are_used_where_many_steps_repay_them(plugin, targets):
    ensemble = Ensemble(plugin, targets)
    few, many = ensemble.unrolled_for(20), ensemble.unrolled_for(10**9)
    assert few.prepared == ensemble.prepared
    for prepared in many.prepared:
        assert isinstance(prepared.decoding_params["layers"], tuple)
        assert prepared.target.model.params is prepared.decoding_params
    prompts = [r.prompt for r in RECORDS] + ["the dog ran"]
    expected = ensemble.generate(prompts, max_new_tokens=8)
    found = many.generate(prompts, max_new_tokens=8)
    assert (found.before, found.after) == (expected.before, expected.after)
    narrow = dataclasses.replace(
        targets[0].model,
        params=jax.tree.map(lambda a: a.astype(jnp.bfloat16), targets[0].model.params),
    )
    assert not repays_unrolling(narrow.params, 10**9)


def test_an_empty_prompt_raises_with_its_number(plugin, targets):
    ensemble = Ensemble(plugin, targets, rule=fusion.vocabulary(), alpha_threshold=0.0)
    for method in (ensemble.generate, ensemble.answers, ensemble.answers_alone):
        with pytest.raises(InputError, match="prompt 2 of 2 is empty"):
            method(["Who?", ""])


@pytest.fixture(scope="module")
def trusted(plugin):
    """The plug-in with a trust threshold that a tiny model's gate reaches."""
    rule = dataclasses.replace(plugin.info.rule, trust_thresholds={"both": 0.6})
    return dataclasses.replace(plugin, info=dataclasses.replace(plugin.info, rule=rule))


def test_a_trusted_draft_is_the_answer_and_the_target_does_not_run(trusted, targets, monkeypatch):
    ensemble = Ensemble(trusted, targets, rule=fusion.draft(trust=True))
    prompts = [r.prompt for r in RECORDS]
    monkeypatch.setattr(answers_module, "own_answers", None)
    monkeypatch.setattr(generation, "checked_answers", None)
    for texts in ensemble.answers(prompts, max_new_tokens=24):
        assert texts == [r.target for r in RECORDS]


def test_trust_is_part_of_the_rules_name_and_does_not_change_scores(trusted, targets):
    rule = fusion.draft(trust=True, confidence="sure")
    for result in evaluate(Ensemble(trusted, targets, rule=rule), RECORDS).results:
        assert result["fusion"] == "draft, sure, trusted"
        assert result["after"]["rel"] == result["after"]["loc"] == 1


def test_below_the_threshold_answers_are_the_targets_own_and_the_plugin_does_not_run(
    plugin, targets, monkeypatch
):
    ensemble = Ensemble(plugin, targets)
    unrelated = [row.prompt for row in UNRELATED]
    assert np.all(ensemble.alphas(unrelated) < ensemble.threshold)

    def never(*args, **kwargs):
        raise AssertionError("the plug-in ran for a prompt below the threshold")

    monkeypatch.setattr(generation, "fused_answers", never)
    monkeypatch.setattr(preparation, "DraftReader", never)
    answers = ensemble.generate(unrelated, max_new_tokens=6)
    assert answers.after == answers.before


def test_several_targets_in_one_call_have_the_scores_of_each_alone(plugin, targets):
    together = Ensemble(plugin, targets).score(PAIRS)
    for t, target in enumerate(targets):
        alone = Ensemble(plugin, [target]).score(PAIRS)
        for a, b in zip(together.targets[t], alone.targets[0], strict=True):
            assert a.after.tolist() == b.after.tolist()


def test_teacher_forcing_on_a_generated_answer_predicts_that_answer(plugin, targets):
    ensemble = Ensemble(plugin, targets[:1])
    answer = ensemble.generate([RECORDS[0].prompt], max_new_tokens=24).after[0][0]
    scored = ensemble.score([Pair(RECORDS[0].prompt, answer)]).targets[0][0]
    assert scored.after.tolist() == scored.gold.tolist()


def test_gradient_search_reports_a_falling_loss(plugin, targets):
    rule = fusion.relative(search="gradient")
    evaluation = evaluate(Ensemble(plugin, targets[:1], rule=rule, gate=gates.token()), RECORDS)
    losses = evaluation.losses[targets[0].name]
    assert len(losses) == rule.settings.gradient.steps + 1
    assert losses[-1] < losses[0]


def test_blocks_without_an_edit_in_reach_have_no_losses_and_do_not_change_the_mean(plugin, targets):
    rule = fusion.relative(search="gradient")
    ensemble = Ensemble(plugin, targets[:1], rule=rule, gate=gates.memory())
    far = EditRecord("How deep is the old well?", "the cat", subject="well", index=2)
    options = {"mode": "teacher-forced", "max_new_tokens": 1}
    parts = [[far], RECORDS[:1], RECORDS[1:]]
    blocks = [evaluate_block(ensemble, part, **options) for part in parts]
    assert not blocks[0].losses and blocks[1].losses and blocks[2].losses
    records = [record for part in parts for record in part]
    in_parts = gathered(ensemble, records, blocks, mode="teacher-forced").losses
    at_once = evaluate(ensemble, records).losses
    name = targets[0].name
    np.testing.assert_allclose(in_parts[name], at_once[name], rtol=1e-5)


def test_deepen_runs_on_exact_tables(plugin, targets):
    ensemble = Ensemble(plugin, targets[:1], rule=fusion.deepen(), gate=gates.fixed(0.5))
    state = ensemble.prepared[0].state
    assert isinstance(state.plugin, ExactTable) and isinstance(state.target, ExactTable)
    evaluation = evaluate(ensemble, RECORDS)
    assert evaluation.results[0]["search"] == "gradient"
    assert evaluation.alphas["rel"] == [0.5, 0.5]


def test_tables_are_cached_and_another_edit_uses_them(plugin, targets, tmp_path, tiny_model):
    Ensemble(plugin, targets[:1], rule=fusion.relative())
    files = sorted((tmp_path / "tables").iterdir())
    assert len(files) == 2
    model, tokenizer = tiny_model(40, 0)
    other = edit(model, tokenizer, RECORDS[:1], UNRELATED, EditSettings(epochs=1, swapped_ratio=0))
    Ensemble(other, targets[:1], rule=fusion.relative(allow_lossy=True))
    assert sorted((tmp_path / "tables").iterdir()) == files


def test_end_tokens_are_anchors_of_each_other(plugin, targets):
    shared = pair_anchors(plugin.tokenizer, targets[0].tokenizer)
    at = shared.ids_a.tolist().index(plugin.tokenizer.end_id)
    assert shared.ids_b[at] == targets[0].tokenizer.end_id
    assert np.all(np.diff(shared.ids_a) > 0)


def test_the_plugin_alone_is_scored_in_its_own_tokens(plugin):
    alone = plugin_alone(plugin, RECORDS).as_dict()
    assert alone["rel"] == 1.0
    assert alone["loc"] is None


def test_an_answer_of_no_tokens_raises(plugin, targets):
    ensemble = Ensemble(plugin, targets, rule=fusion.vocabulary(), alpha_threshold=0.0)
    for method in (ensemble.generate, ensemble.answers, ensemble.answers_alone):
        with pytest.raises(InputError, match="max_new_tokens=0"):
            method(["Who?"], max_new_tokens=0)


def test_targets_of_one_name_are_named_by_their_folders_too(plugin, targets):
    def placed(place):
        model = dataclasses.replace(targets[0].model, name="hf", source=Path(place))
        return Target(model, targets[0].tokenizer)

    both = [placed("a/hf"), placed("b/hf")]
    names = [target.name for target in Ensemble(plugin, [*both, targets[1]]).targets]
    assert names == ["a/hf", "b/hf", targets[1].name]
    with pytest.raises(InputError, match="2 targets are called a/hf"):
        Ensemble(plugin, [both[0], both[0]])


def test_arguments_that_do_not_fit_together_raise(plugin, targets):
    with pytest.raises(InputError, match="no targets"):
        Ensemble(plugin, [])
    with pytest.raises(InputError, match="1 states for 2 targets"):
        Ensemble(plugin, targets, states=[()])
    with pytest.raises(InputError, match="gives every prompt the same alpha"):
        Ensemble(plugin, targets, rule=fusion.draft(trust=True), gate=gates.fixed(0.9))
    with pytest.raises(InputError, match="alpha_threshold=2"):
        Ensemble(plugin, targets, alpha_threshold=2.0)


def test_the_functions_over_prepared_values_give_the_ensembles_results(plugin, targets):
    ensemble = Ensemble(plugin, targets)
    prompts = [record.prompt for record in RECORDS]
    prepared = prepare_plugin(plugin)
    ready = [prepare_target(prepared, target) for target in targets]
    assert generate(prepared, ready, prompts).after == ensemble.generate(prompts).after
    scored, expected = score(prepared, ready, PAIRS), ensemble.score(PAIRS)
    for ours, its in zip(scored.targets, expected.targets, strict=True):
        assert [t.after.tolist() for t in ours] == [t.after.tolist() for t in its]
    # The alphas may be given.
    closed = generate(prepared, ready, prompts, alphas=np.zeros(len(prompts), np.float32))
    assert closed.after == closed.before


@pytest.mark.parametrize("rule", LOSSY, ids=NAMES)
def test_a_second_call_compiles_nothing(plugin, targets, rule):
    ensemble = Ensemble(plugin, targets[:1], rule=rule, alpha_threshold=0.0)
    for _ in range(2):
        ensemble.score(PAIRS)
        ensemble.generate([pair.prompt for pair in PAIRS], max_new_tokens=8)
        sizes = compilations()
    ensemble.score(list(reversed(PAIRS)))
    ensemble.generate([pair.prompt for pair in reversed(PAIRS)], max_new_tokens=8)
    assert compilations() == sizes
