"""`--rule`, `--gate` and the rules' own settings: flags from records, and values from flags."""

import dataclasses
from typing import Literal

import pytest

from onceedit_jax import fusion, gates
from onceedit_jax.cli.flags import attribute_texts, settings_flags, typed
from onceedit_jax.cli.rules import RuleOptions, RuleSettings, on_choice, rule_and_gate
from onceedit_jax.errors import InputError
from onceedit_jax.fusion.registry import RULES
from onceedit_jax.fusion.settings import RULE_SETTINGS
from onceedit_jax.gates.registry import GATES


def chosen(artifact_rule="draft", **options):
    names = ("rule", "gate", "fixed_alpha")
    own = {name: value for name, value in options.items() if name not in names}
    options = {name: value for name, value in options.items() if name in names}
    return rule_and_gate(RuleOptions(**options, settings=RuleSettings(**own)), artifact_rule)


@pytest.mark.parametrize(
    ("name", "rule", "gate"),
    [
        ("draft", fusion.draft(), None),
        ("vocabulary", fusion.vocabulary(), None),
        ("relative", fusion.relative(), gates.token()),
        ("deepen", fusion.deepen(), gates.fixed(0.5)),
        ("context", fusion.context(), gates.fact()),
    ],
)
def test_a_name_alone_is_a_rule_with_its_gate(name, rule, gate):
    assert chosen(rule=name) == chosen(artifact_rule=name) == (rule, gate)


def test_auto_is_a_rule_for_each_target():
    assert chosen(rule="auto") == (None, gates.fact())
    assert chosen(rule="auto", gate="both") == (None, gates.both())
    assert on_choice(RuleOptions(rule="auto")) is not None
    assert on_choice(RuleOptions(rule="draft")) is on_choice(RuleOptions()) is None


def test_another_gate_may_be_chosen():
    assert chosen(gate="memory") == (fusion.draft(), gates.memory())
    assert chosen(gate="fixed", fixed_alpha=0.25)[1] == gates.fixed(0.25)
    assert chosen(rule="deepen", fixed_alpha=0.25)[1] == gates.fixed(0.25)
    assert chosen(rule="deepen", gate="token") == (fusion.deepen(), gates.token())


def test_settings_reach_the_rule():
    options = {"objective": "distribution", "search": "gradient", "start": "prior"}
    rule, _ = chosen(rule="relative", table="exact", allow_lossy=True, **options)
    assert rule == fusion.relative(table="exact", allow_lossy=True, **options)
    assert chosen(confidence="sure", trust=True)[0] == fusion.draft(confidence="sure", trust=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rule": "average"}, "expected one of draft, vocabulary, relative, deepen"),
        ({"gate": "open"}, "expected one of fact, both, token, memory, fixed"),
        ({"table": "exact"}, "draft: no setting table; its settings are confidence, trust"),
        ({"rule": "auto", "trust": True}, "auto: no setting trust; it has no settings"),
        ({"rule": "vocabulary", "trust": True}, "vocabulary: no setting trust; it has no settings"),
        ({"rule": "relative", "trust": True}, "its settings are normalization, start, objective"),
        ({"fixed_alpha": 0.3}, "the gate fact computes alpha itself; leave"),
        ({"gate": "fixed", "fixed_alpha": 1.5}, "expected a weight from 0 to 1"),
        ({"rule": "relative", "start": "prior"}, "set search=gradient"),
    ],
)
def test_what_would_change_nothing_is_refused(options, message):
    with pytest.raises(InputError) as caught:
        chosen(**options)
    assert message in str(caught.value)


def test_edits_in_adapters_have_no_weight_for_a_rules_own_gate():
    options = RuleOptions(rule="relative", settings=RuleSettings())
    assert rule_and_gate(options, "draft")[1] == gates.token()
    assert rule_and_gate(options, "draft", in_adapters=True)[1] is None
    typed = RuleOptions(rule="relative", gate="token", settings=RuleSettings())
    assert rule_and_gate(typed, "draft", in_adapters=True)[1] == gates.token()


def test_help_names_every_rule_and_gate():
    assert list(RULE_SETTINGS) == list(RULES)
    texts = attribute_texts(RuleOptions)
    assert all(rule in texts["rule"] for rule in RULES)
    assert all(gate in texts["gate"] for gate in GATES)
    assert all(RULES[rule].settings == settings for rule, settings in RULE_SETTINGS.items())


def test_flags_are_made_of_records():
    @dataclasses.dataclass(frozen=True)
    class Inner:
        """Settings of one's own."""

    @dataclasses.dataclass(frozen=True)
    class First:
        """A record.

        Attributes:
          way: which way,
            in two lines.
          quick: whether it is quick.
          inner: further settings.
        """

        way: Literal["left", "right"] = "left"
        quick: bool = False
        inner: Inner = Inner()

    @dataclasses.dataclass(frozen=True)
    class Second:
        """Another record.

        Attributes:
          size: how large; None for any.
        """

        size: int | None = None

    flags = settings_flags("Flags", {"first": First, "second": Second, "third": Second})
    assert [field.name for field in dataclasses.fields(flags)] == ["way", "quick", "size"]
    assert typed(flags()) == {}
    assert typed(flags(way="right", quick=True, size=0)) == {
        "way": "right",
        "quick": True,
        "size": 0,
    }
    assert attribute_texts(First)["way"] == "which way, in two lines."
