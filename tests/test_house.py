"""The architecture, kept by a test: sizes, imports, who opens files, what is never committed."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
LIBRARY = sorted((ROOT / "src/mneme").rglob("*.py"))
SCRIPTS = sorted((ROOT / "workflow/scripts").glob("*.py"))
SNAKEFILES = [ROOT / "Snakefile", *sorted((ROOT / "rules").glob("*.smk"))]
FLOORS = {  # what a folder of src/mneme may import, besides itself
    "core": set(),
    "nn": {"core"},
    "stats": {"core"},
    "report": {"core", "stats"},
    "routing": {"core", "nn", "stats"},
    "zeta": {"core", "nn", "stats"},
    "ttt": {"core", "nn", "stats"},
    "lattice": {"core", "nn", "stats"},
}
ABOVE = {
    "cli.py",
    "cli_chat.py",
    "rooms.py",
    "settings.py",
}  # import everything, imported by nobody
HEAVY = {"torch", "transformers", "peft", "accelerate", "safetensors"}
OPENERS = {"open", "read_text", "read_bytes", "write_text", "write_bytes", "savefig", "savez"}


def address(path):
    return path.relative_to(ROOT).as_posix()


def tree_of(path):
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def imported(path):
    """Yield (module, line) of every import of a file, those inside functions too."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{address(path)}:{node.lineno}: imports are absolute"
            yield node.module, node.lineno
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)


def committed():
    """Return every file that is, or would be, committed."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
    )
    if listed.returncode:
        pytest.skip("outside a git clone")
    return [path for line in listed.stdout.splitlines() if (path := ROOT / line).is_file()]


def tracked():
    """Return every text file that is, or would be, committed."""
    return [path for path in committed() if b"\0" not in path.read_bytes()[:8000]]


@pytest.mark.parametrize("path", LIBRARY, ids=address)
def test_a_library_file_is_one_idea(path):
    assert len(path.read_text().splitlines()) <= 400


@pytest.mark.parametrize("path", SCRIPTS, ids=address)
def test_a_script_is_thin(path):
    assert len(path.read_text().splitlines()) <= 40
    assert not any(isinstance(node, ast.FunctionDef) for node in ast.walk(tree_of(path)))


@pytest.mark.parametrize("path", SNAKEFILES, ids=address)
def test_rules_are_short_and_open_with_their_contract(path):
    limit = 80 if path.name in ("Snakefile", "common.smk") else 250
    lines = path.read_text().splitlines()
    assert len(lines) <= limit
    assert lines[0].startswith('"""')
    if path.suffix == ".smk":
        text = path.read_text()
        assert all(re.search(rf"^{word} ", text, re.M) for word in ("needs", "makes"))


@pytest.mark.parametrize("path", [*LIBRARY, *SCRIPTS], ids=address)
def test_a_function_is_one_step(path):
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(tree_of(path)):
        if isinstance(node, functions):
            length = node.end_lineno - node.lineno + 1
            assert length <= 60, f"{node.name} has {length} lines"


@pytest.mark.parametrize("path", LIBRARY, ids=address)
def test_imports_go_downwards_only(path):
    floor = path.relative_to(ROOT / "src/mneme").parts[0]
    if floor not in FLOORS:
        assert floor in {"__init__.py", *ABOVE}, f"no floor is named {floor}"
        return
    for module, line in imported(path):
        if module.startswith("mneme.") and module != "mneme":
            target = module.split(".")[1]
            allowed = FLOORS[floor] | {floor}
            assert target in allowed, f"{address(path)}:{line} imports {module}"


@pytest.mark.parametrize("path", [*LIBRARY, *SCRIPTS], ids=address)
def test_settings_and_cli_are_imported_by_nobody_below(path):
    if path.name not in ABOVE:
        above = {f"mneme.{Path(name).stem}" for name in ABOVE}
        assert not above & {module for module, _ in imported(path)}


@pytest.mark.parametrize("path", LIBRARY, ids=address)
def test_inits_hold_a_docstring_only(path):
    tree = tree_of(path)
    assert ast.get_docstring(tree), "every file opens with its purpose"
    if path.name == "__init__.py":
        assert len(tree.body) == 1


@pytest.mark.parametrize("path", [*LIBRARY, *SCRIPTS], ids=address)
def test_imports_can_be_found_by_parsing(path):
    """`code_of` sees no import that is made from a string."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Call):
            forbidden = ("importlib.import_module", "import_module", "__import__", "exec", "eval")
            assert ast.unparse(node.func) not in forbidden, node.lineno


@pytest.mark.parametrize("path", LIBRARY, ids=address)
def test_only_core_and_the_command_line_open_files(path):
    inside = path.relative_to(ROOT / "src/mneme")
    if inside.parts[0] == "core" or inside.name in ("cli.py", "cli_chat.py"):
        return
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Call):
            name = _last(node.func)
            assert name not in OPENERS, f"{address(path)}:{node.lineno} calls {name}"


def _last(function):
    return getattr(function, "attr", None) or getattr(function, "id", "")


@pytest.mark.parametrize("path", LIBRARY, ids=address)
def test_seeds_are_arguments(path):
    if path.name == "stage.py":
        return
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            assert name not in ("torch.manual_seed", "np.random.seed", "random.seed"), node.lineno


@pytest.mark.parametrize("path", [*LIBRARY, *SCRIPTS], ids=address)
def test_the_environment_is_read_by_core_only(path):
    read = re.search(r"os\.(environ|getenv)", path.read_text(encoding="utf-8"))
    assert not read or path.parent.name == "core"


@pytest.mark.parametrize("path", [*LIBRARY, *SCRIPTS, *SNAKEFILES], ids=address)
def test_nothing_is_left_unfinished(path):
    marks = re.compile(r"\b(TO" + r"DO|FIX" + r"ME|XX" + r"X|NotImplemented" + r"Error)\b")
    assert not marks.search(path.read_text(encoding="utf-8"))


def test_every_rule_has_its_script_and_every_script_its_rule():
    text = "\n".join(path.read_text() for path in SNAKEFILES)
    rules = set(re.findall(r"^rule (\w+):", text, re.M)) - {"all"}
    scripts = re.findall(r"^    script:\n        \"\.\./workflow/scripts/(\w+)\.py\"", text, re.M)
    assert rules == set(scripts) == {path.stem for path in SCRIPTS}
    assert len(scripts) == len(set(scripts))


@pytest.mark.parametrize(
    "module",
    ["mneme.settings", "mneme.cli", "mneme.core.workflow", "mneme.core.stage", "mneme.core.assets"]
    + [
        ".".join(path.relative_to(ROOT / "src").with_suffix("").parts)
        for path in LIBRARY
        if path.parent.name in ("report", "stats") and path.name != "__init__.py"
    ],
)
def test_light_modules_import_nothing_heavy(module):
    program = f"import sys, {module}; print(*sorted({HEAVY!r} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    assert done.stdout.strip() == ""


def test_the_report_never_names_torch():
    for path in LIBRARY:
        if path.parent.name == "report":
            tops = {module.split(".")[0] for module, _ in imported(path)}
            assert not tops & HEAVY, address(path)


def test_every_third_party_import_is_a_declared_dependency():
    declared = {_plain(Requirement(text).name) for text in _project()["dependencies"]}
    names = {"yaml": "pyyaml", "flint": "python-flint"}
    tops = {module.split(".")[0] for path in [*LIBRARY, *SCRIPTS] for module, _ in imported(path)}
    third = tops - set(sys.stdlib_module_names) - {"mneme"}
    assert {_plain(names.get(top, top)) for top in third} <= declared


@pytest.mark.parametrize("kind", ["cpu", "gpu"])
def test_conda_and_pip_users_get_the_same_dependencies(kind):
    environment = yaml.safe_load((ROOT / f"envs/{kind}.yaml").read_text())
    conda = {Requirement(text) for text in environment["dependencies"]}
    theirs = {(_plain(r.name.replace(f"pytorch-{kind}", "torch")), str(r.specifier)) for r in conda}
    ours = {
        (_plain(r.name), str(r.specifier)) for r in map(Requirement, _project()["dependencies"])
    }
    assert theirs - {("python", ">=3.11"), ("pip", "")} == ours


def test_the_lock_pins_every_dependency_within_its_bounds():
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    pinned = {_plain(name): version for name, version in pins.items()}
    for text in [*_project()["dependencies"], *_project()["optional-dependencies"]["dev"]]:
        requirement = Requirement(text)
        assert requirement.specifier.contains(pinned[_plain(requirement.name)]), text
    assert not any("+" in version for version in pins.values()), "no local versions"


def test_no_file_names_a_path_of_one_machine():
    places = re.compile(r"(?<![\w.$}])/(home|Users|root|work|mnt|scratch)/\w")
    for path in tracked():
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            assert not places.search(line), f"{address(path)}:{number}: {line.strip()}"


def test_made_things_are_not_committed():
    for path in committed():  # binary files too: a wheel of 53 MB once lay here
        assert address(path).split("/")[0] not in ("results", "resources", ".snakemake", ".venv")
        assert path.stat().st_size <= 500_000, address(path)


def _project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def _plain(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def test_no_rule_hides_stale_results_behind_ancient():
    # docs/decisions/no_ancient.md
    for path in [ROOT / "Snakefile", *(ROOT / "rules").glob("*.smk")]:
        assert "ancient(" not in path.read_text(encoding="utf-8"), path
