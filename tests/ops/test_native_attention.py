"""Native attention and what feeds it: right against float64, and the same bits on every road, at every level.

Pages are laid out here by hand, from the words of ``csrc/quire.h``, so that layout is tested too.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from quire.kernels.cpu import bodies, library
from quire.kernels.cpu.library import LEVELS, Library, Pool
from quire.kernels.cpu.program import CannotRecord, Program, Rows
from quire.kernels.ops.attention import paged_attention
from quire.kernels.ops.heads import HeadNorms, store_heads
from quire.kernels.ops.int8 import SCALE_BYTES, dequantize, quantize
from quire.kernels.ops.rotary import angles

pytestmark = pytest.mark.native

assert bodies  # importing it offers the native bodies

BF16, F32, I8 = torch.bfloat16, torch.float32, torch.int8
SCALE = 0.3
JUNK = -30_000.0
"""What lies in a page beyond its sequence's end, and must not be seen."""


class Setting(NamedTuple):
    heads: int = 6
    kv_heads: int = 2
    size: int = 16
    block: int = 16
    window: int | None = None
    softcap: float | None = None
    dtype: torch.dtype = BF16
    has_int8_pages: bool = False

    @property
    def tolerance(self) -> float:
        """Of the norm of a result's error, as a share of the result's."""
        if self.dtype == BF16:
            return 4e-3
        return 5e-4 if self.has_int8_pages else 2e-6


@pytest.fixture(params=LEVELS)
def native(request: pytest.FixtureRequest) -> Library:
    """The object of one level."""
    for opened in library.available():
        if opened.level == request.param:
            return opened
    pytest.skip(f"no object of level {request.param} runs here")


@pytest.fixture(scope="module")
def pools() -> Iterator[dict[tuple[str, int], Pool]]:
    """Pools by level and threads, ended after the last test."""
    made: dict[tuple[str, int], Pool] = {}
    yield made
    for pool in made.values():
        pool.close()


@pytest.fixture
def run(native: Library, pools: dict[tuple[str, int], Pool]) -> "Run":
    return Run(native, pools)


class Run:
    """Records one operator and replays it once."""

    def __init__(self, native: Library, pools: dict[tuple[str, int], Pool]) -> None:
        self.native, self._pools = native, pools

    def program(self, tokens: int, sequences: int = 1) -> Program:
        return Program(self.native, {Rows.TOKENS: tokens, Rows.SEQUENCES: sequences, Rows.SAMPLED: 1})

    def replay(self, program: Program, *, tokens: int, sequences: int = 0, threads: int = 1) -> None:
        key = self.native.level, threads
        if key not in self._pools:
            self._pools[key] = Pool(self.native, threads)
        program.run(self._pools[key], tokens=tokens, sequences=sequences)

    def angles(self, positions: Tensor, inv_freq: Tensor, factor: float, threads: int = 1) -> tuple[Tensor, Tensor]:
        program = self.program(len(positions))
        turned = angles(program.wrap(positions, Rows.TOKENS), inv_freq, factor)
        self.replay(program, tokens=len(positions), threads=threads)
        return plain(turned[0]), plain(turned[1])


def plain(recorded: Tensor) -> Tensor:
    """A copy of what a replay left in a buffer."""
    return recorded.as_subclass(Tensor).clone()


def key_pages(keys: Tensor) -> Tensor:
    """[N, K, B, D] as bfloat16 [N, K, D / 2, B, 2] or float32 [N, K, D, B, 1]; of int8, scales are put behind."""
    if keys.dtype == I8:
        return with_scales(keys[..., :-SCALE_BYTES].unflatten(3, (-1, 2)).transpose(2, 3), keys)
    group = 4 // keys.itemsize
    return keys.unflatten(3, (-1, group)).transpose(2, 3).contiguous()


def value_pages(values: Tensor) -> Tensor:
    """[N, K, B, D] as bfloat16 [N, K, B / 2, D, 2] or float32 [N, K, B, D, 1]; of int8, scales are put behind."""
    if values.dtype == I8:
        return with_scales(values[..., :-SCALE_BYTES].unflatten(2, (-1, 2)).transpose(3, 4), values)
    group = 4 // values.itemsize
    return values.unflatten(2, (-1, group)).transpose(3, 4).contiguous()


def with_scales(numbers: Tensor, cache: Tensor) -> Tensor:
    """Numbers of pages, and behind them what lies behind each token's numbers in ``cache`` [N, K, B, D + 4]."""
    pages = torch.cat((numbers.flatten(2), cache[..., -SCALE_BYTES:].flatten(2)), 2)
    return pages.unflatten(2, (cache.shape[3], cache.shape[2]))


def mixing(size: int) -> Tensor:
    """[size, size] float64: Hadamard's matrix of the largest power of two in ``size``, over and over."""
    run = size & -size
    matrix = torch.ones(1, 1, dtype=torch.float64)
    while len(matrix) < run:
        matrix = torch.kron(torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64), matrix)
    return torch.block_diag(*[matrix / run**0.5] * (size // run))


class History:
    """Sequences whose KV lies in shuffled pages; any of their last tokens can be attended again."""

    def __init__(self, setting: Setting, lens: Sequence[int], *, sharpness: float = 1.0) -> None:
        self.setting = setting
        random = torch.Generator().manual_seed(0)

        def normal(tokens: int, heads: int) -> Tensor:
            return torch.randn(tokens, heads, setting.size, generator=random).to(setting.dtype)

        self.q = [normal(n, setting.heads) * sharpness for n in lens]
        self.k = [normal(n, setting.kv_heads) for n in lens]
        self.v = [normal(n, setting.kv_heads) for n in lens]
        if setting.has_int8_pages:
            uneven = [torch.rand(n, setting.kv_heads, 1, generator=random) * 8 for n in lens]
            self.k, self.v = ([quantize(x * by) for x, by in zip(xs, uneven, strict=True)] for xs in (self.k, self.v))
        self.place(0)

    def place(self, seed: int) -> None:
        """Lay all KV into pages drawn by ``seed``."""
        setting = self.setting
        width = max(-(-len(q) // setting.block) for q in self.q)
        order = torch.randperm(width * len(self.q), generator=torch.Generator().manual_seed(seed))
        self.tables = order.view(-1, width).int()
        shape = (2, width * len(self.q), setting.kv_heads, setting.block, setting.size)
        junk = torch.full(shape, JUNK, dtype=setting.dtype)
        keys, values = self.cache = quantize(junk) if setting.has_int8_pages else junk
        for k, v, table in zip(self.k, self.v, self.tables, strict=True):
            positions = torch.arange(len(k))
            page, offset = table.long()[positions // setting.block], positions % setting.block
            keys[page, :, offset], values[page, :, offset] = k, v
        self.pages = key_pages(keys), value_pages(values)

    def attend(self, run: Run, rows: Sequence[tuple[int, int, int]], threads: int = 1) -> list[Tensor]:
        """Each (sequence, start, end): attention of those tokens, all of ``rows`` in one call."""
        setting = self.setting
        q = torch.cat([self.q[i][start:end] for i, start, end in rows])
        counts = [end - start for _, start, end in rows]
        program = run.program(len(q), len(rows))
        tables = self.tables[[i for i, _, _ in rows]]
        starts, lens = torch.tensor([0, *counts]).cumsum(0).int(), torch.tensor([end for _, _, end in rows]).int()
        program.keep((tables, starts, lens))  # a step's plan outlives a program, as a rule
        out = paged_attention(
            program.wrap(q, Rows.TOKENS),
            *self.pages,
            tables,
            starts,
            lens,
            scale=SCALE,
            sliding_window=setting.window,
            softcap=setting.softcap,
        )
        run.replay(program, tokens=len(q), sequences=len(rows), threads=threads)
        return list(plain(out).split(counts))

    def expected(self, i: int) -> Tensor:
        """The definition, in float64."""
        setting, n = self.setting, len(self.q[i])
        group = setting.heads // setting.kv_heads
        q, k, v = self.q[i].double(), self.k[i], self.v[i]
        if setting.has_int8_pages:  # whose keys are mixed
            q, k, v = q @ mixing(setting.size), dequantize(k), dequantize(v)
        k, v = (t.double().repeat_interleave(group, 1) for t in (k, v))
        scores = torch.einsum("qhd,khd->hqk", q, k) * SCALE
        if setting.softcap is not None:
            scores = setting.softcap * torch.tanh(scores / setting.softcap)
        query, key = torch.arange(n)[:, None], torch.arange(n)
        visible = key <= query
        if setting.window is not None:
            visible &= key > query - setting.window
        return torch.einsum("hqk,khd->qhd", scores.masked_fill(~visible, -torch.inf).softmax(-1), v)


SETTINGS = {
    "grouped": Setting(9, 3, 64),
    "float32": Setting(9, 3, 64, dtype=F32),
    "gemma": Setting(4, 1, 256, window=70),
    "softcap": Setting(4, 2, 48, block=32, softcap=20.0),
    "softcap float32": Setting(4, 2, 48, block=48, softcap=20.0, window=33, dtype=F32),
    "many heads share one": Setting(71, 1, 32),
    "none share": Setting(3, 3, 80, block=48, window=130),
    "int8": Setting(9, 3, 64, has_int8_pages=True),
    "int8 float32": Setting(14, 2, 64, block=32, dtype=F32, has_int8_pages=True),
    "int8 gemma": Setting(4, 1, 256, window=70, has_int8_pages=True),
    "int8 softcap": Setting(4, 2, 48, block=48, softcap=20.0, window=33, dtype=F32, has_int8_pages=True),
    "int8 many heads": Setting(71, 1, 32, has_int8_pages=True),
    "int8 largest": Setting(2, 2, 512, softcap=10.0, dtype=F32, has_int8_pages=True),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_attention_is_the_definition(run: Run, name: str) -> None:
    setting = SETTINGS[name]
    lens = [1, 17, 300]
    history = History(setting, lens)
    whole = history.attend(run, [(i, 0, n) for i, n in enumerate(lens)], threads=2)
    for i, got in enumerate(whole):
        expected = history.expected(i)
        error = (got.double() - expected).norm() / expected.norm()
        assert error < setting.tolerance


@pytest.mark.parametrize("name", SETTINGS)
def test_every_road_gives_the_same_bits(run: Run, name: str) -> None:
    history = History(SETTINGS[name], [150, 300], sharpness=3.0)
    whole = history.attend(run, [(0, 0, 150), (1, 0, 300)])
    for size, threads in ((7, 1), (64, 3), (299, 2)):
        history.place(size)
        for start in range(0, 300, size):
            end = min(start + size, 300)
            (got,) = history.attend(run, [(1, start, end)], threads)
            assert torch.equal(got, whole[1][start:end])
    alone = history.attend(run, [(1, 299, 300)], threads=3)[0]
    beside = history.attend(run, [(1, 299, 300), (0, 20, 61), (0, 149, 150)], threads=2)
    assert torch.equal(alone, whole[1][299:])
    assert torch.equal(beside[0], alone)
    assert torch.equal(beside[1], whole[0][20:61])
    assert torch.equal(beside[2], whole[0][149:])


@pytest.mark.parametrize("name", SETTINGS)
def test_one_token_of_each_of_many_sequences(run: Run, name: str) -> None:
    lens = [1, 16, 31, 127, 128, 129, 140, 150, 200, 257]
    history = History(SETTINGS[name], lens)
    together = history.attend(run, [(i, n - 1, n) for i, n in enumerate(lens)], threads=2)
    for i, (n, got) in enumerate(zip(lens, together, strict=True)):
        assert torch.equal(history.attend(run, [(i, n - 1, n)])[0], got)
        expected = history.expected(i)[-1:]
        assert (got.double() - expected).norm() / expected.norm() < history.setting.tolerance


@pytest.mark.parametrize("name", [name for name in SETTINGS if name.startswith("int8")])
def test_int8_pages_are_read_as_the_reference_reads_them(run: Run, name: str) -> None:
    """Sharp scores too, of which few keys get all the weight."""
    setting = SETTINGS[name]
    history = History(setting, [300], sharpness=4.0)
    (got,) = history.attend(run, [(0, 0, 300)], threads=3)
    expected = paged_attention(
        history.q[0],
        *history.cache,
        history.tables,
        torch.tensor([0, 300]).int(),
        torch.tensor([300]).int(),
        scale=SCALE,
        sliding_window=setting.window,
        softcap=setting.softcap,
    )
    assert (got.double() - expected.double()).norm() / expected.double().norm() < setting.tolerance


def test_sums_of_int8_products_have_room(run: Run) -> None:
    """The greatest that there are: all numbers 127, of the largest head, and of a whole segment."""
    history = History(Setting(2, 1, 512, dtype=F32, has_int8_pages=True), [256])
    history.q[0] = torch.zeros(256, 2, 512)
    history.q[0][..., 0] = -1.0  # mixed, all features are the same
    history.k[0], history.v[0] = quantize(torch.ones(2, 256, 1, 512))
    history.place(1)
    torch.testing.assert_close(history.attend(run, [(0, 0, 256)])[0], torch.ones(256, 2, 512), atol=1e-4, rtol=0)


@pytest.mark.parametrize("has_int8_pages", [False, True])
@pytest.mark.parametrize("tokens", [1, 2, 60])
def test_a_long_context_is_shared_by_threads_without_a_trace(run: Run, tokens: int, has_int8_pages: bool) -> None:
    history = History(Setting(6, 2, 32, has_int8_pages=has_int8_pages), [1500], sharpness=2.0)
    rows = [(0, 1500 - tokens, 1500)]
    alone = history.attend(run, rows)[0]
    for threads in (2, 3):
        assert torch.equal(history.attend(run, rows, threads)[0], alone)


@pytest.mark.parametrize("has_int8_pages", [False, True])
@pytest.mark.parametrize("poison", [torch.nan, torch.inf])
def test_nan_stays_in_its_row(run: Run, has_int8_pages: bool, poison: float) -> None:
    history = History(Setting(6, 2, 32, has_int8_pages=has_int8_pages), [40])
    clean = history.attend(run, [(0, 0, 40)])[0]
    history.q[0][7, 1, 3] = poison
    spoilt = history.attend(run, [(0, 0, 40)])[0]
    assert spoilt[7, 1].isnan().all()
    spoilt[7, 1] = clean[7, 1]
    assert torch.equal(spoilt, clean)


def test_a_step_without_sequences_does_nothing(run: Run) -> None:
    history = History(Setting(), [20])
    program = run.program(20)
    q = program.wrap(history.q[0], Rows.TOKENS)
    starts, lens = torch.tensor([0, 20]).int(), torch.tensor([20]).int()
    out = paged_attention(q, *history.pages, history.tables, starts, lens, scale=SCALE)
    out.as_subclass(Tensor).fill_(5)
    run.replay(program, tokens=0, sequences=0, threads=2)
    assert (plain(out) == 5).all()


@pytest.mark.parametrize(("size", "block", "heads"), [(24, 16, 2), (16, 24, 2), (16, 16, 3), (1024, 16, 2)])
def test_sizes_that_do_not_fit_are_refused(native: Library, size: int, block: int, heads: int) -> None:
    program = Program(native, {Rows.TOKENS: 1, Rows.SEQUENCES: 1, Rows.SAMPLED: 1})
    q = program.wrap(torch.zeros(1, heads, size, dtype=BF16), Rows.TOKENS)
    pages = torch.zeros(1, 2, size // 2, block, 2, dtype=BF16), torch.zeros(1, 2, block // 2, size, 2, dtype=BF16)
    one = torch.ones(2, dtype=torch.int32)
    with pytest.raises(CannotRecord):
        paged_attention(q, *pages, one[None], one, one, scale=1.0)


# ---- what feeds it ----


def test_angles_are_exact_far_out(run: Run) -> None:
    random = torch.Generator().manual_seed(0)
    positions = torch.randint(0, 1_000_000, (100,), generator=random)
    inv_freq = 1.0 / torch.pow(10_000.0, torch.arange(0, 48, 2) / 48)
    exact = (positions[:, None].float() * inv_freq).double()
    cos, sin = run.angles(positions, inv_freq, 1.5, threads=3)
    assert (cos - exact.cos() * 1.5).abs().max() < 3e-7
    assert (sin - exact.sin() * 1.5).abs().max() < 3e-7


class Heads(NamedTuple):
    heads: int
    kv_heads: int
    size: int
    block: int
    has_norms: bool
    dtype: torch.dtype
    page_dtype: torch.dtype


def _store(run: Run, case: Heads, qkv: Tensor, slots: Tensor, threads: int) -> tuple[Tensor, ...]:
    """The operator's queries, key pages and value pages, and the reference's."""
    num_pages = int(slots.max()) // case.block + 1
    random = torch.Generator().manual_seed(1)
    norms = None
    if case.has_norms:
        q_norm, k_norm = torch.rand(2, case.size, generator=random) + 0.5
        norms = HeadNorms(q_norm, k_norm, 1e-6)
    inv_freq = 1.0 / torch.pow(10_000.0, torch.arange(0, case.size, 2) / case.size)
    cos, sin = run.angles(torch.randint(0, 500, (len(qkv),), generator=random), inv_freq, 1.0)
    width = case.size + (SCALE_BYTES if case.page_dtype == I8 else 0)
    expected = torch.zeros(2, num_pages, case.kv_heads, case.block, width, dtype=case.page_dtype)
    queries = store_heads(qkv, case.heads, norms, cos, sin, expected[0], expected[1], slots)
    pages = key_pages(torch.zeros_like(expected[0])), value_pages(torch.zeros_like(expected[1]))
    program = run.program(len(qkv))
    got = store_heads(
        program.wrap(qkv, Rows.TOKENS),
        case.heads,
        norms,
        program.wrap(cos, Rows.TOKENS),
        program.wrap(sin, Rows.TOKENS),
        *pages,
        program.wrap(slots, Rows.TOKENS),
    )
    run.replay(program, tokens=len(qkv), threads=threads)
    return plain(got), *pages, queries, key_pages(expected[0]), value_pages(expected[1])


@pytest.mark.parametrize("dtype", [BF16, F32])
@pytest.mark.parametrize(
    ("heads", "kv_heads", "size", "block", "has_norms", "threads"),
    [(9, 3, 64, 16, False, 1), (4, 1, 256, 16, True, 2), (2, 2, 16, 32, True, 3), (3, 1, 80, 48, False, 2)],
)
def test_heads_are_stored_as_the_reference_has_them(
    run: Run, heads: int, kv_heads: int, size: int, block: int, has_norms: bool, threads: int, dtype: torch.dtype
) -> None:
    random = torch.Generator().manual_seed(0)
    qkv = torch.randn(53, heads + 2 * kv_heads, size, generator=random).to(dtype)
    slots = torch.randperm(6 * block, generator=random)[:53]
    q, keys, values, q_expected, keys_expected, values_expected = _store(
        run, Heads(heads, kv_heads, size, block, has_norms, dtype, dtype), qkv, slots, threads
    )
    # Twice rounded in the reference where there are norms, once here.
    atol, rtol = (1e-5, 1e-5) if dtype == F32 else (1e-2, 2**-7)
    torch.testing.assert_close(q, q_expected, atol=atol, rtol=rtol)
    torch.testing.assert_close(keys, keys_expected, atol=atol, rtol=rtol)
    assert torch.equal(values, values_expected)


@pytest.mark.parametrize("dtype", [BF16, F32])
def test_what_is_stored_is_finite(run: Run, dtype: torch.dtype) -> None:
    qkv = torch.ones(3, 4, 16, dtype=dtype)
    qkv[0, 2:] = torch.tensor([torch.nan, torch.inf, -torch.inf, 3e38] * 4)
    q, keys, values, _, keys_expected, values_expected = _store(
        run, Heads(2, 1, 16, 16, False, dtype, dtype), qkv, torch.tensor([3, 4, 20]), 1
    )
    assert keys.isfinite().all()
    assert torch.equal(keys.isfinite() & (keys == 0), keys_expected == 0)
    assert torch.equal(values, values_expected)
    assert q.isfinite().all()


@pytest.mark.parametrize("dtype", [BF16, F32])
@pytest.mark.parametrize(
    ("heads", "kv_heads", "size", "block", "has_norms", "threads"),
    [(9, 3, 64, 16, False, 1), (4, 1, 256, 16, True, 2), (2, 2, 16, 32, True, 3), (3, 1, 80, 48, False, 2)],
)
def test_heads_are_quantized_as_the_reference_has_them(
    run: Run, heads: int, kv_heads: int, size: int, block: int, has_norms: bool, threads: int, dtype: torch.dtype
) -> None:
    random = torch.Generator().manual_seed(0)
    qkv = torch.randn(53, heads + 2 * kv_heads, size, generator=random).to(dtype)
    qkv[:10] *= torch.logspace(-44, 3, 10)[:, None, None]
    qkv[10] = 0
    qkv[11, ::2, 3], qkv[11, 1::2, 3] = torch.nan, -torch.inf
    slots = torch.randperm(6 * block, generator=random)[:53]
    case = Heads(heads, kv_heads, size, block, has_norms, dtype, I8)
    _, keys, values, _, keys_expected, values_expected = _store(run, case, qkv, slots, threads)
    assert torch.equal(values, values_expected)
    (got, got_scales), (expected, expected_scales) = (
        pages.flatten(2).split((size * block, SCALE_BYTES * block), 2) for pages in (keys, keys_expected)
    )
    difference = (got.int() - expected.int()).abs()
    assert difference.max() <= (2 if has_norms and dtype == BF16 else 1)
    assert (difference > 0).float().mean() < (0.2 if has_norms and dtype == BF16 else 1e-3)
    torch.testing.assert_close(
        got_scales.contiguous().view(F32), expected_scales.contiguous().view(F32), atol=0, rtol=1e-2
    )
