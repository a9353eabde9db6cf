"""What machine a figure was measured on. Figures of unlike machines are never compared."""

import platform
import subprocess
from pathlib import Path
from typing import Any

import psutil

from firstlight.digest import sha256_json
from firstlight.errors import RefusedError


def choose_device(wanted: str = "auto") -> str:
    """Return ``cuda`` or ``cpu`` as ``wanted``; ``auto`` is ``cuda`` when there is a GPU. Raises RefusedError when there is none to use."""
    import torch

    if wanted == "cpu":
        return "cpu"
    if torch.cuda.is_available():
        return "cuda"
    if wanted == "cuda":
        raise RefusedError("a GPU must be usable where the device is 'cuda', torch finds none: choose 'auto' or 'cpu', or mend the driver")
    return "cpu"


def fingerprint(device: str, threads: int) -> dict[str, Any]:
    """Return processor, memory, accelerator, driver and library versions, with a sha256 over them as ``sha256``."""
    import torch

    facts: dict[str, Any] = {
        "processor": _processor(),
        "cores": psutil.cpu_count(logical=True) or 0,
        "memory_gib": round(psutil.virtual_memory().total / 2**30),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "device": device,
        "threads": threads,
        "accelerator": None,
        "driver": None,
    }
    if device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        facts |= {
            "accelerator": f"{properties.name}, {properties.total_memory // 2**20} MiB",
            "driver": f"CUDA {torch.version.cuda}, {_driver()}",
        }
    return {**facts, "sha256": sha256_json(facts)}


def _processor() -> str:
    listing = Path("/proc/cpuinfo")
    if listing.is_file():
        for line in listing.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _driver() -> str:
    """Return what the kernel says of its driver; in a container that does not show it, what nvidia-smi says."""
    version = Path("/proc/driver/nvidia/version")
    if version.is_file():
        return version.read_text().splitlines()[0].strip()
    asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        found = subprocess.run(asked, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "driver unknown"
    return f"driver {found.splitlines()[0]}" if found else "driver unknown"
