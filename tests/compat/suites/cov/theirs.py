import code_of_it


def test_covered():
    assert code_of_it.half(2) == 1
