"""Write the tables of methods and tasks into README.md and docs/methods/index.md.

Run it after adding a method or a task: `python tools/generate_tables.py`. Everything comes from
the registries, the docstrings, the pages in docs/methods and the golden cases; with `--check` it
writes nothing and fails if a file is out of date.
"""

import ast
import json
import re
import sys
from importlib.util import find_spec
from pathlib import Path

from scoutview.methods import METHODS
from scoutview.tasks import TASKS

ROOT = Path(__file__).parent.parent
PAGES = ROOT / "docs" / "methods"
GOLDEN = ROOT / "tests" / "golden"
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
            found.setdefault(name, []).append(key.value)
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
