import pytest


@pytest.mark.django_db
def test_ours_user(mlflow_run):
    from django.contrib.auth.models import User

    assert User.objects.count() == 0
