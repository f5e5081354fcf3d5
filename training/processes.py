"""The processes of `torchrun ... train_mlp_pytorch.py`, and features of their processors."""

import ctypes
import os
import signal
import sys
from contextlib import contextmanager, suppress

import torch
from torch import distributed

from training.errors import RunError, Stopped, UsageError


def rank():
    """The number of this process, from 0."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def size():
    """How many processes share the work."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def all_reduce_sum(tensor):
    """The sum of tensor over the processes, in place."""
    if size() > 1:
        distributed.all_reduce(tensor)
    return tensor


def average_gradients(optimizer, *_):
    """A step_pre_hook: gives the optimizer's parameters the mean of all processes' gradients."""
    if size() > 1:
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"]]
        flat = all_reduce_sum(torch.cat([gradient.flatten() for gradient in gradients])) / size()
        for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients]),
                                  strict=True):  # fmt: skip
            gradient.copy_(mean.view_as(gradient))


def on_main_process(action):
    """Calls action() in the first process. Returns its result, or raises its error, in all."""
    return Processes().from_first(action)


def seed_step(seed, step):
    """Seeds the random numbers of a step with its number, so a resumed run needs no generator
    state."""
    number = ((seed * 10**9 + step) * size() + rank()) % 2**63
    # Not torch.manual_seed, which prepares every kind of device: 73 microseconds, not 1.
    torch.default_generator.manual_seed(number)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed(number)


class Processes:
    """The processes that torchrun started, or this one alone."""

    def __init__(self):
        names = {"RANK": 0, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 1, "WORLD_SIZE": 1}
        self.rank, self.local_rank, self.local_size, self.size = (
            int(os.environ.get(name, alone)) for name, alone in names.items()
        )

    @contextmanager
    def start(self, use_gpu):
        """Joins the process group, leaves it after the block, and explains failures."""
        keep_freed_memory()
        if use_gpu:
            os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
            torch.use_deterministic_algorithms(True)  # same seed, same curves
            try:
                torch.cuda.set_device(self.local_rank)
            except RuntimeError as error:
                reason = str(error).splitlines()[0]
                raise UsageError(f"--use_gpu: CUDA does not start ({reason})") from error
        if self.size > 1:
            # Ctrl-C would stop the processes at different steps: torchrun ends them instead.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            distributed.init_process_group("nccl" if use_gpu else "gloo")
        try:
            yield
        except (UsageError, RunError, Stopped):
            raise
        except Exception as error:
            if isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error):
                raise MemoryError from error
            if self.size == 1 or not ("gloo" in str(error) or "NCCL" in str(error)):
                raise
            raise RunError(
                f"process {self.rank} of {self.size} stopped because another process ended "
                f"({str(error).splitlines()[0]}); --resume goes on from the last checkpoint"
            ) from error
        if self.size > 1:  # not after an error, when the others may have ended
            distributed.destroy_process_group()

    def from_first(self, action):
        """Calls action() in the first process. Returns its result, or raises its error, in all."""
        outcome = [None, None]
        if self.rank == 0:
            try:
                outcome[0] = action()
            except Exception as error:
                outcome[1] = error
        if self.size > 1:
            distributed.broadcast_object_list(outcome)
        if outcome[1]:
            raise outcome[1]
        return outcome[0]

    def means(self, numbers):
        """The mean of each one-element tensor over the processes, as numbers: waits for a GPU."""
        return (all_reduce_sum(torch.stack(numbers)) / self.size).tolist()


def run_and_leave(main):
    """Calls main and exits. Under torchrun it skips Python's clean-up, in which a thread of PyTorch
    sometimes aborts the process."""
    status = 0
    try:
        main()
    except SystemExit as end:
        status = end.code
    if distributed.is_torchelastic_launched():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def has_bfloat16(use_gpu):
    """Whether the processor has instructions for bfloat16. A CPU without them is many times
    slower in bfloat16 than in float32."""
    if use_gpu:
        return torch.cuda.is_bf16_supported(including_emulation=False)
    found = torch.cpu.get_capabilities()
    return any(found[name] is True for name in found if name.endswith("bf16"))


def keep_freed_memory():
    """Lets the C library reuse the memory of freed tensors. By default it returns large blocks to
    the system, which zeroes them again in every step. That takes a quarter of a wide network's step
    in bfloat16."""
    with suppress(AttributeError, TypeError):  # only glibc has it
        mallopt = ctypes.CDLL(None).mallopt
        if mallopt(-3, 2**30) or mallopt(-3, 2**25):  # M_MMAP_THRESHOLD; 2**25 in older versions
            mallopt(-1, 2**30)  # M_TRIM_THRESHOLD
