"""The fusion rule and the gate, from their names on the command line to their values."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import arg

from onceedit_jax.cli.flags import settings_flags, typed
from onceedit_jax.errors import InputError
from onceedit_jax.fusion.settings import RULE_SETTINGS

if TYPE_CHECKING:
    from onceedit_jax.evaluation.rule_choice import RuleChoice
    from onceedit_jax.fusion.types import FusionRule
    from onceedit_jax.gates.types import Gate

    RuleSettings = Any
else:
    RuleSettings = settings_flags(
        "RuleSettings", {name: type(settings) for name, settings in RULE_SETTINGS.items()}
    )


AUTO = "auto"


@dataclasses.dataclass(frozen=True)
class RuleOptions:
    """How plug-in and target are fused.

    Attributes:
      rule: the fusion rule: draft, vocabulary, relative, deepen or context; auto, which gives each
        target context or draft by a probe of ten facts; None takes the artifact's.
      gate: where alpha comes from: fact, both, token (the paper's), memory or fixed; None takes
        token for the rule relative, fixed for deepen, fact for context and auto, and for the
        others fact too (both, if the plug-in was edited without a relation head).
      fixed_alpha: alpha of the gate fixed; None takes 0.5.
      settings: settings of single rules; a rule refuses those of the others.
    """

    rule: Annotated[str | None, arg(metavar="NAME")] = None
    gate: Annotated[str | None, arg(metavar="NAME")] = None
    fixed_alpha: Annotated[float | None, arg(metavar="FLOAT")] = None
    settings: Annotated[RuleSettings, arg(name="")] = dataclasses.field(
        default_factory=RuleSettings
    )


def rule_and_gate(
    options: RuleOptions, artifact_rule: str, *, in_adapters: bool = False
) -> "tuple[FusionRule | None, Gate | None]":
    """The values that the names stand for.

    None for the plug-in's default gate, and for the rule auto, which is several.

    Args:
      options: names and settings as they are typed.
      artifact_rule: the rule's name where none is typed.
      in_adapters: whether the edits are in adapters, see `gate_of`.

    Raises:
      InputError: an unknown name, a setting that the rule does not have, or a fixed alpha for a
        gate that computes alpha.
    """
    from onceedit_jax.fusion.registry import gate_of, rule_by_name
    from onceedit_jax.gates.registry import gate_by_name

    name = options.rule or artifact_rule
    if name == AUTO:
        if settings := typed(options.settings):
            raise InputError(
                f"fusion rule auto: no setting {next(iter(settings))}; it has no settings. Leave "
                "it out, or choose another rule"
            )
        return None, gate_by_name(options.gate or "fact", fixed_alpha=options.fixed_alpha)
    rule = rule_by_name(name, typed(options.settings))
    gate = options.gate or gate_of(name, in_adapters=in_adapters)
    if gate is None and options.fixed_alpha is None:
        return rule, None
    return rule, gate_by_name(gate or "fact", fixed_alpha=options.fixed_alpha)


def on_choice(options: RuleOptions) -> "Callable[[RuleChoice], None] | None":
    """What prints the rule of each target where the rule auto chooses it, else None."""
    from onceedit_jax.cli.console import note

    return (lambda choice: note(str(choice))) if options.rule == AUTO else None


def fusion_arguments(options: RuleOptions, edited: Path, *, verify: bool = True) -> dict[str, Any]:
    """What the library's calls over files take of these options: `rule`, `gate`, `on_choice`.

    Args:
      options: names and settings as they are typed.
      edited: folder of the edited plug-in, whose rule is taken where none is typed.
      verify: check the hash of its `edit.json`.

    Raises:
      InputError: as `rule_and_gate`, or there is no edited plug-in.
    """
    from onceedit_jax.editing.artifact_info import read_info

    info = read_info(edited, verify=verify)
    rule, gate = rule_and_gate(options, info.rule.fusion, in_adapters=info.in_adapters)
    return {"rule": rule, "gate": gate, "on_choice": on_choice(options)}
