"""B8: the server beside the same answers in process, and many clients beside one.

Clients and server share one machine. A plug-in is edited with the demo's facts in an adapter, once,
and stored in --out. Run: python -m benchmarks.serving
"""

import asyncio
import statistics
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import tyro

import onceedit_jax as oe
from benchmarks.generation import written_on
from benchmarks.measure import PLUGIN, TARGETS, write
from onceedit_jax.cli.progress import editing_progress
from onceedit_jax.data.records import demo_path
from onceedit_jax.editing.settings import EditSettings
from onceedit_jax.evaluation.options import EnsembleOptions
from onceedit_jax.serving.server import Server, open_service
from onceedit_jax.serving.settings import ServingSettings

TOKEN, CLIENTS, TOKENS = "benchmark", 10, 32
TOPICS = (
    "harbour",
    "bridge",
    "market",
    "school",
    "garden",
    "river",
    "library",
    "mill",
    "inn",
    "church",
)
# The first one that a server is given compiles what training needs.
NEW = {
    "the first": ("Norland", "Vinterby"),
    "a second": ("Sorvik", "Elde"),
}


def main(out: Path = Path("runs/bench"), target: str = TARGETS[0], repeats: int = 3) -> None:
    """Measure one client, ten clients at once, edited prompts, and an edit that is added meanwhile.

    Args:
        out: folder of the plug-in that is edited for this.
        target: the target.
        repeats: runs of each measurement; the figures are medians.
    """
    folder = out / "served"
    records = oe.load_records(demo_path("demo_edits.jsonl"))
    if not folder.exists():
        edited(records, folder)
    options = EnsembleOptions(edited=folder, target=(target,))
    settings = ServingSettings(port=0, token=TOKEN)
    service = open_service(options, settings, EditSettings(method="adapter"))
    server = Server(service)
    thread = threading.Thread(target=server.listen)
    thread.start()
    while not server.started:
        time.sleep(0.05)
    try:
        rows = measured(server.url, next(iter(service.targets)), folder, target, records, repeats)
    finally:
        server.should_exit = True
        thread.join()
    write(
        "serving",
        f"B8: the server with {target}, {CLIENTS} clients, {TOKENS} tokens an answer",
        rows,
        "`ratio` is the speed over that of one client after another. In process the target writes "
        "as many tokens in one compiled loop.",
        how=f"Medians of {repeats} runs, warm; clients and server share the machine.",
    )


def edited(records: list[oe.EditRecord], folder: Path) -> None:
    """Edit the plug-in with the demo's facts, in an adapter."""
    settings = EditSettings(method="adapter")
    with editing_progress() as on_step:
        model, tokenizer = oe.load_model(PLUGIN), oe.load_tokenizer(PLUGIN)
        oe.edit(model, tokenizer, records, settings=settings, on_step=on_step).save(folder)


def measured(
    url: str, name: str, folder: Path, target: str, records: list[oe.EditRecord], repeats: int
) -> list[dict[str, Any]]:
    """All measurements."""
    texts = [f"The old {topic} of the town is known for" for topic in TOPICS[:CLIENTS]]
    with httpx2.Client(base_url=url, timeout=600) as web:
        together(url, name, texts)  # compiles
        one = median(repeats, lambda: [said(web, name, text) for text in texts])
        many = median(repeats, lambda: together(url, name, texts))
        tokens = CLIENTS * TOKENS
        asked = [record.prompt for record in records[:5]]
        firsts = {}
        for model in (name, f"{name}:before"):
            first_token(web, model, asked[0])
            times = [first_token(web, model, prompt) for prompt in asked for _ in range(repeats)]
            firsts[model] = statistics.median(times)
        waits = {which: until_known(web, name, url, texts, *fact) for which, fact in NEW.items()}
    ensemble = oe.Ensemble(oe.EditedPlugin.load(folder), [oe.load_target(target)], chat=False)
    (own,) = ensemble.unrolled_for(1_000_000).prepared

    def alone() -> None:
        for text in texts:
            written_on(own, [text], max_new_tokens=TOKENS)

    alone()
    inside = median(repeats, alone)
    return [
        row("one client after another", one, tokens / one, 1.0),
        row("ten clients at once", many, tokens / many, one / many),
        row("in process, one after another", inside, tokens / inside, one / inside),
        row("first token, an edited prompt", firsts[name], 0.0, 0.0),
        row("first token, the target alone", firsts[f"{name}:before"], 0.0, 0.0),
        *(
            row(f"from POST of {which} fact to its answer, ten clients asking", wait, 0.0, 0.0)
            for which, wait in waits.items()
        ),
    ]


def row(what: str, seconds: float, speed: float, ratio: float) -> dict[str, Any]:
    """One line of the table; 0 where a figure makes no sense."""
    return {
        "what": what,
        "seconds": seconds,
        "tokens/s": speed or "",
        "ratio": ratio or "",
    }


def median(repeats: int, run: Callable[[], Any]) -> float:
    """Median seconds of a run."""
    taken = []
    for _ in range(repeats):
        begun = time.perf_counter()
        run()
        taken.append(time.perf_counter() - begun)
    return statistics.median(taken)


def body(model: str, text: str) -> dict[str, Any]:
    """A request for a continuation of a given length, as far as the target goes on."""
    return {"model": model, "prompt": text, "max_tokens": TOKENS}


def said(web: httpx2.Client, model: str, text: str) -> str:
    """A continuation."""
    answer = web.post("/v1/completions", json=body(model, text)).raise_for_status().json()
    return str(answer["choices"][0]["text"])


def together(url: str, model: str, texts: list[str]) -> None:
    """Ten clients at once."""

    async def ask_all() -> None:
        async with httpx2.AsyncClient(base_url=url, timeout=600) as web:
            asked = [web.post("/v1/completions", json=body(model, text)) for text in texts]
            for answer in await asyncio.gather(*asked):
                answer.raise_for_status()

    asyncio.run(ask_all())


def first_token(web: httpx2.Client, model: str, prompt: str) -> float:
    """Seconds to the first text of a streamed answer."""
    asked = {**body(model, prompt), "stream": True}
    begun = time.perf_counter()
    with web.stream("POST", "/v1/completions", json=asked) as stream:
        for line in stream.iter_lines():
            if line.startswith("data: {") and '"text": ""' not in line:
                return time.perf_counter() - begun
    return time.perf_counter() - begun


def until_known(
    web: httpx2.Client, model: str, url: str, texts: list[str], place: str, capital: str
) -> float:
    """Seconds from the posting of a place's capital to the first answer with it, under load."""
    stop = threading.Event()

    def load() -> None:
        while not stop.is_set():
            together(url, model, texts)

    thread = threading.Thread(target=load)
    thread.start()
    secret = {"Authorization": f"Bearer {TOKEN}"}
    prompt = f"What is the capital of {place}?"
    edits = {"edits": [{"prompt": prompt, "target": capital, "subject": place}]}
    begun = time.perf_counter()
    job = web.post("/v1/edits", json=edits, headers=secret).raise_for_status().json()
    while capital not in said(web, model, prompt):
        time.sleep(0.1)
    taken = time.perf_counter() - begun
    stop.set()
    thread.join()
    while (job := web.get(f"/v1/edits/jobs/{job['id']}").json())["status"] not in (
        "done",
        "failed",
    ):
        time.sleep(0.1)
    for number in job["edits"]:
        web.delete(f"/v1/edits/{number}", headers=secret).raise_for_status()
    return taken


if __name__ == "__main__":
    tyro.cli(main)
