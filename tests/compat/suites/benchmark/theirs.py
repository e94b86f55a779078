def test_quick(benchmark):
    assert benchmark(lambda: 1) == 1
