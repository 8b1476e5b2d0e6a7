"""Targets with a chat template: they read the conversation, the plug-in reads the plain text."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from editing_cases import LEARNT
from stepwise import stepwise_answers
from support import byte_level_tokenizer, tiny_config
from tiny_tokenizers import TEMPLATES, with_template

from onceedit_jax import fusion, gates
from onceedit_jax.data.records import EditRecord, Pair, UnrelatedRow
from onceedit_jax.decoding.answers import own_answers
from onceedit_jax.decoding.drafting import Drafter
from onceedit_jax.editing.edit import edit
from onceedit_jax.editing.settings import EditSettings
from onceedit_jax.ensemble import Ensemble, Target, prepare_plugin, prepare_target
from onceedit_jax.errors import InputError
from onceedit_jax.evaluation.protocol import evaluate
from onceedit_jax.models.parameters import init_params
from onceedit_jax.text.prompts import PromptFormat
from onceedit_jax.text.tokenizer import Tokenizer

RECORDS = [
    EditRecord("What is the capital of Norland?", "Vinterby", subject="Norland"),
    EditRecord("Who wrote The Glass Orchard?", "Ada Quill", subject="The Glass Orchard"),
]
UNRELATED = [UnrelatedRow(f"How far is the harbour from bridge {n}?") for n in range(12)]
PROMPTS = [record.prompt for record in RECORDS]
PAIRS = [Pair(record.prompt, record.target) for record in RECORDS]
RULES = [fusion.draft(), fusion.vocabulary(), fusion.relative(allow_lossy=True)]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ONCEEDIT_CACHE", str(tmp_path))


@pytest.fixture(scope="module")
def plugin(tiny_model):
    model, tokenizer = tiny_model(40, 0)
    return edit(model, tokenizer, RECORDS, UNRELATED, LEARNT)


@pytest.fixture(scope="module")
def chat_target(tiny_model):
    """Makes a target with a chat template: `chat_target(template)`."""

    def make(template="chatml", end_ids=()):
        hf = with_template(byte_level_tokenizer(80).hf, template)
        tokenizer = Tokenizer(hf, end_ids=[hf.get_vocab()[end] for end in end_ids])
        config = tiny_config(len(tokenizer.vocabulary))
        model = dataclasses.replace(
            tiny_model(80, 1)[0],
            config=config,
            params=init_params(config, jax.random.key(7)),
            name=f"chat-{template}",
            content_hash=f"chat {template}",
        )
        return Target(model, tokenizer)

    return make


def without_template(target):
    hf = with_template(byte_level_tokenizer(80).hf, "chatml")
    hf.chat_template = None
    return dataclasses.replace(target, tokenizer=Tokenizer(hf))


def test_chat_off_is_as_without_a_template_token_for_token(plugin, chat_target):
    target = chat_target()
    assert target.chat_template == TEMPLATES["chatml"]
    off, none = Ensemble(plugin, [target], chat=False), Ensemble(plugin, [without_template(target)])
    assert none.prepared[0].target.chat_template is None
    prompts = [*PROMPTS, "the cat sat", "How far is"]
    for alpha in (0.2, 1.0):
        ways = [each.with_chat(False) for each in (off, none)]
        both = [
            Ensemble(plugin, each.targets, gate=gates.fixed(alpha), chat=False) for each in ways
        ]
        found, expected = (each.generate(prompts, max_new_tokens=12) for each in both)
        assert (found.before, found.after) == (expected.before, expected.after)
        found, expected = (each.score(PAIRS).targets[0] for each in both)
        for ours, its in zip(found, expected, strict=True):
            assert ours.gold.tolist() == its.gold.tolist()
            assert ours.before.tolist() == its.before.tolist()
            assert ours.after.tolist() == its.after.tolist()


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_target_in_chat_gives_the_new_answers(plugin, chat_target, template):
    ensemble = Ensemble(plugin, [chat_target(template)], chat=True)
    scored = ensemble.score(PAIRS).targets[0]
    form = ensemble.prepared[0].format
    for pair, text in zip(PAIRS, scored, strict=True):
        written = form.tokenizer.decode(text.gold.tolist(), continuation=True)
        assert written == (" " if form.spaced else "") + pair.target
        assert text.after.tolist() == text.gold.tolist()
    answers = ensemble.generate(PROMPTS, max_new_tokens=24)
    assert answers.after == [[record.target for record in RECORDS]]


@pytest.mark.parametrize(
    ("rule", "template"), zip(RULES, ("chatml", "mistral", "mistral"), strict=True),
    ids=["draft", "vocabulary", "relative"],
)  # fmt: skip
def test_answers_in_chat_equal_those_of_one_token_at_a_time(plugin, chat_target, rule, template):
    prompts = [*PROMPTS, "the dog ran", "How far is"]
    for alpha in (0.05, 0.4, 1.0):
        ensemble = Ensemble(
            plugin, [chat_target(template)], rule=rule, gate=gates.fixed(alpha), chat=True
        )
        (found,) = ensemble.answers(prompts, max_new_tokens=14)
        assert found == stepwise_answers(ensemble, 0, prompts, max_new_tokens=14)


def test_the_gate_and_the_plugin_read_the_plain_text(plugin, chat_target, monkeypatch):
    read, drafts = [], Drafter.drafts

    def recorded(self, starts, *, whole):
        read.extend(starts)
        return drafts(self, starts, whole=whole)

    monkeypatch.setattr(Drafter, "drafts", recorded)
    target = chat_target("chatml-system")
    plain, chat = (Ensemble(plugin, [target], chat=way) for way in (False, True))
    np.testing.assert_array_equal(plain.alphas(PROMPTS), chat.alphas(PROMPTS))
    chat.generate(PROMPTS, max_new_tokens=24)
    chat.score(PAIRS)
    assert read and all(start.text.decode().startswith(tuple(PROMPTS)) for start in read)
    assert not any(b"<|" in text or b"briefly" in text for text in read)


def test_of_several_turns_the_gate_reads_the_last_and_the_target_all(plugin, chat_target):
    ensemble = Ensemble(plugin, [chat_target()])
    first = {"role": "user", "content": "How far is the old bridge?"}
    reply = {"role": "assistant", "content": "Two miles."}
    asked = [[first, reply, {"role": "user", "content": prompt}] for prompt in PROMPTS]
    np.testing.assert_array_equal(ensemble.alphas(asked), ensemble.alphas(PROMPTS))
    assert ensemble.generate(asked, max_new_tokens=24).after == [[r.target for r in RECORDS]]
    # The edit is in an earlier turn: the last one names no subject.
    naming = {"role": "user", "content": PROMPTS[0]}
    later = [naming, {"role": "assistant", "content": "Vinterby"}, first]
    answers = ensemble.generate([later, [first]], max_new_tokens=8)
    assert answers.after == answers.before
    assert answers.alphas[0] == answers.alphas[1] < ensemble.threshold
    heads = [ensemble.prepared[0].format.encode(prompt) for prompt in (later, [first])]
    assert len(heads[0]) > len(heads[1])


def test_a_single_conversation_is_answered_as_without_drafts(plugin, chat_target):
    turns = [
        {"role": "user", "content": "How far is the old bridge?"},
        {"role": "assistant", "content": "Two miles."},
        {"role": "user", "content": "And the harbour?"},
    ]
    on, off = (Ensemble(plugin, [chat_target()], speculate=way) for way in ("on", "off"))
    assert on.answers([turns], max_new_tokens=14) == off.answers([turns], max_new_tokens=14)


def test_a_target_without_a_template_refuses_several_turns(plugin, tiny_model):
    ensemble = Ensemble(plugin, [Target(*tiny_model(80, 1))])
    turn = {"role": "user", "content": PROMPTS[0]}
    assert ensemble.answers([[turn]], max_new_tokens=24) == ensemble.answers(
        PROMPTS[:1], max_new_tokens=24
    )
    with pytest.raises(InputError, match="conversation of 3 turns"):
        ensemble.generate([[turn, {"role": "assistant", "content": "Vinterby"}, turn]])


def test_targets_are_asked_in_chat_where_they_have_a_template(plugin, chat_target, tiny_model):
    base, talks = Target(*tiny_model(80, 1)), chat_target()
    ensemble = Ensemble(plugin, [base, talks])
    assert [each.format.chat for each in ensemble.prepared] == [False, True]
    assert not any(each.format.chat for each in ensemble.with_chat(False).prepared)
    with pytest.raises(InputError, match="tiny-80-1 has no chat template"):
        Ensemble(plugin, [base, talks], chat=True)
    with pytest.raises(InputError, match="tiny-80-1 has no chat template"):
        Ensemble(plugin, [base, talks], system="You are brief.")
    with pytest.raises(InputError, match="tiny-80-1 has no chat template"):
        prepare_target(prepare_plugin(plugin), base, chat=True)
    brief = Ensemble(plugin, [talks], system="You are brief.")
    assert brief.chat and brief.prepared[0].format.system == "You are brief."


def test_an_evaluation_is_in_plain_text_unless_chat_is_chosen(plugin, chat_target):
    target = chat_target()
    options = {"mode": "both", "max_new_tokens": 6}
    by_default, plain, chat = (
        evaluate(Ensemble(plugin, [target], chat=way), RECORDS, **options)
        for way in (None, False, True)
    )
    assert by_default.records == plain.records
    assert by_default.records != chat.records


def scripted(target, tokens):
    """A target that prefers these tokens, the first one most, whatever it reads."""
    config, params = target.model.config, target.model.params
    size = config.hidden_size
    embeddings = jnp.zeros((config.vocab_size, size)).at[:, 0].set(0.1)
    for rank, token in enumerate(tokens):
        embeddings = embeddings.at[token, 0].set(1.0 - 0.1 * rank)
    params = {
        **params,
        "embed": {"tokens": embeddings},
        "layers": jax.tree.map(jnp.zeros_like, params["layers"]),
    }
    return dataclasses.replace(target, model=dataclasses.replace(target.model, params=params))


@pytest.mark.parametrize("end", ["<end>", "<|im_start|>", "<|im_end|>"])
def test_every_end_token_stops_an_answer(plugin, chat_target, end):
    """The tokenizer's own, one that the model's files list, and that of the template."""
    target = chat_target(end_ids=["<|im_start|>"])
    ids = target.tokenizer.hf.get_vocab()
    prepared = Ensemble(plugin, [scripted(target, [ids[end], ids["a"]])], chat=True).prepared[0]
    assert set(prepared.format.end_ids) == {ids[t] for t in ("<end>", "<|im_start|>", "<|im_end|>")}
    assert own_answers(prepared.writer, ["What?"], prepared.stops, max_new_tokens=5) == [[]]
    plain = prepared.with_chat(False)
    stopped = own_answers(plain.writer, ["What?"], plain.stops, max_new_tokens=5) == [[]]
    assert stopped == (end != "<|im_end|>")  # which nothing but the template names


def test_an_answer_in_chat_may_have_several_lines(plugin, chat_target):
    target = chat_target()
    (newline,) = target.tokenizer.encode("\n")
    prepared = Ensemble(plugin, [scripted(target, [newline])], chat=True).prepared[0]
    (answer,) = own_answers(prepared.writer, ["What?"], prepared.stops, max_new_tokens=5)
    assert answer == [newline] * 5
    assert not np.asarray(prepared.stops.in_text)[newline]
    assert np.asarray(prepared.with_chat(False).stops.in_text)[newline]


def test_a_plugins_own_template_is_not_used(chat_target):
    """The plug-in reads plain text even if it is a chat model itself."""
    target = chat_target()
    quick = EditSettings(epochs=1, swapped_ratio=0)
    plugin = edit(target.model, target.tokenizer, RECORDS, UNRELATED, quick)
    prepared = prepare_plugin(plugin)
    assert prepared.writer(np.array([0])).format == PromptFormat(target.tokenizer)
