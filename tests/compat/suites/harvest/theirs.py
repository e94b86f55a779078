def test_a(results_bag):
    results_bag.accuracy = 1
