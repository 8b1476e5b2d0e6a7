"""A plan as text: the rows of its table, the table itself, and a summary in sentences."""

from collections.abc import Callable

from rich.table import Table

from onceedit_jax.planning.pair import DRAFT_TOKENS, PairPlan
from onceedit_jax.planning.plan import PROMPT_TOKENS, ModelPlan, expected_seconds, step_seconds


def table(plan: PairPlan) -> Table:
    """The figures of both models as a table for the terminal."""
    out = Table("per device, and per step of all devices", "plug-in", "target")
    for row in table_rows(plan):
        out.add_row(*row)
    return out


def table_rows(plan: PairPlan) -> list[tuple[str, str, str]]:
    """The rows of the table: label, figure of the plug-in, figure of the target."""
    figures: dict[str, Callable[[ModelPlan], str]] = {
        "parameters": lambda model: f"{model.parameters / 1e9:.2f} B",
        "query and key/value heads": lambda model: "{} / {}".format(*model.heads),
        "weights": lambda model: _gigabytes(model.weights),
        "keys and values": lambda model: _gigabytes(model.cache),
        "relative table (not for drafts)": lambda model: _gigabytes(model.table),
        "temporaries, as compiled for CPU": lambda model: _gigabytes(model.temporaries),
        "FLOP per step": lambda model: f"{model.costs.flops / 1e9:,.1f} G",
        "bytes moved per step": lambda model: _gigabytes(model.costs.bytes),
        "communication per device and step": _communication,
        f"least time per step, {plan.chip.name}": (
            lambda model: f"{1e3 * step_seconds(model, plan.chip, plan.devices):.2f} ms"
        ),
        "expected time per step": (
            lambda model: f"{1e3 * expected_seconds(model, plan.chip, plan.devices):.2f} ms"
        ),
    }
    return [(label, text(plan.plugin), text(plan.target)) for label, text in figures.items()]


def summary(plan: PairPlan) -> list[str]:
    """Two paragraphs: whether the pair fits into memory, and the predicted speed."""
    fit = "fit" if plan.fits else "DO NOT FIT"
    return [
        f"Both models with their tables and caches take {_gigabytes(plan.resident)} of each "
        f"device, {_gigabytes(plan.peak)} with temporaries: they {fit} into "
        f"{_gigabytes(plan.chip.memory)}.",
        f"Least times follow from published peak figures ({plan.chip.source}). Expected ones are "
        "not measured on this device either: they take the shares of its peaks that one H200 "
        "reached in bfloat16, and leave out the latency of communication. So expect "
        f"{plan.target_alone_speed:,.0f} tokens/s of the target alone; {plan.drafted_speed:,.0f} "
        f"if drafts of {DRAFT_TOKENS} tokens and their end are accepted, each after the plug-in "
        f"has read {PROMPT_TOKENS} tokens; {plan.joint_speed:,.0f} if both models compute every "
        "token.",
    ]


def _communication(model: ModelPlan) -> str:
    return (
        ", ".join(
            f"{item.count} {item.kind} ({item.bytes / 1e6:.1f} MB)" for item in model.collectives
        )
        or "none"
    )


def _gigabytes(size: float) -> str:
    return f"{size / 1e9:,.2f} GB"
