"""Stand-ins for the programs that come with a driver: what `nvidia-smi` and `npu-smi` print.

The tables have the form of real ones. A script in a folder of PATH prints one.
"""

from __future__ import annotations

from pathlib import Path

NVIDIA_SMI = """\
case "$*" in
    *--query-gpu=driver_version,memory.total,memory.used,name*) cat <<'END'
{rows}
END
    ;;
    *) echo '| NVIDIA-SMI {driver}      Driver Version: {driver}      CUDA Version: {cuda} |' ;;
esac
"""

# Atlas A2, eight cards shortened to two.
NPU_A2 = """\
+------------------------------------------------------------------------------------------------+
| npu-smi 24.1.rc1.b030            Version: 24.1.rc1.b030                                        |
+---------------------------+---------------+----------------------------------------------------+
| NPU   Name                | Health        | Power(W)    Temp(C)           Hugepages-Usage(page)|
| Chip                      | Bus-Id        | AICore(%)   Memory-Usage(MB)  HBM-Usage(MB)        |
+===========================+===============+====================================================+
| 0     910B3               | OK            | 101.8       43                0    / 0             |
| 0                         | 0000:C1:00.0  | 0           0    / 0          3318 / 65536         |
+===========================+===============+====================================================+
| 1     910B3               | OK            | 96.4        41                0    / 0             |
| 0                         | 0000:C2:00.0  | 0           0    / 0          61258/ 65536         |
+===========================+===============+====================================================+
+---------------------------+---------------+----------------------------------------------------+
| NPU     Chip              | Process id    | Process name             | Process memory(MB)      |
+===========================+===============+====================================================+
| 1       0                 | 4242          | python                   | 57940                   |
+===========================+===============+====================================================+
"""
# Two chips a card; the second shows no power.
NPU_A3 = """\
| NPU   Name                | Health        | Power(W)    Temp(C)           Hugepages-Usage(page)|
| Chip  Phy-ID              | Bus-Id        | AICore(%)   Memory-Usage(MB)  HBM-Usage(MB)        |
+===========================+===============+====================================================+
| 0     Ascend910           | OK            | 178.3       38                0    / 0             |
| 0     0                   | 0000:9D:00.0  | 0           0    / 0          3146 / 65536         |
+------------------------------------------------------------------------------------------------+
| 0     Ascend910           | OK            | -           37                0    / 0             |
| 1     1                   | 0000:9F:00.0  | 0           0    / 0          2906 / 65536         |
+===========================+===============+====================================================+
"""
# An older card with its memory in the first pair of figures.
NPU_DDR = """\
| NPU   Name                | Health        | Power(W)    Temp(C)           Hugepages-Usage(page)|
| Chip                      | Bus-Id        | AICore(%)   Memory-Usage(MB)  HBM-Usage(MB)        |
+===========================+===============+====================================================+
| 3     310P3               | OK            | NA          46                635  / 635           |
| 0     0                   | 0000:02:00.0  | 0           1682 / 43693      0    / 0             |
+===========================+===============+====================================================+
"""
# The first generation: memory in both pairs of figures.
NPU_910A = """\
| NPU   Name                | Health        | Power(W)    Temp(C)           Hugepages-Usage(page)|
| Chip                      | Bus-Id        | AICore(%)   Memory-Usage(MB)  HBM-Usage(MB)        |
+===========================+===============+====================================================+
| 0     910A                | OK            | 68.6        41                15   / 15            |
| 0                         | 0000:C1:00.0  | 0           1682 / 15137      23   / 32768         |
+===========================+===============+====================================================+
"""
NO_NPU = "dcmi module initialize failed. ret is -8005\n"


def npu_table(name: str, *, used: int = 3318, total: int = 65536, health: str = "OK") -> str:
    """Write npu-smi's table of one chip of an Atlas A2."""
    first = f"| 0     {name:<20}| {health:<14}|"
    memory = f"{used:>5} / {total}"
    return (
        "| NPU   Name                | Health        | Power(W)    Temp(C)      Hugepages-Usage |\n"
        "+===========================+===============+==========================================+\n"
        f"{first} 96.4        41           0    / 0         |\n"
        f"| 0                         | 0000:C1:00.0  | 0           0    / 0     {memory} |\n"
    )


def write_tool(folder: Path, name: str, script: str) -> Path:
    """Write a program of a few lines of shell into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    tool = folder / name
    tool.write_text(f"#!/bin/sh\n{script}", encoding="utf-8")
    tool.chmod(0o755)
    return tool


def write_nvidia_smi(
    folder: Path, *, driver: str = "580.65.06", cuda: str = "13.0", count: int = 1
) -> Path:
    """Write an nvidia-smi that shows so many H100."""
    row = f"{driver}, 81559, 4, NVIDIA H100 80GB HBM3"
    rows = "\n".join([row] * count)
    return write_tool(folder, "nvidia-smi", NVIDIA_SMI.format(rows=rows, driver=driver, cuda=cuda))


def write_npu_smi(folder: Path, table: str = NPU_A2) -> Path:
    """Write an npu-smi that prints a table."""
    return write_tool(folder, "npu-smi", f"cat <<'END'\n{table}END\n")


def write_cann(folder: Path, version: str) -> Path:
    """Write the files of an installed CANN that say its version, and its script for shells."""
    folder.mkdir(parents=True)
    (folder / "set_env.sh").write_text(f"export ASCEND_HOME_PATH={folder}\n", encoding="utf-8")
    for machine in ("x86_64", "aarch64"):
        place = folder / f"{machine}-linux"
        place.mkdir(parents=True)
        text = f"package_name=Ascend-cann-toolkit\nversion={version}\narch={machine}\n"
        (place / "ascend_toolkit_install.info").write_text(text, encoding="utf-8")
    return folder
