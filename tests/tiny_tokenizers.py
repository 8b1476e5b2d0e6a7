"""Two tokenizers trained in a moment on a few lines: one byte-level, one SentencePiece-like.

Chat templates of the published kinds, in words of our own, and tokenizers that have them.
"""

import copy
from functools import cache
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

CORPUS = [
    "The capital of France is Paris, and the capital of Japan is Tokyo.",
    "Who wrote the book? The book was written in 1984 by the author of the play.",
    "café naïve 日本語 日本 🙂🙂 über straße",
    "the cat sat on the mat\n\nand the dog sat on the cat  twice",
]


@cache
def byte_level() -> Any:
    """GPT-2's kind: every byte has a token, no BOS, the end token is `<|end|>`."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=["<|end|>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(CORPUS, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|end|>")


@cache
def sentencepiece_like(prefix: bool = True) -> Any:
    """Llama-2's kind: `▁` for spaces, byte fallback, BOS `<s>`; Gemma's when without prefix."""
    backend = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    space = normalizers.Replace(" ", "▁")
    start = [normalizers.Prepend("▁")] if prefix else []
    backend.normalizer = normalizers.Sequence([*start, space])
    # Pieces are learnt within words, as SentencePiece does; written text is not split at all.
    backend.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    strip = [decoders.Strip(" ", 1, 0)] if prefix else []
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    )
    byte_tokens = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<unk>", "<s>", "</s>", *byte_tokens],
        show_progress=False,
    )
    backend.train_from_iterator([line for line in CORPUS if line.isascii()], trainer)
    # The trainer marks the byte tokens as special; rebuilt from its model alone they are not.
    written = Tokenizer(backend.model)
    written.normalizer, written.decoder = backend.normalizer, backend.decoder
    written.add_special_tokens(["<unk>", "<s>", "</s>"])
    written.post_processor = TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=written, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


_CHATML = (
    "{% for turn in messages %}"
    "{{ '<|im_start|>' + turn['role'] + '\\n' + turn['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
TEMPLATES = {
    "chatml": _CHATML,
    # A system turn of its own, over several lines, as templates are written by hand.
    "chatml-system": """
        {%- if messages[0].role != 'system' -%}
            {{- '<|im_start|>system\\nYou answer briefly.<|im_end|>\\n' }}
        {%- endif %}
        {%- for turn in messages if not turn.get('hidden') %}
            {{- '<|im_start|>' ~ turn.role ~ '\\n' ~ turn.content | trim ~ '<|im_end|>\\n' }}
        {%- endfor %}
        {%- if add_generation_prompt %}
            {{- '<|im_start|>assistant\\n' }}
        {%- endif %}""",
    "llama-3": (
        "{{ bos_token }}"
        "{% for turn in messages %}"
        "<|start_header_id|>{{ turn['role'] }}<|end_header_id|>\n\n"
        "{{ turn['content'] | trim }}<|eot_id|>"
        "{% endfor %}"
        "{% if add_generation_prompt %}"
        "{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}"
        "{% endif %}"
    ),
    "mistral": (
        "{{ bos_token }}"
        "{% for turn in messages %}"
        "{% if turn['role'] == 'user' %}{{ '[INST] ' + turn['content'] + ' [/INST]' }}"
        "{% elif turn['role'] == 'assistant' %}{{ ' ' + turn['content'] + eos_token }}"
        "{% else %}{{ raise_exception('only user and assistant turns') }}{% endif %}"
        "{% endfor %}"
    ),
    "gemma": (
        "{{ bos_token }}"
        "{% for turn in messages %}"
        "{% set role = 'model' if turn['role'] == 'assistant' else turn['role'] %}"
        "<start_of_turn>{{ role }}\n{{ turn['content'] | trim }}<end_of_turn>\n"
        "{% endfor %}"
        "{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"
    ),
}
# The control tokens that each template writes, and which of them ends a turn.
CONTROLS = {
    "chatml": ("<|im_start|>", "<|im_end|>"),
    "chatml-system": ("<|im_start|>", "<|im_end|>"),
    "llama-3": ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    "mistral": (),
    "gemma": ("<start_of_turn>", "<end_of_turn>"),
}


def with_template(hf: Any, name: str) -> Any:
    """A copy of a tokenizer with one of these chat templates and its control tokens."""
    hf = copy.deepcopy(hf)
    hf.add_tokens(list(CONTROLS[name]), special_tokens=True)
    hf.chat_template = TEMPLATES[name]
    return hf


# The reference tokenizers, and what is of their kind.
KINDS = {
    "llama2-32000": sentencepiece_like,
    "mistral-7b-v0.1": sentencepiece_like,
    "gpt-j-6b": byte_level,
    "llama-3": byte_level,
    "qwen2.5": byte_level,
}
