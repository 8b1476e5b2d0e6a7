"""`onceedit transfer`: a pair's transfer tables, their anchors, health and fidelity."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, NamedTuple

from tyro.conf import arg

from onceedit_jax.relative.options import Normalization

if TYPE_CHECKING:
    from onceedit_jax.ensemble.fidelity import Fidelity
    from onceedit_jax.relative.build import TransferHealth


@dataclass(frozen=True, kw_only=True)
class TransferOptions:
    """A pair of models.

    Attributes:
      plugin: the plug-in: a folder, hub id, .gguf file or demo:NAME.
      target: the target LLM, in the same ways.
      normalization: the normalization of the transfer matrices.
      fidelity: compare the tables with exact products on real text (takes minutes more).
      mesh: how devices share the work, as in data=4,tensor=2; None uses one device.
    """

    plugin: str
    target: str
    normalization: Normalization = "centered"
    fidelity: bool = False
    mesh: str | None = None


class TransferReport(NamedTuple):
    """What is known of a pair's tables.

    Attributes:
      names: of the plug-in and the target.
      health: of their tables.
      fidelity: of the tables, where it was measured.
    """

    names: tuple[str, str]
    health: "tuple[TransferHealth, TransferHealth]"
    fidelity: "Fidelity | None"


def transfer(options: Annotated[TransferOptions, arg(name="")]) -> None:
    """Build a pair's transfer tables and print anchors and health."""
    from onceedit_jax.cli.progress import table_progress

    with table_progress() as on_block:
        report = transfer_report(options, on_block=on_block)
    print_transfer(report)


def transfer_report(
    options: TransferOptions,
    *,
    on_block: Callable[[str, int, int], None] = lambda name, done, total: None,
) -> TransferReport:
    """Build both tables of a pair, or read them from the cache, and examine them.

    Args:
      options: the pair.
      on_block: called with (model name, blocks done, all blocks) while a table is built.
    """
    from onceedit_jax.distributed.mesh import parse_mesh
    from onceedit_jax.ensemble import load_target
    from onceedit_jax.ensemble.fidelity import fidelity
    from onceedit_jax.ensemble.side import ModelSide
    from onceedit_jax.fusion.relative_rule import pair_anchors, relative_state
    from onceedit_jax.fusion.settings import RelativeSettings

    mesh = parse_mesh(options.mesh)
    plugin, target = (
        ModelSide.of_model(load_target(name, mesh=mesh), on_block)
        for name in (options.plugin, options.target)
    )
    shared = pair_anchors(plugin.tokenizer, target.tokenizer)
    settings = RelativeSettings(normalization=options.normalization, table="topk", allow_lossy=True)
    state = relative_state(plugin, target, shared, settings)
    assert plugin.health is not None and target.health is not None
    health = plugin.health, target.health
    measured = None
    if options.fidelity:
        measured = fidelity(plugin, target, state, health, on_block=on_block)
    return TransferReport((plugin.name, target.name), health, measured)


def print_transfer(report: TransferReport) -> None:
    """Print a table of both models' figures, and warnings."""
    from rich.table import Table

    from onceedit_jax.cli.console import out

    table = Table("", *report.names)
    for label, field, digits in (
        ("anchors", "anchors", 0),
        ("temperature", "temperature", 1),
        ("self-mass of anchors", "self_mass", 3),
        ("mass of other tokens on their neighbours", "neighbour_mass", 3),
        ("entropy of a row, nats", "entropy", 2),
        ("tokens of text that are anchors", "coverage", 3),
        ("mass of p R that the table holds", "held_mass", 3),
    ):
        values = [getattr(side, field) for side in report.health]
        table.add_row(label, *("-" if v is None else f"{v:,.{digits}f}" for v in values))
    if report.fidelity is not None:
        variations = (f"{value:.3f}" for value in report.fidelity.total_variation)
        table.add_row("total variation of p R from the exact one", *variations)
    out.print(table)
    if report.fidelity is not None:
        shares = ", ".join(f"{s:.3f} at alpha {a}" for a, s in report.fidelity.agreement.items())
        out.print(
            f"texts whose argmax P is that of exact products, of {report.fidelity.distributions}: "
            f"{shares}"
        )
    for side, name in zip(report.health, report.names, strict=True):
        for text in side.warnings():
            out.print(f"warning: {name}: {text}")
