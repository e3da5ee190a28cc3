"""What fuzzing draws: tensors, numbers and texts that fit or do not, and how each public function is called with them.

A chapter's functions stand in `fuzz_<chapter>.py`; `tests/test_fuzz.py` finds these files and runs what they declare.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from hypothesis import strategies as st
from torch import Tensor

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool)


# --- what is drawn


def filled(shape, dtype=torch.float32, content: str = "normal", seed: int = 0) -> Tensor:
    values = torch.randn(tuple(shape), generator=torch.Generator().manual_seed(seed))
    if content == "zero":
        values = values * 0
    if content in ("nan", "inf") and values.numel():
        values.view(-1)[seed % values.numel()] = math.nan if content == "nan" else math.inf
    if content == "huge":
        values = values * 1e30
    return values.to(dtype) if dtype.is_floating_point else values.nan_to_num(0, 0, 0).clamp(-100, 100).abs().to(dtype)


CONTENTS = st.sampled_from(("normal", "normal", "zero", "nan", "inf", "huge"))
any_tensor = st.builds(
    filled, st.lists(st.integers(0, 6), max_size=5), st.sampled_from(DTYPES), CONTENTS, st.integers(0, 99)
)
any_vectors = st.builds(
    filled, st.tuples(st.integers(0, 6), st.integers(0, 9)), st.sampled_from(DTYPES), CONTENTS, st.integers(0, 99)
)
any_images = st.builds(
    filled,
    st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 8), st.integers(0, 8)),
    st.sampled_from(DTYPES),
    CONTENTS,
    st.integers(0, 99),
)
any_labels = st.one_of(
    any_tensor, st.lists(st.integers(-2, 12), max_size=8).map(lambda row: torch.tensor(row, dtype=torch.long))
)
any_int = st.one_of(st.integers(-3, 12), st.sampled_from((2**40, -(2**40))))
small_int = st.integers(-3, 12)  # where a larger one is a valid wish for a network that does not fit into memory
any_float = st.one_of(st.floats(-2, 2), st.sampled_from((math.nan, math.inf, -math.inf, 1e30)))
any_dims = st.lists(st.integers(-1, 12), max_size=4)
any_weights = st.lists(any_float, max_size=4)
any_array = any_vectors.map(lambda t: t.float().numpy() if t.dtype == torch.bfloat16 else t.numpy())


def images(n=(1, 3), c=(1, 3), size=(2, 8)) -> st.SearchStrategy[Tensor]:
    return st.tuples(st.integers(*n), st.integers(*c), st.integers(*size)).flatmap(
        lambda s: st.builds(
            filled, st.just((s[0], s[1], s[2], s[2])), st.just(torch.float32), st.just("normal"), st.integers(0, 9)
        )
    )


def vectors(n: int, d: int, dtype=torch.float32) -> st.SearchStrategy[Tensor]:
    return st.builds(filled, st.just((n, d)), st.just(dtype), st.just("normal"), st.integers(0, 9))


def class_numbers(n: int, classes: int) -> st.SearchStrategy[Tensor]:
    return st.lists(st.integers(0, classes - 1), min_size=n, max_size=n).map(torch.tensor)


@dataclass
class Fuzz:
    """How to draw one function.

    Attributes:
        call: what is called, with the drawn arguments by name.
        fits: argument → strategy of values that fit.
        wild: argument → strategy of values that may not.
        check: what must hold for a result: `(result, arguments) -> bool`.
        also: documented errors beside those two.
    """

    call: Callable
    fits: dict
    wild: dict
    check: Callable = lambda result, arguments: True
    also: tuple = ()

    @property
    def fitting(self) -> st.SearchStrategy[dict]:
        return st.fixed_dictionaries(self.fits)

    @property
    def cases(self) -> st.SearchStrategy[dict]:
        replaced = st.sets(st.sampled_from(sorted(self.wild)), max_size=2) if self.wild else st.just(set())
        return replaced.flatmap(
            lambda names: st.fixed_dictionaries({**self.fits, **{name: self.wild[name] for name in sorted(names)}})
        )


FUZZ: dict[str, Fuzz] = {}
NOT_DRAWN: set[str] = set()  # types that hold what functions return: nothing to draw


def fuzz(
    name: str,
    call: Callable,
    fits: dict,
    wild: dict | None = None,
    check: Callable = lambda result, arguments: True,
    also: tuple = (),
) -> None:
    FUZZ[name] = Fuzz(call, fits, wild or {}, check, also)
