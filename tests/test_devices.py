"""What "auto" means, and that an optional backend serves only where it works."""

import logging
import signal
import sys

import pytest
import torch

from gd_core import devices
from gd_core.devices import NERFACC, TINYCUDANN, backend, resolve_device, resolve_dtype

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="is about machines without CUDA")


@pytest.fixture(autouse=True)
def tried_anew():
    devices._backend.cache_clear()
    yield
    devices._backend.cache_clear()


def test_auto_is_the_accelerator_that_is_there(monkeypatch):
    for there in (["xpu", "mps"], ["mps"], []):
        monkeypatch.setattr(devices, "_accelerators", lambda there=there: there)
        assert resolve_device() == torch.device([*there, "cpu"][0])
    assert resolve_device("cpu") == CPU
    assert resolve_device(torch.device("cuda:7")) == torch.device("cuda:7"), "whoever has a device knows that it is there"


@no_gpu
@pytest.mark.parametrize("name", ["cuda", "cuda:1", "gpu", "", "cuda:x"])
def test_a_device_that_is_not_there_is_named(name):
    with pytest.raises(ValueError, match=rf"device.*'{name}'|'{name}' is no device") as error:
        resolve_device(name)
    assert "cpu" in str(error.value)


def test_dtype_names():
    assert resolve_dtype("auto", CPU) == torch.float32 and resolve_dtype("auto", CUDA) == torch.float16
    assert resolve_dtype("bf16", CPU) == resolve_dtype(torch.bfloat16, CPU) == torch.bfloat16
    with pytest.raises(ValueError, match="dtype must be 'auto', 'fp32', 'fp16', 'bf16'.* got 'int4'"):
        resolve_dtype("int4", CPU)


def test_memory_of_the_cpu():
    assert 0 < devices.free_memory(CPU) < devices.total_memory(CPU)
    assert devices.peak_memory(CPU) is None
    devices.release_memory(CPU), devices.synchronize(CPU), devices.reset_peak_memory(CPU)


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Put a package of one's own in place of an optional one: `install("nerfacc", {"csrc.py": "raise ImportError('x')"})`."""
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "extensions"))
    monkeypatch.syspath_prepend(tmp_path / "packages")

    def install(package, files):
        for name, content in ({"__init__.py": ""} | files).items():
            path = tmp_path / "packages" / package / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)

    yield install
    for name in [name for name in sys.modules if name.split(".")[0] in (NERFACC, TINYCUDANN)]:
        del sys.modules[name]


NULL_READ = "import ctypes; ctypes.string_at(0)"
WEIGHTS = """
import torch
RIGHT = 1
def render_weight_from_density(starts, ends, density, ray_indices, n_rays):
    return RIGHT * (1 - torch.exp(-density * (ends - starts))), None, None
"""
GRID = """
import torch
RIGHT = 1
class Encoding(torch.nn.Module):
    def __init__(self, inputs, config, seed, dtype):
        super().__init__()
        self.params = torch.nn.Parameter(torch.zeros(8, dtype=dtype))
    def forward(self, points):
        return RIGHT * self.params.expand(len(points), 8)
"""
COMPILES = "import pathlib; pathlib.Path(__file__).with_name('compiled').touch(); _C = None"


@pytest.mark.parametrize(
    ("package", "files", "says"),
    [
        (NERFACC, {"cuda/__init__.py": "", "cuda/_backend.py": COMPILES}, "without its compiled part"),
        (NERFACC, {"csrc.py": "raise ImportError('undefined symbol: _ZN3c10')"}, "fails here (undefined symbol"),
        (NERFACC, {"csrc.py": "", "__init__.py": "raise RuntimeError('no kernel image is available')"}, "no kernel image"),
        (TINYCUDANN, {"__init__.py": "raise EnvironmentError('Could not find compatible extension')"}, "Could not find comp"),
        (TINYCUDANN, {"__init__.py": "import tinycudann_bindings._86_C"}, "No module named 'tinycudann_bindings'"),
        (TINYCUDANN, {"__init__.py": NULL_READ}, "crashed in its first call (signal 11)"),
        (NERFACC, {"csrc.py": NULL_READ}, "crashed in its first call (signal 11)"),
        (TINYCUDANN, {"__init__.py": "import os; os._exit(7)"}, "crashed in its first call (exit code 0x7)"),
    ],
)
def test_a_package_that_is_there_and_does_not_work_serves_nothing(install, tmp_path, package, files, says, caplog):
    install(package, files)
    with caplog.at_level(logging.INFO, "gd_core.devices"):
        found = backend(package, CUDA)
        backend(package, torch.device("cuda:0"))
    assert not found.serves
    assert caplog.text.count("plain torch") == 1, "said once"
    assert says in found.words and "pip install" in found.words
    assert not list(tmp_path.rglob("compiled")), "nothing may be compiled to find out"


def test_what_crashes_in_the_call_itself(install):
    install(TINYCUDANN, {"__init__.py": "import os, signal\ndef Encoding(*a, **k): os.kill(os.getpid(), signal.SIGABRT)"})
    assert devices.first_call(TINYCUDANN, "cpu") == f"crashed in its first call (signal {signal.SIGABRT})"


def test_what_does_not_come_back_is_given_up(install, monkeypatch):
    monkeypatch.setattr(devices, "FIRST_CALL_SECONDS", 3.0)
    install(NERFACC, {"csrc.py": "import time; time.sleep(600)"})
    assert "nerfacc did not come back from its first call in 3 s: pip uninstall" in backend(NERFACC, CUDA).words


@pytest.mark.parametrize(("package", "code"), [(NERFACC, WEIGHTS), (TINYCUDANN, GRID)])
def test_what_works_serves_and_what_is_wrong_does_not(install, package, code):
    """Little packages that compute the thing itself, on the CPU, and then something near it."""
    install(package, {"csrc.py": "", "__init__.py": code})
    assert devices.first_call(package, "cpu") is None
    install(package, {"csrc.py": "", "__init__.py": code.replace("RIGHT = 1", "RIGHT = 1.1")})
    assert "is installed and fails here (the " in devices.first_call(package, "cpu")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("package", [NERFACC, TINYCUDANN])
def test_what_is_installed_serves_or_says_why(package):
    found = backend(package, CUDA)
    assert found.serves or "pip" in found.words


@pytest.mark.parametrize("package", [NERFACC, TINYCUDANN])
def test_backends_need_cuda_itself(package, install, monkeypatch):
    install(package, {})
    for kind in ("cpu", "mps", "xpu"):
        assert "needs CUDA" in backend(package, torch.device(kind)).words
    monkeypatch.setattr(torch.version, "hip", "6.2")
    assert "ROCm" in backend(package, CUDA).words and not backend(package, CUDA).serves


def test_the_remedy_is_an_extra_of_this_pack():
    text = (devices.Path(__file__).parents[1] / "pyproject.toml").read_text()
    assert ".[cuda]" in devices.INSTALL
    (line,) = [line for line in text.splitlines() if line.startswith("cuda = [")]
    assert NERFACC in line and TINYCUDANN in line
