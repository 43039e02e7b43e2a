"""Every operator that has a body for CUDA, on the device, over the shapes of real models, against its reference.

The reference runs on the same device in float32, its own operators by their references too. What a row's neighbours
must not change is compared to the bit. An operator without a case fails.
"""

import importlib.util
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal
from unittest.mock import patch

import torch
from benchmarks.gpu import cases_attention, cases_experts, cases_products, cases_rows
from benchmarks.gpu.calls import Call, Case, Maker, widen
from benchmarks.gpu.journal import Journal
from benchmarks.gpu.report import ROOT
from torch import Tensor

from quire.kernels import ops as ops_room
from quire.kernels.bodies import bring_bodies
from quire.kernels.ops.registry import Op, all_ops

StandIn = Literal["none", "references", "interpreter"]
"""What computes where there is no device: the references themselves, or Triton's interpreter."""

TOLERANCES = {torch.bfloat16: 5e-3, torch.float16: 1e-3, torch.float32: 2e-5}
"""Of the error's norm against the answer's."""
_WORST = 16
"""How many tolerances a single number may be off, against its own size and the usual one together."""
_NARROW_WORST = 0.15
"""The same of numbers of 8 bits, whose neighbours are an eighth away: a tie may go either way."""
_POISON_BYTES = 2**30


def import_bodies(stand_in: StandIn) -> str:
    """Have all files of kernels imported; returns why not, where there is no Triton."""
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    if stand_in == "interpreter":  # before anything imports triton
        spec = importlib.util.spec_from_file_location("interpreted", ROOT / "tests" / "triton" / "conftest.py")
        assert spec is not None and spec.loader is not None
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
    bring_bodies("cuda")
    return ""


def device_ops() -> dict[str, Op[..., Any]]:
    """Those with a body for CUDA, once ``import_bodies`` was called."""
    return {name: one for name, one in sorted(all_ops(ops_room).items()) if "cuda" in one.bodies}


def all_cases() -> list[Case]:
    return [case for room in (cases_rows, cases_products, cases_experts, cases_attention) for case in room.cases()]


def check_op(name: str, device: torch.device, stand_in: StandIn, journal: Journal) -> None:
    """All cases of one operator. Raises AssertionError at the end if one of them failed, or there is none."""
    one, cases = device_ops()[name], [case for case in all_cases() if case.op == name]
    assert cases, f"{name} has a body for cuda and no case here"
    function = one.bodies["cuda"] if stand_in == "interpreter" else one
    num_failed = 0
    for case in cases:
        began = time.monotonic()
        try:
            found = _check(one, function, case, device, is_tiny=stand_in != "none")
            # The interpreter multiplies by numpy, whose sums of float32 go by the shape of a product.
            if found.get("invariant") is False and not (stand_in == "interpreter" and case.name == "float32"):
                found["ok"] = False
        except Exception as error:
            found = {"ok": False, "note": f"{type(error).__name__}: {str(error)[:300]}"}
        num_failed += not found["ok"]
        journal.row("operators", op=name, case=case.name, **found, seconds=time.monotonic() - began)
        if device.type == "cuda":
            torch.cuda.empty_cache()
    assert not num_failed, f"{num_failed} of {len(cases)} cases failed"


def _check(
    one: Op[..., Any], function: Callable[..., Any], case: Case, device: torch.device, *, is_tiny: bool
) -> dict[str, Any]:
    call = case.make(Maker(f"{case.op} {case.name}", device, is_tiny=is_tiny))
    with references(), torch.inference_mode():
        wanted = Call(widen(call.args), call.kwargs, call.written, call.read).fresh().answer(one.reference)
    _poison(device)
    with torch.inference_mode():
        given = call.fresh().answer(function)
    found = compare(given, wanted, call.tolerance)
    if call.alone and found["ok"]:
        with torch.inference_mode():
            apart = [(part.fresh().answer(function), rows) for part, rows in call.alone]
        found["invariant"] = all(
            torch.equal(_bits(alone), _bits(whole)[rows])
            for parts, rows in apart
            for alone, whole in zip(parts, given, strict=True)
        )
    return found


def compare(given: list[Tensor], wanted: list[Tensor], tolerance: float | None) -> dict[str, Any]:
    """Errors against norms, the greatest of all tensors; and whether they are small enough."""
    assert len(given) == len(wanted)
    greatest, worst, allowed = 0.0, 0.0, 0.0
    is_ok = True
    for got, want in zip(given, wanted, strict=True):
        assert got.shape == want.shape, f"{tuple(got.shape)} instead of {tuple(want.shape)}"
        limit = TOLERANCES.get(got.dtype, 0.0) if tolerance is None else tolerance
        is_narrow = got.dtype.itemsize == 1
        if not got.numel():
            continue
        if not limit or got.dtype in (torch.int32, torch.int64):
            num_wrong = int((got.float() != want.to(got.dtype).float()).sum())
            error = extreme = num_wrong / got.numel()
            is_ok = is_ok and not num_wrong
        else:
            error, extreme = _errors(got.float(), want.float())
            most = max(_WORST * limit, _NARROW_WORST if is_narrow else 0.0)
            is_ok = is_ok and error <= limit and extreme <= most
        greatest, worst, allowed = max(greatest, error), max(worst, extreme), max(allowed, limit)
    return {"ok": is_ok, "error": greatest, "worst": worst, "tolerance": allowed}


def _errors(got: Tensor, want: Tensor) -> tuple[float, float]:
    """Of the norm, and of the worst number against its own size and the usual; infinite for NaN."""
    off = (got - want).abs()
    norm = want.norm()
    usual = norm / want.numel() ** 0.5
    scale = want.abs() + usual + 1e-30
    error, worst = float(off.norm() / (norm + 1e-30)), float((off / scale).max())
    return (error, worst) if error == error and worst == worst else (float("inf"), float("inf"))


def _bits(tensor: Tensor) -> Tensor:
    """In a dtype that can be indexed and compared everywhere."""
    return tensor.view(torch.uint8) if tensor.dtype.itemsize == 1 else tensor


@contextmanager
def references() -> Iterator[None]:
    """Let operators that references call be references too."""

    def call(self: Op[..., Any], *args: Any, **kwargs: Any) -> Any:
        return self.reference(*args, **kwargs)

    with patch.object(Op, "__call__", call):
        yield


def _poison(device: torch.device) -> None:
    """Let memory that will be handed out next hold NaN, so that what is not written shows."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        blocks = [torch.full((_POISON_BYTES // 4,), torch.nan, device=device)]
        blocks += [torch.full((size,), torch.nan, device=device) for size in (64, 1024, 2**14, 2**17)]
        del blocks
