"""What the published data sets and people's own files call things: rows to records, by format."""

import re
from collections.abc import Iterable, Iterator
from typing import Any

from onceedit_jax.data.records import EditRecord, Pair
from onceedit_jax.data.rows import Row

# RippleEdits: the lists of tests of an edit, and what they test.
RIPPLES_LOCAL = ("Relation_Specificity", "Forgetfulness")
RIPPLES = (
    "Logical_Generalization",
    "Compositionality_I",
    "Compositionality_II",
    "Subject_Aliasing",
)
_COPULA = re.compile(r" (?:is|are) ")


def zsre(row: Row) -> list[EditRecord]:
    """MEND's ZsRE, as EasyEdit has it."""
    target, *accepted = row.texts("alt") or (row.text("alt"),)
    rephrase, *more = row.texts("rephrase") or (None,)
    return [
        EditRecord(
            prompt=row.text("src"),
            target=target,
            accepted=tuple(accepted),
            rephrase=rephrase,
            more_rephrases=tuple(more),
            locality=row.pair("loc", "loc_ans"),
            portability=_by_kind(row, "portability"),
            subject=row.text_or_none("subject"),
            true_answers=row.texts("answers"),
            source=row.place,
        )
    ]


def easyedit(row: Row) -> list[EditRecord]:
    """EasyEdit's requests and files: its Counterfact, KnowEdit's sets and its Sanitation."""
    target = row.either("target_new", "labels")
    answer, *accepted = row.texts(target) or (row.text(target),)
    keys = ("rephrase_prompt", "rephrase", "rephrase_prompts")
    rephrase, *more = [text for key in keys for text in row.texts(key)] or (None,)
    return [
        EditRecord(
            prompt=row.text(row.either("prompt", "text", "question")),
            target=answer,
            accepted=tuple(accepted),
            rephrase=rephrase,
            more_rephrases=tuple(more),
            locality=(
                *row.pair("locality_prompt", "locality_ground_truth"),
                *_by_kind(row, "locality"),
            ),
            portability=(
                *row.pair("portability_prompt", "portability_ground_truth"),
                *_by_kind(row, "portability"),
            ),
            subject=row.text_or_none(row.either("subject", "concept")),
            true_answers=row.texts("ground_truth"),
            source=row.place,
        )
    ]


def rome(row: Row) -> list[EditRecord]:
    """ROME's Counterfact; the prompts of its neighbours all have the edit's old answer."""
    edit = row.row("requested_rewrite")
    # `replace`, since other braces in a prompt are text.
    prompt = edit.text("prompt").replace("{}", edit.text("subject"))
    old = edit.row("target_true").texts("str")
    rephrase, *more = row.texts("paraphrase_prompts") or (None,)
    near = row.texts("neighborhood_prompts")
    return [
        EditRecord(
            prompt=prompt,
            target=edit.row("target_new").text("str"),
            rephrase=rephrase,
            more_rephrases=tuple(more),
            locality=tuple(Pair(text, old[0]) for text in near if old),
            subject=edit.text("subject"),
            true_answers=old,
            source=row.place,
        )
    ]


def wikibigedit(row: Row) -> list[EditRecord]:
    """WikiBigEdit; the question as a persona asks it is a kind of portability, as in EasyEdit."""
    target, *accepted = row.texts("ans") or (row.text("ans"),)
    rephrase, *more = row.texts("rephrase") or (None,)
    return [
        EditRecord(
            prompt=row.text("update"),
            target=target,
            accepted=tuple(accepted),
            rephrase=rephrase,
            more_rephrases=tuple(more),
            locality=row.pair("loc", "loc_ans"),
            portability=(
                *row.pair("mhop", "mhop_ans", kind="mhop"),
                *row.pair("personas", "ans", kind="personas"),
            ),
            subject=row.text_or_none("subject"),
            source=row.place,
        )
    ]


def rippleedits(row: Row) -> list[EditRecord]:
    """RippleEdits; an edit is one statement there, which is taken apart here."""
    edit = row.row("edit")
    local = {kind: list(_queries(row, kind)) for kind in RIPPLES_LOCAL}
    ripples = {kind: list(_queries(row, kind)) for kind in RIPPLES}
    statement = edit.text("prompt")
    before = edit.row(edit.either("original_fact", "previous_fact")).text_or_none("prompt")
    answers = _answers_by_id([*local.values(), *ripples.values()])
    known = answers.get(edit.values.get("target_id"), ())
    cut = _where_the_answer_begins(statement, before, known)
    if cut is None:
        raise edit.error(f"prompt is {statement!r}; expected a statement with is or are in it")
    prompt, target = statement[:cut].rstrip(), _without_stop(statement[cut:])
    return [
        EditRecord(
            prompt=prompt,
            target=target,
            accepted=tuple(text for text in known if text != target),
            locality=tuple(_pairs(local)),
            # An answer has to name all that is asked for, which no pair can say.
            portability=tuple(_pairs(ripples, single=True)),
            subject=_shared_subject(prompt, local["Relation_Specificity"]),
            true_answers=(_without_stop(before[cut:]),)
            if before and before.startswith(statement[:cut])
            else (),
            source=row.place,
        )
    ]


def mquake(row: Row) -> list[EditRecord]:
    """Every edit of a case is a record; the case's multi-hop questions go with the first."""
    answer, aliases = row.text("new_answer"), row.texts("new_answer_alias")
    hops = tuple(Pair(question, answer, aliases) for question in row.texts("questions"))
    told = {
        (hop.text_or_none("question"), hop.text_or_none("answer")): hop.texts("answer_alias")
        for hop in row.rows("new_single_hops")
    }
    records = []
    if not (edits := row.rows("requested_rewrite")):
        raise row.error("no requested_rewrite; expected the edits of the case")
    for n, edit in enumerate(edits):
        question, target = edit.text_or_none("question"), edit.row("target_new").text("str")
        records.append(
            EditRecord(
                prompt=edit.text("prompt").replace("{}", edit.text("subject")),
                target=target,
                accepted=told.get((question, target), ()),
                rephrase=question,
                portability=hops if n == 0 else (),
                subject=edit.text("subject"),
                true_answers=edit.row("target_true").texts("str"),
                source=edit.place,
            )
        )
    return records


def messages(row: Row) -> list[EditRecord]:
    """A conversation of one question and its answer."""
    turns = [(turn, turn.text("role"), turn.text("content")) for turn in row.rows("messages")]
    roles = [role for _, role, _ in turns]
    if roles != ["user", "assistant"]:
        raise row.error(
            f"messages have the roles {', '.join(roles) or 'of nobody'}; expected user, assistant: "
            "an edit is one question and its answer"
        )
    return [EditRecord(turns[0][2], turns[1][2], source=row.place)]


def alpaca(row: Row) -> list[EditRecord]:
    """An instruction with its output; an input stands in the line below the instruction."""
    lines = [row.text("instruction"), *([row.text("input")] if row.has("input") else [])]
    return [EditRecord("\n".join(lines), row.text("output"), source=row.place)]


def own(row: Row) -> list[EditRecord]:
    """People's own edits."""
    target, *accepted = row.texts("target") or (row.text("target"),)
    rephrase, *more = row.texts("rephrase") or (None,)
    return [
        EditRecord(
            prompt=row.text("prompt"),
            target=target,
            accepted=(*accepted, *row.texts("accepted")),
            rephrase=rephrase,
            more_rephrases=tuple(more),
            locality=_own_pairs(row, "locality"),
            portability=_own_pairs(row, "portability"),
            subject=row.text_or_none("subject"),
            aliases=row.texts("aliases"),
            true_answers=row.texts("true_answers"),
            source=row.place,
        )
    ]


def _own_pairs(row: Row, name: str) -> tuple[Pair, ...]:
    # CSV has no lists: one pair is in two columns.
    prompt, target = f"{name}_prompt", f"{name}_target"
    if row.has(prompt) or row.has(target):
        return (Pair(row.text(prompt), row.text(target)),)
    if isinstance(row.values.get(name), dict):
        return _by_kind(row, name)
    return tuple(_own_pair(item) for item in row.rows(name))


def _own_pair(item: Row) -> Pair:
    # QAEdit has this layout, but names the two after ZsRE.
    prompt, target = ("loc", "loc_ans") if item.has("loc") else ("prompt", "target")
    answer, *others = item.texts(target) or (item.text(target),)
    accepted = (*others, *item.texts("accepted"))
    return Pair(item.text(prompt), answer, accepted, item.text_or_none("kind") or "")


def _by_kind(row: Row, name: str) -> tuple[Pair, ...]:
    """The pairs under a key: those of each kind, or one pair without a kind.

    A pair without an answer is left out: it could not be scored.
    """
    if isinstance(row.values.get(name), list):
        return tuple(pair for item in row.rows(name) for pair in _easyedit_pairs(item, ""))
    inner = row.row(name)
    pairs = [*inner.pair("New Question", "New Answer"), *_easyedit_pairs(inner, "")]
    # A copy, so that what is no kind does not count as read.
    for kind, value in dict(inner.values).items():
        if kind in _PAIR_KEYS:
            continue
        if isinstance(value, dict):
            pairs += _easyedit_pairs(inner.row(kind), kind)
        elif isinstance(value, list):
            pairs += [pair for item in inner.rows(kind) for pair in _easyedit_pairs(item, kind)]
    return tuple(pairs)


_PROMPTS, _ANSWERS = ("prompt", "loc", "question"), ("ground_truth", "target", "loc_ans", "answer")
_PAIR_KEYS = frozenset({*_PROMPTS, *_ANSWERS, "New Question", "New Answer", "Recalled Relation"})


def _easyedit_pairs(item: Row, kind: str) -> Iterator[Pair]:
    """A prompt with its answers; or, as EasyEdit's requests have them, lists of both."""
    prompt, target = item.either(*_PROMPTS), item.either(*_ANSWERS)
    if not isinstance(item.values.get(prompt), list):
        yield from item.pair(prompt, target, kind=kind)
        return
    asked, told = item.values[prompt], item.values.get(target)
    if not isinstance(told, list) or len(told) != len(asked):
        raise item.error(f"{prompt} is a list; expected {target} to be a list as long")
    for question, answer in zip(asked, told, strict=True):
        yield from Row(item.place, {prompt: question, target: answer}).pair(
            prompt, target, kind=kind
        )


Query = tuple[str, list[list[str]], Any]  # of RippleEdits: prompt, names of each answer, ids


def _queries(row: Row, kind: str) -> Iterator[Query]:
    """The queries of a list of RippleEdits' tests that have an answer."""
    for test in row.rows(kind):
        for query in test.rows("test_queries"):
            answers = []
            for answer in query.rows("answers"):
                texts = (*answer.texts("value"), *answer.texts("aliases"))
                # As there: single letters are no answers.
                answers.append([text for text in texts if len(text) > 1 or text.isdigit()])
            # Of two hops, `target_ids` is what the first one leads to.
            two_hops = query.text_or_none("query_type") == "two_hop"
            ids = query.values.get("second_hop_target_ids" if two_hops else "target_ids")
            prompt = query.text_or_none("prompt")
            if prompt and any(answers):
                yield prompt, answers, ids


def _pairs(tests: dict[str, list[Query]], *, single: bool = False) -> Iterator[Pair]:
    """The queries as pairs; perhaps only those with a single answer, whatever its names."""
    for kind, queries in tests.items():
        for prompt, answers, _ in queries:
            if single and len(answers) > 1:
                continue
            first, *others = dict.fromkeys(text for each in answers for text in each)
            yield Pair(prompt, first, tuple(others), kind)


def _answers_by_id(tests: Iterable[list[Query]]) -> dict[Any, list[str]]:
    """The names of the things that are answers to queries, by their ids."""
    found: dict[Any, list[str]] = {}
    for queries in tests:
        for _, answers, ids in queries:
            if isinstance(ids, list) and len(ids) == len(answers):
                found.update((key, texts) for key, texts in zip(ids, answers, strict=True) if texts)
    return found


def _where_the_answer_begins(
    statement: str, before: str | None, known: Iterable[str]
) -> int | None:
    """Where the object of "The mother of Ada is Eve." begins; None without is or are.

    Subject and object may hold these words too. The statement of the fact before the edit has the
    same beginning, and a test may have the object's name.
    """
    for name in known:
        if _without_stop(statement).endswith(f" {name}"):
            return len(_without_stop(statement)) - len(name)
    ends = [found.end() for found in _COPULA.finditer(statement)]
    shared = [end for end in ends if before and before.startswith(statement[:end])]
    places = shared or ends
    return places[-1] if places else None


def _without_stop(text: str) -> str:
    return text.strip().removesuffix(".")


def _shared_subject(prompt: str, queries: Iterable[Query]) -> str | None:
    """The subject of a prompt: what follows "of" in it and in other prompts about it."""
    subject = _COPULA.split(f"{prompt} ")[0] if _COPULA.search(f"{prompt} ") else prompt
    ends = [subject[found.end() :] for found in re.finditer(r" of ", subject)]
    others = [other for other, _, _ in queries if other != prompt]
    shared = [end for end in ends if others and all(f" of {end} " in f"{o} " for o in others)]
    return shared[0] if shared else None
