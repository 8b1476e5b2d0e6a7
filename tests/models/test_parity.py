"""Every family gives the logits of the `transformers` model it stands for, on tiny weights."""

import functools
import json
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from onceedit_jax.models.cache import init_cache, padded_positions, rollback
from onceedit_jax.models.decoder import forward
from onceedit_jax.models.families import (
    FAMILIES,
    canonical_name,
    checkpoint_tensors,
    config_from_hf,
)
from onceedit_jax.models.layout import split_layers, unstack_layers
from onceedit_jax.models.parameters import param_shapes

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

TOLERANCE = 2e-5  # of the logits' spread
LENGTH = 13
CAPACITY = 16  # one for all runs: every shape is compiled once a case

LLAMA = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}
GPT = {
    "vocab_size": 97,
    "n_embd": 32,
    "n_layer": 3,
    "n_head": 4,
    "n_positions": 64,
    "bos_token_id": 1,
    "eos_token_id": 1,
}
GEMMA = {**LLAMA, "head_dim": 16, "num_hidden_layers": 7, "query_pre_attn_scalar": 24}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
KNOWN = set(FAMILIES)  # other tests register families of their own later
CASES = {
    "llama": ("llama", LLAMA),
    "llama, tied, biases, wide heads": (
        "llama",
        {
            **LLAMA,
            "tie_word_embeddings": True,
            "attention_bias": True,
            "mlp_bias": True,
            "head_dim": 12,
        },
    ),
    "llama, llama3 rope": ("llama", {**LLAMA, "rope_parameters": LLAMA3_ROPE}),
    "llama, linear rope": (
        "llama",
        {
            **LLAMA,
            "rope_parameters": {"rope_type": "linear", "rope_theta": 1e5, "factor": 4.0},
        },
    ),
    "mistral, window 5": ("mistral", {**LLAMA, "sliding_window": 5}),
    "mistral, no window": ("mistral", {**LLAMA, "sliding_window": None}),
    "qwen2": ("qwen2", {**LLAMA, "tie_word_embeddings": True}),
    "qwen2, upper layers slide": (
        "qwen2",
        {**LLAMA, "use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1},
    ),
    "qwen3": ("qwen3", {**LLAMA, "head_dim": 16}),
    "gptj": ("gptj", {**GPT, "rotary_dim": 4}),
    "gpt2": ("gpt2", GPT),
    "gpt2, unscaled scores, exact gelu, untied": (
        "gpt2",
        {
            **GPT,
            "n_inner": 40,
            "scale_attn_weights": False,
            "activation_function": "gelu",
            "tie_word_embeddings": False,
        },
    ),
    "smollm3": ("smollm3", {**LLAMA, "num_hidden_layers": 5, "no_rope_layer_interval": 2}),
    "smollm3, tied, window in unrotated layers": (
        "smollm3",
        {
            **LLAMA,
            "tie_word_embeddings": True,
            "use_sliding_window": True,
            "sliding_window": 4,
            "no_rope_layers": [1, 0, 0],
            "attention_bias": True,
        },
    ),
    "olmo2": ("olmo2", {**LLAMA, "head_dim": 8}),
    "phi3": ("phi3", LLAMA),
    "phi3, window 5, three quarters rotated": (
        "phi3",
        {
            **LLAMA,
            "sliding_window": 5,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e4,
                "partial_rotary_factor": 0.75,
            },
        },
    ),
    "gemma3_text, window 4": ("gemma3_text", {**GEMMA, "sliding_window": 4}),
    "gemma3_text, linear rope on global layers": (
        "gemma3_text",
        {
            **GEMMA,
            "sliding_window": 4,
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "rope_theta": 1e5, "factor": 8.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e3},
            },
        },
    ),
}


def params_from(state, config):
    """The parameter tree of a checkpoint given as {name: array}, through the table of families."""
    params = jax.tree.map(
        lambda leaf: np.full(leaf.shape, np.nan, np.float32), param_shapes(config)
    )
    expected = checkpoint_tensors(config)
    for raw_name, array in state.items():
        name = canonical_name(config, raw_name)
        if name is None:
            continue
        for leaf, part in expected.pop(name).split(array):
            slot = functools.reduce(dict.__getitem__, leaf.path, params)
            slot[() if leaf.layer is None else leaf.layer] = part
    assert not expected
    return params


class Case:
    """A tiny reference model, its random tokens, and our config and parameters."""

    def __init__(self, kind, settings):
        hf = transformers.AutoConfig.for_model(kind, **settings)
        torch.manual_seed(0)
        self.model = transformers.AutoModelForCausalLM.from_config(
            hf, attn_implementation="eager", dtype=torch.float32
        ).eval()
        # Fresh models have norm weights of one and biases of zero, which would hide a mix-up.
        centre = 0.0 if kind == "gemma3_text" else 1.0
        with torch.no_grad():
            for name, value in self.model.named_parameters():
                if value.ndim == 1:
                    value.normal_(centre if name.endswith("weight") else 0.0, 0.3)
                else:
                    value.normal_(0.0, value.shape[-1] ** -0.5)
        self.state = {name: value.numpy() for name, value in self.model.state_dict().items()}
        self.config = config_from_hf(json.loads(hf.to_json_string(use_diff=False)))
        assert config_from_hf(json.loads(hf.to_json_string(use_diff=True))) == self.config
        self.params = jax.tree.map(jnp.asarray, params_from(self.state, self.config))
        self.tokens = np.random.default_rng(1).integers(0, hf.vocab_size, (3, LENGTH))

    def reference(self, tokens, positions):
        """The reference's logits [B, T, V]; padding is where positions are negative."""
        with torch.no_grad():
            logits = self.model(
                torch.as_tensor(tokens),
                attention_mask=torch.as_tensor(positions >= 0).long(),
                position_ids=torch.as_tensor(np.maximum(positions, 0)),
                use_cache=False,
            ).logits
        return logits.numpy()

    def difference(self, ours, theirs, real=None):
        """Largest |ours - theirs| over real columns, relative to the reference's spread."""
        real = np.ones(theirs.shape[:2], bool) if real is None else real
        theirs = theirs[real]
        return np.abs(np.asarray(ours)[real] - theirs).max() / (theirs.max() - theirs.min())


@functools.cache
def case_named(name):
    return Case(*CASES[name])


@pytest.fixture(params=CASES)
def case(request):
    return case_named(request.param)


def straight(width=LENGTH, rows=3):
    return np.tile(np.arange(width, dtype=np.int32), (rows, 1))


run = jax.jit(forward, static_argnums=1)


def test_every_family_has_a_case():
    assert {kind for kind, _ in CASES.values()} == KNOWN


def test_prefill_matches_also_beyond_the_sliding_window(case):
    if case.config.sliding_window:
        assert case.config.sliding_window < LENGTH
    logits, _ = run(case.params, case.config, case.tokens, straight())
    assert case.difference(logits, case.reference(case.tokens, straight())) <= TOLERANCE


def in_steps(case, tokens, positions):
    """Logits of a cached run: prefill, three single tokens, and an extension by several."""
    cache = init_cache(case.config, 3, CAPACITY)
    parts = []
    for start, stop in pairwise((0, 5, 6, 7, 8, LENGTH)):
        step = slice(start, stop)
        logits, cache = run(case.params, case.config, tokens[:, step], positions[:, step], cache)
        parts.append(logits)
    return jnp.concatenate(parts, axis=1)


def test_cached_decoding_matches(case):
    logits = in_steps(case, case.tokens, straight())
    assert case.difference(logits, case.reference(case.tokens, straight())) <= TOLERANCE


def test_left_padding_matches_with_and_without_a_cache(case):
    positions = np.asarray(padded_positions(np.array([LENGTH, 9, 2]), LENGTH, "left"))
    theirs = case.reference(case.tokens, positions)
    whole, _ = run(case.params, case.config, case.tokens, positions)
    assert case.difference(whole, theirs, positions >= 0) <= TOLERANCE
    cached = in_steps(case, case.tokens, positions)
    assert case.difference(cached, theirs, positions >= 0) <= TOLERANCE


def test_right_padding_matches(case):
    positions = np.asarray(padded_positions(np.array([LENGTH, 9, 2]), LENGTH, "right"))
    theirs = case.reference(case.tokens, positions)
    logits, _ = run(case.params, case.config, case.tokens, positions)
    assert case.difference(logits, theirs, positions >= 0) <= TOLERANCE


def test_rolling_back_and_going_on_equals_the_straight_run(case):
    keep = np.array([5, 2, 4], np.int32)
    columns = keep[:, None] + straight(5)
    detour = np.roll(case.tokens, 1, axis=1)[:, :5]
    cache = init_cache(case.config, 3, CAPACITY)
    _, cache = run(case.params, case.config, case.tokens[:, :5], straight(5), cache)
    _, cache = run(case.params, case.config, detour, columns, rollback(cache, keep))
    cache = rollback(cache, keep)
    # Rows now hold 5, 2 and 4 tokens, and each is continued from where it stands.
    theirs = case.reference(case.tokens, straight())
    tokens = np.take_along_axis(case.tokens, columns, axis=1)
    logits, _ = run(case.params, case.config, tokens, columns, cache)
    wanted = np.take_along_axis(theirs, columns[..., None], axis=1)
    assert case.difference(logits, wanted) <= TOLERANCE


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma3_text, window 4", "smollm3"])
def test_layouts_of_the_layers_agree(name):
    case = case_named(name)
    lower = case.config.num_layers // 2
    theirs = case.reference(case.tokens, straight())
    for params in (
        split_layers(case.params, (lower, case.config.num_layers - lower)),
        unstack_layers(case.params),
    ):
        cache = init_cache(case.config, 3, LENGTH)
        logits, _ = run(params, case.config, case.tokens, straight(), cache)
        assert case.difference(logits, theirs) <= TOLERANCE


def test_table_lists_exactly_the_checkpoint_and_inverts_it(case):
    expected = checkpoint_tensors(case.config)
    state = {name: a for name, a in case.state.items() if canonical_name(case.config, name)}
    assert {name: t.shape for name, t in expected.items()} == {n: a.shape for n, a in state.items()}
    for name, tensor in expected.items():
        parts = [part for _, part in tensor.split(state[name])]
        np.testing.assert_array_equal(tensor.join(parts), state[name])


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma3_text, window 4"])
def test_checkpoints_of_the_bare_body_and_old_buffers_are_read(name):
    case = case_named(name)
    prefix = FAMILIES[case.config.family].prefix
    bare = {key.removeprefix(prefix): array for key, array in case.state.items()}
    body = "h" if name == "gpt2" else "layers"
    bare[f"{body}.0.attn.bias"] = np.ones((1, 1, 4, 4), bool)
    bare[f"{body}.0.attn.masked_bias"] = np.float32(-1e4)
    bare[f"{body}.0.self_attn.rotary_emb.inv_freq"] = np.ones(4, np.float32)
    jax.tree.map(np.testing.assert_array_equal, params_from(bare, case.config), case.params)
