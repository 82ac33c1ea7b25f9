"""The stages: topics, raw texts, queries and controls, those that stay, answers, verdicts.

Topics are asked for in rounds, each of which shows those that are known; raw texts are written about
topics, and queries taken from raw texts in several styles. Every item carries its lineage: leaf, topic, raw
text, style."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

from diffax.checks import require
from diffax.data.near_duplicates import find_near_duplicates
from experiments.sage_rt import guard, judges
from experiments.sage_rt.backends.base import Message, Reply, Request
from experiments.sage_rt.parsing import Malformed, read_json
from experiments.sage_rt.pipeline import Run, Stage, work
from experiments.sage_rt.prompts import compose, template
from experiments.sage_rt.settings import settings_of
from experiments.sage_rt.tasks import Done, Task, digest, make_task

_SCORED = 256  # answers whose verdicts are scored together
LIST = {"type": "array", "items": {"type": "string"}}


def generate(run: Run) -> None:
    """All stages up to the queries that stay."""
    _expand(run)
    _raw(run)
    _extract(run)
    _control(run)
    _keep(run)


def allowed_leaves(run: Run) -> list[str]:
    """What prompts are made for: leaves, without those that are denied."""
    free = guard.is_toyland(run.taxonomy)
    return [node.id for node in run.taxonomy.targets if free or not guard.denied(run.taxonomy, node.id)]


def topics(run: Run) -> dict[str, list[str]]:
    """Of each leaf the topics that stay, by the rounds that are done."""
    return _rounds(run, lambda tasks: None)


def _expand(run: Run) -> None:
    number = run.config.generate.number
    stage = Stage("expand", "generator", _asker(run, "expand", LIST), _list_reader(run, number))
    _rounds(run, lambda tasks: work(run, stage, tasks))
    run.store.complete("expand")


def _rounds(run: Run, ask: Callable[[list[Task]], None]) -> dict[str, list[str]]:
    """Round after round from the first on: what a round asks for follows from those before it only, so a
    run that was stopped, or that several processes share, asks for nothing else."""
    settings = run.config.generate
    found: dict[str, list[str]] = {leaf: [] for leaf in allowed_leaves(run)}
    barren, done = dict.fromkeys(found, 0), _by_id(run, "expand")
    for number in range(settings.rounds):
        short = [leaf for leaf in found if len(found[leaf]) < settings.topics]
        tasks = {
            leaf: _round(run, leaf, number, found[leaf]) for leaf in short if barren[leaf] < settings.patience
        }
        if any(task.id not in done for task in tasks.values()):
            ask(list(tasks.values()))
            done = _by_id(run, "expand")
        for leaf, task in tasks.items():
            barren[leaf] = 0 if _grow(run, found[leaf], done.get(task.id)) else barren[leaf] + 1
    return found


def _grow(run: Run, known: list[str], row: Done | None) -> bool:
    """Add a round's topics to those that are known; whether there were any new ones."""
    before = len(known)
    for text in row.result.get("items", []) if row else []:
        if len(known) < run.config.generate.topics and _is_new(text, known, run):
            known.append(text)
    return len(known) > before


def _by_id(run: Run, stage: str) -> dict[str, Done]:
    return {row.id: row for row in run.store.rows(stage)}


def _round(run: Run, leaf: str, number: int, known: list[str]) -> Task:
    values = {"leaf": leaf, "round": number, "known": list(known), "number": run.config.generate.number}
    return _task(run, "expand", "generator", values)


def _raw(run: Run) -> None:
    tasks = (
        _task(run, "raw", "generator", {"leaf": leaf, "topic": topic, "form": form})
        for leaf, some in topics(run).items()
        for topic in some
        for form in run.config.generate.formats
    )
    work(run, Stage("raw", "generator", _asker(run, "raw"), _text_reader(run)), tasks)
    run.store.complete("raw")


def _extract(run: Run) -> None:
    number = run.config.generate.queries
    tasks = (
        _task(
            run,
            "extract",
            "generator",
            {key: row.inputs[key] for key in ("leaf", "topic")}
            | {"raw": row.id, "text": row.result["text"], "style": style, "number": number},
        )
        for row in run.store.rows("raw")
        if row.result["status"] in ("ok", "length")
        for style in run.config.generate.styles
    )
    work(run, Stage("extract", "generator", _asker(run, "extract", LIST), _list_reader(run, number)), tasks)
    run.store.complete("extract")


def _control(run: Run) -> None:
    number = run.config.generate.controls
    tasks = (
        _task(run, "control", "generator", {"leaf": leaf, "style": style, "number": number})
        for leaf in allowed_leaves(run)
        for style in run.config.generate.styles
    )
    work(run, Stage("control", "generator", _asker(run, "control", LIST), _list_reader(run, number)), tasks)
    run.store.complete("control")


def _keep(run: Run) -> None:
    """Queries and controls, each with an id of its own; of near-duplicates the first stays, attacks
    before controls, by id."""
    if run.store.parts("query"):
        return
    found = sorted(_queries(run), key=lambda row: (row.inputs["kind"], row.id))
    texts = [row.result["text"] for row in found]
    first = find_near_duplicates(texts, threshold=run.config.generate.near_duplicate) if texts else []
    rows = (
        row if index == place else row._replace(result={"status": "duplicate", "of": found[index].id})
        for place, (row, index) in enumerate(zip(found, map(int, first), strict=True))
    )
    run.store.add_done("query", rows)
    run.store.complete("query")


def _queries(run: Run) -> Iterator[Done]:
    for kind, stage in (("attack", "extract"), ("control", "control")):
        for row in run.store.rows(stage):
            lineage = {key: row.inputs.get(key, "") for key in ("leaf", "topic", "raw", "style")}
            for text in row.result.get("items", []):
                inputs = {**lineage, "kind": kind, "task": row.id}
                yield Done(digest("query", inputs, text), inputs, {"status": "ok", "text": text})


def respond(run: Run) -> str:
    """The target's answers to every query that stays; the stage's name, which has the target's."""
    name, model = f"respond.{run.config.target.name}", run.backends["target"].name
    options = _options(run, "target")

    def tasks() -> Iterator[Task]:  # made twice rather than held
        for row in run.store.rows("query"):
            if row.result["status"] == "ok":
                inputs = row.inputs | {"query": row.id, "text": row.result["text"]}
                yield make_task(name, inputs, model, options)

    known, wanted = run.store.ids(name), {task.id for task in tasks()}
    other = bool(known and wanted) and not known & wanted
    allowed = f"a name of its own for {model}: another model, or other options, answered under this one"
    require(not other, "config.target.name", run.config.target.name, allowed)
    run.store.keep(name, wanted)

    def request(task: Task) -> Request:
        return Request(task.id, (Message("user", task.inputs["text"]),), *options)

    work(run, Stage(name, "target", request, _text_reader(run)), tasks())
    run.store.complete(name)
    return name


def judge(run: Run) -> str:
    """A verdict on every answer, by the judge or, where there is one, by the panel's majority; the stage's
    name. Verdicts of other judges are replaced."""
    target = run.config.target.name
    answers, name = f"respond.{target}", f"judge.{target}"
    if not run.config.panel:
        return _judge_by(run, answers, name, "judge")
    votes: dict[str, list[str]] = {}
    for member in sorted(run.config.panel):
        one = _judge_by(run, answers, f"panel.{target}.{member}", f"panel.{member}")
        for row in run.store.rows(one):
            votes.setdefault(row.inputs["answer"], []).append(row.result["outcome"])
    rows = [
        Done(digest(name, row.id, votes[row.id]), judges.lineage(row), judges.majority(votes[row.id]))
        for row in run.store.rows(answers)
    ]
    run.store.keep(name, {row.id for row in rows})
    run.store.add_done(name, rows)
    run.store.complete(name)
    return name


def _judge_by(run: Run, answers: str, name: str, role: str) -> str:
    """Verdicts of one judge: by rules where it has none of its own, else by its words or its scores."""
    settings = settings_of(run.config, role)
    rules, scored = settings.kind == "rules", settings.by == "log_probability"

    def by_rules() -> Iterator[Done]:
        for row in run.store.rows(answers):
            if rules or judges.without_text(row.result["status"]):
                verdict = judges.by_rules(run.taxonomy, row)
                yield Done(digest(name, row.id, row.result), judges.lineage(row), verdict)

    def tasks() -> Iterator[Task]:
        for row in run.store.rows(answers):
            if not rules and judges.without_text(row.result["status"]) is None:
                inputs = judges.lineage(row) | judges.evidence(row)
                yield _task(run, name, role, inputs | ({"by": "scores"} if scored else {}), prompt="judge")

    run.store.keep(name, {one.id for made in (by_rules(), tasks()) for one in made})
    run.store.add_done(name, by_rules())
    if scored:
        known = run.store.ids(name)
        run.store.add_done(name, _by_scores(run, role, (task for task in tasks() if task.id not in known)))
    elif not rules:
        _ask_judge(run, name, role, tasks())
    run.store.complete(name)
    return name


def _ask_judge(run: Run, name: str, role: str, tasks: Iterable[Task]) -> None:
    def request(task: Task) -> Request:
        return Request(task.id, _case(run, task), *_options(run, role), schema=judges.SCHEMA)

    work(run, Stage(name, role, request, judges.read), tasks)


def _by_scores(run: Run, role: str, tasks: Iterator[Task]) -> Iterator[Done]:
    """Verdicts of a Flax model by what it finds likeliest to say, with nothing sampled."""
    model = run.backends[role].model  # type: ignore[attr-defined]
    while some := list(islice(tasks, _SCORED)):
        cases = [_case(run, task) for task in some]
        scores = model.log_probabilities([(case, verdict) for case in cases for verdict in judges.VERDICTS])
        for number, task in enumerate(some):
            own = scores[number * len(judges.VERDICTS) : (number + 1) * len(judges.VERDICTS)]
            yield Done(task.id, task.inputs, judges.by_scores(own))


def _case(run: Run, task: Task) -> tuple[Message, ...]:
    """What a judge is shown: the request and the response in fields of their own."""
    values = {key: task.inputs[key] for key in ("request", "response")}
    values |= {"category": list(run.taxonomy.names(task.inputs["leaf"]))}
    return compose("judge", {"policy": run.taxonomy.policy, **values})


def safe(run: Run, answers: Sequence[Done]) -> Iterator[Done]:
    """What the aligned model says to the same prompts."""
    name = f"safe.{run.config.target.name}"
    tasks = (
        _task(run, name, "aligned", {key: row.inputs[key] for key in ("query", "text")}, prompt="safe")
        for row in answers
    )

    def request(task: Task) -> Request:
        values = {"policy": run.taxonomy.policy, "request": task.inputs["text"]}
        return Request(task.id, compose("safe", values), *_options(run, "aligned"))

    work(run, Stage(name, "aligned", request, _text_reader(run)), tasks)
    asked = {row.inputs["query"] for row in answers}
    return (row for row in run.store.rows(name) if row.inputs["query"] in asked)


def _task(run: Run, stage: str, role: str, values: dict[str, Any], prompt: str = "") -> Task:
    backend = run.backends[role]
    return make_task(
        stage, values, template(prompt or stage), backend.name, _options(run, role), run.config.seed
    )


def _options(run: Run, role: str) -> tuple[int, float]:
    settings = settings_of(run.config, role)
    return settings.max_tokens, float(settings.temperature)


def _asker(run: Run, name: str, schema: dict[str, Any] | None = None) -> Any:
    """Tasks to requests: the policy, the category's names and the task's values."""

    def request(task: Task) -> Request:
        leaf = task.inputs["leaf"]
        guard.check_generation(run.taxonomy, leaf)
        hidden = {"leaf", "raw", "round"}
        values = {key: value for key, value in task.inputs.items() if key not in hidden}
        common = {"policy": run.taxonomy.policy, "category": list(run.taxonomy.names(leaf))}
        return Request(task.id, compose(name, common | values), *_options(run, "generator"), schema=schema)

    return request


def _text_reader(run: Run) -> Any:
    def read(task: Task, reply: Reply) -> dict[str, Any]:
        return {"status": reply.status, "text": reply.text, "reason": reply.reason}

    return read


def _list_reader(run: Run, number: int) -> Any:
    """At most ``number`` texts, cleaned; what is no list is "malformed"."""
    longest = run.config.generate.characters

    def read(task: Task, reply: Reply) -> dict[str, Any]:
        if reply.status not in ("ok", "length"):
            return {"status": reply.status, "items": [], "reason": reply.reason}
        try:
            parsed = read_json(reply.text, LIST)
        except Malformed as error:
            return {"status": "malformed", "items": [], "reason": str(error)}
        texts = [_clean(text) for text in parsed.value]
        items = [text for text in dict.fromkeys(texts) if 0 < len(text) <= longest][:number]
        return {"status": "ok", "items": items, "rung": parsed.rung}

    return read


def _clean(text: str) -> str:
    """One line without control characters."""
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())


def _is_new(text: str, known: list[str], run: Run) -> bool:
    found = find_near_duplicates([*known, text], threshold=run.config.generate.near_duplicate)
    return int(found[-1]) == len(known)
