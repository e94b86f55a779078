import logfire
import mlflow


def test_ours_both(capfire, mlflow_traces):
    with logfire.span("theirs"), mlflow.start_span("ours"):
        pass
    assert len(mlflow_traces) == 1
