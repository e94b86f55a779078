import random

drawn = []


def test_a():
    drawn.append(random.random())


def test_b():
    drawn.append(random.random())


def test_seeded():
    assert len(set(drawn)) <= 1
