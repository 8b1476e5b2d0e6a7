"""The configuration of a decoder: a hashable record, static under jit."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal, get_args

from onceedit_jax.errors import InputError
from onceedit_jax.models.dtypes import ComputeDtype
from onceedit_jax.storage.records import parse_record
from onceedit_jax.storage.schema import Integer, Kind, Maybe, Mismatch, Number

Activation = Literal["silu", "gelu", "gelu_tanh", "relu"]

_LENGTH = Integer(1, 1 << 31)
#: What the numbers of a `ModelConfig` may be; files of configs are held against the same ranges.
RANGES: dict[str, Any] = {
    "vocab_size": Integer(1, 1 << 24),
    "hidden_size": Integer(1, 1 << 20),
    "num_layers": Integer(1, 4096),
    "num_heads": Integer(1, 1 << 16),
    "num_kv_heads": Integer(1, 1 << 16),
    "head_dim": Integer(1, 1 << 16),
    "mlp_size": Integer(1, 1 << 24),
    "max_positions": _LENGTH,
    "norm_eps": Number(1e-15, 0.1),
    "norm_offset": Number(-1, 1),
    "embedding_scale": Number(1e-6, 1e6),
    "query_scale": Maybe(Number(1e-6, 1e6)),
    "sliding_window": Maybe(_LENGTH),
}
_FREQUENCY = Number(1e-3, 1e6)
#: The same for a `Rope`.
ROPE_RANGES: dict[str, Any] = {
    "theta": Number(1, 1e13),
    "dim": Integer(2, 1 << 16),
    "local_theta": Maybe(Number(1, 1e13)),
    "factor": Number(1, 1e6),
    "low_freq_factor": _FREQUENCY,
    "high_freq_factor": _FREQUENCY,
    "original_max_positions": _LENGTH,
}


def _check_ranges(record: Any, ranges: dict[str, Kind], name: str) -> None:
    for field, kind in ranges.items():
        try:
            kind.check(getattr(record, field), field)
        except Mismatch as error:
            raise InputError(f"{name}: {error}: correct config.json") from None


@dataclass(frozen=True)
class Rope:
    """Settings of the rotary position embedding.

    Attributes:
        theta: Base of the wavelengths.
        dim: Leading dimensions of every head that are rotated (even, at most `head_dim`).
        local_theta: Base of the sliding-window layers where it differs; never scaled.
        interleaved: Pairs are neighbours (2i, 2i+1), not halves (i, i + dim / 2).
        scaling: `linear` divides every frequency by `factor`; `llama3` only the slow ones.
        factor: How much either scaling stretches wavelengths.
        low_freq_factor: `llama3` only: wavelengths above original / this are fully stretched.
        high_freq_factor: `llama3` only: wavelengths below original / this are not stretched.
        original_max_positions: `llama3` only: context length before scaling.
    """

    theta: float
    dim: int
    local_theta: float | None = None
    interleaved: bool = False
    scaling: Literal["none", "linear", "llama3"] = "none"
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_positions: int = 8192

    def __post_init__(self) -> None:
        """Check that the numbers are in range.

        Raises:
            InputError: They are not; the message names the field.
        """
        _check_ranges(self, ROPE_RANGES, "rope")
        if self.scaling == "llama3" and not self.low_freq_factor < self.high_freq_factor:
            raise InputError(
                f"rope: low_freq_factor is {self.low_freq_factor:g} and high_freq_factor "
                f"{self.high_freq_factor:g}; expected the second to be larger: correct config.json"
            )


@dataclass(frozen=True)
class ModelConfig:
    """Everything about a model that the decoder needs besides the weights.

    Attributes:
        family: Key into the table of families (`llama`, `gpt2`, ...).
        vocab_size: Rows V of the embedding table, padding rows included.
        num_tokens: Rows that are tokens; the logits of the others are masked.
        hidden_size: D.
        num_layers: L.
        num_heads: H query heads.
        num_kv_heads: Hkv key/value heads; divides H.
        head_dim: K.
        mlp_size: F.
        max_positions: Longest context of the model; the number of learned positions P.
        rope: Rotary embedding, or None for learned positions.
        norm: RMS norm, or layer norm (which then has a bias).
        norm_eps: Added to the variance.
        norm_offset: Added to the stored norm weight (Gemma stores weight - 1).
        activation: Non-linearity of the MLP.
        gated_mlp: down(act(gate x) * up x) rather than down(act(up x)).
        qkv_bias: Query, key and value projections have biases.
        attention_out_bias: The attention output projection has a bias.
        mlp_bias: The MLP projections have biases.
        head_bias: The output head has a bias.
        qk_norm: Queries and keys are RMS-normalised per head before rope.
        wide_qk_norm: With `qk_norm`: all heads of a token are normalised together (OLMo 2).
        parallel_block: Attention and MLP read the same normalised input, both are added (GPT-J).
        pre_norms: Attention and MLP inputs are normalised; without, `post_norms` (OLMo 2).
        post_norms: Attention and MLP outputs are normalised before they are added.
        embedding_scale: Factor on the embeddings, applied in the compute dtype.
        query_scale: Factor on the attention scores; None means head_dim ** -0.5.
        sliding_window: In sliding layers, a query attends to keys at distances below this.
        sliding_layers: For each layer, whether it has a sliding window; () means that none has.
        rope_layers: For each layer, whether its queries and keys are rotated (SmolLM3 leaves some
            as they are); () means that all are.
        tie_embeddings: The head is the embedding table.
        compute_dtype: Operands of every matrix product, and the cache. Sums, softmax, norms, rope
            and logits are float32. It is how the model is run, and not a part of its files.
    """

    family: str
    vocab_size: int
    num_tokens: int
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    mlp_size: int
    max_positions: int
    rope: Rope | None
    norm: Literal["rms", "layer"] = "rms"
    norm_eps: float = 1e-6
    norm_offset: float = 0.0
    activation: Activation = "silu"
    gated_mlp: bool = True
    qkv_bias: bool = False
    attention_out_bias: bool = False
    mlp_bias: bool = False
    head_bias: bool = False
    qk_norm: bool = False
    wide_qk_norm: bool = False
    parallel_block: bool = False
    pre_norms: bool = True
    post_norms: bool = False
    embedding_scale: float = 1.0
    query_scale: float | None = None
    sliding_window: int | None = None
    sliding_layers: tuple[bool, ...] = ()
    rope_layers: tuple[bool, ...] = ()
    tie_embeddings: bool = False
    compute_dtype: ComputeDtype = "float32"

    def __post_init__(self) -> None:
        """Check that the fields are in range and consistent.

        Raises:
            InputError: They are not; the message names the fields.
        """
        _check_ranges(self, RANGES, "model config")
        if self.compute_dtype not in get_args(ComputeDtype):
            raise InputError(
                f"compute_dtype is {self.compute_dtype!r}; use one of "
                + ", ".join(get_args(ComputeDtype))
            )
        if not self.sliding_layers:
            object.__setattr__(self, "sliding_layers", (False,) * self.num_layers)
        for name, flags in (
            ("sliding_layers (layer_types)", self.sliding_layers),
            ("rope_layers (no_rope_layers)", self.rope_layers or self.sliding_layers),
        ):
            if len(flags) != self.num_layers:
                raise InputError(
                    f"model config: {len(flags)} entries in {name} for {self.num_layers} layers; "
                    "expected one entry for each layer: correct config.json"
                )
        if not self.pre_norms and (self.parallel_block or not self.post_norms):
            raise InputError(
                "model config: no norms before attention and MLP; expected norms after them, and "
                "one after the other: correct the reader of the family"
            )
        if any(self.sliding_layers) and not self.sliding_window:
            raise InputError(
                f"model config: sliding layers with sliding_window {self.sliding_window}; "
                "expected a positive width: correct config.json"
            )
        if self.num_kv_heads < 1 or self.num_heads % self.num_kv_heads:
            raise InputError(
                f"model config: {self.num_heads} query heads and {self.num_kv_heads} key/value "
                "heads; expected a divisor of the number of query heads: correct config.json"
            )
        if not 0 < self.num_tokens <= self.vocab_size:
            raise InputError(
                f"the tokenizer has {self.num_tokens} tokens, the embedding {self.vocab_size} "
                "rows; expected at most one token for each row: use the tokenizer of this model"
            )
        if self.rope and (self.rope.dim % 2 or not 0 < self.rope.dim <= self.head_dim):
            raise InputError(
                f"model config: rotary dimension {self.rope.dim}; expected an even number up to "
                f"the head dimension {self.head_dim}: correct config.json"
            )

    @property
    def attention_scale(self) -> float:
        """Factor on the attention scores."""
        return self.head_dim**-0.5 if self.query_scale is None else self.query_scale

    def check_length(self, tokens: int) -> None:
        """Refuse texts that are longer than the model's context.

        Args:
            tokens: Length of the prompt and the tokens to be generated.

        Raises:
            InputError: `tokens` exceeds `max_positions`.
        """
        if tokens > self.max_positions:
            raise InputError(
                f"a text of {tokens} tokens, prompt and answer, is too long: this {self.family} "
                f"has a context of {self.max_positions} tokens; shorten the prompt or the answer"
            )

    def with_num_tokens(self, num_tokens: int) -> ModelConfig:
        """The configuration for a tokenizer of `num_tokens` tokens; later rows are padding.

        Raises:
            InputError: There are more tokens than embedding rows.
        """
        return dataclasses.replace(self, num_tokens=num_tokens)

    def with_compute_dtype(self, compute_dtype: ComputeDtype) -> ModelConfig:
        """The configuration of the same model that multiplies in another type.

        Raises:
            InputError: No such type.
        """
        return dataclasses.replace(self, compute_dtype=compute_dtype)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, without `compute_dtype`; the inverse of `from_dict`."""
        values = dataclasses.asdict(self)
        del values["compute_dtype"]
        return values

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ModelConfig:
        """Rebuild a config from the values of `to_dict`, as they are or read back from JSON.

        Raises:
            InputError: A field is missing, of another type or out of range.
        """
        config: ModelConfig = parse_record(cls, values, "model config")
        return config
