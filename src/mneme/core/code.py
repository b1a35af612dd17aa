"""Which code and which packages a script's result depends on: one hash, found by parsing.

The hash covers the script, every `mneme` module in the transitive closure of its imports (those
inside functions too, and the `__init__` of every package on the way), and the installed versions
of the third-party packages imported there. Comments, formatting and bare strings (docstrings)
do not count, so touching, commenting or formatting a file reruns nothing.

Nothing is imported to find this out: parsing a Snakefile must not pull in torch. What was read
out of a file is kept in the user's cache folder, under the hash of its content, since every
Snakemake process asks for it anew (a third of a dry run of the whole workflow).
"""

from __future__ import annotations

import ast
import atexit
import contextlib
import dataclasses
import functools
import hashlib
import importlib.metadata
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from mneme.core.partial import clear_partial, partial_path

PACKAGE = "mneme"
LIBRARY = Path(__file__).resolve().parents[1]
MOST_KEPT = 3000
"""Entries, of about 300 bytes each; above it those that nobody asked for are dropped."""


def code_of(script: str | Path) -> str:
    """Hash the code that a script uses.

    Parameters
    ----------
    script : path
        Python file, usually one of `workflow/scripts/`.

    Returns
    -------
    str
        16 hex digits; equal exactly when syntax trees (without docstrings) of the script and of
        all `mneme` modules that it reaches, and the versions of the packages that they import,
        are equal.

    Raises
    ------
    FileNotFoundError
        The script does not exist.
    SyntaxError
        The script or a module that it reaches does not parse.
    """
    sources = _closure(Path(script))
    parts = [f"{name} {source.digest if source else 'absent'}" for name, source in sources.items()]
    parts += [f"{name} {_version(name)}" for name in _imported_packages(sources)]
    return hashlib.sha256("\n".join(sorted(parts)).encode()).hexdigest()[:16]


def packages_of(script: str | Path) -> list[str]:
    """Return the sorted distribution names of the installed packages that a script reaches."""
    names = (_distribution(name) for name in _imported_packages(_closure(Path(script))))
    return sorted({name for name in names if name is not None})


@dataclasses.dataclass(frozen=True)
class _Source:
    """What one file contributes."""

    digest: str
    """Hash of its syntax tree."""
    modules: tuple[str, ...]
    """Modules that it surely imports (`import a.b`, the `a.b` of `from a.b import c`)."""
    maybe: tuple[str, ...]
    """`a.b.c` of `from a.b import c`: a module, or just a name in one."""


def _closure(script: Path) -> dict[str, _Source | None]:
    """Map "" (the script) and the names of all reached mneme modules to their contents."""
    found: dict[str, _Source | None] = {"": _read(script, module="")}
    todo = [""]
    while todo:
        source = found[todo.pop()]
        if source is None:
            continue
        wanted = [name for name in source.modules if _is_ours(name)]
        wanted += [name for name in source.maybe if _is_ours(name) and _file_of(name)]
        for name in (parent for module in wanted for parent in _with_parents(module)):
            if name not in found:
                path = _file_of(name)
                found[name] = _read(path, module=name) if path else None
                todo.append(name)
    return found


def _imported_packages(sources: dict[str, _Source | None]) -> list[str]:
    """Return the sorted top-level names of third-party imports."""
    modules = (name for source in sources.values() if source for name in source.modules)
    tops = {name.partition(".")[0] for name in modules}
    return sorted(tops - {PACKAGE} - set(sys.stdlib_module_names))


def _is_ours(module: str) -> bool:
    return module.partition(".")[0] == PACKAGE


def _with_parents(module: str) -> list[str]:
    names = module.split(".")
    return [".".join(names[: i + 1]) for i in range(len(names))]


def _file_of(module: str) -> Path | None:
    """Return the file of a mneme module, or None when there is none."""
    stem = LIBRARY.joinpath(*module.split(".")[1:])
    for path in (stem / "__init__.py", stem.with_suffix(".py")):
        if path.is_file():
            return path
    return None


def _read(path: Path, *, module: str) -> _Source:
    status = path.stat()
    return _parse(path, module, status.st_mtime_ns, status.st_size)


@functools.lru_cache(maxsize=4096)
def _parse(path: Path, module: str, mtime_ns: int, size: int) -> _Source:
    """Parse one state of a file (`mtime_ns` and `size` are the key of the cache)."""
    content = path.read_bytes()
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    key = hashlib.sha256(b"\0".join([_rules(), package.encode(), content])).hexdigest()
    kept = _kept()
    source = _source_of(kept.get(key))
    if source is None:
        source = _parsed(ast.parse(content, filename=str(path)), package)
        kept[key] = [source.digest, source.modules, source.maybe]
        _keep_at_exit()
    _asked().add(key)
    return source


def _parsed(tree: ast.Module, package: str) -> _Source:
    surely, maybe = set(), set()
    for node in _running_nodes(tree):
        if isinstance(node, ast.Import):
            surely.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = _base(node, package)
            surely.add(base)
            maybe.update(f"{base}.{alias.name}" for alias in node.names)
    digest = hashlib.sha256(_canonical(tree).encode()).hexdigest()
    return _Source(digest=digest, modules=tuple(sorted(surely)), maybe=tuple(sorted(maybe)))


@functools.cache
def _rules() -> bytes:
    """Hash the rules of parsing themselves: what older ones found is not asked for."""
    return hashlib.sha256(Path(__file__).read_bytes()).digest()


def _kept_path() -> Path:
    """Return where it is kept between processes; the file may be deleted at any time."""
    folder = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(folder) / "mneme" / f"code-{sys.implementation.cache_tag}.json"


@functools.cache
def _kept() -> dict[str, object]:
    """Read what earlier processes parsed; nothing where that is absent or damaged."""
    with contextlib.suppress(OSError, ValueError, RuntimeError):  # the last: no home folder
        content = json.loads(_kept_path().read_text(encoding="utf-8"))
        if isinstance(content, dict):
            return content
    return {}


@functools.cache
def _asked() -> set[str]:
    """Return the keys that this process has asked for."""
    return set()


def _source_of(entry: object) -> _Source | None:
    match entry:
        case [str(digest), [*modules], [*maybe]] if all(
            isinstance(name, str) for name in (*modules, *maybe)
        ):
            return _Source(digest=digest, modules=tuple(modules), maybe=tuple(maybe))
    return None


@functools.cache
def _keep_at_exit() -> None:
    atexit.register(_keep)


def _keep() -> None:
    """Write what is known; a folder that cannot be written only costs the next process time."""
    kept = _kept()
    if len(kept) > MOST_KEPT:
        kept = {key: kept[key] for key in _asked()}
    with contextlib.suppress(OSError, RuntimeError):
        path = _kept_path()
        path.parent.mkdir(parents=True, exist_ok=True)
        clear_partial(path)
        temporary = partial_path(path)
        try:
            temporary.write_text(json.dumps(kept), encoding="utf-8")
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def _base(node: ast.ImportFrom, package: str) -> str:
    """Return the absolute module of a `from ... import`."""
    if node.level == 0:
        return node.module or ""
    parents = package.split(".")
    parents = parents[: len(parents) - (node.level - 1)]
    return ".".join([*parents, node.module] if node.module else parents)


def _running_nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """Walk a tree without the bodies of `if TYPE_CHECKING`, which never run."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            for below in node.orelse:
                yield below
                yield from _running_nodes(below)
        else:
            yield node
            yield from _running_nodes(node)


def _canonical(value: object) -> str:
    """Write a syntax tree as text without positions, docstrings and empty fields.

    Empty fields are left out because new Python versions add some: the hash of committed results
    stays valid there.
    """
    if isinstance(value, list):
        return f"[{' '.join(_canonical(item) for item in value if not _is_bare_string(item))}]"
    if not isinstance(value, ast.AST):
        return repr(value)
    fields = ((name, field) for name, field in ast.iter_fields(value) if name != "ctx")
    texts = [f"{name}={_canonical(field)}" for name, field in fields if field not in (None, [])]
    return f"({type(value).__name__} {' '.join(texts)})"


def _is_bare_string(node: object) -> bool:
    value = node.value if isinstance(node, ast.Expr) else None
    return isinstance(value, ast.Constant) and isinstance(value.value, str)


@functools.cache
def _distribution(top: str) -> str | None:
    """Return the installed distribution that provides the import name `top`, or None."""
    try:
        return importlib.metadata.distribution(top).metadata["Name"]
    except importlib.metadata.PackageNotFoundError:
        # Reading every package's file list takes a third of a second: only for names like yaml.
        providers = importlib.metadata.packages_distributions().get(top)
        return sorted(providers)[0] if providers else None


@functools.cache
def _version(top: str) -> str:
    name = _distribution(top)
    return "absent" if name is None else importlib.metadata.version(name)
