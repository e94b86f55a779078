import logfire


def test_told(capfire):
    logfire.info("x")
    assert [span["name"] for span in capfire.exporter.exported_spans_as_dict()] == ["x"]
