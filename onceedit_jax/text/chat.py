"""A model's chat template: from a conversation to the tokens that the model reads.

The template is rendered as transformers does it, within bounds. Control tokens that the template
writes become their ids. The same strings in a message stay text, so that a message cannot end its
own turn.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from onceedit_jax.errors import InputError
from onceedit_jax.storage.bounded import one_line
from onceedit_jax.text.tokenizer import Tokenizer, checked_text

if TYPE_CHECKING:
    from onceedit_jax.text.bounded_template import BoundedTemplate

# One turn: its `role` (system, user or assistant) and its `content`.
Message = Mapping[str, str]

_QUESTION, _ANSWER = "How far is it?", "Seven miles"
# A character of these breaks the spelling of a control token in a message.
_PRIVATE = range(0xF0000, 0xFFFFE)


class ChatTemplate:
    """The chat template of one model.

    Attributes:
      tokenizer: the model's tokenizer.
      turn_end: the token that ends the model's turn; None if no token does.
      spaced: whether the template puts a space before the model's answer.
    """

    def __init__(self, tokenizer: Tokenizer):
        """Read the template that comes with a tokenizer.

        Raises:
          InputError: there is no template, or it cannot be rendered.
        """
        self.tokenizer = tokenizer
        if tokenizer.chat_template is None:
            raise InputError(f"the tokenizer {tokenizer.name!r} has no chat template")
        question = {"role": "user", "content": _QUESTION}
        head = self.render([question])
        try:
            turns = [question, {"role": "assistant", "content": _ANSWER}]
            whole = self.render(turns, answer_follows=False)
        except InputError:  # a template for single questions
            whole = head
        before, _, after = whole.partition(_ANSWER)
        self.spaced: bool = before.startswith(head + " ")
        ended = self._control.match(after.lstrip())
        self.turn_end: int | None = self._added[ended[0]] if ended else None

    def encode(self, messages: Sequence[Message]) -> list[int]:
        """The tokens of a conversation, up to where the model's next answer begins.

        BOS is there once if the model has one, whether the template writes it or the tokenizer
        adds it.

        Args:
          messages: the turns, the user's last.

        Raises:
          InputError: the template refuses the conversation, a message holds half of a surrogate
            pair, or the messages hold every private character.
        """
        used = {mark for message in messages for mark in message["content"]}
        cut = next((mark for mark in map(chr, _PRIVATE) if mark not in used), None)
        if cut is None:
            raise InputError(
                "the conversation holds every character of the private plane from U+F0000 to "
                "U+FFFFD; leave one of them out"
            )

        def as_text(control: re.Match[str]) -> str:
            return control[0][0] + cut + control[0][1:]

        turns = [
            {**message, "content": self._control.sub(as_text, message["content"])}
            for message in messages
        ]
        ids = self._encode(checked_text(self.render(turns)).split(cut))
        bos = self.tokenizer.bos_id
        return [bos, *ids] if bos is not None and ids[:1] != [bos] else ids

    def render(self, messages: Sequence[Message], *, answer_follows: bool = True) -> str:
        """The text of a conversation, as transformers writes it.

        Args:
          messages: the turns.
          answer_follows: end with the words that introduce the model's answer.

        Raises:
          InputError: the template refuses the conversation, or is not a valid template.
        """
        # Imported here: transformers imports it too, and takes seconds.
        from jinja2 import TemplateError

        variables = {
            **self.tokenizer.hf.special_tokens_map,
            "messages": [dict(message) for message in messages],
            "tools": None,
            "documents": None,
            "add_generation_prompt": answer_follows,
        }
        try:
            size = sum(len(message["content"]) for message in messages)
            return self._template.render(variables, size=size)
        except (TemplateError, ArithmeticError, AttributeError, LookupError, MemoryError,
                RecursionError, TypeError, ValueError) as error:  # fmt: skip
            roles = ", ".join(message["role"] for message in messages)
            raise InputError(
                f"the chat template of {self.tokenizer.name!r} cannot write a conversation of "
                f"{roles} ({one_line(error)}); leave out the roles that it does not have, or ask "
                "the model without its template (chat=False, --no-chat)"
            ) from error

    def _encode(self, pieces: Iterable[str]) -> list[int]:
        """The tokens of a rendered conversation, cut inside control tokens that are only text."""
        ids: list[int] = []
        for n, piece in enumerate(pieces):
            # After a cut the text goes on as plain text, up to a control token of the template.
            control = self._control.search(piece) if n else None
            end = 0 if not n else control.start() if control else len(piece)
            ids += self.tokenizer.encode_bytes(piece[:end].encode(), continuation=True)
            ids += self.tokenizer.hf.encode(piece[end:], add_special_tokens=False)
        if (last := max(ids, default=0)) >= len(self.tokenizer.vocabulary):
            raise InputError(
                f"the chat template of {self.tokenizer.name!r} writes token {last}, and the "
                f"embedding has {len(self.tokenizer.vocabulary)} rows; expected a row for it: use "
                "the tokenizer that belongs to the model, or no template (chat=False, --no-chat)"
            )
        return ids

    @cached_property
    def _template(self) -> BoundedTemplate:
        """The template, compiled."""
        # Imported here: jinja2 and transformers take long, and most commands ask in plain text.
        from onceedit_jax.text.bounded_template import BoundedTemplate

        return BoundedTemplate(self.tokenizer.chat_template or "")

    @cached_property
    def _added(self) -> dict[str, int]:
        """The tokens that a template may write by their spelling."""
        added = self.tokenizer.hf.backend_tokenizer.get_added_tokens_decoder()
        special, template = self.tokenizer.vocabulary.special, self.tokenizer.chat_template or ""
        return {
            token.content: i
            for i, token in added.items()
            if len(token.content) > 1 and not token.content.isspace()
            if i >= len(special) or special[i] or token.content in template
        }

    @cached_property
    def _control(self) -> re.Pattern[str]:
        """Matches one of these tokens, the longest one; nothing if there are none."""
        longest_first = sorted(self._added, key=len, reverse=True)
        return re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
