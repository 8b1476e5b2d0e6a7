"""The table of model families: how config.json and the tensors of each are converted, both ways.

Weight conversion needs two facts about a checkpoint tensor: which leaves it holds, and its memory
layout. Everything else follows from the shapes of the leaves, in both directions:

    expected = checkpoint_tensors(config)          # name -> CheckpointTensor, in model order
    for raw_name in file:                          # loading, one tensor at a time
        name = canonical_name(config, raw_name)    # None: skip it
        for leaf, part in expected[name].split(array):
            ...                                    # store part at leaf.path, row leaf.layer
    for tensor in expected.values():               # exporting
        array = tensor.join([leaf_value(leaf) for leaf in tensor.leaves])
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax

from onceedit_jax.errors import InputError
from onceedit_jax.models import hf_config
from onceedit_jax.models.config import ModelConfig
from onceedit_jax.models.hf_readable import check_readable
from onceedit_jax.models.hf_schema import check_config
from onceedit_jax.models.layout import INPUT_AXES
from onceedit_jax.models.parameters import param_shapes
from onceedit_jax.models.tensors import CheckpointTensor, Leaf, Rule, Stored, extents
from onceedit_jax.storage.schema import shown

__all__ = [
    "FAMILIES",
    "CheckpointTensor",
    "Family",
    "Leaf",
    "Rule",
    "canonical_name",
    "checkpoint_tensors",
    "config_from_hf",
]


def _layer(name: str, *leaves: str, stored: Stored = "linear") -> Rule:
    paths = tuple(("layers", *leaf.split(".")) for leaf in leaves)
    return Rule(name, paths, stored, INPUT_AXES.get(paths[0][-1], 1))


def _norm(name: str, leaf: str) -> tuple[Rule, Rule]:
    """The rules of a norm: its scale and, for layer norms, its bias."""
    return (
        Rule(f"{name}.weight", ((*leaf.split("."), "scale"),), "vector"),
        Rule(f"{name}.bias", ((*leaf.split("."), "bias"),), "vector"),
    )


HEAD = "lm_head.weight"
_HEAD = (
    Rule(HEAD, (("head", "kernel"),), "linear"),
    Rule("lm_head.bias", (("head", "bias"),), "vector"),
)
_LLAMA_BODY = (
    Rule("embed_tokens.weight", (("embed", "tokens"),), "table"),
    *_norm("layers.{layer}.input_layernorm", "layers.attention_norm"),
    *(
        rule
        for ours, theirs in (("q", "q_proj"), ("k", "k_proj"), ("v", "v_proj"))
        for rule in (
            _layer(f"layers.{{layer}}.self_attn.{theirs}.weight", f"attention.w{ours}"),
            _layer(
                f"layers.{{layer}}.self_attn.{theirs}.bias", f"attention.b{ours}", stored="vector"
            ),
        )
    ),
    _layer("layers.{layer}.self_attn.o_proj.weight", "attention.wo"),
    _layer("layers.{layer}.self_attn.o_proj.bias", "attention.bo", stored="vector"),
    *_norm("layers.{layer}.self_attn.q_norm", "layers.attention.q_norm"),
    *_norm("layers.{layer}.self_attn.k_norm", "layers.attention.k_norm"),
    *(
        rule
        for name in ("gate", "up", "down")
        for rule in (
            _layer(f"layers.{{layer}}.mlp.{name}_proj.weight", f"mlp.{name}"),
            _layer(f"layers.{{layer}}.mlp.{name}_proj.bias", f"mlp.{name}_bias", stored="vector"),
        )
    ),
)
_LLAMA_RULES = (
    *_LLAMA_BODY,
    *_norm("layers.{layer}.post_attention_layernorm", "layers.mlp_norm"),
    *_norm("norm", "final_norm"),
    *_HEAD,
)
# Norms after attention and MLP, and perhaps before them.
_POST_NORM_RULES = (
    *_LLAMA_BODY,
    *_norm("layers.{layer}.post_attention_layernorm", "layers.attention_post_norm"),
    *_norm("layers.{layer}.pre_feedforward_layernorm", "layers.mlp_norm"),
    *_norm("layers.{layer}.post_feedforward_layernorm", "layers.mlp_post_norm"),
    *_norm("norm", "final_norm"),
    *_HEAD,
)
_FUSED = {
    "self_attn.qkv_proj": ("attention.wq", "attention.wk", "attention.wv"),
    "mlp.gate_up_proj": ("mlp.gate", "mlp.up"),
}
_APART = tuple(f"{name}_proj." for name in ("q", "k", "v", "gate", "up"))
_PHI3_RULES = (
    *(rule for rule in _LLAMA_RULES if not rule.name.split(".", 3)[-1].startswith(_APART)),
    *(_layer(f"layers.{{layer}}.{name}.weight", *leaves) for name, leaves in _FUSED.items()),
)
_GPTJ_RULES = (
    Rule("wte.weight", (("embed", "tokens"),), "table"),
    *_norm("h.{layer}.ln_1", "layers.attention_norm"),
    _layer("h.{layer}.attn.q_proj.weight", "attention.wq"),
    _layer("h.{layer}.attn.k_proj.weight", "attention.wk"),
    _layer("h.{layer}.attn.v_proj.weight", "attention.wv"),
    _layer("h.{layer}.attn.out_proj.weight", "attention.wo"),
    _layer("h.{layer}.mlp.fc_in.weight", "mlp.up"),
    _layer("h.{layer}.mlp.fc_in.bias", "mlp.up_bias", stored="vector"),
    _layer("h.{layer}.mlp.fc_out.weight", "mlp.down"),
    _layer("h.{layer}.mlp.fc_out.bias", "mlp.down_bias", stored="vector"),
    *_norm("ln_f", "final_norm"),
    *_HEAD,
)
_GPT2_RULES = (
    Rule("wte.weight", (("embed", "tokens"),), "table"),
    Rule("wpe.weight", (("embed", "positions"),), "table"),
    *_norm("h.{layer}.ln_1", "layers.attention_norm"),
    _layer(
        "h.{layer}.attn.c_attn.weight",
        "attention.wq",
        "attention.wk",
        "attention.wv",
        stored="conv1d",
    ),
    _layer(
        "h.{layer}.attn.c_attn.bias",
        "attention.bq",
        "attention.bk",
        "attention.bv",
        stored="vector",
    ),
    _layer("h.{layer}.attn.c_proj.weight", "attention.wo", stored="conv1d"),
    _layer("h.{layer}.attn.c_proj.bias", "attention.bo", stored="vector"),
    *_norm("h.{layer}.ln_2", "layers.mlp_norm"),
    _layer("h.{layer}.mlp.c_fc.weight", "mlp.up", stored="conv1d"),
    _layer("h.{layer}.mlp.c_fc.bias", "mlp.up_bias", stored="vector"),
    _layer("h.{layer}.mlp.c_proj.weight", "mlp.down", stored="conv1d"),
    _layer("h.{layer}.mlp.c_proj.bias", "mlp.down_bias", stored="vector"),
    *_norm("ln_f", "final_norm"),
    *_HEAD,
)


@dataclass(frozen=True)
class Family:
    """One row of the table: how to read a config.json, and the tensors of a checkpoint.

    Attributes:
        read_config: From the values of a config.json and the family's name to a `ModelConfig`.
        rules: The tensors, in model order.
        prefix: Prefix of all tensor names but the head's; checkpoints of a model without its head
            lack it.
        auto_class: The class of `transformers` for the family.
        aliases: Prefixes of names in checkpoints of more than text, and what they stand for.
        beside: Prefixes of the other tensors of such checkpoints, which are skipped.
    """

    read_config: Callable[[Mapping[str, Any], str], ModelConfig]
    rules: tuple[Rule, ...]
    prefix: str
    auto_class: str
    aliases: Mapping[str, str] = field(default_factory=dict)
    beside: tuple[str, ...] = ()


#: Keyed by the `model_type` of config.json.
FAMILIES: dict[str, Family] = {
    "llama": Family(hf_config.llama, _LLAMA_RULES, "model.", "LlamaForCausalLM"),
    "mistral": Family(hf_config.mistral, _LLAMA_RULES, "model.", "MistralForCausalLM"),
    "qwen2": Family(hf_config.qwen, _LLAMA_RULES, "model.", "Qwen2ForCausalLM"),
    "qwen3": Family(hf_config.qwen, _LLAMA_RULES, "model.", "Qwen3ForCausalLM"),
    "smollm3": Family(hf_config.smollm3, _LLAMA_RULES, "model.", "SmolLM3ForCausalLM"),
    "olmo2": Family(hf_config.olmo2, _POST_NORM_RULES, "model.", "Olmo2ForCausalLM"),
    "phi3": Family(hf_config.phi3, _PHI3_RULES, "model.", "Phi3ForCausalLM"),
    "gemma3_text": Family(
        hf_config.gemma3,
        _POST_NORM_RULES,
        "model.",
        "Gemma3ForCausalLM",
        aliases={
            "language_model.model.": "model.",
            "language_model.lm_head.": "lm_head.",
            "model.language_model.": "model.",
        },
        beside=tuple(
            start + part
            for start in ("", "model.")
            for part in ("vision_tower.", "multi_modal_projector.")
        ),
    ),
    "gptj": Family(hf_config.gptj, _GPTJ_RULES, "transformer.", "GPTJForCausalLM"),
    "gpt2": Family(hf_config.gpt2, _GPT2_RULES, "transformer.", "GPT2LMHeadModel"),
}

#: The family of the text part, by the `model_type` of models of more than text.
TEXT_PARTS = {"gemma3": "gemma3_text"}
# What the configuration of the whole says of its text part.
_OF_THE_WHOLE = ("tie_word_embeddings", "quantization_config", "bos_token_id", "eos_token_id",
                 "pad_token_id")  # fmt: skip
# Constants that older versions of transformers stored beside the weights.
_BUFFERS = re.compile(
    r"(^|\.)(rotary_emb\.inv_freq|attn\.(bias|masked_bias|embed_positions))$", re.ASCII
)


def config_from_hf(hf: Mapping[str, Any]) -> ModelConfig:
    """The `ModelConfig` of a Hugging Face config.json, written by transformers 4 or 5.

    Every embedding row counts as a token; see `ModelConfig.with_num_tokens`.

    Raises:
        InputError: The architecture or one of its settings is not supported, or a value is
            missing; the message has the key, its value and the expected value.
    """
    kind = hf.get("model_type")
    if not isinstance(kind, str) or kind not in FAMILIES:
        raise InputError(
            f"config.json: model_type is {shown(kind)}; expected one of {', '.join(FAMILIES)}: "
            "choose a model of a supported family"
        )
    check_readable(hf)
    check_config(hf)
    return FAMILIES[kind].read_config(hf, kind)


def text_config(hf: Mapping[str, Any]) -> dict[str, Any]:
    """The values of config.json for the text part of a model of more than text; else all of them.

    Raises:
        InputError: The text part is not of the kind that the whole should have.
    """
    kind = hf.get("model_type")
    if not isinstance(kind, str) or kind not in TEXT_PARTS:
        return dict(hf)
    family, inside = TEXT_PARTS[kind], hf.get("text_config")
    found = inside.get("model_type", family) if isinstance(inside, Mapping) else None
    if not isinstance(inside, Mapping) or found != family:
        raise InputError(
            f"config.json: text_config is {shown(inside)}; expected that of a {family} model: "
            "fetch the file again"
        )
    outer = {key: hf[key] for key in _OF_THE_WHOLE if key in hf}
    return {**outer, **inside, "model_type": family, "architectures": [FAMILIES[family].auto_class]}


def checkpoint_tensors(config: ModelConfig) -> dict[str, CheckpointTensor]:
    """Every tensor of this model's checkpoint by its full name, in model order.

    Together they hold every leaf of the parameter tree exactly once.
    """
    family = FAMILIES[config.family]
    shapes = {
        tuple(key.key for key in path): leaf.shape
        for path, leaf in jax.tree_util.tree_flatten_with_path(param_shapes(config))[0]
    }
    rules = [rule for rule in family.rules if all(path in shapes for path in rule.leaves)]
    embed = [rule for rule in rules if rule.leaves[0][0] == "embed"]
    inside = [rule for rule in rules if rule.leaves[0][0] == "layers"]
    after = [rule for rule in rules if rule.leaves[0][0] in ("final_norm", "head")]

    def tensor(rule: Rule, layer: int | None) -> CheckpointTensor:
        axes = 0 if layer is None else 1
        leaves = tuple(Leaf(path, layer, shapes[path][axes:]) for path in rule.leaves)
        sizes = [extents(leaf.shape, rule.inputs, rule.stored) for leaf in leaves]
        shape = (*sizes[0][:-1], sum(size[-1] for size in sizes))
        prefix = "" if rule.leaves[0][0] == "head" else family.prefix
        return CheckpointTensor(
            name=prefix + rule.name.format(layer=layer),
            shape=shape[::-1] if rule.stored == "linear" else shape,
            leaves=leaves,
            stored=rule.stored,
            inputs=rule.inputs,
        )

    tensors = [
        *(tensor(rule, None) for rule in embed),
        *(tensor(rule, layer) for layer in range(config.num_layers) for rule in inside),
        *(tensor(rule, None) for rule in after),
    ]
    return {each.name: each for each in tensors}


def table_name(config: ModelConfig) -> str:
    """The name in `checkpoint_tensors` of the embedding table."""
    family = FAMILIES[config.family]
    return family.prefix + next(
        rule.name for rule in family.rules if rule.leaves == (("embed", "tokens"),)
    )


def canonical_name(config: ModelConfig, name: str) -> str | None:
    """The name in `checkpoint_tensors` of a file's tensor, or None for a tensor to skip.

    Adds the prefix that checkpoints without a head lack. Tensors to skip are the buffers of older
    checkpoints, the copy of the embedding that a tied head stores, and the parts of a model that do
    not read text. An unknown name is returned with the prefix; the caller refuses it.
    """
    family = FAMILIES[config.family]
    if name.startswith(family.beside):
        return None
    for alias, meaning in family.aliases.items():
        if name.startswith(alias):
            name = meaning + name.removeprefix(alias)
    if _BUFFERS.search(name) or (config.tie_embeddings and name == HEAD):
        return None
    prefix = family.prefix
    return name if name.startswith((prefix, "lm_head.")) else prefix + name
