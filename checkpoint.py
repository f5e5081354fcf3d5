"""The checkpoint of train_mlp_pytorch.py: written whole, and read as if a stranger had sent it."""

import copy
import io
import pickletools
import re
import zipfile

import torch

import training
from optimization import make_optimizer

CHECKPOINT = "checkpoint.pt"
MEMBER = re.compile(r"archive/(data\.pkl|data/\d+|byteorder|version|\.[a-z_/]+)")
PICKLED = (  # what a checkpoint asks for, as pickletools names it
    *("torch._utils _rebuild_tensor_v2", "torch FloatStorage", "torch LongStorage"),
    "collections OrderedDict",
)


def get_weights(network):
    """Copies of the parameters and buffers, by name, on the CPU."""
    return {
        name: value.detach().to("cpu", copy=True) for name, value in network.state_dict().items()
    }


def save_checkpoint(run, parts, best):
    state = {name: part.state_dict() for name, part in parts.items()}
    content = io.BytesIO()  # torch.save to a file hides why it failed, as on a full disk
    torch.save({**state, "best": best, "run": run.state()}, content)
    with run.writing(CHECKPOINT, "wb") as file:
        file.write(content.getbuffer())


def load_checkpoint(run, parts, processes):
    """Takes up the checkpoint of the run, if it has one. Returns the best weights so far."""
    path = run.path / CHECKPOINT

    def read():
        if not path.exists():
            return None
        try:
            state = read_state(path)
            take_up(state)
        except Exception as error:  # a damaged file can raise almost anything
            raise training.UsageError(
                f"{path} is damaged ({error!r:.200}): begin a new run"
            ) from error
        return state

    def take_up(state):
        """Loads the state into the parts and the run. Returns the best weights. The options of the
        optimizer are those of the flags, whatever the checkpoint says."""
        run.restore(state["run"])
        for name, part in parts.items():
            form = part.state_dict()
            if name == "optimizer":
                held = state_after_a_step(parts["mlp"], run.args) if run.step else {}
                part.load_state_dict({**form, "state": like(state[name]["state"], held)})
            else:
                part.load_state_dict(like(state[name], form))
        evaluated = parts.get("average", parts["mlp"])
        return like(state["best"], get_weights(evaluated)) if state["best"] else {}

    state = processes.share(read)
    return take_up(state) if state else {}


def read_state(path):
    """What save_checkpoint wrote. Raises an exception for anything else.

    torch.load alone verifies no checksum and allocates what a forged pickle asks for. So it is
    given members found whole, whose pickle asks for nothing but tensors in dicts.
    """
    members = training.read_zip(path)
    for name in members:
        if not MEMBER.fullmatch(name):
            raise ValueError(f"{name} is no member of a checkpoint")
    for opcode, name, _ in pickletools.genops(members["archive/data.pkl"]):
        if opcode.name == "GLOBAL" and name not in PICKLED:
            raise ValueError(f"it asks for {name}, which no checkpoint needs")
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, raw in members.items():
            archive.writestr(name, raw)
    content.seek(0)
    return torch.load(content, map_location="cpu", weights_only=True)


def state_after_a_step(mlp, args):
    """What the optimizer of such a network holds after a step, by parameter: all zero."""
    mlp = copy.deepcopy(mlp)
    for parameter in mlp.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer = make_optimizer(mlp, args)
    optimizer.step()
    return optimizer.state_dict()["state"]


def like(values, form):
    """A copy of values, tensors in dicts. Raises ValueError where form has other keys, shapes or
    dtypes."""
    if isinstance(form, dict):
        if values.keys() != form.keys():
            raise ValueError(f"{list(values)} in place of {list(form)}")
        return {key: like(values[key], form[key]) for key in form}
    if (values.shape, values.dtype) != (form.shape, form.dtype):
        raise ValueError(f"{values.dtype} {tuple(values.shape)} in place of {tuple(form.shape)}")
    return torch.empty_like(form).copy_(values)
