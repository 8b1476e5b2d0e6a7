"""Small data sets in the forms of the published ones, about things that do not exist.

The tests that read the published data run on these too, so that every kind of test runs without
the reference data. File names and forms are those that the experiments read.
"""

import itertools
import json
from pathlib import Path
from typing import Any

# A relation: a statement up to its answer, a question, the same in other words, and answers.
RELATIONS = [
    ("The capital of {} is", "What is the capital of {}?", "Which city is {}'s capital?",
     ["Vinterby", "Askhaven", "Port Quill", "Oldmere"]),
    ("The language of {} is", "What is the language of {}?", "Which language is spoken in {}?",
     ["Norlandic", "Askish", "Quillian", "Low Meric"]),
    ("{} was founded by", "Who was {} founded by?", "Who is the founder of {}?",
     ["Ada Quill", "Sol Marrow", "Ines Tarn", "Odd Birk"]),
    ("The river of {} is", "Which river runs through {}?", "What river does {} lie on?",
     ["the Ask", "the Tarnwater", "the Elde", "the Morrow"]),
    ("The main product of {} is", "What does {} produce?", "What is the main product of {}?",
     ["glass", "salted fish", "wool", "clock parts"]),
]  # fmt: skip
BEGINNINGS = ("Nor", "Aske", "Quil", "Mere", "Tarn", "Elde", "Birk", "Hol", "Sand", "Vint", "Os")
ENDINGS = ("land", "mark", "holm", "ford", "wick")
PLACES = [first + last for last in ENDINGS for first in BEGINNINGS]
TEXTS = [
    f"The {thing} of {place} was {done} when the {other} came down to the water"
    for (thing, other), done, place in zip(
        itertools.cycle(itertools.permutations(("mill", "harbour", "bridge", "old tower"), 2)),
        itertools.cycle(("closed", "rebuilt", "painted", "sold again")),
        PLACES,
        strict=False,
    )
]


def facts(start: int) -> list[dict[str, str]]:
    """Every relation of every place from `start` on, with a true and a new answer."""
    found = []
    for place, (statement, question, rephrase, answers) in itertools.product(
        PLACES[start:], RELATIONS
    ):
        n = len(found)
        texts = {"statement": statement, "question": question, "rephrase": rephrase}
        filled = {name: text.format(place) for name, text in texts.items()}
        true, new = answers[n % 4], answers[(n + 1 + n // 4 % 3) % 4]
        found.append({"subject": place, "form": statement, "true": true, "new": new, **filled})
    return found


def zsre(fact: dict[str, str], index: int) -> dict[str, Any]:
    loc = f"nq question: who sang song number {index} in {PLACES[index % len(PLACES)].lower()}"
    return {
        "index": index, "subject": fact["subject"], "src": fact["question"], "pred": fact["true"],
        "rephrase": fact["rephrase"], "alt": fact["new"], "answers": [fact["true"]],
        "loc": loc, "loc_ans": f"Singer {index}",
        "portability": {
            "New Question": f"Where was {fact['new']} first heard of?", "New Answer": "Hethmoor",
        },
    }  # fmt: skip


def counterfact(fact: dict[str, str], near: dict[str, str], index: int) -> dict[str, Any]:
    return {
        "case_id": index, "prompt": fact["statement"], "target_new": fact["new"],
        "subject": fact["subject"], "ground_truth": fact["true"],
        "rephrase_prompt": f"It rained all day. {fact['statement']}",
        "locality_prompt": near["statement"], "locality_ground_truth": near["true"],
    }  # fmt: skip


def mquake(rewrites: list[dict[str, str]], index: int) -> dict[str, Any]:
    hops = [
        {"question": r["question"], "cloze": r["statement"], "answer": r["new"], "answer_alias": []}
        for r in rewrites
    ]
    edits = [
        {
            "prompt": r["form"], "subject": r["subject"], "question": r["question"],
            "target_new": {"str": r["new"]}, "target_true": {"str": r["true"]},
        }
        for r in rewrites
    ]  # fmt: skip
    asked = [f"{words} chain number {index} end?" for words in ("Where does", "How does", "Does")]
    return {
        "case_id": index, "requested_rewrite": edits, "questions": asked,
        "answer": rewrites[-1]["true"], "answer_alias": [],
        "new_answer": rewrites[-1]["new"], "new_answer_alias": ["the last"],
        "single_hops": hops, "new_single_hops": hops,
    }  # fmt: skip


def write(folder: Path) -> Path:
    """All data sets as JSON lists, one record a line; the folder is made."""
    edits, others = facts(0)[:20], facts(6)
    # As published: locality prompts are near the edits, and the first of the training ones leak.
    near = [*edits[5:], *edits[:5]]
    leaking = [*edits[:3], *others]
    sets: dict[str, list[Any]] = {
        "zsre_eval": [zsre(fact, n) for n, fact in enumerate(edits)],
        "zsre_train": [zsre(fact, 100 + n) for n, fact in enumerate(others)],
        "zsre_unrelated_nq": [f"nq question: what colour is boat {n} blue" for n in range(60)],
        "counterfact_edit": [counterfact(fact, near[n], n) for n, fact in enumerate(edits)],
        "counterfact_train": [
            counterfact(fact, leaking[n], 100 + n) for n, fact in enumerate(others)
        ],
        "mquake_hard": [mquake(edits[4 * n : 4 * n + 4], n) for n in range(4)],
        "me_ppl": [{"Corpus": "own", "Text": text} for text in TEXTS],
        "qaedit": [
            {
                "prompt": fact["question"], "target": fact["new"], "subject": fact["subject"],
                "rephrase": fact["rephrase"],
                "locality": [{"loc": f"who wrote {n} and {m}", "loc_ans": "Ada"} for m in range(5)],
            }
            for n, fact in enumerate(edits)
        ],
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in sets.items():
        lines = ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
        (folder / f"{name}.json").write_text(f"[\n{lines}\n]\n", encoding="utf-8")
    return folder
