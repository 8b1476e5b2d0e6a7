"""`onceedit generate`: each target's answers to prompts, before and after the edit."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from tyro.conf import arg

from onceedit_jax.cli.rules import RuleOptions, rule_and_gate
from onceedit_jax.evaluation.options import EnsembleOptions

if TYPE_CHECKING:
    from onceedit_jax.ensemble import Answers


@dataclass(frozen=True, kw_only=True)
class GenerateOptions(EnsembleOptions):
    """Prompts for an edited plug-in and its targets.

    Attributes:
      prompt: a question; repeat the flag for several.
      max_new_tokens: length of the longest answer.
    """

    prompt: tuple[str, ...]
    max_new_tokens: int = 20


def generate(options: Annotated[GenerateOptions, arg(name="")], rule: RuleOptions) -> None:
    """Answer prompts with each target, before and after the edit, and show alpha."""
    from onceedit_jax.cli.progress import table_progress
    from onceedit_jax.editing.artifact_info import read_info
    from onceedit_jax.evaluation.from_files import open_ensemble

    fusion_rule, gate = rule_and_gate(rule, read_info(options.edited).rule.fusion)
    with table_progress() as on_block:
        ensemble = open_ensemble(options, rule=fusion_rule, gate=gate, on_block=on_block)
    answers = ensemble.generate(options.prompt, max_new_tokens=options.max_new_tokens)
    print_answers(options.prompt, [target.name for target in ensemble.targets], answers)


def print_answers(prompts: Sequence[str], targets: Sequence[str], answers: "Answers") -> None:
    """Print a table of answers: one block a prompt, one row a target.

    Args:
      prompts: the prompts.
      targets: the targets' names.
      answers: the answers of all targets to all prompts.
    """
    from rich.table import Table

    from onceedit_jax.cli.console import out

    table = Table("prompt", "alpha", "target", "before", "after", show_lines=False)
    for i, prompt in enumerate(prompts):
        for t, target in enumerate(targets):
            first = (prompt, f"{answers.alphas[i]:.2f}") if t == 0 else ("", "")
            texts = (answers.before[t][i], answers.after[t][i])
            table.add_row(*first, target, *(text or "(nothing)" for text in texts))
        table.add_section()
    out.print(table)
