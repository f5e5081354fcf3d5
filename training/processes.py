"""The processes of `torchrun ... train_mlp_pytorch.py`, their devices and the precision."""

import ctypes
import os
import signal
import sys
from contextlib import contextmanager, suppress

import torch
from torch import distributed
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from training.errors import UNDER_TORCHRUN, RunError, UsageError, on_signals


def _of_torchrun(name, alone):
    return int(os.environ.get(name, alone)) if UNDER_TORCHRUN in os.environ else alone


def rank():
    """The number of this process, from 0."""
    return _of_torchrun("RANK", 0)


def size():
    """The number of processes that share the work."""
    return _of_torchrun("WORLD_SIZE", 1)


def is_main_process():
    return rank() == 0


def join(args):
    """Prepares the device of the flags, and joins the other processes if torchrun started several.
    Returns the device. Raises UsageError where the flags do not suit the machine."""
    _check(args)
    keep_freed_memory()
    if args.use_gpu:
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
        torch.use_deterministic_algorithms(True)  # same seed, same curves
        try:
            torch.cuda.set_device(_of_torchrun("LOCAL_RANK", 0))
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            raise UsageError(f"--use_gpu: CUDA does not start ({reason})") from error
    if size() > 1 and not distributed.is_initialized():
        with on_signals(signal.SIG_DFL):  # a wait in C++, in which Python sees no signal
            distributed.init_process_group("nccl" if args.use_gpu else "gloo")
    if args.bfloat16 and precision(args) != "bfloat16" and is_main_process():
        print("no bfloat16 instructions here: matrices are multiplied in float32", file=sys.stderr)
    return torch.device("cuda" if args.use_gpu else "cpu")


def _check(args):
    batch_norm, here = args.normalization == "batch", _of_torchrun("LOCAL_WORLD_SIZE", 1)
    n_gpus = torch.cuda.device_count()
    for wrong, message in (
        (args.use_gpu and n_gpus < here, f"--use_gpu needs {here} CUDA device(s), but there are "
         f"{n_gpus}: leave it out to train on the CPU"),
        (batch_norm and size() > 1 and not args.use_gpu,
         "--normalization batch needs --use_gpu with several processes: use layer"),
        (batch_norm and args.batch_size == size(),
         "--normalization batch needs more than one example in a batch"),
        (args.batch_size % size(),
         f"--batch_size {args.batch_size} does not divide into {size()} equal shares"),
    ):  # fmt: skip
        if wrong:
            raise UsageError(message)


def precision(args):
    """The precision of the matrix products: "bfloat16" if the flags ask for it and the device has
    instructions for it, else "float32". A CPU without them takes many times as long."""
    if not args.bfloat16:
        return "float32"
    if args.use_gpu:
        found = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        has = torch.cpu.get_capabilities()
        found = any(has[name] is True for name in has if name.endswith("bf16"))
    return "bfloat16" if found else "float32"


@contextmanager
def _together():
    """Turns a failed exchange between processes into a RunError."""
    try:
        yield
    except RuntimeError as error:
        raise RunError(
            f"process {rank()} of {size()} stopped because another process ended "
            f"({str(error).splitlines()[0]}); --resume goes on from the last checkpoint"
        ) from error


def on_main_process(action):
    """Calls action() in the main process. Returns its result, or raises its error, in all."""
    outcome = [None, None]
    if is_main_process():
        try:
            outcome[0] = action()
        except Exception as error:
            outcome[1] = error
    if size() > 1:
        with _together():
            distributed.broadcast_object_list(outcome)
    if outcome[1]:
        raise outcome[1]
    return outcome[0]


def all_reduce_sum(tensor):
    """The sum of tensor over the processes, in place."""
    if size() > 1:
        with _together():
            distributed.all_reduce(tensor)
    return tensor


def mean(numbers):
    """The mean of each number or one-element tensor over the processes; one wait for the GPU."""
    device = "cuda" if torch.cuda.is_initialized() else "cpu"
    numbers = [torch.as_tensor(n, dtype=torch.float64, device=device) for n in numbers]
    return (all_reduce_sum(torch.stack(numbers)) / size()).tolist()


def average_gradients(optimizer):
    """Gives the optimizer's parameters the mean of all processes' gradients."""
    if size() > 1:
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"]]
        total = all_reduce_sum(parameters_to_vector(gradients))
        vector_to_parameters(total / size(), gradients)


def seed_step(seed, position):
    """Seeds PyTorch's generators for a step that begins at this position in the data, so that a
    resumed run needs no generator state."""
    number = ((seed * 10**9 + position) * size() + rank()) % 2**63
    # Not torch.manual_seed, which prepares every kind of device: 73 microseconds, not 1.
    torch.default_generator.manual_seed(number)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed(number)


def run_and_leave(main):
    """Calls main. Under torchrun it exits without Python's clean-up, in which a thread of PyTorch
    sometimes aborts the process."""
    if UNDER_TORCHRUN not in os.environ:
        return main()
    try:
        main()
        if distributed.is_initialized():  # after an error, the others may have ended
            distributed.destroy_process_group()
        os._exit(0)
    except SystemExit as end:
        os._exit(end.code)


def keep_freed_memory():
    """Lets the C library reuse the memory of freed tensors. By default it returns large blocks to
    the system, which zeroes them again in every step. That takes a quarter of a wide network's step
    in bfloat16."""
    with suppress(AttributeError, TypeError):  # only glibc has it
        mallopt = ctypes.CDLL(None).mallopt
        if mallopt(-3, 2**30) or mallopt(-3, 2**25):  # M_MMAP_THRESHOLD; 2**25 in older versions
            mallopt(-1, 2**30)  # M_TRIM_THRESHOLD
