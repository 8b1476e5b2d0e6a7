"""What is asked questions: a target by itself, one that was edited by itself, and a fused one.

An edit reaches the prompts that its own gate or router lets it reach. All others are answered, word
for word, by the target as it was.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from onceedit_jax.decoding.answers import PROMPTS, Writer, own_texts
from onceedit_jax.decoding.prefix_batching import tokens_after
from onceedit_jax.decoding.stopping import Answer, answer_stops
from onceedit_jax.distributed.bucketing import batch_of
from onceedit_jax.distributed.mesh import to_host
from onceedit_jax.editing.editor import EditorResult, Read
from onceedit_jax.editors.codebook import grace_reaches
from onceedit_jax.editors.side_memory import wise_params, wise_reaches
from onceedit_jax.ensemble import Ensemble, Target
from onceedit_jax.ensemble.generation import answer
from onceedit_jax.evaluation.check import Checked, by_length, checked
from onceedit_jax.evaluation.perplexity import losses
from onceedit_jax.evaluation.probes import Probe
from onceedit_jax.text.prompts import PromptFormat
from onceedit_jax.types import Params

MAX_TOKENS = 128  # of a text that perplexity is taken on
Mask = Bool[np.ndarray, "prompts"]
Write = Callable[[Sequence[str], int], list[str]]  # from prompts and a number of tokens to answers


def remembering(write: Write) -> Write:
    """`write`, asked for each prompt once; prompts of similar length go together."""
    known: dict[tuple[str, int], str] = {}

    def answers(prompts: Sequence[str], max_new_tokens: int) -> list[str]:
        new = sorted({p for p in prompts if (p, max_new_tokens) not in known}, key=len)
        texts = write(new, max_new_tokens) if new else []
        known.update({(p, max_new_tokens): text for p, text in zip(new, texts, strict=True)})
        return [known[prompt, max_new_tokens] for prompt in prompts]

    return answers


@dataclass(frozen=True)
class Alone:
    """A target by itself, asked in plain text; it remembers what it was asked.

    Attributes:
      target: the target.
      params: its parameters, edited or not.
    """

    target: Target
    params: Params

    @property
    def writer(self) -> Writer:
        """The target as a model that writes."""
        return Writer(self.params, self.target.model.config, PromptFormat(self.target.tokenizer))

    @cached_property
    def answers(self) -> Write:
        """Greedy answers."""
        stops = answer_stops(self.writer.format, self.target.model.config.vocab_size)

        def write(prompts: Sequence[str], max_new_tokens: int) -> list[str]:
            return own_texts(self.writer, prompts, stops, max_new_tokens=max_new_tokens)

        return remembering(write)

    def rows(self, texts: Sequence[str]) -> list[list[int]]:
        """The tokens of texts that perplexity is taken on."""
        return [self.target.tokenizer.encode(text)[:MAX_TOKENS] for text in texts]

    def losses(self, texts: Sequence[str]) -> Float[np.ndarray, "texts"]:
        """The summed loss of each text in nats."""
        return losses(self.params, self.target.model.config, self.rows(texts))


@dataclass(frozen=True)
class System:
    """An edited target.

    Attributes:
      name: the target's name.
      reaches: which prompts the edit reaches.
      answers: to prompts as if it reached all of them.
      losses: of texts that it reaches; None for a fused system, which gives tokens and no
        distribution.
    """

    name: str
    reaches: Callable[[Sequence[str]], Mask]
    answers: Write
    losses: Callable[[Sequence[str]], Float[np.ndarray, "texts"]] | None = None


def fused(ensemble: Ensemble, place: int) -> System:
    """The target at `place` of an ensemble."""
    plugin, target = ensemble.prepared_plugin, ensemble.prepared[place]

    def reaches(prompts: Sequence[str]) -> Mask:
        return plugin.active(plugin.alphas(prompts))

    def write(prompts: Sequence[str], max_new_tokens: int) -> list[str]:
        return answer(plugin, [target], prompts, max_new_tokens=max_new_tokens)[0]

    return System(target.name, reaches, remembering(write))


def edited_alone(
    method: str, before: Alone, result: EditorResult, *, layer: int = 0, read: Read | None = None
) -> System:
    """A target that was edited by itself.

    Args:
      method: name of the editing method.
      before: the target before the edit.
      result: what the editor made of it.
      layer: of the memory of WISE and GRACE.
      read: the editor's `read`, which GRACE needs.
    """
    if method == "grace":
        assert read is not None
        write = remembering(_reading(before, result, read))
        # The codebook changes what follows a prompt's last token: no loss of the prompt itself.
        return System(
            before.target.name, _routed(grace_reaches, before, result, layer), write, before.losses
        )
    params, reaches = result.params, _everywhere
    if method == "wise":
        params = wise_params(params, result.state, layer)
        reaches = _routed(wise_reaches, before, result, layer)
    after = Alone(before.target, params)
    return System(before.target.name, reaches, after.answers, after.losses)


def _everywhere(prompts: Sequence[str]) -> Mask:
    return np.ones(len(prompts), bool)


def _routed(
    reaches: Callable[..., Any], before: Alone, result: EditorResult, layer: int
) -> Callable[[Sequence[str]], Mask]:
    """Which prompts a memory answers, from its compiled function of token rows."""
    config, encode = before.target.model.config, before.writer.format.encode

    def found(prompts: Sequence[str]) -> Mask:
        mask = np.zeros(len(prompts), bool)
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        for start in range(0, len(order), PROMPTS):
            chosen = order[start : start + PROMPTS]
            tokens, positions = batch_of([encode(prompts[i]) for i in chosen], largest=PROMPTS)
            place = tokens, positions, positions.argmax(axis=1)
            there = reaches(result.params, config, *place, result.state, layer)
            mask[chosen] = to_host(there)[: len(chosen)]
        return mask

    return found


def _reading(before: Alone, result: EditorResult, read: Read) -> Write:
    """Answers of a model that is read with its memory: every token runs the whole text again."""
    config, form = before.target.model.config, before.writer.format

    def answers(prompts: Sequence[str], max_new_tokens: int) -> list[str]:
        texts: list[str] = []
        for start in range(0, len(prompts), PROMPTS):
            heads = [form.encode(prompt) for prompt in prompts[start : start + PROMPTS]]
            written = [Answer(form) for _ in heads]
            width = max(map(len, heads)) + max_new_tokens
            for _ in range(max_new_tokens):
                if all(each.ended for each in written):
                    break
                rows = [head + each.tokens for head, each in zip(heads, written, strict=True)]
                tokens, positions = batch_of(rows, largest=PROMPTS, width=width)
                ends = np.zeros(len(tokens), np.int32)
                ends[: len(heads)] = [len(head) - 1 for head in heads]
                place = map(jnp.asarray, (tokens, positions, ends))
                states = to_host(read(result.state, result.params, config, *place))
                last = states[np.arange(len(heads)), [len(row) - 1 for row in rows]]
                chosen = tokens_after(result.params, config, last).tolist()
                for each, token in zip(written, chosen, strict=True):
                    each.add(token)
            texts += before.writer.texts([each.tokens for each in written])
        return texts

    return answers


def check_system(
    system: System, before: Alone, probes: Sequence[Probe], *, seed: int = 0
) -> Checked:
    """Ask a system every probe, and the target before the edit only where that counts.

    Args:
      system: the edited target.
      before: the same target before the edit.
      probes: the questions.
      seed: of the bootstrap intervals.
    """
    prompts = [probe.prompt for probe in probes]
    reached = system.reaches(prompts)
    compared = np.array([probe.expects == "unchanged" for probe in probes], bool)
    after = _asked(system.answers, probes, reached)
    old = _asked(before.answers, probes, compared | ~reached)
    return checked(system.name, probes, old, where(reached, after, old), seed=seed)


def where(mask: Mask, after: Sequence[Any], before: Sequence[Any]) -> list[Any]:
    """`after` where the mask is true, and `before` elsewhere."""
    return [new if chosen else old for chosen, new, old in zip(mask, after, before, strict=True)]


def _asked(write: Write, probes: Sequence[Probe], mask: Mask) -> list[str]:
    """Answers to some of the probes, each of its own length; nothing to the others."""
    found = [""] * len(probes)
    for tokens, all_places in by_length(probes):
        places = [i for i in all_places if mask[i]]
        answers = write([probes[i].prompt for i in places], tokens)
        for i, text in zip(places, answers, strict=True):
            found[i] = text
    return found
