"""The rules that keep the project readable and safe, checked on the source: imports run one way, nothing runs a file's code."""

import ast
import re
from pathlib import Path

import pytest

from methods import METHODS

ROOT = Path(__file__).parent.parent
PACKAGES = ("data", "training", "imle", "baselines", "models", "metrics", "sampling", "lab")
SCRIPTS = ("train.py", "sample.py", "evaluate.py")
GROUND = ("errors", "atomic")  # modules that everything else may import
# What else of our own each may import, besides itself.
MAY_IMPORT = {
    "scripts": {"methods", "data", "training", "models", "metrics", "sampling"},
    "data": set(),
    "imle": {"training", "models"},
    "baselines": {"training", "models"},
    "training": {"data", "models"},
    "models": set(),
    "metrics": {"models"},
    "sampling": {"data", "training", "models"},
    "lab": {"methods", "data", "imle", "training", "models", "metrics"},
    "methods": {"training"},  # and every method, by its name
}
LAZY = (
    "lpips",
    "pytorch_fid",
    "dciknn_cuda",
    "diffusers",
    "tensorboard",
    "jinja2",
    "matplotlib",
    "onnx",
    "onnxscript",
    "safetensors",
)  # imported in one module at most, in a function
STANDARD = {
    "torch": "torch",
    "torchvision": "torchvision",
    "numpy": "numpy",
    "scipy": "scipy",
    "PIL": "pillow",
    "lpips": "lpips",
    "pytorch_fid": "pytorch-fid",
    "tqdm": "tqdm",
    "yaml": "pyyaml",
    "tensorboard": "tensorboard",
    "jinja2": "jinja2",
    "matplotlib": "matplotlib",
}  # module -> requirement
EXTRA = {  # module, which is its requirement's name too -> the file that names it
    "diffusers": "baselines/requirements.txt",
    "onnx": "sampling/requirements.txt",
    "onnxscript": "sampling/requirements.txt",
    "safetensors": "sampling/requirements.txt",
}
OPTIONAL = {"dciknn_cuda"}  # asked for by name in a setting, and installed by hand

FILES = [
    *(ROOT / f"{name}.py" for name in (*GROUND, "methods")),
    *(ROOT / script for script in SCRIPTS),
    *(path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))),
]
TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in FILES}
each_file = pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))


def layer(path: Path) -> str:
    if path.parent == ROOT:
        return path.stem if path.stem in (*GROUND, "methods") else "scripts"
    return path.relative_to(ROOT).parts[0]


def imports(tree: ast.AST) -> set[str]:
    """Return the full names of the modules that a tree imports, wherever in it; also those imported by their text."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif called(node) in ("importlib.import_module", "import_module", "__import__") and isinstance(node.args[0], ast.Constant):
            names.add(node.args[0].value)
    return names


def roots(names: set[str]) -> set[str]:
    return {name.split(".")[0] for name in names}


def called(node: ast.AST) -> str | None:
    """Return the dotted name of what a call calls."""
    if not isinstance(node, ast.Call):
        return None
    parts, function = [], node.func
    while isinstance(function, ast.Attribute):
        parts, function = [function.attr, *parts], function.value
    return ".".join([function.id, *parts]) if isinstance(function, ast.Name) else ".".join(["?", *parts])


@each_file
def test_imports_run_one_way(path):
    ours = roots(imports(TREES[path])) & {*PACKAGES, *GROUND, "methods", *(script.removesuffix(".py") for script in SCRIPTS), "tests"}
    named = {"imle"} if layer(path) == "methods" else set()  # which upgrades its own old checkpoints
    allowed = set() if layer(path) in GROUND else MAY_IMPORT[layer(path)] | {*GROUND} | named
    assert ours <= allowed | {layer(path)}


def test_only_one_file_knows_the_methods_by_name():
    """Beside it the laboratory may, whose experiments are about one."""
    for path in FILES:
        if layer(path) in ("scripts", "training", "data", "models", "metrics", "sampling"):
            names = {node.value for node in ast.walk(TREES[path]) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
            assert not names & set(METHODS), path
            assert not re.search(r"\bmethod\s*[=!]=", path.read_text(encoding="utf-8")), path


@pytest.mark.parametrize("library", LAZY)
def test_heavy_libraries_are_imported_in_one_place_and_lazily(library):
    def names(tree):
        return any(library in name.split(".") for name in imports(tree))

    users = [path for path in FILES if names(TREES[path])]
    assert len(users) <= 1
    for path in users:
        top = [node for node in TREES[path].body if not isinstance(node, (ast.FunctionDef, ast.ClassDef))]
        assert not any(names(node) for node in top)


def test_a_sampler_imports_nothing_but_torch_numpy_and_pillow():
    """Follow the imports at the top of sample.py through our own modules."""
    drawings = {ROOT / f"{parts.drawing.split(':')[0].replace('.', '/')}.py" for parts in METHODS.values()}  # imported by their names
    seen, waiting = set(), [ROOT / "sample.py", *drawings]
    while waiting:
        path = waiting.pop()
        for name in {name for node in TREES[path].body if isinstance(node, (ast.Import, ast.ImportFrom)) for name in imports(node)}:
            for module in (ROOT / f"{name.replace('.', '/')}.py", ROOT / name.replace(".", "/") / "__init__.py"):
                if module in TREES and module not in seen:
                    waiting.append(module)
                    seen.add(module)
            seen.add(name.split(".")[0])
    assert seen & {*STANDARD} == {"torch", "numpy", "PIL"}


@each_file
def test_nothing_runs_what_a_file_or_a_name_says(path):
    for node in ast.walk(TREES[path]):
        name = called(node)
        if name is None:
            continue
        assert name not in ("eval", "exec", "compile", "os.system", "os.popen", "yaml.load_all", "yaml.unsafe_load", "torch.hub.load")
        assert not re.search(r"(^|\.)(c?[pP]ickle|dill|joblib|marshal|shelve)\.\w+", name), name
        keywords = {keyword.arg: keyword.value for keyword in node.keywords}
        assert "shell" not in keywords
        if name == "torch.load":
            assert getattr(keywords.get("weights_only"), "value", None) is True
        if name == "yaml.load":
            assert ast.unparse(node.args[1]) == "_Loader"  # which makes nothing but texts, lists and dicts
        if name.endswith("np.load") or name == "numpy.load":
            assert "allow_pickle" not in keywords


@each_file
def test_everything_public_has_a_docstring(path):
    tree = TREES[path]
    assert (path.name == "__init__.py" and not tree.body) or ast.get_docstring(tree)
    if layer(path) == "scripts" or 'if __name__ == "__main__"' in path.read_text(encoding="utf-8"):
        return  # a command's own docstring says what it does
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
            assert ast.get_docstring(node), node.name


@each_file
def test_functions_are_short(path):
    for node in ast.walk(TREES[path]):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno < 50, node.name


@each_file
def test_objects_have_few_attributes(path):
    if layer(path) in ("training", "imle"):
        for node in ast.walk(TREES[path]):
            if isinstance(node, ast.ClassDef):
                stored = {
                    part.attr
                    for part in ast.walk(node)
                    if isinstance(part, ast.Attribute)
                    and isinstance(part.ctx, ast.Store)
                    and isinstance(part.value, ast.Name)
                    and part.value.id == "self"
                }
                assert len(stored) <= 15, node.name


@each_file
def test_no_work_is_left_in_comments(path):
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"\b(TODO|FIXME|XXX|HACK|breakpoint|pdb)\b", text)
    assert text.isascii() and "\t" not in text


def test_scripts_are_short():
    for script in SCRIPTS:
        assert len((ROOT / script).read_text().splitlines()) < 180, script  # as the formatter breaks lines


def named_in(file: str) -> set[str]:
    """Return the packages that a file of requirements names."""
    lines = [line.split("#")[0].strip() for line in (ROOT / file).read_text().splitlines()]
    return {re.match(r"[\w-]+", line).group().lower() for line in lines if line}


def test_requirements_name_what_is_imported():
    named = named_in("requirements.txt")
    import sys

    third_party = (
        set().union(*(roots(imports(tree)) for tree in TREES.values()))
        - sys.stdlib_module_names
        - {*PACKAGES, *GROUND, "methods", "__future__"}
    )
    assert third_party - OPTIONAL <= {*STANDARD, *EXTRA}, "a new library: add it to requirements.txt and here"
    assert {STANDARD[module] for module in third_party - OPTIONAL - set(EXTRA)} <= named
    assert not named & (OPTIONAL | set(EXTRA))
    for file in EXTRA.values():
        assert named_in(file) == {module for module, other in EXTRA.items() if other == file}
    assert {parts.requirements for parts in METHODS.values()} <= {"", *EXTRA.values()}
