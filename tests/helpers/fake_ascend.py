"""Machines with an Ascend that are not there: files of driver and CANN, nodes, and torch_npu.

The files have the form of real ones; what torch_npu says when it is broken is what users saw.
"""

from __future__ import annotations

import platform
from importlib import metadata
from pathlib import Path
from typing import Any

from danlu.device.ascend.machine import MANAGERS, AscendMachine
from danlu.device.ascend.versions import release

DRIVER = """\
Version={version}
ascendhal_version=7.35.23
package_version={version}
compatible_version_fw=[7.0.0,7.9.99]
"""

NO_LIBRARY = "libhccl.so: cannot open shared object file: No such file or directory"
NO_SYMBOL = (
    "/usr/lib/libtorch_npu.so: undefined symbol: _ZN3c1017RegisterOperators6Options6schemaERKSs"
)
TWO_ACCELERATORS = (
    "Two accelerators cannot be used at the same time in PyTorch: npu and cuda. You can install "
    "the cpu version of PyTorch to use your npu device, or use the cuda device with 'export "
    "TORCH_DEVICE_BACKEND_AUTOLOAD=0'.\\n[ERROR] 2026-11-01-10:00:00 (PID:7, Device:-1, RankID:-1) "
    "ERR00007 PTA feature not supported"
)
# A package by the text of its __init__.py.
BROKEN_TORCH_NPU = {
    "a library is missing": f"raise ImportError({NO_LIBRARY!r})\n",
    "a symbol is missing": f"raise ImportError({NO_SYMBOL!r})\n",
    "beside CUDA": f'raise RuntimeError("{TWO_ACCELERATORS}")\n',
    "no device": (
        "import sys, types, torch\n"
        "npu = types.ModuleType('torch.npu')\n"
        "npu.is_available = lambda: False\n"
        "torch.npu = npu\n"
    ),
    "NNAL is missing": (
        "raise OSError('libatb.so: cannot open shared object file: No such file or directory')\n"
    ),
    # Those of 2023 print and leave.
    "it ends the process": (
        "import sys, traceback\n"
        f"try:\n    raise ImportError({NO_LIBRARY!r})\n"
        "except ImportError:\n    traceback.print_exc()\n    sys.exit()\n"
    ),
}


def write_torch_npu(site: Path, text: str) -> Path:
    """Write a torch_npu, for the torch that is here, that does what a text says.

    torch would load it by itself. Return the folder for PYTHONPATH.
    """
    version = release(metadata.version("torch"))
    package = site / "torch_npu"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(text, encoding="utf-8")
    about = site / f"torch_npu-{version}.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Name: torch-npu\nVersion: {version}\n", encoding="utf-8")
    (about / "entry_points.txt").write_text(
        "[torch.backends]\ntorch_npu = torch_npu:_autoload\n", encoding="utf-8"
    )
    return site


def write_driver(root: Path, version: str = "25.5.1", *, firmware: str = "7.8.0.2.212") -> None:
    """Write the files in which driver and firmware say their versions; "" for none."""
    for name, text in (
        ("driver", DRIVER.format(version=version)),
        ("firmware", f"Version={firmware}\nfirmware_version=1.0\n"),
    ):
        if version if name == "driver" else firmware:
            (root / name).mkdir(parents=True)
            (root / name / "version.info").write_text(text, encoding="utf-8")


def write_toolkit(root: Path, version: str) -> Path:
    """Write an installed CANN: 8.x below ascend-toolkit, 9.x as cann. Return its folder."""
    is_old = version.startswith("8.")
    home = root / "ascend-toolkit" / "latest" if is_old else root / "cann"
    place = home / f"{platform.machine()}-linux"
    place.mkdir(parents=True)
    text = f"package_name=Ascend-cann-toolkit\nversion={version}\ninnerversion=V100R001\n"
    (place / "ascend_toolkit_install.info").write_text(text, encoding="utf-8")
    script = (home.parent if is_old else home) / "set_env.sh"
    script.write_text(f"export ASCEND_HOME_PATH={home}\n", encoding="utf-8")
    return home


def write_nnal(root: Path, version: str = "9.1.0") -> None:
    """Write an installed NNAL."""
    home = root / "nnal" / "atb"
    (home / "latest").mkdir(parents=True)
    (home / "set_env.sh").write_text("export ATB_HOME_PATH=...\n", encoding="utf-8")
    text = f"Ascend-cann-atb : {version}\nAscend-cann-atb Version : {version}.B080\n"
    (home / "latest" / "version.info").write_text(text, encoding="utf-8")


def write_nodes(dev: Path, count: int = 1, *, managers: tuple[str, ...] = MANAGERS) -> None:
    """Write files in the place of the chips' nodes."""
    dev.mkdir(parents=True, exist_ok=True)
    for name in (*managers, *(f"davinci{number}" for number in range(count))):
        (dev / name).touch()


def machine(
    folder: Path,
    *,
    nodes: int = 1,
    driver: str = "25.5.1",
    firmware: str = "7.8.0.2.212",
    cann: str = "9.1.0",
    is_sourced: bool = True,
    environ: dict[str, str] | None = None,
    **fields: Any,
) -> AscendMachine:
    """Write a machine; "" for a part that is not installed."""
    root, dev = folder / "Ascend", folder / "dev"
    dev.mkdir(parents=True)
    root.mkdir()
    if nodes:
        write_nodes(dev, nodes)
    if driver:
        write_driver(root, driver, firmware=firmware)
    variables = dict(environ or {})
    if cann:
        home = write_toolkit(root, cann)
        if is_sourced:
            variables["ASCEND_HOME_PATH"] = str(home)
    return AscendMachine(root=root, dev=dev, environ=variables, **{"is_container": False, **fields})
