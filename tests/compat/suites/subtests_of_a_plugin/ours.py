import itertools
import unittest

import pytest

tried, tried_by_unittest = itertools.count(), itertools.count()


@pytest.mark.mlctx_trials(4, pass_rate=0.5)
def test_trials(subtests, mlflow_traces):
    number = next(tried)
    for part in range(2):
        with subtests.test(part=part):
            assert number > 1


@pytest.mark.mlctx_trials(4, pass_rate=0.5)
class TestOfUnittest(unittest.TestCase):
    def test_trials(self):
        number = next(tried_by_unittest)
        for part in range(2):
            with self.subTest(part=part):
                assert number > 1
