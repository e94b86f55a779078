import mlflow

again = []


def test_ours_flaky(mlflow_run):
    again.append(1)
    assert len(mlflow.search_runs(output_format="list")) == 1
    assert len(again) > 1
