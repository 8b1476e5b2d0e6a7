"""Two tokenizers trained in a moment on a few lines: one byte-level, one SentencePiece-like."""

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


# The reference tokenizers, and what is of their kind.
KINDS = {
    "llama2-32000": sentencepiece_like,
    "mistral-7b-v0.1": sentencepiece_like,
    "gpt-j-6b": byte_level,
    "llama-3": byte_level,
    "qwen2.5": byte_level,
}
