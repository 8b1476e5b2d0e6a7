"""Learns the relation head of a plug-in from the bank of relations; no edit is needed for it."""

from collections.abc import Callable, Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from onceedit_jax.data.relations import SUBJECT, Relation, relation_bank
from onceedit_jax.editing.head_settings import HeadSettings
from onceedit_jax.editing.head_training import calibrated, learn_projection, text_pairs, with_bank
from onceedit_jax.editing.relation_heads import LearntHead
from onceedit_jax.editing.relation_reading import RelationReader
from onceedit_jax.errors import InputError
from onceedit_jax.gates.relation_head import RelationHead, likeness, relation_vectors
from onceedit_jax.models.layout import lower_part
from onceedit_jax.models.weights import LoadedModel
from onceedit_jax.text.asked_sentence import sentence_start
from onceedit_jax.text.asking import drawn_form, sentence_forms, short_forms
from onceedit_jax.text.subjects import Subjects
from onceedit_jax.text.tokenizer import Tokenizer

STAND_IN = "zanzibor"  # names the subject while a form is put around a wording
OPEN = 0.5


def learn_relation_head(
    model: LoadedModel,
    tokenizer: Tokenizer,
    settings: HeadSettings = HeadSettings(),  # noqa: B008 (frozen)
    *,
    bank: Sequence[Relation] | None = None,
    on_progress: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> LearntHead:
    """Learn which relation a text asks for, once for a plug-in.

    Args:
      model: the unedited plug-in.
      tokenizer: its tokenizer.
      settings: how it is learnt.
      bank: relations with their wordings (default: `data.relations.relation_bank`).
      on_progress: called with what is done ("texts", "steps"), how much, and of how much.

    Returns:
      The head, with scores on relations that were held back.

    Raises:
      InputError: fewer than ten relations, or more layers than the model has.
    """
    bank = relation_bank() if bank is None else bank
    if len(bank) < 10:
        raise InputError(f"{len(bank)} relations: a relation head needs ten or more")
    layers = settings.layers or model.config.num_layers * 16 // 30 or 1
    if layers > model.config.num_layers:
        raise InputError(f"layers={layers}: {model.name} has {model.config.num_layers}")
    lower, config = lower_part(model.params, model.config, layers)
    reader = RelationReader(lower, config, tokenizer, Subjects([]))
    rng = np.random.default_rng([settings.seed, 1])
    texts, relations = _texts(bank, settings.forms, rng)
    states = _read(reader, texts, on_progress)
    order = rng.permutation(len(bank))
    held_back = np.sort(order[: max(5, round(settings.held_back * len(bank)))])
    learnt = np.setdiff1d(order, held_back)
    near = _near(bank)
    projection = learn_projection(
        *_of(states, relations, learnt),
        near[np.ix_(learnt, learnt)],
        settings,
        on_step=lambda done, total: on_progress("steps", done, total),
    )
    # The bank that calibrates the head knows half of these relations, by every second text of
    # theirs; the other texts are compared.
    second = np.arange(len(texts)) % 2 == 0
    known = np.isin(relations, learnt) | (np.isin(relations, held_back[::2]) & second)
    kept = np.unique(relations[known])
    partly = with_bank(projection, *_of(states[known], relations[known], kept))
    rest = _of(states[~second], relations[~second], held_back)
    rest_near = near[np.ix_(held_back, held_back)]
    head = calibrated(partly, *rest, rest_near)
    about = {
        "relations": len(bank),
        "held_back": len(held_back),
        "texts": len(texts),
        "settings": {**vars(settings), "layers": layers},
        "scores": _scores(head, *rest, rest_near),
    }
    head = head._replace(bank=with_bank(projection, states, relations).bank)
    names = tuple(relation.name for relation in bank)
    return LearntHead(head, names, layers, model.content_hash, about)


def _texts(
    bank: Sequence[Relation], forms: int, rng: np.random.Generator
) -> tuple[list[str], Int[np.ndarray, "texts"]]:
    """What the wordings ask of a subject, as they are and in other forms, and their relations."""
    texts: list[str] = []
    relations: list[int] = []
    for number, relation in enumerate(bank):
        own: dict[str, None] = {}
        for wording in relation.wordings:
            text = wording.replace(SUBJECT, STAND_IN.capitalize())
            formed = _forms(text, forms, rng) if text.endswith("?") else []
            for each in (text, text.lower(), *formed):
                start = each.lower().index(STAND_IN)
                # Unlike the gate, with all that follows: the head learns that it changes nothing.
                before = each[sentence_start(each, start) : start]
                own[f"{before}it{each[start + len(STAND_IN) :]}"] = None
        texts += own
        relations += [number] * len(own)
    return texts, np.array(relations, np.int32)


def _forms(question: str, count: int, rng: np.random.Generator) -> list[str]:
    kinds = [*short_forms(question), sentence_forms(question)]
    return [drawn_form(kinds, rng) for _ in range(count)]


def _read(
    reader: RelationReader, texts: Sequence[str], on_progress: Callable[[str, int, int], None]
) -> Float[np.ndarray, "texts states"]:
    parts = []
    size = 512
    ordered = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    for start in range(0, len(texts), size):
        parts.append(reader.read([texts[i] for i in ordered[start : start + size]]))
        on_progress("texts", min(start + size, len(texts)), len(texts))
    states = np.empty((len(texts), parts[0].shape[1]), np.float32)
    states[ordered] = np.concatenate(parts)
    return states


def _near(bank: Sequence[Relation]) -> Bool[np.ndarray, "relations relations"]:
    """Which relations some subject may have together: they share a kind of subject."""
    return np.array([[bool(a.kinds & b.kinds) for b in bank] for a in bank])


def _of(
    states: Float[np.ndarray, "texts states"],
    relations: Int[np.ndarray, "texts"],
    chosen: Int[np.ndarray, "chosen"],
) -> tuple[Float[np.ndarray, "some states"], Int[np.ndarray, "some"]]:
    """The texts of some relations, which are numbered anew in the order of `chosen`."""
    numbers = np.full(int(relations.max()) + 1, -1)
    numbers[chosen] = np.arange(len(chosen))
    kept = numbers[relations] >= 0
    return states[kept], numbers[relations][kept].astype(np.int32)


def _scores(
    head: RelationHead,
    states: Float[np.ndarray, "texts states"],
    relations: Int[np.ndarray, "texts"],
    near: Bool[np.ndarray, "relations relations"],
) -> dict[str, float]:
    """Shares of pairs on the right side: of one relation open, of two near ones shut."""
    vectors = relation_vectors(head, jnp.asarray(states))
    likely = np.asarray(likeness(head, vectors, vectors))
    same, apart = text_pairs(relations, near)
    return {
        "same relation open": round(float((likely[same] >= OPEN).mean()), 4),
        "other relation shut": round(float((likely[apart] < OPEN).mean()), 4),
    }
