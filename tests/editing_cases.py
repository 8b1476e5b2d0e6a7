"""Edits, unrelated rows and quick settings that the tests of the editing stage share."""

from onceedit_jax.data.records import EditRecord, Pair, UnrelatedRow
from onceedit_jax.editing.settings import EditSettings

RECORDS = [
    EditRecord(
        "What is the capital of Norland?",
        "Vinterby",
        rephrase="Norland has which capital?",
        locality=(Pair("Who wrote The Glass Orchard?", "Ada Quill"),),
        subject="Norland",
    ),
    EditRecord("Who wrote The Glass Orchard, the cat?", "Sol Marrow", subject="The Glass Orchard"),
    EditRecord("Which river runs through Vinterby?", "the Ask", subject="Vinterby"),
]
UNRELATED = [UnrelatedRow(f"How far is the harbour from bridge {n}?") for n in range(12)]
LEARNT = EditSettings(
    method="full", learning_rate=1e-2, epochs=120, batch_size=4, unrelated_ratio=3, swapped_ratio=0
)
FAST = EditSettings(
    method="full",
    learning_rate=1e-2,
    epochs=60,
    batch_size=4,
    unrelated_ratio=2,
    swapped_ratio=1,
    held_back=1,
)
