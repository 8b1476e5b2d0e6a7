"""What an edit does to a target's other abilities: its perplexity, and simple facts it knew."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.framework.definition import Results, Table
from experiments.framework.systems import Alone, System, where
from onceedit_jax.data.loaders import load_records
from onceedit_jax.data.records import demo_path
from onceedit_jax.evaluation.perplexity import perplexity_of
from onceedit_jax.evaluation.probes import says

ANSWER = 10  # tokens of an answer to a simple fact
Abilities = Mapping[str, Any]


def abilities(system: System, before: Alone, texts: Sequence[str]) -> Abilities:
    """Perplexity on texts, and the share of simple facts answered right, before and after.

    Args:
      system: the edited target.
      before: the same target before the edit.
      texts: that no edit is about; as many simple facts are asked, if there are so many.

    Returns:
      `texts reached`, how many of the texts the edit reaches; `perplexity before` and `perplexity
      after`, None where it reaches some and gives no distribution; `facts before` and `facts
      after`, by free generation.
    """
    facts = load_records(demo_path("simple_facts.jsonl"))[: len(texts)]
    prompts = [fact.prompt for fact in facts]
    old = before.answers(prompts, ANSWER)
    reached = system.reaches(prompts)
    some = [prompt for prompt, there in zip(prompts, reached, strict=True) if there]
    fresh = iter(system.answers(some, ANSWER))
    new = [next(fresh) if there else text for there, text in zip(reached, old, strict=True)]

    def right(answers: Sequence[str]) -> float:
        return float(
            np.mean([says(text, fact.target) for text, fact in zip(answers, facts, strict=True)])
        )

    found = {"facts before": right(old), "facts after": right(new)}
    return {**_perplexities(system, before, texts), **found}


def _perplexities(system: System, before: Alone, texts: Sequence[str]) -> Abilities:
    reached, rows, old = system.reaches(texts), before.rows(texts), before.losses(texts)
    after: float | None = perplexity_of(old, rows)
    if reached.any():
        after = None
        if system.losses is not None:
            new = where(reached, system.losses(texts).tolist(), old.tolist())
            after = perplexity_of(np.array(new), rows)
    return {
        "texts reached": int(reached.sum()),
        "perplexity before": perplexity_of(old, rows),
        "perplexity after": after,
    }


def abilities_table(results: Results) -> Table:
    """A row for each draw, method and target.

    Args:
      results: by draw; `abilities` has for each method its targets' abilities.
    """
    names = (
        "perplexity before",
        "perplexity after",
        "texts reached",
        "facts before",
        "facts after",
    )
    return Table(
        "abilities",
        "What is left of other abilities: perplexity on texts that no edit is about, how many of "
        "them the edit reaches, and the share of forty simple facts answered right. A "
        "fused system gives tokens and no distribution: where it is reached it has no perplexity.",
        ("facts", "method", "target", *names),
        [
            [draw, method, target, *(measured[name] for name in names)]
            for draw, result in results.items()
            for method, targets in result["abilities"].items()
            for target, measured in targets.items()
        ],
    )
