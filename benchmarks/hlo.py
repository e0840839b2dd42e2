"""What a compiled program does on one device, read from its text (HLO).

Work in a loop counts as often as the loop runs. XLA's own `cost_analysis` counts it
once, and what stays in a TPU's fast memory like what goes to HBM.

    program = parse(compiled.as_text())
    flops(program), hbm_bytes(program), collectives(program)
"""

import collections
import dataclasses
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Instruction:
    """One line.

    Attributes:
      kind: As HLO spells it: "all-reduce", "fusion".
      shape: Of the result, as text; tuples in parentheses.
      operands: Names within the same computation.
      number: A constant's value or a parameter's place, as text.
      rest: Attributes, as text.
      root: Whether it is what its computation returns.
    """

    kind: str
    shape: str
    operands: tuple[str, ...]
    number: str
    rest: str
    root: bool

    def computations(self, *attributes: str) -> list[str]:
        """Those that it calls: names after `attribute=`."""
        found = re.findall(rf"\b(?:{'|'.join(attributes)})=({_NAMES})", self.rest)
        return [name for names in found for name in re.findall(r"[\w.-]+", names)]


Computation = Mapping[str, Instruction]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """A module.

    Attributes:
      computations: Instructions by name, by their computation's name.
      runs: How often each computation runs that is no part of a fusion: the entry,
        loops, branches (all of them count as taken). A loop that may end early counts
        in full.
    """

    computations: Mapping[str, Computation]
    runs: Mapping[str, int]


@dataclasses.dataclass(frozen=True, slots=True, order=True)
class Collective:
    """One exchange between devices.

    Attributes:
      kind: As HLO spells it, without `-start`.
      runs: How often it runs.
      size_bytes: Of one result: of a reduce-scatter what one device keeps, of an
        all-gather the whole.
      group: Devices that exchange with one another.
    """

    kind: str
    runs: int
    size_bytes: int
    group: int

    @property
    def sent_bytes(self) -> float:
        """What a device sends each time, in a ring that does it with the least."""
        others = (self.group - 1) / self.group
        return self.size_bytes * {
            "all-reduce": 2 * others,
            "reduce-scatter": self.group - 1,
            "collective-permute": 1,
        }.get(self.kind, others)


_NAMES = r"%?[\w.-]+|\{[^}]*\}"
_HEAD = re.compile(r"^(ENTRY )?%?([\w.-]+) \(.*\) -> .*\{$")
_LINE = re.compile(r"^\s+(ROOT )?%?([\w.-]+) = (.*)$")
_ARRAY = re.compile(
    r"\b(?P<type>pred|bf16|[fsuc]\d+(?:e\d+m\d+\w*)?)\[(?P<sizes>[\d,]*)\]"
    r"(?P<layout>\{[^{}]*\})?"
)
_ONE_TO_ONE = "bitcast", "reshape", "copy", "convert", "transpose", "fusion"
_BRANCHES = (
    *("branch_computations", "true_computation", "false_computation"),
    "to_apply",  # of a call; of a reduction it is no part of the program
)
_COLLECTIVES = (
    "all-gather",
    "all-reduce",
    "all-to-all",
    "collective-broadcast",
    "collective-permute",
    "ragged-all-to-all",
    "reduce-scatter",
)
# They move nothing, or what they run is counted by itself.
_FREE = {
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "iota"),
    *("while", "conditional", "call", "after-all", "partition-id", "replica-id"),
}


def parse(text: str) -> Program:
    """Reads `compiled.as_text()`."""
    computations: dict[str, dict[str, Instruction]] = {}
    entry, current = "", {}
    for line in text.splitlines():
        if head := _HEAD.match(line):
            current = computations[head[2]] = {}
            entry = head[2] if head[1] else entry
        elif found := _LINE.match(line):
            root, name, right = found.groups()
            current[name] = _instruction(right, bool(root))
    runs: collections.Counter[str] = collections.Counter()

    def visit(name: str, times: int) -> None:
        runs[name] += times
        for each in computations[name].values():
            if each.kind == "while":
                loops = times * _loops(computations, each)
                for inner in each.computations("condition", "body"):
                    visit(inner, loops)
            elif each.kind in ("conditional", "call"):
                for inner in each.computations(*_BRANCHES):
                    visit(inner, times)

    visit(entry, 1)
    return Program(computations=computations, runs=runs)


def _instruction(right: str, root: bool) -> Instruction:
    """From what is right of the equals sign."""
    right = re.sub(r"/\*.*?\*/", "", right)
    end = _closing(right, 0) + 1 if right.startswith("(") else right.index(" ")
    shape, right = right[:end], right[end:].lstrip()
    start = right.index("(")
    end = _closing(right, start)
    inside = right[start + 1 : end]
    operands = re.findall(r"%([\w.-]+)", inside)
    kind = right[:start]
    return Instruction(
        kind=kind,
        shape=shape,
        operands=tuple(operands),
        number=inside if kind in ("constant", "parameter") else "",
        rest=right[end + 1 :],
        root=root,
    )


def _closing(text: str, start: int) -> int:
    """Where the parenthesis that opens at `start` closes."""
    depth = 0
    for place in range(start, len(text)):
        depth += {"(": 1, ")": -1}.get(text[place], 0)
        if depth == 0:
            return place
    raise ValueError(f"A parenthesis does not close: {text[start : start + 80]!r}.")


def _loops(computations: Mapping[str, Computation], loop: Instruction) -> int:
    """How often a loop runs: as XLA says, or up to what its condition compares with."""
    if known := re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.rest):
        return int(known[1])

    def constants(name: str) -> Iterator[int]:
        for each in computations[name].values():
            if each.kind == "constant" and each.number.isdigit():
                yield int(each.number)
            for inner in each.computations("calls"):
                yield from constants(inner)

    return max(constants(loop.computations("condition")[0]), default=1)


def flops(program: Program) -> dict[str, float]:
    """Floating-point operations of all products, by the type of what is multiplied.

    Pallas kernels show none.
    """
    total: collections.Counter[str] = collections.Counter()
    for name, times in program.runs.items():
        for each in program.computations[name].values():
            for dtype, count in _products(program, program.computations[name], each):
                total[dtype] += times * count
    return dict(total)


def _products(
    program: Program, computation: Computation, each: Instruction
) -> Iterator[tuple[str, int]]:
    """Of one instruction, or of all within it."""
    for name in each.computations("calls"):
        called = program.computations[name]
        for inner in called.values():
            yield from _products(program, called, inner)
    if each.kind not in ("dot", "convolution"):
        return
    left, right = (computation[x].shape for x in each.operands[:2])
    (dtype, left_sizes), (_, right_sizes) = _array(left), _array(right)
    _, sizes = _array(each.shape)
    if each.kind == "convolution":
        count = _multiplications(each, left_sizes, right_sizes, sizes)
    else:
        summed = re.search(r"lhs_contracting_dims=\{([\d,]+)\}", each.rest)
        axes = summed[1].split(",") if summed else []
        count = math.prod(sizes) * math.prod(left_sizes[int(a)] for a in axes)
    yield dtype, 2 * count


def _multiplications(
    each: Instruction, left: list[int], right: list[int], out: list[int]
) -> int:
    """Of a convolution; the TPU compiler writes every matrix product as one.

    It writes a batch of products as spatial axes, dilated so that of each window one
    place alone holds a number. So places are counted.
    """
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", each.rest)
    assert labels
    window = re.search(r"window=\{(.*?)\}", each.rest)
    given = dict(
        pair.split("=") for pair in (window[1].split() if window else ()) if "=" in pair
    )
    count = right[labels[2].index("i")]
    for size, label in zip(out, labels[3], strict=True):
        count *= size if not label.isdigit() else 1
    for axis in range(len(labels[3]) - 2):

        def of(key: str, default: str, axis: int = axis) -> Sequence[int]:
            values = given[key].split("x") if key in given else [default] * (axis + 1)
            return [int(value) for value in values[axis].split("_")]

        (stride,), (dilate,) = of("stride", "1"), of("lhs_dilate", "1")
        (spread,), low = of("rhs_dilate", "1"), of("pad", "0_0")[0]
        places = [
            position * stride + tap * spread - low
            for position in range(out[labels[3].index(str(axis))])
            for tap in range(right[labels[2].index(str(axis))])
        ]
        end = (left[labels[1].index(str(axis))] - 1) * dilate
        count *= sum(0 <= p <= end and p % dilate == 0 for p in places)
    return count


def hbm_bytes(program: Program) -> float:
    """Bytes read from and written to a device's large memory.

    Of an operand that a fusion reads in part, by a slice or a gather, that part counts,
    and of a buffer that is written in place what is written.
    """
    return sum(
        times * _moved(program, program.computations[name], each)
        for name, times in program.runs.items()
        for each in program.computations[name].values()
    )


def least_seconds(
    program: Program, peak: Mapping[str, float], bandwidth: float
) -> float:
    """A bound from below: operations one after the other, each at its own roof.

    Copies that run beside them count only where memory is the roof of it all.
    Exchanges between devices and Pallas kernels' arithmetic are left out.

    Args:
      program: What runs.
      peak: FLOP/s by the type of what is multiplied.
      bandwidth: Of the large memory, bytes/s.
    """
    total = 0.0
    for name, times in program.runs.items():
        computation = program.computations[name]
        for each in computation.values():
            if each.kind.endswith("-start"):
                continue
            products = _products(program, computation, each)
            arithmetic = sum(count / peak[dtype] for dtype, count in products)
            moved = _moved(program, computation, each) / bandwidth
            total += times * max(arithmetic, moved)
    return max(total, hbm_bytes(program) / bandwidth)


def _moved(program: Program, computation: Computation, each: Instruction) -> float:
    """Bytes of the large memory that an instruction reads and writes."""
    if each.kind in _FREE or each.kind.endswith("-done") or "AllocateB" in each.rest:
        return 0
    if each.kind.endswith("-start"):
        # The result is a tuple: where it comes from, where it goes to, and more.
        return sum(_slow_sizes(each.shape)[:2])
    total: float = sum(_slow_sizes(each.shape))
    if (written := _written(program, computation, each)) is not None:
        total = min(total, written)
    for place, name in enumerate(each.operands):
        whole = sum(_slow_sizes(computation[name].shape))
        part = _read(program, each, place)
        total += whole if part is None else min(whole, part)
    return total


def _read(program: Program, each: Instruction, place: int) -> float | None:
    """Bytes that an instruction reads of one operand, if a part; None is all."""
    if each.kind in ("dynamic-slice", "slice", "gather") and place == 0:
        return sum(_sizes(each.shape))
    if each.kind in ("dynamic-update-slice", "scatter") and place == 0:
        return 0.0
    if each.kind != "fusion":
        return None
    body = program.computations[each.computations("calls")[0]]
    parameter = next(
        name
        for name, inner in body.items()
        if inner.kind == "parameter" and int(inner.number) == place
    )
    return _read_within(program, body, parameter)


def _read_within(program: Program, body: Computation, name: str) -> float | None:
    """Bytes that a fusion reads of a value in it; what it does not need it skips."""
    total = 0.0
    own = _sizes(body[name].shape)
    for user, each in body.items():
        for place in (i for i, operand in enumerate(each.operands) if operand == name):
            if each.kind == "tuple":
                continue
            part = _read(program, each, place)
            changed = _sizes(each.shape)
            if part is None and not each.root and each.kind in _ONE_TO_ONE:
                part = _read_within(program, body, user)
                if part is not None:
                    part *= sum(own) / sum(changed)  # another type's bytes
            if part is None:
                return None
            total += part
    return total


def _written(program: Program, body: Computation, each: Instruction) -> float | None:
    """Bytes that an instruction writes, if into a part of a buffer; None is all."""
    while each.kind in ("bitcast", "reshape"):
        each = body[each.operands[0]]
    if each.kind == "fusion":
        inner = program.computations[each.computations("calls")[0]]
        root = next(x for x in inner.values() if x.root)
        return _written(program, inner, root)
    if each.kind == "tuple":
        parts = [body[name] for name in each.operands]
        # What comes in goes out; an exchange under way counts where it starts.
        written = [
            0.0
            if part.kind in ("parameter", *_COLLECTIVES)
            else _written(program, body, part)
            for part in parts
        ]
        return sum(
            sum(_sizes(part.shape)) if size is None else size
            for part, size in zip(parts, written, strict=True)
        )
    if each.kind in ("dynamic-update-slice", "scatter"):
        update = each.operands[1 if each.kind.startswith("d") else 2]
        return sum(_sizes(body[update].shape))
    return None


def collectives(program: Program) -> list[Collective]:
    """Exchanges between devices, in order of kind.

    One that is spread over several lines, so that others run beside it, is one.
    """
    found = []
    channels: set[str] = set()

    def visit(name: str, times: int) -> None:
        for each in program.computations[name].values():
            for called in each.computations("calls"):
                visit(called, times)
            kind = each.kind.removesuffix("-start")
            channel = re.search(r"channel_id=\d+", each.rest)
            if kind not in _COLLECTIVES or (channel and channel[0] in channels):
                continue
            if channel:
                channels.add(channel[0])
            shape = each.shape
            # How the TPU compiler spells it: a fusion of an all-reduce and a slice.
            if name.startswith("all-reduce-scatter"):
                kind = "reduce-scatter"
                body = program.computations[name].values()
                shape = next(x for x in body if x.root).shape
            found.append(
                Collective(
                    kind,
                    times,
                    _result_bytes(each.kind, shape),
                    _group_size(each.rest),
                )
            )

    for name, times in program.runs.items():
        visit(name, times)
    return sorted(found)


def _result_bytes(kind: str, shape: str) -> int:
    """Of what a collective returns, the results alone: operands come before them."""
    if not kind.endswith("-start") or kind == "all-reduce-start":
        return sum(_sizes(shape))
    # (operands, results, further state): both are as many, nested where several.
    inner = re.match(r"\(\((.*?)\), \((.*?)\)", re.sub(r"\{[^{}]*\}", "", shape))
    return sum(_sizes(inner[2])) if inner else _sizes(shape)[1]


def _group_size(rest: str) -> int:
    """Written as a list, as `[groups,size]<=[devices]`, or by axes of a mesh."""
    if found := re.search(r"replica_groups=\{\{([\d,]*)\}", rest):
        return len(found[1].split(","))
    if found := re.search(r"replica_groups=\[\d+,(\d+)\]", rest):
        return int(found[1])
    if found := re.search(r"replica_groups=mesh\[(.*?)\].*? \{(.*?)\}", rest):
        sizes = dict(re.findall(r"('\w+')=(\d+)", found[1]))
        return math.prod(int(sizes[axis]) for axis in re.findall(r"'\w+'", found[2]))
    pairs = re.search(r"source_target_pairs=\{(.*?\})\}", rest)
    return 2 if pairs else 1


def _array(shape: str) -> tuple[str, list[int]]:
    """Type and sizes of an array."""
    found = _ARRAY.match(shape)
    if not found:
        raise ValueError(f"Not one array: {shape!r}.")
    return found["type"], [int(n) for n in found["sizes"].split(",") if n]


def _sizes(shape: str) -> list[int]:
    """Bytes of every array within a shape."""
    return [_array_bytes(found) for found in _ARRAY.finditer(shape)]


def _slow_sizes(shape: str) -> list[int]:
    """Likewise, and 0 for what is in a fast memory, marked S(n)."""
    return [
        0 if re.search(r"S\([1-9]", found["layout"] or "") else _array_bytes(found)
        for found in _ARRAY.finditer(shape)
    ]


def _array_bytes(found: re.Match[str]) -> int:
    dtype, sizes = found["type"], found["sizes"]
    bits = 8 if dtype == "pred" else int(re.findall(r"\d+", dtype)[0])
    return math.prod(int(n) for n in sizes.split(",") if n) * bits // 8


def memory(compiled: Any) -> Mapping[str, int]:
    """Bytes on one device: arguments, results, temporaries, and their peak.

    Donated arguments are results as well, and counted once in the peak.
    """
    stats = compiled.memory_analysis()
    peak = (
        stats.argument_size_in_bytes
        + stats.output_size_in_bytes
        + stats.temp_size_in_bytes
        - stats.alias_size_in_bytes
    )
    return {
        "arguments": stats.argument_size_in_bytes,
        "results": stats.output_size_in_bytes,
        "temporaries": stats.temp_size_in_bytes,
        "peak": peak,
    }
