"""What is wrong in a plan's text, in plain words: from the reader's and pydantic's errors to findings."""

from __future__ import annotations

import json
import re
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from hydraplan.plans.file.models import BACKING, MOST_DIGITS, FileObject, file_model
from hydraplan.plans.file.positions import DEEPEST, Lines, Oddity, escape, line_nested_deeper, nearest_line
from hydraplan.plans.language.errors import Finding
from hydraplan.plans.language.names import NAME, NAME_IN_WORDS, did_you_mean


def syntax_finding(error: json.JSONDecodeError) -> Finding:
    """A text that is no JSON."""
    remedy = "look there, and at the end of the line before, for a missing or spare comma, quote or bracket"
    if not error.doc[error.pos :].strip() and error.doc.strip():
        remedy = f"the file ends there, in the middle: restore its end; otherwise {remedy}"
    cause = f"not JSON: {error.msg[:1].lower()}{error.msg[1:]} at column {error.colno}"
    return Finding(pointer="", line=error.lineno, cause=cause, remedy=remedy)


def depth_finding(text: str) -> Finding:
    """A text that nests too deep to be read."""
    line = line_nested_deeper(text, DEEPEST)
    return Finding(pointer="", line=line, cause="nested too deep to be a plan", remedy="restore that line")


def oddity_finding(oddity: Oddity) -> Finding:
    if oddity.key is None:
        cause, remedy = f"{oddity.text} is no number of JSON", "write a finite number"
    else:
        cause = f"key {oddity.text} a second time in one object; it stands first in line {oddity.first_line}"
        remedy = "delete one of the two"
    return Finding(pointer=oddity.pointer, line=oddity.line, cause=cause, remedy=remedy)


def findings_of(error: ValidationError, data: object, lines: Lines) -> list[Finding]:
    """Every error of pydantic, at its place in the text; `data` is the text as plain JSON."""
    return [_finding(details, data, lines) for details in error.errors(include_url=False)]


def _finding(details: ErrorDetails, data: object, lines: Lines) -> Finding:
    if details["type"] == "json_invalid":  # pydantic reads more strictly: a half of a character, deep nesting
        cause, _, place = details["msg"].removeprefix("Invalid JSON: ").rpartition(" at line ")
        line = re.match(r"\d+", place)
        return Finding(
            pointer="", line=int(line[0]) if line else 1, cause=f"not JSON: {cause}", remedy="restore the line"
        )
    pointer, value = _place(details, data)
    cause, remedy = _words(details, value)
    return Finding(pointer=pointer, line=nearest_line(lines, pointer), cause=cause, remedy=remedy)


def _place(details: ErrorDetails, data: Any) -> tuple[str, object]:
    """Pointer and value of an error. pydantic's path also names the chosen members of unions: left out here."""
    pointer = ""
    for part in details["loc"]:
        found = part in data if isinstance(data, dict) else isinstance(data, list) and part in range(len(data))
        if found:
            data = data[part]
            pointer += f"/{escape(str(part))}"
    return pointer, data


def _words(details: ErrorDetails, value: object) -> tuple[str, str]:
    """Cause and remedy."""
    kind = details["type"]
    context = details.get("ctx", {})
    if kind == "string_pattern_mismatch":
        right = _PATTERNS.get(str(context["pattern"]), "what the schema says")
        return f"{_shown(value)} is not allowed here", f"write {right}"
    name = str(details["loc"][-1]) if details["loc"] else ""
    shown = _shown(value)
    if kind == "missing":
        return f'"{name}" is missing', f'add "{name}"'
    if kind == "extra_forbidden":
        return f'unknown key "{name}"', did_you_mean(name, _keys_at(details["loc"][:-1]))
    if kind == "union_tag_not_found":
        tag = str(context["discriminator"]).strip("'")
        return f'"{tag}" is missing' if isinstance(
            value, dict
        ) else f"expected an object, found {shown}", f'add "{tag}"'
    if kind == "union_tag_invalid":
        tags = [tag.strip("' ") for tag in str(context["expected_tags"]).split(",")]
        tag = str(context["discriminator"]).strip("'")
        return f'"{tag}" is "{context["tag"]}"', did_you_mean(str(context["tag"]), tags)
    if kind == "literal_error":
        allowed = str(context["expected"])
        if isinstance(value, str):
            options = [each.strip("' ") for each in allowed.replace(" or ", ",").split(",")]
            return f"{shown} is not one of {allowed}", did_you_mean(value, options)
        return f"{shown} is not one of {allowed}", f"write {allowed}"
    if kind == "greater_than_equal":
        return f"{shown} is too small", f"write a whole number from {context['ge']} on"
    if kind == "less_than_equal":
        return f"{shown} is too large", f"write a whole number up to {context['le']}"
    if kind in ("too_long", "too_short", "missing_argument"):
        return f"{shown} has not the right number of items", f"write {context.get('max_length', 2)} items"
    expected = _EXPECTED.get(kind)
    if expected is not None:
        return f"expected {expected}, found {shown}", f"write {expected}"
    return details["msg"][:1].lower() + details["msg"][1:], "see plans/schema.json for what is allowed here"


_PATTERNS = {NAME: NAME_IN_WORDS, BACKING: '"cpu" or "cuda:N"'}
_EXPECTED = {
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "int_parsing_size": "a smaller whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "string_type": "text in quotes",
    "bool_type": "true or false",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "an object",
    "model_type": "an object",
    "model_attributes_type": "an object",
    "argument_size": f"a number of no more than {MOST_DIGITS} digits",
    "argument": "null, true, false, a number, text or a list",
}


def _shown(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _keys_at(path: tuple[int | str, ...]) -> set[str]:
    """The keys that the object at a path of pydantic's may have."""
    candidates: list[type[BaseModel]] = [file_model()]
    for part in path:
        if isinstance(part, int):
            continue
        if any(part in model.model_fields for model in candidates):
            candidates = [
                inner
                for model in candidates
                if part in model.model_fields
                for inner in _models_in(model.model_fields[part].annotation)
            ]
        else:
            candidates = [model for model in candidates if part in _tags(model)]
    return {key for model in candidates for key in model.model_fields}


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, FileObject):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models_in(part)]


def _tags(model: type[BaseModel]) -> set[str]:
    return {
        str(tag)
        for name in ("op", "what")
        if name in model.model_fields
        for tag in get_args(model.model_fields[name].annotation)
    }
