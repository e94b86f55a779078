from hypothesis import given
from hypothesis import strategies as st


@given(st.integers())
def test_any(x):
    assert x == x
