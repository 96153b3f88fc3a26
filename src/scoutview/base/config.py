"""Configuration: frozen, strict models whose attribute docstrings are the help texts."""

import difflib
from pathlib import Path
from typing import Any, Final, Self

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    ModelWrapValidatorHandler,
    ValidationError,
    model_validator,
)
from pydantic_core import ErrorDetails

from scoutview.base.errors import ConfigError

_OWN_WORDS: Final = ("value_error", "assertion_error")
"""Types of errors whose text comes from a validator of ours."""


class Config(BaseModel):
    """Base of every configuration. Unknown keys are refused, values never change.

    A group of settings may be written in part: what is left out is as in the group's default. An
    object is taken as it is.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, validate_default=True
    )

    def model_post_init(self, context: Any) -> None:
        """Count `kind` as written: without it nobody can tell which of several configs this is."""
        if "kind" in type(self).model_fields:
            self.model_fields_set.add("kind")

    @model_validator(mode="wrap")
    @classmethod
    def _complete(cls, values: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        if not isinstance(values, dict):
            return handler(values)
        defaults = {name: field.default for name, field in cls.model_fields.items()}
        groups = {
            name: default
            for name, default in defaults.items()
            if name in values and isinstance(default, Config)
        }
        whole = {name: _over(default, values[name]) for name, default in groups.items()}
        made = handler({**values, **whole})
        for name in groups:
            _forget_defaults(getattr(made, name), values[name])
        return made

    def over(self, default: "Config") -> "Config":
        """Take what was not written from another default of this group.

        Raises:
            ConfigError: What was written does not go with the default.
        """
        written = self.model_dump(exclude_unset=True)
        if not _same_kind(default, written):
            return self
        made = type(default).build(_over(default, written))
        _forget_defaults(made, written)
        return made

    @classmethod
    def build(cls, values: dict[str, Any]) -> Self:
        """Validate plain values, as read from a file.

        Raises:
            ConfigError: A key is unknown (with the nearest known one) or a value is out of range.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise ConfigError(_explain(cls, error)) from error

    def written(self) -> dict[str, Any]:
        """Return what was written, as plain values: what `build` turns into the same again.

        A full dump would not do: built from it, every default counts as the user's wish, which
        nothing may lower or replace.
        """
        return self.model_dump(mode="json", exclude_unset=True)

    @classmethod
    def load(cls, file: str | Path | None, overrides: dict[str, str] | None = None) -> Self:
        """Build from a YAML or JSON file and dotted overrides such as {"views.size": "32"}.

        Raises:
            ConfigError: The file cannot be read or is not a mapping, a key is unknown or a value
                out of range.
        """
        values: dict[str, Any] = {}
        if file is not None:
            loaded = _read(Path(file))
            if not isinstance(loaded, dict):
                raise ConfigError(f"{file}: expected keys and values, got {type(loaded).__name__}.")
            values = loaded
        for dotted, text in (overrides or {}).items():
            _set(values, dotted.split("."), _parsed(text, dotted))
        return cls.build(values)


def _same_kind(default: Config, written: dict[str, Any]) -> bool:
    kind = getattr(default, "kind", None)
    return kind is None or written.get("kind", kind) == kind


def _over(default: Config, written: Any) -> Any:
    """Lay what was written for a group over its default; another kind starts from its own."""
    if isinstance(written, Config):
        return _wholly_written(written, default)
    if not isinstance(written, dict) or not _same_kind(default, written):
        return written
    whole = {name: getattr(default, name) for name in type(default).model_fields}
    fields = type(default).model_fields
    values = {
        name: value
        for name, value in whole.items()
        if name == "kind" or value != fields[name].default
    }
    return values | {
        name: _over(whole[name], value) if isinstance(whole.get(name), Config) else value
        for name, value in written.items()
    }


def _wholly_written(group: Config, default: Any) -> Config:
    """Count all as written in which an object differs from the default of its place.

    One of several kinds is written as a whole: its default may give way to another kind.
    """
    alike = type(group) is type(default) and not hasattr(group, "kind")
    values = {name: getattr(group, name) for name in type(group).model_fields}
    usual = {name: getattr(default, name) if alike else None for name in values}
    changed = {
        name: _wholly_written(value, usual[name]) if isinstance(value, Config) else value
        for name, value in values.items()
        if name in group.model_fields_set or value != usual[name] or not alike
    }
    return group.model_copy(update=changed)


def _forget_defaults(group: Any, written: Any) -> None:
    """Count as written only what was, in a group that was completed from its default."""
    if isinstance(group, Config) and isinstance(written, dict):
        group.model_fields_set.intersection_update(written)
        for name in group.model_fields_set:
            _forget_defaults(getattr(group, name), written[name])


def _read(file: Path) -> Any:
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: no settings can be read there; check the path.") from error
    return _parsed(text, str(file))


def _parsed(text: str, origin: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{origin}: expected YAML or JSON; {_place(error)}.") from error


def _place(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    what = getattr(error, "problem", None) or "it cannot be parsed"
    return f"line {mark.line + 1}: {what}" if mark is not None else str(what)


def _set(values: dict[str, Any], path: list[str], value: Any) -> None:
    for key in path[:-1]:
        values = values.setdefault(key, {})
        if not isinstance(values, dict):
            raise ConfigError(f"{'.'.join(path)}: {key!r} is a value, not a group of settings.")
    values[path[-1]] = value


def _explain(model: type[BaseModel], error: ValidationError) -> str:
    lines = []
    for problem in error.errors():
        where = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            near = difflib.get_close_matches(where, _names(model), n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            lines.append(f"Unknown setting {where!r}.{hint}")
        elif problem["type"] == "union_tag_not_found":
            lines.append(f"{where}: several kinds are possible; say {where}.kind as well.")
        else:
            lines.append(_refused(where, problem))
    return f"{model.__name__}: " + " ".join(lines)


def _refused(where: str, problem: ErrorDetails) -> str:
    """Say what a value must be and what came; a rule over a whole group says both itself."""
    text = problem["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
    place = f"{where}: " if where else ""
    whole = isinstance(problem["input"], dict | Config) or ", got " in text
    if whole and problem["type"] in _OWN_WORDS:
        return f"{place}{text.rstrip('.')}."
    return f"{place}{text.rstrip('.')}, got {problem['input']!r}."


def _names(model: type[BaseModel], prefix: str = "") -> list[str]:
    names = []
    for name, field in model.model_fields.items():
        names.append(prefix + name)
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            names.extend(_names(kind, f"{prefix}{name}."))
    return names
