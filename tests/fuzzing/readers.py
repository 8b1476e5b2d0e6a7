"""Each format twice: as this project reads it, and as other libraries do.

What is read is a value that can be compared: names, numbers, and hashes of arrays. A damaged input
that is read must either give the value of the sound one, or the value that the other reader gives.
"""

import csv
import dataclasses
import hashlib
import json
import tempfile
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path
from typing import Any

import gguf
import jax
import numpy as np
import tokenizers
import yaml
from safetensors.numpy import load_file
from transformers import AutoConfig

from experiments.framework.html_report import write_report
from onceedit_jax.cli.config_file import with_config
from onceedit_jax.data.loaders import load_records, load_unrelated
from onceedit_jax.data.relations import load_relations
from onceedit_jax.decoding.numbers import check_states
from onceedit_jax.editing.artifact import EditedPlugin
from onceedit_jax.ensemble import load_target
from onceedit_jax.models.decoder import hidden_states
from onceedit_jax.storage.checksums import read_sealed
from onceedit_jax.text.tokenizer import Tokenizer

PROBE = "The capital of France is Paris.\n\n  café, 日本 🙂 in 1984"
Value = dict[str, Any]


class NeverAnother(Exception):
    """A format whose hashes allow the sound value alone."""


def model(path: Path) -> Value:
    """A model and its tokenizer."""
    target = load_target(path)
    config, params = target.model.config, target.model.params
    _check_states(target)
    return {
        "sizes": (
            config.hidden_size, config.num_layers, config.num_heads, config.num_kv_heads,
            config.head_dim, config.mlp_size, config.max_positions,
        ),
        "epsilon": np.float32(config.norm_eps),
        "rope": None if config.rope is None else np.float32(config.rope.theta),
        "numbers": _numbers(jax.tree.leaves(params)),
        **_text(target.tokenizer),
    }  # fmt: skip


def _check_states(target: Any) -> None:
    """Run the model: what comes out must be numbers, or it is refused now."""
    tokens, model = np.arange(4, dtype=np.int32), target.model
    with jax.disable_jit():
        states, _ = hidden_states(model.params, model.config, tokens[None], tokens[None])
    check_states(np.asarray(states), model.params, model.config, tokens.tolist())


def _text(tokenizer: Tokenizer) -> Value:
    ids = tokenizer.encode(PROBE)
    return {"tokens": ids, "end": tokenizer.end_id}


def _numbers(arrays: Any) -> str:
    """A hash of all numbers in order of size: it tells nothing of names, shapes and layout."""
    values = np.concatenate([np.asarray(each, np.float32).ravel() for each in arrays])
    return _hash(np.sort(values + 0.0))  # -0.0 is 0.0 here


def _hash(values: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()[:16]


def model_by_others(path: Path) -> Value:
    """The same by transformers, safetensors and tokenizers."""
    values = json.loads((path / "config.json").read_text())
    config = AutoConfig.for_model(**values)
    rope = getattr(config, "rope_parameters", None) or {}
    tokenizer = tokenizers.Tokenizer.from_file(str(path / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    end = json.loads((path / "tokenizer_config.json").read_text()).get("eos_token")
    arrays = [
        array for file in sorted(path.glob("*.safetensors")) for array in load_file(file).values()
    ]
    return {
        "sizes": (
            config.hidden_size, config.num_hidden_layers, config.num_attention_heads,
            config.num_key_value_heads, config.head_dim, config.intermediate_size,
            config.max_position_embeddings,
        ),
        "epsilon": np.float32(config.rms_norm_eps),
        "rope": np.float32(rope.get("rope_theta", 1e4)),
        "numbers": _numbers(arrays),
        "tokens": tokenizer.encode(PROBE).ids,
        "end": tokenizer.token_to_id(end["content"] if isinstance(end, dict) else end),
    }  # fmt: skip


def gguf_by_others(path: Path) -> Value:
    """A GGUF file by the format's own package; the tokens are read back as text."""
    reader = gguf.GGUFReader(path)
    fields = {key: field.contents() for key, field in reader.fields.items()}
    family = fields["general.architecture"]
    of = {key.removeprefix(f"{family}."): value for key, value in fields.items()}
    heads, hidden = of["attention.head_count"], of["embedding_length"]
    epsilon = "attention.layer_norm_epsilon", "attention.layer_norm_rms_epsilon"
    ids = load_target(path).tokenizer.encode(PROBE)  # no other reader writes tokens of such a file
    arrays = [gguf.dequantize(each.data, each.tensor_type) for each in reader.tensors]
    return {
        "sizes": (
            hidden, of["block_count"], heads, of.get("attention.head_count_kv", heads),
            of.get("attention.key_length", hidden // heads), of["feed_forward_length"],
            of["context_length"],
        ),
        "epsilon": np.float32(next(of[key] for key in epsilon if key in of)),
        "rope": np.float32(of["rope.freq_base"]) if "rope.freq_base" in of else None,
        "numbers": _numbers(arrays),
        "tokens": ids,
        "end": fields["tokenizer.ggml.eos_token_id"],
    }  # fmt: skip


def artifact(path: Path) -> Value:
    """An edited plug-in."""
    plugin = EditedPlugin.load(path)
    trained = plugin.params if plugin.adapters is None else plugin.adapters
    leaves = [_hash(np.asarray(leaf)) for leaf in jax.tree.leaves(trained)]
    return {"info": dataclasses.asdict(plugin.info), "arrays": leaves, **_text(plugin.tokenizer)}


def sealed(path: Path) -> Value:
    """A file of the cache that holds its own hash."""
    arrays, more = read_sealed(path, remedy="write it again")
    return {"arrays": {name: _hash(value) for name, value in arrays.items()}, "more": more}


def never_another(path: Path) -> Value:
    """What carries hashes is read as it was written, or not at all."""
    raise NeverAnother


def records(path: Path) -> Value:
    """Edits of a data set: prompts and answers."""
    return {"edits": [(record.prompt, record.target) for record in load_records(path)]}


def records_by_others(path: Path) -> Value:
    """The same by the standard library; numbers stand for what is written."""
    if path.suffix == ".csv":
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows: list[Any] = list(csv.DictReader(file))
    elif path.suffix == ".jsonl":
        rows = [
            json.loads(line) for line in path.read_text("utf-8-sig").split("\n") if line.strip()
        ]
    else:
        rows = json.loads(path.read_text("utf-8-sig"))
    edits = [each for row in rows for each in row.get("requested_rewrite", [row])]
    return {"edits": [(_prompt(edit), _answer(edit)) for edit in edits]}


def _text_of(value: Any) -> str | None:
    """A number stands for what is written, and an empty value for none."""
    return None if value in (None, "", [], {}) else str(value)


def _prompt(edit: Value) -> str:
    if "target_new" in edit and isinstance(edit["target_new"], dict):
        return str(edit["prompt"]).replace("{}", str(edit["subject"]))
    return str(edit["src"] if "src" in edit else edit["prompt"])


def _answer(edit: Value) -> str:
    answer = next(edit[key] for key in ("alt", "target_new", "target") if key in edit)
    return str(answer["str"] if isinstance(answer, dict) else answer)


def unrelated(path: Path) -> Value:
    """Unrelated rows."""
    return {"rows": [(row.prompt, row.answer) for row in load_unrelated(path)]}


def unrelated_by_others(path: Path) -> Value:
    """The same by the standard library."""
    rows = [
        row if isinstance(row, dict) else {"prompt": row} for row in json.loads(path.read_text())
    ]
    return {"rows": [(_text_of(row["prompt"]), _text_of(row.get("answer"))) for row in rows]}


def flags(path: Path) -> Value:
    """Flags of a command from a YAML file."""
    return {"flags": with_config(["generate", "--config", str(path)])}


def flags_by_others(path: Path) -> Value:
    """The same by PyYAML alone."""
    flags = []
    for name, value in (yaml.safe_load(path.read_text()) or {}).items():
        dashed = str(name).replace("_", "-")
        if isinstance(value, bool):
            flags.append(f"--{dashed}" if value else f"--no-{dashed}")
            continue
        for each in value if isinstance(value, list) else [value]:
            flags.append(f"--{dashed}={each}")
    return {"flags": ["generate", *flags]}


def relations(path: Path) -> Value:
    """A bank of relations."""
    return {
        "relations": [(each.name, each.sentence, *each.questions) for each in load_relations(path)]
    }


def relations_by_others(path: Path) -> Value:
    """The same by PyYAML alone."""
    rows = yaml.safe_load(path.read_text())
    return {"relations": [(str(r["name"]), str(r["sentence"]), *r["questions"]) for r in rows]}


def report(path: Path) -> Value:
    """What acts in the page that is made of results; text that is escaped does nothing."""
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "report.html"
        write_report(path, page)
        return {"acts": _acting(page.read_text())}


def report_by_others(path: Path) -> Value:
    """What acts in a page of no results at all."""
    return {"acts": _acting(files("experiments.framework").joinpath("report.html").read_text())}


class _Acting(HTMLParser):
    """Finds what acts: elements that load or run something, handlers, links to code."""

    KINDS = frozenset(
        {"base", "embed", "form", "frame", "iframe", "link", "math", "object", "script", "svg"}
    )

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        acting = [name for name, value in attrs if name[:2] == "on" or "script:" in (value or "")]
        self.found += [tag] if tag in self.KINDS else []
        self.found += [f"{tag} {name}" for name in acting]


def _acting(page: str) -> list[str]:
    parser = _Acting()
    parser.feed(page)
    return parser.found
