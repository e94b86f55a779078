import mlflow


def test_ours_timed(mlflow_run, benchmark):
    benchmark.pedantic(lambda: mlflow.log_metric("m", 1), rounds=3)
