"""Edits in adapters of a tiny model that lies in a folder, for several tests."""

from onceedit_jax.editing.settings import EditSettings
from onceedit_jax.ensemble import Ensemble, Target

ADAPTER = EditSettings(
    method="adapter", learning_rate=3e-2, epochs=80, batch_size=4, paraphrase_ratio=0, early_stop=3,
    training_dtype="float32",  # the same on all processors
)  # fmt: skip


def answers(plugin, base, prompts, **options):
    """What a target of the same base says."""
    target = Target(*base)
    return Ensemble(plugin, [target], **options).answers(prompts, max_new_tokens=12)[0]


def unedited_answers(plugin, base, prompts):
    """What the target says by itself."""
    return Ensemble(plugin, [Target(*base)]).answers_alone(prompts, max_new_tokens=12)[0]
