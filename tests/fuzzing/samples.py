"""Sound inputs of every format, tiny and quick to read, each in a folder of its own."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import own_data
from adapter_cases import ADAPTER
from editing_cases import FAST, RECORDS, UNRELATED
from gguf_files import MODELS, describe, write_gguf
from gguf_files import random_tensors as gguf_tensors
from model_folders import LLAMA, random_tensors, write_folder
from relation_cases import sharp_head
from tiny_tokenizers import byte_level, sentencepiece_like

from onceedit_jax.editing.edit import edit
from onceedit_jax.ensemble import load_target
from onceedit_jax.storage.checksums import write_sealed

FLAGS = """\
# what `onceedit generate` is asked
prompt:
  - What is the capital of Norland?
  - Who wrote it?
max-new-tokens: 4
alpha: 0.5
explain: true
"""
RELATIONS = """\
- name: capital
  kinds: [capital]
  questions: ["What is the capital of {subject}?", "Which city is the capital of {subject}?"]
  statements: ["The capital of {subject} is"]
  requests: ["Name the capital of {subject}."]
  sentence: "The capital of {subject} is {answer}."
"""
PAGE = """\
# A study

<!-- table: all -->
| rule | Rel |
| --- | --- |
| draft | **.50** |
<!-- end -->

See [another](https://example.org) and `code`.
"""


def model(folder: Path) -> Path:
    """A llama in two shards with a byte-level tokenizer."""
    tokenizer = byte_level()
    tokenizer.save_pretrained(folder)
    (folder / "generation_config.json").write_text('{"eos_token_id": [0]}')
    return write_folder(
        folder, _config(len(tokenizer)), random_tensors(_config(len(tokenizer))), shards=2
    )


def other_model(folder: Path) -> Path:
    """A llama in one file with a SentencePiece-like tokenizer."""
    tokenizer = sentencepiece_like()
    tokenizer.save_pretrained(folder)
    return write_folder(folder, _config(len(tokenizer)), random_tensors(_config(len(tokenizer))))


def _config(rows: int) -> dict[str, Any]:
    rope = {"rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 32}  # fmt: skip
    return {
        **LLAMA,
        "max_position_embeddings": 256,
        "vocab_size": rows,
        "eos_token_id": 0,
        "rope_parameters": rope,
    }


def gguf_file(folder: Path) -> Path:
    """A llama and its SentencePiece-like tokenizer in one GGUF file."""
    tokenizer = describe(sentencepiece_like())
    hf = {**MODELS["llama"], "vocab_size": len(tokenizer.facts["tokens"])}
    folder.mkdir(parents=True)
    return write_gguf(folder / "model.gguf", hf, gguf_tensors(hf), tokenizer=tokenizer)


def other_gguf_file(folder: Path) -> Path:
    """GPT-2 and its byte-level tokenizer in one GGUF file."""
    tokenizer = describe(byte_level(), pre="gpt-2")
    hf = {**MODELS["gpt2"], "vocab_size": len(tokenizer.facts["tokens"])}
    folder.mkdir(parents=True)
    return write_gguf(folder / "model.gguf", hf, gguf_tensors(hf), tokenizer=tokenizer)


def artifact(folder: Path) -> Path:
    """An edited plug-in: all weights, a gate and a tokenizer."""
    target = load_target(model(folder.with_name("base of artifact")))
    settings = dataclasses.replace(FAST, epochs=1)
    return edit(target.model, target.tokenizer, RECORDS, UNRELATED, settings).save(folder)


def adapter(folder: Path) -> Path:
    """An edited plug-in in adapters, which names its base."""
    target = load_target(model(folder.with_name("base of adapter")))
    settings, head = (
        dataclasses.replace(ADAPTER, epochs=1),
        sharp_head(target.model, target.tokenizer),
    )
    edited = edit(target.model, target.tokenizer, RECORDS, UNRELATED, settings, head=head)
    return edited.save(folder)


def data(folder: Path) -> Path:
    """Small data sets in the published forms."""
    return own_data.write(folder)


def edits(folder: Path) -> Path:
    """Edits, one a line."""
    folder.mkdir(parents=True)
    lines = [
        {"prompt": r.prompt, "target": r.target, "subject": r.subject, "rephrase": r.rephrase}
        for r in RECORDS
    ]
    (folder / "edits.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    (folder / "edits.csv").write_text(
        "prompt,target,subject\n"
        + "".join(f'"{r.prompt}","{r.target}","{r.subject}"\n' for r in RECORDS)
    )
    (folder / "unrelated.json").write_text(
        json.dumps([*(row.prompt for row in UNRELATED), {"prompt": "Who?", "answer": "Ada"}])
    )
    return folder


def flags(folder: Path) -> Path:
    """Flags of a command in YAML."""
    folder.mkdir(parents=True)
    (folder / "flags.yaml").write_text(FLAGS)
    return folder


def relations(folder: Path) -> Path:
    """A bank of relations."""
    folder.mkdir(parents=True)
    (folder / "relations.yaml").write_text(RELATIONS)
    return folder


def table(folder: Path) -> Path:
    """A file of the cache: arrays that carry their hash."""
    rng = np.random.default_rng(0)
    arrays = {"values": rng.random((9, 4), np.float32), "tokens": np.arange(36).reshape(9, 4)}
    write_sealed(folder / "table.safetensors", arrays, {"anchors": 9, "names": ["a", "b"]})
    return folder


def results(folder: Path) -> Path:
    """An experiment's results, with a page and the records of one cell."""
    place = folder / "study"
    (place / "records").mkdir(parents=True)
    (place / "README.md").write_text(PAGE)
    score = {"target": "target", "fusion": "draft", "rel": 0.5}
    cell = {"cell": {"dataset": "own"}, "result": {"scores": [score]}, "fingerprint": "0" * 16}
    values = {"experiment": "study", "setup": {"seed": 0}, "cells": {"own, 10": cell}}
    (place / "results.json").write_text(json.dumps(values))
    lines = [
        {"record": n, "metric": "rel", "target": "target", "mode": "free", "alpha": 0.5,
         "before": 0.0, "after": 1.0}
        for n in range(4)
    ]  # fmt: skip
    (place / "records" / "own, 10.jsonl").write_text("".join(f"{json.dumps(r)}\n" for r in lines))
    return folder
