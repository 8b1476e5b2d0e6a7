"""What an edit costs a model: its perplexity on other texts, and simple facts that it knew."""

from collections.abc import Sequence

from onceedit_jax.data.loaders import load_records
from onceedit_jax.data.records import demo_path
from onceedit_jax.evaluation.perplexity import perplexity
from onceedit_jax.evaluation.protocol import model_alone
from onceedit_jax.models.config import ModelConfig
from onceedit_jax.text.tokenizer import Tokenizer
from onceedit_jax.types import Params

MAX_TOKENS = 128  # of a text


def forgetting(
    params: Params, config: ModelConfig, tokenizer: Tokenizer, texts: Sequence[str]
) -> dict[str, float]:
    """Perplexity on texts, and the share of forty simple facts that the model knows.

    Args:
      params: the model's parameters.
      config: its configuration.
      tokenizer: its tokenizer.
      texts: that no edit is about, and that were not trained on.

    Returns:
      `{"perplexity", "facts"}`; a fact counts by its share of tokens, teacher-forced.
    """
    rows = [tokenizer.encode(text)[:MAX_TOKENS] for text in texts]
    facts = load_records(demo_path("simple_facts.jsonl"))
    known = model_alone(params, config, tokenizer, facts).rel.value
    return {"perplexity": perplexity(params, config, rows), "facts": float(known or 0.0)}
