"""Where the network computes, in which number format, and how much memory that took."""

import functools
import sys

import torch
from torch.nn import functional


def choose_device() -> str:
    """Return ``cuda`` or ``mps`` if such a GPU can do a step of the network, else ``cpu``."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() and not what_fails_on("mps") else "cpu"


@functools.cache
def what_fails_on(device: str) -> str:
    """Return why a device cannot do the steps of the network, in torch's words; empty if it can."""
    try:
        image = torch.ones(1, 4, 8, 8, 8, device=device)
        wide = torch.ones(4, 4, 3, 3, 3, device=device, requires_grad=True)
        double = torch.ones(4, 4, 2, 2, 2, device=device, requires_grad=True)
        small = functional.max_pool3d(functional.conv3d(image, wide, padding=1), 2)
        large = functional.conv_transpose3d(small, double, stride=2)
        functional.group_norm(large, 4).square().sum().backward()
    except RuntimeError as error:
        return str(error).strip().partition("\n")[0]
    return ""


def choose_dtype(precision: str, device: torch.device) -> torch.dtype:
    """Return the number format for a precision option on a device.

    ``auto`` is bfloat16 where the device computes in it by itself (2 to 3 times quicker on a CPU);
    else it is float16 on a GPU and float32 on a CPU.
    """
    if precision != "auto":
        return getattr(torch, precision)
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if native else torch.float16
    able = getattr(torch.cpu, "get_capabilities", dict)()  # not in the oldest torch we take
    native = able.get("avx512_bf16") or able.get("amx_bf16")
    return torch.bfloat16 if native else torch.float32


def is_out_of_memory(error: Exception) -> bool:
    """Say whether an error is an allocator's: that of the GPU, of torch on a CPU, or Python's."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    said = ("DefaultCPUAllocator", "not enough memory", "bad_alloc", "could not create a ")
    return isinstance(error, RuntimeError) and any(words in str(error) for words in said)


def describe_device(device: torch.device) -> str:
    """Return the device in words."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "mps":
        return "Apple GPU"
    words = f"CPU, {torch.get_num_threads()} threads"
    if torch.backends.mps.is_available() and (reason := what_fails_on("mps")):
        words += f"; the Apple GPU cannot do a step of the network ({reason})"
    return words


def peak_memory_mb(device: torch.device) -> float:
    """Return the most memory used so far, in MB: of the GPU, or of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    if sys.platform == "win32":
        import psutil

        return psutil.Process().memory_info().peak_wset / 1e6
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak / 1e3
