"""What no schema can say about a hand-off document: names of real people, roles that point at outputs, widths that agree."""

import re
from collections.abc import Iterable, Iterator
from datetime import datetime

from models.document import Document, Model, Trainer

_STOCK_WORDS = """
todo tbd fixme xxx n/a na none null nil unknown anonymous anon nobody noone someone somebody me myself you user username admin root
name yourname fullname firstname lastname firstnamelastname trainer author owner person scientist placeholder example sample test tester
foo bar baz foobar qwerty asdf changeme johndoe janedoe johnsmith loremipsum dummy
"""
PLACEHOLDERS = frozenset(_STOCK_WORDS.split())
"""Words people write where a name should be, compared without case, blanks and punctuation."""

Fault = tuple[str, str, str]
"""(field, what must hold and what was found, what to do)."""


def is_placeholder(name: str) -> bool:
    """Return whether ``name`` names nobody: a stock word, one character again and again, or no letters.

    >>> is_placeholder("TODO: your name"), is_placeholder("Xxxx"), is_placeholder("Vera Rubin")
    (True, True, False)
    """
    letters = re.sub(r"[\W_\d]+", "", name).casefold()
    words = {re.sub(r"[\W_]+", "", word).casefold() for word in name.split()}
    return len(set(letters)) < 2 or letters in PLACEHOLDERS or bool(words & {"todo", "tbd", "fixme", "xxx", "placeholder"})


def meaning_faults(document: Document) -> list[Fault]:
    """Return what is wrong with a document that has the right form."""
    return [*trainer_faults(document.trainer), *_words(document), *_moment(document.created), *model_faults(document.model)]


def trainer_faults(trainer: Trainer) -> Iterator[Fault]:
    """Yield what is wrong with the trainer's name and address."""
    if is_placeholder(trainer.name):
        yield "trainer.name", f"must be a person's name, found {trainer.name!r}", "write who trained the model"
    if is_placeholder(trainer.email.split("@")[0]):
        yield "trainer.email", f"must be a person's address, found {trainer.email!r}", "write where the trainer can be reached"


def _words(document: Document) -> Iterator[Fault]:
    for field in ("purpose", "not_for"):
        if is_placeholder(text := getattr(document, field)):
            yield field, f"must say something, found {text!r}", "write one sentence"


def _moment(created: str) -> Iterator[Fault]:
    try:
        datetime.fromisoformat(created)
    except ValueError as problem:
        yield "created", f"must be a moment in UTC, found {created!r} ({problem})", "write it like 2026-01-31T23:59:59Z"


def model_faults(model: Model) -> Iterator[Fault]:
    """Yield what is wrong with the declared form of the model: names given twice, roles and classes that fit no output."""
    for field, specs in (("model.inputs", model.inputs), ("model.outputs", model.outputs)):
        if twice := _twice(spec.name for spec in specs):
            yield field, f"must have different names, found {twice} twice", "rename one"
    outputs = {spec.name: spec for spec in model.outputs}
    for role, name in model.roles.items():
        if name not in outputs:
            yield f"model.roles.{role}", f"must be one of the outputs {list(outputs)}, found {name!r}", "name an output"
        elif fault := _ill_shaped(role, outputs[name].shape, model):
            yield f"model.roles.{role}", fault, "give the role to another output, or declare the right shape"
    yield from _class_faults(model)


def _class_faults(model: Model) -> Iterator[Fault]:
    if twice := _twice(model.classes):
        yield "model.classes", f"must be different, found {twice} twice", "rename one"
    if model.classes and "class_probabilities" not in model.roles:
        yield "model.classes", "need an output in the role class_probabilities", "add the role, or leave the classes out"
    if model.score_threshold is not None and "score" not in model.roles:
        yield "model.score_threshold", "needs an output in the role score", "add the role, or leave the threshold out"


def _ill_shaped(role: str, shape: tuple[int, ...], model: Model) -> str:
    if role in ("score", "chi2") and shape != (-1,):
        return f"must be one number per row (shape [-1]), found shape {list(shape)}"
    if role == "class_probabilities" and shape != (-1, len(model.classes)):
        return f"must have one column for each of the {len(model.classes)} classes {list(model.classes)}, found shape {list(shape)}"
    if role == "reconstruction" and shape not in [spec.shape for spec in model.inputs]:
        return f"must have the shape of an input, found shape {list(shape)}"
    return ""


def _twice(names: Iterable[str]) -> list[str]:
    seen: list[str] = list(names)
    return sorted({name for name in seen if seen.count(name) > 1})
