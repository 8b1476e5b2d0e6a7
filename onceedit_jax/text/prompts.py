"""How a model is asked: the one place that turns a prompt into a target's tokens.

A prompt is a text or a conversation. The gate reads the user's plain text, and the plug-in what the
edit makes of it (`ensemble.preparation`). A target reads that text, or, in chat, the whole
conversation as its chat template writes it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from onceedit_jax.errors import InputError
from onceedit_jax.text.chat import ChatTemplate, Message
from onceedit_jax.text.tokenizer import Tokenizer, checked_text

# A text, or the turns of a conversation that ends with the user's.
Prompt = str | Sequence[Message]


@dataclass(frozen=True)
class PromptFormat:
    """How one model is given a prompt, and how its answer begins and ends.

    Attributes:
      tokenizer: the model's tokenizer.
      template: its chat template; None for plain text.
      system: the system prompt of conversations that have none; None for no system prompt.
      goes_on: whether an answer in plain text goes on after its first line.
      until: texts that end an answer, besides. The token that completes one is still written.
    """

    tokenizer: Tokenizer
    template: ChatTemplate | None = None
    system: str | None = None
    goes_on: bool = False
    until: tuple[str, ...] = ()

    @property
    def chat(self) -> bool:
        """Whether the model is asked in chat."""
        return self.template is not None

    @property
    def one_line(self) -> bool:
        """Whether an answer ends with its first line, as it usually does in plain text."""
        return self.template is None and not self.goes_on

    @property
    def spaced(self) -> bool:
        """Whether an answer begins with the space that joins prompt and answer in plain text."""
        return self.template is None or self.template.spaced

    @property
    def end_ids(self) -> tuple[int, ...]:
        """The tokens that end an answer."""
        known = self.tokenizer.end_ids
        turn_end = self.template.turn_end if self.template else None
        return known if turn_end is None or turn_end in known else (*known, turn_end)

    def encode(self, prompt: Prompt) -> list[int]:
        """The tokens of a prompt, up to where the answer begins.

        Raises:
          InputError: a conversation of several turns in plain text, one that the chat template
            refuses, or half of a surrogate pair.
        """
        if self.template is None:
            if not isinstance(prompt, str) and len(prompt) > 1:
                raise InputError(
                    f"a conversation of {len(prompt)} turns for a model that is asked in plain "
                    "text; give its last question alone, or a model with a chat template"
                )
            return self.tokenizer.encode(plain_text(prompt))
        turns = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else [*prompt]
        if self.system is not None and turns[0]["role"] != "system":
            turns = [{"role": "system", "content": self.system}, *turns]
        return self.template.encode(turns)

    def encode_pair(self, prompt: Prompt, answer: str) -> tuple[list[int], int]:
        """The tokens of a prompt and its answer, and the place at which the answer starts.

        In plain text the two are joined by a space, see `Tokenizer.encode_pair`. In chat the answer
        follows the template, which says whether there is a space.

        Raises:
          InputError: as for `encode`.
        """
        if self.template is None:
            return self.tokenizer.encode_pair(plain_text(prompt), answer)
        head = self.encode(prompt)
        text = f" {answer}" if self.spaced else answer
        data = checked_text(text).encode("utf-8")
        return head + self.tokenizer.encode_bytes(data, continuation=True), len(head)


def prompt_format(
    tokenizer: Tokenizer, *, chat: bool | None = None, system: str | None = None, name: str = ""
) -> PromptFormat:
    """How a model is asked.

    Args:
      tokenizer: the model's tokenizer.
      chat: in chat (True), in plain text (False), or in chat if the tokenizer has a chat template
        (None).
      system: the system prompt of every conversation that has none. It needs a chat template.
      name: the model's name, for messages.

    Raises:
      InputError: no chat template where one is needed, or it cannot be rendered.
    """
    has_template = tokenizer.chat_template is not None
    if chat and not has_template:
        raise InputError(
            f"{name or tokenizer.name} has no chat template, so it cannot be asked in chat; leave "
            "it out, or ask in plain text (chat=False, --no-chat)"
        )
    if chat is False or not has_template:
        if system is not None:
            raise InputError(
                f"{name or tokenizer.name} is asked in plain text, which has no place for a system "
                "prompt; leave the system prompt out, or use a model with a chat template"
            )
        return PromptFormat(tokenizer)
    return PromptFormat(tokenizer, ChatTemplate(tokenizer), system)


def plain_text(prompt: Prompt) -> str:
    """The user's text: the prompt itself, or what the user says last in a conversation."""
    return prompt if isinstance(prompt, str) else prompt[-1]["content"]


def told(prompt: Prompt, text: str) -> Prompt:
    """A prompt with a text before it: before the user's last words, if it is a conversation."""
    return with_words(prompt, f"{text}\n{plain_text(prompt)}")


def with_words(prompt: Prompt, text: str) -> Prompt:
    """A prompt with another text in place of the user's: of the last words of a conversation."""
    if isinstance(prompt, str):
        return text
    *turns, last = prompt
    return [*turns, {**last, "content": text}]


def check_prompts(prompts: Sequence[Prompt]) -> None:
    """Check that every prompt is a text or a conversation that the user has the last word in.

    Raises:
      InputError: naming the first prompt that is not.
    """
    for i, prompt in enumerate(prompts):
        place = f"prompt {i + 1} of {len(prompts)}"
        if isinstance(prompt, Mapping):
            raise InputError(
                f"{place} is a single message; a conversation is a list of messages: give a list "
                "of conversations"
            )
        if not isinstance(prompt, str):
            _check_turns(prompt, place)
        if not plain_text(prompt):
            raise InputError(f"{place} is empty; expected a text to go on")


def _check_turns(turns: Sequence[Message], place: str) -> None:
    for message in turns:
        known = isinstance(message, Mapping) and {"role", "content"} <= set(message)
        if not known or not all(isinstance(message[key], str) for key in ("role", "content")):
            raise InputError(
                f"{place} has the message {message!r}; expected a text for role and for content, "
                'as in {"role": "user", "content": "Who?"}'
            )
    if not turns or turns[-1]["role"] != "user":
        last = turns[-1]["role"] if turns else "nobody"
        raise InputError(
            f"{place} ends with a turn of {last}; expected a turn of user, which is answered"
        )
