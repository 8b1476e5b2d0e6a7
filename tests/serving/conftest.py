"""A server with tiny models in a thread of this process, and facts for it."""

import contextlib
import dataclasses
import shutil
import threading
from functools import cache

import httpx2
import jax
import openai
import pytest
from adapter_cases import ADAPTER
from relation_cases import sharp_head
from support import byte_level_tokenizer, tiny_config
from tiny_tokenizers import with_template

from onceedit_jax.data.records import EditRecord
from onceedit_jax.editing import upkeep
from onceedit_jax.editing.edit import edit
from onceedit_jax.editing.relation_heads import find_head, keep_head
from onceedit_jax.evaluation.options import EnsembleOptions
from onceedit_jax.models.export import export_hf
from onceedit_jax.models.parameters import init_params
from onceedit_jax.models.weights import load_model
from onceedit_jax.serving.server import Server, open_service
from onceedit_jax.serving.settings import ServingSettings
from onceedit_jax.text.tokenizer import Tokenizer

TOKEN = "a secret of the tests"
QUICK = dataclasses.replace(ADAPTER, epochs=60)
SETTINGS = ServingSettings(
    port=0, rows=8, waiting=32, context=200, answer_tokens=12, seconds=60.0,
    reread_seconds=0.1, grace_seconds=5.0, warm=False,
)  # fmt: skip


def fact(place, answer, asked="capital"):
    return EditRecord(f"What is the {asked} of {place}?", answer, subject=place, source="facts:1")


FIRST = [
    fact("Norland", "Vinter"),
    fact("Vinterby", "Ask", "river"),
    fact("Sorvik", "red", "colour"),
]
NEW = fact("Norland", "Oskar")


def posted(*records, **more):
    """Facts as a client posts them."""
    edits = [{"prompt": r.prompt, "target": r.target, "subject": r.subject} for r in records]
    return {"edits": edits, **more}


@pytest.fixture(scope="session")
def models(tiny_model, tmp_path_factory):
    """Folders of a plug-in and of a target with a chat template; the plug-in's head is learnt."""
    folder = tmp_path_factory.mktemp("served")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ONCEEDIT_CACHE", str(folder / "cache"))
        model, tokenizer = tiny_model(200)
        hf = with_template(byte_level_tokenizer(80).hf, "chatml")
        chat = Tokenizer(hf)
        config = tiny_config(len(chat.vocabulary))
        params = init_params(config, jax.random.key(7))
        hf_config = {**model.hf_config, "vocab_size": config.vocab_size}
        for name, own in (
            ("plugin", (model.params, model.config, model.hf_config, tokenizer)),
            ("target", (params, config, hf_config, chat)),
        ):
            (folder / name).mkdir()
            export_hf(folder / name, *own[:3])
            own[3].save(folder / name)
        loaded = load_model(folder / "plugin", num_tokens=len(tokenizer.vocabulary))
        keep_head(sharp_head(loaded, tokenizer))
        # As it is read: the file holds it in half precision.
        return folder, loaded, tokenizer, find_head(loaded.content_hash)


@pytest.fixture(scope="module", autouse=True)
def own_cache(models):
    """The cache folder with the head, for this folder's tests alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ONCEEDIT_CACHE", str(models[0] / "cache"))
        yield


@pytest.fixture(scope="session")
def trained(models):
    """Editing that trains every set of facts once, for all tests."""
    _, model, tokenizer, head = models

    @cache
    def once(records):
        return edit(model, tokenizer, records, settings=QUICK, head=head)

    def quick(model, tokenizer, records, *, on_step=lambda progress: None, **options):
        known = [dataclasses.replace(r, index=0, source="facts:1") for r in records]
        made = once(tuple(known))
        entries = [
            dataclasses.replace(entry, source=record.source)
            for entry, record in zip(made.info.edits, records, strict=True)
        ]
        info = dataclasses.replace(made.info, edits=tuple(entries))
        return dataclasses.replace(made, info=info)

    return quick


@pytest.fixture(scope="session", autouse=True)
def quick(trained):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(upkeep, "edit", trained)
        yield


@pytest.fixture(scope="session")
def artifact(models, trained, tmp_path_factory):
    """An edited folder that no test changes."""
    return trained(None, None, FIRST).save(tmp_path_factory.mktemp("edited") / "plugin")


@pytest.fixture
def copied(artifact, tmp_path):
    """An edited folder of a test's own."""
    return shutil.copytree(artifact, tmp_path / "plugin")


@pytest.fixture(scope="session")
def serving(models):
    """Runs servers: `with serving(folder, seconds=1.0) as server`; `token=TOKEN` lets it write."""

    @contextlib.contextmanager
    def run(folder, *, targets=("target",), rule=None, hops=0, **changes):
        names = tuple(str(models[0] / name) for name in targets)
        options = EnsembleOptions(edited=folder, target=names, hops=hops)
        settings = dataclasses.replace(SETTINGS, **changes)
        server = Server(open_service(options, settings, QUICK, rule=rule))
        thread = threading.Thread(target=server.listen, daemon=True)
        thread.start()
        while not server.started:
            assert thread.is_alive()
            thread.join(0.01)
        try:
            yield server
        finally:
            server.should_exit = True
            thread.join(30)
            assert not thread.is_alive()

    return run


@pytest.fixture(scope="session")
def server(serving, artifact):
    """A server whose edits no test changes."""
    with serving(artifact) as running:
        yield running


@pytest.fixture
def web(server):
    """A client without OpenAI's manners."""
    with httpx2.Client(base_url=server.url, timeout=60) as client:
        yield client


def openai_client(server):
    """OpenAI's own client, which does not try again."""
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key=TOKEN, max_retries=0, timeout=60)


@pytest.fixture
def client(server):
    return openai_client(server)
