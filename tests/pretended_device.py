"""A GPU without a GPU: tensors that say they are on another device, are computed on the CPU, and refuse to meet the CPU's.

`with pretended_device() as device:` gives torch a second device, under the name "meta". What is made on it or moved to it is a
`PretendedTensor` around a tensor of the CPU, so that loops whose course depends on values run as ever. An operation that is
given tensors of both raises `DevicesMeet` where torch itself would: numbers (tensors without dimensions) may come from the
CPU in pointwise operations, and so may indices; nothing else. Like CUDA it has no product of matrices of integers.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

aten = torch.ops.aten
CPU, META = torch.device("cpu"), torch.device("meta")
COPIES = {aten.copy_.default, aten._foreach_copy_.default}
PRODUCTS = {aten.mm.default, aten.addmm.default, aten.bmm.default, aten.mv.default, aten.addmv.default, aten.dot.default}
INDEXES = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default}


class DevicesMeet(RuntimeError):
    pass


class PretendedTensor(Tensor):
    """Says that it is on the pretended device; `held` is the tensor of the CPU that it stands for."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor, requires_grad: bool = False) -> PretendedTensor:
        made = Tensor._make_wrapper_subclass(
            cls, held.shape, strides=held.stride(), storage_offset=held.storage_offset(), dtype=held.dtype, device=META,
            requires_grad=requires_grad,
        )  # fmt: skip
        made.held = held
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl

    def __repr__(self) -> str:
        return f"PretendedTensor({self.held})"

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        return compute(function, args, dict(kwargs or {}))


class Dispatch(TorchDispatchMode):
    """Sees what has no pretended tensor among its arguments, too: what makes tensors, and what moves them."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return compute(function, args, dict(kwargs or {}))


def compute(function, args: tuple, kwargs: dict):
    """Run an operation on the CPU; what it makes is on the device on which torch would have made it."""
    if function is aten._fused_sdp_choice.default:
        return 0  # plain maths: the CPU's fused kernel is another operation
    device = meeting_place(function, args, kwargs)
    if device == META and function in PRODUCTS and not args[0].is_floating_point():
        raise RuntimeError(f"{function} is not implemented for {args[0].dtype}")
    if kwargs.get("device") is not None:
        device, kwargs["device"] = torch.device(kwargs["device"]), CPU
    out = function(*tree_map(unwrap, args), **tree_map(unwrap, kwargs))
    if function._schema.is_mutable:
        return changed(function, args, kwargs) if isinstance(out, Tensor) else out
    return out if device == CPU else tree_map(lambda v: PretendedTensor(v) if isinstance(v, Tensor) else v, out)


def changed(function, args: tuple, kwargs: dict) -> Tensor:
    """The argument that an operation changes and returns."""
    for place, argument in enumerate(function._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            tensor = args[place] if place < len(args) else kwargs[argument.name]
            assert tensor.shape == unwrap(tensor).shape, f"{function} changes a shape in place"
            return tensor
    raise AssertionError(function)


def unwrap(value):
    if isinstance(value, PretendedTensor):
        return value.held
    assert not (isinstance(value, Tensor) and value.device == META), "a tensor of the pretended device without values"
    return value


def meeting_place(function, args: tuple, kwargs: dict) -> torch.device:
    """The one device of an operation's tensors. Raises `DevicesMeet` when they are on several."""
    if function in COPIES:
        return tree_flatten(args[0])[0][0].device
    if function in INDEXES:  # indices may come from the CPU
        args = (args[0], *args[2:])
    tensors = [value for value in tree_flatten((args, kwargs))[0] if isinstance(value, Tensor)]
    numbers_pass = torch.Tag.pointwise in function.tags or function in INDEXES
    devices = {t.device for t in tensors if not (numbers_pass and t.dim() == 0 and t.device == CPU)}
    if len(devices) > 1:
        raise DevicesMeet(f"{function}: {', '.join(f'{list(t.shape)} on {t.device}' for t in tensors)}")
    return devices.pop() if devices else CPU


class Functions(TorchFunctionMode):
    """For functions that do not ask a class of tensors, or make a tensor of the meta device without looking at its values."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if function is Tensor.tolist:
            return function(*map(unwrap, args))
        if function is Tensor.numpy and isinstance(args[0], PretendedTensor):
            raise TypeError("can't convert a tensor of another device to numpy")
        if function in (torch.tensor, torch.as_tensor) and kwargs.get("device") is not None:
            return function(*args, **kwargs | {"device": CPU}).to(kwargs["device"])
        if function is Tensor.new_tensor:
            return torch.tensor(args[1], dtype=args[0].dtype).to(args[0].device)
        if function in (Tensor.__getitem__, Tensor.__setitem__):
            index = args[1] if isinstance(args[1], tuple) else (args[1],)
            index = tuple(torch.tensor(i) if isinstance(i, list | tuple) else i for i in index)
            return function(args[0], index, *args[2:])
        return function(*args, **kwargs)


@contextmanager
def pretended_device() -> Iterator[torch.device]:
    """See the module's docstring."""
    with Functions(), Dispatch():
        yield META
