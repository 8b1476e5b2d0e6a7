"""Names of fusion rules, for the command line and for YAML files."""

import dataclasses
from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from typing import Any

from onceedit_jax.errors import InputError
from onceedit_jax.fusion.context_rule import context_by
from onceedit_jax.fusion.draft_rule import draft_by
from onceedit_jax.fusion.relative_rule import relative_by
from onceedit_jax.fusion.settings import RULE_SETTINGS
from onceedit_jax.fusion.types import FusionRule
from onceedit_jax.fusion.vocabulary_rule import vocabulary

ENTRY_POINTS = "onceedit_jax.fusion_rules"


@dataclasses.dataclass(frozen=True)
class NamedRule:
    """A rule that a name stands for.

    Attributes:
      make: from a settings record to the rule.
      settings: the record of this name; a user's options replace some of its fields.
      gate: name of the gate that goes with the rule, see `onceedit_jax.gates.registry`; None for
        the plug-in's default one.
    """

    make: Callable[[Any], FusionRule]
    settings: Any
    gate: str | None = None


RULES: dict[str, NamedRule] = {
    "draft": NamedRule(draft_by, RULE_SETTINGS["draft"]),
    "vocabulary": NamedRule(lambda settings: vocabulary(), RULE_SETTINGS["vocabulary"]),
    "relative": NamedRule(relative_by, RULE_SETTINGS["relative"], gate="token"),
    "deepen": NamedRule(relative_by, RULE_SETTINGS["deepen"], gate="fixed"),
    "context": NamedRule(context_by, RULE_SETTINGS["context"], gate="fact"),
}


def rule_names() -> list[str]:
    """All names that `named_rule` knows: this library's, and those of installed packages."""
    return [*RULES, *sorted(point.name for point in entry_points(group=ENTRY_POINTS))]


def named_rule(name: str) -> NamedRule:
    """The rule that a name stands for.

    A package adds a name by an entry point of the group `onceedit_jax.fusion_rules` that leads to a
    `NamedRule`, or to a `FusionRule`, which then takes no options.

    Raises:
      InputError: no such name.
    """
    if name in RULES:
        return RULES[name]
    for point in entry_points(group=ENTRY_POINTS, name=name):
        value: FusionRule | NamedRule = point.load()
        return _without_options(value) if isinstance(value, FusionRule) else value
    raise InputError(f"fusion rule {name!r}: expected one of {', '.join(rule_names())}")


def gate_of(name: str, *, in_adapters: bool = False) -> str | None:
    """Name of the gate that goes with a rule; None for the plug-in's default one.

    Args:
      name: of the rule.
      in_adapters: whether the plug-in's edits are in adapters. [WEIGHT] is not trained then, and a
        rule whose own gate reads it takes the plug-in's default gate.

    Raises:
      InputError: no such name.
    """
    own = named_rule(name).gate
    return None if in_adapters and own == "token" else own


def _without_options(rule: FusionRule) -> NamedRule:
    return NamedRule(lambda settings: rule, None)


def rule_by_name(name: str, options: Mapping[str, Any] | None = None) -> FusionRule:
    """A rule from its name and changed settings.

    Raises:
      InputError: no such name, or a setting that the rule does not have.
    """
    named, options = named_rule(name), dict(options or {})
    fields = dataclasses.fields(named.settings) if dataclasses.is_dataclass(named.settings) else ()
    known = [field.name for field in fields]
    if unknown := [key for key in options if key not in known]:
        settings = f"its settings are {', '.join(known)}" if known else "it has no settings"
        raise InputError(
            f"fusion rule {name}: no setting {unknown[0]}; {settings}. Leave it out, or choose "
            "another rule"
        )
    settings = dataclasses.replace(named.settings, **options) if options else named.settings
    return named.make(settings)
