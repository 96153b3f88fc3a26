"""Configuration: frozen, strict models whose attribute docstrings are the help texts."""

import difflib
from pathlib import Path
from typing import Any, Self

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from scoutview.base.errors import ConfigError


class Config(BaseModel):
    """Base of every configuration. Unknown keys are refused, values never change."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, validate_default=True
    )

    def model_post_init(self, context: Any) -> None:
        """Count `kind` as written: without it nobody can tell which of several configs this is."""
        if "kind" in type(self).model_fields:
            self.model_fields_set.add("kind")

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
            lines.append(f"{where or model.__name__}: {problem['msg']}, got {problem['input']!r}.")
    return f"{model.__name__}: " + " ".join(lines)


def _names(model: type[BaseModel], prefix: str = "") -> list[str]:
    names = []
    for name, field in model.model_fields.items():
        names.append(prefix + name)
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            names.extend(_names(kind, f"{prefix}{name}."))
    return names
