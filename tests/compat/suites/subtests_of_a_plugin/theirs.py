def test_parts(subtests):
    with subtests.test("one"):
        pass
    with subtests.test("two"):
        pass
