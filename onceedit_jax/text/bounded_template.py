"""Render the chat templates of others within bounds of steps and memory.

A template is a program. transformers runs it in a sandbox, which keeps it from files and code, but
not from loops without end, or from texts of gigabytes that one multiplication makes. Here every
turn of a loop and every call counts, and so does what it makes, before it is made where its size
follows from the arguments.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from typing import Any

from jinja2 import Environment, Template, nodes
from jinja2.compiler import CodeGenerator, Frame
from jinja2.exceptions import SecurityError
from jinja2.sandbox import ImmutableSandboxedEnvironment

_STEPS = 200_000  # real templates take some dozens for a turn
_MADE = 1 << 24  # characters and items; the conversation comes on top
_LARGEST = 1 << 16  # of the numbers that are given to a function: widths, counts
_DIGITS = 10_000  # of a number, in bits
# Filters that give items as they are, or none.
_OF_ITEMS = frozenset(
    """
    attr batch count d default dictsort first groupby items last length list map max min random
    reject rejectattr reverse select selectattr slice sort unique
    """.split()  # noqa: SIM905
)
_WIDTH = re.compile(r"%(\([^)]*\))?[-+ #0-9.]*(\d{5}|\*)|\{[^{}]*\d{5}")


class _Budget:
    """What a template may still do."""

    def __init__(self, size: int) -> None:
        """Begin with what a conversation of so many characters may take."""
        self.steps, self.made = _STEPS + size, _MADE + 256 * size

    def step(self) -> None:
        self.steps -= 1
        if self.steps < 0:
            raise SecurityError(f"it takes more than {_STEPS:,} steps")

    def make(self, size: int) -> None:
        self.made -= size
        if self.made < 0:
            raise SecurityError(f"it makes more than {_MADE:,} characters")


_budget: ContextVar[_Budget] = ContextVar("_budget")


class BoundedTemplate:
    """A chat template that ends, and whose texts fit memory.

    Raises:
        jinja2.TemplateError: It is no template, or one that takes too much when it is compiled.
    """

    def __init__(self, text: str) -> None:
        # Its filters and functions are those of transformers; imported here, as that takes seconds.
        from transformers.utils.chat_template_utils import _compile_jinja_template

        theirs: Environment = _compile_jinja_template("").environment
        ours = _Bounded(
            trim_blocks=theirs.trim_blocks,
            lstrip_blocks=theirs.lstrip_blocks,
            extensions=[type(each) for each in theirs.extensions.values()],
            finalize=_Bounded.written,
        )
        ours.filters |= {name: _bounded(name, each) for name, each in theirs.filters.items()}
        ours.globals |= {name: theirs.globals[name] for name in theirs.globals}
        del ours.globals["lipsum"]  # writes as many random words as it is told
        _budget.set(_Budget(0))  # constants are computed when it is compiled
        self._template: Template = ours.from_string(text)

    def render(self, variables: Mapping[str, Any], *, size: int) -> str:
        """The text that it writes.

        Args:
            variables: What it knows.
            size: Characters of the conversation.

        Raises:
            jinja2.TemplateError: It takes too much, or refuses.
        """
        _budget.set(_Budget(size))
        return self._template.render(variables)


class _Generator(CodeGenerator):
    """Lets the environment join and cut texts, which it cannot intercept otherwise."""

    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:
        self.write("environment.joined((")
        for each in node.nodes:
            self.visit(each, frame)
            self.write(", ")
        self.write("))")

    def visit_Getitem(self, node: nodes.Getitem, frame: Frame) -> None:
        if isinstance(node.arg, nodes.Slice):
            self.write("environment.counted(")
            super().visit_Getitem(node, frame)
            self.write(")")
        else:
            super().visit_Getitem(node, frame)


class _Bounded(ImmutableSandboxedEnvironment):
    """A sandbox that counts steps, and what is made."""

    code_generator_class = _Generator
    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        for loop in tree.find_all(nodes.For):
            count = nodes.Call(nodes.EnvironmentAttribute("step"), [], [], None, None)
            loop.body.insert(0, nodes.ExprStmt(count).set_lineno(loop.lineno))
        tree.set_environment(self)
        return tree

    def step(self) -> None:
        """Count a turn of a loop; the call itself has counted."""

    def call(self, context: Any, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Call something that the sandbox lets a template call."""
        budget = _budget.get()
        budget.step()
        method = getattr(obj, "__wrapped__", obj)  # the sandbox has a `format` of its own
        owner, name = getattr(method, "__self__", None), getattr(method, "__name__", "")
        if isinstance(owner, str):
            budget.make(_size_of_call(name, (owner, *args), kwargs))
        else:
            _check_arguments((*args, *kwargs.values()))
        return _counted(super().call(context, obj, *args, **kwargs))

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Add, multiply, raise to a power, or format."""
        budget = _budget.get()
        budget.step()
        match operator:
            case "+" if not isinstance(left, int | float):
                budget.make(_length(left) + _length(right))
            case "*" if isinstance(left, int) and isinstance(right, int):
                _check_digits(left.bit_length() + right.bit_length())
            case "*":
                for many, count in ((left, right), (right, left)):
                    if isinstance(count, int):
                        budget.make(_length(many) * max(count, 0))
            case "**" if isinstance(left, int) and isinstance(right, int):
                _check_digits(left.bit_length() * abs(right))
            case "%" if isinstance(left, str):
                budget.make(_size_of_call("format", (left, right), {}))
        return super().call_binop(context, operator, left, right)

    def joined(self, parts: Iterable[Any]) -> str:
        """The text of `~`."""
        return "".join(str(self.written(part)) for part in parts)

    @staticmethod
    def written(value: Any) -> Any:
        """What is written, counted."""
        _budget.get().make(_written(value))
        return value

    @staticmethod
    def counted(made: Any) -> Any:
        """A part of a text or list, counted."""
        return _counted(made)

    @staticmethod
    def concat(parts: Iterable[str]) -> str:
        """Join the parts of an output."""
        budget, kept = _budget.get(), []
        for part in parts:
            budget.make(len(part))
            kept.append(part)
        return "".join(kept)


def _bounded(name: str, act: Callable[..., Any]) -> Callable[..., Any]:
    """A filter that counts."""

    @functools.wraps(act)
    def filtered(*args: Any, **kwargs: Any) -> Any:
        budget = _budget.get()
        budget.step()
        passed = int(hasattr(act, "jinja_pass_arg"))  # the environment, say
        own = [_held(each) for each in args[passed:]]
        budget.make(_size_of_call(name, own, kwargs))
        return _counted(act(*args[:passed], *own, **kwargs))

    return filtered


def _held(value: Any) -> Any:
    """A value; what comes one by one as a list, so that it can be counted."""
    if not isinstance(value, Iterator):
        return value
    held: list[Any] = []
    for each in value:
        _budget.get().step()
        held.append(each)
    return held


def _size_of_call(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> int:
    """What a method or filter makes at most; what it works on is the first argument."""
    further = (*args[1:], *kwargs.values())
    _check_arguments(further)
    if name in _OF_ITEMS:
        return 0
    texts = [each for each in (*args, *kwargs.values()) if isinstance(each, str)]
    if name in ("format", "format_map") and any(map(_WIDTH.search, texts[:1])):
        raise SecurityError(f"it formats to a width: {texts[0][:60]!r}")
    if name == "sum" and not all(isinstance(each, int | float | str) for each in further):
        raise SecurityError("it sums what are no numbers")
    whole = sum(map(_written, (*args, *kwargs.values())))
    longest, items = max(map(len, texts), default=0), max(map(_length, args), default=0)
    if name == "replace" and len(texts) == 3:
        return whole + texts[0].count(texts[1]) * len(texts[2])
    if name in ("join", "replace", "translate", "wordwrap"):
        return whole + items * longest
    numbers = [abs(each) for each in further if isinstance(each, int)]
    lines = 1 + (texts[0].count("\n") if texts else 0)
    return whole + lines * max(numbers, default=0)


def _check_arguments(values: Iterable[Any]) -> None:
    for value in values:
        if isinstance(value, int | float) and abs(value) > _LARGEST:
            raise SecurityError(f"it gives a function the number {value:.6g}")


def _check_digits(bits: int) -> None:
    if bits > _DIGITS:
        raise SecurityError(f"it computes a number of {bits:,} bits")


def _counted(made: Any) -> Any:
    _budget.get().make(_length(made))
    return made


def _length(value: Any) -> int:
    return len(value) if isinstance(value, str | list | tuple | dict) else 0


def _written(value: Any) -> int:
    """About the characters of a value that is written, with all that is in it."""
    if isinstance(value, str):
        return len(value)
    budget, size, level = _budget.get(), 0, [value]
    while level:
        found = level.pop()
        size += 8 + (len(found) if isinstance(found, str) else 0)
        if size > budget.made:
            budget.make(size)
        if isinstance(found, dict):
            level += [*found, *found.values()]
        elif isinstance(found, list | tuple):
            level += found
    return size
