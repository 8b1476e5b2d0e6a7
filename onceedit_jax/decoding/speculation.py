"""A small model drafts for a target that answers by itself: the same tokens, in fewer passes.

Speculative decoding (Leviathan et al. 2023, arXiv 2211.17192) across vocabularies: a draft is text,
written greedily, which the target's tokenizer reads. One pass of the target checks all its tokens.
What the target would have written is kept, so that a draft changes how long an answer takes and
never what it says.

Where tokens are drawn, the pass draws the target's token at every place by the random number of
that place, and drafted tokens that equal it are kept. So a token d is kept as often as the target
draws it, p(d), and otherwise the token has the distribution of the others, `p(v) / (1 - p(d))`: the
paper's rule for a draft that is not drawn itself. The answer is the one without drafts.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from onceedit_jax.decoding.answers import Writer
from onceedit_jax.decoding.cached_text import CachedText, tokens_at, write_on, write_surely
from onceedit_jax.decoding.draws import TAKEN, Draw, Draws, sampling_of
from onceedit_jax.decoding.greedy import StopTokens
from onceedit_jax.decoding.numbers import check_written, not_finite
from onceedit_jax.decoding.prefix_batching import common_prefix
from onceedit_jax.decoding.sampling import Sampling
from onceedit_jax.distributed.mesh import to_host
from onceedit_jax.errors import InputError
from onceedit_jax.models.config import ModelConfig
from onceedit_jax.text.prompts import Prompt, PromptFormat, plain_text, prompt_format
from onceedit_jax.text.tokenizer import Tokenizer

CHECKED = 8  # columns of a check: the answer's last token, and at most one less of a draft
NARROWEST = 4  # columns of a pass over a few tokens, so that few programs are compiled
CREDIT = 1.5  # passes of the target that drafts may lose before the target goes on alone


class Helper(NamedTuple):
    """A small model that drafts for a target.

    Attributes:
      params: its parameters.
      config: its configuration.
      tokenizer: its tokenizer.
      step: what one of its steps costs, in steps of the target.
      column: what each further token of a pass of the target costs, likewise.
    """

    params: Any
    config: ModelConfig
    tokenizer: Tokenizer
    step: float
    column: float

    @property
    def floor(self) -> float:
        """The least chance to be kept that pays for one more token of a draft."""
        return self.step + self.column


def helped_answer(
    target: Writer,
    helper: Helper,
    prompt: Prompt,
    stops: StopTokens,
    *,
    max_new_tokens: int,
    draws: Draws = TAKEN,
) -> list[int]:
    """A target's own answer to one prompt, without the token that ended it.

    It is that of `own_answers`. A pass over several tokens may round otherwise than one over a
    single token, so two tokens that are as likely as rounding can tell may change places, and so
    may two between whose shares a random number lies.

    Args:
      target: the target.
      helper: drafts for it.
      prompt: the prompt.
      stops: tokens that end the answer.
      max_new_tokens: length of the longest answer.
      draws: how the tokens of the one answer are drawn, if they are.

    Raises:
      InputError: the target cannot be asked this, or prompt and answer are longer than its context.
      RunError: the target's logits are not numbers.
    """
    head = target.format.encode(prompt)
    target.config.check_length(len(head) + max_new_tokens - 1)  # the last is not read
    checks = _Checks(*target.model, len(head) + max_new_tokens + CHECKED, draws)
    drafts = _Drafts(helper, target.format, prompt, max_new_tokens)
    answer, credit = _Answer(stops, max_new_tokens), CREDIT
    while credit > 0 and not answer.ended:
        # The check gives the token after the draft too.
        limit = min(CHECKED, answer.room) - 1
        draft = drafts.after(answer.tokens, limit)
        if draft is None:
            break
        decided = checks.after(head, answer.tokens, draft.tokens)
        accepted = common_prefix(draft.tokens, decided)
        answer.extend(decided[: accepted + 1])
        cost = helper.step * draft.steps + helper.column * len(draft.tokens)
        credit = min(CREDIT, credit + accepted - cost)
    if not answer.ended:
        answer.extend(checks.rest(head, answer, stops, max_new_tokens))
    return answer.tokens


class _Draft(NamedTuple):
    """What the helper proposes.

    Attributes:
      tokens: in those of the target.
      steps: of the helper that it took.
    """

    tokens: list[int]
    steps: int


class _Answer:
    """An answer while it is written.

    Attributes:
      tokens: its tokens so far.
      blank: whether it holds only blanks so far.
      place: `[1]`, in `StopTokens.progress`.
      ended: whether it has been ended, or is as long as it may be.
    """

    def __init__(self, stops: StopTokens, limit: int) -> None:
        self._stops, self._limit = jax.tree.map(to_host, stops), limit
        self.tokens: list[int] = []
        self.blank, self.ended = True, False
        self.place = np.zeros(1, np.int16)

    @property
    def room(self) -> int:
        """How many more tokens it may have."""
        return self._limit - len(self.tokens)

    def extend(self, tokens: Sequence[int]) -> None:
        """Add tokens, up to where they end it."""
        for token in tokens:
            ends = self._stops.at_start if self.blank else self._stops.in_text
            if self.ended or ends[token]:
                self.ended = True
                return
            self.tokens.append(token)
            self.blank = self.blank and bool(self._stops.blank[token])
            self.ended = self.room == 0 or self._completes(token)

    def _completes(self, token: int) -> bool:
        """Whether a text that ends the answer is complete with a token."""
        progress = self._stops.progress
        if progress is None:
            return False
        self.place = np.asarray(progress)[self.place, token]
        return bool(self.place[0] == len(progress) - 1)


class _Checks(CachedText):
    """The target's text: its prompt, its answer and the draft that it has read last."""

    def __init__(self, params: Any, config: ModelConfig, columns: int, draws: Draws) -> None:
        super().__init__(params, config, columns)
        self._draws = draws

    def after(self, head: Sequence[int], answer: Sequence[int], draft: Sequence[int]) -> list[int]:
        """The target's own tokens after an answer, and after it with each token of a draft."""
        text = [*head, *answer]
        fresh = self.fresh([*text, *draft], smallest=NARROWEST if draft else 1)
        last = len(text) - 1 - int(fresh.keep[0])
        width = fresh.tokens.shape[1]
        columns = np.minimum(last + np.arange(min(CHECKED, width)), width - 1)
        tokens, sound, self.cache = tokens_at(
            *(self.params, self.config, self.cache, fresh, columns),
            self._by_column(len(answer), len(columns)),
        )
        if not sound:
            raise not_finite(self.params, self.config, text)
        decided: list[int] = to_host(tokens).tolist()
        return decided[: len(draft) + 1]

    def rest(
        self, head: Sequence[int], answer: _Answer, stops: StopTokens, steps: int
    ) -> list[int]:
        """What the target writes after an answer by itself, with the token that ends it."""
        text = [*head, *answer.tokens]
        so_far, fresh = (np.array([answer.blank]), answer.place), self.fresh(text, smallest=1)
        sampling = self._draws.sampling(steps, height=1, written=[len(answer.tokens)])
        written = write_on(
            *(self.params, self.config, self.cache, fresh, stops, *so_far, answer.room, sampling),
            steps=steps,
        )
        check_written(written, self.params, self.config, [text])
        count = int(to_host(written.length)[0]) + int(to_host(written.stopped)[0])
        tokens: list[int] = to_host(written.tokens)[0, :count].tolist()
        return tokens

    def _by_column(self, written: int, count: int) -> Sampling | None:
        """How the next tokens of an answer are drawn, with a row for each of them."""
        if not self._draws.settings.draws:
            return None
        settings, numbers = self._draws.next(0, count, written=written)
        return sampling_of([Draw(settings, number) for number in numbers[:, None]], count)


class _Opening(NamedTuple):
    """What the helper reads before an answer.

    Attributes:
      tokens: the prompt in its own chat format; none where it reads plain text.
      text: the prompt in plain text.
      spaced: whether the answer begins with a space.
      end_ids: tokens that end the answer.
    """

    tokens: list[int]
    text: bytes
    spaced: bool
    end_ids: tuple[int, ...]


def _opening(tokenizer: Tokenizer, target: PromptFormat, prompt: Prompt) -> _Opening:
    """What a helper reads where the target is asked in some format."""
    text = plain_text(prompt).encode()
    if not target.chat:
        return _Opening([], text, True, tokenizer.end_ids)
    try:
        form = prompt_format(tokenizer, chat=True, system=target.system)
        return _Opening(form.encode(prompt), b"", form.spaced, form.end_ids)
    except InputError:  # it has no chat template, or one that refuses the conversation
        return _Opening([], text + b"\n\n", False, tokenizer.end_ids)


class _Drafts(CachedText):
    """The helper's text: the prompt, the answer, and the draft that it wrote last."""

    def __init__(self, helper: Helper, target: PromptFormat, prompt: Prompt, room: int) -> None:
        self._tokenizer, self._target, self._floor = helper.tokenizer, target, helper.floor
        self._opening = _opening(helper.tokenizer, target, prompt)
        # One of the target's tokens may be several of the helper's.
        columns = len(self._read([])) + 2 * (room + CHECKED)
        super().__init__(helper.params, helper.config, columns)
        self._ends = np.zeros(helper.config.vocab_size, bool)
        self._ends[list(self._opening.end_ids)] = True

    def after(self, answer: Sequence[int], limit: int) -> _Draft | None:
        """A draft of at most `limit` tokens, at most `CHECKED`; None if the text is too long."""
        text = self._read(answer)
        if len(text) + 2 * CHECKED > min(self.columns, self.config.max_positions):
            return None
        if not limit:
            return _Draft([], 0)
        fresh = self.fresh(text, smallest=NARROWEST)
        tokens, count, self.cache = write_surely(
            *(self.params, self.config, self.cache, fresh, self._ends),
            np.float32(self._floor),
            limit,
            steps=CHECKED,
        )
        draft: list[int] = to_host(tokens)[: int(count)].tolist()
        self.tokens += draft[:-1]  # the last one may not have been read
        data = self._tokenizer.decode_bytes(draft, continuation=True)
        if not answer:
            data = _respaced(data, self._opening.spaced, self._target.spaced)
        proposed = self._target.tokenizer.encode_bytes(data, continuation=True)
        return _Draft(proposed[:limit], len(draft) or 1)

    def _read(self, answer: Sequence[int]) -> list[int]:
        """The prompt and an answer in the helper's tokens."""
        tokens, text, spaced, _ = self._opening
        data = self._target.tokenizer.decode_bytes(answer, continuation=True)
        data = text + _respaced(data, self._target.spaced, spaced)
        return tokens + self._tokenizer.encode_bytes(data, continuation=bool(tokens))


def _respaced(answer: bytes, was: bool, spaced: bool) -> bytes:
    """An answer with the space that joins it to its prompt, or without it."""
    if was == spaced or not answer:
        return answer
    bare = answer.removeprefix(b" ")
    return b" " + bare if spaced and not bare[:1].isspace() else bare
