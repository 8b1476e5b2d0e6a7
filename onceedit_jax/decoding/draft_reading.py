"""What a target's tokenizer reads in the plug-in's drafts, so that words match.

In a fusion of tokens, one vocabulary's " Wash" competes with the other's " Washington", and both
lose. So the plug-in's draft is held as bytes. It proposes the next token that the target's
tokenizer reads in (text so far + draft).
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Shaped

from onceedit_jax.decoding.drafting import Draft, Drafter, Start
from onceedit_jax.models.adapters import NO_ADAPTER
from onceedit_jax.text.tokenizer import Tokenizer

Proposed = tuple[int, float]
"""A token that a draft proposes, -1 for none, and the plug-in's probability of it."""


class DraftReader:
    """Reads drafts in one target's tokens, while the target's answers grow.

    A row gets a new draft when its draft is used up, or when an accepted token differs from it.

    The plug-in continues the prompt as it reads it, after a space. In chat an answer begins without
    that space: it is then part of `texts`, and the target reads the draft from the next byte.

    Attributes:
      texts: of each row, the bytes so far.
      accepted: of each row, how many tokens of the answer `texts` holds.
      used: of each row, how many bytes of its draft `texts` holds.
      drafts: of each row, the current draft.
    """

    def __init__(
        self,
        drafter: Drafter,
        target: Tokenizer,
        prompts: Sequence[str],
        *,
        adapters: Sequence[int] | None = None,
        spaced: bool = True,
        whole: bool = True,
    ) -> None:
        """Begin with empty answers.

        Args:
          drafter: writes the drafts.
          target: the target's tokenizer.
          prompts: of the B rows, as the plug-in reads them.
          adapters: the adapter that writes each row's drafts (default: none).
          spaced: whether the target's answers begin with the space that joins prompt and answer.
          whole: ask for whole drafts. Without it drafts come in two parts, the second when the
            first is used up. That is quicker where true tokens are accepted, since most of these
            differ from the draft after one or two words.
        """
        self.drafter, self.target, self.whole, self.spaced = drafter, target, whole, spaced
        self.prompts = [prompt.encode("utf-8") for prompt in prompts]
        self.adapters = [NO_ADAPTER] * len(prompts) if adapters is None else list(adapters)
        self.texts = list(self.prompts)
        self.accepted = [0] * len(prompts)
        self.used = [0] * len(prompts)
        self.drafts: list[Draft | None] = [None] * len(prompts)

    def view(self, answers: Sequence[Sequence[int]]) -> dict[str, Shaped[np.ndarray, "batch"]]:
        """`drafted` `[B]`, the next tokens (-1 for none), and the plug-in's `probability` `[B]`.

        Args:
          answers: B answers so far, in the target's tokens; each continues the one of the previous
            call.
        """
        rows = range(len(answers))
        self._follow(answers, rows)
        tokens, probabilities = zip(*(self._read(i, self.used[i]) for i in rows), strict=True)
        return {
            "drafted": np.array(tokens, np.int32),
            "probability": np.array(probabilities, np.float32),
        }

    def ahead(
        self, answers: Sequence[Sequence[int]], rows: Sequence[int]
    ) -> list[list[tuple[int, float]]]:
        """All tokens that the drafts of some rows propose, if each of them is accepted.

        Args:
          answers: as for `view`.
          rows: the rows to read; other rows get no draft.

        Returns:
          For each of `rows`, tokens and probabilities as `view` would give them one by one, up to
          where the row would need a new draft; at least one token.
        """
        self._follow(answers, rows)
        return [self._read_on(i) for i in rows]

    def along(self, answers: Sequence[Sequence[int]], found: Sequence[list[Proposed]]) -> None:
        """Read on before tokens of answers that are known, each row as far as its draft goes.

        Args:
          answers: the whole answers, in the target's tokens.
          found: for each row, what was proposed before its first tokens; more of it is added.
        """
        for i, (answer, proposed) in enumerate(zip(answers, found, strict=True)):
            while len(proposed) < len(answer):
                if self.accepted[i] < len(proposed):
                    piece = self.target.decode_bytes([answer[self.accepted[i]]], continuation=True)
                    if self._needs_more(i, piece):
                        break
                    self._accept(i, piece)
                    self.accepted[i] += 1
                if self.drafts[i] is None or self._is_paused(i):
                    break
                proposed.append(self._read(i, self.used[i]))

    def _follow(self, answers: Sequence[Sequence[int]], rows: Sequence[int]) -> None:
        for i, answer in enumerate(answers):
            for token in answer[self.accepted[i] :]:
                self._accept(i, self.target.decode_bytes([token], continuation=True))
            self.accepted[i] = len(answer)
        without = [i for i in rows if self.drafts[i] is None]
        self.draft(without, whole=self.whole)
        self.draft([i for i in rows if self._is_paused(i)], whole=True)

    def draft(self, rows: Sequence[int], *, whole: bool) -> None:
        """Get a draft for a row that has none, or the rest of the draft that it has."""
        starts = [self.start(i) for i in rows]
        for i, draft in zip(rows, self.drafter.drafts(starts, whole=whole), strict=True):
            begins = self.drafts[i] is None and self.texts[i] == self.prompts[i]
            self.drafts[i] = draft
            if not self.spaced and begins and draft.data[:1] == b" ":
                self.texts[i], self.used[i] = self.texts[i] + b" ", 1

    def start(self, i: int) -> Start:
        """Where the current draft of a row begins."""
        text = self.texts[i][: len(self.texts[i]) - self.used[i]]
        opens = not text[len(self.prompts[i]) :].strip()
        return Start(text, opens, self.adapters[i])

    def _is_paused(self, i: int) -> bool:
        """Whether the first part of a row's draft is used up, and the draft has more."""
        draft = self.drafts[i]
        return draft is not None and not draft.whole and self.used[i] == len(draft.data)

    def _read_on(self, i: int) -> list[tuple[int, float]]:
        draft, start = self.drafts[i], self.used[i]
        assert draft is not None
        steps = [self._read(i, start)]
        while steps[-1][0] not in (-1, self.target.end_id):
            piece = self.target.decode_bytes([steps[-1][0]], continuation=True)
            differs = not piece or not draft.data[start:].startswith(piece)
            start += len(piece)
            if differs or (start == len(draft.data) and draft.end is None):
                break
            steps.append(self._read(i, start))
        return steps

    def _joined(self, i: int, piece: bytes) -> bytes:
        """The bytes that a piece of an answer without the joining space adds to a row's text."""
        prompt, draft = self.prompts[i], self.drafts[i]
        if not piece or self.texts[i] not in (prompt, prompt + b" "):
            return piece
        if piece[:1].isspace():  # the target writes a space itself
            self.texts[i], self.used[i] = prompt, 0
        elif self.texts[i] == prompt and not (draft and draft.data.startswith(piece)):
            return b" " + piece
        return piece

    def _accept(self, i: int, piece: bytes) -> None:
        if not self.spaced:
            piece = self._joined(i, piece)
        if self._needs_more(i, piece):
            self.draft([i], whole=True)
        draft, start = self.drafts[i], self.used[i]
        self.texts[i] += piece
        if draft is None:
            return
        self.used[i] += len(piece)
        agrees = draft.data[start:].startswith(piece)
        used_up = self.used[i] == len(draft.data) and draft.end is None and draft.whole
        if not agrees or used_up:
            self.drafts[i], self.used[i] = None, 0

    def _needs_more(self, i: int, piece: bytes) -> bool:
        """Whether a piece of an answer goes on where the first part of a row's draft ends."""
        draft = self.drafts[i]
        if draft is None or draft.whole:
            return False
        rest = draft.data[self.used[i] :]
        return len(piece) > len(rest) and piece.startswith(rest)

    def _read(self, i: int, start: int) -> Proposed:
        """The next token of the draft from byte `start`, and the plug-in's probability of it."""
        draft = self.drafts[i]
        assert draft is not None
        rest = draft.data[start:]
        if not rest:
            return (self.target.end_id, draft.end) if draft.end is not None else (-1, 0.0)
        token = self.target.encode_bytes(rest, continuation=True)[0]
        piece = self.target.decode_bytes([token], continuation=True)
        return token, draft.probability(start, start + len(piece))


def proposed_along(
    readers: Sequence[DraftReader], answers: Sequence[Sequence[Sequence[int]]]
) -> list[list[list[Proposed]]]:
    """What drafts propose before each token of answers that are known.

    Each row goes on by itself until it needs a draft. Then the drafts that all rows of all readers
    need are written together.

    Args:
      readers: those of several targets, with the same drafter and the same `whole`.
      answers: the whole answers of each reader's rows, in its target's tokens.

    Returns:
      For each reader, row and token of the answer, the proposed token and its probability, as
      `DraftReader.view` gives them.
    """
    found: list[list[list[Proposed]]] = [[[] for _ in rows] for rows in answers]
    while True:
        fresh: list[tuple[DraftReader, list[int]]] = []
        rest: list[tuple[DraftReader, list[int]]] = []
        for reader, rows, proposed in zip(readers, answers, found, strict=True):
            reader.along(rows, proposed)
            missing = [i for i, row in enumerate(rows) if len(proposed[i]) < len(row)]
            fresh.append((reader, [i for i in missing if reader.drafts[i] is None]))
            rest.append((reader, [i for i in missing if reader.drafts[i] is not None]))
        if not any(rows for _, rows in [*fresh, *rest]):
            return found
        draft_together(fresh, whole=readers[0].whole)
        draft_together(rest, whole=True)


def draft_together(rows: Sequence[tuple[DraftReader, Sequence[int]]], *, whole: bool) -> None:
    """Get drafts, or the rest of them, for some rows of each reader; all readers share a drafter.

    Args:
      rows: the readers, with their rows.
      whole: as for `Drafter.drafts`.
    """
    starts = [reader.start(i) for reader, chosen in rows for i in chosen]
    if starts:
        rows[0][0].drafter.drafts(starts, whole=whole)
    for reader, chosen in rows:
        reader.draft(chosen, whole=whole)
