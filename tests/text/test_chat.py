"""A conversation becomes the tokens that transformers makes of it, and a message stays text."""

import json
import time
from pathlib import Path

import pytest
from tiny_tokenizers import CONTROLS, TEMPLATES, byte_level, sentencepiece_like, with_template
from transformers import AutoTokenizer

from onceedit_jax.errors import InputError
from onceedit_jax.storage.sources import DEMO_MODELS, cache_folder
from onceedit_jax.text.prompts import PromptFormat, check_prompts, plain_text, prompt_format
from onceedit_jax.text.tokenizer import Tokenizer, load_tokenizer

TINY = {
    "byte-level": byte_level,
    "sentencepiece": sentencepiece_like,
    "no-prefix": lambda: sentencepiece_like(prefix=False),
}
REAL = [
    ("qwen2.5", "chatml"), ("qwen2.5", "chatml-system"), ("llama-3", "llama-3"),
    ("mistral-7b-v0.1", "mistral"), ("llama2-32000", "mistral"), ("llama2-32000", "chatml"),
    ("gpt-j-6b", "gemma"),
]  # fmt: skip
USER = {"role": "user", "content": "What is the capital of France?"}
ANSWER = {"role": "assistant", "content": "Paris"}
SYSTEM = {"role": "system", "content": "You are brief."}
CONVERSATIONS = [
    [USER],
    [{"role": "user", "content": "  café, 日本 🙂\n\nand in 1984?  "}],
    [USER, ANSWER, {"role": "user", "content": "And its river?"}],
]


def theirs(hf, messages):
    """What transformers makes of a conversation."""
    return hf.apply_chat_template(
        messages, tokenize=True, add_generation_prompt=True, return_dict=False
    )


def check_equal(hf, template):
    form = prompt_format(Tokenizer(hf))
    conversations = list(CONVERSATIONS)
    if template != "mistral":
        conversations.append([SYSTEM, USER])
    for messages in conversations:
        expected, found = theirs(hf, messages), form.encode(messages)
        bos = form.tokenizer.bos_id
        if bos is not None and expected[:1] != [bos]:  # neither would the template write it
            expected = [bos, *expected]
        assert found == expected
        assert bos is None or found.count(bos) == 1
    assert form.encode(USER["content"]) == form.encode([USER])


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("kind", TINY)
def test_a_conversation_has_the_tokens_that_transformers_gives_it(kind, template):
    check_equal(with_template(TINY[kind](), template), template)


@pytest.mark.parametrize(("name", "template"), REAL)
def test_so_it_is_with_real_tokenizers(shared, name, template):
    hf = AutoTokenizer.from_pretrained(str(shared / "tokenizers" / name))
    check_equal(with_template(hf, template), template)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["smollm2-135m", "qwen2.5-coder-1.5b"])
def test_so_it_is_with_the_templates_of_the_demo_models(name):
    if not (cache_folder() / "models" / name / DEMO_MODELS[name].file_name).is_file():
        pytest.skip(f"needs demo:{name}, which is not in the cache")
    tokenizer = load_tokenizer(f"demo:{name}")
    check_equal(tokenizer.hf, "chatml")
    form = prompt_format(tokenizer)
    assert [tokenizer.vocabulary.strings[i] for i in form.end_ids] == ["<|im_end|>"]


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("kind", TINY)
def test_control_tokens_are_ids_where_the_template_writes_them_and_text_in_a_message(
    kind, template
):
    tokenizer = Tokenizer(with_template(TINY[kind](), template))
    form, ends = prompt_format(tokenizer), tokenizer.hf.eos_token
    asked, inside = form.encode("the cat"), f"the cat{''.join(CONTROLS[template])}{ends} sat"
    found = form.encode(inside)
    special = tokenizer.vocabulary.special
    assert [i for i in found if special[i]] == [i for i in asked if special[i]]
    assert inside in tokenizer.decode(found, continuation=True)


@pytest.mark.parametrize(
    ("template", "turn_end", "spaced"),
    [
        ("chatml", "<|im_end|>", False),
        ("chatml-system", "<|im_end|>", False),
        ("llama-3", "<|eot_id|>", False),
        ("mistral", "</s>", True),
        ("gemma", "<end_of_turn>", False),
    ],
)
def test_the_template_says_how_an_answer_begins_and_ends(template, turn_end, spaced):
    tokenizer = Tokenizer(with_template(sentencepiece_like(), template))
    form = prompt_format(tokenizer)
    strings = tokenizer.vocabulary.strings
    assert strings[form.template.turn_end] == turn_end
    assert form.spaced == spaced and not form.one_line
    assert sorted(strings[i] for i in form.end_ids) == sorted({"</s>", turn_end})
    tokens, start = form.encode_pair("the cat", "sat")
    assert tokens[:start] == form.encode("the cat")
    answer = tokenizer.decode(tokens[start:], continuation=True)
    assert answer == (" sat" if spaced else "sat")
    # The same tokens as in a conversation that has the answer already.
    turns = [{"role": "user", "content": "the cat"}, {"role": "assistant", "content": "sat"}]
    ids = tokenizer.hf.apply_chat_template(turns, tokenize=True, return_dict=False)
    whole = [tokenizer.bos_id, *ids] if ids[0] != tokenizer.bos_id else ids
    assert whole[: len(tokens)] == tokens


def test_a_template_without_an_end_of_turn_ends_at_the_tokenizers_own_token():
    hf = with_template(byte_level(), "mistral")
    hf.chat_template = "{% for turn in messages %}{{ turn.role }}: {{ turn.content }}\n{% endfor %}"
    form = prompt_format(Tokenizer(hf))
    assert form.template.turn_end is None
    assert form.end_ids == (hf.eos_token_id,)


def test_a_system_prompt_is_put_first_unless_the_conversation_has_one():
    form = prompt_format(Tokenizer(with_template(byte_level(), "chatml")), system="You are brief.")
    assert form.encode(USER["content"]) == form.encode([SYSTEM, USER])
    other = {"role": "system", "content": "You are long."}
    assert "long" in form.tokenizer.decode(form.encode([other, USER]))
    assert "brief" not in form.tokenizer.decode(form.encode([other, USER]))


def test_what_a_template_refuses_is_named_with_a_remedy():
    tokenizer = Tokenizer(with_template(byte_level(), "mistral"))
    form = prompt_format(tokenizer, system="You are brief.")
    with pytest.raises(InputError, match=r"only user and assistant turns.*--no-chat"):
        form.encode("Who?")
    tokenizer.hf.chat_template = "{% if %}"
    with pytest.raises(InputError, match="cannot write a conversation of user"):
        prompt_format(tokenizer)
    prompt_format(tokenizer, chat=False)


HOSTILE = {
    "a loop in a loop": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}"
    "{% endfor %}",
    "a tree of calls": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}"
    "{% endmacro %}{{ f(60) }}",
    "recursion": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "too deep": "{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}",
    "a power": "{{ 10 ** (10 ** 8) }}",
    "powers": "{% set ns = namespace(x=3) %}{% for i in range(99) %}{% set ns.x = ns.x * ns.x %}"
    "{% endfor %}",
    "a product": "{{ ('x' * 3000000000) | length }}",
    "a list": "{{ ([0] * 3000000000) | length }}",
    "doubling": "{% set ns = namespace(x='x') %}{% for i in range(40) %}"
    "{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
    "doubling by a sum": "{% set ns = namespace(x='x') %}{% for i in range(40) %}"
    "{% set ns.x = ns.x + ns.x %}{% endfor %}",
    "doubling by a block": "{% set ns = namespace(x='x') %}{% for i in range(40) %}"
    "{% set y %}{{ ns.x }}{{ ns.x }}{% endset %}{% set ns.x = y %}{% endfor %}",
    "a filter's width": "{{ 'x' | center(3000000000) }}",
    "a method's width": "{{ 'x'.ljust(width=3000000000) }}",
    "a width of %": "{{ '%3000000000d' % 1 }}",
    "a width in a format": "{{ '{:>3000000000}'.format(1) }}",
    "a given width in a format": "{{ '{:>{n}}'.format(1, n=3000000000) }}",
    "a given width": "{{ '%*d' | format(3000000000, 1) }}",
    "a width by name": "{{ '%(n)-3000000000d' % {'n': 1} }}",
    "each letter replaced": "{{ ('x' * 60000).replace('x', 'y' * 60000) }}",
    "joined by much": "{{ range(60000) | join('y' * 60000) }}",
    "indents": "{{ [1, 2] | tojson(indent=2000000000) }}",
    "much that is written": "{% for i in range(99999) %}{{ 'x' * 60000 }}{% endfor %}",
    "a batch": "{{ [1] | batch(2000000000, 'x') | list }}",
    "a constant": "{{ 'x' | center(3000000000) | length }}",
    "lists in a list, summed": "{{ ([[0] * 60000] * 60000) | sum(start=[]) | length }}",
    "lists in a list, written": "{{ [[0] * 60000] * 60000 }}",
    "lists in a list, as JSON": "{{ ([[0] * 60000] * 60000) | tojson | length }}",
    "one text many times": "{{ ([{}] * 60000) | map(attribute='x', default='x' * 60000) | join }}",
    "many parts of a text": "{% set ns = namespace(l=[], x='x' * 60000) %}"
    "{% for i in range(5000) %}{% set ns.l = ns.l + [ns.x[1:]] %}{% endfor %}",
    "its own words": "{{ lipsum(n=9999999) }}",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_template_that_would_not_end_or_fit_memory_is_refused_at_once(name):
    hf = with_template(byte_level(), "chatml")
    hf.chat_template = HOSTILE[name]
    start = time.monotonic()
    with pytest.raises(InputError, match=r"cannot write a conversation.*--no-chat") as caught:
        prompt_format(Tokenizer(hf))
    assert time.monotonic() - start < 5 and "\n" not in str(caught.value)


def test_stars_and_long_numbers_in_a_formatted_text_are_no_widths():
    hf = with_template(byte_level(), "chatml")
    plain = hf.chat_template
    hf.chat_template = (
        "{{ '**%s, 20240101**' | format('a') }}{{ '*{}* 20240101'.format(1) }}" + plain
    )
    assert "**a, 20240101***1* 20240101" in prompt_format(Tokenizer(hf)).template.render(
        [{"role": "user", "content": "hello"}]
    )


def test_a_long_conversation_is_no_hostile_one():
    form = prompt_format(Tokenizer(with_template(byte_level(), "chatml-system")))
    turns = [{**each, "content": "the cat " * 2000} for each in [USER, ANSWER] * 300]
    written = form.template.render(turns)
    assert len(written) > 9_000_000
    assert written == form.tokenizer.hf.apply_chat_template(
        turns, tokenize=False, add_generation_prompt=True
    )


def test_chat_and_a_system_prompt_need_a_template():
    tokenizer = Tokenizer(byte_level())
    with pytest.raises(InputError, match="gemma has no chat template"):
        prompt_format(tokenizer, chat=True, name="gemma")
    with pytest.raises(InputError, match="no place for a system prompt"):
        prompt_format(tokenizer, system="You are brief.")
    with_one = Tokenizer(with_template(byte_level(), "chatml"))
    with pytest.raises(InputError, match="no place for a system prompt"):
        prompt_format(with_one, chat=False, system="You are brief.")


def test_plain_text_is_as_without_a_template():
    plain, chat = Tokenizer(byte_level()), Tokenizer(with_template(byte_level(), "chatml"))
    for form in (prompt_format(plain), prompt_format(chat, chat=False)):
        assert (form.chat, form.one_line, form.spaced) == (False, True, True)
        assert form.encode("the cat <|im_end|>") == plain.encode("the cat <|im_end|>")
        assert form.encode([USER]) == plain.encode(USER["content"])
        assert form.encode_pair("the cat", "sat") == plain.encode_pair("the cat", "sat")
        assert form.end_ids == (plain.end_id,)
        with pytest.raises(InputError, match="conversation of 3 turns"):
            form.encode(CONVERSATIONS[2])


def test_the_plain_text_of_a_conversation_is_what_the_user_says_last():
    assert plain_text(CONVERSATIONS[2]) == "And its river?"
    assert plain_text("Who?") == "Who?"


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("", "prompt 2 of 2 is empty"),
        ([USER, {"role": "user", "content": ""}], "prompt 2 of 2 is empty"),
        ([], "ends with a turn of nobody"),
        ([USER, ANSWER], "ends with a turn of assistant"),
        (USER, "a single message"),
        ([{"role": "user"}], "expected a text for role and for content"),
        ([{"role": "user", "content": ["Who?"]}], "expected a text for role and for content"),
    ],
)
def test_a_prompt_that_cannot_be_answered_is_named(prompt, message, unchecked):
    with pytest.raises(InputError, match=message):
        check_prompts(["Who?", prompt])


def test_half_of_a_surrogate_pair_is_refused():
    form = prompt_format(Tokenizer(with_template(byte_level(), "chatml")))
    for call in (lambda: form.encode("a \ud83d b"), lambda: form.encode_pair("a", "\ud83d")):
        with pytest.raises(InputError, match="half of a surrogate pair"):
            call()


@pytest.mark.parametrize("place", ["tokenizer_config.json", "chat_template.jinja"])
def test_a_folders_template_is_found(tmp_path: Path, place):
    byte_level().save_pretrained(tmp_path)
    if place.endswith("jinja"):
        (tmp_path / place).write_text(TEMPLATES["chatml"])
    else:
        config = json.loads((tmp_path / place).read_text())
        (tmp_path / place).write_text(json.dumps({**config, "chat_template": TEMPLATES["chatml"]}))
    assert load_tokenizer(tmp_path).chat_template == TEMPLATES["chatml"]


def test_of_several_templates_the_default_one_is_used():
    hf = with_template(byte_level(), "chatml")
    hf.chat_template = {"tool_use": "no", "default": TEMPLATES["chatml"]}
    assert Tokenizer(hf).chat_template == TEMPLATES["chatml"]
    hf.chat_template = {"tool_use": "no"}
    assert Tokenizer(hf).chat_template is None
    assert not prompt_format(Tokenizer(hf)).chat


def test_every_end_token_of_generation_config_is_known_and_kept(tmp_path: Path):
    hf = with_template(byte_level(), "chatml")
    hf.save_pretrained(tmp_path)
    tokens = hf.get_vocab()
    ids = [tokens["<|im_end|>"], tokens["<|end|>"], 10**6]
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": ids}))
    expected = (tokens["<|end|>"], tokens["<|im_end|>"])
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.end_ids == PromptFormat(tokenizer).end_ids == expected
    tokenizer.save(tmp_path / "again")
    assert load_tokenizer(tmp_path / "again").end_ids == expected
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": ids[0]}))
    assert load_tokenizer(tmp_path).end_ids == expected
    Tokenizer(byte_level()).save(tmp_path / "one")
    assert not (tmp_path / "one" / "generation_config.json").exists()


@pytest.mark.parametrize("text", ['{"eos_token_id": "</s>"}', "[]", "{"])
def test_a_damaged_generation_config_is_named(tmp_path: Path, text):
    byte_level().save_pretrained(tmp_path)
    (tmp_path / "generation_config.json").write_text(text)
    with pytest.raises(InputError, match=r"generation_config\.json"):
        load_tokenizer(tmp_path)


def test_a_conversation_of_all_private_characters_is_refused():
    form = prompt_format(Tokenizer(with_template(byte_level(), "chatml")))
    private = "".join(map(chr, range(0xF0000, 0xFFFFE)))
    with pytest.raises(InputError, match="leave one of them out"):
        form.encode([{"role": "user", "content": private}])
    assert form.encode([{"role": "user", "content": private[1:20]}])
