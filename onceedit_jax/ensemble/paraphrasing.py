"""A model writes further wordings of the edits' questions, before the edit is made."""

from collections.abc import Sequence

from onceedit_jax.data.records import EditRecord
from onceedit_jax.decoding.answers import Writer, own_texts
from onceedit_jax.decoding.stopping import answer_stops
from onceedit_jax.distributed.mesh import mesh_of, using
from onceedit_jax.editing.rewording import as_text, reworded
from onceedit_jax.ensemble.target import Target
from onceedit_jax.text.chat import Message
from onceedit_jax.text.prompts import prompt_format

LENGTH = 40  # tokens of the longest wording


def paraphrases_by(
    target: Target,
    records: Sequence[EditRecord],
    *,
    count: int = 6,
    seed: int = 0,
    evaluated: Sequence[EditRecord] = (),
    chat: bool | None = None,
) -> list[list[str]]:
    """Other wordings of each edit's prompt, written greedily by a model, the useless left out.

    A chat model is asked in chat, and any other continues a text of examples. See `reworded` for
    what is kept. `editing.rewording.as_examples` makes of them the `examples` of `edit`.

    Args:
      target: the model that writes; it need not be a target of the edit.
      records: the edits.
      count: wordings that are asked for, for each edit.
      seed: chooses the examples that the model is shown.
      evaluated: further records whose questions must not be trained on.
      chat: as for `prepare_target`.

    Raises:
      InputError: chat for a model without a chat template, or a prompt that is longer than the
        model's learnt positions.
    """
    model, form = target.model, prompt_format(target.tokenizer, chat=chat, name=target.name)
    writer = Writer(model.params, model.config, form)
    stops = answer_stops(form, model.config.vocab_size)

    def write(conversations: Sequence[Sequence[Message]]) -> list[str]:
        prompts = conversations if form.chat else [as_text(turns) for turns in conversations]
        return own_texts(writer, prompts, stops, max_new_tokens=LENGTH)

    with using(mesh_of(model.params)):
        return reworded(write, records, count=count, seed=seed, evaluated=evaluated)
