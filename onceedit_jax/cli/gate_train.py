"""`onceedit gate-train`: learn the relation head of a plug-in, once."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import arg

from onceedit_jax.editing.head_settings import HeadSettings

if TYPE_CHECKING:
    from onceedit_jax.editing.relation_heads import LearntHead


@dataclass(frozen=True, kw_only=True)
class GateTrainOptions:
    """A plug-in and how its relation head is learnt.

    Attributes:
      plugin: the unedited plug-in: a folder, hub id, .gguf file or demo:NAME.
      relations: YAML file of further relations, in the layout of the library's bank.
      out: file for the head; None puts it into the cache, where `onceedit edit` finds it.
      settings: how the head is learnt.
    """

    plugin: str
    relations: Path | None = None
    out: Path | None = None
    settings: HeadSettings = HeadSettings()  # noqa: RUF009 (frozen)


def gate_train(options: Annotated[GateTrainOptions, arg(name="")]) -> None:
    """Learn which relation a question asks for, once for a plug-in."""
    from onceedit_jax.cli.console import note, out
    from onceedit_jax.cli.progress import display
    from onceedit_jax.data.relations import load_relations, relation_bank
    from onceedit_jax.editing.gate_training import learn_relation_head
    from onceedit_jax.editing.relation_heads import keep_head, write_head
    from onceedit_jax.models.weights import load_model
    from onceedit_jax.storage.text_files import check_place
    from onceedit_jax.text.tokenizer import load_tokenizer

    if options.out is not None:
        check_place(options.out)  # before training
    bank = relation_bank()
    if options.relations is not None:
        bank = (*bank, *load_relations(options.relations))
    note(f"{len(bank)} relations; loading {options.plugin}")
    tokenizer = load_tokenizer(options.plugin)
    model = load_model(options.plugin, num_tokens=len(tokenizer.vocabulary))
    with display() as shown:
        head = learn_relation_head(
            model, tokenizer, options.settings, bank=bank, on_progress=shown.show
        )
    if options.out is None:
        path = keep_head(head)
    else:
        write_head(head, path := options.out)
    out.print(f"{_scores(head)}: {path}")


def _scores(head: "LearntHead") -> str:
    scores = head.learnt["scores"]
    return (
        f"on {head.learnt['held_back']} relations that were held back, "
        f"{scores['same relation open']:.0%} of the wordings of one relation are recognised and "
        f"{scores['other relation shut']:.0%} of those of another relation are told apart"
    )
