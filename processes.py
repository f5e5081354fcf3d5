"""The processes of `torchrun ... train_mlp_pytorch.py`: what each does alone and what all share."""

import os
import signal
import sys
import time
from contextlib import contextmanager

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

import training

PATIENCE = 5  # seconds


class Processes:
    """The processes that torchrun started, or this one alone. Only the first one is heard."""

    def __init__(self):
        names = {"RANK": 0, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 1, "WORLD_SIZE": 1}
        self.rank, self.local_rank, self.local_size, self.size = (
            int(os.environ.get(name, alone)) for name, alone in names.items()
        )

    def start(self, use_gpu):
        if use_gpu:
            try:
                torch.cuda.set_device(self.local_rank)
            except RuntimeError as error:
                sys.stderr = sys.__stderr__  # it may be so in this process alone
                reason = str(error).splitlines()[0]
                raise training.UsageError(f"--use_gpu: CUDA does not start ({reason})") from error
        if self.size > 1:
            # Ctrl-C reaches every process at another step: leave it to torchrun, which ends all.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            distributed.init_process_group("nccl" if use_gpu else "gloo")

    def share(self, action):
        """What action() returns in the first process, in all; or the error that it raises."""
        outcome = [None, None]
        if self.rank == 0:
            try:
                outcome[0] = action()
            except (training.UsageError, training.RunError) as error:
                outcome[1] = error
        if self.size > 1:
            distributed.broadcast_object_list(outcome)
        if outcome[1]:
            raise outcome[1]
        return outcome[0]

    @contextmanager
    def explained(self):
        """Turns running out of memory, or the death of another process, into a sentence. What fails
        in one process alone is said by that one, whichever it is."""
        try:
            yield
        except (training.UsageError, training.RunError):
            raise
        except Exception as error:
            if self.rank:
                sys.stderr = sys.__stderr__
            if isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error):
                raise MemoryError from error
            if self.size == 1 or not ("gloo" in str(error) or "NCCL" in str(error)):
                raise
            raise training.RunError(
                f"process {self.rank} of {self.size} ends, for another one has ended "
                f"({str(error).splitlines()[0]}); --resume goes on from the last checkpoint"
            ) from error

    def end(self):
        """Takes leave of the others, which none can do once one of them has failed."""
        if self.size > 1:
            distributed.destroy_process_group()

    def parallel(self, mlp):
        """mlp, with its gradients averaged over the processes in backward."""
        if self.size == 1:
            return mlp
        if any(isinstance(layer, nn.BatchNorm1d) for layer in mlp.layers):
            mlp = nn.SyncBatchNorm.convert_sync_batchnorm(mlp)
        return DistributedDataParallel(mlp)

    def total(self, tensor):
        """The sum of tensor over the processes."""
        if self.size > 1:
            distributed.all_reduce(tensor)
        return tensor


def run_and_leave(main):
    """Ends this process with main. Under torchrun that is at once, whatever the exit status: now
    and then a thread of PyTorch's aborts a process of several that ends in the usual way. One that
    failed in silence waits before it does: torchrun ends all as soon as one has ended, and by then
    the first one must have said why."""
    status = None
    try:
        main()
    except SystemExit as end:
        status = end.code
    if distributed.is_torchelastic_launched():
        if status and sys.stderr is not sys.__stderr__:
            time.sleep(PATIENCE)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status or 0)
    sys.exit(status)
