"""A mkdocs hook: writes the reference pages from the package's docstrings, without importing it."""

import ast
from pathlib import Path
from typing import Any

ROOMS = (
    "api", "recipes", "methods", "tasks", "contract", "train", "views", "data", "nn", "results",
    "stats", "index", "store", "pixels", "base",
)  # fmt: skip
"""Folders of the package, and one module."""
SOURCE = Path(__file__).parents[2] / "src" / "scoutview"


def on_pre_build(config: Any) -> None:
    """Write docs/reference/<room>.md and the index before mkdocs reads the folder."""
    target = Path(config["docs_dir"]) / "reference"
    lines = ["# Reference", "", "Made from the docstrings. One page per room.", ""]
    for room in ROOMS:
        single = SOURCE / f"{room}.py"
        paths = [single] if single.is_file() else sorted((SOURCE / room).rglob("*.py"))
        pages = [_module(path) for path in paths]
        text = f"# scoutview.{room}\n\n" + "\n".join(page for page in pages if page)
        name = f"room_{room}.md"  # reference/index.md is the list itself
        _write(target / name, text)
        lines.append(f"- [scoutview.{room}]({name})")
    _write(target / "index.md", "\n".join(lines) + "\n")


def _write(path: Path, text: str) -> None:
    # Rewriting an unchanged page would make `mkdocs serve` rebuild for ever.
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")


def _module(path: Path) -> str:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    name = ".".join(path.relative_to(SOURCE.parent).with_suffix("").parts).removesuffix(".__init__")
    parts = [_function(node) for node in tree.body if isinstance(node, ast.FunctionDef)]
    parts += [_class(node) for node in tree.body if isinstance(node, ast.ClassDef)]
    parts = [part for part in parts if part]
    if not parts:
        return ""
    doc = ast.get_docstring(tree) or ""
    return f"## {name}\n\n{doc}\n\n" + "\n".join(parts)


def _function(node: ast.FunctionDef, owner: str = "") -> str:
    doc = ast.get_docstring(node)
    if node.name.startswith("_") or doc is None:
        return ""
    arguments = ast.unparse(node.args)
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    signature = f"{owner}{node.name}({arguments}){returns}"
    return f"### {owner}{node.name}\n\n```text\n{signature}\n```\n\n```text\n{doc}\n```\n"


def _class(node: ast.ClassDef) -> str:
    doc = ast.get_docstring(node)
    if node.name.startswith("_") or doc is None:
        return ""
    fields = _fields(node)
    methods = [
        _function(item, f"{node.name}.") for item in node.body if isinstance(item, ast.FunctionDef)
    ]
    text = f"### {node.name}\n\n```text\n{doc}\n```\n"
    if fields:
        text += "\n| field | default | meaning |\n| --- | --- | --- |\n" + "\n".join(fields) + "\n"
    return text + "\n" + "\n".join(method for method in methods if method)


def _fields(node: ast.ClassDef) -> list[str]:
    rows = []
    for item, following in zip(node.body, [*node.body[1:], None], strict=True):
        if not isinstance(item, ast.AnnAssign) or not isinstance(item.target, ast.Name):
            continue
        meaning = ""
        if isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant):
            meaning = " ".join(str(following.value.value).split())
        kind = ast.unparse(item.annotation)
        default = f"`{ast.unparse(item.value)}`" if item.value is not None else ""
        cells = (f"`{item.target.id}: {kind}`", default, meaning)
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return rows
