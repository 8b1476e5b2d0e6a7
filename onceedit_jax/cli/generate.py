"""`onceedit generate`: each target's answers to prompts, before and after the edit."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated

from tyro.conf import arg

from onceedit_jax.cli.rules import RuleOptions, fusion_arguments
from onceedit_jax.decoding.options import GREEDY, SamplingSettings, Speculate
from onceedit_jax.errors import InputError
from onceedit_jax.evaluation.options import EnsembleOptions

if TYPE_CHECKING:
    from onceedit_jax.ensemble import Answers, Ensemble


@dataclass(frozen=True, kw_only=True)
class GenerateOptions(EnsembleOptions):
    """Prompts for an edited plug-in and its targets.

    Attributes:
      prompt: a question; repeat the flag for several.
      explain: say why the gate opened or not: the subjects found, and how likely each of their
        edits is asked for.
      max_new_tokens: length of the longest answer.
      chat: ask targets in chat if they have a chat template.
      speculate: let the plug-in draft for what a target says alone to a single prompt, which are
        the same tokens in fewer passes: off, auto (where it can pay) or on.
    """

    prompt: tuple[str, ...]
    explain: bool = False
    max_new_tokens: int = 20
    chat: bool = True
    speculate: Speculate = "off"


def generate(
    options: Annotated[GenerateOptions, arg(name="")], rule: RuleOptions, sampling: SamplingSettings
) -> None:
    """Answer prompts with each target, before and after the edit, and show alpha."""
    from onceedit_jax.cli.progress import table_progress
    from onceedit_jax.decoding.answers import PROMPTS
    from onceedit_jax.evaluation.from_files import open_ensemble

    if not sampling.draws and replace(sampling, temperature=0.0) != GREEDY:
        raise InputError(
            f"temperature={sampling.temperature}: nothing is drawn, and top_p, top_k and seed "
            "would change nothing; give --temperature above 0, or leave them out"
        )
    fusion = fusion_arguments(rule, options.edited, verify=options.verify)
    with table_progress() as on_block:
        ensemble = open_ensemble(
            options,
            chat=None if options.chat else False,
            speculate=options.speculate,
            on_block=on_block,
            **fusion,
        )
    groups = -(-len(options.prompt) // PROMPTS)
    ensemble = ensemble.unrolled_for(groups * options.max_new_tokens)
    answers = ensemble.generate(
        options.prompt, max_new_tokens=options.max_new_tokens, sampling=sampling
    )
    names, numbers = [each.name for each in ensemble.targets], ensemble.plugin.info.numbers
    print_answers(options.prompt, names, answers, numbers)
    if options.explain:
        print_findings(ensemble, options.prompt, answers)


def print_answers(
    prompts: Sequence[str], targets: Sequence[str], answers: "Answers", numbers: Sequence[int]
) -> None:
    """Print a table of answers: one block a prompt, one row a target.

    Args:
      prompts: the prompts.
      targets: the targets' names.
      answers: the answers of all targets to all prompts.
      numbers: what the edits are called.
    """
    from rich.table import Table

    from onceedit_jax.cli.console import out

    table = Table("prompt", "alpha", "edit", "target", "before", "after", show_lines=False)
    for i, prompt in enumerate(prompts):
        for t, target in enumerate(targets):
            edit = int(answers.edits[i])
            named = "-" if edit < 0 else str(numbers[edit])
            first = (prompt, f"{answers.alphas[i]:.2f}", named) if t == 0 else ("", "", "")
            texts = (answers.before[t][i], answers.after[t][i])
            table.add_row(*first, target, *(text or "(nothing)" for text in texts))
        table.add_section()
    out.print(table)


def print_findings(ensemble: "Ensemble", prompts: Sequence[str], answers: "Answers") -> None:
    """Print which edits' subjects each prompt names, and how likely each edit is asked for.

    Args:
      ensemble: the ensemble.
      prompts: the prompts.
      answers: the answers; what the last hop of a prompt has left is explained.
    """
    from onceedit_jax.cli.console import out
    from onceedit_jax.editing.explanation import explain

    info, threshold, hops = ensemble.plugin.info, ensemble.threshold, answers.hops
    asked = [each[-1].text if each else prompt for prompt, each in zip(prompts, hops, strict=True)]
    explained = explain(ensemble.plugin, asked)
    beyond = answers.beyond.tolist()
    for prompt, each, findings, more in zip(prompts, hops, explained, beyond, strict=True):
        out.print(prompt, markup=False)
        for hop in each:
            out.print(
                f"  {hop.phrase!r} asks for edit {info.numbers[hop.edit]} "
                f"(likeness {hop.likeness:.2f}); asked instead: {hop.text}",
                markup=False,
            )
        if not findings:
            out.print("  names the subject of no edit: the gate is shut")
        for finding in findings:
            opens = "open" if finding.likeness >= threshold else "shut"
            why = f"likeness {finding.likeness:.2f}, threshold {threshold:.2f}"
            if finding.apart:
                why = f"about another fact ({', '.join(sorted(finding.apart))})"
            out.print(
                f"  names {finding.name!r}; edit {info.numbers[finding.edit]} "
                f"({info.edits[finding.edit].prompt!r}): {why}: {opens}",
                markup=False,
            )
        if more:
            out.print("  asks for more than the fact: a target reads it and answers by itself")
