"""The shape of the code: what imports what, what loads when, and what a file may say."""

import ast
import json
import re
import sys
from pathlib import Path

import pytest

import fastseg

PACKAGE = Path(fastseg.__file__).parent
ROOT = Path(__file__).resolve().parents[1]
DATA = ("data",)
MODELS = ("reference", "ops", "nn", "models", "losses", "diffusion")
HEAVY = ("monai", "lightning", "lightning_fabric", "nibabel", "nvidia.dali", "matplotlib", "rich",
         "jsonargparse", "neuralop", "triton", "torch._dynamo")  # fmt: skip


def module_name(path: Path) -> str:
    parts = ("fastseg", *path.relative_to(PACKAGE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imports(name: str) -> set[str]:
    """Modules of fastseg that a file imports, those inside functions included."""
    found = set()
    for node in ast.walk(ast.parse(FILES[name].read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            package = name if FILES[name].name == "__init__.py" else name.rpartition(".")[0]
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *filter(None, [node.module])])
            found |= {base} | {f"{base}.{alias.name}" for alias in node.names}
    return {module for module in found if module.split(".")[0] == "fastseg"}


def part(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def importers(*parts: str) -> set[str]:
    return {name for name in FILES if any(part(module) in parts for module in imports(name))}


def of(*parts: str) -> set[str]:
    found = {name for name in FILES if part(name) in parts}
    assert found
    return found


def test_the_graph_is_read():
    assert {"fastseg.ops", "fastseg.losses"} <= imports("fastseg.models.fno") | {"fastseg.ops"}
    assert "fastseg.ops.impl" in imports("fastseg.ops")
    assert "fastseg.ops" in imports("fastseg.nn.spectral")


def test_one_file_imports_the_kernels():
    found = {name for name in importers("_C", "kernels") if part(name) != "kernels"}
    assert found == {"fastseg.ops.impl"}


def test_data_and_models_do_not_know_each_other():
    assert not importers(*MODELS) & of(*DATA)
    assert not importers(*DATA) & of(*MODELS)


@pytest.mark.parametrize(
    ("lower", "upper"),
    [
        (("reference",), ("ops", "nn", "models", "data")),
        (("ops",), ("nn", "models", "data", "losses", "metrics")),
        (("nn",), ("models", "data", "losses", "metrics")),
        (("diffusion",), ("ops", "nn", "models", "data", "losses", "metrics")),
        (("models", "losses", "metrics"), ("train", "sample", "evaluate", "cli", "config")),
        (("data",), ("train", "sample", "evaluate", "cli", "config")),
    ],
)
def test_dependencies_point_one_way(lower, upper):
    assert not importers(*upper) & of(*lower)


def test_models_are_named_by_their_registry():
    from fastseg.models import SYSTEMS

    files = {name for name in FILES if name.startswith("fastseg.models.")}
    assert {place.partition(":")[0] for place in SYSTEMS.values()} <= files


FLOORS = (  # a room may import those before it, inside functions too
    ("errors",),
    ("fields",),
    ("reference",),
    ("ops",),
    ("host",),
    ("nn", "data", "losses", "diffusion"),
    ("metrics", "models"),
    ("config", "pictures"),
    ("checkpoint",),
    ("recipes",),
    ("tasks",),
    ("training", "report", "sample", "evaluate"),
    ("train",),
    ("studies", "demo", "bench", "doctor"),
    ("study", "arguments"),
    ("cli",),
    ("__main__",),
)
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
# a system or a recipe is loaded by its name
BY_NAME = {("models", "recipes")}


def test_rooms_stand_on_floors():
    rooms = {part(name) for name in FILES} - {"", "kernels"}
    assert rooms == set(FLOOR)
    upwards = {
        (name, module)
        for name in FILES
        for module in imports(name)
        if part(name) in FLOOR and part(module) in FLOOR
        if FLOOR[part(module)] >= FLOOR[part(name)] and part(module) != part(name)
    }
    assert not upwards


def test_no_module_imports_itself_round_a_circle():
    graph = {name: {module for module in imports(name) if module in FILES} for name in FILES}
    for name, used in graph.items():
        used -= {name, *(above for above in FILES if name.startswith(f"{above}."))}
    while free := [name for name, used in graph.items() if not used & graph.keys()]:
        for name in free:
            del graph[name]
    assert not graph


def test_rooms_can_be_taken_in():
    flat = [path.name for path in PACKAGE.glob("*.py")]
    assert len(flat) <= 18, flat
    for folder in (PACKAGE, ROOT / "csrc"):
        for room in (folder, *(path for path in folder.rglob("*") if path.is_dir())):
            files = [path for path in room.glob("*") if path.is_file() and path.suffix != ".so"]
            assert len(files) <= 20, room


def literals(name: str) -> set[str]:
    tree = ast.walk(ast.parse(FILES[name].read_text()))
    return {node.value for node in tree if isinstance(node, ast.Constant)}


def test_only_tasks_and_studies_ask_which_task_it_is():
    asking = {name for name in FILES if "synthesis" in literals(name)}
    # where a system says what it does
    assert {name for name in asking if part(name) not in ("tasks", "studies")} == {
        "fastseg.models.system"
    }


def test_tasks_are_entered_by_their_front_doors():
    rooms = {name for name in FILES if re.match(r"fastseg\.tasks\.\w+\.", name)}
    homes = {name.rpartition(".")[0] for name in rooms}
    verbs = {"sample", "evaluate", "train", "training", "study"}
    found = {
        (name, module)
        for name in FILES
        if part(name) in verbs
        for module in imports(name)
        if module in homes | rooms
    }
    assert not found


def test_kernels_import_torch_and_triton_only():
    for path in (ROOT / "kernels").glob("*.py"):
        roots = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                roots |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                roots.add(node.module.split(".")[0])
        assert roots - sys.stdlib_module_names <= {"torch", "triton"}, path


# what of `ops` may import what: a module those before it
OPS_FLOORS = ("context", "tables", "fft", "taps", "impl", "dispatch", "checks", "register")


def test_operators_stand_on_floors_without_a_circle():
    def below(name: str) -> set[str]:
        own = name.split(".")[2]
        used = {module.split(".")[2] for module in imports(name) if module.count(".") > 1}
        return {
            other
            for other in used & set(OPS_FLOORS)
            if OPS_FLOORS.index(other) > OPS_FLOORS.index(own)
        }

    ops = [name for name in FILES if name.startswith("fastseg.ops.")]
    floors = [name for name in ops if name.split(".")[2] in OPS_FLOORS]
    assert {name.split(".")[2] for name in floors} == set(OPS_FLOORS)
    assert not {name: found for name in floors if (found := below(name))}
    families = {name for name in ops if name not in floors}
    assert not {name for name in floors if imports(name) & families}


@pytest.mark.skipif(not fastseg.backends()["cpu"], reason="fastseg._C is not built")
def test_a_layer_reaches_its_kernel_in_a_few_calls():
    import torch

    from fastseg import nn

    layer, x = nn.SpectralConv(2, 2, (4, 3)).requires_grad_(False), torch.randn(1, 2, 8, 8)
    layer(x)
    calls, kernels = [], []

    def profile(frame, event, argument):
        path = frame.f_code.co_filename
        if event == "c_call" and argument.__name__ == "convolve":
            kernels.append(len(calls))
        elif event == "call" and path.startswith(str(PACKAGE)):
            calls.append(path)

    sys.setprofile(profile)
    layer(x)
    sys.setprofile(None)
    (before,) = kernels
    assert before <= 12
    assert len(set(calls[:before])) <= 5


def loaded_by(run_python, statement: str) -> set[str]:
    code = f"{statement}; import json, sys; print(json.dumps(sorted(sys.modules)))"
    return set(json.loads(run_python(code, fresh=True).stdout.splitlines()[-1]))


def test_importing_the_package_does_not_load_torch(run_python):
    loaded = loaded_by(run_python, "import fastseg")
    assert "fastseg" in loaded
    assert not loaded & {"torch", "numpy", *HEAVY}


def test_importing_operators_and_models_loads_torch_and_nothing_heavy(run_python):
    loaded = loaded_by(run_python, "import fastseg.ops, fastseg.nn, fastseg.models.fno")
    assert "torch" in loaded
    assert not loaded & set(HEAVY)


def test_every_public_name_resolves():
    for name in fastseg.__all__:
        assert getattr(fastseg, name) is not None
    assert set(fastseg.__all__) <= set(dir(fastseg))
    with pytest.raises(AttributeError, match="no attribute 'spectral'"):
        _ = fastseg.spectral


NATIVE = [path for path in (ROOT / "csrc").rglob("*") if path.is_file()]


@pytest.mark.skipif(not NATIVE, reason="no sources beside the tests")
def test_native_code_knows_neither_torch_nor_python():
    assert len(NATIVE) > 5
    for path in NATIVE:
        included = re.findall(r'^\s*#\s*include\s*[<"]([^>"]+)', path.read_text(), re.MULTILINE)
        roots = {name.split("/")[0].lower() for name in included}
        assert not roots & {"torch", "aten", "c10"}, path
        if path.name != "bindings.cpp":
            assert not roots & {"pybind11", "python.h"}, path


def test_no_file_names_a_machine():
    forbidden = ["/" + "work/", "/tmp/" + "venv", "/" + "root/"]
    kinds = {".py", ".cpp", ".h", ".cu", ".md", ".toml", ".txt", ".yaml", ".cfg", ""}
    top = [path for path in ROOT.iterdir() if path.is_file() and path.name != ".git"]
    folders = ("fastseg", "fastseg_mri", "csrc", "kernels", "tests", "bench", ".ci", ".github")
    below = [path for folder in folders for path in (ROOT / folder).rglob("*") if path.is_file()]
    texts = [p for p in top + below if p.suffix in kinds and "__pycache__" not in p.parts]
    assert len(texts) > 20
    for path in texts:
        text = path.read_text(errors="replace")
        assert not [word for word in forbidden if word in text], path


@pytest.mark.parametrize("name", FILES)
def test_nothing_hangs_on_assert_or_on_the_clock_of_the_wall(name):
    """`python -O` drops asserts, and a wall's clock jumps."""
    for node in ast.walk(ast.parse(FILES[name].read_text())):
        assert not isinstance(node, ast.Assert), f"{FILES[name]}:{node.lineno}"
        wall = isinstance(node, ast.Attribute) and ast.unparse(node) in (
            "time.time",
            "time.time_ns",
        )
        assert not wall, f"{FILES[name]}:{node.lineno}"
