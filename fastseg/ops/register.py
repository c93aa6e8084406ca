"""Registers an operator with torch: schema, kernel, shapes, backward, in one call."""

import inspect
import re
from functools import partial
from typing import get_type_hints

import torch
from torch import Tensor

from fastseg.ops.context import transformed, watched
from fastseg.ops.impl import contract

_library = torch.library.Library("fastseg", "FRAGMENT")
_TYPES = {
    Tensor: "Tensor", Tensor | None: "Tensor?", contract.Integers: "SymInt[]",
    contract.Floats: "float[]", int: "int", bool: "bool", str: "str",
}  # fmt: skip
_RECORDS = {record.__name__: record for record in contract.RECORDS}


def no_derivative(ctx, *grads):
    """Refuse to differentiate the kernel of a backward, which is composed where a graph is kept."""
    raise RuntimeError(
        "this operator, the backward of another, has no derivative of its own: it was called "
        "where torch records no graph; torch.autograd.grad(…, create_graph=True) records one"
    )


def _fields(argument: str) -> list[str]:
    """An argument of a schema; a record's are what it says, or its fields."""
    record = _RECORDS.get(argument.split()[0])
    if record is None:
        return [argument]
    if record is contract.Geometry:
        return record.SCHEMA.split(", ")
    return [f"{_TYPES[kind]} {name}" for name, kind in get_type_hints(record).items()]


def _made(record, *fields):
    return record._make(tuple(f) if type(f) is list else f for f in fields)


class _Packing:
    """Records among a call's arguments, and torch's view of them: a value for each field."""

    def __init__(self, arguments: list[str]):
        fields = [_fields(argument) for argument in arguments]
        self.count = sum(map(len, fields))
        self.tensors = sum(part.startswith("Tensor") for group in fields for part in group)
        self.records = []  # the last one first: what stands before it keeps its place
        for at, argument in reversed(list(enumerate(arguments))):
            if record := _RECORDS.get(argument.split()[0]):
                first = sum(map(len, fields[:at]))
                own = record is contract.Geometry
                make = record.packed if own else partial(_made, record)
                place = slice(first, first + len(fields[at]))
                self.records.append((at, record.flat if own else tuple, place, make))
        self.plain = all(at >= self.tensors for at, *_ in self.records)

    def flat(self, values: tuple) -> tuple:
        for at, flat, _, _ in self.records:
            values = (*values[:at], *flat(values[at]), *values[at + 1 :])
        return values

    def packed(self, flat: tuple) -> tuple:
        for _, _, place, make in self.records:
            flat = (*flat[: place.start], make(*flat[place]), *flat[place.stop :])
        return flat


def op(schema: str, kernel, fake, backward=None, save=None, rules=None, composed=None):
    """Register `torch.ops.fastseg.<name>` and return what calls it.

    schema: its name, arguments (tensors first) and results, as torch.library writes them; a record
    of `contract` stands for its fields. kernel: computes it, told by an argument `keep`, if it has
    one, whether what `save` saves is wanted; fake: makes results of its shapes and dtypes;
    save(ctx, inputs, output): torch.library.register_autograd's; backward(ctx, *grads): the
    gradients of the tensors. Without one a derivative raises RuntimeError. What torch.func and
    forward mode follow is `composed`, the same of other operators, or the kernel with `rules`:
    jvp(call, values, tangents) and vmap(call, size, dims, values), made of calls of it; dims: the
    axis of each tensor among the values' fields that is mapped over, or None.

    What is returned goes through torch's dispatcher where something has to see the call, and else
    calls the kernel: on small tensors the dispatcher costs more than the arithmetic.
    """
    name, arguments, results = re.fullmatch(r"(\w+)\((.*)\) -> (.*)", schema).groups()
    packing = _Packing(arguments.split(", "))
    parts = [part for argument in arguments.split(", ") for part in _fields(argument)]
    _library.define(f"{name}({', '.join(parts)}) -> {results}")
    name = f"fastseg::{name}"
    _library.impl(name, lambda *flat: kernel(*packing.packed(flat)), "CompositeExplicitAutograd")
    torch.library.register_fake(name, lambda *flat: fake(*packing.packed(flat)), lib=_library)

    def differentiate(ctx, *grads):
        found = backward(ctx, *grads)
        return *found, *[None] * (packing.count - len(found))

    def setup(ctx, inputs, output):
        save(ctx, packing.packed(inputs), output)

    torch.library.register_autograd(
        name, differentiate if backward else no_derivative,
        setup_context=setup if save else None, lib=_library,
    )  # fmt: skip
    dispatched = getattr(torch.ops.fastseg, name[9:])
    if rules:
        function = _with_rules(packing, kernel, (differentiate, setup), *rules)

        def composed(*values):
            return function.apply(*packing.flat(values))

    call = _caller(packing, dispatched, kernel, composed)
    if rules:
        function.call = staticmethod(call)
    return call


def _with_rules(packing: _Packing, kernel, autograd, jvp, vmap):
    """An operator as the Function that torch.func and forward mode follow."""
    differentiate, setup = autograd

    class Function(torch.autograd.Function):
        @staticmethod
        def forward(*flat):
            return kernel(*packing.packed(flat))

        @staticmethod
        def setup_context(ctx, inputs, output):
            setup(ctx, inputs, output)
            ctx.save_for_forward(*inputs[: packing.tensors])
            ctx.others = inputs[packing.tensors :]

        @staticmethod
        def backward(ctx, *grads):
            return differentiate(ctx, *grads)[: packing.tensors + len(ctx.others)]

        @staticmethod
        def jvp(ctx, *tangents):
            values = packing.packed((*ctx.saved_tensors, *ctx.others))
            return jvp(Function.call, values, tangents[: packing.tensors])

        @staticmethod
        def vmap(info, dims, *flat):
            dims = dims[: packing.tensors]
            return vmap(Function.call, info.batch_size, dims, packing.packed(flat))

    return Function


def multilinear(call, values, tangents):
    """Return the tangent of an operator that is linear in each of its tensors."""
    found = None
    for at, tangent in enumerate(tangents):
        if tangent is not None:
            term = call(*values[:at], tangent, *values[at + 1 :])
            found = term if found is None else found + term
    return found


def folded(tensor: Tensor, dim: int | None, size: int, axis: int = 0) -> Tensor:
    """Return a tensor whose axis `dim`, of `size`, is folded into `axis` of the others; one that
    has no such axis is repeated.
    """
    if dim is None:
        tensor = tensor.unsqueeze(0).expand(size, *tensor.shape)
        dim = 0
    return tensor.movedim(dim, 0).movedim(0, axis).flatten(axis, axis + 1)


def _caller(packing: _Packing, dispatched, kernel, composed):
    keeps = "keep" in inspect.signature(kernel).parameters
    direct = partial(kernel, keep=False) if keeps else kernel
    tensors, flat = packing.tensors, packing.flat

    def plain(*values):
        if not watched(*values[:tensors]):
            return direct(*values)
        return composed(*values) if composed and transformed() else dispatched(*flat(values))

    def with_tensors_in_records(*values):
        fields = flat(values)
        if not watched(*fields[:tensors]):
            return direct(*values)
        return composed(*values) if composed and transformed() else dispatched(*fields)

    return plain if packing.plain else with_tensors_in_records
