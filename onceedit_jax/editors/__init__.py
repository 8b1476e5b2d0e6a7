"""Editing methods as values: each function here gives an `Editor` (see `editing.editor`).

    plugin = oe.edit(model, tokenizer, records, editor=editors.memit(layers=(4, 5, 6)))

`full`, `lora`, `last_layers` and `adapter` train by gradient. `ft_l`, `rome`, `memit` and
`alphaedit` change down-projections of a few layers. `grace` and `wise` keep a memory beside the
model.
"""

from onceedit_jax.editing.tuning import adapter, full, last_layers, lora, trained
from onceedit_jax.editors.codebook import grace
from onceedit_jax.editors.ftl import ft_l
from onceedit_jax.editors.multi_layer import alphaedit, memit
from onceedit_jax.editors.rank_one import rome
from onceedit_jax.editors.registry import editor_by_name
from onceedit_jax.editors.side_memory import wise

__all__ = [
    "adapter",
    "alphaedit",
    "editor_by_name",
    "ft_l",
    "full",
    "grace",
    "last_layers",
    "lora",
    "memit",
    "rome",
    "trained",
    "wise",
]
