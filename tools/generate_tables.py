"""Write the tables of methods and tasks, and the defaults on the methods' pages.

Run it after adding a method or a task: `python tools/generate_tables.py`. Everything comes from
the registries, the docstrings, the pages in docs/methods and the golden cases; with `--check` it
writes nothing and fails if a file is out of date.
"""

import ast
import json
import re
import sys
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from scoutview.methods import METHODS, config_class
from scoutview.tasks import TASKS

ROOT = Path(__file__).parent.parent
PAGES = ROOT / "docs" / "methods"
GOLDEN = ROOT / "tests" / "golden"
_CUTS = frozenset(
    [
        "counts",
        "crops",
        "size",
        "sizes",
        "scale",
        "scales",
        "fit",
        "grid",
        "cell_size",
        "patch_size",
        "patch_scale",
    ]
)
"""Settings of views that the pages show even where they are the views' own defaults."""
BEGIN = "<!-- begin: made by tools/generate_tables.py -->"
END = "<!-- end -->"

INTRODUCTION = """# Methods and tasks

One page per method: the idea, the defaults, what it costs, where it departs from the paper, and
when to choose it. *ready* means: it runs from the command line; two processes give the gradient of
one; a run that was killed and resumed is equal to the bit; where the authors' code is public, its
numbers are reproduced ("golden cases"). [Add a method](../how-to/add-a-method.md) shows how to
write one.
"""


def first_sentence(module: str) -> str:
    """What the docstring of a module says first, without the name before the colon."""
    spec = find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    doc = ast.get_docstring(ast.parse(Path(spec.origin).read_text(encoding="utf-8"))) or ""
    line = " ".join(doc.partition("\n\n")[0].split())
    sentence = line.partition(": ")[2] or line
    return sentence.rstrip(".")


def title(name: str) -> str:
    """Heading of a method's page."""
    page = PAGES / f"{name}.md"
    if not page.is_file():
        raise SystemExit(f"{page} is missing: every method has a page.")
    return page.read_text(encoding="utf-8").splitlines()[0].removeprefix("# ")


def source(name: str) -> str:
    """Link to the paper, as the method's page has it."""
    text = (PAGES / f"{name}.md").read_text(encoding="utf-8")
    links = re.findall(r"\[arXiv:[\d.]+\]\(\S+?\)", text)
    if not links:
        raise SystemExit(f"docs/methods/{name}.md names no paper; write [arXiv:...](...).")
    return str(links[0])


def folders() -> dict[str, list[str]]:
    """Folders of golden cases of every method, as the tests' `ADAPTERS` declares them."""
    tree = ast.parse((GOLDEN / "test_golden.py").read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "ADAPTERS":
            assert isinstance(node.value, ast.Dict)
            break
    else:
        raise SystemExit("tests/golden/test_golden.py has no ADAPTERS; see its docstring.")
    found: dict[str, list[str]] = {}
    for key, value in zip(node.value.keys, node.value.values, strict=True):
        assert isinstance(key, ast.Constant)
        assert isinstance(value, ast.Tuple)
        for name in ast.literal_eval(value.elts[0]).split():
            found.setdefault(name, []).append(str(key.value))
    return found


def golden(name: str) -> str:
    """How many golden cases a method has, and whose code they come from."""
    cases = [case for folder in folders().get(name, []) for case in _cases(folder)]
    if not cases:
        return "-"
    references = [json.loads(case.read_text(encoding="utf-8"))["reference"] for case in cases]
    repositories = dict.fromkeys(one["repository"] for reference in references for one in reference)
    return f"{len(cases)}: {', '.join(repositories)}"


def _cases(folder: str) -> list[Path]:
    return sorted((GOLDEN / folder).glob("*.json"))


def shown(value: Any) -> str:
    """A default as the pages have it.

    Of a group of settings stands what differs from the group's own defaults, and of views where
    they are cut as well; settings inside their parts stand without the names of the parts.
    """
    if isinstance(value, tuple):
        inside = ", ".join(map(shown, value))
        return f"({inside},)" if len(value) == 1 else f"({inside})"
    if not isinstance(value, BaseModel):
        return str(value)
    parts = []
    for name, field in type(value).model_fields.items():
        part = getattr(value, name)
        same = not field.is_required() and part == field.get_default(call_default_factory=True)
        if same and name not in _CUTS:
            continue
        entries = part if isinstance(part, tuple) else (part,)
        if any(isinstance(entry, BaseModel) for entry in entries):
            each = [f"({', '.join(leaves(entry))})" for entry in entries]
            runs = [(len(list(run)), text) for text, run in groupby(each)]
            parts.append(f"{name} " + " ".join(f"{n} x {s}" if n > 1 else s for n, s in runs))
        else:
            parts.append(f"{name} {shown(part)}")
    return type(value).__name__ + (f"({', '.join(parts)})" if parts else "")


def leaves(value: Any) -> list[str]:
    """Settings inside a group, at any depth, that differ from the groups' own defaults."""
    if isinstance(value, tuple):
        return [leaf for entry in value for leaf in leaves(entry)]
    found: list[str] = []
    for name, field in type(value).model_fields.items() if isinstance(value, BaseModel) else ():
        part = getattr(value, name)
        if isinstance(part, BaseModel):
            found += leaves(part)
        elif field.is_required() or part != field.get_default(call_default_factory=True):
            found.append(f"{name} {shown(part)}")
    return found


def with_defaults(name: str) -> str:
    """The page of a method with the defaults of the code in its table."""
    page, config = PAGES / f"{name}.md", config_class(name)()
    text = page.read_text(encoding="utf-8")
    for field in type(config).model_fields:
        row = re.compile(rf"^(\| `{field}` \| )[^|\n]*( \|)", re.MULTILINE)
        if len(row.findall(text)) != 1:
            raise SystemExit(f"{page} needs one row `{field}` in its table of defaults.")
        default = shown(getattr(config, field))
        text = row.sub(rf"\g<1>{default}\g<2>", text)
    return text


def tables(prefix: str) -> str:
    """Both tables.

    Args:
        prefix: From the file that receives them to docs/methods, as "docs/methods/".
    """
    lines = [
        "| method | in one sentence | paper | golden cases | state |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, (module, _, _) in METHODS.items():
        cells = (
            f"[{title(name)}]({prefix}{name}.md) `{name}`",
            first_sentence(module),
            source(name),
            golden(name),
            "ready",
        )
        lines.append("| " + " | ".join(cells) + " |")
    lines += ["", "| task | in one sentence | state |", "| --- | --- | --- |"]
    for name, place in TASKS.items():
        lines.append(f"| `{name}` | {first_sentence(place.split(':')[0])} | ready |")
    return "\n".join(lines)


def contents() -> dict[Path, str]:
    """What every generated file should hold."""
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"{readme} needs the markers {BEGIN} and {END}.")
    return {
        readme: f"{before}{BEGIN}\n{tables('docs/methods/')}\n{END}{after}",
        PAGES / "index.md": f"{INTRODUCTION}\n{tables('')}\n",
        **{PAGES / f"{name}.md": with_defaults(name) for name in METHODS},
    }


def main() -> int:
    """Write the files, or with `--check` name those that are out of date."""
    check, stale = "--check" in sys.argv[1:], []
    for path, text in contents().items():
        if path.is_file() and path.read_text(encoding="utf-8") == text:
            continue
        stale.append(path.relative_to(ROOT))
        if not check:
            path.write_text(text, encoding="utf-8")
    for name in stale:
        print(f"{'out of date' if check else 'written'}: {name}")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
