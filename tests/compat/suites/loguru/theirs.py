from loguru import logger


def test_told(caplog):
    logger.warning("x")
    assert "x" in caplog.text
