import pytest


@pytest.mark.django_db
def test_user():
    from django.contrib.auth.models import User

    User.objects.create(username="ada")
    assert User.objects.count() == 1
