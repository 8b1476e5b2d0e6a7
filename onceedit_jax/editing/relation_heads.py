"""Relation heads on disk: those that come with the package, and those learnt on this machine."""

import dataclasses
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from onceedit_jax.data.records import EditRecord
from onceedit_jax.data.relations import Relation, relation_bank
from onceedit_jax.editing.artifact import EditedPlugin
from onceedit_jax.editing.relation_reading import (
    RelationReader,
    names_of,
    own_parts,
    own_qualifiers,
    subjects_of,
)
from onceedit_jax.gates.fact import THRESHOLD
from onceedit_jax.gates.relation_head import RelationHead, host_likeness, host_vectors
from onceedit_jax.models.layout import lower_part
from onceedit_jax.models.weights import LoadedModel
from onceedit_jax.storage.bounded import foreign
from onceedit_jax.storage.checksums import read_sealed, write_sealed
from onceedit_jax.storage.sources import cache_folder
from onceedit_jax.text.asked_sentence import asked_part, masked, where_asked
from onceedit_jax.text.qualifiers import mentioned_qualifiers, qualifiers
from onceedit_jax.text.subjects import Subjects
from onceedit_jax.text.tokenizer import Tokenizer

SHIPPED = "heads"  # folder beside this module
KNOWN = 0.8  # likeness from which an edit is taken for a relation of the bank


@dataclasses.dataclass(frozen=True)
class LearntHead:
    """A relation head, and what it belongs to.

    Attributes:
      head: its parameters.
      relations: names of the relations of its bank.
      layers: of the unedited plug-in that it reads.
      base_hash: content hash of this plug-in.
      learnt: how it was made: settings, numbers of relations and texts, scores.
    """

    head: RelationHead
    relations: tuple[str, ...]
    layers: int
    base_hash: str
    learnt: dict[str, Any]

    def reader(
        self, model: LoadedModel, tokenizer: Tokenizer, records: Sequence[EditRecord] = ()
    ) -> RelationReader:
        """What reads texts for this head, with the unedited model.

        Args:
          model: the unedited plug-in.
          tokenizer: its tokenizer.
          records: the edits whose subjects are looked for.
        """
        lower, config = lower_part(model.params, model.config, self.layers)
        return RelationReader(lower, config, tokenizer, subjects_of(records))

    def bank_relations(
        self, reader: RelationReader, records: Sequence[EditRecord]
    ) -> list[Relation | None]:
        """The relation of the bank that each edit asks for; None where none is likely.

        None too where the edit asks with a qualifier that no question of the relation has: they
        would ask for another fact.

        Args:
          reader: from `reader`.
          records: the edits.
        """
        if not records:
            return []
        bank = {relation.name: relation for relation in relation_bank()}
        asked = host_vectors(self.head, reader.read(own_parts(records)))
        likely = host_likeness(self.head, asked, self.head.bank)
        best = likely.argmax(axis=1).tolist()
        found = [
            bank.get(self.relations[place]) if row[place] >= KNOWN else None
            for place, row in zip(best, likely, strict=True)
        ]
        return [
            relation if relation and _has_qualifiers(relation, own.asked) else None
            for relation, own in zip(found, own_qualifiers(records), strict=True)
        ]

    def asking_the_same(
        self,
        reader: RelationReader,
        records: Sequence[EditRecord],
        wordings: Sequence[Sequence[str]],
    ) -> list[list[str]]:
        """Of the wordings of each edit those that ask for its relation, as the gate `fact` sees it.

        Args:
          reader: from `reader`.
          records: N edits.
          wordings: of each edit; each wording names its subject.
        """
        own = [Subjects([names_of(record)]) for record in records]
        owners = [i for i, texts in enumerate(wordings) for _ in texts]
        if not owners:
            return [[] for _ in records]
        places = [
            (text, where_asked(masked(text, named := subjects.find(text)), named))
            for subjects, texts in zip(own, wordings, strict=True)
            for text in texts
        ]
        parts = [asked_part(*place) for place in places]
        asked, keys = (
            host_vectors(self.head, reader.read(texts)) for texts in (parts, own_parts(records))
        )
        likely = host_likeness(self.head, asked, keys)[np.arange(len(owners)), owners]
        asked_with = own_qualifiers(records)
        apart = [
            bool(qualifiers(*place).apart(asked_with[owner]))
            for place, owner in zip(places, owners, strict=True)
        ]
        alike = iter(((likely >= THRESHOLD) & ~np.array(apart)).tolist())
        return [[text for text in texts if next(alike)] for texts in wordings]


def _has_qualifiers(relation: Relation, asked: frozenset[str]) -> bool:
    """Whether a relation's questions have the qualifiers that an edit asks with."""
    return not asked or any(asked <= mentioned_qualifiers(each) for each in relation.questions)


def known_relations(plugin: EditedPlugin) -> list[Relation | None]:
    """The relation of the bank that each edit of a plug-in asks for; None where it is not known.

    None is known where the plug-in was edited without a relation head, or with one that is neither
    shipped nor on this machine.
    """
    head, reader = find_head(plugin.base_hash), plugin.reader.relations
    if head is None or reader is None or reader.config.num_layers != head.layers:
        return [None] * len(plugin.records)
    return head.bank_relations(reader, plugin.records)


def find_head(base_hash: str) -> LearntHead | None:
    """The relation head of a base model: learnt on this machine, or shipped, or None.

    Args:
      base_hash: content hash of the unedited model.

    Raises:
      InputError: its file is damaged.
    """
    name = f"{base_hash}.safetensors"
    shipped = Path(str(files("onceedit_jax.editing"))) / SHIPPED
    for folder in (_cache(), shipped):
        if (folder / name).is_file():
            return read_head(folder / name)
    return None


def keep_head(head: LearntHead) -> Path:
    """Put a head into the cache folder, where `find_head` finds it."""
    path = _cache() / f"{head.base_hash}.safetensors"
    write_head(head, path)
    return path


def write_head(head: LearntHead, path: Path) -> None:
    """Write a head as a safetensors file; half-written files do not appear."""
    about = {
        "layers": head.layers,
        "base_hash": head.base_hash,
        "relations": head.relations,
        "learnt": head.learnt,
    }
    arrays = {name: np.asarray(array, np.float16) for name, array in head.head._asdict().items()}
    write_sealed(path, arrays, about)


def read_head(path: Path) -> LearntHead:
    """Read a head.

    Raises:
      InputError: the file is damaged.
    """
    remedy = "delete it and run `onceedit gate-train` again"
    read, about = read_sealed(path, remedy=remedy, older=True)
    with foreign(path, remedy):
        arrays = {name: jnp.asarray(read[name], jnp.float32) for name in RelationHead._fields}
        relations = tuple(about.pop("relations"))
        return LearntHead(RelationHead(**arrays), relations, **about)


def _cache() -> Path:
    return cache_folder() / "relation-heads"
