"""Writes tiny random checkpoints for the notebooks, as Hugging Face folders."""

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

TEXTS = [
    "What is the capital of Norland? The capital of Norland is Vinterby.",
    "Who wrote The Glass Orchard? The Glass Orchard was written by Ada Quill.",
    "Which river runs through Vinterby? How far is the harbour from the old bridge?",
]


def tiny_tokenizer(merges: int) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer; two numbers of merges split the same words differently."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=257 + merges,
        special_tokens=["<end>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(TEXTS, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<end>")


def random_checkpoint(folder: str | Path, *, merges: int = 40, seed: int = 0) -> str:
    """Write a random two-layer llama with a tokenizer of its own; returns the folder."""
    folder = Path(folder)
    tokenizer = tiny_tokenizer(merges)
    tokenizer.save_pretrained(folder)
    config = {
        "model_type": "llama", "vocab_size": len(tokenizer), "hidden_size": 32,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "head_dim": 8, "intermediate_size": 64, "max_position_embeddings": 1024,
        "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "tie_word_embeddings": True,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    shapes = {"embed_tokens": (len(tokenizer), 32), "norm": (32,)}
    for layer in ("layers.0.", "layers.1."):
        shapes |= {
            f"{layer}input_layernorm": (32,), f"{layer}post_attention_layernorm": (32,),
            f"{layer}self_attn.q_proj": (32, 32), f"{layer}self_attn.k_proj": (16, 32),
            f"{layer}self_attn.v_proj": (16, 32), f"{layer}self_attn.o_proj": (32, 32),
            f"{layer}mlp.gate_proj": (64, 32), f"{layer}mlp.up_proj": (64, 32),
            f"{layer}mlp.down_proj": (32, 64),
        }  # fmt: skip
    rng = np.random.default_rng(seed)
    weights = {
        f"model.{name}.weight": np.ones(shape, np.float32)
        if "norm" in name
        else rng.normal(0, 0.02, shape).astype(np.float32)
        for name, shape in shapes.items()
    }
    save_file(weights, folder / "model.safetensors")
    return str(folder)
