def test_snapshot(snapshot):
    assert snapshot == {"a": 1}
