"""An edited plug-in with a target as a model of EleutherAI's lm-evaluation-harness.

Importing this module registers the model `onceedit`. It needs the extra `lm-eval`.

Texts are tokenized as the harness's own class for transformers does it, in plain text. A context
that the gate does not open for has the target's own numbers. For one that it opens for, an answer's
probability is that of the rule's distribution P, token by token after the true ones before.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.models.utils import normalize_gen_kwargs
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from onceedit_jax.decoding.answers import Writer, own_tokens
from onceedit_jax.decoding.draws import Draws
from onceedit_jax.decoding.options import SamplingSettings
from onceedit_jax.decoding.stopping import text_of, text_stops
from onceedit_jax.editing.artifact import EditedPlugin
from onceedit_jax.ensemble import Ensemble, Target, load_target
from onceedit_jax.ensemble.generation import continuations
from onceedit_jax.ensemble.likelihood import (
    Likelihood,
    check_distribution,
    fused_likelihoods,
    own_likelihoods,
)
from onceedit_jax.ensemble.preparation import PreparedPlugin, PreparedTarget
from onceedit_jax.ensemble.scoring import Text
from onceedit_jax.errors import InputError
from onceedit_jax.fusion.registry import gate_of, rule_by_name
from onceedit_jax.gates.registry import gate_by_name
from onceedit_jax.models.dtypes import ComputeDtype
from onceedit_jax.text.prompts import PromptFormat

PART = 64  # texts that are scored together
ROLLING = 8192  # tokens of whole texts that are scored together
# What the harness passes to every model and has no meaning here: JAX chooses devices and batches.
IGNORED = frozenset({"batch_size", "max_batch_size", "device"})

# Tokens to read before a window's, and the window's own, which are scored.
Window = tuple[list[int], list[int]]

_T = TypeVar("_T")


class _Wanted(NamedTuple):
    """What a request wants of a continuation: its stops, its length, and how it is drawn."""

    until: tuple[str, ...]
    length: int
    sampling: SamplingSettings


@register_model("onceedit")
class OnceEditLM(TemplateLM):  # type: ignore[misc]
    """A target LLM, with an edited plug-in beside it or alone."""

    def __init__(
        self,
        target: str,
        edited: str | None = None,
        *,
        base: str | None = None,
        rule: str | None = None,
        gate: str | None = None,
        alpha_threshold: float | None = None,
        target_dtype: str = "float32",
        compute_dtype: ComputeDtype | None = None,
        max_length: int | None = None,
        max_gen_toks: int = 256,
        add_bos_token: bool = True,
        seed: int = 0,
        **others: Any,
    ) -> None:
        """Load the models; arguments are texts, as `--model_args` gives them.

        Args:
          target: the target LLM: a folder, a hub id, a .gguf file or demo:NAME.
          edited: folder of the edited plug-in (default: none, the target alone).
          base: the model that was edited, for edits in adapters (default: where it was).
          rule: name of the fusion rule (default: the artifact's).
          gate: name of the gate (default: the rule's).
          alpha_threshold: below this alpha the target answers alone (default: the gate's).
          target_dtype: type of the target's weights.
          compute_dtype: type of the operands of both models' products, as for `load_model`.
          max_length: longest text in the target's tokens (default: its context).
          max_gen_toks: longest answer of a task that names none.
          add_bos_token: begin texts with the target's BOS, if its tokenizer does.
          seed: of the answers that a task draws.
          others: what the harness gives to all models, see `IGNORED`.

        Raises:
          InputError: a model or an argument is not there, or the rule has no distribution.
        """
        super().__init__()
        if unknown := sorted(others.keys() - IGNORED):
            raise InputError(
                f"model onceedit: no argument {unknown[0]}; see docs/how-to/lm-eval.md"
            )
        self.target: Target = load_target(target, dtype=target_dtype, compute_dtype=compute_dtype)
        self.tokenizer = self.target.tokenizer
        self.pair: tuple[PreparedPlugin, PreparedTarget] | None = None
        if edited is not None:
            plugin = EditedPlugin.load(Path(edited), base=base, compute_dtype=compute_dtype)
            self.pair = _prepared(plugin, self.target, rule, gate, alpha_threshold)
            check_distribution(self.pair[1].rule)
        elif given := [name for name, value in (("rule", rule), ("gate", gate)) if value]:
            raise InputError(f"{given[0]}: there is no plug-in to fuse; give edited=DIR too")
        self.add_bos: bool = bool(add_bos_token)
        self.max_gen_toks: int = int(max_gen_toks)
        self.seed: int = int(seed)
        longest = self.target.model.config.max_positions
        self.max_length: int = longest if max_length is None else int(max_length)
        if not 1 <= self.max_length <= longest:
            raise InputError(
                f"max_length={self.max_length}: expected 1 to {longest}, {self.target.name}'s "
                "context"
            )

    @property
    def eot_token_id(self) -> int:
        """The token that ends a text."""
        return self.tokenizer.end_id

    @property
    def prefix_token_id(self) -> int:
        """What a text without a context is read after: the tokenizer's BOS, or its end token."""
        bos = self.tokenizer.hf.bos_token_id
        return self.eot_token_id if bos is None else int(bos)

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **kwargs: Any
    ) -> list[int]:
        """The tokens of a text; strings of special tokens in it are plain text."""
        bos = self.add_bos if add_special_tokens is None else add_special_tokens
        return self.tokenizer.encode(string, bos=bos)

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """Refused: a conversation in one text would have no special tokens."""
        raise InputError(
            "model onceedit asks in plain text; leave --apply_chat_template out (`onceedit check` "
            "and `onceedit generate` ask in chat)"
        )

    def _loglikelihood_tokens(
        self,
        requests: Sequence[tuple[tuple[str, str] | None, list[int], list[int]]],
        disable_tqdm: bool = False,
        **kwargs: Any,
    ) -> list[tuple[float, bool]]:
        """The log-probability of each continuation, and whether it would be taken greedily."""
        found: list[tuple[float, bool]] = []
        for part in _parts(requests, PART):
            # The harness has moved blanks at the end of a context into its continuation.
            prompts = ["" if pair is None else pair[0].rstrip() for pair, _, _ in part]
            texts = [self._text(context, answer) for _, context, answer in part]
            scored = [(each.log_probability, each.greedy) for each in self._score(prompts, texts)]
            for (pair, _, _), result in zip(part, scored, strict=True):
                if pair is not None:
                    self.cache_hook.add_partial("loglikelihood", pair, result)
            found += scored
        return found

    def _text(self, context: list[int], answer: list[int]) -> Text:
        """A context with its continuation; of a longer text than fits, the last part."""
        if len(answer) > self.max_length:
            raise InputError(
                f"a continuation of {len(answer)} tokens; expected at most max_length="
                f"{self.max_length}: leave the task out, or choose a target with a longer context"
            )
        # A context of blanks alone has become a part of the continuation.
        tokens = [*(context or [self.prefix_token_id]), *answer][-(self.max_length + 1) :]
        return Text(tokens, len(tokens) - len(answer))

    def _score(self, prompts: list[str], texts: list[Text]) -> list[Likelihood]:
        if self.pair is None:
            model = self.target.model
            return own_likelihoods(model.params, model.config, texts)
        return fused_likelihoods(*self.pair, prompts, texts)

    def loglikelihood_rolling(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[float]:
        """The log-probability of whole texts: the target's own, as nothing asks for an edit."""
        totals, kept = [0.0] * len(requests), 0
        for part in _batches(self._windows(request.args[0] for request in requests)):
            scored = self._loglikelihood_tokens([(None, *window) for _, window in part])
            for (i, _), (log_probability, _) in zip(part, scored, strict=True):
                totals[i] += log_probability
            # Every text before that of the last window is whole.
            kept = self._keep(requests, totals, kept, part[-1][0])
        self._keep(requests, totals, kept, len(requests))
        return totals

    def _keep(
        self, requests: Sequence[Instance], totals: Sequence[float], start: int, end: int
    ) -> int:
        """Let the harness's cache have the totals of some texts; where to go on."""
        for i in range(start, end):
            self.cache_hook.add_partial("loglikelihood_rolling", requests[i].args, totals[i])
        return end

    def _windows(self, texts: Iterable[str]) -> Iterator[tuple[int, Window]]:
        """The windows of texts, with the number of each one's text; one text at a time."""
        for i, text in enumerate(texts):
            windows = get_rolling_token_windows(
                token_list=self.tok_encode(text),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length,
                context_len=1,
            )
            for window in windows:
                yield i, make_disjoint_window(window)

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Continuations, each up to the first of its stops; drawn where a task asks for that.

        A request's place among all of them chooses its random numbers, so that a question that is
        asked several times has several answers.

        Raises:
          InputError: a setting that no token can be drawn by, or a context without room for an
            answer.
        """
        found: dict[int, str] = {}
        groups: dict[_Wanted, list[int]] = {}
        for i, request in enumerate(requests):
            groups.setdefault(self._wanted(request.args[1]), []).append(i)
        for wanted, places in groups.items():
            for part in _parts(places, PART):
                prompts = [requests[i].args[0] for i in part]
                draws = Draws(wanted.sampling, tuple(part))
                for i, text in zip(part, self._written(prompts, wanted, draws), strict=True):
                    found[i] = text
                    self.cache_hook.add_partial("generate_until", requests[i].args, found[i])
        return [found[i] for i in range(len(requests))]

    def _wanted(self, options: Mapping[str, Any]) -> _Wanted:
        known = normalize_gen_kwargs(dict(options), self.max_gen_toks)
        # As in transformers, whose temperature is 1 where a task names none.
        warm = float(known.get("temperature", 1.0)) if known.get("do_sample") else 0.0
        top_p, top_k = known.get("top_p"), known.get("top_k")
        sampling = SamplingSettings(
            temperature=warm,
            top_p=1.0 if top_p is None else float(top_p),
            top_k=max(int(top_k or 0), 0),  # other programs say -1 for all tokens
            seed=self.seed,
        )
        until = known.get("until") or []
        stops = [until] if isinstance(until, str) else until
        return _Wanted(tuple(text for text in stops if text), int(known["max_gen_toks"]), sampling)

    def _written(self, prompts: list[str], wanted: _Wanted, draws: Draws) -> list[str]:
        """What goes on after prompts, up to the stops."""
        length = wanted.length
        target, tokenizer = self.target, self.target.tokenizer
        room = self.max_length - length
        for prompt in prompts:
            if not 0 < len(self.tok_encode(prompt)) <= room:
                raise InputError(
                    f"the context {prompt[:60]!r} has {len(self.tok_encode(prompt))} tokens; "
                    f"expected 1 to {room}, max_length without max_gen_toks={length}: ask for "
                    "shorter answers or fewer examples (--num_fewshot)"
                )
        how: dict[str, Any] = {"max_new_tokens": length, "draws": draws}
        if self.pair is not None:
            return continuations(*self.pair, prompts, until=wanted.until, **how)
        form = PromptFormat(tokenizer, goes_on=True, until=wanted.until)
        stops = text_stops(form, target.model.config.vocab_size)
        writer = Writer(target.model.params, target.model.config, form)
        written = own_tokens(writer, prompts, stops, **how)
        return [text_of(form, tokens) for tokens in written]


def _prepared(
    plugin: EditedPlugin,
    target: Target,
    rule: str | None,
    gate: str | None,
    alpha_threshold: float | None,
) -> tuple[PreparedPlugin, PreparedTarget]:
    """The pair by the names of rule and gate, asked in plain text."""
    info = plugin.info
    name = rule or info.rule.fusion
    gate = gate or gate_of(name, in_adapters=info.in_adapters)
    ensemble = Ensemble(
        plugin,
        [target],
        rule=rule_by_name(name),
        gate=None if gate is None else gate_by_name(gate),
        alpha_threshold=alpha_threshold,
        chat=False,
    )
    return ensemble.prepared_plugin, ensemble.prepared[0]


def _batches(windows: Iterable[tuple[int, Window]]) -> Iterator[list[tuple[int, Window]]]:
    """Windows in groups that have `ROLLING` tokens at most with their padding, or one window."""
    group, longest = list[tuple[int, Window]](), 0
    for i, (context, answer) in windows:
        longest = max(longest, len(context) + len(answer))
        if group and longest * (len(group) + 1) > ROLLING:
            yield group
            group, longest = [], len(context) + len(answer)
        group.append((i, (context, answer)))
    if group:
        yield group


def _parts(items: Sequence[_T], size: int) -> Iterator[Sequence[_T]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
