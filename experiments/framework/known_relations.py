"""Which edits ask for a relation of the library's bank, told in three ways."""

from collections.abc import Sequence

from onceedit_jax.data.records import EditRecord
from onceedit_jax.data.relations import SUBJECT, relation_bank
from onceedit_jax.editing.relation_heads import find_head
from onceedit_jax.models.weights import LoadedModel
from onceedit_jax.text.tokenizer import Tokenizer
from onceedit_jax.text.words import words


def in_bank(
    base: tuple[LoadedModel, Tokenizer], records: Sequence[EditRecord], relations: Sequence[str]
) -> dict[str, list[bool]]:
    """Whether the bank has what each edit asks for.

    Args:
      base: the unedited plug-in.
      records: the edits, with paraphrases.
      relations: the name that the data set has for each edit's relation.

    Returns:
      `name`: whether a relation of the bank is called so; `paraphrase`: whether the edit's
      paraphrase is word for word a wording of the bank; `head`: whether the relation head takes
      the edit's own question for a relation of the bank.
    """
    bank = relation_bank()
    names = {relation.name.casefold() for relation in bank}
    wordings = {tuple(words(each)) for relation in bank for each in relation.wordings}
    head = find_head(base[0].content_hash)
    assert head is not None
    known = head.bank_relations(head.reader(*base), records)
    return {
        "name": [relation.casefold() in names for relation in relations],
        "paraphrase": [is_worded(record, wordings) for record in records],
        "head": [relation is not None for relation in known],
    }


def is_worded(record: EditRecord, wordings: set[tuple[str, ...]]) -> bool:
    """Whether a record's paraphrase, without its subject, is one of the wordings."""
    paraphrase, subject = str(record.rephrase).lower(), str(record.subject).lower()
    return tuple(words(paraphrase.replace(subject, SUBJECT))) in wordings
