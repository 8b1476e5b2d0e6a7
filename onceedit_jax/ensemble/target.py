"""A target LLM: a model with its tokenizer."""

import dataclasses
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from jax.sharding import Mesh

from onceedit_jax.errors import InputError
from onceedit_jax.models.dtypes import ComputeDtype
from onceedit_jax.models.weights import LoadedModel, load_model
from onceedit_jax.text.tokenizer import Tokenizer, load_tokenizer


@dataclasses.dataclass(frozen=True)
class Target:
    """A target LLM with its tokenizer."""

    model: LoadedModel
    tokenizer: Tokenizer

    @property
    def name(self) -> str:
        """The model's name."""
        return self.model.name

    @property
    def chat_template(self) -> str | None:
        """The model's chat template in Jinja's language; None if it has none."""
        return self.tokenizer.chat_template


def load_target(
    spec: str | Path,
    *,
    dtype: str = "float32",
    compute_dtype: ComputeDtype | None = None,
    mesh: Mesh | None = None,
    verify: bool = True,
) -> Target:
    """Load a target LLM.

    Args:
      spec: a folder, a hub id, a .gguf file or `demo:NAME`.
      dtype: of its weights, as for `load_model`.
      compute_dtype: of the operands of its matrix products, as for `load_model`.
      mesh: the devices that hold it (default: one).
      verify: as for `load_model`.
    """
    tokenizer = load_tokenizer(spec)
    model = load_model(
        spec,
        dtype=dtype,
        compute_dtype=compute_dtype,
        num_tokens=len(tokenizer.vocabulary),
        mesh=mesh,
        verify=verify,
    )
    return Target(model, tokenizer)


def with_distinct_names(targets: Sequence[Target]) -> list[Target]:
    """The targets, renamed where names are equal: folders of one name get their parent's too.

    Raises:
      InputError: two targets are the same.
    """
    counts, renamed = Counter(target.name for target in targets), []
    for target in targets:
        model = target.model
        if counts[target.name] > 1:
            model = dataclasses.replace(model, name=f"{model.source.parent.name}/{model.name}")
        renamed.append(dataclasses.replace(target, model=model))
    for name, count in Counter(target.name for target in renamed).items():
        if count > 1:
            raise InputError(f"{count} targets are called {name}: give each once")
    return renamed
