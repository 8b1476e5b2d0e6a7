"""The fused system one token at a time, the whole text run anew for each: slow, and plain."""

import drawn_by_numpy
import jax
import jax.numpy as jnp

from onceedit_jax.decoding.draws import random_numbers
from onceedit_jax.decoding.options import GREEDY
from onceedit_jax.decoding.prefix_batching import states_after
from onceedit_jax.decoding.stopping import Answer
from onceedit_jax.fusion import FusionInputs, fused_step
from onceedit_jax.models.decoder import unembed
from onceedit_jax.text.bridge import Bridge
from onceedit_jax.text.prompts import plain_text


def logits_after(params, config, rows):
    return unembed(params, config, jnp.asarray(states_after(params, config, rows)))


def stepwise_answers(ensemble, t, prompts, *, max_new_tokens, sampling=GREEDY):
    """Answers of target t to prompts in all of which the plug-in has a say."""
    plugin, prepared, rule = ensemble.plugin, ensemble.prepared[t], ensemble.rule
    target = prepared.target
    form = prepared.format
    bridge = Bridge(target.tokenizer, plugin.tokenizer, form.spaced)
    drafts = rule.reads == "draft"
    edits = ensemble.prepared_plugin.verdicts(prompts).edits
    reader = prepared.reader(ensemble.prepared_plugin, prompts, edits) if drafts else None
    heads = [form.encode(prompt) for prompt in prompts]
    answers = [Answer(form) for _ in prompts]
    alphas, step = jnp.asarray(ensemble.alphas(prompts)), jax.jit(fused_step, static_argnums=0)
    numbers = [random_numbers(sampling.seed, i, max_new_tokens) for i in range(len(prompts))]
    for n in range(max_new_tokens):
        written = [answer.tokens for answer in answers]
        own = logits_after(
            target.model.params,
            target.model.config,
            [head + tokens for head, tokens in zip(heads, written, strict=True)],
        )
        if reader is not None:
            inputs = FusionInputs(None, own, alphas, **reader.view(written))
        else:
            texts = map(plain_text, prompts)
            read = [bridge.cross(p, tokens) for p, tokens in zip(texts, written, strict=True)]
            states = jnp.asarray(plugin.states_after(read, edits))
            inputs = FusionInputs(unembed(plugin.params, plugin.config, states), own, alphas)
        chosen = step(rule, prepared.state, inputs).tokens.tolist()
        if sampling.temperature:
            shares = own if drafts else jnp.log(rule.distribution(prepared.state, inputs))
            drafted = inputs.drafted.tolist() if drafts else [-1] * len(prompts)
            for i, token in enumerate(drafted):
                if chosen[i] != token:
                    chosen[i] = drawn_by_numpy.token(shares[i], sampling, numbers[i][n])
        for answer, token in zip(answers, chosen, strict=True):
            answer.add(token)
    return [target.tokenizer.decode(a.tokens, continuation=True).strip() for a in answers]
