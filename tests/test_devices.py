"""What "auto" means, and that an optional backend serves only where it works."""

import logging
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


COMPILES = "import pathlib; pathlib.Path(__file__).with_name('compiled').touch(); _C = None"


@pytest.mark.parametrize(
    ("package", "files", "says"),
    [
        (NERFACC, {"cuda/__init__.py": "", "cuda/_backend.py": COMPILES}, "without its compiled part"),
        (NERFACC, {"csrc.py": "raise ImportError('undefined symbol: _ZN3c10')"}, "fails here (undefined symbol"),
        (NERFACC, {"csrc.py": "", "__init__.py": "raise RuntimeError('no kernel image is available')"}, "no kernel image"),
        (TINYCUDANN, {"__init__.py": "raise EnvironmentError('Could not find compatible extension')"}, "Could not find comp"),
        (TINYCUDANN, {"__init__.py": "import tinycudann_bindings._86_C"}, "No module named 'tinycudann_bindings'"),
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
